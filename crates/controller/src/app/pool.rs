//! Pools: create, change, delete. Making one and deleting one are operations, because hosts have a part in it; how a pool
//! is, the loop `pool_keeper` finds out.

use gantry_api::{
    rest::{Changed, WriteQuery},
    storage::PoolAssignment,
};
use gantry_types::{
    Action, Host, HostState, Name, Pool, PoolPhase, PoolSpec, PoolStatus, PoolType, Problem, Resource, Vm, Volume,
};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition, copies};
use crate::{model::Tables, objects::Change, operations::new_operation};

/// A pool as its hosts get it.
pub(crate) fn assignment(pool: &Pool) -> PoolAssignment {
    PoolAssignment {
        uuid: pool.metadata.uuid,
        name: pool.metadata.name.clone(),
        kind: pool.spec.kind,
        path: pool.spec.path.clone(),
        export: pool.spec.url.as_deref().and_then(|url| url.parse().ok()),
    }
}

pub(crate) fn volumes_in<'a>(tables: &'a Tables, pool: &'a Name) -> impl Iterator<Item = &'a Volume> {
    tables.volumes.values().filter(move |volume| volume.spec.pool == *pool).map(|volume| &**volume)
}

/// VMs whose own disk is in the pool, or is to be.
pub(crate) fn vms_in<'a>(tables: &'a Tables, pool: &'a Name) -> impl Iterator<Item = &'a Vm> {
    tables.vms.values().filter(move |vm| vm.spec.pool.as_ref() == Some(pool)).map(|vm| &**vm)
}

/// What its volumes and disks are promised together.
pub(crate) fn promised_bytes(tables: &Tables, pool: &Name) -> u64 {
    let volumes = volumes_in(tables, pool).map(|volume| volume.spec.size.bytes());
    let disks = vms_in(tables, pool).filter_map(|vm| vm.status.disk.or(vm.spec.disk)).map(|size| size.bytes());
    volumes.chain(disks).fold(0, u64::saturating_add)
}

/// Whether several hosts reach the pool that the VM's disk is in, so that it can be on any of them.
pub(crate) fn is_disk_shared(tables: &Tables, vm: &Vm) -> bool {
    let pool = vm.spec.pool.as_ref().and_then(|pool| tables.pools.get(pool.as_str()));
    pool.is_some_and(|pool| pool.is_shared())
}

/// Where the VM's disks can be used besides on its own host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    Nowhere,
    /// On every host of its pool.
    Pool,
    /// On the host that has current copies.
    Copy(Name),
}

pub(crate) fn elsewhere(tables: &Tables, vm: &Vm) -> Elsewhere {
    let other = || vm.status.copies.as_ref()?.other(vm.status.host.as_ref()?).cloned();
    let is_shared = is_disk_shared(tables, vm);
    match copies::is_copied(tables, vm) {
        _ if !is_shared && !is_mirrored(tables, vm) => Elsewhere::Nowhere,
        true => other().map_or(Elsewhere::Nowhere, Elsewhere::Copy),
        false => Elsewhere::Pool,
    }
}

/// Whether the VM's disk is in a pool in which each host has its own.
pub(crate) fn is_mirrored(tables: &Tables, vm: &Vm) -> bool {
    let pool = vm.spec.pool.as_ref().and_then(|pool| tables.pools.get(pool.as_str()));
    pool.is_some_and(|pool| pool.is_mirrored())
}

/// Whether each host has a place of its own for the VM's disk, so that a move to another host copies it.
pub(crate) fn disk_travels(tables: &Tables, vm: &Vm) -> bool {
    vm.spec.pool.is_none() || is_mirrored(tables, vm)
}

/// The VM's disk is its host's alone.
///
/// # Errors
/// `vm-in-pool`.
pub(crate) fn expect_own_disk(vm: &Vm) -> Result<(), Problem> {
    let Some(pool) = &vm.spec.pool else { return Ok(()) };
    let name = vm.name();
    let detail = format!("the disk of VM '{name}' is in pool '{pool}' and stays there while it is stopped");
    Err(Problem::conflict("vm-in-pool", detail)
        .object(vm.reference())
        .remedy(format!("start it, then move it: gantry vm start {name}, gantry vm migrate {name}")))
}

