//! Security groups as a rule set. Pure.
//!
//! ```text
//!   prerouting, raw     zones: the bridge a packet comes in on decides its connection tracking zone
//!   forward, filter−1   egress:   replies → (bridge, source)      → profile → its groups' chains → always → drop
//!   forward, filter     ingress:  replies → (bridge, destination) → profile → its groups' chains → always → drop
//! ```
//! The order is that of how often it decides: each rule costs every packet that passes it. `egress` is there only if a
//! group here has a rule for it, and a rule compares ports before it looks up its peer.
//!
//! The kernel shows bridged packets to these chains (br_netfilter) with the bridge as interface: it is the network, so
//! equal addresses in different networks are different ports. That a packet has its sender's own address is the guards'
//! business. A *profile* is a combination of groups: ports with the same groups share its chain, so rules grow with the
//! groups in use here and one map element with each local port's address. Whom a rule names by group or address set is
//! in a set of its own, which changes without any rule.
//!
//! Answers are let through because of what was let through before (`ct direction reply`); everything else is looked up,
//! also what belongs to an established flow. So a rule that is taken back cuts the flows that it allowed, and a flow that
//! a rule allows survives the loss of the table of connections.
//!
//! What comes from a router was asked about where it was sent, in its sender's network, and what goes to one is asked about
//! when it comes back from it: an answer that a load balancer's address has to be put back into ([`crate::steering`]) is
//! known only then.
//!
//! Always allowed: messages about what was let through (`related`), what IPv6 neighbours, routers and multicast listeners
//! need, DHCP, and the services at the link-local address. ARP never comes here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gantry_types::{
    Direction, HostGroup, HostGroupRule, HostNetworks, HostPeer, LocalPort, PeerAddresses, PeerSet, Protocol,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::desired::NetworkDevices;
use crate::ruleset::expression::*;
use crate::ruleset::{Chain, Hook, Ruleset, Set};

/// Where a host's own services answer its guests.
pub const SERVICE_ADDRESSES: [&str; 3] = ["169.254.169.254", "fd00:ec2::254", "fe80::a9fe:a9fe"];
const ALWAYS: &str = "always";
/// The set of routers' addresses on those bridges.
const ROUTERS: &str = "routers";

/// The name of the counter of a group's rule.
pub fn counter_name(group: Uuid, rule: &HostGroupRule) -> String {
    format!("r{}", Uuid::new_v5(&group, rule_text(rule).as_bytes()).simple())
}

/// What decides: two rules of one text are one rule.
fn rule_text(rule: &HostGroupRule) -> String {
    let toward = match rule.direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    let ports = rule.ports.map_or_else(String::new, |ports| format!(" {ports}"));
    let peer = match &rule.peer {
        HostPeer::Anyone => "anyone".to_owned(),
        HostPeer::Cidr(range) => range.to_string(),
        HostPeer::Set(set) => set.uuid.to_string(),
    };
    format!("{toward} {}{ports} {peer}", rule.protocol)
}

