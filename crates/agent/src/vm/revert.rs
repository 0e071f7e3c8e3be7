//! Going back: a VM's disk with the volumes that were part of it, or its whole state, becomes what it was at a snapshot or recovery
//! point.
//!
//! ```text
//! disk alone:   stopped for good -> what there is is kept -> disk put back ------> written down: gone back
//! with memory:  guest stops ------> what there is is kept -> state put back -----> written down -> guest goes on
//! ```
//! Until it is written down nothing executes, so all of it can be done again; afterwards a repeated request only lets the
//! guest go on, so that nothing the guest writes from then on is taken away once more.
//!
//! A QEMU that could not put a state back is neither the old machine nor the new one: it is ended.

use std::time::{Duration, SystemTime};

use gantry_api::agent::{RevertVm, VmObservation};
use gantry_api::storage::VolumeAssignment;
use gantry_qemu::qmp::command::{Quit, Stop};
use gantry_qemu::snapshot;
use gantry_storage::InternalSnapshot;
use gantry_types::{PowerState, Problem, RecoveryPoint, RecoveryPointKind, Timestamp};
use tokio::time::timeout;
use uuid::Uuid;

use super::actor::{Run, VmTask};
use super::snapshots::{STATE_LIMIT, point_tag, snapshot_tag};
use super::volume_states::listed;
use crate::problem::problem;

/// How long what was replaced is kept.
const REPLACED_FOR: Duration = Duration::from_secs(24 * 3600);
/// A QEMU that ends by itself leaves its disk tidier than one that is killed.
const QUIT_LIMIT: Duration = Duration::from_secs(5);

impl VmTask {
    pub(super) async fn revert(&mut self, request: RevertVm) -> Result<VmObservation, Problem> {
        self.check_epoch(request.epoch)?;
        self.check_command(request.command)?;
        self.check_not_moving()?;
        self.check_no_snapshot_at_work()?;
        self.take_command(request.command).await?;
        self.expect_exports_answer().await?;
        if self.known()?.recovery.last_revert == Some(request.revert) {
            if request.memory && matches!(self.run, Run::On(_)) {
                self.go_on().await?;
            }
            return self.observation();
        }
        let state = self.find_state(&request).await?;
        let volumes = self.volumes_with(&state.name).await?;
        let wanted: Vec<Uuid> = match request.memory {
            // The guest's memory is of what is on all of them.
            true => self.volumes().iter().map(|volume| volume.uuid).collect(),
            false => self.volumes_of_point(request.to),
        };
        self.expect_volumes(&wanted, &volumes)?;
        if request.memory {
            self.put_state_back(&request, &state, &volumes).await?;
        } else {
            self.put_disks_back(&request, &state, &volumes).await?;
        }
        self.observation()
    }

    async fn find_state(&self, request: &RevertVm) -> Result<InternalSnapshot, Problem> {
        let tags = [snapshot_tag(request.to), point_tag(request.to)];
        let state = self.tags().await?.into_iter().find(|state| tags.contains(&state.name)).ok_or_else(|| {
            Problem::not_found("snapshot", &request.to.to_string())
                .remedy("see which there are: gantry snapshot list, gantry describe vm")
        })?;
        if request.memory && state.memory_bytes == 0 {
            let detail = format!("the snapshot of {} was taken without memory", self.named()?);
            return Err(Problem::conflict("snapshot-without-memory", detail).remedy("go back to its disk only"));
        }
        Ok(state)
    }

    fn volumes_of_point(&self, point: Uuid) -> Vec<Uuid> {
        let points = self.record.as_ref().map(|record| &record.recovery.points[..]).unwrap_or_default();
        points.iter().find(|known| known.uuid == point).map(|known| known.volumes.clone()).unwrap_or_default()
    }

    async fn keep_replaced(&mut self, request: &RevertVm, volumes: &[VolumeAssignment]) -> Result<(), Problem> {
        let Some(keep_as) = request.keep_as else { return Ok(()) };
        self.keep_disks(&point_tag(keep_as), volumes).await?;
        self.keep_uefi_variables(keep_as).await
    }

    async fn put_disks_back(
        &mut self,
        request: &RevertVm,
        state: &InternalSnapshot,
        volumes: &[VolumeAssignment],
    ) -> Result<(), Problem> {
        self.quit().await?;
        self.expect_alone()?;
        self.keep_replaced(request, volumes).await?;
        for volume in volumes {
            self.put_volume_back(volume, &state.name).await?;
        }
        let applied = self.disks().await?.apply_disk_snapshot(self.vm, &state.name).await;
        applied.map_err(|error| self.storage_problem("snapshot-not-applied", &error))?;
        self.put_uefi_variables_back(request.to).await?;
        self.write_down_revert(request, volumes).await
    }

