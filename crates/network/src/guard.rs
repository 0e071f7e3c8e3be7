//! Anti-spoofing rules as nft JSON, and the chain's canonical form for comparison.
//!
//! A tap has a chain before the bridge, for what its guest sends. One with security groups has a second chain behind the
//! bridge: frames to many (broadcast, multicast) are copied to each port after the groups were asked, so what a guest may
//! get of them is decided there, without state.
//!
//! Rules are written exactly as nft 1.0 lists them, so that "is it there?" is an equality and a rule changed or
//! removed by hand is seen. Handles and counter values are stripped, set elements sorted.
//!
//! What a tap's chain drops counts for its reason, and in one named counter for the port, which is quick to list and
//! outlives a chain that is written anew.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::desired::{LocalPort, PortDevice};
use crate::groups::SERVICE_ADDRESSES;
use crate::mac::EthernetAddress;
use crate::names::services_mac;
use crate::observed::Guard;

/// The nft table that holds every guard; its family is `netdev`.
pub const TABLE: &str = crate::ruleset::TABLE;
/// Before every chain a person is likely to add.
pub const PRIORITY: i32 = -500;

const RARP: u16 = 0x8035;
const DELIVERY: &str = "-out";

/// The guard before the tap of a port in network `vni`: what the guest sends passes only under its own MAC and addresses.
/// What it sends to the services' addresses goes to them, also when it knows no better than to give it to its gateway.
pub fn port_guard(vni: u32, port: &LocalPort) -> Guard {
    let mac = port.mac.to_string();
    let v4 = port.addresses.iter().filter(|a| a.is_ipv4()).map(IpAddr::to_string).collect::<Vec<_>>();
    let mut v6 =
        port.addresses.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None }).collect::<Vec<_>>();
    v6.push(port.mac.link_local());
    let v6_targets = v6.iter().map(|a| format!("{:#034x}", u128::from(*a))).collect();
    let v6 = v6.iter().map(ToString::to_string).collect::<Vec<_>>();
    // An address probe (RFC 5227) has the sender 0.0.0.0.
    let arp_senders = v4.iter().cloned().chain(["0.0.0.0".to_owned()]).collect();

    // The client's hardware address in a DHCP request (RFC 2131), 28 octets into the message: who asks for another's
    // lease gets nothing.
    let client = json!({"payload": {"base": "th", "offset": 288, "len": 48}});
    let own = port.mac.0.iter().fold(0u64, |number, octet| number << 8 | u64::from(*octet));

    let counter = port.tap();
    let lie = |reason: &str, matches: Vec<Value>| dropping(reason, matches, Some(&counter));
    let mut rules = vec![
        lie("mac", vec![is_not(payload("ether", "saddr"), vec![mac.clone()])]),
        lie("arp", vec![is_not(payload("arp", "saddr ether"), vec![mac])]),
        lie("arp", vec![is_not(payload("arp", "saddr ip"), arp_senders)]),
        accept_rule(vec![is(payload("ether", "type"), json!("arp"))]),
        accept_rule(vec![is(payload("ether", "type"), json!(RARP))]),
        // Guests are no DHCP servers, of either family.
        lie("dhcp", vec![is(payload("udp", "sport"), json!({"set": [547, 67]}))]),
        lie(
            "dhcp",
            vec![is(payload("udp", "dport"), json!(67)), json!({"match": {"op": "!=", "left": client, "right": own}})],
        ),
        accept_rule(vec![
            is(payload("ip", "saddr"), json!("0.0.0.0")),
            is(payload("udp", "sport"), json!(68)),
            is(payload("udp", "dport"), json!(67)),
        ]),
    ];
    rules.extend(SERVICE_ADDRESSES.map(|address| to_services(vni, address)));
    if v4.is_empty() {
        rules.push(lie("ipv4", vec![is(payload("ether", "type"), json!("ip"))]));
    } else {
        rules.push(lie("ipv4", vec![is_not(payload("ip", "saddr"), v4)]));
        rules.push(accept_rule(vec![is(payload("ether", "type"), json!("ip"))]));
    }
    rules.extend([
        // Guests are no routers.
        lie("router", vec![is(icmpv6_type(), json!({"set": ["nd-router-advert", "nd-redirect"]}))]),
        // Duplicate address detection and multicast reports come from the unspecified address.
        accept_rule(vec![
            is(payload("ip6", "saddr"), json!("::")),
            is(icmpv6_type(), json!({"set": ["nd-neighbor-solicit", "nd-router-solicit", "mld2-listener-report"]})),
        ]),
        lie("ipv6", vec![is_not(payload("ip6", "saddr"), v6)]),
        lie(
            "neighbour",
            vec![
                is(icmpv6_type(), json!("nd-neighbor-advert")),
                is_not(json!({"payload": {"base": "th", "offset": 64, "len": 128}}), v6_targets),
            ],
        ),
        accept_rule(vec![is(payload("ether", "type"), json!("ip6"))]),
        lie("other", vec![]),
    ]);
    canonical(Guard { drops_by_default: true, rules })
}

