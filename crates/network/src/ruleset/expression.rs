//! nft expressions and statements in JSON, as nft 1.0 lists them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

pub fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

pub fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

pub fn ct(key: &str) -> Value {
    json!({"ct": {"key": key}})
}

pub fn concat(parts: &[Value]) -> Value {
    json!({"concat": parts})
}

pub fn is(left: Value, right: Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

pub fn is_not(left: Value, right: Value) -> Value {
    json!({"match": {"op": "!=", "left": left, "right": right}})
}

/// nft rewrites a set of one element to a plain comparison.
pub fn one_of(values: Vec<Value>) -> Value {
    match <[Value; 1]>::try_from(values) {
        Ok([single]) => single,
        Err(mut values) => {
            values.sort_by_key(Value::to_string);
            json!({"set": values})
        }
    }
}

pub fn in_set(left: Value, set: &str) -> Value {
    is(left, json!(format!("@{set}")))
}

pub fn state_is(states: &[&str]) -> Value {
    let right = if let [single] = states { json!(single) } else { json!(states) };
    json!({"match": {"op": "in", "left": ct("state"), "right": right}})
}

pub fn verdict_by(key: Value, map: &str) -> Value {
    json!({"vmap": {"key": key, "data": format!("@{map}")}})
}

pub fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}

pub fn accept() -> Value {
    json!({"accept": null})
}

pub fn drop() -> Value {
    json!({"drop": null})
}

/// Counts by itself, from zero whenever its chain is written.
pub fn counted() -> Value {
    json!({"counter": null})
}

/// Counts in a named counter.
pub fn counted_as(name: &str) -> Value {
    json!({"counter": name})
}

pub fn rule(expressions: Vec<Value>) -> Value {
    json!({"expr": expressions})
}

/// The comment tells people, also in counters, what it is for.
pub fn commented(comment: &str, expressions: Vec<Value>) -> Value {
    json!({"comment": comment, "expr": expressions})
}

/// `ip` or `ip6`.
pub fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// A range of addresses as a set's element or the right side of a match.
pub fn range(range: IpNet) -> Value {
    if range.prefix_len() == range.max_prefix_len() {
        json!(range.addr().to_string())
    } else {
        json!({"prefix": {"addr": range.network().to_string(), "len": range.prefix_len()}})
    }
}
