//! One search over everything: by name, label, address or uuid.
//!
//! Every object is looked at: there is no index that could be wrong.

use gantry_api::overview::{Found, Matched, SearchQuery, SearchResult};
use gantry_types::{
    Cluster, FloatingIp, Host, Image, LoadBalancer, Network, Policy, Pool, Problem, ResourcePool, Router,
    SecurityGroup, Snapshot, User, Vm, Volume,
};

use super::{App, Caller};
use crate::model::{Kind, Tables};

/// How well something matches; the smallest is the best.
type Rank = (u8, Matched);

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
    let mut found = app.model.read(|tables| {
        let mut search = Search { caller, needle: &needle, kind: query.kind.as_deref(), found: Vec::new() };
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
        search.among::<User>(tables);
        search.found
    });
    // Stable: kinds in their order, then names in theirs.
    found.sort_by_key(|(rank, _)| *rank);
    let more = found.len() > limit;
    Ok(SearchResult { items: found.into_iter().take(limit).map(|(_, found)| found).collect(), more })
}

struct Search<'a> {
    caller: &'a Caller,
    needle: &'a str,
    kind: Option<&'a str>,
    found: Vec<(Rank, Found)>,
}

impl Search<'_> {
    fn among<T: Kind>(&mut self, tables: &Tables) {
        if self.kind.is_some_and(|kind| kind != T::KIND) || self.caller.may_see_some::<T>().is_err() {
            return;
        }
        for object in T::table(tables).values().filter(|object| self.caller.sees(&***object)) {
            let Some((rank, text)) = self.look_at(&**object) else { continue };
            let facts = object.facts();
            let found = Found {
                kind: T::KIND.to_owned(),
                name: object.name().to_owned(),
                matched: rank.1,
                matched_text: text,
                phase: facts.phase.map(|phase| phase.into_owned()),
                host: facts.host.map(str::to_owned),
                vm: facts.vm.map(str::to_owned),
            };
            self.found.push((rank, found));
        }
    }

    fn look_at<T: Kind>(&self, object: &T) -> Option<(Rank, String)> {
        let (name, needle) = (object.name(), self.needle);
        if let Some(place) = name.find(needle) {
            let rank = if name == needle { 0 } else { 1 + u8::from(place > 0) };
            return Some(((rank, Matched::Name), name.to_owned()));
        }
        let labels = &object.metadata().labels.0;
        let label = labels.iter().map(|(key, value)| format!("{key}={value}"));
        if let Some(label) = label.into_iter().find(|label| label.to_lowercase().contains(needle)) {
            return Some(((3, Matched::Label), label));
        }
        // Most of what people type is no address and no uuid.
        if !needle.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:-".contains(&byte)) {
            return None;
        }
        let address = object.facts().addresses.into_iter().map(|address| address.to_string());
        if let Some(address) = address.into_iter().find(|address| address.contains(needle)) {
            return Some(((4, Matched::Address), address));
        }
        // Less of a uuid than that is found everywhere.
        let uuid = object.metadata().uuid.to_string();
        (needle.len() >= 4 && uuid.starts_with(needle)).then_some(((5, Matched::Uuid), uuid))
    }
}