/// Makes a pool of a directory or an export; what its hosts find wrong with that ends the operation and leaves no pool.
pub async fn create(app: &App, caller: &Caller, mut sent: Pool, query: &WriteQuery) -> Result<Changed<Pool>, Problem> {
    caller.may_change()?;
    if is_for_all(&sent) {
        let ready = |host: &std::sync::Arc<Host>| host.status.state == HostState::Ready;
        let hosts = app.model.list::<Host>().into_iter().filter(ready).map(|host| host.metadata.name.clone());
        sent.spec.hosts = hosts.collect();
    }
    if sent.is_local() {
        return Err(Problem::invalid("invalid-pool", format!("pool '{}' can't be made", sent.name()))
            .field("metadata.name", "names that begin with 'local-' are for hosts' own pools"));
    }
    make(app, caller, sent, query).await
}

/// Nobody has mounted it, or all have it, so no hosts need to be named.
fn is_for_all(sent: &Pool) -> bool {
    matches!(sent.spec.kind, PoolType::Nfs | PoolType::Mirrored) && sent.spec.hosts.is_empty()
}

/// The pool that a host has of its own, at this path.
pub(crate) async fn create_local(app: &App, host: &Name, path: &str) -> Result<(), Problem> {
    let Some(name) = Pool::local_name(host) else { return Ok(()) };
    let pool = Pool::new(name, PoolSpec::dir(path, host.clone()));
    make(app, &Caller::controller(), pool, &WriteQuery::default()).await.map(drop)
}

async fn make(app: &App, caller: &Caller, sent: Pool, query: &WriteQuery) -> Result<Changed<Pool>, Problem> {
    check_labels(&sent.metadata)?;
    sent.validate()?;
    // Alone, so that a place does not become two pools that are made at once.
    let _alone = app.references.write().await;
    if app.objects.find::<Pool>(sent.name()).await?.is_some() {
        return Err(already_exists(&sent));
    }
    app.model.read(|tables| check_place(tables, &sent))?;
    let mut pool = Pool::new(sent.metadata.name.clone(), sent.spec.clone());
    pool.metadata.labels = sent.metadata.labels.clone();
    app.stamp(&mut pool.metadata);
    let mut operation = new_operation(app, caller, Action::PoolCreate, &pool, None)?;
    pool.status.operation = Some(operation.metadata.name.clone());
    if !query.dry_run {
        let mut change = Change::new();
        change.create(&pool)?.create(&operation)?;
        let revision = app.commit(change).await?;
        (pool.metadata.revision, operation.metadata.revision) = (revision, revision);
    }
    Ok(Changed { object: pool, operation: Some(operation) })
}

/// Its hosts are there, and the place is no other pool's.
fn check_place(tables: &Tables, pool: &Pool) -> Result<(), Problem> {
    let mut wrong = Problem::invalid("invalid-pool", format!("pool '{}' can't be made", pool.name()));
    for (index, name) in pool.spec.hosts.iter().enumerate() {
        let message = match tables.hosts.get(name.as_str()) {
            None => format!("host '{name}' does not exist; see: gantry host list"),
            Some(host) if host.status.state != HostState::Ready => {
                format!(
                    "host '{name}' does not answer, so nobody can look at the directory; see: gantry host show {name}"
                )
            }
            Some(_) => continue,
        };
        wrong = wrong.field(format!("spec.hosts[{index}]"), message);
    }
    let overlaps = |other: &&std::sync::Arc<Pool>| {
        // An export is the same place from wherever it is seen.
        let same_place = pool.spec.url.is_some() || other.spec.hosts.iter().any(|host| pool.is_at(host));
        same_place && is_inside(other.spec.place(), pool.spec.place())
    };
    if let Some(other) = tables.pools.values().find(overlaps) {
        let message = format!("pool '{}' is at {}: choose a directory beside it", other.name(), other.spec.place());
        wrong = wrong.field(if pool.spec.url.is_some() { "spec.url" } else { "spec.path" }, message);
    }
    if wrong.fields.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Whether one of two directories is in the other.
fn is_inside(one: &str, other: &str) -> bool {
    let below =
        |path: &str, above: &str| path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    below(one, other) || below(other, one)
}

/// Creates it, or changes its labels and limits.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Pool,
    query: &WriteQuery,
) -> Result<Changed<Pool>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    let found = app.objects.find::<Pool>(name).await?;
    let mut sent = sent;
    match &found {
        // It keeps those that there were.
        Some(found) if is_for_all(&sent) => sent.spec.hosts.clone_from(&found.spec.hosts),
        None if is_for_all(&sent) => return create(app, caller, sent, query).await,
        _ => {}
    }
    sent.validate()?;
    if found.is_none() && query.revision.is_none() && sent.metadata.revision == 0 {
        return create(app, caller, sent, query).await;
    }
    app.objects
        .racing(|| async {
            let current: Pool = app.objects.get(name).await?;
            check_precondition(&current, &sent.metadata, query)?;
            check_fixed(&current, &sent)?;
            let mut pool = current.clone();
            pool.spec = sent.spec.clone();
            pool.metadata.labels = sent.metadata.labels.clone();
            if pool != current && !query.dry_run {
                let mut change = Change::new();
                change.update(&pool)?;
                pool.metadata.revision = app.commit(change).await?;
            }
            Ok(Changed { object: app.model.decorate(&pool), operation: None })
        })
        .await
}

