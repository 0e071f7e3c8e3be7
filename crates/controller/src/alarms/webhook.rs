//! Notices by HTTP: a POST of JSON.

use std::time::Duration;

use gantry_types::{AlarmSeverity, Notice, NoticeState, ObjectRef, Resource, Timestamp, Webhook};
use serde::Serialize;

const LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Webhooks {
    http: Result<reqwest::Client, String>,
}

/// The body. Documented in docs/alarms.md.
#[derive(Serialize)]
struct Message<'a> {
    /// The same when it is sent again.
    id: &'a str,
    datacenter: &'a str,
    alarm: &'a str,
    severity: AlarmSeverity,
    state: NoticeState,
    object: &'a ObjectRef,
    message: &'a str,
    since: Timestamp,
    /// One line that chat programs show.
    text: String,
}

impl Webhooks {
    pub fn new() -> Self {
        // Already there is as good.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        // A redirect would take the secret elsewhere.
        let builder = reqwest::Client::builder().timeout(LIMIT).redirect(reqwest::redirect::Policy::none());
        Self { http: builder.build().map_err(|error| format!("no HTTP client could be made: {error}")) }
    }

    pub async fn post(&self, webhook: &Webhook, datacenter: &str, notice: &Notice) -> Result<(), String> {
        let spec = &notice.spec;
        let message = Message {
            id: notice.name(),
            datacenter,
            alarm: spec.alarm.as_str(),
            severity: spec.severity,
            state: spec.state,
            object: &spec.object,
            message: &spec.message,
            since: spec.since,
            text: format!("[{datacenter}] {}: {}", super::channel::headline(notice), spec.message),
        };
        let mut request = self.http.as_ref().map_err(Clone::clone)?.post(&webhook.url).json(&message);
        if let Some(authorization) = &webhook.authorization {
            request = request.header(reqwest::header::AUTHORIZATION, authorization);
        }
        // The URL is in the receiver; the error without it.
        let answer = request.send().await.map_err(|error| chain(&error.without_url()))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answers with HTTP status {status}")),
        }
    }
}

/// The error and what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        text = format!("{text}: {cause}");
        at = cause.source();
    }
    text
}
