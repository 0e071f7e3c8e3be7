//! Where a packet of a VM would go, and which rule allows or drops it. Pure: it follows the same objects that hosts are
//! told, not the packet.

use std::net::IpAddr;

use gantry_api::rest::{Trace, TraceQuery, TraceStep, TraceVerdict};
use gantry_types::{
    Direction, GroupRule, LoadBalancer, Name, Network, NicStatus, Port, Problem, Protocol, Resource, Vm,
};

use crate::{
    app::router::{floating_target, router_of},
    host_balancers::{Behind, at, behind, described, floating_of, target_of},
    host_routers::seen_in,
    loops::router_addresses::leg_id,
    model::Tables,
    subnets,
};

/// A card of a VM.
#[derive(Clone, Copy)]
struct Place<'a> {
    vm: &'a Vm,
    nic: &'a NicStatus,
}

impl Place<'_> {
    fn described(&self) -> String {
        let host = self.vm.status.host.as_ref().map_or("no host".to_owned(), |host| format!("host '{host}'"));
        format!("VM '{}' on {host}", self.vm.name())
    }
}

/// The card that a name means: a port's, or the VM's that reaches the destination best.
fn sender<'a>(tables: &'a Tables, name: &str, to: IpAddr) -> Result<Place<'a>, Problem> {
    if let Some(vm) = tables.vms.get(name) {
        let has = |nic: &&NicStatus| {
            let network = tables.networks.get(nic.network.as_str());
            let mut own = network.map(|network| subnets::of_network(tables, network)).unwrap_or_default().into_iter();
            own.any(|subnet| subnet.cidr.contains(&to))
        };
        let nics = &vm.status.nics;
        let nic = nics.iter().find(has).or_else(|| nics.first()).ok_or_else(|| {
            Problem::conflict("no-ports", format!("VM '{name}' has no ports yet"))
                .object(vm.reference())
                .remedy(format!("start it once: gantry vm start {name}"))
        })?;
        return Ok(Place { vm, nic });
    }
    let port = tables.ports.get(name).ok_or_else(|| Problem::not_found(Port::KIND, name))?;
    let vm = port.status.vm.as_ref().and_then(|vm| tables.vms.get(vm.as_str()));
    let place = vm.and_then(|vm| {
        let nic = vm.status.nics.iter().find(|nic| nic.port == port.metadata.uuid)?;
        Some(Place { vm, nic })
    });
    place.ok_or_else(|| {
        Problem::conflict("no-vm", format!("port '{name}' is no VM's, so nothing is sent from it"))
            .object(port.reference())
            .remedy("name it in a VM's spec.nics")
    })
}

/// Whom a load balancer's member sees.
enum Source {
    Vm(IpAddr),
    /// The host that a floating address is translated on.
    Outside,
}

struct Tracer<'a> {
    tables: &'a Tables,
    protocol: Protocol,
    port: Option<u16>,
    steps: Vec<TraceStep>,
}

/// # Errors
/// The sender does not exist, or has no address of the destination's family.
pub fn trace(tables: &Tables, name: &str, query: &TraceQuery) -> Result<Trace, Problem> {
    let from = sender(tables, name, query.to)?;
    let is_v4 = query.to.is_ipv4();
    let source = from.nic.addresses().find(|address| address.is_ipv4() == is_v4).ok_or_else(|| {
        let detail = format!("VM '{}' has no address of the family of {} in its network", from.vm.name(), query.to);
        Problem::invalid("no-address-of-family", detail).remedy("give the network a subnet of that family")
    })?;
    let mut tracer = Tracer { tables, protocol: query.protocol, port: query.port, steps: Vec::new() };
    let verdict = tracer.follow(from, source, query.to);
    Ok(Trace { verdict, steps: tracer.steps })
}

impl<'a> Tracer<'a> {
    fn step(&mut self, at: &str, what: String) {
        self.steps.push(TraceStep { at: at.to_owned(), what });
    }

