//! Watches as server-sent events.
//!
//! A watcher sees every change of the objects it selects, in order, from the state it began with. One that can't keep
//! up is cut off and comes back with the last revision it saw; if that is too old it lists again. A watch ends with the
//! credential that opened it. One by somebody who sees only what is his own can't be resumed: what he does not own any
//! more would not be told, or too much of it would.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{StreamExt, stream};
use gantry_api::rest::{Change, ListQuery, WatchEvent};
use gantry_hostlink::Refusal;
use gantry_types::Problem;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, timeout_at},
};

use super::{Shared, caller::Credential};
use crate::{
    app::{Caller, Filter},
    model::{Kind, ModelChange},
};

/// How often a quiet stream says that it is still there.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub fn stream<T: Kind>(
    front: Shared,
    caller: &Caller,
    shown: Credential,
    headers: &HeaderMap,
    query: ListQuery,
) -> Result<Response, Refusal> {
    caller.may_see_some::<T>()?;
    if query.sort.is_some() || query.offset.is_some() {
        let problem = Problem::invalid("invalid-query", "the query is not valid");
        return Err(problem.field("watch", "can't be used with sort or offset").into());
    }
    let filter = Filter::of(&query)?;
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).or(query.revision);
    let watcher = match resumed {
        Some(revision) if caller.sees_all() => Watcher::<T>::resume(&front, caller.clone(), filter, revision)?,
        _ => Watcher::<T>::begin(&front, caller.clone(), filter),
    };
    let app = Arc::clone(&front.app);
    let ended = async move { shown.ended(&app).await };
    let events = stream::unfold((watcher, front), async |(mut watcher, front)| {
        let event = watcher.next(&front).await?;
        Some((Ok::<_, Infallible>(encode(&event)), (watcher, front)))
    });
    let events = events.take_until(Box::pin(ended));
    // Comments keep proxies from closing a quiet connection, and tell the client that it is alive.
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn encode<T: Kind>(event: &WatchEvent<T>) -> Event {
    let name = match event.change {
        Change::Added => "added",
        Change::Modified => "modified",
        Change::Deleted => "deleted",
        Change::Bookmark => "bookmark",
    };
    // Objects are made of maps with text keys, which always encode.
    let data = serde_json::to_string(event).unwrap_or_default();
    let sent = Event::default().event(name).data(data);
    // Without an id a client that comes back begins again.
    if event.revision == 0 { sent } else { sent.id(event.revision.to_string()) }
}

struct Watcher<T> {
    caller: Caller,
    filter: Filter,
    /// What the watcher has and what matches, as he was told it last; unknown after a resumption.
    matching: Option<HashMap<String, Arc<T>>>,
    ready: VecDeque<WatchEvent<T>>,
    changes: Receiver<Arc<ModelChange>>,
    /// Everything up to here has been taken in.
    revision: u64,
    /// When the watcher is told the revision at the latest: changes that are not for it would let its own grow too old.
    bookmark_at: Instant,
}

impl<T: Kind> Watcher<T> {
    fn begin(front: &Shared, caller: Caller, filter: Filter) -> Self {
        let subscription = front.app.model.subscribe::<T>();
        let revision = subscription.revision;
        let chosen = subscription.objects.into_iter();
        let chosen: Vec<_> = chosen.filter(|object| caller.sees(&**object) && filter.matches(&**object)).collect();
        let mut ready: VecDeque<_> = chosen
            .iter()
            .map(|object| WatchEvent {
                change: Change::Added,
                // Objects come by name: the rest would be missed.
                revision: 0,
                object: Some(front.app.model.decorate(&**object)),
            })
            .collect();
        let matching = chosen.into_iter().map(|object| (object.name().to_owned(), object)).collect();
        let shown_revision = if caller.sees_all() { revision } else { 0 };
        ready.push_back(WatchEvent { change: Change::Bookmark, revision: shown_revision, object: None });
        let bookmark_at = Instant::now() + front.app.config.bookmark_interval;
        Self { caller, filter, matching: Some(matching), ready, changes: subscription.changes, revision, bookmark_at }
    }

    fn resume(front: &Shared, caller: Caller, filter: Filter, revision: u64) -> Result<Self, Problem> {
        let resumption = front.app.model.resume(revision)?;
        let mut watcher = Self {
            caller,
            filter,
            matching: None,
            ready: VecDeque::new(),
            changes: resumption.changes,
            revision,
            bookmark_at: Instant::now() + front.app.config.bookmark_interval,
        };
        for change in resumption.missed {
            watcher.take(front, &change);
        }
        Ok(watcher)
    }

    /// `None` ends the stream.
    async fn next(&mut self, front: &Shared) -> Option<WatchEvent<T>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            // First, because changes may come without a pause.
            if Instant::now() >= self.bookmark_at {
                self.bookmark_at = Instant::now() + front.app.config.bookmark_interval;
                return Some(WatchEvent {
                    change: Change::Bookmark,
                    revision: self.shown(self.revision),
                    object: None,
                });
            }
            match timeout_at(self.bookmark_at, self.changes.recv()).await {
                Ok(Ok(change)) => self.take(front, &change),
                Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => return None,
                Err(_) => {}
            }
        }
    }

    /// The revision to go on from, for who can.
    fn shown(&self, revision: u64) -> u64 {
        if self.caller.sees_all() { revision } else { 0 }
    }

    /// Objects that begin or cease to match come and go for this watcher.
    fn take(&mut self, front: &Shared, change: &ModelChange) {
        let object = T::of(&change.object);
        // In the middle of what was written together it can't go on: the rest would be missed.
        let whole = object.is_some() && !change.more;
        let revision = if whole { change.revision } else { change.revision.saturating_sub(1) };
        self.revision = self.revision.max(revision);
        let Some(object) = object else { return };
        let matches = self.caller.sees(&**object) && self.filter.matches(&**object);
        let known = self.matching.as_ref().map(|objects| objects.contains_key(object.name()));
        let told = match (change.change, matches) {
            (Change::Deleted, _) => known.unwrap_or(matches).then_some(Change::Deleted),
            (_, false) => known.unwrap_or(true).then_some(Change::Deleted),
            (_, true) if known == Some(false) => Some(Change::Added),
            (change, true) => Some(change),
        };
        let Some(told) = told else { return };
        let before = self.matching.as_mut().and_then(|objects| match told {
            Change::Deleted => objects.remove(object.name()),
            _ => objects.insert(object.name().to_owned(), Arc::clone(object)),
        });
        // What is not his any more he sees as it was when it was.
        let is_lost = told == Change::Deleted && !self.caller.sees(&**object);
        let object = before.filter(|_| is_lost).unwrap_or_else(|| Arc::clone(object));
        let object = Some(front.app.model.decorate(&*object));
        let revision = self.shown(revision);
        self.ready.push_back(WatchEvent { change: told, revision, object });
    }
}
