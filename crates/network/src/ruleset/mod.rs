//! One nftables table as a value: chains, sets and counters, written as nft 1.0 lists them in JSON.
//!
//! The same shape is what is there and what should be, so that "is it there?" is an equality, and what somebody changed
//! by hand is seen. [`change::transaction`] turns one into the other in a single transaction: no packet ever sees half of it,
//! sets get only the elements that differ, and a chain is written anew only if its rules differ.

pub mod change;
pub mod expression;
pub mod read;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The name of Gantry's table in each family it uses.
pub const TABLE: &str = "gantry";

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 packets.
    Inet,
    /// Frames on bridges.
    Bridge,
}

impl Family {
    /// nft's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

/// A table, of whichever family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Set>,
    /// Named counters: they keep their values when the rules that count are written anew.
    pub counters: BTreeSet<String>,
}

impl Ruleset {
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty() && self.counters.is_empty()
    }

    /// How many rules and set elements there are.
    pub fn size(&self) -> (usize, usize) {
        let rules = self.chains.values().map(|chain| chain.rules.len()).sum();
        (rules, self.sets.values().map(|set| set.elements.len()).sum())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Absent for a chain that others jump to.
    pub hook: Option<Hook>,
    /// `{"comment": …, "expr": […]}`.
    pub rules: Vec<Value>,
}

impl Chain {
    pub fn at(hook: Hook, rules: Vec<Value>) -> Self {
        Self { hook: Some(hook), rules }
    }
    pub fn of(rules: Vec<Value>) -> Self {
        Self { hook: None, rules }
    }
}

/// Where a base chain hangs. Its policy is to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: String,
    pub hook: String,
    pub priority: i32,
}

impl Hook {
    pub fn new(kind: &str, hook: &str, priority: i32) -> Self {
        Self { kind: kind.to_owned(), hook: hook.to_owned(), priority }
    }
}

/// A set, or a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// The parts of the key: `["ifname", "ipv4_addr"]`.
    pub key: Vec<String>,
    /// What a map leads to: `verdict`, `ether_addr`.
    pub maps_to: Option<String>,
    /// Elements may be ranges.
    pub interval: bool,
    /// In JSON.
    pub elements: BTreeSet<String>,
}

impl Set {
    pub fn new(key: &[&str], interval: bool) -> Self {
        let key = key.iter().map(|part| (*part).to_owned()).collect();
        Self { key, maps_to: None, interval, elements: BTreeSet::new() }
    }

    pub fn verdicts(key: &[&str]) -> Self {
        Self::map(key, "verdict")
    }

    pub fn map(key: &[&str], to: &str) -> Self {
        Self { maps_to: Some(to.to_owned()), ..Self::new(key, false) }
    }

    pub fn insert(&mut self, element: &Value) {
        self.elements.insert(element.to_string());
    }

    /// The elements as values.
    pub fn values(&self) -> impl Iterator<Item = Value> {
        self.elements.iter().map(|text| serde_json::from_str(text).unwrap_or(Value::Null))
    }

    fn has_type_of(&self, other: &Self) -> bool {
        (&self.key, &self.maps_to, self.interval) == (&other.key, &other.maps_to, other.interval)
    }
}
