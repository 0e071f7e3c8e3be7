//! `gantry load-balancer …`

use gantry_types::{HealthCheck, Listener, LoadBalancer, LoadBalancerSpec, Name, Problem, Resource};

use super::{
    Session, announce,
    networking::{change, create, delete},
    objects,
};
use crate::{
    args::{HealthOptions, LoadBalancerCommand},
    exit::Failure,
    kind::Kind,
    output::{Table, age, now, terminal_width, yes_no},
};

pub async fn run(session: &Session, command: LoadBalancerCommand) -> Result<(), Failure> {
    match command {
        LoadBalancerCommand::Create(arguments) => {
            let spec = LoadBalancerSpec {
                network: arguments.network,
                address: arguments.address,
                listeners: arguments.listen,
                members: arguments.members,
                health: health(arguments.health),
            };
            create(session, &LoadBalancer::new(arguments.name, spec)).await
        }
        LoadBalancerCommand::List(options) => objects::list::<LoadBalancer>(session, &options, |_| true).await,
        LoadBalancerCommand::Show { name } => objects::show_all::<LoadBalancer>(session, &name).await,
        LoadBalancerCommand::Members { name } => members(session, &name).await,
        LoadBalancerCommand::Listen { name, listeners } => {
            let done = |balancer: &mut LoadBalancer| {
                let is_new = |listener: &Listener| !balancer.spec.listeners.contains(listener);
                let new: Vec<_> = listeners.iter().filter(|listener| is_new(listener)).cloned().collect();
                balancer.spec.listeners.extend(new);
                Ok(())
            };
            change_listeners(session, &name, done).await
        }
        LoadBalancerCommand::Unlisten { name, listeners } => {
            let done = |balancer: &mut LoadBalancer| {
                for listener in &listeners {
                    let same = |other: &Listener| (other.protocol, other.port) == (listener.protocol, listener.port);
                    if !balancer.spec.listeners.iter().any(same) {
                        let port = format!("{} {}", listener.protocol, listener.port);
                        let detail = format!("load-balancer '{}' does not listen on {port}", balancer.name());
                        return Err(Problem::conflict("no-such-listener", detail)
                            .object(balancer.reference())
                            .remedy(format!("see: gantry load-balancer show {}", balancer.name())));
                    }
                    balancer.spec.listeners.retain(|other| !same(other));
                }
                Ok(())
            };
            change_listeners(session, &name, done).await
        }
        LoadBalancerCommand::Delete { names } => delete(session, Kind::LoadBalancer, &names).await,
    }
}

fn health(options: HealthOptions) -> HealthCheck {
    HealthCheck {
        http_path: options.check_http,
        port: options.check_port,
        interval_s: options.check_interval,
        timeout_s: options.check_timeout,
        healthy_after: options.healthy_after,
        unhealthy_after: options.unhealthy_after,
    }
}

async fn change_listeners(
    session: &Session,
    name: &Name,
    how: impl Fn(&mut LoadBalancer) -> Result<(), Problem>,
) -> Result<(), Failure> {
    let (balancer, changed) = change::<LoadBalancer>(&session.client()?, name, how).await?;
    Ok(announce(session.printer, &balancer, if changed { "configured" } else { "unchanged" })?)
}

async fn members(session: &Session, name: &Name) -> Result<(), Failure> {
    let balancer: LoadBalancer = session.client()?.get(name.as_str()).await?;
    session.printer.value(&balancer.status.members, || {
        let mut table = Table::new(&["VM", "ADDRESS", "HOST", "HEALTHY", "SINCE", "REASON"]);
        for member in &balancer.status.members {
            table.row(vec![
                member.vm.to_string(),
                member.address.to_string(),
                member.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                yes_no(member.healthy),
                age(member.since, now()),
                member.reason.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table.render(terminal_width())
    })?;
    Ok(())
}
