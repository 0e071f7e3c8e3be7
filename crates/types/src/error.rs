//! The classes an error can have. Retry code and exit codes match on the class, never on the text.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The request itself is wrong; repeating it unchanged can't succeed.
    Invalid,
    /// Nobody proved who is asking.
    Unauthenticated,
    /// The caller is known and may not do this.
    Denied,
    /// The named object does not exist.
    NotFound,
    /// The object changed, is busy, or is in a state that does not allow this.
    Conflict,
    /// It may work later without anybody changing the request.
    Transient,
    /// It will not work until somebody repairs the cause.
    Permanent,
}

impl ErrorClass {
    /// The HTTP status that carries this class (RFC 9110).
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 422,
            Self::Unauthenticated => 401,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Transient => 503,
            Self::Permanent => 500,
        }
    }

    /// The class a status from an HTTP peer stands for.
    pub fn from_http_status(status: u16) -> Self {
        match status {
            401 => Self::Unauthenticated,
            403 => Self::Denied,
            404 | 410 => Self::NotFound,
            409 | 412 => Self::Conflict,
            408 | 429 | 502..=504 => Self::Transient,
            400..=499 => Self::Invalid,
            _ => Self::Permanent,
        }
    }
}
