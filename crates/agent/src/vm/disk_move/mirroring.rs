//! The move of a disk that QEMU has open: mirrored under the guest's writes.

use gantry_api::agent::Assignment;
use gantry_api::storage::{PoolAssignment, VolumeMoveReport};
use gantry_qemu::machine::{Disk, DiskFormat};
use gantry_qemu::qmp::Qmp;
use gantry_qemu::volume_move::{VolumeMove, advance, finish, give_up, is_under_way, settle};
use gantry_storage::Claiming;
use gantry_types::Problem;

use super::super::actor::{Run, VmTask};
use super::super::machine::disk_of;
use super::super::{DISK_NODE, MONITOR_LIMIT, disk, within};
use super::{DiskMove, NOT_MOVED};
use crate::problem::problem;

/// What QEMU calls the disk in a place that it has moved to.
fn node_in(pool: Option<&PoolAssignment>) -> String {
    match pool {
        None => format!("{DISK_NODE}-own"),
        // The ends of a version 7 uuid are random.
        Some(pool) => format!("{DISK_NODE}-{}", &pool.uuid.simple().to_string()[24..]),
    }
}

/// The disk in its two places, as QEMU has it and is to have it.
pub(super) struct Mirrored {
    pub qmp: Qmp,
    pub from: Disk,
    pub to: Disk,
}

impl VmTask {
    pub(super) async fn mirrored(&self, there: &Assignment) -> Result<Mirrored, Problem> {
        let machine = self.machine()?;
        let from = Disk { node_name: machine.disk_node.clone(), ..self.disk_here().await? };
        let to = Disk { node_name: node_in(there.disk.pool.as_ref()), ..disk_of(&self.host, there).await? };
        Ok(Mirrored { qmp: machine.qmp.clone(), from, to })
    }

    pub(super) async fn mirror_to(&mut self, there: Assignment) -> Result<VolumeMoveReport, Problem> {
        let what = self.named()?;
        let failed = |error| problem(NOT_MOVED, &what, &error);
        let Mirrored { qmp, from, to } = self.mirrored(&there).await?;
        let under_way = within(MONITOR_LIMIT, self.vm, is_under_way(&qmp, &from)).await?.map_err(failed)?;
        if !under_way {
            // What an earlier attempt has left is closed before its file goes.
            within(MONITOR_LIMIT, self.vm, give_up(&qmp, &from, &to)).await?.map_err(failed)?;
            self.disk_move = None;
            self.make_empty(&there).await?;
        }
        self.hold_new_place(&there, if under_way { Claiming::Keep } else { Claiming::Start }).await?;
        // Whom QEMU has to be there is known once the place is claimed.
        let Mirrored { to, .. } = self.mirrored(&there).await?;
        let moving = within(MONITOR_LIMIT, self.vm, advance(&qmp, &from, &to)).await?;
        if moving.is_err() {
            self.disk_move = None;
        }
        match moving.map_err(failed)? {
            VolumeMove::Copying { done_bytes, total_bytes } => {
                Ok(VolumeMoveReport::Copying { done_bytes, total_bytes })
            }
            VolumeMove::Pending => {
                if let Err(error) = self.note_disk_place(there, Some(&to.node_name)).await {
                    // What is not on disk has not happened: the guest goes on where it was.
                    let gone_back = within(MONITOR_LIMIT, self.vm, give_up(&qmp, &from, &to)).await?;
                    self.disk_move = None;
                    gone_back.map_err(failed)?;
                    return Err(error);
                }
                let new_hold = match self.disk_move.take() {
                    Some(DiskMove::Mirroring { hold }) => hold,
                    _ => None,
                };
                if let Run::On(machine) = &mut self.run {
                    (machine.disk_node, machine.disk_hold) = (to.node_name.clone(), new_hold);
                }
                self.take_left_disk().await?;
                within(MONITOR_LIMIT, self.vm, finish(&qmp, &from, &to)).await?.map_err(failed)?;
                Ok(VolumeMoveReport::Moved)
            }
        }
    }

    /// An empty disk in the new place, in the stead of whatever is there.
    async fn make_empty(&self, there: &Assignment) -> Result<(), Problem> {
        let pool = self.clear_new_place(there).await?;
        let made = pool.create_disk(&self.spec(there)?).await;
        made.map(drop).map_err(|error| self.storage_problem(NOT_MOVED, &error))
    }

    async fn hold_new_place(&mut self, there: &Assignment, claiming: Claiming) -> Result<(), Problem> {
        let is_held = matches!(&self.disk_move, Some(DiskMove::Mirroring { hold }) if hold.is_some());
        if !is_held {
            let hold = disk::claim(&self.host, there, claiming).await?;
            self.disk_move = Some(DiskMove::Mirroring { hold });
        }
        Ok(())
    }

    /// After the agent has come back: no guest waits for a decision that nobody makes.
    pub(in crate::vm) async fn settle_disk_move(&mut self) {
        if let Err(error) = self.take_left_disk().await {
            // What is pending waits until that is done: it is asked for again by whoever wants the move.
            tracing::error!(vm = %self.vm, %error, "what the VM's disk left behind could not be deleted yet");
            return;
        }
        let (Run::On(machine), Ok(what)) = (&self.run, self.named()) else { return };
        let settled = async {
            // Which node it is counts, and nothing else of it.
            let now = Disk {
                node_name: machine.disk_node.clone(),
                location: std::path::PathBuf::new().into(),
                format: DiskFormat::Qcow2,
                read_only: false,
                backing: None,
                direct_io: false,
                boot_index: None,
            };
            let failed = |error| problem(NOT_MOVED, &what, &error);
            within(MONITOR_LIMIT, self.vm, settle(&machine.qmp, &now)).await?.map_err(failed)?;
            within(MONITOR_LIMIT, self.vm, is_under_way(&machine.qmp, &now)).await?.map_err(failed)
        };
        match settled.await {
            Ok(true) => self.disk_move = Some(DiskMove::Mirroring { hold: None }),
            Ok(false) => {}
            Err(error) => tracing::error!(vm = %self.vm, %error, "the move of the VM's disk could not be settled"),
        }
    }
}
