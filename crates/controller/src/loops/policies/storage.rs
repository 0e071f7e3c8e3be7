//! Balance between pools: volumes leave pools that run full, or whose devices are busy, for others of the same class.

use std::collections::BTreeMap;

use gantry_placement::storage::{Pool as PoolFacts, Settings, Volume as VolumeFacts, propose};
use gantry_types::{
    Action, Advice, ByteSize, Host, Name, Operation, Policy, Pool, PoolHealth, PoolPhase, StoragePolicy, Vm, Volume,
    VolumePhase,
};
use uuid::Uuid;

use super::{Findings, recommendation, under_way};
use crate::{
    app::{App, snapshot},
    model::{Overlay, Tables},
};

/// The pools' label that says which are as good as each other. A pool without it is left alone.
pub const CLASS: &str = "class";
/// Of a limit that is set: the pool that takes a volume stays so far below it.
const MARGIN: f64 = 0.1;

pub(super) fn look(app: &App, policy: &Policy, rule: &StoragePolicy) -> Findings {
    let limit = f64::from(rule.limit_percent) / 100.0;
    let settings = Settings {
        limit,
        margin: MARGIN.min(limit / 2.0),
        hold_down_s: u64::from(rule.hold_down_s),
        max_moves: rule.max_moves as usize,
        ..Settings::default()
    };
    let (pools, volumes) = facts(app, &policy.spec.cluster);
    let recommendations: Vec<_> = propose(&pools, &volumes, &settings)
        .into_iter()
        .map(|planned| {
            let gib = planned.bytes as f64 / ByteSize::gib(1).bytes() as f64;
            let reason = format!("{}; {} are copied", planned.reason, ByteSize(planned.bytes).approximate());
            let advice = Advice::MoveVolume { volume: planned.name, from: planned.from, to: planned.to };
            recommendation(advice, reason, gib, gib)
        })
        .collect();
    let finding = match (recommendations.len(), pressed(&pools, limit)) {
        (0, None) => format!("no pool with a class is more than {} % full or busy", rule.limit_percent),
        (0, Some(pool)) => {
            format!("pool {pool} is under pressure, but none of its volumes can go to another of its class")
        }
        (moves, _) => format!("{moves} moves would take pressure off pools"),
    };
    let may_begin = (rule.max_moves as usize).saturating_sub(under_way(app, policy));
    Findings { finding, recommendations, may_begin }
}

fn pressed(pools: &[PoolFacts], limit: f64) -> Option<&Name> {
    pools.iter().find(|pool| pool.strain() > limit).map(|pool| &pool.name)
}

