//! `token`: a credential for the API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Timestamp, resource::resource};

resource!(
    /// An API or join token. Only the hash of its secret is stored; the secret is shown once, when it is made.
    ApiToken, "token", "tokens", TokenSpec, TokenStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    pub role: Role,
    /// After this moment the token is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What a user, or the bearer of a token, may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Everything but what decides who may do what: users, tokens and the audit log.
    Operator,
    /// Read everything except secrets; change nothing.
    Viewer,
    /// See, restart and recover the VMs that are his (`vm.spec.owner`), and open their consoles. For users only.
    User,
    /// Join one host, nothing else. For tokens only.
    Join,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenStatus {
    /// SHA-256 of the secret, hex. Never leaves the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}
