//! `gantry cluster …`

use gantry_api::rest::{UpdateClusterRequest, WriteQuery};
use gantry_types::{Cluster, ClusterSpec, ErrorClass, HostUpdate};

use super::{Session, announce, apply, carry_out, objects};
use crate::{
    args::{ClusterCommand, ClusterSet, FollowOptions},
    exit::Failure,
    kind::Kind,
};

pub async fn run(session: &Session, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::List(options) => objects::list::<Cluster>(session, &options, |_| true).await,
        ClusterCommand::Show { name } => objects::show_all::<Cluster>(session, &name).await,
        ClusterCommand::Set(arguments) => set(session, arguments).await,
        ClusterCommand::Update { name, reboot, follow } => {
            let method = if reboot { HostUpdate::Reboot } else { HostUpdate::AwaitRestart };
            let client = session.client()?;
            let changed = client.update_cluster(&name, &UpdateClusterRequest { method }).await?;
            let Some(_) = carry_out(&client, &changed, follow).await? else { return Ok(()) };
            Ok(announce(session.printer, &client.get::<Cluster>(&name).await?, "updated")?)
        }
        ClusterCommand::Delete { names } => {
            apply::delete_named(session, Kind::Cluster, &names, FollowOptions::default()).await
        }
    }
}

async fn set(session: &Session, arguments: ClusterSet) -> Result<(), Failure> {
    let client = session.client()?;
    let (mut cluster, is_new) = match client.get::<Cluster>(arguments.name.as_str()).await {
        Ok(cluster) => (cluster, false),
        Err(problem) if problem.class == ErrorClass::NotFound => {
            (Cluster::new(arguments.name.clone(), ClusterSpec::default()), true)
        }
        Err(problem) => return Err(problem.into()),
    };
    let spec = &mut cluster.spec;
    spec.cpu_overcommit = arguments.cpu_overcommit.unwrap_or(spec.cpu_overcommit);
    spec.memory_overcommit = arguments.memory_overcommit.unwrap_or(spec.memory_overcommit);
    spec.tolerate_hosts = arguments.tolerate_hosts.unwrap_or(spec.tolerate_hosts);
    for (term, weight) in arguments.weights {
        match weight {
            Some(weight) => spec.weights.insert(term, weight),
            None => spec.weights.remove(&term),
        };
    }
    // It is sent with the revision that was read: somebody else's change in between is a conflict.
    let write = WriteQuery::default();
    let changed = if is_new { client.create(&cluster, &write).await? } else { client.update(&cluster, &write).await? };
    Ok(announce(session.printer, &changed.object, if is_new { "created" } else { "changed" })?)
}
