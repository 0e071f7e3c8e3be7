//! Frames that have to take another way on a bridge than the one they are addressed to. Pure.
//!
//! ```text
//!   client ── gb ── router: virtual address → member ── gb ══ member
//!   client ◀─ gb ── router ◀── here ─────────────────── gb ══ member's answer, addressed to the client
//! ```
//! A balanced connection is translated by the router on the host of its client, and nowhere else. A member of another
//! network answers through its own gateway, which is its own host's; one of the client's network answers the client
//! itself. Either way the answer reaches the client's bridge from outside, and is sent to the router there: it puts the
//! virtual address back. What was not balanced comes out of it as it was.
//!
//! One table of the family `bridge` before everything else that looks at frames, by maps without state: where members
//! are does not matter to them, so they need no change when one moves.

use std::collections::BTreeMap;

use gantry_types::{HostBalancer, HostNetworks, MacAddress};
use serde_json::{Value, json};

use crate::desired::PortDevice;
use crate::names;
use crate::ruleset::expression::*;
use crate::ruleset::{Chain, Hook, Ruleset, Set};
use crate::target::{SERVICES_V4, SERVICES_V6};

/// Before br_netfilter (0) and the usual place of address translation (−300).
const PRIORITY: i32 = -310;

/// The table; empty on a host without load balancers.
pub fn compile(desired: &HostNetworks) -> Ruleset {
    let mut rules = Vec::new();
    let mut table = Ruleset::default();
    for (is_v4, name, protocol, kind) in [(true, "back4", "ip", "ipv4_addr"), (false, "back6", "ip6", "ipv6_addr")] {
        let mut back = Set::map(&["ifname", kind, "inet_proto", "inet_service"], "ether_addr");
        for balancer in desired.balancers.iter().filter(|balancer| balancer.address.is_ipv4() == is_v4) {
            add_ways_back(&mut back, desired, balancer);
        }
        if !back.elements.is_empty() {
            let answer = [meta("iifname"), payload(protocol, "saddr"), meta("l4proto"), payload("th", "sport")];
            // Its own host asks whether it serves; that has nothing to do with the router.
            let services = if is_v4 { SERVICES_V4.to_string() } else { SERVICES_V6.to_string() };
            let is_connection = is_not(payload(protocol, "daddr"), json!(services));
            rules.push(rule(vec![is_connection, send_to(concat(&answer), name)]));
            table.sets.insert(name.to_owned(), back);
        }
    }
    if !rules.is_empty() {
        table.chains.insert("steer".to_owned(), Chain::at(Hook::new("filter", "prerouting", PRIORITY), rules));
    }
    table
}

/// The MAC that a map has for the frame becomes its destination; a frame that is not in the map goes on as it is.
fn send_to(key: Value, map: &str) -> Value {
    let destination = json!({"payload": {"protocol": "ether", "field": "daddr"}});
    json!({"mangle": {"key": destination, "value": {"map": {"key": key, "data": format!("@{map}")}}}})
}

/// From wherever a member's answer comes into one of the networks: from another host, or from the member itself.
fn add_ways_back(back: &mut Set, desired: &HostNetworks, balancer: &HostBalancer) {
    let Some(router) = desired.routers.iter().find(|router| router.uuid == balancer.router) else { return };
    let legs: BTreeMap<u32, MacAddress> = router.legs.iter().map(|leg| (leg.vni, leg.mac)).collect();
    for member in &balancer.members {
        let own = desired.networks.iter().find(|network| network.vni == member.vni);
        let own = own.and_then(|network| network.local.iter().find(|port| port.id == member.port));
        let tap = own.and_then(|port| Some((port.tap(), *legs.get(&member.vni)?)));
        let ways = legs.iter().map(|(vni, mac)| (names::vxlan_name(*vni), *mac)).chain(tap);
        for (device, mac) in ways {
            for listener in &balancer.listeners {
                let answer = [
                    json!(device),
                    json!(member.address.to_string()),
                    json!(listener.protocol.name()),
                    json!(listener.target_port()),
                ];
                back.insert(&json!([concat(&answer), mac.to_string()]));
            }
        }
    }
}
