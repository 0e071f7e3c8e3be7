//! Snapshots of a fake VM's disk, as a real host keeps them.

use gantry_api::agent::{RevertVm, TakeSnapshot, TakenSnapshot, VmObservation};
use gantry_types::{Problem, RecoveryPoint, RecoveryPointKind, Timestamp};
use uuid::Uuid;

use super::{
    guest::{FakeDisk, FakeState, FakeVm, Guest},
    host::{handed_over, stale},
};

const MEMORY_BYTES: u64 = 1 << 20;
const PAUSE_MS: u64 = 7;

impl FakeDisk {
    pub(super) fn keep(&mut self, id: Uuid, memory: bool, volumes: Vec<Uuid>) {
        self.snapshots.entry(id).or_insert(FakeState { content: self.content, memory, volumes });
    }
}

impl FakeVm {
    fn volumes(&self) -> Vec<Uuid> {
        self.assignment.volumes.iter().map(|volume| volume.uuid).collect()
    }

    fn may_change(&self, epoch: u64) -> Result<(), Problem> {
        stale(self, epoch)?;
        handed_over(self)?;
        if self.is_moving() {
            return Err(Problem::conflict("vm-migrating", "the VM is being migrated"));
        }
        Ok(())
    }

    pub(super) fn take_snapshot(&mut self, request: &TakeSnapshot) -> Result<TakenSnapshot, Problem> {
        self.may_change(request.epoch)?;
        let memory_bytes = |state: &FakeState| if state.memory { MEMORY_BYTES } else { 0 };
        if let Some(state) = self.disk.snapshots.get(&request.snapshot) {
            return Ok(TakenSnapshot {
                memory_bytes: memory_bytes(state),
                pause_ms: None,
                volumes: state.volumes.clone(),
            });
        }
        if matches!(self.guest, Guest::Off { .. }) && (request.memory || request.quiesce) {
            return Err(Problem::conflict("vm-not-running", "the VM does not run"));
        }
        let volumes = self.volumes();
        self.disk.keep(request.snapshot, request.memory, volumes.clone());
        let memory_bytes = if request.memory { MEMORY_BYTES } else { 0 };
        Ok(TakenSnapshot { memory_bytes, pause_ms: Some(PAUSE_MS), volumes })
    }

    pub(super) fn delete_snapshot(&mut self, epoch: u64, snapshot: Uuid) -> Result<(), Problem> {
        self.may_change(epoch)?;
        self.disk.snapshots.remove(&snapshot);
        self.points.retain(|point| point.uuid != snapshot);
        Ok(())
    }

    pub(super) fn revert(&mut self, request: &RevertVm) -> Result<VmObservation, Problem> {
        self.may_change(request.epoch)?;
        self.expect_news(request.command)?;
        self.command = request.command;
        if self.last_revert == Some(request.revert) {
            return Ok(self.observe());
        }
        let Some(state) = self.disk.snapshots.get(&request.to).cloned() else {
            return Err(Problem::not_found("snapshot", &request.to.to_string()));
        };
        if request.memory && !state.memory {
            return Err(Problem::conflict("snapshot-without-memory", "it was taken without memory"));
        }
        let has = self.volumes();
        let left = state.volumes.iter().filter(|volume| has.contains(volume)).count();
        let is_of_a_point = self.points.iter().any(|point| point.uuid == request.to);
        if request.memory && left < has.len() || is_of_a_point && left < state.volumes.len() {
            return Err(Problem::conflict("volumes-changed", "it has other volumes than when the state was kept"));
        }
        if let Some(keep_as) = request.keep_as {
            let volumes = state.volumes.iter().filter(|volume| has.contains(volume)).copied().collect::<Vec<_>>();
            self.disk.keep(keep_as, false, volumes.clone());
            let point = RecoveryPoint::new(keep_as, RecoveryPointKind::Replaced, Timestamp::UNIX_EPOCH, None);
            self.points.insert(0, RecoveryPoint { volumes, ..point });
        }
        self.disk.content = state.content;
        self.last_revert = Some(request.revert);
        self.guest = if request.memory { Guest::Running } else { Guest::Off { failed: false, reason: None } };
        Ok(self.observe())
    }
}
