//! VMs that come to a host while they run: what `crates/agent/src/migration` (`destination.rs`, `verdicts.rs`) does, written
//! down once more. Who has decided what is on disk before anybody hears of it, and kept for good.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::agent::{
    Liveness, MigrationEndpoint, MigrationReport, MigrationState, ReceiveMigration, Verdict, VmObservation,
};
use gantry_types::Problem;
use rand::RngExt;
use uuid::Uuid;

use super::agent::AgentSide;
use super::machine::Begin;
use super::records::{Disk, MoveRecord, Side, VmRecord};
use super::streams::Flow;

/// The refusal to end a VM that was decided to be this host's.
pub fn committed_here(known: &VmObservation) -> Problem {
    let detail = format!("VM '{}' was moved to this host at epoch {} and is being taken over", known.name, known.epoch);
    Problem::conflict("migration-committed", detail)
}

fn decided(migration: Uuid) -> Problem {
    Problem::conflict("migration-decided", format!("migration {migration} was decided here already"))
}

impl AgentSide {
    fn verdict(&self, migration: Uuid) -> Option<Verdict> {
        self.vms.link.machine.disk(|disk| disk.verdicts.get(&migration).copied())
    }

    /// What counts from here on.
    pub async fn decide(&self, vm: Uuid, migration: Uuid, wanted: Verdict) -> Verdict {
        if let Some(verdict) = self.verdict(migration) {
            return verdict;
        }
        let mut verdict = wanted;
        let decide = |disk: &mut Disk, _| verdict = *disk.verdicts.entry(migration).or_insert(wanted);
        self.vms.link.write_move(vm, decide).await;
        verdict
    }

    pub async fn receive_migration(
        self: &Arc<Self>,
        vm: Uuid,
        request: &ReceiveMigration,
    ) -> Result<MigrationEndpoint, Problem> {
        let (_task, _turn) = self.turn(vm).await;
        if self.verdict(request.migration).is_some() {
            return Err(decided(request.migration));
        }
        if self.vms.find(vm).is_ok() {
            let record = self.vms.link.machine.record(vm);
            if let Some(endpoint) = record.endpoint_of(request.migration) {
                return Ok(endpoint.clone());
            }
            let known = self.vms.find_at(vm, request.assignment.epoch)?;
            let Some(earlier) = record.migration.filter(|migration| migration.state == MigrationState::Receiving)
            else {
                return Err(Problem::conflict("vm-exists", format!("VM '{}' is on this host already", known.name)));
            };
            // If it is of the same one, nobody was told where to send it.
            if earlier.id != request.migration
                && self.decide(vm, earlier.id, Verdict::Aborted).await == Verdict::Committed
            {
                return Err(committed_here(&known));
            }
            self.vms.tear_down(vm, "another move replaces it").await;
        }
        let made = self.make_receiver(vm, request).await;
        if made.is_err() && self.vms.find(vm).is_ok() {
            self.vms.tear_down(vm, "it can't be received").await;
        }
        made
    }

    /// The record first: what a crash leaves of the rest is found through it.
    async fn make_receiver(&self, vm: Uuid, request: &ReceiveMigration) -> Result<MigrationEndpoint, Problem> {
        let (id, source, name) = (request.migration, request.source.clone(), &self.vms.link.machine.name);
        let begun = move |endpoint| MoveRecord {
            id,
            state: MigrationState::Receiving,
            side: Side::Destination { source, endpoint },
            error: None,
        };
        let record = VmRecord { wanted: !request.paused, migration: Some(begun.clone()(None)), ..VmRecord::default() };
        let mut made = Err(decided(id));
        let make = |disk: &mut Disk, _| {
            made = self.vms.world.guest_comes(name, vm, request);
            if made.is_ok() {
                disk.vms.insert(vm, record);
            }
        };
        self.vms.link.write_move(vm, make).await;
        let endpoint = made?;
        self.vms.start_qemu(&self.vms.find(vm)?, Begin::Incoming(id)).await?;
        let told = VmRecord { migration: Some(begun(Some(endpoint.clone()))), ..self.vms.link.machine.record(vm) };
        self.vms.write(vm, told).await;
        Ok(endpoint)
    }

