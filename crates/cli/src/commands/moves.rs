//! `gantry vm migrate`: a VM to another host, its own disk to another pool, or both.

use gantry_api::rest::MigrateRequest;
use gantry_types::{ErrorClass, Name, Problem, Vm};

use super::{Session, announce, carry_out, vms::latest};
use crate::{
    args::{FollowOptions, VmMigrate},
    client::Client,
    exit::Failure,
    follow::figures_text,
    output::print,
};

/// What a VM's own disk is called among the volumes: VM-root.
const OWN_DISK: &str = "-root";

pub async fn migrate(session: &Session, mut arguments: VmMigrate) -> Result<(), Failure> {
    let client = session.client()?;
    let Some(pool) = arguments.pool.take() else { return migrate_vm(session, &client, arguments).await };
    let vm: Vm = client.get(&arguments.name).await?;
    if arguments.to.is_none() || arguments.to == vm.status.host {
        return move_disk(session, &client, &arguments.name, pool, arguments.follow).await;
    }
    if arguments.follow.no_wait {
        let detail = "--to and --pool together are two operations, the second after the first";
        return Err(Problem::invalid("invalid-request", detail)
            .remedy("leave --no-wait out, or give one of them first and the other one afterwards")
            .into());
    }
    // Where both hosts reach the pool, the disk goes first: then the VM moves without it.
    let follow = arguments.follow;
    let name = arguments.name.clone();
    match move_disk(session, &client, &name, pool.clone(), follow).await {
        Err(Failure::Problem(problem)) if problem.code() == "pool-not-reached" => {
            migrate_vm(session, &client, arguments).await?;
            move_disk(session, &client, &name, pool, follow).await
        }
        Ok(()) => migrate_vm(session, &client, arguments).await,
        failed => failed,
    }
}

async fn migrate_vm(session: &Session, client: &Client, arguments: VmMigrate) -> Result<(), Failure> {
    let own_policy =
        arguments.post_copy.is_some() || arguments.max_downtime_ms.is_some() || arguments.bandwidth.is_some();
    let policy = if own_policy {
        let mut policy = client.get::<Vm>(&arguments.name).await?.spec.migration;
        policy.post_copy = arguments.post_copy.map_or(policy.post_copy, Into::into);
        policy.max_downtime_ms = arguments.max_downtime_ms.unwrap_or(policy.max_downtime_ms);
        policy.bandwidth_mib_per_s = arguments.bandwidth.unwrap_or(policy.bandwidth_mib_per_s);
        Some(policy)
    } else {
        None
    };
    let request = MigrateRequest { to: arguments.to, pool: None, policy };
    let changed = client.migrate(&arguments.name, &request).await?;
    if changed.operation.is_none() {
        let host = changed.object.status.host.as_ref().map_or("-", |host| host.as_str());
        return announce(session.printer, &changed.object, &format!("is on {host} already")).map_err(Into::into);
    }
    let Some(finished) = carry_out(client, &changed, arguments.follow).await? else { return Ok(()) };
    if session.printer.is_structured() {
        return Ok(session.printer.one(&latest(client, &changed.object).await)?);
    }
    let figures = finished.status.figures.as_ref().map_or_else(String::new, figures_text);
    Ok(print(&format!("vm/{} migrated\n{figures}", arguments.name))?)
}

/// A VM's own disk to another pool of the VM's host.
async fn move_disk(
    session: &Session,
    client: &Client,
    vm: &str,
    pool: Name,
    follow: FollowOptions,
) -> Result<(), Failure> {
    let request = MigrateRequest { pool: Some(pool.clone()), ..MigrateRequest::default() };
    let changed = client.migrate(vm, &request).await?;
    let done = match &changed.operation {
        None => format!("has its disk in pool/{pool} already"),
        Some(_) if follow.no_wait => "has its disk being moved".to_owned(),
        Some(_) => format!("has its disk in pool/{pool}"),
    };
    carry_out(client, &changed, follow).await?;
    Ok(announce(session.printer, &latest(client, &changed.object).await, &done)?)
}

/// After there was no volume of this name: the VM's own disk, if it is one.
pub async fn move_own_disk(
    session: &Session,
    client: &Client,
    volume: &str,
    pool: Name,
    follow: FollowOptions,
    no_volume: Problem,
) -> Result<(), Failure> {
    let Some(vm) = volume.strip_suffix(OWN_DISK) else { return Err(no_volume.into()) };
    match client.get::<Vm>(vm).await {
        Ok(_) => move_disk(session, client, vm, pool, follow).await,
        Err(problem) if problem.class == ErrorClass::NotFound => Err(no_volume.into()),
        Err(problem) => Err(problem.into()),
    }
}
