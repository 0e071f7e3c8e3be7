//! The steps that empty a host: `cordon`, then `empty`.
//!
//! ```text
//!  cordon: nothing new comes     empty: for each VM that executes ── vm-migrate, a few at a time ──▶ elsewhere
//!                                       then, if asked for, each that is stopped ── vm-relocate ──▶ elsewhere
//!                                       waits for VMs that something is at work on
//! ```
//! A VM that executes and can't be moved is an obstacle: the rest is moved all the same, then the step fails and names
//! each. One that does not execute is none: it stays, with its disk, and is named with the reason. Undone, moves under way are cancelled, what has moved stays where it is, and the host takes VMs again if it did before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use gantry_api::{
    agent::{VmObservation, VmRunState},
    rest::{MigrateRequest, WriteQuery},
};
use gantry_types::{ErrorClass, Maintenance, Name, OperationPhase, Problem, Progress, Resource, Vm, VmPhase};

use super::{
    children::{self, caller_of},
    host_target::{target_host, update_host},
    step::{CANCELLED, Patience, Step, StepContext, Undone},
    vm_migrate::source_of,
};
use crate::app::vm;

const WAS_CORDONED: &str = "was_cordoned";
/// The VMs that do not execute and stayed, and why.
pub(super) const STAYED: &str = "stayed";
const POLL: Duration = Duration::from_millis(200);
/// Moves at once: two keep the link busy while one of them hands over.
const MOVES_AT_ONCE: usize = 2;
/// How often a VM is tried to be moved.
const TRIES: usize = 3;

/// Whether the host took VMs before this operation.
pub(super) fn was_cordoned(context: &StepContext) -> Result<bool, Problem> {
    Ok(context.memo(WAS_CORDONED)?.unwrap_or_default())
}

pub(super) struct Close;

#[async_trait]
impl Step for Close {
    fn name(&self) -> &'static str {
        "cordon"
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let app = Arc::clone(&context.app);
        // Whatever is being placed here now is seen by the next step.
        let _placing = app.placement.lock().await;
        if context.memo::<bool>(WAS_CORDONED)?.is_none() {
            let host = target_host(context).await?;
            context.note(WAS_CORDONED, &host.spec.cordoned)?;
            context.save().await?;
        }
        update_host(context, |host| {
            host.spec.cordoned = true;
            host.status.maintenance = Maintenance::Draining;
        })
        .await?;
        Ok(())
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        let Some(was_cordoned) = context.memo::<bool>(WAS_CORDONED)? else { return Ok(Undone::Yes) };
        update_host(context, |host| {
            host.spec.cordoned = was_cordoned;
            host.status.maintenance = Maintenance::Off;
        })
        .await?;
        Ok(Undone::Yes)
    }
}

pub(super) struct Empty {
    pub stopped: Stopped,
}

/// What becomes of VMs that do not execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The host is emptied for good.
    Move,
    /// It is back soon: their disks needn't travel.
    Stay,
}

/// VMs whose move was refused at once, and why.
type Refused = BTreeMap<Name, String>;

#[async_trait]
impl Step for Empty {
    fn name(&self) -> &'static str {
        "empty"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let host = context.target().clone();
        let mut refused = Refused::new();
        loop {
            if context.cancel_requested() {
                return Err(Problem::conflict(CANCELLED, format!("emptying host '{host}' was cancelled")));
            }
            let sight = look(context, &host, self.stopped, &refused);
            for vm in &sight.to_move {
                if let Some(reason) = begin_move(context, vm).await? {
                    refused.insert(vm.metadata.name.clone(), reason);
                }
            }
            if sight.to_move.is_empty() && sight.busy.is_empty() {
                if sight.obstacles.is_empty() {
                    return context.note(STAYED, &sight.staying);
                }
                return Err(obstacles_problem(&host, &sight.obstacles));
            }
            context.progress(progress_of(&sight)).await?;
            context.sleep(POLL).await;
        }
    }

    async fn undo(&self, context: &mut StepContext) -> Result<Undone, Problem> {
        children::cancel_all(context).await?;
        Ok(Undone::Yes)
    }
}

/// The host's VMs, by what is to be done about them.
#[derive(Default)]
struct Sight {
    /// Now; the others have to wait for these.
    to_move: Vec<Arc<Vm>>,
    waiting: Vec<Name>,
    busy: Vec<Name>,
    staying: Vec<(Name, String)>,
    obstacles: Vec<(Name, String)>,
}