    /// The source has handed over. Decided once, then carried out; a repeated call carries on with it.
    pub async fn commit_migration(self: &Arc<Self>, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
        let (_task, _turn) = self.turn(vm).await;
        let machine = &self.vms.link.machine;
        let can_run = machine.process_of(vm).is_some() && machine.flow(migration) == Flow::Complete;
        self.settle(vm, migration, if can_run { Verdict::Committed } else { Verdict::Aborted }).await
    }

    /// Gives the move up unless it is committed.
    pub async fn abort_migration(self: &Arc<Self>, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
        let (_task, _turn) = self.turn(vm).await;
        self.settle(vm, migration, Verdict::Aborted).await
    }

    async fn settle(&self, vm: Uuid, migration: Uuid, wanted: Verdict) -> Result<Verdict, Problem> {
        if self.vms.find(vm).is_err() || !self.vms.link.machine.record(vm).receives(migration) {
            // Nothing that comes late can commit it any more.
            return Ok(self.decide(vm, migration, Verdict::Aborted).await);
        }
        let verdict = self.decide(vm, migration, wanted).await;
        match verdict {
            Verdict::Committed => self.take_over(vm).await?,
            Verdict::Aborted => self.vms.tear_down(vm, "its move was given up").await,
        }
        Ok(verdict)
    }

    /// The guest is ours: its disk first, then it runs.
    async fn take_over(&self, vm: Uuid) -> Result<(), Problem> {
        let machine = &self.vms.link.machine;
        self.vms.world.claim_disk(&machine.name, vm)?;
        let loading_us = machine.hub.draw(|rng| rng.random_range(1_000..20_000));
        self.vms.keeper.sleep(Duration::from_micros(loading_us)).await;
        let record = machine.record(vm);
        let runs = machine.process_of(vm).is_some() && (!record.wanted || machine.take_on(vm));
        if !runs {
            return Err(Problem::transient("not-taken-over", "its QEMU has ended"));
        }
        self.note_committed(vm).await;
        Ok(())
    }

    pub async fn note_committed(&self, vm: Uuid) {
        let (machine, world) = (&self.vms.link.machine, &self.vms.world);
        let note = |disk: &mut Disk, has_qemu: bool| {
            world.note_move(&machine.name, vm, MigrationState::Committed, has_qemu);
            if let Some(record) = disk.vms.get_mut(&vm) {
                *record = std::mem::take(record).with_move(MigrationState::Committed, None);
            }
        };
        self.vms.link.write_move(vm, note).await;
    }

    /// Its QEMU has ended while it waited: the guest is not here, and will not be.
    pub async fn receiving_failed(&self, vm: Uuid) {
        let Some(migration) = self.vms.link.machine.record(vm).migration else { return };
        match self.decide(vm, migration.id, Verdict::Aborted).await {
            Verdict::Aborted => self.vms.tear_down(vm, "what was to come does not").await,
            // It was ours and its QEMU is gone: as with any VM.
            Verdict::Committed => self.note_committed(vm).await,
        }
    }

    /// The agent was restarted while this VM was on its way here.
    pub async fn recover_receiving(&self, vm: Uuid, migration: &MoveRecord) {
        let was_told = matches!(&migration.side, Side::Destination { endpoint: Some(_), .. });
        let runs = self.vms.link.machine.process_of(vm).is_some();
        match (self.verdict(migration.id), runs) {
            // If it fails, the source asks again.
            (Some(Verdict::Committed), true) => drop(self.take_over(vm).await),
            (Some(Verdict::Committed), false) => self.note_committed(vm).await,
            (None, true) if was_told => {}
            _ => self.receiving_failed(vm).await,
        }
    }

    pub async fn migration_report(&self, vm: Uuid, migration: Uuid) -> Result<MigrationReport, Problem> {
        let record = self.vms.link.machine.record(vm);
        if let Some(known) = record.of_move(migration) {
            return Ok(self.vms.report(known));
        }
        let verdict = self.verdict(migration);
        let state = match verdict.ok_or_else(|| Problem::not_found("migration", &migration.to_string()))? {
            Verdict::Committed => MigrationState::Committed,
            Verdict::Aborted => MigrationState::Aborted,
        };
        let (progress, figures, error, source, recovery_port) = Default::default();
        Ok(MigrationReport { migration, state, progress, figures, error, source, recovery_port })
    }

    pub async fn check_liveness(&self, vm: Uuid, _expect_guest_agent: bool) -> Result<Liveness, Problem> {
        gantry_api::AgentApi::check_liveness(&self.vms.fake, vm, false).await
    }
}
