//! One VM on one fake host.

use std::collections::BTreeMap;

use gantry_api::agent::{
    Assignment, HaObservation, MigrationReport, MigrationState, SendMigration, VmObservation, VmRunState,
};
use gantry_api::storage::VolumeAssignment;
use gantry_types::{
    GuestInfo, HaPolicy, HaStatus, MigrationFigures, MigrationProgress, Name, ProbeStatus, Problem, RecoveryPoint,
};
use uuid::Uuid;

use super::mirror::{self, FakePairing};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guest {
    Off {
        failed: bool,
        reason: Option<String>,
    },
    Running,
    Paused,
    /// Destination: QEMU waits for the guest.
    Incoming,
    /// Source: stopped for good, or until the destination says that it gave up.
    HandedOver,
}

#[derive(Debug, Clone)]
pub(super) struct FakeVm {
    pub assignment: Assignment,
    pub owner_uid: u32,
    pub guest: Guest,
    /// The number of the last command that it took.
    pub command: u64,
    pub migration: Option<FakeMigration>,
    pub ha: HaStatus,
    pub probes: Vec<ProbeStatus>,
    pub disk: FakeDisk,
    /// Newest first.
    pub points: Vec<RecoveryPoint>,
    pub last_revert: Option<Uuid>,
    /// It ends with its host's lease.
    pub guarded: bool,
    /// The relocation that has brought it here, until it is defined.
    pub arrived: Option<Uuid>,
    /// Of a disk in a mirrored pool.
    pub pairing: FakePairing,
    /// It stands still with a write that its peer has not got.
    pub waits_for_peer: bool,
}

/// A disk whose content is a number that grows with each write of the guest.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeDisk {
    pub content: u64,
    pub snapshots: BTreeMap<Uuid, FakeState>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FakeState {
    pub content: u64,
    pub memory: bool,
    /// That are part of it.
    pub volumes: Vec<Uuid>,
}

#[derive(Debug, Clone)]
pub(super) struct FakeMigration {
    pub id: Uuid,
    pub state: MigrationState,
    pub source: Name,
    /// At the source only.
    pub request: Option<SendMigration>,
    /// The guest was paused before.
    pub paused: bool,
    /// How often the source is still asked before it hands over.
    pub rounds_left: u32,
    /// In post-copy: how often the source is asked after the destination has committed, before it is done.
    pub post_copy_rounds_left: u32,
    pub error: Option<Problem>,
}

impl FakeVm {
    pub(super) fn new(assignment: Assignment, owner_uid: u32) -> Self {
        Self {
            guarded: assignment.ha.policy == HaPolicy::Restart,
            assignment,
            owner_uid,
            guest: Guest::Off { failed: false, reason: None },
            command: 0,
            migration: None,
            ha: HaStatus::default(),
            probes: Vec::new(),
            disk: FakeDisk::default(),
            points: Vec::new(),
            last_revert: None,
            arrived: None,
            pairing: FakePairing::default(),
            waits_for_peer: false,
        }
    }

    /// # Errors
    /// `stale-command` for one that is older than the last that it took.
    pub(super) fn expect_news(&self, command: u64) -> Result<(), Problem> {
        if command >= self.command {
            return Ok(());
        }
        let (name, last) = (&self.assignment.name, self.command);
        Err(Problem::conflict("stale-command", format!("VM '{name}' has taken command {last}, this is {command}")))
    }

    pub(super) fn is_moving(&self) -> bool {
        let state = self.migration.as_ref().map(|migration| migration.state);
        matches!(state, Some(MigrationState::Sending | MigrationState::Committing | MigrationState::Receiving))
    }

    pub(super) fn lose_power(&mut self) {
        if !matches!(self.guest, Guest::Off { .. }) {
            self.guest = Guest::Off { failed: true, reason: Some("the host lost power".into()) };
        }
        if let Some(migration) = &mut self.migration
            && migration.state == MigrationState::Sending
        {
            migration.state = MigrationState::Failed;
        }
    }

    pub(super) fn observe(&self) -> VmObservation {
        let (state, reason) = match &self.guest {
            Guest::Off { .. } if self.arrived.is_some() => (VmRunState::Arrived, None),
            Guest::Off { failed: true, reason } => (VmRunState::Failed, reason.clone()),
            Guest::Off { failed: false, reason } => (VmRunState::Stopped, reason.clone()),
            Guest::Running => (VmRunState::Running, None),
            Guest::Paused => (VmRunState::Paused, None),
            Guest::Incoming => (VmRunState::Receiving, None),
            Guest::HandedOver => (VmRunState::HandedOver, None),
        };
        let running = state == VmRunState::Running;
        VmObservation {
            uuid: self.assignment.uuid,
            name: self.assignment.name.clone(),
            epoch: self.assignment.epoch,
            state,
            reason,
            guest_agent: running,
            guest: running.then(GuestInfo::default),
            accelerator: (!matches!(self.guest, Guest::Off { .. })).then(|| "tcg".to_owned()),
            metrics: None,
            migration: self.migration.as_ref().map(|migration| migration.report(&self.assignment)),
            ha: HaObservation {
                spec: self.assignment.ha.clone(),
                probes: self.assignment.probes.clone(),
                status: self.ha.clone(),
            },
            probes: if running { self.probes.clone() } else { Vec::new() },
            recovery_points: self.points.clone(),
            volumes: self.assignment.volumes.iter().map(VolumeAssignment::place).collect(),
            copies: mirror::told(self),
            owner_uid: self.owner_uid,
            damaged: false,
            guarded: self.guarded,
        }
    }
}

impl FakeMigration {
    pub(super) fn report(&self, assignment: &Assignment) -> MigrationReport {
        let total = assignment.memory.bytes();
        let done = if self.rounds_left == 0 { total } else { total / u64::from(self.rounds_left + 1) };
        let moved = self.state == MigrationState::Moved;
        MigrationReport {
            migration: self.id,
            state: self.state,
            progress: MigrationProgress {
                phase: if moved { "done" } else { "memory" }.into(),
                memory_bytes_done: done,
                memory_bytes_total: total,
                ..MigrationProgress::default()
            },
            figures: moved.then(|| MigrationFigures { memory_bytes: total, ..MigrationFigures::default() }),
            error: self.error.clone(),
            source: Some(self.source.clone()),
            recovery_port: None,
        }
    }
}
