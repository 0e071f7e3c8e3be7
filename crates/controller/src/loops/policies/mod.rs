//! What clusters do by themselves: each policy is looked at as often as it says, and gives recommendations. In mode
//! `advise` they are only written into its status; in mode `automatic` they are carried out, as operations asked for by
//! `policy/NAME`, so that everybody sees who did it and why.
//!
//! Nothing is remembered between passes but when each policy was last looked at: what is under way, what moved lately and
//! what woke lately is read from operations and hosts, so a controller that starts goes on with the same restraint.

mod balance;
mod power;
mod schedule;
mod storage;

use std::{collections::HashMap, sync::Arc, time::Duration};

use gantry_api::rest::{MigrateRequest, MigrateVolumeRequest, WriteQuery};
use gantry_types::{
    Action, Advice, ErrorClass, Name, Operation, Policy, PolicyMode, PolicySpec, PolicyStatus, Problem, Recommendation,
    Resource, Severity,
};
use power::lead;
use uuid::Uuid;

use super::woken;
use crate::{
    app::{App, Caller, host_work, vm, volume},
    objects::Change,
};

const TICK: Duration = Duration::from_secs(1);
/// How often it is looked at what VMs use.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

pub async fn run(app: Arc<App>) {
    let mut looked: HashMap<Uuid, (u64, Duration)> = HashMap::new();
    let mut sampled = Duration::ZERO;
    loop {
        woken(&app, &app.wakeups.policies, TICK).await;
        let now = app.clock.elapsed();
        if now.saturating_sub(sampled) >= SAMPLE_INTERVAL {
            app.sample_demands();
            sampled = now;
        }
        let policies = app.model.list::<Policy>();
        looked.retain(|uuid, _| policies.iter().any(|policy| policy.metadata.uuid == *uuid));
        for policy in policies {
            // Its own status is written by each look that finds something new; only its spec makes it look early.
            let spec = fingerprint(&policy);
            let last = looked.get(&policy.metadata.uuid);
            if last.is_some_and(|(known, at)| *known == spec && now.saturating_sub(*at) < interval(&policy)) {
                continue;
            }
            looked.insert(policy.metadata.uuid, (spec, now));
            if let Err(problem) = pass(&app, &policy).await {
                tracing::warn!(policy = policy.name(), %problem, "the policy is looked at again later");
            }
        }
    }
}

fn fingerprint(policy: &Policy) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&policy.spec).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

fn interval(policy: &Policy) -> Duration {
    let spec = &policy.spec;
    let balance = spec.balance.as_ref().map(|rule| rule.interval_s);
    let storage = spec.storage.as_ref().map(|rule| rule.interval_s);
    let seconds = balance.or(storage).or(spec.power.as_ref().map(|rule| rule.interval_s)).unwrap_or(5);
    Duration::from_secs(u64::from(seconds))
}

/// What a policy found.
#[derive(Debug, Default)]
struct Findings {
    finding: String,
    recommendations: Vec<Recommendation>,
    /// How many more of them may be begun now.
    may_begin: usize,
}

/// One look: recommend, write down, and in mode `automatic` act.
pub async fn pass(app: &App, policy: &Policy) -> Result<(), Problem> {
    let found = match policy.spec.mode() {
        PolicyMode::Off => Findings::default(),
        _ => match &policy.spec {
            PolicySpec { balance: Some(rule), .. } => balance::look(app, policy, rule),
            PolicySpec { storage: Some(rule), .. } => storage::look(app, policy, rule),
            PolicySpec { power: Some(rule), .. } => power::look(app, policy, rule),
            PolicySpec { schedule: Some(rule), .. } => schedule::look(app, policy, rule),
            _ => Findings::default(),
        },
    };
    write_down(app, policy, &found).await?;
    if policy.spec.mode() == PolicyMode::Automatic {
        for recommendation in found.recommendations.iter().take(found.may_begin) {
            if let Err(problem) = act(app, policy, recommendation).await {
                tracing::info!(policy = policy.name(), %problem, "not done: {}", recommendation.advice);
            }
        }
    }
    Ok(())
}

async fn write_down(app: &App, policy: &Policy, found: &Findings) -> Result<(), Problem> {
    let status = PolicyStatus { finding: found.finding.clone(), recommendations: found.recommendations.clone() };
    if same(&status, &policy.status) {
        return Ok(());
    }
    app.objects
        .racing(|| async {
            let Some(mut policy) = app.objects.find::<Policy>(policy.name()).await? else { return Ok(()) };
            policy.status = status.clone();
            let mut change = Change::new();
            change.update(&policy)?;
            app.commit(change).await?;
            Ok(())
        })
        .await
}

/// Figures that wander a little are no news.
fn same(new: &PolicyStatus, old: &PolicyStatus) -> bool {
    let ids = |status: &PolicyStatus| status.recommendations.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    ids(new) == ids(old) && new.finding == old.finding
}

