//! The overview, its hosts, the search and the history over HTTP; the first two also as streams of what changes.
//!
//! A stream looks once a second and sends what is different. It ends with the credential that opened it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
};

use axum::{
    Json,
    extract::State,
    http::header,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use gantry_api::energy::{EnergyQuery, EnergyReport};
use gantry_api::overview::{
    Group, HostBar, MetricsHistory, MetricsQuery, Overview, OverviewChange, OverviewHosts, OverviewHostsQuery,
    OverviewQuery, SearchQuery, SearchResult, Totals,
};
use gantry_hostlink::Refusal;
use gantry_types::{Host, Problem, Resource, Timestamp, Vm};
use serde::Serialize;

use super::{
    Shared,
    caller::{Credential, Shown, User},
    request::{Answer, Path, QueryOf},
    watch::KEEP_ALIVE,
};
use crate::{
    app::{self, App, Caller, exposition::exposition, overview, search},
    history::Subject,
};

const DEFAULT_SPAN_MS: i64 = 300_000;

pub async fn show(
    State(front): State<Shared>,
    User(caller): User,
    Shown(credential): Shown,
    QueryOf(query): QueryOf<OverviewQuery>,
) -> Result<Response, Refusal> {
    let first = look(&front, &caller, &query).await?;
    if !query.watch {
        return Ok(Json(&*first).into_response());
    }
    let began = event("overview", &*first);
    let looking = (Arc::clone(&front), caller, query, first);
    let changes = stream::unfold(looking, async |(front, caller, query, mut last)| {
        loop {
            front.app.clock.sleep(overview::FRESH).await;
            let Ok(now) = look(&front, &caller, &query).await else { return None };
            let change = difference(&last, &now);
            last = now;
            if let Some(change) = change {
                return Some((event("changed", &change), (front, caller, query, last)));
            }
        }
    });
    Ok(streamed(front, credential, stream::iter([began]).chain(changes)))
}

async fn look(front: &Shared, caller: &Caller, query: &OverviewQuery) -> Result<Arc<Overview>, Problem> {
    let (caller, by) = (caller.clone(), query.by.clone());
    apart(front, move |app| overview::overview(app, &caller, by.as_deref())).await
}

async fn look_at_hosts(front: &Shared, caller: &Caller, query: &OverviewHostsQuery) -> Result<OverviewHosts, Problem> {
    let (caller, query) = (caller.clone(), query.clone());
    apart(front, move |app| overview::hosts(app, &caller, &query)).await
}

/// What looks at every object does so where nothing else has to wait for it.
async fn apart<T: Send + 'static>(
    front: &Shared,
    look: impl FnOnce(&App) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let app = Arc::clone(&front.app);
    let looked = tokio::task::spawn_blocking(move || look(&app)).await;
    looked.map_err(|error| Problem::transient("look-failed", format!("the objects could not be looked at: {error}")))?
}

pub async fn hosts(
    State(front): State<Shared>,
    User(caller): User,
    Shown(credential): Shown,
    QueryOf(query): QueryOf<OverviewHostsQuery>,
) -> Result<Response, Refusal> {
    let page = look_at_hosts(&front, &caller, &query).await?;
    if !query.watch {
        return Ok(Json(page).into_response());
    }
    let mut began: Vec<_> = page.items.iter().map(|bar| event("host", bar)).collect();
    began.push(event("ready", &serde_json::json!({})));
    let known: BTreeMap<String, HostBar> = by_name(page.items);
    let looking = (Arc::clone(&front), caller, query, known);
    let changes = stream::unfold(looking, async |(front, caller, query, known)| {
        front.app.clock.sleep(overview::FRESH).await;
        let (events, known) = look_again(&front, &caller, &query, known).await?;
        Some((stream::iter(events), (front, caller, query, known)))
    });
    Ok(streamed(front, credential, stream::iter(began).chain(changes.flatten())))
}

fn by_name(bars: Vec<HostBar>) -> BTreeMap<String, HostBar> {
    bars.into_iter().map(|bar| (bar.name.to_string(), bar)).collect()
}

async fn look_again(
    front: &Shared,
    caller: &Caller,
    query: &OverviewHostsQuery,
    mut known: BTreeMap<String, HostBar>,
) -> Option<(Vec<Event>, BTreeMap<String, HostBar>)> {
    let now = by_name(look_at_hosts(front, caller, query).await.ok()?.items);
    let mut events = Vec::new();
    for (name, bar) in &now {
        // That it was heard again is no change; that it was not shows in its state.
        let before = known.remove(name).map(|before| HostBar { last_seen: bar.last_seen, ..before });
        if before.as_ref() != Some(bar) {
            events.push(event("host", bar));
        }
    }
    events.extend(known.keys().map(|name| event("gone", &serde_json::json!({ "name": name }))));
    Some((events, now))
}