    /// Ends QEMU, in good order if it can; a crash from here on does not start the VM.
    async fn quit(&mut self) -> Result<(), Problem> {
        self.want(PowerState::Stopped).await?;
        if let Run::On(machine) = &self.run {
            let ending = async {
                // The answer may be lost with the connection.
                drop(machine.qmp.execute(Quit {}).await);
                drop(machine.process.wait_exit().await);
            };
            drop(timeout(QUIT_LIMIT, ending).await);
        }
        self.kill().await
    }

    async fn put_state_back(
        &mut self,
        request: &RevertVm,
        state: &InternalSnapshot,
        volumes: &[VolumeAssignment],
    ) -> Result<(), Problem> {
        match self.run {
            Run::Off => self.launch_halted().await?,
            _ => self.tell(Stop {}).await?,
        }
        self.paused = true;
        self.keep_replaced(request, volumes).await?;
        let job_id = format!("load-{}", request.revert);
        let (nodes, qmp) = (self.state_nodes(volumes), &self.machine()?.qmp);
        let loaded = snapshot::load(qmp, &listed(&nodes.formats), &state.name, &job_id, STATE_LIMIT).await;
        if let Err(error) = loaded {
            let failed = problem("snapshot-not-loaded", &self.named()?, &error);
            self.kill().await?;
            return Err(failed);
        }
        self.write_down_revert(request, volumes).await?;
        self.go_on().await
    }

    /// The guest executes from here on.
    async fn go_on(&mut self) -> Result<(), Problem> {
        self.resume().await?;
        // Its agent's line and its clock are from then.
        self.shared.ask_guest_now();
        self.machine()?.guest.set_time();
        Ok(())
    }

    async fn write_down_revert(&mut self, request: &RevertVm, volumes: &[VolumeAssignment]) -> Result<(), Problem> {
        let now = Timestamp::from(SystemTime::now());
        let Some(record) = &mut self.record else { return Ok(()) };
        let before = record.recovery.clone();
        let recovery = &mut record.recovery;
        recovery.last_revert = Some(request.revert);
        recovery.kept_in = None;
        recovery.rolling_back = None;
        replace_points(&mut recovery.points, request.to, request.keep_as, now);
        let kept = recovery.points.iter_mut().find(|point| Some(point.uuid) == request.keep_as);
        if let Some(kept) = kept {
            kept.volumes = volumes.iter().map(|volume| volume.uuid).collect();
        }
        let saved = self.save().await;
        if saved.is_err()
            && let Some(record) = &mut self.record
        {
            record.recovery = before;
        }
        saved
    }
}

/// What there was becomes a point; good ones that are newer than the one gone back to were not that good.
pub(super) fn replace_points(points: &mut Vec<RecoveryPoint>, to: Uuid, keep_as: Option<Uuid>, now: Timestamp) {
    let expires_at = Some(Timestamp::from_unix_ms(now.unix_ms() + REPLACED_FOR.as_millis() as i64));
    let gone_back_to = points.iter().position(|point| point.uuid == to);
    if let Some(at) = gone_back_to.filter(|at| points[*at].kind == RecoveryPointKind::Good) {
        for point in points[at + 1..].iter_mut().filter(|point| point.kind == RecoveryPointKind::Good) {
            *point = RecoveryPoint::new(point.uuid, RecoveryPointKind::Replaced, point.taken_at, expires_at);
        }
    }
    if let Some(keep_as) = keep_as.filter(|keep_as| !has(points, *keep_as)) {
        points.push(RecoveryPoint::new(keep_as, RecoveryPointKind::Replaced, now, expires_at));
    }
}

fn has(points: &[RecoveryPoint], uuid: Uuid) -> bool {
    points.iter().any(|point| point.uuid == uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(uuid: u128, second: i64) -> RecoveryPoint {
        RecoveryPoint::new(Uuid::from_u128(uuid), RecoveryPointKind::Good, Timestamp::from_unix_ms(second * 1000), None)
    }

    #[test]
    fn what_is_newer_than_the_state_gone_back_to_is_no_longer_good() {
        let mut points = vec![good(1, 10), good(2, 20), good(3, 30)];
        let to = points[1].uuid;
        let keep_as = Some(Uuid::from_u128(9));
        let now = Timestamp::from_unix_ms(40_000);
        for _ in 0..2 {
            replace_points(&mut points, to, keep_as, now);
            let kinds: Vec<_> = points.iter().map(|point| (point.uuid.as_u128(), point.kind)).collect();
            use RecoveryPointKind::{Good, Replaced};
            assert_eq!(kinds, [(1, Good), (2, Good), (3, Replaced), (9, Replaced)]);
        }
        assert_eq!(points[3].expires_at, Some(Timestamp::from_unix_ms(40_000 + 86_400_000)));
        assert!(points[2].expires_at.is_some() && points[1].expires_at.is_none());
    }
}
