//! `receiver`: who is told of alarms, and how.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{AlarmSeverity, Name, resource::resource};

resource!(
    /// Where messages about alarms go: an HTTP server or mailboxes.
    Receiver, "receiver", "receivers", ReceiverSpec, ReceiverStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiverSpec {
    #[serde(default = "yes")]
    pub enabled: bool,
    pub via: Channel,
    /// Alarms of this severity and above.
    #[serde(default)]
    pub severity: AlarmSeverity,
    /// Only these alarms; all if none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Name>,
}

fn yes() -> bool {
    true
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    Webhook(Webhook),
    Email(Email),
}

/// A POST of JSON for each message. Any answer of 200 to 299 means that it has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `http://` or `https://`, checked against the system's certificates.
    pub url: String,
    /// Sent as the header `Authorization`. Only ever written: it is not shown again, and kept if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
}

/// A mail for each message (RFC 5321).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Email {
    pub server: String,
    /// 587 with `starttls`, 465 with `tls`, 25 without either if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default)]
    pub encryption: MailEncryption,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Only ever written: it is not shown again, and kept if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    pub from: String,
    /// 1 to 16 addresses.
    pub to: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MailEncryption {
    /// Required: without it nothing is sent.
    #[default]
    Starttls,
    /// From the first byte (RFC 8314).
    Tls,
    None,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ReceiverStatus {
    /// A secret is stored.
    pub has_secret: bool,
}

impl ReceiverSpec {
    pub fn secret_mut(&mut self) -> &mut Option<String> {
        match &mut self.via {
            Channel::Webhook(webhook) => &mut webhook.authorization,
            Channel::Email(email) => &mut email.password,
        }
    }

    /// Where it goes, for people, without secrets.
    pub fn target(&self) -> String {
        match &self.via {
            Channel::Webhook(webhook) => webhook.url.clone(),
            Channel::Email(email) => email.to.join(", "),
        }
    }

    /// Whether it wants to hear of an alarm.
    pub fn hears_of(&self, alarm: &Name, severity: AlarmSeverity) -> bool {
        self.enabled && severity >= self.severity && (self.alarms.is_empty() || self.alarms.contains(alarm))
    }
}