    fn follow(&mut self, from: Place<'a>, source: IpAddr, to: IpAddr) -> TraceVerdict {
        let Some(network) = self.tables.networks.get(from.nic.network.as_str()) else {
            self.step("network", format!("network '{}' does not exist", from.nic.network));
            return TraceVerdict::Unreachable;
        };
        self.step(
            "sender",
            format!("{}: {source} ({}) in network '{}'", from.described(), from.nic.mac, network.name()),
        );
        if !self.asked(from, Direction::Egress, to, network) {
            return TraceVerdict::Dropped;
        }
        let is_in = |network: &Network| {
            let own = subnets::of_network(self.tables, network);
            own.iter().any(|subnet| subnet.cidr.contains(&to))
        };
        if is_in(network) {
            return self.deliver(source, to, network);
        }
        let Some(router) = router_of(self.tables, &network.metadata.name) else {
            self.step("route", format!("{to} is in no subnet of network '{}', which has no router", network.name()));
            return TraceVerdict::Unreachable;
        };
        let inside = router.spec.networks.iter().filter_map(|name| self.tables.networks.get(name.as_str()));
        if let Some(next) = { inside }.find(|next| is_in(next)) {
            self.step("route", format!("router '{}' forwards it to network '{}'", router.name(), next.name()));
            return self.deliver(source, to, next);
        }
        let external = router.spec.external.as_ref().and_then(|name| self.tables.networks.get(name.as_str()));
        let Some(external) = external else {
            self.step("route", format!("router '{}' leads to no network with {to}", router.name()));
            return TraceVerdict::Unreachable;
        };
        self.step("route", format!("router '{}' sends it out to network '{}'", router.name(), external.name()));
        let own =
            self.tables.floating_ips.values().find(|floating| {
                floating_target(self.tables, floating).is_some_and(|(_, nic)| nic.port == from.nic.port)
            });
        match own.and_then(|floating| floating.status.address) {
            Some(address) => self.step("source", format!("it leaves from its floating address {address}")),
            None if router.spec.snat => self.step("source", "it leaves from the address of its host".to_owned()),
            None => self.step("source", format!("it keeps its address {source}")),
        }
        self.deliver(source, to, external)
    }

