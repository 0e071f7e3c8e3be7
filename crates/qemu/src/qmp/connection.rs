//! The two tasks behind a [`super::Qmp`] and the table of commands in flight.
//!
//! Failure behaviour: the first thing that goes wrong on either half becomes the reason every waiter is
//! told; the table is emptied under the same lock that marks the connection closed, so no command can be
//! registered after that and wait for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::event::{Event, EventStream};
use super::{LINE_LIMIT_BYTES, QmpError};

/// Events a slow listener may fall behind before it is told that it lost some.
const EVENT_BACKLOG: usize = 4096;

type Reply = Result<Value, (String, String)>;

#[derive(Debug)]
struct InFlight {
    waiters: HashMap<u64, oneshot::Sender<Reply>>,
    next_id: u64,
    /// `None` once the connection is closed, which ends every event stream.
    events: Option<broadcast::Sender<Event>>,
}

#[derive(Debug)]
struct Shared {
    in_flight: Mutex<InFlight>,
    closed: watch::Sender<Option<String>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, InFlight> {
        // A panic while holding the lock cannot leave the table half changed: every change is one call.
        self.in_flight.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn close(&self, reason: String) {
        self.closed.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
        let mut in_flight = self.lock();
        in_flight.events = None;
        in_flight.waiters.clear();
    }

    fn closed_error(&self) -> QmpError {
        QmpError::Closed { reason: self.closed.borrow().clone().unwrap_or_else(|| "the client was dropped".to_owned()) }
    }

    fn deliver(&self, line: &[u8]) -> Result<(), String> {
        let message: Value = serde_json::from_slice(line).map_err(|e| format!("QEMU sent invalid JSON: {e}"))?;
        if message.get("event").is_some() {
            let event: Event =
                serde_json::from_value(message).map_err(|e| format!("QEMU sent a malformed event: {e}"))?;
            if let Some(events) = &self.lock().events {
                // No listener is not an error: events are only kept for those who asked.
                events.send(event).ok();
            }
            return Ok(());
        }
        let id = message.get("id").and_then(Value::as_u64);
        let waiter = id.and_then(|id| self.lock().waiters.remove(&id));
        let reply = reply_of(message)?;
        match waiter {
            // The caller may have stopped waiting.
            Some(waiter) => drop(waiter.send(reply)),
            None => tracing::warn!(?id, "QEMU answered a command that was not asked"),
        }
        Ok(())
    }
}

fn reply_of(mut message: Value) -> Result<Reply, String> {
    if let Some(value) = message.get_mut("return") {
        return Ok(Ok(value.take()));
    }
    let error = message.get("error").ok_or("QEMU sent a message that is neither reply, error nor event")?;
    let text = |name: &str| error[name].as_str().unwrap_or("").to_owned();
    Ok(Err((text("class"), text("desc"))))
}

#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    reader: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The writer ends when `outgoing` goes; the reader would wait for QEMU's next line.
        self.reader.abort();
    }
}

impl Connection {
    pub(super) async fn open(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(Self, Value), QmpError> {
        let mut reader = BufReader::new(reader);
        let closed = |reason: String| QmpError::Closed { reason };
        let line = read_line(&mut reader).await.map_err(closed)?;
        let greeting: Value =
            serde_json::from_slice(&line).map_err(|e| closed(format!("the greeting is not JSON: {e}")))?;
        if greeting.get("QMP").is_none() {
            return Err(closed("this is not a QEMU monitor".to_owned()));
        }
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let (closed, _) = watch::channel(None);
        let shared = Arc::new(Shared {
            in_flight: Mutex::new(InFlight { waiters: HashMap::new(), next_id: 1, events: Some(events) }),
            closed,
        });
        let (outgoing, lines) = mpsc::unbounded_channel();
        tokio::spawn(write_lines(writer, lines, shared.clone()));
        let reader = tokio::spawn(read_lines(reader, shared.clone())).abort_handle();
        let connection = Self { shared, outgoing, reader };
        Ok((connection, greeting))
    }

    pub(super) async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
        out_of_band: bool,
    ) -> Result<Value, QmpError> {
        let (reply, waiter) = oneshot::channel();
        let id = {
            let mut in_flight = self.shared.lock();
            if in_flight.events.is_none() {
                return Err(self.shared.closed_error());
            }
            let id = in_flight.next_id;
            in_flight.next_id += 1;
            in_flight.waiters.insert(id, reply);
            id
        };
        let mut message = json!({"id": id});
        message[if out_of_band { "exec-oob" } else { "execute" }] = json!(command);
        if arguments.as_object().is_some_and(|a| !a.is_empty()) {
            message["arguments"] = arguments;
        }
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        // If the writer is gone, `close` has dropped or will drop the waiter.
        self.outgoing.send(line).ok();
        match waiter.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err((error_class, desc))) => Err(QmpError::Refused { command, error_class, desc }),
            Err(_) => Err(self.shared.closed_error()),
        }
    }

    pub(super) fn events(&self) -> EventStream {
        let receiver = match &self.shared.lock().events {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        };
        EventStream::new(receiver, self.shared.closed.subscribe())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.closed.borrow().is_some()
    }

    pub(super) async fn closed(&self) -> String {
        let mut closed = self.shared.closed.subscribe();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // Cannot happen: `self.shared` holds the sender.
            Err(_) => String::new(),
        }
    }
}

async fn write_lines(
    mut writer: impl AsyncWrite + Unpin,
    mut lines: mpsc::UnboundedReceiver<Vec<u8>>,
    shared: Arc<Shared>,
) {
    while let Some(line) = lines.recv().await {
        let written = async {
            writer.write_all(&line).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            shared.close(format!("writing failed: {error}"));
            return;
        }
    }
}

async fn read_lines(mut reader: BufReader<impl AsyncRead + Unpin>, shared: Arc<Shared>) {
    let reason = loop {
        let outcome = match read_line(&mut reader).await {
            Ok(line) => shared.deliver(&line),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = outcome {
            break reason;
        }
    };
    shared.close(reason);
}

async fn read_line(reader: &mut BufReader<impl AsyncRead + Unpin>) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    reader.take(LINE_LIMIT_BYTES).read_until(b'\n', &mut line).await.map_err(|e| format!("reading failed: {e}"))?;
    match line.last() {
        Some(b'\n') => Ok(line),
        None => Err("QEMU closed it".to_owned()),
        Some(_) => Err("QEMU ended or exceeded the line limit within a message".to_owned()),
    }
}
