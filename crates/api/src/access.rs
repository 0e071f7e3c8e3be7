//! Requests and responses about who uses the datacenter: users, sessions, consoles.

use gantry_types::{Name, Role, Timestamp, User};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The header that carries a session's `csrf_token` with every request that is not a `GET`.
pub const CSRF_HEADER: &str = "x-gantry-csrf";
/// The cookie of a session. The prefix makes browsers insist on `Secure`, `Path=/` and no domain.
pub const SESSION_COOKIE: &str = "__Host-gantry";

/// `POST /v1/users`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    pub name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// `admin`, `operator`, `viewer` or `user`.
    pub role: Role,
    /// Whether he may open consoles; by the role if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consoles: Option<bool>,
    /// 10 to 256 bytes; made up and shown in the answer if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedUser {
    pub object: User,
    /// The password, if it was made up; it is shown only now. Empty in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// `POST /v1/users/{name}/password`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetPassword {
    /// The new one, 10 to 256 bytes; made up and shown in the answer if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The one he has now: needed from whoever is no administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_password: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct PasswordSet {
    /// The password, if it was made up; it is shown only now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// `POST /v1/session`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user's name.
    pub name: String,
    pub password: String,
}

/// `GET /v1/session`: who is asking.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    pub user: SessionUser,
    /// To be sent as `X-Gantry-Csrf` with every request that is not a `GET`; absent without a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csrf_token: Option<String>,
    /// When it ends whatever happens; for a token, when that expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it ends if it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_expires_at: Option<Timestamp>,
    pub datacenter: String,
    /// The controller's.
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionUser {
    /// The user's name, or `token/NAME` of a token.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    pub role: Role,
    /// Whether consoles of the VMs that he sees may be opened.
    pub consoles: bool,
}

/// Which console of a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleKind {
    /// Its serial line.
    #[default]
    Serial,
    /// Its screen, keyboard and pointer, over VNC (RFC 6143).
    Vnc,
}

impl ConsoleKind {
    /// The last part of its URL, on the controller and on agents.
    pub fn path(self) -> &'static str {
        match self {
            Self::Serial => "console",
            Self::Vnc => "vnc",
        }
    }
    /// For people.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Serial => "console",
            Self::Vnc => "screen",
        }
    }
}

/// `POST /v1/vms/{name}/console-ticket`
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TicketRequest {
    pub kind: ConsoleKind,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConsoleTicket {
    /// Good once, for this console, for whoever asked for it.
    pub ticket: String,
    /// Where to open the websocket, with the ticket in it.
    pub path: String,
    pub expires_at: Timestamp,
}

/// Query of `GET /v1/vms/{name}/console` and `…/vnc`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleQuery {
    /// Needed from a session; an API token needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}