fn check_fixed(current: &Pool, sent: &Pool) -> Result<(), Problem> {
    let (old, new) = (&current.spec, &sent.spec);
    let mut wrong = Problem::invalid("unchangeable", format!("pool '{}' can't be changed like this", current.name()))
        .object(current.reference())
        .remedy("make another pool");
    for (field, changed) in [
        ("spec.type", old.kind != new.kind),
        ("spec.path", old.path != new.path),
        ("spec.url", old.url != new.url),
        ("spec.hosts", old.hosts != new.hosts),
    ] {
        if changed {
            wrong = wrong.field(field, "is fixed when the pool is made");
        }
    }
    if wrong.fields.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Refused while there are volumes in it. What else is in the directory stays.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<Changed<Pool>, Problem> {
    caller.may_change()?;
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let current: Pool = app.objects.get(name).await?;
            check_precondition(&current, &current.metadata, query)?;
            if current.is_local() {
                let detail = format!("pool '{name}' is host '{}' own place for disks", shown(&current.spec.hosts));
                return Err(Problem::conflict("pool-of-host", detail)
                    .object(current.reference())
                    .remedy("it goes with its host: gantry host delete"));
            }
            expect_idle(&current)?;
            let users = app.model.read(|tables| {
                let volumes =
                    volumes_in(tables, &current.metadata.name).map(|volume| format!("volume '{}'", volume.name()));
                let vms = vms_in(tables, &current.metadata.name).map(|vm| format!("VM '{}'", vm.name()));
                volumes.chain(vms).collect::<Vec<_>>()
            });
            if !users.is_empty() {
                return Err(Problem::conflict("pool-in-use", format!("pool '{name}' is used by {}", users.join(", ")))
                    .object(current.reference())
                    .remedy("delete these first"));
            }
            let mut pool = current.clone();
            let mut operation = new_operation(app, caller, Action::PoolDelete, &pool, None)?;
            pool.status.phase = PoolPhase::Deleting;
            pool.status.operation = Some(operation.metadata.name.clone());
            if !query.dry_run {
                let mut change = Change::new();
                change.update(&pool)?.create(&operation)?;
                let revision = app.commit(change).await?;
                (pool.metadata.revision, operation.metadata.revision) = (revision, revision);
            }
            Ok(Changed { object: pool, operation: Some(operation) })
        })
        .await
}

