//! What a VM is on this host: made from its assignment, changed while it is stopped, removed with all it had.

use gantry_api::agent::{AdoptVm, Assignment, Verdict, VmObservation, VmRunState};
use gantry_storage::Claiming;
use gantry_types::{PowerState, Problem};

use super::actor::{Run, VmTask};
use super::{disk, machine};
use crate::flows;
use crate::networks::Place;
use crate::records::{Record, RecoveryRecord};

impl VmTask {
    pub(super) async fn define(&mut self, assignment: Assignment) -> Result<VmObservation, Problem> {
        let Some(record) = &self.record else { return self.define_new(assignment).await };
        self.check_epoch(assignment.epoch)?;
        self.check_not_moving()?;
        if record.assignment == assignment && !matches!(self.run, Run::Off) {
            return self.observation();
        }
        let same_machine = Assignment { epoch: record.assignment.epoch, ..assignment.clone() };
        let Assignment { power, ha, probes, resources, .. } = record.assignment.clone();
        let same_machine = Assignment { power, ha, probes, resources, ..same_machine } == record.assignment;
        if !matches!(self.run, Run::Off) && !same_machine {
            let detail = format!("VM '{}' runs; its machine is changed while it is stopped", assignment.name);
            return Err(Problem::conflict("vm-running", detail).remedy("stop it first"));
        }
        let before = record.clone();
        let mut changed = Record { assignment, arrived: None, ..before.clone() };
        let to_be_guarded = Record::is_to_be_guarded(&changed.assignment);
        if matches!(self.run, Run::Off) {
            changed.guarded = to_be_guarded;
        } else if to_be_guarded && !changed.guarded {
            self.guard_running().await?;
            changed.guarded = true;
        }
        let made = self.make(changed).await;
        if made.is_err() {
            // What can't be made is not what the VM is.
            self.record = Some(before);
            self.save().await?;
        }
        made
    }

    async fn define_new(&mut self, assignment: Assignment) -> Result<VmObservation, Problem> {
        let owner_uid = self.host.uids.take()?;
        let record = Record::new(assignment, owner_uid);
        let made = match disk::check_nothing_left(&self.host, &record).await {
            Ok(()) => self.make(record).await,
            Err(error) => Err(error),
        };
        if made.is_err() && self.record.is_none() {
            self.host.uids.release(owner_uid);
        }
        made
    }

    /// Takes the VM on with the disk that it has in a pool. The disk's lease first: what is refused changes nothing, and a
    /// record without the lease would be of a VM that another host may run.
    pub(super) async fn adopt(&mut self, request: AdoptVm) -> Result<VmObservation, Problem> {
        let AdoptVm { assignment, recovery_points } = request;
        if assignment.disk.pool.is_none() {
            let detail =
                format!("the disk of VM '{}' is in no pool that another host could have had it in", assignment.name);
            return Err(Problem::invalid("disk-not-shared", detail).remedy("define the VM instead"));
        }
        let is_left_behind = self.is_left_behind(&assignment);
        if let Some(record) = self.record.as_ref().filter(|_| !is_left_behind) {
            self.check_epoch(assignment.epoch)?;
            self.check_not_moving()?;
            if record.assignment.epoch == assignment.epoch {
                return self.define(assignment).await;
            }
            if !matches!(self.run, Run::Off) {
                let detail = format!("VM '{}' runs on this host at epoch {}", assignment.name, record.assignment.epoch);
                return Err(Problem::conflict("vm-running", detail).remedy("stop it first"));
            }
        }
        drop(disk::claim(&self.host, &assignment, Claiming::Keep).await?);
        if is_left_behind {
            self.sending = None;
            self.end_qemu().await?;
        }
        let known_uid = self.record.as_ref().map(|record| record.owner_uid);
        let owner_uid = known_uid.map_or_else(|| self.host.uids.take(), Ok)?;
        let mut points = recovery_points;
        points.reverse();
        let record = Record {
            wanted: PowerState::Stopped,
            disk_made: true,
            recovery: RecoveryRecord { points, ..RecoveryRecord::default() },
            ..Record::new(assignment, owner_uid)
        };
        let made = self.make(record).await;
        if made.is_err() && self.record.is_none() {
            self.host.uids.release(owner_uid);
        }
        made
    }

