//! QEMU's events: an open set, since every release adds some. What an event carries stays JSON; who
//! waits for one names it and looks at its data.
//!
//! Failure behaviour: a listener that falls behind is told so ([`QmpError::EventsLost`]) instead of
//! silently missing events; the end of the connection ends the stream with the connection's reason.

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};

use super::QmpError;

/// Host wall-clock time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Timestamp {
    pub seconds: i64,
    pub microseconds: i64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    /// As in QEMU's schema, e.g. `STOP`, `GUEST_PANICKED`.
    #[serde(rename = "event")]
    pub name: String,
    #[serde(default)]
    pub data: Value,
    pub timestamp: Timestamp,
}

/// Events since the stream was made, in QEMU's order.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Event>,
    closed: watch::Receiver<Option<String>>,
}

impl EventStream {
    pub(super) fn new(receiver: broadcast::Receiver<Event>, closed: watch::Receiver<Option<String>>) -> Self {
        Self { receiver, closed }
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Result<Event, QmpError> {
        match self.receiver.recv().await {
            Ok(event) => Ok(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Err(QmpError::EventsLost { missed }),
            Err(broadcast::error::RecvError::Closed) => {
                Err(QmpError::Closed { reason: self.closed.borrow().clone().unwrap_or_default() })
            }
        }
    }

    /// Waits for the first event called `name` whose data satisfies `predicate`, passing over others.
    pub async fn wait_event(
        &mut self,
        name: &str,
        mut predicate: impl FnMut(&Value) -> bool,
        deadline: Instant,
    ) -> Result<Event, QmpError> {
        let wanted = async {
            loop {
                let event = self.next().await?;
                if event.name == name && predicate(&event.data) {
                    return Ok(event);
                }
            }
        };
        timeout_at(deadline, wanted).await.map_err(|_| QmpError::Timeout { what: name.to_owned() })?
    }
}
