//! Clusters: create, change, delete. `main` is made with the controller's first start and stays.

use std::sync::Arc;

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{
    Action, Cluster, ClusterSpec, Host, HostUpdate, MAIN_CLUSTER, Name, Policy, Problem, Resource, ResourcePool,
    Severity,
};

use super::{App, Caller, already_exists, check_labels, check_name, check_precondition};
use crate::{
    clock::Clock,
    model::Tables,
    objects::{CHANGED_MEANWHILE, Change, Objects},
    operations::new_operation,
};

/// Makes `main` if it is not there.
pub async fn ensure_main(objects: &Objects, clock: &dyn Clock) -> Result<(), Problem> {
    if objects.find::<Cluster>(MAIN_CLUSTER).await?.is_some() {
        return Ok(());
    }
    let name: Name = MAIN_CLUSTER.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut main = Cluster::new(name, ClusterSpec::default());
    main.metadata.uuid = clock.new_uuid();
    main.metadata.created_at = Some(clock.now());
    let mut change = Change::new();
    change.create(&main)?;
    match objects.commit(change).await {
        // Somebody made it in between.
        Err(problem) if problem.code() == CHANGED_MEANWHILE => Ok(()),
        committed => committed.map(drop),
    }
}

/// The cluster's hosts, by name.
pub(crate) fn hosts_of<'a>(tables: &'a Tables, cluster: &'a Name) -> impl Iterator<Item = &'a Arc<Host>> {
    tables.hosts.values().filter(move |host| host.spec.cluster == *cluster)
}

/// # Errors
/// `invalid-…` with the field, if there is no such cluster. The caller holds `App::references`.
pub(crate) fn check_reference(app: &App, cluster: &Name, problem: Problem) -> Result<(), Problem> {
    if cluster.as_str() == MAIN_CLUSTER || app.model.get::<Cluster>(cluster.as_str()).is_some() {
        return Ok(());
    }
    Err(problem.field("spec.cluster", format!("cluster '{cluster}' does not exist; see: gantry cluster list")))
}

fn check_spec(cluster: &Cluster) -> Result<(), Problem> {
    let terms: Vec<&str> = gantry_placement::terms().iter().map(|term| term.name).collect();
    cluster.spec.validate(&terms)
}

pub async fn create(
    app: &App,
    caller: &Caller,
    sent: Cluster,
    query: &WriteQuery,
) -> Result<Changed<Cluster>, Problem> {
    caller.may_change()?;
    check_labels(&sent.metadata)?;
    check_spec(&sent)?;
    let mut cluster = Cluster::new(sent.metadata.name.clone(), sent.spec.clone());
    cluster.metadata.labels = sent.metadata.labels.clone();
    app.stamp(&mut cluster.metadata);
    if app.objects.find::<Cluster>(cluster.name()).await?.is_some() {
        return Err(already_exists(&cluster));
    }
    if !query.dry_run {
        let mut change = Change::new();
        change.create(&cluster)?.event(&app.event(
            cluster.reference(),
            Severity::Normal,
            "ClusterCreated",
            format!("{} created cluster '{}'", caller.name, cluster.name()),
        ))?;
        cluster.metadata.revision = app.commit(change).await?;
    }
    Ok(Changed { object: cluster, operation: None })
}

/// Creates the cluster or changes it to what is sent.
pub async fn put(
    app: &App,
    caller: &Caller,
    name: &str,
    sent: Cluster,
    query: &WriteQuery,
) -> Result<Changed<Cluster>, Problem> {
    caller.may_change()?;
    check_name(name, &sent)?;
    check_labels(&sent.metadata)?;
    check_spec(&sent)?;
    app.objects
        .racing(|| async {
            let Some(current) = app.objects.find::<Cluster>(name).await? else {
                if query.revision.is_some() || sent.metadata.revision != 0 {
                    return Err(Problem::not_found(Cluster::KIND, name));
                }
                return create(app, caller, sent.clone(), query).await;
            };
            check_precondition(&current, &sent.metadata, query)?;
            let mut cluster = current.clone();
            cluster.spec = sent.spec.clone();
            cluster.metadata.labels = sent.metadata.labels.clone();
            if cluster != current && !query.dry_run {
                let mut change = Change::new();
                change.update(&cluster)?;
                cluster.metadata.revision = app.commit(change).await?;
            }
            Ok(Changed { object: cluster, operation: None })
        })
        .await
}

