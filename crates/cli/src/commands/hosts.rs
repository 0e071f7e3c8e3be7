//! `gantry host …`

use std::{ops::ControlFlow, time::Duration};

use gantry_api::rest::FenceRequest;
use gantry_types::{Host, HostPower, PowerDriverKind, Problem, Resource, Vm};
use tokio::time::Instant;

use super::{Session, announce, apply, carry_out, objects, relabel};
use crate::{
    Programs,
    args::{FollowOptions, HostCommand, HostSet, PowerChoice},
    exit::Failure,
    kind::Kind,
    output::{note, print},
    wait::observe,
};

/// A member that is away may come back; without a majority there is no proof.
const PROOF_LIMIT: Duration = Duration::from_secs(60);

pub async fn run(session: &Session, command: HostCommand, programs: &impl Programs) -> Result<(), Failure> {
    match command {
        HostCommand::Join(arguments) => {
            let state = arguments.state.clone();
            let name = programs.host_join(arguments).await?;
            let text = format!("host/{name} joined\nstart its agent: gantry agent run --state {}\n", state.display());
            Ok(print(&text)?)
        }
        HostCommand::List(options) => objects::list::<Host>(session, &options, |_| true).await,
        HostCommand::Show { name } => objects::show_all::<Host>(session, &name).await,
        HostCommand::Fence { name, why, no_wait } => fence(session, &name, why, no_wait).await,
        HostCommand::Cordon { name } => cordon(session, &name, true).await,
        HostCommand::Uncordon { name } => cordon(session, &name, false).await,
        HostCommand::Drain { name, follow } => {
            work(session, &name, "drain", "drained", follow).await?;
            name_those_that_stay(session, &name, follow).await
        }
        HostCommand::Undrain { name } => {
            work(session, &name, "undrain", "back to work", FollowOptions::default()).await
        }
        HostCommand::Sleep { name, follow } => work(session, &name, "sleep", "asleep", follow).await,
        HostCommand::Wake { name, follow } => work(session, &name, "wake", "awake", follow).await,
        HostCommand::Reboot { name, follow } => work(session, &name, "reboot", "rebooted", follow).await,
        HostCommand::Set(arguments) => set(session, arguments).await,
        HostCommand::Delete { names } => {
            apply::delete_named(session, Kind::Host, &names, FollowOptions::default()).await
        }
    }
}

/// A drained host still has the disks of VMs that do not run.
async fn name_those_that_stay(session: &Session, host: &str, options: FollowOptions) -> Result<(), Failure> {
    if options.no_wait {
        return Ok(());
    }
    let vms: Vec<Vm> = session.client()?.list(None).await?;
    let here = vms.iter().filter(|vm| vm.status.host.as_ref().is_some_and(|at| at.as_str() == host));
    let staying: Vec<_> = here.filter(|vm| !vm.status.phase.may_execute()).map(Resource::name).collect();
    if !staying.is_empty() {
        let names = staying.join(", ");
        note(&format!("VMs that do not run stay on {host} with their disks: {names}; why: gantry event list"));
    }
    Ok(())
}

/// A verb on a host, followed to its end.
async fn work(session: &Session, name: &str, verb: &str, done: &str, options: FollowOptions) -> Result<(), Failure> {
    let client = session.client()?;
    let changed = client.host_verb(name, verb).await?;
    let begun = changed.operation.is_some();
    let finished = carry_out(&client, &changed, options).await?;
    if begun && finished.is_none() {
        return Ok(());
    }
    Ok(announce(session.printer, &client.get::<Host>(name).await?, done)?)
}

async fn set(session: &Session, arguments: HostSet) -> Result<(), Failure> {
    let (changed, _) = session
        .client()?
        .change::<Host>(&arguments.name, |host| {
            if let Some(cluster) = &arguments.cluster {
                host.spec.cluster.clone_from(cluster);
            }
            match arguments.power {
                None => {}
                Some(PowerChoice::None) => host.spec.power = None,
                Some(PowerChoice::Lab) => {
                    host.spec.power =
                        Some(HostPower { driver: PowerDriverKind::Lab, outlet: arguments.outlet.clone() });
                }
            }
            if let Some(watts) = &arguments.watts {
                host.spec.watts.clone_from(watts);
            }
            relabel(&mut host.metadata.labels, &arguments.labels);
            Ok(())
        })
        .await?;
    Ok(announce(session.printer, &changed.object, "changed")?)
}

/// Waits for the proof: it may take as long as a lease, or as long as switching off takes.
async fn fence(session: &Session, name: &str, why: String, no_wait: bool) -> Result<(), Failure> {
    let client = session.client()?;
    let changed = client.fence(name, &FenceRequest { why }).await?;
    let generation = changed.object.status.fence.as_ref().map_or(0, |fence| fence.record.generation);
    if no_wait {
        return Ok(announce(session.printer, &changed.object, "being fenced")?);
    }
    let look = |host: Option<&Host>| {
        let Some(host) = host else { return ControlFlow::Break(None) };
        match &host.status.fence {
            // It was back and clean sooner than it was looked at.
            None if host.status.fences_lifted >= generation => {
                ControlFlow::Break(Some("it was let in again".to_owned()))
            }
            Some(fence) => match &fence.proof {
                Some(proof) => ControlFlow::Break(Some(proof.kind.told().to_owned())),
                None => ControlFlow::Continue(()),
            },
            None => ControlFlow::Continue(()),
        }
    };
    match observe::<Host, _>(&client, name, Instant::now() + PROOF_LIMIT, look).await?.flatten() {
        Some(proof) => Ok(announce(session.printer, &changed.object, &format!("fenced: {proof}"))?),
        None => {
            let detail = format!("host '{name}' is not proved to be shut out within {} s", PROOF_LIMIT.as_secs());
            Err(Problem::transient("not-proved", detail)
                .remedy(format!("it goes on; see: gantry describe host {name}"))
                .into())
        }
    }
}

async fn cordon(session: &Session, name: &str, cordoned: bool) -> Result<(), Failure> {
    let (changed, _) = session
        .client()?
        .change::<Host>(name, |host| {
            host.spec.cordoned = cordoned;
            Ok(())
        })
        .await?;
    Ok(announce(session.printer, &changed.object, if cordoned { "cordoned" } else { "uncordoned" })?)
}
