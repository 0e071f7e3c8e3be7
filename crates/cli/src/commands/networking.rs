//! `gantry subnet|port|security-group|address-set …`

use std::io::{IsTerminal, Write};
use std::path::Path;

use gantry_api::rest::{CaptureQuery, TraceQuery, TraceVerdict, WriteQuery};
use gantry_types::{
    AddressSet, AddressSetSpec, Direction, GroupRule, Name, NetworkSubnet, Port, PortSpec, Problem, Protocol, Resource,
    SecurityGroup, SecurityGroupSpec, SubnetSpec,
};

use super::{Session, announce, apply, objects};
use crate::{
    args::{
        AddressSetCommand, Destination, FollowOptions, Holders, PortCommand, RuleOptions, SecurityGroupCommand,
        SubnetCommand,
    },
    client::Client,
    exit::Failure,
    kind::Kind,
};

pub async fn subnets(session: &Session, command: SubnetCommand) -> Result<(), Failure> {
    match command {
        SubnetCommand::Create(arguments) => {
            let spec = SubnetSpec {
                network: arguments.network,
                cidr: arguments.cidr,
                gateway: arguments.gateway,
                dns: arguments.dns,
                reserved: arguments.reserve,
                ranges: arguments.range,
            };
            create(session, &NetworkSubnet::new(arguments.name, spec)).await
        }
        SubnetCommand::List(options) => objects::list::<NetworkSubnet>(session, &options, |_| true).await,
        SubnetCommand::Show { name } => objects::show_all::<NetworkSubnet>(session, &name).await,
        SubnetCommand::Delete { names } => delete(session, Kind::Subnet, &names).await,
    }
}

pub async fn ports(session: &Session, command: PortCommand) -> Result<(), Failure> {
    match command {
        PortCommand::Create(arguments) => {
            let spec = PortSpec {
                network: arguments.network,
                mac: arguments.mac,
                addresses: arguments.ip,
                security_groups: arguments.group,
            };
            create(session, &Port::new(arguments.name, spec)).await
        }
        PortCommand::List { network, list } => {
            let wanted = |port: &Port| network.as_ref().is_none_or(|network| port.spec.network == *network);
            objects::list::<Port>(session, &list, wanted).await
        }
        PortCommand::Trace { name, to, protocol } => trace(session, &name, to, protocol).await,
        PortCommand::Capture { name, write, time, size } => {
            let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            capture(session, &name, &write, CaptureQuery { seconds, max_bytes: size.bytes() }).await
        }
        PortCommand::Show { name } => objects::show_all::<Port>(session, &name).await,
        PortCommand::Delete { names } => delete(session, Kind::Port, &names).await,
    }
}

async fn capture(session: &Session, name: &str, to: &Path, query: CaptureQuery) -> Result<(), Failure> {
    if to == Path::new("-") && std::io::stdout().is_terminal() {
        let detail = "a pcap file is nothing for a terminal";
        return Err(Problem::invalid("binary-output", detail).remedy("use -w FILE, or a pipe").into());
    }
    let mut response = session.client()?.capture(name, &query).await?;
    let failed =
        |error: &dyn std::fmt::Display| Problem::transient("capture-broken", format!("the capture broke off: {error}"));
    let mut output: Box<dyn Write> = if to == Path::new("-") {
        Box::new(std::io::stdout())
    } else {
        Box::new(std::fs::File::create(to).map_err(|error| {
            Problem::invalid("unwritable-file", format!("{} can't be written: {error}", to.display()))
        })?)
    };
    while let Some(part) = response.chunk().await.map_err(|error| failed(&error))? {
        let written = output.write_all(&part).and_then(|()| output.flush());
        // Whoever reads has seen enough.
        if written.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            return Ok(());
        }
        written.map_err(|error| failed(&error))?;
    }
    Ok(())
}

async fn trace(session: &Session, name: &str, to: Destination, protocol: Option<Protocol>) -> Result<(), Failure> {
    // Without a port, a ping.
    let assumed = if to.port.is_some() { Protocol::Tcp } else { Protocol::Icmp };
    let query = TraceQuery { to: to.address, port: to.port, protocol: protocol.unwrap_or(assumed) };
    let found = session.client()?.trace(name, &query).await?;
    session.printer.value(&found, || {
        let steps = found.steps.iter().map(|step| format!("{:<12} {}\n", step.at, step.what));
        let verdict = match found.verdict {
            TraceVerdict::Allowed => "allowed",
            TraceVerdict::Dropped => "dropped",
            TraceVerdict::Unreachable => "unreachable",
        };
        format!("{}{verdict}\n", steps.collect::<String>())
    })?;
    if found.verdict == TraceVerdict::Allowed { Ok(()) } else { Err(Failure::Silent(1)) }
}

