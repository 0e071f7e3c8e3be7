//! Anti-spoofing rules as nft JSON, and the chain's canonical form for comparison.
//!
//! Rules are written exactly as nft 1.0 lists them, so that "is it there?" is an equality and a rule changed or
//! removed by hand is seen. Handles and counter values are stripped, set elements sorted.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::desired::LocalPort;
use crate::mac::EthernetAddress;
use crate::observed::Guard;

/// The nft table that holds every guard; its family is `netdev`.
pub const TABLE: &str = "gantry";
/// Before every chain a person is likely to add.
pub const PRIORITY: i32 = -500;

const RARP: u16 = 0x8035;

/// The guard before a port's tap: what the guest sends passes only under its own MAC and addresses.
pub fn port_guard(port: &LocalPort) -> Guard {
    let mac = port.mac.to_string();
    let v4 = port.addresses.iter().filter(|a| a.is_ipv4()).map(IpAddr::to_string).collect::<Vec<_>>();
    let mut v6 =
        port.addresses.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None }).collect::<Vec<_>>();
    v6.push(port.mac.link_local());
    let v6_targets = v6.iter().map(|a| format!("{:#034x}", u128::from(*a))).collect();
    let v6 = v6.iter().map(ToString::to_string).collect::<Vec<_>>();
    // An address probe (RFC 5227) has the sender 0.0.0.0.
    let arp_senders = v4.iter().cloned().chain(["0.0.0.0".to_owned()]).collect();

    let mut rules = vec![
        drop_rule("mac", vec![is_not(payload("ether", "saddr"), vec![mac.clone()])]),
        drop_rule("arp", vec![is_not(payload("arp", "saddr ether"), vec![mac])]),
        drop_rule("arp", vec![is_not(payload("arp", "saddr ip"), arp_senders)]),
        accept_rule(vec![is(payload("ether", "type"), json!("arp"))]),
        accept_rule(vec![is(payload("ether", "type"), json!(RARP))]),
        accept_rule(vec![
            is(payload("ip", "saddr"), json!("0.0.0.0")),
            is(payload("udp", "sport"), json!(68)),
            is(payload("udp", "dport"), json!(67)),
        ]),
    ];
    if v4.is_empty() {
        rules.push(drop_rule("ipv4", vec![is(payload("ether", "type"), json!("ip"))]));
    } else {
        rules.push(drop_rule("ipv4", vec![is_not(payload("ip", "saddr"), v4)]));
        rules.push(accept_rule(vec![is(payload("ether", "type"), json!("ip"))]));
    }
    rules.extend([
        // Guests are neither routers nor DHCP servers.
        drop_rule("router", vec![is(icmpv6_type(), json!({"set": ["nd-router-advert", "nd-redirect"]}))]),
        // Duplicate address detection and multicast reports come from the unspecified address.
        accept_rule(vec![
            is(payload("ip6", "saddr"), json!("::")),
            is(icmpv6_type(), json!({"set": ["nd-neighbor-solicit", "mld2-listener-report"]})),
        ]),
        drop_rule("ipv6", vec![is_not(payload("ip6", "saddr"), v6)]),
        drop_rule(
            "neighbour",
            vec![
                is(icmpv6_type(), json!("nd-neighbor-advert")),
                is_not(json!({"payload": {"base": "th", "offset": 64, "len": 128}}), v6_targets),
            ],
        ),
        accept_rule(vec![is(payload("ether", "type"), json!("ip6"))]),
        drop_rule("other", vec![]),
    ]);
    canonical(Guard { drops_by_default: true, rules })
}

/// The guard before a bridge device: what guests address to the host itself is dropped.
pub fn host_guard() -> Guard {
    Guard { drops_by_default: true, rules: vec![drop_rule("host", vec![])] }
}

/// Strips what changes by itself and sorts what has no order.
pub fn canonical(mut guard: Guard) -> Guard {
    guard.rules.iter_mut().for_each(canonicalise);
    guard
}

fn canonicalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(counter) = map.get_mut("counter") {
                *counter = Value::Null;
            }
            if let Some(Value::Array(elements)) = map.get_mut("set") {
                elements.sort_by_key(Value::to_string);
            }
            map.values_mut().for_each(canonicalise);
        }
        Value::Array(values) => values.iter_mut().for_each(canonicalise),
        _ => {}
    }
}

/// One transaction that removes `remove`'s chains and writes `set`'s; `existing` are chains that are there now.
pub fn transaction<'a>(
    existing: impl Fn(&str) -> bool,
    remove: &[String],
    set: impl IntoIterator<Item = (&'a String, &'a Guard)>,
) -> Value {
    let chain = |device: &str| json!({"family": "netdev", "table": TABLE, "name": device});
    let mut commands = vec![json!({"add": {"table": {"family": "netdev", "name": TABLE}}})];
    for device in remove {
        commands.push(json!({"flush": {"chain": chain(device)}}));
        commands.push(json!({"delete": {"chain": chain(device)}}));
    }
    for (device, guard) in set {
        if existing(device) {
            commands.push(json!({"flush": {"chain": chain(device)}}));
            commands.push(json!({"delete": {"chain": chain(device)}}));
        }
        let policy = if guard.drops_by_default { "drop" } else { "accept" };
        commands.push(json!({"add": {"chain": {
            "family": "netdev", "table": TABLE, "name": device,
            "type": "filter", "hook": "ingress", "dev": device, "prio": PRIORITY, "policy": policy,
        }}}));
        for rule in &guard.rules {
            let mut rule = rule.clone();
            rule["family"] = json!("netdev");
            rule["table"] = json!(TABLE);
            rule["chain"] = json!(device);
            commands.push(json!({"add": {"rule": rule}}));
        }
    }
    json!({"nftables": commands})
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn icmpv6_type() -> Value {
    payload("icmpv6", "type")
}

fn is(left: Value, right: Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

fn is_not(left: Value, mut values: Vec<String>) -> Value {
    // nft rewrites a set of one element to a plain comparison.
    let right = if values.len() == 1 { json!(values.remove(0)) } else { json!({"set": values}) };
    json!({"match": {"op": "!=", "left": left, "right": right}})
}

fn accept_rule(mut matches: Vec<Value>) -> Value {
    matches.extend([json!({"counter": null}), json!({"accept": null})]);
    json!({"expr": matches})
}

/// The comment names the reason in counters and in `nft list`.
fn drop_rule(reason: &str, mut matches: Vec<Value>) -> Value {
    matches.extend([json!({"counter": null}), json!({"drop": null})]);
    json!({"comment": reason, "expr": matches})
}
