//! Errors as they cross a wire: problem details (RFC 9457).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ErrorClass, ObjectRef};

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer-like path, for example `spec.memory`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

/// Problem details (RFC 9457) with the members Gantry adds: `class`, `object`, `remedy`, `fields`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// `urn:gantry:problem:<code>`; the code is stable and documented.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short summary that is the same for every occurrence of this type.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What went wrong this time: the object, what was tried and why it failed.
    pub detail: String,
    pub class: ErrorClass,
    /// The object this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The fields that were wrong, if the request was invalid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldError>,
}

impl Problem {
    /// A problem of `class` with a stable kebab-case `code`, for example `vm-busy`.
    pub fn new(class: ErrorClass, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:gantry:problem:{code}"),
            title: code.replace('-', " "),
            status: class.http_status(),
            detail: detail.into(),
            class,
            object: None,
            remedy: None,
            fields: Vec::new(),
        }
    }

    pub fn invalid(code: &str, detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Invalid, code, detail)
    }
    pub fn not_found(kind: &str, name: &str) -> Self {
        Self::new(ErrorClass::NotFound, "not-found", format!("{kind} '{name}' does not exist"))
            .remedy(format!("see which there are: gantry get {kind}"))
    }
    pub fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Conflict, code, detail)
    }
    pub fn denied(code: &str, detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Denied, code, detail)
    }
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Unauthenticated, "unauthenticated", detail)
    }
    pub fn transient(code: &str, detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Transient, code, detail)
    }
    pub fn permanent(code: &str, detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Permanent, code, detail)
    }

    pub fn object(mut self, object: ObjectRef) -> Self {
        self.object = Some(object);
        self
    }
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
    pub fn field(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.fields.push(FieldError { field: field.into(), message: message.into() });
        self
    }

    /// The stable code, without the URN prefix.
    pub fn code(&self) -> &str {
        self.kind.rsplit(':').next().unwrap_or_default()
    }
    pub fn is_transient(&self) -> bool {
        self.class == ErrorClass::Transient
    }
}
