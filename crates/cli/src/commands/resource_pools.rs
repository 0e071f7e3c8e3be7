//! `gantry resource-pool …`

use gantry_api::rest::WriteQuery;
use gantry_types::{ErrorClass, MAIN_CLUSTER, Name, Problem, ResourcePool, ResourcePoolSpec};

use super::{Session, announce, networking::delete, objects};
use crate::{
    args::{OrNone, ResourcePoolCommand, ResourcePoolSet},
    exit::Failure,
    kind::Kind,
};

pub async fn run(session: &Session, command: ResourcePoolCommand) -> Result<(), Failure> {
    match command {
        ResourcePoolCommand::List(options) => objects::list::<ResourcePool>(session, &options, |_| true).await,
        ResourcePoolCommand::Show { name } => objects::show_all::<ResourcePool>(session, &name).await,
        ResourcePoolCommand::Set(arguments) => set(session, *arguments).await,
        ResourcePoolCommand::Delete { names } => delete(session, Kind::ResourcePool, &names).await,
    }
}

async fn set(session: &Session, arguments: ResourcePoolSet) -> Result<(), Failure> {
    let client = session.client()?;
    let (mut pool, is_new) = match client.get::<ResourcePool>(arguments.name.as_str()).await {
        Ok(pool) => (pool, false),
        Err(problem) if problem.class == ErrorClass::NotFound => {
            let parent = match &arguments.parent {
                Some(parent) => Some(client.get::<ResourcePool>(parent.as_str()).await?),
                None => None,
            };
            // One inside another is of the same cluster.
            let cluster = arguments.cluster.clone().or(parent.map(|parent| parent.spec.cluster));
            let cluster = cluster.map_or_else(main_cluster, Ok)?;
            let spec = ResourcePoolSpec { cluster, parent: arguments.parent.clone(), ..ResourcePoolSpec::default() };
            (ResourcePool::new(arguments.name.clone(), spec), true)
        }
        Err(problem) => return Err(problem.into()),
    };
    let spec = &mut pool.spec;
    // What can't be changed is sent all the same, so that the controller says so.
    spec.cluster = arguments.cluster.unwrap_or(spec.cluster.clone());
    spec.parent = arguments.parent.or(spec.parent.take());
    spec.cpu.shares = arguments.cpu_shares.unwrap_or(spec.cpu.shares);
    spec.cpu.reservation_percent = arguments.cpu_reservation.unwrap_or(spec.cpu.reservation_percent);
    if let Some(OrNone(limit)) = arguments.cpu_limit {
        spec.cpu.limit_percent = limit;
    }
    spec.memory.shares = arguments.memory_shares.unwrap_or(spec.memory.shares);
    spec.memory.reservation = arguments.memory_reservation.unwrap_or(spec.memory.reservation);
    if let Some(OrNone(limit)) = arguments.memory_limit {
        spec.memory.limit = limit;
    }
    let write = WriteQuery::default();
    let changed = if is_new { client.create(&pool, &write).await? } else { client.update(&pool, &write).await? };
    Ok(announce(session.printer, &changed.object, if is_new { "created" } else { "changed" })?)
}

fn main_cluster() -> Result<Name, Problem> {
    MAIN_CLUSTER.parse().map_err(|error| Problem::permanent("invalid-name", format!("{error}")))
}