    /// In the network that has the destination's address.
    fn deliver(&mut self, source: IpAddr, to: IpAddr, network: &'a Network) -> TraceVerdict {
        let floating = self.tables.floating_ips.values().find(|floating| floating.status.address == Some(to));
        if let Some(floating) = floating.filter(|floating| floating.spec.network == network.metadata.name) {
            if let Some((balancer, _)) = target_of(self.tables, floating) {
                self.step("destination", format!("floating-ip '{}' leads to {}", floating.name(), described(balancer)));
                return self.balance(balancer, Source::Outside);
            }
            let Some((vm, nic)) = floating_target(self.tables, floating) else {
                self.step("destination", format!("floating-ip '{}' leads to no VM", floating.name()));
                return TraceVerdict::Unreachable;
            };
            let fixed = nic.addresses().find(|address| address.is_ipv4() == to.is_ipv4()).unwrap_or(nic.address);
            self.step("destination", format!("floating-ip '{}' leads to {fixed}", floating.name()));
            let Some(inside) = self.tables.networks.get(nic.network.as_str()) else { return TraceVerdict::Unreachable };
            return self.arrive(Place { vm, nic }, source, inside);
        }
        if let Some(balancer) = at(self.tables, &network.metadata.name, to) {
            self.step("destination", format!("{to} is of {}", described(balancer)));
            return self.balance(balancer, Source::Vm(source));
        }
        let vms = self.tables.vms.values().map(|vm| &**vm);
        let nics = vms.flat_map(|vm| vm.status.nics.iter().map(move |nic| Place { vm, nic }));
        let holds = |place: &Place<'_>| {
            place.nic.network == network.metadata.name && place.nic.addresses().any(|address| address == to)
        };
        if let Some(place) = { nics }.find(|place| holds(place)) {
            return self.arrive(place, source, network);
        }
        if let Some(lease) = network.status.leases.get(&to) {
            self.step("destination", format!("{to} is of {}", lease.described()));
            return TraceVerdict::Allowed;
        }
        if let Some(interface) = &network.spec.interface {
            self.step("destination", format!("no VM has {to}: it goes out by interface '{interface}' of its host"));
            return TraceVerdict::Allowed;
        }
        if network.spec.external_vteps.is_empty() {
            self.step("destination", format!("nothing in network '{}' has {to}", network.name()));
            return TraceVerdict::Unreachable;
        }
        let vteps: Vec<_> = network.spec.external_vteps.iter().map(ToString::to_string).collect();
        self.step("destination", format!("no VM has {to}: it goes to the external VTEPs {}", vteps.join(", ")));
        TraceVerdict::Allowed
    }

    /// To each member that a new connection may be given.
    fn balance(&mut self, balancer: &LoadBalancer, source: Source) -> TraceVerdict {
        let listener = balancer
            .spec
            .listeners
            .iter()
            .find(|listener| listener.protocol == self.protocol && Some(listener.port) == self.port);
        let Some(listener) = listener else {
            self.step("balance", format!("it has no listener for {} {}", self.protocol, self.shown_port()));
            return TraceVerdict::Unreachable;
        };
        let is_healthy = |place: &Behind<'_>| {
            let mut members = balancer.status.members.iter();
            members.any(|member| member.port == place.nic.port && member.healthy)
        };
        let all = behind(self.tables, balancer);
        let healthy: Vec<_> = all.iter().copied().filter(is_healthy).collect();
        let shown: Vec<_> = healthy.iter().map(|place| format!("VM '{}'", place.vm.name())).collect();
        if healthy.is_empty() {
            let message = format!("none of its {} members is healthy: the connection is refused", all.len());
            self.step("balance", message);
            return TraceVerdict::Unreachable;
        }
        let target = listener.target_port();
        let message = format!(
            "a new connection goes to port {target} of one of {} ({} of {} members are healthy)",
            shown.join(", "),
            healthy.len(),
            all.len()
        );
        self.step("balance", message);
        let source = match source {
            Source::Vm(address) => address,
            Source::Outside => match self.host_address(balancer) {
                Some(address) => {
                    self.step("source", format!("members see {address}, the address of the host that translates"));
                    address
                }
                None => {
                    self.step("balance", "no host has an address outside to translate with yet".to_owned());
                    return TraceVerdict::Unreachable;
                }
            },
        };
        let before = self.port.replace(target);
        let mut verdict = TraceVerdict::Allowed;
        for Behind { vm, nic, .. } in healthy {
            let Some(network) = self.tables.networks.get(nic.network.as_str()) else { continue };
            if self.arrive(Place { vm, nic }, source, network) != TraceVerdict::Allowed {
                verdict = TraceVerdict::Dropped;
            }
        }
        self.port = before;
        verdict
    }

    fn shown_port(&self) -> String {
        self.port.map_or_else(|| "without a port".to_owned(), |port| port.to_string())
    }

    /// The address that a balancer's host has in the external network.
    fn host_address(&self, balancer: &LoadBalancer) -> Option<IpAddr> {
        let router = router_of(self.tables, &balancer.spec.network)?;
        let mut floating = floating_of(self.tables, router);
        let (_, outside, host) = floating.find(|(of, _, _)| of.metadata.name == balancer.metadata.name)?;
        let network = self.tables.networks.get(router.spec.external.as_ref()?.as_str())?;
        let leg = leg_id(router.metadata.uuid, host);
        let mut held = network.status.leases.iter().filter(|(_, lease)| lease.port == leg);
        held.find(|(address, _)| address.is_ipv4() == outside.is_ipv4()).map(|(address, _)| *address)
    }

    fn arrive(&mut self, place: Place<'a>, source: IpAddr, network: &'a Network) -> TraceVerdict {
        self.step("destination", format!("{} ({})", place.described(), place.nic.mac));
        if self.asked(place, Direction::Ingress, source, network) {
            TraceVerdict::Allowed
        } else {
            TraceVerdict::Dropped
        }
    }

    /// What the groups of a card say.
    fn asked(&mut self, place: Place<'_>, direction: Direction, peer: IpAddr, network: &Network) -> bool {
        let at = if direction == Direction::Ingress { "ingress" } else { "egress" };
        let port = self.tables.ports.values().find(|port| port.metadata.uuid == place.nic.port);
        let groups: Vec<Name> = port.map(|port| port.spec.security_groups.clone()).unwrap_or_default();
        if groups.is_empty() {
            self.step(at, format!("VM '{}' has no security group: everything passes", place.vm.name()));
            return true;
        }
        let mut any = false;
        for name in &groups {
            let Some(group) = self.tables.security_groups.get(name.as_str()) else { continue };
            for rule in group.spec.rules.iter().filter(|rule| rule.direction == direction) {
                any = true;
                if self.allows(rule, peer, network) {
                    self.step(at, format!("allowed by security-group '{name}': {rule}"));
                    return true;
                }
            }
        }
        if direction == Direction::Egress && !any {
            self.step(at, "no security group of the sender has a rule for egress: everything may leave".to_owned());
            return true;
        }
        let names: Vec<_> = groups.iter().map(|name| format!("'{name}'")).collect();
        self.step(at, format!("dropped: no rule of security-group {} allows it", names.join(", ")));
        false
    }

    fn allows(&self, rule: &GroupRule, peer: IpAddr, network: &Network) -> bool {
        let protocol = rule.protocol == Protocol::Any || rule.protocol == self.protocol;
        let ports = rule.ports.is_none_or(|ports| self.port.is_some_and(|port| ports.contains(port)));
        let peer = match (&rule.cidr, &rule.group, &rule.address_set) {
            (Some(cidr), _, _) => cidr.contains(&peer),
            (_, Some(group), _) => self.is_member(group, peer, network),
            (_, _, Some(set)) => {
                let set = self.tables.address_sets.get(set.as_str());
                set.is_some_and(|set| set.spec.addresses.iter().any(|addresses| addresses.0.contains(&peer)))
            }
            (None, None, None) => true,
        };
        protocol && ports && peer
    }

    fn is_member(&self, group: &Name, peer: IpAddr, network: &Network) -> bool {
        let has_group = |nic: &NicStatus| {
            let port = self.tables.ports.values().find(|port| port.metadata.uuid == nic.port);
            port.is_some_and(|port| port.spec.security_groups.contains(group))
        };
        let mut nics = self.tables.vms.values().flat_map(|vm| &vm.status.nics);
        nics.any(|nic| {
            let own = self.tables.networks.get(nic.network.as_str());
            nic.addresses().any(|address| address == peer)
                && has_group(nic)
                && own.is_some_and(|own| seen_in(self.tables, own).contains(&network.status.vni))
        })
    }
}