/// The cluster's pools that have a class, and what is in them, as measured last.
fn facts(app: &App, cluster: &Name) -> (Vec<PoolFacts>, Vec<VolumeFacts>) {
    let now = app.clock.now();
    let (pools, moves, volumes) = app.model.read(|tables| {
        let pools: Vec<_> = tables.pools.values().filter(|pool| takes_part(tables, cluster, pool)).cloned().collect();
        let moves: Vec<_> = tables.operations.values().filter(|it| is_move(it)).cloned().collect();
        let ours = |volume: &Volume| pools.iter().any(|pool| pool.metadata.name == volume.spec.pool);
        let volumes: Vec<_> = tables.volumes.values().filter(|volume| ours(volume)).cloned().collect();
        (pools, moves, volumes)
    });
    let mut moving: BTreeMap<&Name, u32> = BTreeMap::new();
    let mut moved_s_ago: BTreeMap<Uuid, u64> = BTreeMap::new();
    for operation in &moves {
        let target = operation.spec.target.uuid;
        let ends = match &operation.spec.action {
            Action::VolumeMigrate { to } => {
                volumes.iter().find(|it| it.metadata.uuid == target).map(|it| [&it.spec.pool, to])
            }
            _ => None,
        };
        match operation.status.finished_at {
            None => ends.into_iter().flatten().for_each(|pool| *moving.entry(pool).or_default() += 1),
            // One that failed is not tried again at once either.
            Some(at) => {
                let ago = now.since(at).as_secs();
                moved_s_ago.entry(target).and_modify(|known| *known = ago.min(*known)).or_insert(ago);
            }
        }
    }
    let pool_facts = pools.iter().filter_map(|pool| {
        let shown = app.model.decorate(&**pool).status;
        let space = shown.space?;
        Some(PoolFacts {
            name: pool.metadata.name.clone(),
            class: pool.metadata.labels.get(CLASS)?.to_owned(),
            capacity: space.capacity,
            used: ByteSize(space.capacity.bytes().saturating_sub(space.free.bytes())),
            busy: f64::from(shown.busy_percent.unwrap_or_default()) / 100.0,
            moving: moving.get(&pool.metadata.name).copied().unwrap_or_default(),
        })
    });
    let pool_facts: Vec<_> = pool_facts.collect();
    let rates = app.model.overlay(rates);
    let rate = |volume: &Volume| rates.get(&volume.metadata.uuid).copied().unwrap_or_default();
    let mut rates_of_pools: BTreeMap<&Name, u64> = BTreeMap::new();
    for volume in &volumes {
        *rates_of_pools.entry(&volume.spec.pool).or_default() += rate(volume);
    }
    let volume_facts = volumes.iter().map(|volume| {
        let uuid = volume.metadata.uuid;
        let used = app.model.overlay(|overlay| overlay.volumes.get(&uuid).copied().unwrap_or_default());
        let all = rates_of_pools.get(&volume.spec.pool).copied().unwrap_or_default();
        let pool_busy = pool_facts.iter().find(|pool| pool.name == volume.spec.pool).map_or(0.0, |pool| pool.busy);
        VolumeFacts {
            uuid,
            name: volume.metadata.name.clone(),
            pool: volume.spec.pool.clone(),
            used,
            busy: pool_busy * rate(volume) as f64 / all.max(1) as f64,
            obstacle: obstacle(app, volume),
            moved_s_ago: moved_s_ago.get(&uuid).copied(),
            reachable: reachable(app, volume, &pools),
        }
    });
    let volume_facts: Vec<_> = volume_facts.collect();
    (pool_facts, volume_facts)
}

/// Bytes a second that guests read and write, by volume.
fn rates(overlay: &Overlay) -> BTreeMap<Uuid, u64> {
    let mut rates = BTreeMap::new();
    for report in overlay.hosts.values().flat_map(|host| &host.pools).flat_map(|pool| &pool.volumes) {
        *rates.entry(report.volume).or_default() += report.io_bytes_per_s;
    }
    rates
}

fn takes_part(tables: &Tables, cluster: &Name, pool: &Pool) -> bool {
    let of_cluster = |host: &Name| {
        tables.hosts.get(host.as_str()).is_some_and(|host: &std::sync::Arc<Host>| host.spec.cluster == *cluster)
    };
    let sound = matches!(pool.status.health, PoolHealth::Healthy | PoolHealth::NearlyFull | PoolHealth::Full);
    pool.metadata.labels.0.contains_key(CLASS)
        && pool.status.phase == PoolPhase::Ready
        && sound
        && pool.spec.hosts.iter().any(of_cluster)
}

fn is_move(operation: &Operation) -> bool {
    matches!(operation.spec.action, Action::VolumeMigrate { .. })
}

fn obstacle(app: &App, volume: &Volume) -> Option<String> {
    let holding = app.model.read(|tables| snapshot::holding(tables, volume));
    match &volume.status.operation {
        Some(operation) => Some(format!("operation '{operation}' is at work on it")),
        None if !holding.is_empty() => Some(format!("it is part of snapshots: {}", holding.join(", "))),
        None => match volume.status.phase {
            VolumePhase::Ready | VolumePhase::Attached => None,
            phase => Some(format!("it is {phase}")),
        },
    }
}

/// Pools to which it could go: its VM's host reaches them, or a host that reaches its own.
fn reachable(app: &App, volume: &Volume, pools: &[std::sync::Arc<Pool>]) -> Vec<Name> {
    let vm = volume.status.vm.as_ref().and_then(|vm| app.model.get::<Vm>(vm.as_str()));
    let own = pools.iter().find(|pool| pool.metadata.name == volume.spec.pool);
    let hosts: Vec<Name> = match vm {
        Some(vm) => vm.status.host.clone().into_iter().collect(),
        None => own.map(|pool| pool.spec.hosts.clone()).unwrap_or_default(),
    };
    let reached = pools.iter().filter(|pool| hosts.iter().any(|host| pool.is_at(host)));
    reached.map(|pool| pool.metadata.name.clone()).collect()
}
