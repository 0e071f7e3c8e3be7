//! Carrying one notice to its receiver.

use gantry_types::{Channel, Notice, NoticeState, Receiver};

pub(crate) use super::mail::is_address;
use super::{mail, webhook::Webhooks};

/// The ways out.
pub struct Channels {
    webhooks: Webhooks,
    /// The datacenter, as people know it.
    datacenter: String,
}

impl Channels {
    pub fn new(datacenter: &str) -> Self {
        Self { webhooks: Webhooks::new(), datacenter: datacenter.to_owned() }
    }

    /// # Errors
    /// Why it has not arrived, for people; no secret is in it.
    pub async fn send(&self, receiver: &Receiver, notice: &Notice) -> Result<(), String> {
        match &receiver.spec.via {
            Channel::Webhook(webhook) => self.webhooks.post(webhook, &self.datacenter, notice).await,
            Channel::Email(email) => mail::send(email, &self.datacenter, notice).await,
        }
    }
}

/// What it is about, in a line.
pub(super) fn headline(notice: &Notice) -> String {
    let spec = &notice.spec;
    let state = match spec.state {
        NoticeState::Firing => "firing",
        NoticeState::Resolved => "resolved",
        NoticeState::Test => "test",
    };
    format!("{state}: {} ({}/{})", spec.alarm, spec.object.kind, spec.object.name)
}
