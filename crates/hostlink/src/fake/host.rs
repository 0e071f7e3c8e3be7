//! The agent of a fake host.

use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::{
    AgentApi,
    agent::{
        AdoptVm, Assignment, ImageRef, Liveness, MigrationEndpoint, MigrationReport, MigrationState, PowerAction,
        PowerRequest, ProtectVm, ReceiveMigration, RevertVm, SendMigration, TakeSnapshot, TakenSnapshot, Verdict,
        VmObservation,
    },
};
use gantry_types::{Flow, HaPolicy, HostNetworks, HostResources, Name, PostCopy, Problem, ResourcesReport};
use uuid::Uuid;

use super::{
    FakeWorld, HostState, State,
    faults::When,
    guest::{FakeMigration, FakeVm, Guest},
    late::SentCommand,
    migration::is_receiving,
    mirror::{expect_alone, leave_copy},
    unreachable,
};

/// How often a source says `sending` before it hands over, and `committing` while post-copy lasts.
const ROUNDS: u32 = 2;
const FIRST_UID: u32 = 100_000;
/// How far every guest's clock is behind when it is looked at.
pub const CLOCK_LAG_MS: i64 = 130;

/// One host of a [`FakeWorld`].
#[derive(Clone)]
pub struct FakeHost {
    pub(super) world: Arc<FakeWorld>,
    pub(super) name: Name,
    /// Which of the host's fences the caller knows to be lifted.
    pub(super) lifted: u64,
}

impl FakeHost {
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// As a controller calls that knows the host's fences up to this one to be lifted.
    pub fn knowing_lifted(self, lifted: u64) -> Self {
        Self { lifted, ..self }
    }

    /// Lets a call arrive, with whatever fault was asked for.
    pub(super) fn call<R>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut State) -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        let mut state = self.world.lock();
        let fault = state.faults.arrive(&self.name, name);
        if state.host(&self.name)?.cut {
            return Err(unreachable(&self.name));
        }
        let lifted = state.host(&self.name)?.lease.lifted;
        if self.lifted < lifted {
            return Err(crate::fencing::stale(self.lifted, lifted));
        }
        match fault {
            Some((When::Before, problem)) => Err(problem),
            Some((When::After, problem)) => {
                // The effect's own error is what the caller would not have learned either.
                let _unseen = effect(&mut state);
                state.check();
                Err(problem)
            }
            None => {
                let result = effect(&mut state);
                state.check();
                result
            }
        }
    }

    pub(super) fn on_host<R>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut HostState) -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        self.call(name, |state| effect(state.host(&self.name)?))
    }
}

pub(super) fn stale(vm: &FakeVm, epoch: u64) -> Result<(), Problem> {
    let known = vm.assignment.epoch;
    if epoch >= known {
        return Ok(());
    }
    let name = &vm.assignment.name;
    Err(Problem::conflict("stale-epoch", format!("VM '{name}' is at epoch {known}, the command is from epoch {epoch}")))
}

pub(super) fn handed_over(vm: &FakeVm) -> Result<(), Problem> {
    if vm.guest != Guest::HandedOver {
        return Ok(());
    }
    Err(Problem::conflict("vm-handed-over", format!("VM '{}' was handed over", vm.assignment.name)))
}

impl HostState {
    pub(super) fn vm(&mut self, vm: Uuid) -> Result<&mut FakeVm, Problem> {
        self.vms.get_mut(&vm).ok_or_else(|| Problem::not_found("vm", &vm.to_string()))
    }

    pub(super) fn next_uid(&mut self) -> u32 {
        self.uids_given += 1;
        FIRST_UID + self.uids_given
    }

