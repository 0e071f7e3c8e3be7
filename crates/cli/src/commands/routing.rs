//! `gantry router|floating-ip …`

use std::collections::BTreeSet;

use gantry_types::{FloatingIp, FloatingIpSpec, Name, Problem, Resource, Router, RouterSpec, Vm};

use super::{
    Session, announce,
    networking::{change, create, delete},
    objects,
};
use crate::{
    args::{FloatingIpCommand, RouterCommand},
    client::Client,
    exit::Failure,
    kind::Kind,
};

pub async fn routers(session: &Session, command: RouterCommand) -> Result<(), Failure> {
    match command {
        RouterCommand::Create(arguments) => {
            let spec =
                RouterSpec { networks: arguments.network, external: arguments.external, snat: !arguments.no_snat };
            create(session, &Router::new(arguments.name, spec)).await
        }
        RouterCommand::List(options) => objects::list::<Router>(session, &options, |_| true).await,
        RouterCommand::Show { name } => objects::show_all::<Router>(session, &name).await,
        RouterCommand::Delete { names } => delete(session, Kind::Router, &names).await,
    }
}

pub async fn floating_ips(session: &Session, command: FloatingIpCommand) -> Result<(), Failure> {
    match command {
        FloatingIpCommand::Create { name, network, address } => {
            let spec = FloatingIpSpec { network, address, vm: None, port: None };
            create(session, &FloatingIp::new(name, spec)).await
        }
        FloatingIpCommand::Attach { vm, ip, network } => {
            let client = session.client()?;
            let name = match ip {
                Some(name) => name,
                None => chosen(&client, &vm, network).await?,
            };
            let (floating, _) = change::<FloatingIp>(&client, &name, |floating| {
                (floating.spec.vm, floating.spec.port) = (Some(vm.clone()), None);
                Ok(())
            })
            .await?;
            let address = floating.status.address.map(|address| address.to_string()).unwrap_or_default();
            Ok(announce(session.printer, &floating, &format!("leads from {address} to vm/{vm}"))?)
        }
        FloatingIpCommand::Detach { name } => {
            let client = session.client()?;
            let (floating, _) = change::<FloatingIp>(&client, &name, |floating| {
                (floating.spec.vm, floating.spec.port) = (None, None);
                Ok(())
            })
            .await?;
            Ok(announce(session.printer, &floating, "leads nowhere")?)
        }
        FloatingIpCommand::List(options) => objects::list::<FloatingIp>(session, &options, |_| true).await,
        FloatingIpCommand::Show { name } => objects::show_all::<FloatingIp>(session, &name).await,
        FloatingIpCommand::Delete { names } => delete(session, Kind::FloatingIp, &names).await,
    }
}

/// An address that leads to this VM already or nowhere, or a new one.
async fn chosen(client: &Client, vm: &Name, network: Option<Name>) -> Result<Name, Problem> {
    let network = match network {
        Some(network) => network,
        None => external_of(client, vm).await?,
    };
    let all: Vec<FloatingIp> = client.list(None).await?;
    let of_network = || all.iter().filter(|floating| floating.spec.network == network);
    let is_free = |floating: &&FloatingIp| floating.spec.vm.is_none() && floating.spec.port.is_none();
    let found =
        of_network().find(|floating| floating.spec.vm.as_ref() == Some(vm)).or_else(|| of_network().find(is_free));
    if let Some(floating) = found {
        return Ok(floating.metadata.name.clone());
    }
    let spec = FloatingIpSpec { network, address: None, vm: None, port: None };
    let made = client.create(&FloatingIp::new(vm.clone(), spec), &Default::default()).await?;
    Ok(made.object.metadata.name)
}

/// The one external network that the VM's routers lead to.
async fn external_of(client: &Client, vm: &Name) -> Result<Name, Problem> {
    let found: Vm = client.get(vm.as_str()).await?;
    let routers: Vec<Router> = client.list(None).await?;
    let is_behind = |router: &&Router| found.spec.nics.iter().any(|nic| router.spec.networks.contains(&nic.network));
    let external: BTreeSet<_> =
        routers.iter().filter(is_behind).filter_map(|router| router.spec.external.clone()).collect();
    let mut external = external.into_iter();
    match (external.next(), external.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Problem::conflict("no-way-out", format!("no router leads VM '{vm}' out"))
            .object(found.reference())
            .remedy("make one: gantry router create NAME --network … --external …")),
        (Some(one), Some(other)) => {
            let detail = format!("routers lead VM '{vm}' to several networks, such as '{one}' and '{other}'");
            Err(Problem::conflict("several-ways-out", detail).remedy("choose one: --network NAME"))
        }
    }
}
