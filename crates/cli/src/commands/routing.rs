//! `gantry router|floating-ip …`

use std::{collections::BTreeSet, fmt};

use gantry_types::{
    FloatingIp, FloatingIpSpec, LoadBalancer, Name, ObjectRef, Problem, Resource, Router, RouterSpec, Vm,
};

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
            let spec = FloatingIpSpec { network, address, vm: None, port: None, load_balancer: None };
            create(session, &FloatingIp::new(name, spec)).await
        }
        FloatingIpCommand::Attach { vm, load_balancer, ip, network } => {
            let client = session.client()?;
            let target = match (vm, load_balancer) {
                (_, Some(balancer)) => Target::LoadBalancer(balancer),
                (Some(vm), None) => Target::Vm(vm),
                (None, None) => return Err(Problem::invalid("no-target", "name a VM or a load balancer").into()),
            };
            let name = match ip {
                Some(name) => name,
                None => chosen(&client, &target, network).await?,
            };
            let (floating, _) = change::<FloatingIp>(&client, &name, |floating| {
                target.set(&mut floating.spec);
                Ok(())
            })
            .await?;
            let address = floating.status.address.map(|address| address.to_string()).unwrap_or_default();
            Ok(announce(session.printer, &floating, &format!("leads from {address} to {target}"))?)
        }
        FloatingIpCommand::Detach { name } => {
            let client = session.client()?;
            let (floating, _) = change::<FloatingIp>(&client, &name, |floating| {
                (floating.spec.vm, floating.spec.port, floating.spec.load_balancer) = (None, None, None);
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

/// What a floating address is to lead to.
enum Target {
    Vm(Name),
    LoadBalancer(Name),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(name) => write!(f, "vm/{name}"),
            Self::LoadBalancer(name) => write!(f, "load-balancer/{name}"),
        }
    }
}

impl Target {
    fn name(&self) -> &Name {
        let (Self::Vm(name) | Self::LoadBalancer(name)) = self;
        name
    }

    fn set(&self, spec: &mut FloatingIpSpec) {
        (spec.vm, spec.port, spec.load_balancer) = match self {
            Self::Vm(name) => (Some(name.clone()), None, None),
            Self::LoadBalancer(name) => (None, None, Some(name.clone())),
        };
    }

    fn is_of(&self, spec: &FloatingIpSpec) -> bool {
        match self {
            Self::Vm(name) => spec.vm.as_ref() == Some(name),
            Self::LoadBalancer(name) => spec.load_balancer.as_ref() == Some(name),
        }
    }

    /// The networks that it can be reached in.
    async fn networks(&self, client: &Client) -> Result<(ObjectRef, Vec<Name>), Problem> {
        Ok(match self {
            Self::Vm(name) => {
                let vm: Vm = client.get(name.as_str()).await?;
                (vm.reference(), vm.spec.nics.iter().map(|nic| nic.network.clone()).collect())
            }
            Self::LoadBalancer(name) => {
                let balancer: LoadBalancer = client.get(name.as_str()).await?;
                (balancer.reference(), vec![balancer.spec.network])
            }
        })
    }
}

/// An address that leads there already or nowhere, or a new one.
async fn chosen(client: &Client, target: &Target, network: Option<Name>) -> Result<Name, Problem> {
    let network = match network {
        Some(network) => network,
        None => external_of(client, target).await?,
    };
    let all: Vec<FloatingIp> = client.list(None).await?;
    let of_network = || all.iter().filter(|floating| floating.spec.network == network);
    let is_free = |floating: &&FloatingIp| {
        let spec = &floating.spec;
        spec.vm.is_none() && spec.port.is_none() && spec.load_balancer.is_none()
    };
    let found = of_network().find(|floating| target.is_of(&floating.spec)).or_else(|| of_network().find(is_free));
    if let Some(floating) = found {
        return Ok(floating.metadata.name.clone());
    }
    let spec = FloatingIpSpec { network, address: None, vm: None, port: None, load_balancer: None };
    let made = client.create(&FloatingIp::new(target.name().clone(), spec), &Default::default()).await?;
    Ok(made.object.metadata.name)
}

/// The one external network that the routers of the target's networks lead to.
async fn external_of(client: &Client, target: &Target) -> Result<Name, Problem> {
    let (reference, networks) = target.networks(client).await?;
    let routers: Vec<Router> = client.list(None).await?;
    let leads_there = |router: &&Router| networks.iter().any(|network| router.spec.networks.contains(network));
    let external: BTreeSet<_> =
        routers.iter().filter(leads_there).filter_map(|router| router.spec.external.clone()).collect();
    let mut external = external.into_iter();
    match (external.next(), external.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Problem::conflict("no-way-out", format!("no router leads {target} out"))
            .object(reference)
            .remedy("make one: gantry router create NAME --network … --external …")),
        (Some(one), Some(other)) => {
            let detail = format!("routers lead {target} to several networks, such as '{one}' and '{other}'");
            Err(Problem::conflict("several-ways-out", detail).remedy("choose one: --network NAME"))
        }
    }
}