pub async fn security_groups(session: &Session, command: SecurityGroupCommand) -> Result<(), Failure> {
    match command {
        SecurityGroupCommand::Create { name } => {
            create(session, &SecurityGroup::new(name, SecurityGroupSpec::default())).await
        }
        SecurityGroupCommand::List(options) => objects::list::<SecurityGroup>(session, &options, |_| true).await,
        SecurityGroupCommand::Show { name } => objects::show_all::<SecurityGroup>(session, &name).await,
        SecurityGroupCommand::Allow { name, rule } => {
            let rule = rule_of(&rule);
            let client = session.client()?;
            let (group, _) = change::<SecurityGroup>(&client, &name, |group| {
                if !group.spec.rules.contains(&rule) {
                    group.spec.rules.push(rule.clone());
                }
                Ok(())
            })
            .await?;
            Ok(announce(session.printer, &group, &format!("allows: {rule}"))?)
        }
        SecurityGroupCommand::Revoke { name, rule } => {
            let rule = rule_of(&rule);
            let client = session.client()?;
            let (group, _) = change::<SecurityGroup>(&client, &name, |group| {
                let before = group.spec.rules.len();
                group.spec.rules.retain(|other| *other != rule);
                if group.spec.rules.len() < before {
                    return Ok(());
                }
                let rules: Vec<_> = group.spec.rules.iter().map(|rule| format!("'{rule}'")).collect();
                Err(Problem::invalid("no-such-rule", format!("security-group '{name}' has no rule '{rule}'"))
                    .remedy(format!("it has: {}", if rules.is_empty() { "none".to_owned() } else { rules.join(", ") })))
            })
            .await?;
            Ok(announce(session.printer, &group, &format!("no longer allows: {rule}"))?)
        }
        SecurityGroupCommand::Attach { name, to } => regroup(session, &name, &to, true).await,
        SecurityGroupCommand::Detach { name, from } => regroup(session, &name, &from, false).await,
        SecurityGroupCommand::Delete { names } => delete(session, Kind::SecurityGroup, &names).await,
    }
}

fn rule_of(options: &RuleOptions) -> GroupRule {
    let RuleOptions { tcp, udp, sctp, icmp, .. } = options;
    let with_ports = [(Protocol::Tcp, tcp), (Protocol::Udp, udp), (Protocol::Sctp, sctp)];
    let chosen = with_ports.into_iter().find_map(|(protocol, ports)| Some((protocol, Some((*ports)?))));
    let (protocol, ports) = chosen.unwrap_or((if *icmp { Protocol::Icmp } else { Protocol::Any }, None));
    let out = options.to.is_some() || options.to_group.is_some() || options.to_set.is_some();
    GroupRule {
        direction: if out { Direction::Egress } else { Direction::Ingress },
        protocol,
        ports,
        cidr: options.from.or(options.to).map(|addresses| addresses.0),
        group: options.from_group.clone().or_else(|| options.to_group.clone()),
        address_set: options.from_set.clone().or_else(|| options.to_set.clone()),
    }
}

/// Gives a group to ports, or takes it from them.
async fn regroup(session: &Session, group: &Name, holders: &Holders, attached: bool) -> Result<(), Failure> {
    let client = session.client()?;
    client.get::<SecurityGroup>(group.as_str()).await?;
    let mut names = holders.port.clone();
    if !holders.vm.is_empty() {
        let ports: Vec<Port> = client.list(None).await?;
        for vm in &holders.vm {
            client.get::<gantry_types::Vm>(vm.as_str()).await?;
            let of_vm = ports.iter().filter(|port| port.status.vm.as_ref() == Some(vm));
            let before = names.len();
            names.extend(of_vm.map(|port| port.metadata.name.clone()));
            if names.len() == before {
                return Err(Problem::conflict("no-ports", format!("VM '{vm}' has no ports yet"))
                    .remedy(format!("start it once: gantry vm start {vm}; or name its groups in spec.nics"))
                    .into());
            }
        }
    }
    for name in names {
        let (port, changed) = change::<Port>(&client, &name, |port| {
            let has = port.spec.security_groups.contains(group);
            match (attached, has) {
                (true, false) => port.spec.security_groups.push(group.clone()),
                (false, true) => port.spec.security_groups.retain(|other| other != group),
                _ => {}
            }
            Ok(())
        })
        .await?;
        announce(session.printer, &port, if changed { "configured" } else { "unchanged" })?;
    }
    Ok(())
}

pub async fn address_sets(session: &Session, command: AddressSetCommand) -> Result<(), Failure> {
    match command {
        AddressSetCommand::Create { name, addresses } => {
            let spec = AddressSetSpec { addresses: addresses.into_iter().collect() };
            create(session, &AddressSet::new(name, spec)).await
        }
        AddressSetCommand::Add { name, addresses } => {
            let client = session.client()?;
            let (set, changed) = change::<AddressSet>(&client, &name, |set| {
                set.spec.addresses.extend(&addresses);
                Ok(())
            })
            .await?;
            Ok(announce(session.printer, &set, if changed { "configured" } else { "unchanged" })?)
        }
        AddressSetCommand::Remove { name, addresses } => {
            let client = session.client()?;
            let (set, changed) = change::<AddressSet>(&client, &name, |set| {
                set.spec.addresses.retain(|other| !addresses.contains(other));
                Ok(())
            })
            .await?;
            Ok(announce(session.printer, &set, if changed { "configured" } else { "unchanged" })?)
        }
        AddressSetCommand::List(options) => objects::list::<AddressSet>(session, &options, |_| true).await,
        AddressSetCommand::Show { name } => objects::show_all::<AddressSet>(session, &name).await,
        AddressSetCommand::Delete { names } => delete(session, Kind::AddressSet, &names).await,
    }
}

pub(super) async fn create<T: Resource>(session: &Session, object: &T) -> Result<(), Failure> {
    let changed = session.client()?.create(object, &WriteQuery::default()).await?;
    Ok(announce(session.printer, &changed.object, "created")?)
}

pub(super) async fn delete(session: &Session, kind: Kind, names: &[String]) -> Result<(), Failure> {
    apply::delete_named(session, kind, names, FollowOptions::default()).await
}

/// The object as it is then, and whether anything is different.
pub(super) async fn change<T: Resource + PartialEq>(
    client: &Client,
    name: &Name,
    how: impl Fn(&mut T) -> Result<(), Problem>,
) -> Result<(T, bool), Problem> {
    let (changed, is_different) = client.change(name.as_str(), how).await?;
    Ok((changed.object, is_different))
}