/// The chain behind the bridge of a port with security groups: of what is sent to many it gets only what it needs to find
/// its neighbours, its router and its address.
pub fn delivery_guard() -> Guard {
    let group_bit = "01:00:00:00:00:00";
    let to_many = json!({"match": {
        "op": "!=",
        "left": {"&": [payload("ether", "daddr"), group_bit]},
        "right": group_bit,
    }});
    let neighbours = ["mld-listener-query", "nd-neighbor-advert", "nd-neighbor-solicit", "nd-router-advert"];
    let rules = vec![
        accept_rule(vec![to_many]),
        accept_rule(vec![is(payload("ether", "type"), json!("arp"))]),
        accept_rule(vec![is(icmpv6_type(), json!({"set": neighbours}))]),
        accept_rule(vec![is(payload("udp", "sport"), json!({"set": [547, 67]}))]),
        drop_rule("to many", vec![]),
    ];
    canonical(Guard { drops_by_default: true, rules })
}

/// The guard before a bridge device: what guests address to the host itself is dropped.
pub fn host_guard() -> Guard {
    Guard { drops_by_default: true, rules: vec![drop_rule("host", vec![])] }
}

/// The name of the chain behind the bridge; the one before it is named as its device.
pub fn delivery_name(device: &str) -> String {
    format!("{device}{DELIVERY}")
}

/// The device of a chain.
pub fn device_of(chain: &str) -> &str {
    chain.strip_suffix(DELIVERY).unwrap_or(chain)
}

/// The hook that a chain has by its name.
pub fn hook_of(chain: &str) -> &'static str {
    if chain.ends_with(DELIVERY) { "egress" } else { "ingress" }
}

/// Strips what changes by itself and sorts what has no order.
pub fn canonical(mut guard: Guard) -> Guard {
    guard.rules.iter_mut().for_each(canonicalise);
    guard
}

pub(crate) fn canonicalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // Named counters are named by a text.
            if let Some(counter) = map.get_mut("counter").filter(|counter| counter.is_object()) {
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
    let add_counter = |name: &str| json!({"add": {"counter": chain(name)}});
    let mut commands = vec![json!({"add": {"table": {"family": "netdev", "name": TABLE}}})];
    for device in remove {
        commands.push(json!({"flush": {"chain": chain(device)}}));
        commands.push(json!({"delete": {"chain": chain(device)}}));
        if device_of(device) == device {
            // Added first: what is not there can't be deleted, and a bridge's chain has none.
            commands.extend([add_counter(device), json!({"delete": {"counter": chain(device)}})]);
        }
    }
    for (device, guard) in set {
        if existing(device) {
            commands.push(json!({"flush": {"chain": chain(device)}}));
            commands.push(json!({"delete": {"chain": chain(device)}}));
        }
        let policy = if guard.drops_by_default { "drop" } else { "accept" };
        commands.push(json!({"add": {"chain": {
            "family": "netdev", "table": TABLE, "name": device,
            "type": "filter", "hook": hook_of(device), "dev": device_of(device), "prio": PRIORITY, "policy": policy,
        }}}));
        let mut counters: Vec<_> = guard.rules.iter().filter_map(named_counter).collect();
        counters.dedup();
        commands.extend(counters.into_iter().map(add_counter));
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

fn named_counter(rule: &Value) -> Option<&str> {
    rule["expr"].as_array()?.iter().find_map(|expression| expression["counter"].as_str())
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

fn to_services(vni: u32, address: &str) -> Value {
    let protocol = if address.contains(':') { "ip6" } else { "ip" };
    let to = json!({"mangle": {"key": payload("ether", "daddr"), "value": services_mac(vni).to_string()}});
    json!({"expr": [is(payload(protocol, "daddr"), json!(address)), to]})
}

fn accept_rule(mut matches: Vec<Value>) -> Value {
    matches.extend([json!({"counter": null}), json!({"accept": null})]);
    json!({"expr": matches})
}

/// The comment names the reason in counters and in `nft list`.
fn drop_rule(reason: &str, matches: Vec<Value>) -> Value {
    dropping(reason, matches, None)
}

fn dropping(reason: &str, mut matches: Vec<Value>, counter: Option<&str>) -> Value {
    let named = counter.map(|name| json!({"counter": name}));
    matches.extend([json!({"counter": null})].into_iter().chain(named).chain([json!({"drop": null})]));
    json!({"comment": reason, "expr": matches})
}
