//! Watching objects: server-sent events (WHATWG HTML, "Server-sent events") as a stream of changes.

use std::collections::VecDeque;

use futures::{Stream, StreamExt};
use gantry_api::rest::{ListQuery, WatchEvent};
use gantry_hostlink::{causes, checked};
use gantry_types::{Problem, Resource};
use reqwest::Method;

use super::Client;

/// An open watch. Ends with an error if the connection ends: the caller opens it again from the last revision.
pub struct Watch<T> {
    body: std::pin::Pin<Box<dyn Stream<Item = Result<Vec<u8>, Problem>> + Send>>,
    parser: EventParser,
    ready: VecDeque<WatchEvent<T>>,
}

impl Client {
    /// First all objects that match as `added`, then a `bookmark`, then each change. With `revision` in the query only
    /// the changes after it.
    pub async fn watch<T: Resource>(&self, query: &ListQuery) -> Result<Watch<T>, Problem> {
        let query = ListQuery { watch: true, ..query.clone() };
        let request = self.request(Method::GET, &format!("/v1/{}", T::PLURAL)).query(&query);
        let response = checked(&self.peer, request).await?;
        let peer = self.peer.clone();
        let body = response.bytes_stream().map(move |chunk| match chunk {
            Ok(bytes) => Ok(bytes.to_vec()),
            Err(error) => Err(Problem::transient("peer-unreachable", format!("{peer}: {}", causes(&error)))),
        });
        Ok(Watch { body: Box::pin(body), parser: EventParser::default(), ready: VecDeque::new() })
    }
}

impl<T: Resource> Watch<T> {
    pub async fn next(&mut self) -> Result<WatchEvent<T>, Problem> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let chunk = self.body.next().await.unwrap_or_else(|| {
                Err(Problem::transient("watch-ended", "the controller ended the watch").remedy("watch again"))
            })?;
            for data in self.parser.feed(&chunk) {
                let event = serde_json::from_str(&data).map_err(|error| {
                    Problem::permanent("unreadable-answer", format!("a watch event can't be read: {error}"))
                })?;
                self.ready.push_back(event);
            }
        }
    }
}

/// Collects the `data` of events from a byte stream cut anywhere. Comments and other fields are passed over.
#[derive(Default)]
struct EventParser {
    line: Vec<u8>,
    data: String,
}

impl EventParser {
    fn feed(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for byte in chunk {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(self.line.strip_suffix(b"\r").unwrap_or(&self.line)).into_owned();
            self.line.clear();
            if line.is_empty() {
                if !self.data.is_empty() {
                    events.push(std::mem::take(&mut self.data));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_any_cut() {
        let text = b": hello\n\nevent: added\nid: 7\ndata: {\"a\":1}\n\ndata: two\r\ndata:lines\r\n\r\ndata: open";
        for cut in 0..text.len() {
            let mut parser = EventParser::default();
            let mut events = parser.feed(&text[..cut]);
            events.extend(parser.feed(&text[cut..]));
            assert_eq!(events, ["{\"a\":1}", "two\nlines"], "cut at {cut}");
        }
    }
}