    /// What is here was handed over, and the VM has a later epoch by now than it got where it went: that host has lost it, and what it was here
    /// is of no use, whether this host has heard that it was taken or not. A disk that went along is not here any more.
    fn is_left_behind(&self, assignment: &Assignment) -> bool {
        let known = self.record.as_ref().map(|record| record.assignment.epoch);
        let is_later = known.is_some_and(|known| assignment.epoch > known + 1);
        is_later && self.run_state() == VmRunState::HandedOver && !assignment.disk.travels()
    }

    /// The record first: what a crash leaves of the rest is found through it.
    async fn make(&mut self, record: Record) -> Result<VmObservation, Problem> {
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        let record = self.record.insert(record);
        let is_off = matches!(self.run, Run::Off);
        if is_off {
            machine::prepare_files(&self.host, record).await?;
        }
        let (nics, uid) = (&record.assignment.nics, record.owner_uid);
        self.host.networks.ensure(self.vm, nics, uid, Place::Here).await?;
        self.observation()
    }

    pub(super) async fn remove(&mut self, epoch: u64) -> Result<(), Problem> {
        if self.record.is_none() {
            return Ok(());
        }
        self.check_epoch(epoch)?;
        self.end_backup_work().await;
        self.check_not_handed_over("removed")?;
        if self.is_receiving() && self.decide_aborted("the VM was removed").await? == Verdict::Committed {
            // Its source has been told to let it go: this may be the only one there is.
            let record = self.known()?;
            if epoch <= record.assignment.epoch {
                return Err(committed_here(record));
            }
            self.note_committed().await;
        }
        self.stop_sending("the VM was removed").await;
        // An agent that is killed half way must not start it again.
        self.want(PowerState::Stopped).await?;
        let assignment = &self.known()?.assignment;
        let (nics, superseded) = (assignment.nics.clone(), epoch > assignment.epoch);
        self.tear_down_as(superseded).await?;
        flows::forget(&nics).await;
        Ok(())
    }

    /// Ends QEMU and deletes everything of the VM; the record last.
    pub(crate) async fn tear_down(&mut self) -> Result<(), Problem> {
        self.tear_down_as(false).await
    }

    /// `superseded`: the VM lives on elsewhere, or is to.
    pub(crate) async fn tear_down_as(&mut self, superseded: bool) -> Result<(), Problem> {
        self.end_qemu().await?;
        self.host.networks.remove(self.vm).await?;
        if !superseded {
            self.take_left_disk().await?;
        }
        if let Some(record) = self.record.clone()
            && disk::remove(&self.host, &record, superseded).await?
        {
            self.give_volumes_back().await;
        }
        self.host.records.remove(self.vm).await.map_err(|error| error.problem())?;
        if let Some(record) = self.record.take() {
            self.host.uids.release(record.owner_uid);
        }
        Ok(())
    }

    /// Nothing of QEMU is left afterwards.
    pub(crate) async fn end_qemu(&mut self) -> Result<(), Problem> {
        match &self.run {
            Run::Off => {}
            Run::On(machine) => machine::end(&machine.process).await?,
            Run::Deaf(process) => machine::end(process).await?,
        }
        self.run = Run::Off;
        self.disk_move = None;
        self.host.lease.forget_guarded(self.vm);
        self.interrupted = None;
        self.expected_end = None;
        self.hold = None;
        self.shared.forget_run();
        Ok(())
    }
}

/// The refusal to end a VM that was decided to be this host's.
pub(crate) fn committed_here(record: &Record) -> Problem {
    let detail = format!(
        "VM '{}' was moved to this host at epoch {} and is being taken over",
        record.assignment.name, record.assignment.epoch
    );
    Problem::conflict("migration-committed", detail)
        .remedy("observe the VM again: it is this host's; to delete it all the same, delete the VM itself")
}
