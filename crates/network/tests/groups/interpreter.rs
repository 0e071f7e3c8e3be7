//! A small nftables: what the kernel would do with a packet, for the expressions that the compiler writes. An expression
//! that it does not know is a failure of the test.

use std::net::IpAddr;

use gantry_network::ruleset::{Ruleset, Set};
use gantry_network::{MacAddress, bridge_name};
use gantry_types::gateway_mac;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::model::{Connection, Packet, Way};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
}

/// The verdict of the forward chains, in the order of their priorities.
pub fn judge(rules: &Ruleset, packet: &Packet) -> Verdict {
    let mut chains: Vec<_> =
        rules.chains.iter().filter_map(|(name, chain)| Some((chain.hook.as_ref()?, name))).collect();
    chains.sort_by_key(|(hook, _)| hook.priority);
    for (_, name) in chains.into_iter().filter(|(hook, _)| hook.hook == "forward") {
        if run(rules, name, packet) == Some(Verdict::Drop) {
            return Verdict::Drop;
        }
    }
    Verdict::Accept
}

/// Nothing if the chain has come to its end.
fn run(rules: &Ruleset, chain: &str, packet: &Packet) -> Option<Verdict> {
    for rule in &rules.chains[chain].rules {
        for statement in rule["expr"].as_array().unwrap() {
            let (word, value) = statement.as_object().unwrap().iter().next().unwrap();
            let target = match word.as_str() {
                "match" if holds(rules, value, packet) => None,
                "match" => break,
                "counter" | "mangle" => None,
                "accept" => return Some(Verdict::Accept),
                "drop" => return Some(Verdict::Drop),
                "jump" => Some(value["target"].as_str().unwrap().to_owned()),
                "vmap" => {
                    let Some(key) = read(&value["key"], packet) else { break };
                    let set = &rules.sets[value["data"].as_str().unwrap().trim_start_matches('@')];
                    assert_eq!(set.maps_to.as_deref(), Some("verdict"));
                    let found = set.values().find(|element| element[0] == key);
                    match found {
                        Some(element) => Some(element[1]["jump"]["target"].as_str().unwrap().to_owned()),
                        None => break,
                    }
                }
                other => panic!("an unknown statement: {other}"),
            };
            if let Some(verdict) = target.and_then(|target| run(rules, &target, packet)) {
                return Some(verdict);
            }
        }
    }
    None
}

fn holds(rules: &Ruleset, value: &Value, packet: &Packet) -> bool {
    let Some(left) = read(&value["left"], packet) else { return false };
    let found = match &value["right"] {
        Value::String(name) if name.starts_with('@') => in_set(&rules.sets[&name[1..]], &left),
        Value::Array(some) => some.contains(&left),
        right => is_in(right, &left),
    };
    match value["op"].as_str().unwrap() {
        "==" | "in" => found,
        "!=" => !found,
        other => panic!("an unknown comparison: {other}"),
    }
}

fn in_set(set: &Set, left: &Value) -> bool {
    set.values().any(|element| is_in(&element, left))
}

fn is_in(right: &Value, left: &Value) -> bool {
    if let Some(some) = right["set"].as_array() {
        return some.iter().any(|one| is_in(one, left));
    }
    if let Some(range) = right["range"].as_array() {
        return (range[0].as_u64()..=range[1].as_u64()).contains(&left.as_u64());
    }
    if let Some(prefix) = right.get("prefix") {
        let range = format!("{}/{}", prefix["addr"].as_str().unwrap(), prefix["len"]);
        let address: IpAddr = left.as_str().unwrap().parse().unwrap();
        return range.parse::<IpNet>().unwrap().contains(&address);
    }
    right == left
}

/// The router's address, if the frame's end on that way is the router.
fn end(packet: &Packet, way: Way) -> String {
    let mac = if packet.way == way { gateway_mac(packet.vni) } else { MacAddress([2, 0, 0, 0, 9, 9]) };
    mac.to_string()
}

/// A value of the packet; nothing if it has none, which ends the rule.
fn read(expression: &Value, packet: &Packet) -> Option<Value> {
    let (word, value) = expression.as_object().unwrap().iter().next().unwrap();
    let is_v4 = packet.source.is_ipv4();
    match word.as_str() {
        "concat" => {
            let parts: Option<Vec<_>> = value.as_array().unwrap().iter().map(|part| read(part, packet)).collect();
            Some(json!({"concat": parts?}))
        }
        "meta" => match value["key"].as_str().unwrap() {
            "iifname" => Some(json!(bridge_name(packet.vni))),
            "l4proto" => Some(json!(packet.protocol)),
            "nfproto" => Some(json!(if is_v4 { "ipv4" } else { "ipv6" })),
            other => panic!("an unknown meta key: {other}"),
        },
        "ct" => match (value["key"].as_str().unwrap(), packet.connection) {
            ("direction", Connection::Reply) => Some(json!("reply")),
            ("direction", _) => Some(json!("original")),
            ("state", Connection::New) => Some(json!("new")),
            ("state", Connection::Related) => Some(json!("related")),
            ("state", Connection::Established | Connection::Reply) => Some(json!("established")),
            (other, _) => panic!("an unknown ct key: {other}"),
        },
        "payload" => match (value["protocol"].as_str().unwrap(), value["field"].as_str().unwrap()) {
            ("ether", "saddr") => Some(json!(end(packet, Way::FromRouter))),
            ("ether", "daddr") => Some(json!(end(packet, Way::ToRouter))),
            ("ip", "saddr") => is_v4.then(|| json!(packet.source.to_string())),
            ("ip", "daddr") => is_v4.then(|| json!(packet.destination.to_string())),
            ("ip6", "saddr") => (!is_v4).then(|| json!(packet.source.to_string())),
            ("ip6", "daddr") => (!is_v4).then(|| json!(packet.destination.to_string())),
            // The model's pings are none of a neighbour's messages.
            ("icmpv6", "type") => (packet.protocol == "ipv6-icmp").then(|| json!("echo-request")),
            (protocol, "sport") => (packet.protocol == protocol).then(|| json!(packet.source_port)),
            (protocol, "dport") => (packet.protocol == protocol).then(|| json!(packet.destination_port)),
            other => panic!("an unknown field: {other:?}"),
        },
        other => panic!("an unknown expression: {other}"),
    }
}