/// Begins what is recommended.
async fn act(app: &App, policy: &Policy, recommendation: &Recommendation) -> Result<(), Problem> {
    let caller = Caller::policy(&policy.metadata.name);
    let Some(operation) = begin(app, &caller, recommendation).await? else { return Ok(()) };
    let message = format!("{}: {} (operation {})", recommendation.advice, recommendation.reason, operation.name());
    let mut event = app.event(policy.reference(), Severity::Normal, "PolicyActed", message);
    event.spec.operation = Some(operation.metadata.name);
    let mut change = Change::new();
    change.event(&event)?;
    app.commit(change).await.map(drop)
}

/// Carries one recommendation out; nothing if it is so already.
pub(crate) async fn begin(
    app: &App,
    caller: &Caller,
    recommendation: &Recommendation,
) -> Result<Option<Operation>, Problem> {
    let query = WriteQuery::default();
    Ok(match &recommendation.advice {
        Advice::Move { vm, to, .. } => {
            let request = MigrateRequest { to: Some(to.clone()), ..MigrateRequest::default() };
            vm::migrate(app, caller, vm.as_str(), &request, &query).await?.operation
        }
        Advice::MoveVolume { volume, to, .. } => {
            let request = MigrateVolumeRequest { to: to.clone() };
            volume::migrate(app, caller, volume.as_str(), &request, &query).await?.operation
        }
        Advice::Sleep { host } => host_work::sleep(app, caller, host.as_str(), &query).await?.operation,
        Advice::Wake { host } => host_work::wake(app, caller, host.as_str(), &query).await?.operation,
    })
}

/// The same while the same is recommended.
fn recommendation(advice: Advice, reason: String, benefit: f64, cost: f64) -> Recommendation {
    let id = match &advice {
        Advice::Move { vm, to, .. } => format!("{vm}-to-{to}"),
        Advice::MoveVolume { volume, to, .. } => format!("{volume}-to-{to}"),
        Advice::Sleep { host } => format!("sleep-{host}"),
        Advice::Wake { host } => format!("wake-{host}"),
    };
    Recommendation { id, advice, reason, benefit, cost }
}

/// A VM's move that has ended lately.
struct PastMove {
    vm: Uuid,
    from: Name,
    age_s: u64,
}

/// Moves of the last `within_s` seconds, whoever asked for them, also those that failed.
fn past_moves(app: &App, within_s: u64) -> Vec<PastMove> {
    let now = app.clock.now();
    app.model.read(|tables| {
        let moves = tables.operations.values().filter(|it| matches!(it.spec.action, Action::VmMigrate { .. }));
        let past = moves.filter_map(|operation| {
            let age_s = now.since(operation.status.finished_at?).as_secs();
            let here = tables.vms.get(operation.spec.target.name.as_str())?.status.host.clone()?;
            let figures = operation.status.figures.as_ref();
            let from = figures.and_then(|figures| figures.from.parse().ok()).unwrap_or(here);
            (age_s <= within_s).then_some(PastMove { vm: operation.spec.target.uuid, from, age_s })
        });
        past.collect()
    })
}

/// Moves under way, by host at either end.
fn busy_hosts(app: &App) -> std::collections::BTreeMap<Name, u32> {
    let mut busy = std::collections::BTreeMap::new();
    app.model.read(|tables| {
        let moving = |operation: &Operation| {
            matches!(operation.spec.action, Action::VmMigrate { .. }) && !operation.status.phase.is_finished()
        };
        for operation in tables.operations.values().filter(|operation| moving(operation)) {
            let Some(vm) = tables.vms.get(operation.spec.target.name.as_str()) else { continue };
            for host in [&vm.status.host, &vm.status.moving_to].into_iter().flatten() {
                *busy.entry(host.clone()).or_insert(0) += 1;
            }
        }
    });
    busy
}

/// How many operations this policy has under way.
fn under_way(app: &App, policy: &Policy) -> usize {
    let caller = Caller::policy(&policy.metadata.name).name;
    app.model.read(|tables| {
        let ours = tables.operations.values().filter(|operation| operation.spec.requested_by == caller);
        ours.filter(|operation| !operation.status.phase.is_finished()).count()
    })
}

/// Carries out one recommendation of a policy by hand.
pub async fn apply(app: &App, caller: &Caller, name: &str, id: &str) -> Result<Operation, Problem> {
    caller.may_change()?;
    let policy = app.model.get::<Policy>(name).ok_or_else(|| Problem::not_found(Policy::KIND, name))?;
    let recommended = policy.status.recommendations.iter().find(|recommended| recommended.id == id);
    let Some(recommended) = recommended else {
        let known: Vec<_> = policy.status.recommendations.iter().map(|one| one.id.as_str()).collect();
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        let detail = format!("policy '{name}' does not recommend '{id}'; it recommends {known}");
        return Err(Problem::new(ErrorClass::NotFound, "not-recommended", detail)
            .object(policy.reference())
            .remedy(format!("see what it recommends now: gantry policy show {name}")));
    };
    begin(app, caller, recommended).await?.ok_or_else(|| {
        Problem::conflict("nothing-to-do", format!("nothing is left to do of '{id}': {}", recommended.advice))
            .object(policy.reference())
    })
}