fn look(context: &StepContext, host: &Name, stopped: Stopped, refused: &Refused) -> Sight {
    let mut sight = Sight::default();
    let vms: Vec<Arc<Vm>> = context.app.model.read(|tables| {
        let here = |vm: &Vm| [&vm.status.host, &vm.status.moving_to].into_iter().flatten().any(|at| at == host);
        tables.vms.values().filter(|vm| here(vm)).cloned().collect()
    });
    sight.busy.extend(leaving(context, host));
    let mut free = MOVES_AT_ONCE.saturating_sub(children::unfinished(context).len());
    let given_up = |vm: &Vm| refused.get(&vm.metadata.name).cloned().or_else(|| given_up(context, vm));
    let (executing, resting): (Vec<_>, Vec<_>) = vms.into_iter().partition(|vm| vm.status.phase.may_execute());
    for vm in executing.into_iter().chain(resting) {
        let name = vm.metadata.name.clone();
        match vm.status.phase {
            _ if vm.status.operation.is_some() => sight.busy.push(name),
            VmPhase::Stopped if stopped == Stopped::Stay => sight.staying.push((name, "it does not run".to_owned())),
            phase @ (VmPhase::Running | VmPhase::Paused | VmPhase::Stopped) => match given_up(&vm) {
                Some(reason) if phase == VmPhase::Stopped => sight.staying.push((name, reason)),
                Some(reason) => sight.obstacles.push((name, reason)),
                None if free > 0 => {
                    free -= 1;
                    sight.to_move.push(vm);
                }
                None => sight.waiting.push(name),
            },
            VmPhase::Unknown => {
                let reason = "nobody can say whether it runs; bring its host back, or gantry vm delete --force";
                sight.obstacles.push((name, reason.to_owned()));
            }
            phase @ (VmPhase::Failed | VmPhase::Pending) => sight.staying.push((name, format!("it is {phase}"))),
            VmPhase::Starting | VmPhase::Migrating | VmPhase::Stopping | VmPhase::Deleting => sight.busy.push(name),
        }
    }
    sight
}

/// VMs that are elsewhere already and still need this host: after a switchover to post-copy the rest of their memory is
/// here, until it is released.
fn leaving(context: &StepContext, host: &Name) -> Vec<Name> {
    let held = context.app.model.overlay(|overlay| {
        let report = overlay.hosts.get(host.as_str());
        let handed_over = |vm: &&VmObservation| vm.state == VmRunState::HandedOver;
        let names = report.into_iter().flat_map(|report| report.vms.values()).filter(handed_over);
        names.map(|vm| vm.name.clone()).collect::<Vec<_>>()
    });
    let releasing = context.app.model.read(|tables| {
        let all = tables.operations.values().filter(|operation| !operation.status.phase.is_finished());
        let ours = all.filter(|operation| source_of(operation).as_ref() == Some(host));
        let gone = ours.filter(|operation| {
            let vm = tables.vms.get(operation.spec.target.name.as_str());
            vm.is_some_and(|vm| vm.status.host.as_ref() != Some(host))
        });
        gone.map(|operation| operation.spec.target.name.clone()).collect::<Vec<_>>()
    });
    // A host that holds one tells of it while its operation releases it.
    releasing.into_iter().chain(held).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Why this VM is not tried to be moved any more.
fn given_up(context: &StepContext, vm: &Vm) -> Option<String> {
    let verb = if vm.status.phase == VmPhase::Stopped { "vm-relocate" } else { "vm-migrate" };
    let moves = children::started(context, verb, &vm.metadata.name);
    let failed: Vec<_> = moves.iter().filter(|one| one.status.phase == OperationPhase::Failed).collect();
    let error = failed.last()?.status.error.as_ref()?;
    // Where there is no room, another try finds none.
    let hopeless = error.class == ErrorClass::Conflict || error.class == ErrorClass::Invalid;
    (hopeless || failed.len() >= TRIES).then(|| error.detail.clone())
}

/// Why it can't be moved, if that is clear at once.
async fn begin_move(context: &StepContext, vm: &Vm) -> Result<Option<String>, Problem> {
    let (request, query) = (MigrateRequest::default(), WriteQuery::default());
    match vm::migrate(&context.app, &caller_of(context), vm.name(), &request, &query).await {
        Ok(_) => Ok(None),
        // Somebody was faster: the next look sees what it is doing.
        Err(problem) if ["vm-busy", "wrong-phase", "not-found"].contains(&problem.code()) => Ok(None),
        Err(problem) if problem.class == ErrorClass::Conflict => Ok(Some(problem.detail)),
        Err(problem) => Err(problem),
    }
}

fn obstacles_problem(host: &Name, obstacles: &[(Name, String)]) -> Problem {
    let told: Vec<_> = obstacles.iter().map(|(vm, reason)| format!("VM '{vm}': {reason}")).collect();
    Problem::conflict("drain-obstacles", format!("host '{host}' can't be emptied: {}", told.join("; ")))
        .remedy("remove what is in the way (make room, change spec.host), or stop these VMs, then do it again")
}

fn progress_of(sight: &Sight) -> Progress {
    let names = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let left = sight.busy.len() + sight.to_move.len() + sight.waiting.len();
    let mut message = format!("{left} VMs left");
    if !sight.busy.is_empty() {
        message += &format!("; at work: {}", names(&sight.busy));
    }
    for (vm, reason) in &sight.obstacles {
        message += &format!("; {vm} can't be moved: {reason}");
    }
    Progress { message, ..Progress::default() }
}
