//! Watches as server-sent events.
//!
//! A watcher sees every change of the objects it selects, in order, from the state it began with. One that can't keep
//! up is cut off and comes back with the last revision it saw; if that is too old it lists again. A watch ends with the
//! token that opened it.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    sync::Arc,
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
use gantry_types::{ApiToken, Problem, Selector};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, timeout_at},
};

use super::Shared;
use crate::{
    app::{Caller, parse_selector, token},
    model::{Kind, ModelChange},
};

pub fn stream<T: Kind>(
    front: Shared,
    caller: &Caller,
    shown: Arc<ApiToken>,
    headers: &HeaderMap,
    query: ListQuery,
) -> Result<Response, Refusal> {
    caller.may_read()?;
    let selector = parse_selector(&query)?;
    let resumed = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).or(query.revision);
    let watcher = match resumed {
        Some(revision) => Watcher::<T>::resume(&front, selector, revision)?,
        None => Watcher::<T>::begin(&front, selector),
    };
    let app = Arc::clone(&front.app);
    let ended = async move { token::ended(&app, &shown).await };
    let events = stream::unfold((watcher, front), async |(mut watcher, front)| {
        let event = watcher.next(&front).await?;
        Some((Ok::<_, Infallible>(encode(&event)), (watcher, front)))
    });
    let events = events.take_until(Box::pin(ended));
    // Comments keep proxies from closing a quiet connection.
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
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
    selector: Selector,
    /// Names the watcher has and that match; unknown after a resumption.
    matching: Option<HashSet<String>>,
    ready: VecDeque<WatchEvent<T>>,
    changes: Receiver<Arc<ModelChange>>,
    /// Everything up to here has been taken in.
    revision: u64,
    /// When the watcher is told the revision at the latest: changes that are not for it would let its own grow too old.
    bookmark_at: Instant,
}

impl<T: Kind> Watcher<T> {
    fn begin(front: &Shared, selector: Selector) -> Self {
        let subscription = front.app.model.subscribe::<T>();
        let revision = subscription.revision;
        let chosen = subscription.objects.iter().filter(|object| selector.matches(&object.metadata().labels));
        let mut ready: VecDeque<_> = chosen
            .map(|object| WatchEvent {
                change: Change::Added,
                // Objects come by name: the rest would be missed.
                revision: 0,
                object: Some(front.app.model.decorate(&**object)),
            })
            .collect();
        let matching = ready.iter().filter_map(|event| Some(event.object.as_ref()?.name().to_owned())).collect();
        ready.push_back(WatchEvent { change: Change::Bookmark, revision, object: None });
        let bookmark_at = Instant::now() + front.app.config.bookmark_interval;
        Self { selector, matching: Some(matching), ready, changes: subscription.changes, revision, bookmark_at }
    }

    fn resume(front: &Shared, selector: Selector, revision: u64) -> Result<Self, Problem> {
        let resumption = front.app.model.resume(revision)?;
        let mut watcher = Self {
            selector,
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
                return Some(WatchEvent { change: Change::Bookmark, revision: self.revision, object: None });
            }
            match timeout_at(self.bookmark_at, self.changes.recv()).await {
                Ok(Ok(change)) => self.take(front, &change),
                Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => return None,
                Err(_) => {}
            }
        }
    }

    /// Objects that begin or cease to match come and go for this watcher.
    fn take(&mut self, front: &Shared, change: &ModelChange) {
        let object = T::of(&change.object);
        // In the middle of what was written together it can't go on: the rest would be missed.
        let whole = object.is_some() && !change.more;
        let revision = if whole { change.revision } else { change.revision.saturating_sub(1) };
        self.revision = self.revision.max(revision);
        let Some(object) = object else { return };
        let matches = self.selector.matches(&object.metadata().labels);
        let known = self.matching.as_ref().map(|names| names.contains(object.name()));
        let told = match (change.change, matches) {
            (Change::Deleted, _) => known.unwrap_or(matches).then_some(Change::Deleted),
            (_, false) => known.unwrap_or(true).then_some(Change::Deleted),
            (_, true) if known == Some(false) => Some(Change::Added),
            (change, true) => Some(change),
        };
        let Some(told) = told else { return };
        if let Some(names) = &mut self.matching {
            match told {
                Change::Deleted => names.remove(object.name()),
                _ => names.insert(object.name().to_owned()),
            };
        }
        let object = Some(front.app.model.decorate(&**object));
        self.ready.push_back(WatchEvent { change: told, revision, object });
    }
}