/// The rules for this host's ports; empty if none of them has a group.
pub fn compile(desired: &HostNetworks) -> Ruleset {
    let groups: BTreeMap<Uuid, &HostGroup> = desired.groups.iter().map(|group| (group.uuid, group)).collect();
    let mut rules = Ruleset::default();
    let mut zones = Vec::new();
    let mut maps: BTreeMap<(Direction, bool), Set> = BTreeMap::new();
    for network in &desired.networks {
        let bridge = network.bridge();
        let guarded: Vec<&LocalPort> = network.local.iter().filter(|port| !port.groups.is_empty()).collect();
        if guarded.is_empty() {
            continue;
        }
        zones.push(json!([bridge, network.ct_zone()]));
        for port in guarded {
            let profile = Profile::of(port, &groups);
            for direction in [Direction::Ingress, Direction::Egress] {
                if !profile.restricts(direction) {
                    continue;
                }
                profile.add_to(&mut rules, direction);
                let chain = profile.chain(direction);
                for address in addresses_of(port) {
                    let kind = if address.is_ipv4() { "ipv4_addr" } else { "ipv6_addr" };
                    let map = maps.entry((direction, address.is_ipv4()));
                    let key = concat(&[json!(bridge), json!(address.to_string())]);
                    map.or_insert_with(|| Set::verdicts(&["ifname", kind])).insert(&json!([key, jump(&chain)]));
                }
            }
        }
    }
    if zones.is_empty() {
        return Ruleset::default();
    }
    let mut routers = Set::new(&["ifname", "ether_addr"], false);
    for leg in desired.routers.iter().flat_map(|router| &router.legs) {
        routers.insert(&concat(&[json!(crate::names::bridge_name(leg.vni)), json!(leg.mac.to_string())]));
    }
    let has_routers = !routers.elements.is_empty();
    if has_routers {
        rules.sets.insert(ROUTERS.to_owned(), routers);
    }
    rules.chains.insert("zones".to_owned(), Chain::at(Hook::new("filter", "prerouting", -300), vec![zone_of(zones)]));
    rules.chains.insert(ALWAYS.to_owned(), Chain::of(always()));
    for (name, direction, priority) in [("egress", Direction::Egress, -1), ("ingress", Direction::Ingress, 0)] {
        let families = [true, false].into_iter().filter(|is_v4| maps.contains_key(&(direction, *is_v4)));
        let looked_up = looked_up(direction, families, has_routers);
        if !looked_up.is_empty() {
            rules.chains.insert(name.to_owned(), Chain::at(Hook::new("filter", "forward", priority), looked_up));
        }
    }
    for ((direction, is_v4), map) in maps {
        rules.sets.insert(map_name(direction, is_v4), map);
    }
    rules
}

/// By one look into a map, however many networks there are.
fn zone_of(mut zones: Vec<Value>) -> Value {
    zones.sort_by_key(Value::to_string);
    let zone = json!({"map": {"key": meta("iifname"), "data": {"set": zones}}});
    rule(vec![json!({"mangle": {"key": ct("zone"), "value": zone}})])
}

/// A port's own, and the link-local one that belongs to its MAC.
fn addresses_of(port: &LocalPort) -> impl Iterator<Item = IpAddr> {
    use crate::mac::EthernetAddress;
    port.addresses.iter().copied().chain([IpAddr::V6(port.mac.link_local())])
}

fn map_name(direction: Direction, is_v4: bool) -> String {
    let way = if direction == Direction::Ingress { "in" } else { "out" };
    format!("{way}{}", if is_v4 { 4 } else { 6 })
}

/// What a direction's packets pass; nothing if no port here restricts it. Only what belongs to a connection has a direction,
/// so an answer needs no more to be known.
fn looked_up(direction: Direction, families: impl Iterator<Item = bool>, has_routers: bool) -> Vec<Value> {
    let field = if direction == Direction::Ingress { "daddr" } else { "saddr" };
    let by = |is_v4: bool| {
        let key = concat(&[meta("iifname"), payload(if is_v4 { "ip" } else { "ip6" }, field)]);
        rule(vec![verdict_by(key, &map_name(direction, is_v4))])
    };
    let maps: Vec<_> = families.map(by).collect();
    if maps.is_empty() {
        return maps;
    }
    let answers = rule(vec![is(ct("direction"), json!("reply")), accept()]);
    let own_end = concat(&[meta("iifname"), payload("ether", field)]);
    let routers = has_routers.then(|| rule(vec![in_set(own_end, ROUTERS), accept()]));
    [answers].into_iter().chain(routers).chain(maps).collect()
}

