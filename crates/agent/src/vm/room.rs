//! A guest that QEMU stopped because a pool is full goes on when there is room again.
//!
//! QEMU keeps the request that failed, and those that wait behind it, and tries them again when the guest goes on: the guest
//! sees nothing but time that passed. Anything else that stops a guest is a person's to judge.

use gantry_qemu::qmp::command::{IoStatus, QueryBlock};
use gantry_types::{PowerState, Problem};

use super::actor::{Run, VmTask};
use super::{MONITOR_LIMIT, within};

/// With less the next write would stop it again.
const ROOM_BYTES: u64 = 16 << 20;

/// QEMU stopped the guest by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub reason: String,
    /// Because a disk's pool is full.
    pub no_space: bool,
}

impl Hold {
    pub(super) fn of_write(cause: &str, no_space: bool) -> Self {
        let then =
            if no_space { "it goes on by itself when its pool has room" } else { "mend the pool, then resume it" };
        Self { reason: format!("writing to its disk failed ({cause}): {then}"), no_space }
    }
}

impl VmTask {
    /// After the agent has come back to a guest that QEMU has stopped: the event that told why is gone.
    pub(super) async fn look_why_held(&mut self) {
        let Run::On(machine) = &self.run else { return };
        match within(MONITOR_LIMIT, self.vm, machine.qmp.execute(QueryBlock {})).await {
            Ok(Ok(disks)) => {
                let no_space = disks.iter().any(|disk| disk.io_status == Some(IoStatus::Nospace));
                self.hold = Some(Hold::of_write(if no_space { "no space left" } else { "an I/O error" }, no_space));
                self.look_for_full_exports().await;
            }
            Ok(Err(error)) => tracing::warn!(vm = %self.vm, %error, "QEMU does not tell why it stopped the guest"),
            Err(error) => tracing::warn!(vm = %self.vm, %error, "QEMU does not tell why it stopped the guest"),
        }
    }

    /// QEMU's NFS client calls a full server an I/O error, as any other.
    pub(super) async fn look_for_full_exports(&mut self) {
        let is_unclear = self.hold.as_ref().is_some_and(|hold| !hold.no_space);
        let has_exports = self.record.as_ref().is_some_and(|record| {
            let assignment = &record.assignment;
            let volumes = assignment.volumes.iter().map(|volume| &volume.pool);
            assignment.disk.pool.iter().chain(volumes).any(|pool| pool.export.is_some())
        });
        if is_unclear && has_exports && matches!(self.has_room().await, Ok(false)) {
            self.hold = Some(Hold::of_write("no space left", true));
        }
    }

    /// Lets a guest go on that waits for room, if there is some.
    pub(super) async fn go_on_with_room(&mut self) {
        let waits = self.hold.as_ref().is_some_and(|hold| hold.no_space) && self.paused;
        let wanted = self.record.as_ref().is_some_and(|record| record.wanted == PowerState::Running);
        let idle = self.check_not_moving().and_then(|()| self.check_no_snapshot_at_work());
        if !waits || !wanted || idle.is_err() {
            return;
        }
        match self.has_room().await {
            Ok(true) => match self.resume().await {
                Ok(()) => tracing::info!(vm = %self.vm, "there is room in the VM's pools again, it goes on"),
                Err(error) => {
                    tracing::warn!(vm = %self.vm, %error, "there is room again, but the guest can't go on yet")
                }
            },
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(vm = %self.vm, %error, "the VM waits for room in a pool that can't be measured")
            }
        }
    }

    /// Whether all pools that it has disks in have some.
    async fn has_room(&self) -> Result<bool, Problem> {
        let own = self.disks().await?.space().await;
        if own.map_err(|error| self.storage_problem("pool-not-measured", &error))?.free.bytes() < ROOM_BYTES {
            return Ok(false);
        }
        for volume in &self.known()?.assignment.volumes {
            let space = self.host.pools.driver(&volume.pool).space().await;
            if space.map_err(|error| self.storage_problem("pool-not-measured", &error))?.free.bytes() < ROOM_BYTES {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
