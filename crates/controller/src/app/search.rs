//! One search over everything: by name, label, address or uuid.
//!
//! Every object is looked at: there is no index that could be wrong. Only the best are kept while it goes on ([`Best`]), so
//! that a search which nearly everything matches costs no more memory than any other.

use std::{collections::BinaryHeap, fmt::Write};

use gantry_api::overview::{Found, Matched, SearchQuery, SearchResult};
use gantry_types::{
    Backup, Cluster, FloatingIp, Host, Image, LoadBalancer, Network, Policy, Pool, Problem, ResourcePool, Router,
    SecurityGroup, Snapshot, User, Vm, Volume,
};

use super::{App, Caller};
use crate::model::{Kind, Tables};

/// How well something matches; the smallest is the best.
type Rank = (u8, Matched);

/// The first few of many, as a stable sort would have them.
struct Best<K, T> {
    limit: usize,
    /// The worst of them is on top.
    kept: BinaryHeap<Entry<K, T>>,
    seen: usize,
}

struct Entry<K, T> {
    /// Ties are broken by which came first.
    at: (K, usize),
    value: T,
}

impl<K: Ord, T> PartialEq for Entry<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl<K: Ord, T> Eq for Entry<K, T> {}
impl<K: Ord, T> PartialOrd for Entry<K, T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K: Ord, T> Ord for Entry<K, T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl<K: Ord, T> Best<K, T> {
    fn new(limit: usize) -> Self {
        Self { limit, kept: BinaryHeap::new(), seen: 0 }
    }

    /// The value is made only if it is among the first.
    fn add(&mut self, key: K, value: impl FnOnce() -> T) {
        let at = (key, self.seen);
        self.seen += 1;
        if self.kept.len() == self.limit {
            if self.kept.peek().is_none_or(|worst| worst.at <= at) {
                return;
            }
            self.kept.pop();
        }
        self.kept.push(Entry { at, value: value() });
    }

    /// In order, and whether there were more.
    fn finish(self) -> (Vec<T>, bool) {
        let more = self.seen > self.limit;
        (self.kept.into_sorted_vec().into_iter().map(|entry| entry.value).collect(), more)
    }
}

pub fn search(app: &App, caller: &Caller, query: &SearchQuery) -> Result<SearchResult, Problem> {
    caller.may_see_some::<Vm>()?;
    let wrong = |field: &str, message: String| {
        Problem::invalid("invalid-query", "the query is not valid").field(field, message)
    };
    let limit = match query.limit.unwrap_or(20) {
        limit @ 1..=100 => limit as usize,
        other => return Err(wrong("limit", format!("{other} is out of range, use 1 to 100"))),
    };
    let needle = query.q.trim().to_lowercase();
    if needle.is_empty() {
        return Err(wrong("q", "is empty".to_owned()));
    }
    let (items, more) = app.model.read(|tables| {
        let kind = query.kind.as_deref();
        let mut search = Search { caller, needle: &needle, kind, found: Best::new(limit), text: String::new() };
        search.among::<Vm>(tables);
        search.among::<Host>(tables);
        search.among::<Cluster>(tables);
        search.among::<Policy>(tables);
        search.among::<ResourcePool>(tables);
        search.among::<Image>(tables);
        search.among::<Network>(tables);
        search.among::<Router>(tables);
        search.among::<LoadBalancer>(tables);
        search.among::<FloatingIp>(tables);
        search.among::<SecurityGroup>(tables);
        search.among::<Pool>(tables);
        search.among::<Volume>(tables);
        search.among::<Snapshot>(tables);
        search.among::<Backup>(tables);
        search.among::<User>(tables);
        search.found.finish()
    });
    Ok(SearchResult { items, more })
}

struct Search<'a> {
    caller: &'a Caller,
    needle: &'a str,
    kind: Option<&'a str>,
    /// Kinds in their order, then names in theirs.
    found: Best<Rank, Found>,
    /// What is looked at, and what has matched at last.
    text: String,
}

impl Search<'_> {
    fn among<T: Kind>(&mut self, tables: &Tables) {
        if self.kind.is_some_and(|kind| kind != T::KIND) || self.caller.may_see_some::<T>().is_err() {
            return;
        }
        for object in T::table(tables).values().filter(|object| self.caller.sees(&***object)) {
            let Some(rank) = self.look_at(&**object) else { continue };
            let text = &self.text;
            self.found.add(rank, || {
                let facts = object.facts();
                Found {
                    kind: T::KIND.to_owned(),
                    name: object.name().to_owned(),
                    matched: rank.1,
                    matched_text: text.clone(),
                    phase: facts.phase.map(|phase| phase.into_owned()),
                    host: facts.host.map(str::to_owned),
                    vm: facts.vm.map(str::to_owned),
                }
            });
        }
    }

    /// How the object matches, with what in `text`.
    fn look_at<T: Kind>(&mut self, object: &T) -> Option<Rank> {
        let (name, needle) = (object.name(), self.needle);
        if let Some(place) = name.find(needle) {
            self.put(format_args!("{name}"));
            let rank = if name == needle { 0 } else { 1 + u8::from(place > 0) };
            return Some((rank, Matched::Name));
        }
        for (key, value) in &object.metadata().labels.0 {
            self.put(format_args!("{key}={value}"));
            // Labels are ASCII.
            self.text.make_ascii_lowercase();
            if self.text.contains(needle) {
                self.put(format_args!("{key}={value}"));
                return Some((3, Matched::Label));
            }
        }
        // Most of what people type is no address and no uuid.
        if !needle.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:-".contains(&byte)) {
            return None;
        }
        for address in object.facts().addresses {
            self.put(format_args!("{address}"));
            if self.text.contains(needle) {
                return Some((4, Matched::Address));
            }
        }
        // Less of a uuid than that is found everywhere.
        self.put(format_args!("{}", object.metadata().uuid));
        (needle.len() >= 4 && self.text.starts_with(needle)).then_some((5, Matched::Uuid))
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.clear();
        self.text.write_fmt(text).unwrap_or_else(|error| unreachable!("a string takes any text: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Best;

    proptest! {
        #[test]
        fn the_best_are_the_first_of_a_stable_sort(keys in prop::collection::vec(0_u8..6, 0..200), limit in 1_usize..40) {
            let mut best = Best::new(limit);
            let mut made = 0;
            for (number, key) in keys.iter().enumerate() {
                best.add(*key, || {
                    made += 1;
                    number
                });
                prop_assert!(best.kept.len() <= limit);
            }
            let mut all: Vec<usize> = (0..keys.len()).collect();
            all.sort_by_key(|number| keys[*number]);
            all.truncate(limit);
            prop_assert_eq!(best.finish(), (all, keys.len() > limit));
            prop_assert!(made <= keys.len());
        }
    }
}