fn always() -> Vec<Value> {
    let neighbours = [
        "mld-listener-query",
        "mld-listener-report",
        "mld-listener-done",
        "mld2-listener-report",
        "nd-neighbor-advert",
        "nd-neighbor-solicit",
        "nd-router-advert",
        "nd-router-solicit",
    ];
    let ports = |source: u16, destination: u16| {
        rule(vec![
            is(payload("udp", "sport"), json!(source)),
            is(payload("udp", "dport"), json!(destination)),
            accept(),
        ])
    };
    let mut rules = vec![
        rule(vec![is(payload("icmpv6", "type"), one_of(neighbours.map(|name| json!(name)).to_vec())), accept()]),
        ports(67, 68),
        ports(68, 67),
        ports(546, 547),
        ports(547, 546),
    ];
    for address in SERVICE_ADDRESSES {
        let protocol = if address.contains(':') { "ip6" } else { "ip" };
        // No guest has these addresses: this is the host that looks whether a load balancer's member serves.
        rules.push(rule(vec![
            is(payload(protocol, "saddr"), json!(address)),
            is(meta("l4proto"), json!("tcp")),
            accept(),
        ]));
        let to = || is(payload(protocol, "daddr"), json!(address));
        let from = is(payload(protocol, "saddr"), json!(address));
        rules.push(rule(vec![to(), is(payload("tcp", "dport"), one_of(vec![json!(53), json!(80)])), accept()]));
        rules.push(rule(vec![to(), is(payload("udp", "dport"), json!(53)), accept()]));
        rules.push(rule(vec![from, is(payload("udp", "sport"), json!(53)), accept()]));
    }
    rules.push(rule(vec![state_is(&["related"]), accept()]));
    rules
}

/// A combination of groups.
struct Profile<'a> {
    groups: Vec<&'a HostGroup>,
    name: String,
}

impl<'a> Profile<'a> {
    /// A group that is not known allows nothing.
    fn of(port: &LocalPort, groups: &BTreeMap<Uuid, &'a HostGroup>) -> Self {
        let ids: BTreeSet<Uuid> = port.groups.iter().copied().collect();
        let text: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        let name = Uuid::new_v5(&Uuid::nil(), text.join(" ").as_bytes()).simple().to_string();
        Self { groups: ids.iter().filter_map(|id| groups.get(id).copied()).collect(), name }
    }

    fn chain(&self, direction: Direction) -> String {
        chain_name("p", &self.name, direction)
    }

    fn restricts(&self, direction: Direction) -> bool {
        let has_rule = |group: &&HostGroup| group.rules.iter().any(|rule| rule.direction == direction);
        direction == Direction::Ingress || self.groups.iter().any(has_rule)
    }

    fn add_to(&self, rules: &mut Ruleset, direction: Direction) {
        let name = self.chain(direction);
        if rules.chains.contains_key(&name) {
            return;
        }
        let mut jumps = Vec::new();
        for group in &self.groups {
            let chain = chain_name("g", &group.uuid.simple().to_string(), direction);
            if !rules.chains.contains_key(&chain) {
                let compiled = compile_group(group, direction, rules);
                rules.chains.insert(chain.clone(), Chain::of(compiled));
            }
            jumps.push(rule(vec![jump(&chain)]));
        }
        jumps.push(rule(vec![jump(ALWAYS)]));
        let names: Vec<_> = self.groups.iter().map(|group| group.name.as_str()).collect();
        jumps.push(commented(&clipped(&format!("allowed by none of: {}", names.join(" "))), vec![counted(), drop()]));
        rules.chains.insert(name, Chain::of(jumps));
    }
}

fn chain_name(kind: &str, id: &str, direction: Direction) -> String {
    let way = if direction == Direction::Ingress { "in" } else { "out" };
    format!("{kind}{id}-{way}")
}

/// nft takes comments of up to 128 bytes.
fn clipped(text: &str) -> String {
    text.chars().take(120).collect()
}