fn event(name: &str, data: &impl Serialize) -> Event {
    // Maps with text keys, which always encode.
    Event::default().event(name).data(serde_json::to_string(data).unwrap_or_default())
}

fn streamed(front: Shared, credential: Credential, events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let ended = async move { credential.ended(&front.app).await };
    let events = events.map(Ok::<_, Infallible>).take_until(Box::pin(ended));
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// `None` if nothing but the time has changed.
fn difference(before: &Overview, now: &Overview) -> Option<OverviewChange> {
    let known: HashMap<&str, &Totals> = before.groups.iter().map(|group| (&*group.name, &group.totals)).collect();
    let there: HashSet<&str> = now.groups.iter().map(|group| &*group.name).collect();
    let changed = |group: &&Group| known.get(&*group.name) != Some(&&group.totals);
    let is_gone = |name: &&String| !there.contains(name.as_str());
    let same_wrongs = before.wrong == now.wrong && before.wrong_total == now.wrong_total;
    let change = OverviewChange {
        revision: now.revision,
        at: None,
        totals: (before.totals != now.totals).then(|| now.totals.clone()),
        groups: now.groups.iter().filter(changed).cloned().collect(),
        gone_groups: before.groups.iter().map(|group| &group.name).filter(is_gone).cloned().collect(),
        wrong: (!same_wrongs).then(|| now.wrong.clone()),
        wrong_total: (!same_wrongs).then_some(now.wrong_total),
    };
    let is_none = change == OverviewChange { revision: now.revision, ..OverviewChange::default() };
    (!is_none).then_some(OverviewChange { at: Some(now.at), ..change })
}

pub async fn find(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<SearchQuery>,
) -> Answer<SearchResult> {
    Ok(Json(apart(&front, move |app| search::search(app, &caller, &query)).await?))
}

pub async fn energy(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<EnergyQuery>,
) -> Answer<EnergyReport> {
    Ok(Json(apart(&front, move |app| crate::energy::report(app, &caller, &query)).await?))
}

pub async fn vm_metrics(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<MetricsQuery>,
) -> Answer<MetricsHistory> {
    let vm: Vm = app::get(&front.app, &caller, &name)?;
    Ok(Json(history(&front, &Subject::Vm(vm.metadata.uuid), &query)?))
}

/// For Prometheus and what reads its format.
pub async fn counters(State(front): State<Shared>, User(caller): User) -> Result<Response, Refusal> {
    let text = exposition(&front.app, &caller)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

pub async fn host_metrics(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<MetricsQuery>,
) -> Answer<MetricsHistory> {
    let host: Host = app::get(&front.app, &caller, &name)?;
    Ok(Json(history(&front, &Subject::Host(host.name().to_owned()), &query)?))
}

fn history(front: &Shared, subject: &Subject, query: &MetricsQuery) -> Result<MetricsHistory, Problem> {
    if let Some(step_s) = query.step_s
        && ![1, 10, 60].contains(&step_s)
    {
        return Err(Problem::invalid("invalid-query", "the query is not valid")
            .field("step_s", format!("{step_s} is not kept, use 1, 10 or 60")));
    }
    let now = front.app.clock.now();
    let to = query.to.unwrap_or(now);
    let from = query.from.unwrap_or_else(|| Timestamp::from_unix_ms(to.unix_ms() - DEFAULT_SPAN_MS));
    Ok(front.app.history.read(subject, from, to, query.step_s, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview(vms: [u64; 2], at_ms: i64) -> Overview {
        let group = |name: &str, total| {
            let mut totals = Totals::default();
            totals.vms.total = total;
            Group { name: name.to_owned(), totals }
        };
        Overview {
            revision: 1,
            at: Timestamp::from_unix_ms(at_ms),
            datacenter: "test".to_owned(),
            by: "rack".to_owned(),
            totals: Totals::default(),
            groups: vec![group("r1", vms[0]), group("r2", vms[1])],
            wrong: Vec::new(),
            wrong_total: 0,
        }
    }

    #[test]
    fn only_what_is_different_is_sent_and_time_alone_is_nothing() {
        assert_eq!(difference(&overview([1, 2], 0), &overview([1, 2], 1000)), None);
        let changed = difference(&overview([1, 2], 0), &overview([1, 3], 1000)).unwrap();
        assert_eq!(changed.groups, overview([1, 3], 0).groups[1..]);
        assert_eq!((changed.totals, changed.wrong, changed.at), (None, None, Some(Timestamp::from_unix_ms(1000))));
        let mut fewer = overview([1, 2], 0);
        fewer.groups.truncate(1);
        assert_eq!(difference(&overview([1, 2], 0), &fewer).unwrap().gone_groups, ["r2"]);
    }
}
