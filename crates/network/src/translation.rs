//! What a router translates: floating addresses, load balancers and what leaves the datacenter. Pure.
//!
//! A balanced connection is given a healthy member when it begins, at random, and keeps it: the kernel's table of
//! connections knows it, whatever becomes of the member's health. The member sees its client's own address, with two
//! exceptions, whose answers would miss the router that translated otherwise:
//! - a member that has been given itself sees the virtual address;
//! - who comes from outside, through a floating address, comes by one host ([`HostBalancer::floating`]), and members see
//!   that host's address in the external network.

use std::net::IpAddr;

use gantry_types::{ExternalLeg, HostBalancer, HostRouter, Listener};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::names;
use crate::ruleset::expression::*;
use crate::ruleset::{Chain, Hook, Ruleset, Set};

/// The table in a router's namespace. Of the balancers only the router's own matter.
pub fn table(router: &HostRouter, balancers: &[HostBalancer]) -> Ruleset {
    let mut table = Ruleset::default();
    let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
    for balancer in balancers.iter().filter(|balancer| balancer.router == router.uuid) {
        balance(balancer, router.external.as_ref(), &mut table, &mut inbound, &mut outbound);
    }
    if let Some(external) = &router.external {
        let same_family =
            |floating: &&gantry_types::HostFloatingIp| floating.address.is_ipv4() == floating.fixed.is_ipv4();
        for floating in router.floating.iter().filter(same_family) {
            let (outside, inside) = (floating.address, floating.fixed);
            inbound.push(rule(vec![at("daddr", outside), counted(), to_address("dnat", inside)]));
            outbound.push(rule(vec![leaves(), at("saddr", inside), counted(), to_address("snat", outside)]));
        }
        for host in &external.balancing_hosts {
            outbound.insert(0, rule(vec![leaves(), at("daddr", *host), accept()]));
        }
        outbound.extend(if external.snat { masquerade(external) } else { Vec::new() });
    }
    if balancers.iter().any(|balancer| balancer.router == router.uuid && balancer.address.is_ipv6()) {
        table.chains.insert("output".to_owned(), Chain::at(Hook::new("filter", "output", 0), vec![no_redirects()]));
    }
    if inbound.is_empty() && outbound.is_empty() {
        return Ruleset::default();
    }
    let chain = |hook: &str, priority: i32, rules: Vec<Value>| Chain::at(Hook::new("nat", hook, priority), rules);
    table.chains.insert("prerouting".to_owned(), chain("prerouting", -100, inbound));
    table.chains.insert("postrouting".to_owned(), chain("postrouting", 100, outbound));
    table
}

/// What a load balancer gives to a member in its client's network is not to go there the shorter way. IPv6 has no setting
/// for it as IPv4 has.
fn no_redirects() -> Value {
    rule(vec![is(payload("icmpv6", "type"), json!("nd-redirect")), counted(), drop()])
}

fn leaves() -> Value {
    is(meta("oifname"), json!(names::INNER_EXTERNAL_LEG))
}

fn at(field: &str, address: IpAddr) -> Value {
    is(payload(family(address), field), json!(address.to_string()))
}

fn to_address(how: &str, to: IpAddr) -> Value {
    json!({how: {"family": family(to), "addr": to.to_string()}})
}

/// The first packet of its connection was addressed to `address`.
fn began_at(address: IpAddr) -> Value {
    is(json!({"ct": {"key": format!("{} daddr", family(address)), "dir": "original"}}), json!(address.to_string()))
}

fn masquerade(external: &ExternalLeg) -> Vec<Value> {
    let own = |is_v4: bool| external.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == is_v4);
    let rules = [true, false].into_iter().filter_map(|is_v4| {
        let protocol = is(meta("nfproto"), json!(if is_v4 { "ipv4" } else { "ipv6" }));
        Some(rule(vec![leaves(), protocol, counted(), to_address("snat", own(is_v4)?)]))
    });
    rules.collect()
}

fn balance(
    balancer: &HostBalancer,
    external: Option<&ExternalLeg>,
    table: &mut Ruleset,
    inbound: &mut Vec<Value>,
    outbound: &mut Vec<Value>,
) {
    let mut healthy: Vec<IpAddr> = balancer.members.iter().filter(|m| m.healthy).map(|m| m.address).collect();
    healthy.sort_unstable();
    healthy.dedup();
    // Without a healthy member nothing is translated: the router itself refuses the connection.
    if !healthy.is_empty() {
        for outside in [balancer.address].iter().chain(&balancer.floating) {
            inbound.extend(balancer.listeners.iter().map(|listener| spread(*outside, listener, &healthy)));
        }
    }
    // Also for members that are not healthy any more: their connections go on.
    let kind = if balancer.address.is_ipv4() { "ipv4_addr" } else { "ipv6_addr" };
    let name = format!("self-{}", balancer.uuid.simple());
    let mut to_itself = Set::new(&[kind, kind], false);
    for member in &balancer.members {
        let address = json!(member.address.to_string());
        to_itself.insert(&concat(&[address.clone(), address]));
    }
    let protocol = family(balancer.address);
    let ends = concat(&[payload(protocol, "saddr"), payload(protocol, "daddr")]);
    let itself = vec![in_set(ends, &name), began_at(balancer.address), counted()];
    outbound.push(rule([itself, vec![to_address("snat", balancer.address)]].concat()));
    table.sets.insert(name, to_itself);
    for floating in &balancer.floating {
        let own = external.iter().flat_map(|external| &external.addresses).map(IpNet::addr);
        if let Some(own) = { own }.find(|own| own.is_ipv4() == floating.is_ipv4()) {
            outbound.push(rule(vec![began_at(*floating), counted(), to_address("snat", own)]));
        }
    }
}

/// A new connection to a listener, to one of `members`.
fn spread(address: IpAddr, listener: &Listener, members: &[IpAddr]) -> Value {
    let to = match members {
        [only] => json!(only.to_string()),
        members => {
            let numbered: Vec<Value> =
                members.iter().enumerate().map(|(number, member)| json!([number, member.to_string()])).collect();
            let number = json!({"numgen": {"mode": "random", "mod": members.len(), "offset": 0}});
            json!({"map": {"key": number, "data": {"set": numbered}}})
        }
    };
    let to = json!({"dnat": {"family": family(address), "addr": to, "port": listener.target_port()}});
    let port = is(payload(listener.protocol.name(), "dport"), json!(listener.port));
    rule(vec![at("daddr", address), port, counted(), to])
}