fn compile_group(group: &HostGroup, direction: Direction, rules: &mut Ruleset) -> Vec<Value> {
    let mut compiled = Vec::new();
    let wanted: BTreeSet<&HostGroupRule> = group.rules.iter().filter(|rule| rule.direction == direction).collect();
    for one in wanted {
        let counter = counter_name(group.uuid, one);
        // Two rules may have one text and differ in a set's content that is on its way.
        if !rules.counters.insert(counter.clone()) {
            continue;
        }
        let comment = clipped(&format!("{}: {}", group.name, rule_text(one)));
        for peer in peer_matches(one, rules) {
            let mut matches: Vec<_> = protocol_match(one).into_iter().chain(peer).collect();
            matches.extend([counted_as(&counter), accept()]);
            compiled.push(commented(&comment, matches));
        }
    }
    compiled
}

fn protocol_match(rule: &HostGroupRule) -> Option<Value> {
    match (rule.protocol, rule.ports) {
        (Protocol::Any, _) => None,
        (Protocol::Icmp, _) => Some(is(meta("l4proto"), one_of(vec![json!("icmp"), json!("ipv6-icmp")]))),
        (protocol, None) => Some(is(meta("l4proto"), json!(protocol.name()))),
        (protocol, Some(ports)) => {
            let wanted = if ports.first == ports.last {
                json!(ports.first)
            } else {
                json!({"range": [ports.first, ports.last]})
            };
            Some(is(payload(protocol.name(), "dport"), wanted))
        }
    }
}

/// The matches of each rule that one rule becomes: one for each address family that its peer can be of.
fn peer_matches(one: &HostGroupRule, rules: &mut Ruleset) -> Vec<Vec<Value>> {
    let field = if one.direction == Direction::Ingress { "saddr" } else { "daddr" };
    match &one.peer {
        HostPeer::Anyone => vec![vec![]],
        HostPeer::Cidr(net) if net.prefix_len() == 0 => {
            let protocol = if net.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            vec![vec![is(meta("nfproto"), json!(protocol))]]
        }
        HostPeer::Cidr(net) => vec![vec![is(payload(family(net.addr()), field), range(*net))]],
        HostPeer::Set(set) => [("ip", 4), ("ip6", 6)]
            .into_iter()
            .map(|(protocol, number)| {
                let name = add_peers(set, number == 4, rules);
                let address = payload(protocol, field);
                let key = match set.addresses {
                    PeerAddresses::Everywhere(_) => address,
                    PeerAddresses::InNetworks(_) => concat(&[meta("iifname"), address]),
                };
                vec![in_set(key, &name)]
            })
            .collect(),
    }
}

/// Adds the set of a rule's peers of one family; returns its name.
fn add_peers(peers: &PeerSet, is_v4: bool, rules: &mut Ruleset) -> String {
    let kind = if is_v4 { "ipv4_addr" } else { "ipv6_addr" };
    let number = if is_v4 { 4 } else { 6 };
    match &peers.addresses {
        PeerAddresses::Everywhere(ranges) => {
            let name = format!("a{}-{number}", peers.uuid.simple());
            let set = rules.sets.entry(name.clone()).or_insert_with(|| Set::new(&[kind], true));
            for net in merged(ranges, is_v4) {
                set.insert(&range(net));
            }
            name
        }
        PeerAddresses::InNetworks(members) => {
            let name = format!("m{}-{number}", peers.uuid.simple());
            let set = rules.sets.entry(name.clone()).or_insert_with(|| Set::new(&["ifname", kind], false));
            for (vni, address) in members.iter().filter(|(_, address)| address.is_ipv4() == is_v4) {
                set.insert(&concat(&[json!(crate::names::bridge_name(*vni)), json!(address.to_string())]));
            }
            name
        }
    }
}

/// Ranges of one family that neither overlap nor touch where one would do: the kernel refuses overlaps.
fn merged(ranges: &[IpNet], is_v4: bool) -> Vec<IpNet> {
    if is_v4 {
        let own = ranges.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None });
        Ipv4Net::aggregate(&own.collect()).into_iter().map(IpNet::V4).collect()
    } else {
        let own = ranges.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None });
        Ipv6Net::aggregate(&own.collect()).into_iter().map(IpNet::V6).collect()
    }
}
