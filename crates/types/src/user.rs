//! `user`: a person who logs in.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Problem, Role, Timestamp, resource::resource};

resource!(
    /// A person who logs in with a password. Only the password's hash is stored, and it never leaves the controller.
    User, "user", "users", UserSpec, UserStatus
);

/// Longest display name, in characters.
const DISPLAY_NAME_LIMIT: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// What people call him, at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// `admin`, `operator`, `viewer` or `user`.
    pub role: Role,
    /// Whether he may open consoles of the VMs that he may see; if not given, everyone but a viewer may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consoles: Option<bool>,
    /// He can't log in, and what he has open ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

impl UserSpec {
    pub fn may_open_consoles(&self) -> bool {
        self.consoles.unwrap_or(self.role != Role::Viewer)
    }

    /// All that is wrong with it, as problem fields.
    pub fn validate(&self) -> Result<(), Problem> {
        let mut problem = Problem::invalid("invalid-user", "the user's spec is not valid");
        if self.role == Role::Join {
            problem = problem.field("spec.role", "join is for tokens; use admin, operator, viewer or user");
        }
        if let Some(name) = &self.display_name
            && (name.trim().is_empty()
                || name.chars().count() > DISPLAY_NAME_LIMIT
                || name.chars().any(char::is_control))
        {
            problem = problem.field("spec.display_name", "must have 1 to 100 characters that can be printed");
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserStatus {
    /// Argon2id (RFC 9106) of the password, as a PHC string. Never leaves the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub password_hash: String,
    /// When the password was set last; sessions that began with an earlier one are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_set_at: Option<Timestamp>,
}