    pub(super) fn expect_image(&self, assignment: &Assignment) -> Result<(), Problem> {
        if assignment.disk.pool.is_some() {
            // It was put beside the disk when that was made.
            return Ok(());
        }
        match &assignment.disk.image {
            Some(image) if !self.images.contains(&image.digest) => {
                Err(Problem::conflict("image-not-here", format!("VM '{}': its image is not here", assignment.name)))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn define(&mut self, assignment: &Assignment) -> Result<VmObservation, Problem> {
        self.expect_image(assignment)?;
        if let Some(known) = self.vms.get_mut(&assignment.uuid) {
            stale(known, assignment.epoch)?;
            handed_over(known)?;
            if known.is_moving() {
                return Err(Problem::conflict("vm-migrating", "the VM is being migrated"));
            }
            let same = Assignment {
                epoch: known.assignment.epoch,
                power: known.assignment.power,
                ha: known.assignment.ha.clone(),
                probes: known.assignment.probes.clone(),
                resources: known.assignment.resources.clone(),
                ..assignment.clone()
            };
            if same != known.assignment && !matches!(known.guest, Guest::Off { .. }) {
                return Err(Problem::conflict("vm-running", "its machine is changed while it is stopped"));
            }
            known.assignment = assignment.clone();
            let is_protected = assignment.ha.policy == HaPolicy::Restart;
            known.guarded = is_protected || (known.guarded && !matches!(known.guest, Guest::Off { .. }));
            known.arrived = None;
            let observation = known.observe();
            self.claim_disk(assignment)?;
            return Ok(observation);
        }
        self.claim_disk(assignment)?;
        let vm = FakeVm::new(assignment.clone(), self.next_uid());
        let observation = vm.observe();
        self.vms.insert(assignment.uuid, vm);
        Ok(observation)
    }

    pub(super) fn receive(
        &mut self,
        name: &Name,
        uuid: Uuid,
        request: &ReceiveMigration,
    ) -> Result<MigrationEndpoint, Problem> {
        if self.verdicts.contains_key(&request.migration) {
            return Err(Problem::conflict("migration-decided", "this migration was decided here already"));
        }
        self.expect_image(&request.assignment)?;
        self.expect_disk(&request.assignment)?;
        if let Some(known) = self.vms.get(&uuid)
            && !is_receiving(known, request.migration)
        {
            stale(known, request.assignment.epoch)?;
            let earlier = known.migration.as_ref().filter(|m| m.state == MigrationState::Receiving).map(|m| m.id);
            match earlier {
                Some(earlier) => self.decide(uuid, earlier, Verdict::Aborted),
                None => return Err(Problem::conflict("vm-exists", "the VM is on this host already")),
            };
        }
        let owner_uid = self.next_uid();
        self.vms.entry(uuid).or_insert_with(|| FakeVm {
            guest: Guest::Incoming,
            probes: request.probes.clone(),
            migration: Some(FakeMigration {
                id: request.migration,
                state: MigrationState::Receiving,
                source: request.source.clone(),
                request: None,
                paused: request.paused,
                rounds_left: ROUNDS,
                post_copy_rounds_left: 0,
                error: None,
            }),
            ..FakeVm::new(request.assignment.clone(), owner_uid)
        });
        Ok(MigrationEndpoint {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            ram_port: 1,
            disk_port: 2,
            disk_export: "disk".into(),
            tls_name: name.to_string(),
        })
    }

    pub(super) fn send(&mut self, name: &Name, uuid: Uuid, request: &SendMigration) -> Result<(), Problem> {
        let vm = self.vm(uuid)?;
        if let Some(known) = vm.migration.as_ref().filter(|known| known.id == request.migration) {
            return match known.state {
                MigrationState::Failed | MigrationState::Cancelled => Err(known
                    .error
                    .clone()
                    .unwrap_or_else(|| Problem::conflict("migration-over", "this migration has ended"))),
                _ => Ok(()),
            };
        }
        stale(vm, request.epoch)?;
        if vm.is_moving() || !matches!(vm.guest, Guest::Running | Guest::Paused) {
            return Err(Problem::conflict("vm-not-running", "only a running VM is migrated"));
        }
        leave_copy(vm)?;
        let post_copy = request.post_copy && request.policy.post_copy == PostCopy::Always;
        vm.migration = Some(FakeMigration {
            id: request.migration,
            state: MigrationState::Sending,
            source: name.clone(),
            request: Some(request.clone()),
            paused: vm.guest == Guest::Paused,
            rounds_left: ROUNDS,
            post_copy_rounds_left: if post_copy { ROUNDS } else { 0 },
            error: None,
        });
        Ok(())
    }

    fn cancel(&mut self, uuid: Uuid, migration: Uuid) -> Result<(), Problem> {
        let vm = self.vm(uuid)?;
        let Some(known) = vm.migration.as_mut().filter(|known| known.id == migration) else {
            return Err(Problem::not_found("migration", &migration.to_string()));
        };
        match known.state {
            MigrationState::Sending => known.state = MigrationState::Cancelled,
            MigrationState::Failed | MigrationState::Cancelled => {}
            _ => return Err(Problem::conflict("migration-handed-over", "too late to cancel")),
        }
        Ok(())
    }

    fn check_receiving(&self, uuid: Uuid, migration: Uuid) -> Result<(), Problem> {
        let vm = self.vms.get(&uuid).ok_or_else(|| Problem::not_found("vm", &uuid.to_string()))?;
        if is_receiving(vm, migration) {
            return Ok(());
        }
        Err(Problem::conflict("not-receiving", format!("migration {migration} is not received here")))
    }

    fn report(&self, uuid: Uuid, migration: Uuid) -> Result<MigrationReport, Problem> {
        if let Some(vm) = self.vms.get(&uuid)
            && let Some(known) = vm.migration.as_ref().filter(|known| known.id == migration)
        {
            return Ok(known.report(&vm.assignment));
        }
        let verdict = self.verdicts.get(&migration);
        let state = match verdict.ok_or_else(|| Problem::not_found("migration", &migration.to_string()))? {
            Verdict::Committed => MigrationState::Committed,
            Verdict::Aborted => MigrationState::Aborted,
        };
        Ok(MigrationReport {
            migration,
            state,
            progress: Default::default(),
            figures: None,
            error: None,
            source: None,
            recovery_port: None,
        })
    }
}

fn power(vm: &mut FakeVm, request: &PowerRequest) -> Result<VmObservation, Problem> {
    stale(vm, request.epoch)?;
    vm.expect_news(request.command)?;
    handed_over(vm)?;
    if vm.arrived.is_some() {
        return Err(Problem::conflict("vm-arrived", "it is not said to be this host's VM yet"));
    }
    if vm.guest == Guest::Incoming {
        return Err(Problem::conflict("vm-migrating", "the VM is being migrated"));
    }
    vm.command = request.command;
    let off = || Guest::Off { failed: false, reason: None };
    let is_off = matches!(vm.guest, Guest::Off { .. });
    vm.guest = match (request.action, &vm.guest) {
        (PowerAction::Start, _) if is_off => {
            vm.ha.elsewhere = false;
            Guest::Running
        }
        (PowerAction::Start, now) => now.clone(),
        (PowerAction::Kill, _) => {
            vm.migration = None;
            off()
        }
        (_, _) if is_off => return Err(Problem::conflict("vm-not-running", "the VM does not run")),
        (PowerAction::ShutDown, Guest::Running) => off(),
        (PowerAction::Pause, _) => Guest::Paused,
        (PowerAction::Resume, _) => Guest::Running,
        (PowerAction::ShutDown | PowerAction::Reboot | PowerAction::Reset, now) => now.clone(),
    };
    vm.assignment.epoch = vm.assignment.epoch.max(request.epoch);
    Ok(vm.observe())
}

#[async_trait]
impl AgentApi for FakeHost {
    async fn observe(&self) -> Result<Vec<VmObservation>, Problem> {
        self.on_host("observe", |host| Ok(host.vms.values().map(FakeVm::observe).collect()))
    }

    async fn ensure_image(&self, image: &ImageRef) -> Result<(), Problem> {
        self.on_host("ensure_image", |host| {
            host.images.insert(image.digest.clone());
            Ok(())
        })
    }

    async fn remove_image(&self, digest: &str) -> Result<(), Problem> {
        self.on_host("remove_image", |host| {
            let stands_on = |vm: &FakeVm| vm.assignment.disk.image.as_ref().is_some_and(|image| image.digest == digest);
            if host.vms.values().any(stands_on) {
                return Err(Problem::conflict("image-in-use", "a disk stands on it"));
            }
            host.images.remove(digest);
            Ok(())
        })
    }

    async fn apply_networks(&self, networks: &HostNetworks) -> Result<(), Problem> {
        self.on_host("apply_networks", |host| {
            if networks.generation < host.networks.generation {
                return Err(Problem::conflict("stale-generation", "these networks are older than what is here"));
            }
            host.networks = networks.clone();
            Ok(())
        })
    }

    async fn apply_resources(&self, resources: &HostResources) -> Result<ResourcesReport, Problem> {
        self.on_host("apply_resources", |host| {
            host.resources = resources.clone();
            Ok(ResourcesReport { enforced: "in memory".to_owned(), problems: Vec::new() })
        })
    }
    async fn define_vm(&self, assignment: &Assignment) -> Result<VmObservation, Problem> {
        self.on_host("define_vm", |host| host.define(assignment))
    }

    async fn power(&self, vm: Uuid, request: &PowerRequest) -> Result<VmObservation, Problem> {
        self.note_sent(vm, SentCommand::Power(request.clone()));
        self.on_host("power", |host| {
            if request.action == PowerAction::Start {
                let assignment = host.vm(vm)?.assignment.clone();
                host.claim_disk(&assignment)?;
                let vm = host.vm(vm)?;
                if matches!(vm.guest, Guest::Off { .. }) {
                    expect_alone(vm)?;
                }
            }
            power(host.vm(vm)?, request)
        })
    }

    async fn adopt_vm(&self, vm: Uuid, request: &AdoptVm) -> Result<VmObservation, Problem> {
        self.call("adopt_vm", |state| state.adopt(&self.name, vm, request))
    }

    async fn protect_vm(&self, vm: Uuid, request: &ProtectVm) -> Result<(), Problem> {
        self.on_host("protect_vm", |host| {
            let known = host.vm(vm)?;
            stale(known, request.epoch)?;
            if known.is_moving() {
                return Err(Problem::conflict("vm-migrating", "the VM is being migrated"));
            }
            known.assignment.ha = request.ha.clone();
            known.assignment.probes.clone_from(&request.probes);
            known.guarded |= request.ha.policy == HaPolicy::Restart;
            Ok(())
        })
    }

    async fn remove_vm(&self, vm: Uuid, epoch: u64) -> Result<(), Problem> {
        self.on_host("remove_vm", |host| {
            host.expected.remove(&vm);
            let Some(known) = host.vms.get(&vm) else { return Ok(()) };
            stale(known, epoch)?;
            handed_over(known)?;
            if let Some(migration) = known.migration.clone()
                && migration.state == MigrationState::Receiving
            {
                host.decide(vm, migration.id, Verdict::Aborted);
            }
            host.forget(vm, epoch);
            Ok(())
        })
    }

    async fn take_snapshot(&self, vm: Uuid, request: &TakeSnapshot) -> Result<TakenSnapshot, Problem> {
        self.on_host("take_snapshot", |host| host.vm(vm)?.take_snapshot(request))
    }

    async fn delete_snapshot(&self, vm: Uuid, epoch: u64, snapshot: Uuid) -> Result<(), Problem> {
        self.on_host("delete_snapshot", |host| host.vm(vm)?.delete_snapshot(epoch, snapshot))
    }

    async fn revert_vm(&self, vm: Uuid, request: &RevertVm) -> Result<VmObservation, Problem> {
        self.note_sent(vm, SentCommand::Revert(request.clone()));
        self.call("revert_vm", |state| {
            let reverted = state.host(&self.name)?.vm(vm)?.revert(request)?;
            // What was written since is taken back.
            state.note_acknowledged(&self.name, vm);
            Ok(reverted)
        })
    }

    async fn receive_migration(&self, vm: Uuid, request: &ReceiveMigration) -> Result<MigrationEndpoint, Problem> {
        self.call("receive_migration", |state| state.receive(&self.name, vm, request))
    }

    async fn send_migration(&self, vm: Uuid, request: &SendMigration) -> Result<(), Problem> {
        self.on_host("send_migration", |host| host.send(&self.name, vm, request))
    }

    async fn migration_report(&self, vm: Uuid, migration: Uuid) -> Result<MigrationReport, Problem> {
        self.call("migration_report", |state| {
            let report = state.host(&self.name)?.report(vm, migration)?;
            state.advance(&self.name, vm);
            Ok(report)
        })
    }

    async fn cancel_migration(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        self.on_host("cancel_migration", |host| host.cancel(vm, migration))
    }

    async fn adopt_flows(&self, vm: Uuid, migration: Uuid, _flows: &[Flow]) -> Result<(), Problem> {
        self.on_host("adopt_flows", |host| host.check_receiving(vm, migration))
    }

    async fn commit_migration(&self, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
        self.on_host("commit_migration", |host| Ok(host.decide(vm, migration, Verdict::Committed)))
    }

    async fn abort_migration(&self, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
        self.on_host("abort_migration", |host| Ok(host.decide(vm, migration, Verdict::Aborted)))
    }

    async fn release_migration(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        self.on_host("release_migration", |host| {
            let known = host.vms.get(&vm).and_then(|vm| vm.migration.as_ref()).filter(|known| known.id == migration);
            match known.map(|known| known.state) {
                Some(MigrationState::Moved) => {
                    // A disk that both hosts reach went along, whoever has claimed it by now.
                    host.forget(vm, u64::MAX);
                    Ok(())
                }
                None => Ok(()),
                Some(_) => Err(Problem::conflict("migration-not-moved", "only a moved VM is released")),
            }
        })
    }

    async fn check_liveness(&self, vm: Uuid, _expect_guest_agent: bool) -> Result<Liveness, Problem> {
        self.on_host("check_liveness", |host| {
            let alive = host.vm(vm)?.guest == Guest::Running;
            Ok(Liveness {
                alive,
                evidence: if alive { "it runs" } else { "it does not run" }.into(),
                disk_writes: 0,
                guest_clock_lag_ms: alive.then_some(CLOCK_LAG_MS),
            })
        })
    }
}
