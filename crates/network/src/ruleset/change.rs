//! From one state of the table to another in one transaction.

use serde_json::{Value, json};

use super::{Chain, Family, Ruleset, Set, TABLE};

/// Elements in one command; nft's JSON parser takes any number, its error messages do not.
const ELEMENTS_AT_ONCE: usize = 2000;

/// The commands that turn `actual` into `desired`; they happen together or not at all. Empty when both are equal.
pub fn commands(family: Family, actual: &Ruleset, desired: &Ruleset) -> Vec<Value> {
    if actual == desired {
        return Vec::new();
    }
    let table = json!({"family": family.word(), "name": TABLE});
    if desired.is_empty() {
        return vec![json!({"add": {"table": table}}), json!({"delete": {"table": table}})];
    }
    let mut commands = vec![json!({"add": {"table": table}})];
    // A thing whose kind is changed can't be kept while others refer to it. Nobody but a person makes one.
    let nothing = Ruleset::default();
    let actual = if keeps_kinds(actual, desired) {
        actual
    } else {
        commands.extend([json!({"delete": {"table": table}}), json!({"add": {"table": table}})]);
        &nothing
    };
    commands.extend(removals(family, actual, desired));
    commands.extend(additions(family, actual, desired));
    commands
}

/// The same as nft's input.
pub fn transaction(family: Family, actual: &Ruleset, desired: &Ruleset) -> Value {
    json!({"nftables": commands(family, actual, desired)})
}

fn keeps_kinds(actual: &Ruleset, desired: &Ruleset) -> bool {
    let sets = desired.sets.iter().all(|(name, set)| actual.sets.get(name).is_none_or(|had| had.has_type_of(set)));
    let chains = desired.chains.iter();
    sets && { chains }.all(|(name, chain)| actual.chains.get(name).is_none_or(|had| had.hook == chain.hook))
}

/// Rules first, then the elements that name chains, then what nothing refers to any more.
fn removals(family: Family, actual: &Ruleset, desired: &Ruleset) -> Vec<Value> {
    let mut commands = Vec::new();
    for (name, chain) in &actual.chains {
        if desired.chains.get(name) != Some(chain) && !chain.rules.is_empty() {
            commands.push(json!({"flush": {"chain": named(family, name)}}));
        }
    }
    for (name, set) in &actual.sets {
        let kept = desired.sets.get(name);
        let gone = |element: &&String| !kept.is_some_and(|kept| kept.elements.contains(*element));
        commands.extend(elements(family, "delete", name, set, set.elements.iter().filter(gone)));
    }
    for name in actual.chains.keys().filter(|name| !desired.chains.contains_key(*name)) {
        commands.push(json!({"delete": {"chain": named(family, name)}}));
    }
    for (name, set) in actual.sets.iter().filter(|(name, _)| !desired.sets.contains_key(*name)) {
        commands.push(json!({"delete": {word(set): named(family, name)}}));
    }
    for name in actual.counters.difference(&desired.counters) {
        commands.push(json!({"delete": {"counter": named(family, name)}}));
    }
    commands
}

fn additions(family: Family, actual: &Ruleset, desired: &Ruleset) -> Vec<Value> {
    let mut commands = Vec::new();
    for name in desired.counters.difference(&actual.counters) {
        commands.push(json!({"add": {"counter": named(family, name)}}));
    }
    for (name, set) in desired.sets.iter().filter(|(name, _)| !actual.sets.contains_key(*name)) {
        commands.push(json!({"add": {word(set): declared(family, name, set)}}));
    }
    for (name, chain) in desired.chains.iter().filter(|(name, _)| !actual.chains.contains_key(*name)) {
        commands.push(json!({"add": {"chain": hung(family, name, chain)}}));
    }
    for (name, set) in &desired.sets {
        let had = actual.sets.get(name);
        let new = |element: &&String| !had.is_some_and(|had| had.elements.contains(*element));
        commands.extend(elements(family, "add", name, set, set.elements.iter().filter(new)));
    }
    for (name, chain) in &desired.chains {
        if actual.chains.get(name) == Some(chain) {
            continue;
        }
        for rule in &chain.rules {
            let mut rule = rule.clone();
            (rule["family"], rule["table"], rule["chain"]) = (json!(family.word()), json!(TABLE), json!(name));
            commands.push(json!({"add": {"rule": rule}}));
        }
    }
    commands
}

fn named(family: Family, name: &str) -> Value {
    json!({"family": family.word(), "table": TABLE, "name": name})
}

fn word(set: &Set) -> &'static str {
    if set.maps_to.is_some() { "map" } else { "set" }
}

fn declared(family: Family, name: &str, set: &Set) -> Value {
    let mut value = named(family, name);
    value["type"] = if let [single] = &set.key[..] { json!(single) } else { json!(set.key) };
    if let Some(kind) = &set.maps_to {
        value["map"] = json!(kind);
    }
    if set.interval {
        value["flags"] = json!(["interval"]);
    }
    value
}

fn hung(family: Family, name: &str, chain: &Chain) -> Value {
    let mut value = named(family, name);
    if let Some(hook) = &chain.hook {
        (value["type"], value["hook"]) = (json!(hook.kind), json!(hook.hook));
        (value["prio"], value["policy"]) = (json!(hook.priority), json!("accept"));
    }
    value
}

fn elements<'a>(
    family: Family,
    verb: &'static str,
    name: &'a str,
    set: &Set,
    chosen: impl Iterator<Item = &'a String>,
) -> Vec<Value> {
    // A map's element is deleted by its key.
    let by_key = verb == "delete" && set.maps_to.is_some();
    let value = |text: &String| {
        let element: Value = serde_json::from_str(text).unwrap_or(Value::Null);
        if by_key { element[0].clone() } else { element }
    };
    let all: Vec<Value> = chosen.map(value).collect();
    let command = |some: &[Value]| {
        let mut value = named(family, name);
        value["elem"] = json!(some);
        json!({verb: {"element": value}})
    };
    all.chunks(ELEMENTS_AT_ONCE).map(command).collect()
}
