//! What the VM's task tells of itself: from its record and what there is of QEMU, without asking either.

use gantry_api::agent::{HaObservation, MigrationReport, MigrationState, VmObservation, VmRunState};
use gantry_api::storage::VolumeAssignment;
use gantry_types::Problem;

use super::actor::{Run, VmTask};
use super::probing::known_of;
use crate::migration::Interrupted;
use crate::records::MigrationRole;

impl VmTask {
    pub(super) fn run_state(&self) -> VmRunState {
        let Some(record) = &self.record else { return VmRunState::Stopped };
        if let Some(migration) = &record.migration {
            match (&migration.role, migration.state) {
                (MigrationRole::Source(_), MigrationState::Committing | MigrationState::Moved) => {
                    return VmRunState::HandedOver;
                }
                (MigrationRole::Destination { .. }, MigrationState::Receiving) => return VmRunState::Receiving,
                _ => {}
            }
        }
        match &self.run {
            Run::On(_) if self.paused => VmRunState::Paused,
            Run::On(_) => VmRunState::Running,
            Run::Deaf(_) => VmRunState::Failed,
            // Its QEMU may well run: a heartbeat that called it stopped would be believed.
            Run::Off if self.recovering => VmRunState::Starting,
            Run::Off if self.waits_to_run_alone() => VmRunState::Starting,
            Run::Off if self.protection.restart_at.is_some() => VmRunState::Starting,
            Run::Off if self.keep_up_at.is_some() || self.waits_for_lease() => VmRunState::Starting,
            Run::Off if record.arrived.is_some() => VmRunState::Arrived,
            Run::Off if record.end.as_ref().is_some_and(|end| end.failed) => VmRunState::Failed,
            Run::Off => VmRunState::Stopped,
        }
    }

    pub(crate) fn observation(&self) -> Result<VmObservation, Problem> {
        let record = self.known()?;
        let reason = match &self.run {
            Run::On(_) => self.hold.as_ref().map(|hold| hold.reason.clone()),
            Run::Deaf(process) => Some(format!("QEMU process {} runs but does not answer", process.pid())),
            Run::Off => record.end.as_ref().map(|end| end.reason.clone()),
        };
        let accelerator = match &self.run {
            Run::On(machine) => Some(machine.accelerator.clone()),
            _ => None,
        };
        let base = VmObservation {
            uuid: self.vm,
            name: record.assignment.name.clone(),
            epoch: record.assignment.epoch,
            state: self.run_state(),
            reason,
            guest_agent: false,
            guest: None,
            accelerator,
            metrics: None,
            migration: record.migration.as_ref().map(|migration| MigrationReport {
                migration: migration.id,
                state: migration.state,
                progress: Default::default(),
                figures: migration.figures.clone(),
                error: migration.error.clone(),
                source: migration.source(&self.host.config.name),
                recovery_port: self.interrupted.as_ref().map(Interrupted::port),
            }),
            ha: HaObservation {
                spec: record.assignment.ha.clone(),
                probes: record.assignment.probes.clone(),
                status: self.protection.status(&record.ha, self.is_left_to_others()),
            },
            probes: match &self.run {
                Run::On(_) => known_of(&record.assignment, &record.probes),
                Run::Off | Run::Deaf(_) => Vec::new(),
            },
            recovery_points: record.shown_points(),
            volumes: record.assignment.volumes.iter().map(VolumeAssignment::place).collect(),
            copies: self.copy_observation(),
            owner_uid: record.owner_uid,
            damaged: false,
            guarded: record.guarded,
        };
        self.shared.publish(base.clone(), record.guarded.then_some(record.fenced));
        Ok(self.shared.observation().unwrap_or(base))
    }

    pub(crate) fn publish(&self) {
        // Without a record there is nothing to show.
        drop(self.observation());
    }
}
