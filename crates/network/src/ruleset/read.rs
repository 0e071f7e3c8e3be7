//! The table from `nft -j list ruleset FAMILY`.

use serde_json::{Map, Value};

use super::{Chain, Family, Hook, Ruleset, Set, TABLE};
use crate::guard::canonicalise;

pub fn ruleset(family: Family, listing: &Value) -> Ruleset {
    let mut found = Ruleset::default();
    for item in listing["nftables"].as_array().into_iter().flatten() {
        let ours =
            |kind: &str| item.get(kind).filter(|object| object["table"] == TABLE && object["family"] == family.word());
        if let Some(counter) = ours("counter") {
            found.counters.insert(text(&counter["name"]));
        } else if let Some(set) = ours("set").or_else(|| ours("map")) {
            found.sets.insert(text(&set["name"]), set_of(set));
        } else if let Some(chain) = ours("chain") {
            found.chains.insert(text(&chain["name"]), Chain { hook: hook_of(chain), rules: Vec::new() });
        } else if let Some(rule) = ours("rule") {
            let mut kept = Map::new();
            for key in ["comment", "expr"] {
                if let Some(value) = rule.get(key) {
                    kept.insert(key.to_owned(), value.clone());
                }
            }
            let mut kept = Value::Object(kept);
            canonicalise(&mut kept);
            if let Some(chain) = rule["chain"].as_str().and_then(|name| found.chains.get_mut(name)) {
                chain.rules.push(kept);
            }
        }
    }
    found
}

/// Packets and bytes of each named counter.
pub fn counters(listing: &Value) -> impl Iterator<Item = (String, u64, u64)> {
    let items = listing["nftables"].as_array().into_iter().flatten();
    let counters = items.filter_map(|item| item.get("counter")).filter(|counter| counter["table"] == TABLE);
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    counters.map(move |counter| (text(&counter["name"]), number(&counter["packets"]), number(&counter["bytes"])))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn hook_of(chain: &Value) -> Option<Hook> {
    let hook = chain["hook"].as_str()?;
    // A policy that is not ours makes it another chain.
    let kind = if chain["policy"] == "accept" { text(&chain["type"]) } else { format!("dropping {}", chain["type"]) };
    let priority = chain["prio"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or_default();
    Some(Hook { kind, hook: hook.to_owned(), priority })
}

fn set_of(set: &Value) -> Set {
    let key = match &set["type"] {
        Value::Array(parts) => parts.iter().map(text).collect(),
        single => vec![text(single)],
    };
    let flags = set["flags"].as_array();
    let interval = flags.is_some_and(|flags| flags.iter().any(|flag| flag == "interval"));
    let mut elements = set["elem"].as_array().cloned().unwrap_or_default();
    elements.iter_mut().for_each(canonicalise);
    let elements = elements.iter().map(Value::to_string).collect();
    Set { key, maps_to: set["map"].as_str().map(str::to_owned), interval, elements }
}