fn shown(hosts: &[Name]) -> String {
    hosts.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// # Errors
/// `pool-busy` while an operation is at work on it.
fn expect_idle(pool: &Pool) -> Result<(), Problem> {
    let Some(operation) = &pool.status.operation else { return Ok(()) };
    Err(Problem::conflict("pool-busy", format!("pool '{}' is busy: operation '{operation}' is at work", pool.name()))
        .object(pool.reference())
        .remedy(format!("wait for it: gantry operation wait {operation}")))
}

/// What a host's deletion takes along: its own pool, and those that only it reaches. Others it leaves.
///
/// # Errors
/// `host-in-use`, naming volumes that would be lost.
pub(crate) fn leave_with(tables: &Tables, host: &Host, change: &mut Change) -> Result<(), Problem> {
    let its = tables.pools.values().filter(|pool| pool.is_at(&host.metadata.name));
    for pool in its {
        let is_last = pool.spec.hosts.len() == 1;
        let is_only_there = |volume: &&Volume| {
            let copies = copies::of_volume(tables, volume).filter(|_| pool.is_mirrored());
            is_last || copies.is_some_and(|copies| copies.other(&host.metadata.name).is_none())
        };
        let volumes: Vec<_> =
            volumes_in(tables, &pool.metadata.name).filter(is_only_there).map(Resource::name).collect();
        if !volumes.is_empty() {
            let detail =
                format!("host '{}' has volumes in pool '{}': {}", host.name(), pool.name(), volumes.join(", "));
            return Err(Problem::conflict("host-in-use", detail).object(host.reference()).remedy("delete them first"));
        }
        expect_idle(pool)?;
        if !is_last {
            let mut left = (**pool).clone();
            left.spec.hosts.retain(|other| *other != host.metadata.name);
            change.update(&left)?;
            continue;
        }
        change.delete(&**pool);
    }
    Ok(())
}

/// A host that answers and has one of these volumes, or places for them, as well as the other.
///
/// # Errors
/// `pool-not-reached` if there is none.
pub(crate) fn common_host(app: &App, one: Reach, other: Reach) -> Result<Name, Problem> {
    let answers = |host: &&Name| {
        let host = app.model.get::<Host>(host.as_str());
        host.is_some_and(|host| host.status.state == HostState::Ready)
    };
    let found = one.hosts.iter().filter(|host| other.hosts.contains(host)).find(answers);
    found.cloned().ok_or_else(|| {
        let (one, other) = (one.pool, other.pool);
        let detail = format!("no host that answers reaches both pool '{}' and pool '{}'", one.name(), other.name());
        Problem::conflict("pool-not-reached", detail)
            .object(other.reference())
            .remedy("choose a pool of the same host: gantry pool list")
    })
}

/// The hosts that can read and write something in a pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach<'a> {
    pool: &'a Pool,
    hosts: &'a [Name],
}

impl<'a> Reach<'a> {
    /// Any new volume.
    pub fn of(pool: &'a Pool) -> Self {
        Self { pool, hosts: &pool.spec.hosts }
    }
    /// This volume: only one host has it as its own in a mirrored pool, if it was made there.
    pub fn of_volume(pool: &'a Pool, volume: &'a Volume) -> Self {
        let owner = volume.status.copies.as_ref().and_then(|copies| copies.owner()).filter(|_| pool.is_mirrored());
        Self { pool, hosts: owner.map_or(&pool.spec.hosts, std::slice::from_ref) }
    }
}

/// A pool that takes volumes and VMs' own disks.
pub(crate) fn find_ready(tables: &Tables, name: &Name) -> Result<std::sync::Arc<Pool>, String> {
    match tables.pools.get(name.as_str()) {
        None => Err(format!("pool '{name}' does not exist; see: gantry pool list")),
        Some(pool) if pool.status.phase != PoolPhase::Ready => Err(format!("pool '{name}' is not ready")),
        Some(pool) => Ok(std::sync::Arc::clone(pool)),
    }
}

/// Whether volumes of so many bytes more may be promised.
pub(crate) fn check_promise(app: &App, pool: &Pool, more_bytes: u64) -> Result<(), String> {
    let PoolStatus { space, .. } = app.model.decorate(pool).status;
    let Some(space) = space else { return Ok(()) };
    let limit = u128::from(space.capacity.bytes()) * u128::from(pool.spec.overcommit_percent) / 100;
    let promised = app.model.read(|tables| promised_bytes(tables, &pool.metadata.name));
    if u128::from(promised) + u128::from(more_bytes) <= limit {
        return Ok(());
    }
    Err(format!(
        "pool '{}' has {} and may promise {} % of it; {} are promised already: use another pool, or let it promise more \
         (gantry pool set {0} --overcommit PERCENT)",
        pool.name(),
        space.capacity.approximate(),
        pool.spec.overcommit_percent,
        gantry_types::ByteSize(promised).approximate(),
    ))
}