/// Updates every host of the cluster in turn.
pub async fn update(
    app: &App,
    caller: &Caller,
    name: &str,
    method: HostUpdate,
    query: &WriteQuery,
) -> Result<Changed<Cluster>, Problem> {
    caller.may_change()?;
    app.objects
        .racing(|| async {
            let mut cluster: Cluster = app.objects.get(name).await?;
            check_precondition(&cluster, &cluster.metadata, query)?;
            if let Some(operation) = &cluster.status.operation {
                let detail = format!("cluster '{name}' is busy: operation '{operation}' is at work on it");
                return Err(Problem::conflict("cluster-busy", detail)
                    .object(cluster.reference())
                    .remedy(format!("wait for it, or stop it: gantry operation cancel {operation}")));
            }
            if method == HostUpdate::Reboot {
                let hosts: Vec<_> =
                    app.model.read(|tables| hosts_of(tables, &cluster.metadata.name).cloned().collect());
                hosts.iter().try_for_each(|host| app.power.of(host).map(drop))?;
            }
            let mut operation = new_operation(app, caller, Action::ClusterUpdate { method }, &cluster, None)?;
            cluster.status.operation = Some(operation.metadata.name.clone());
            if !query.dry_run {
                let mut change = Change::new();
                change.update(&cluster)?.create(&operation)?;
                let revision = app.commit(change).await?;
                cluster.metadata.revision = revision;
                operation.metadata.revision = revision;
            }
            Ok(Changed { object: cluster, operation: Some(operation) })
        })
        .await
}

/// Only a cluster without hosts and policies, and never `main`.
pub async fn delete(app: &App, caller: &Caller, name: &str, query: &WriteQuery) -> Result<(), Problem> {
    caller.may_change()?;
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let cluster: Cluster = app.objects.get(name).await?;
            check_precondition(&cluster, &cluster.metadata, query)?;
            expect_unused(app, &cluster)?;
            if query.dry_run {
                return Ok(());
            }
            let mut change = Change::new();
            change.delete(&cluster).event(&app.event(
                cluster.reference(),
                Severity::Normal,
                "ClusterDeleted",
                format!("{} deleted cluster '{name}'", caller.name),
            ))?;
            app.commit(change).await?;
            Ok(())
        })
        .await
}

fn expect_unused(app: &App, cluster: &Cluster) -> Result<(), Problem> {
    let name = &cluster.metadata.name;
    let refused = |detail: String| Problem::conflict("cluster-in-use", detail).object(cluster.reference());
    if let Some(operation) = &cluster.status.operation {
        return Err(refused(format!("operation '{operation}' is at work on cluster '{name}'"))
            .remedy(format!("wait for it, or stop it: gantry operation cancel {operation}")));
    }
    if name.as_str() == MAIN_CLUSTER {
        return Err(refused("cluster 'main' can't be deleted: hosts that name no cluster belong to it".to_owned())
            .remedy("change it instead: gantry cluster set main"));
    }
    let (hosts, policies, pools) = app.model.read(|tables| {
        let hosts: Vec<_> = hosts_of(tables, name).map(|host| host.name().to_owned()).collect();
        let policies = tables.policies.values().filter(|policy: &&Arc<Policy>| policy.spec.cluster == *name);
        let pools = tables.resource_pools.values().filter(|pool: &&Arc<ResourcePool>| pool.spec.cluster == *name);
        let pools = pools.map(|pool| pool.name().to_owned()).collect::<Vec<_>>();
        (hosts, policies.map(|policy| policy.name().to_owned()).collect::<Vec<_>>(), pools)
    });
    let mut users = Vec::new();
    if !hosts.is_empty() {
        users.push(format!("hosts {}", hosts.join(", ")));
    }
    if !policies.is_empty() {
        users.push(format!("policies {}", policies.join(", ")));
    }
    if !pools.is_empty() {
        users.push(format!("resource pools {}", pools.join(", ")));
    }
    if users.is_empty() {
        return Ok(());
    }
    Err(refused(format!("cluster '{name}' is used by {}", users.join(" and ")))
        .remedy("give its hosts another cluster (gantry host set NAME --cluster main) and delete its policies and resource pools first"))
}
