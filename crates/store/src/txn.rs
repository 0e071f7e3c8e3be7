//! Transactions as values: compares, operations, and the limits that every backend enforces.
//!
//! The limits are those of an etcd server with default settings, so a transaction accepted by
//! one backend is accepted by all.

use std::collections::HashSet;

use bytes::Bytes;

use crate::error::StoreError;
use crate::model::{LeaseId, Revision};

/// Longest key.
pub const MAX_KEY_BYTES: usize = 4096;
/// Largest transaction, counting keys and values of all compares and both branches: etcd's
/// `max-request-bytes` of 1.5 MiB less 64 KiB for the encoding of as many operations as may be.
pub const MAX_TXN_BYTES: usize = 1_572_864 - 65_536;
/// Longest value: it fits into a transaction together with its key and a compare of that.
pub const MAX_VALUE_BYTES: usize = MAX_TXN_BYTES - 2 * MAX_KEY_BYTES;
/// Most compares, most operations in one branch; etcd's `max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;

/// A condition on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last put at this revision; revision 0: it does not exist.
    ModRevision { key: String, revision: Revision },
    /// The key does not exist.
    Absent { key: String },
    /// The key exists.
    Exists { key: String },
    /// The key exists and has this value.
    Value { key: String, value: Bytes },
}

impl Compare {
    pub fn mod_revision(key: impl Into<String>, revision: Revision) -> Self {
        Self::ModRevision { key: key.into(), revision }
    }

    pub fn absent(key: impl Into<String>) -> Self {
        Self::Absent { key: key.into() }
    }

    pub fn exists(key: impl Into<String>) -> Self {
        Self::Exists { key: key.into() }
    }

    pub fn value(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Value { key: key.into(), value: value.into() }
    }

    pub(crate) fn key(&self) -> &str {
        match self {
            Self::ModRevision { key, .. } | Self::Absent { key } | Self::Exists { key } | Self::Value { key, .. } => {
                key
            }
        }
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key and ties it to `lease`, or to none.
    Put { key: String, value: Bytes, lease: Option<LeaseId> },
    /// Deletes a key if it is there.
    Delete { key: String },
    /// Deletes all keys that start with a prefix, which may not be empty.
    DeletePrefix { prefix: String },
}

impl Op {
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    pub fn put_with_lease(key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    pub fn delete_prefix(prefix: impl Into<String>) -> Self {
        Self::DeletePrefix { prefix: prefix.into() }
    }
}

/// If all of `compare` hold then `success`, else `failure`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

impl Txn {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare);
        self
    }

    /// Adds a change for when all conditions hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.success.push(op);
        self
    }

    /// Adds a change for when one does not.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Self {
        self.failure.push(op);
        self
    }

    /// Bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let compares = self.compare.iter().map(|compare| match compare {
            Compare::Value { key, value } => key.len() + value.len(),
            other => other.key().len(),
        });
        let ops = self.success.iter().chain(&self.failure).map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
            Op::DeletePrefix { prefix } => prefix.len(),
        });
        compares.chain(ops).sum()
    }

    /// Everything that can be told without looking at the store.
    pub(crate) fn validate(&self) -> Result<(), StoreError> {
        for (what, count) in [
            ("compares", self.compare.len()),
            ("success operations", self.success.len()),
            ("failure operations", self.failure.len()),
        ] {
            if count > MAX_TXN_OPS {
                return Err(StoreError::invalid(format!(
                    "the transaction has {count} {what}, at most {MAX_TXN_OPS} are allowed; split it"
                )));
            }
        }
        for compare in &self.compare {
            validate_key(compare.key())?;
            if let Compare::Value { key, value } = compare {
                validate_value(key, value)?;
            }
        }
        validate_branch(&self.success)?;
        validate_branch(&self.failure)?;
        let bytes = self.bytes();
        if bytes > MAX_TXN_BYTES {
            return Err(StoreError::invalid(format!(
                "the transaction has {bytes} bytes, at most {MAX_TXN_BYTES} are allowed; split it"
            )));
        }
        Ok(())
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnResponse {
    /// The compares held and `success` was applied.
    pub succeeded: bool,
    /// The store's revision after it: its own if it changed something.
    pub revision: Revision,
}

/// Checks what every key, not prefix, has to fulfil.
pub(crate) fn validate_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::invalid("a key is empty"));
    }
    validate_prefix(key)
}

/// Checks a prefix, which unlike a key may be empty.
pub(crate) fn validate_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > MAX_KEY_BYTES {
        return Err(StoreError::invalid(format!(
            "a key has {} bytes, at most {MAX_KEY_BYTES} are allowed",
            prefix.len()
        )));
    }
    if prefix.contains('\0') {
        return Err(StoreError::invalid(format!("key {prefix:?} contains a NUL character")));
    }
    Ok(())
}

fn validate_value(key: &str, value: &[u8]) -> Result<(), StoreError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(StoreError::invalid(format!(
            "the value of key {key:?} has {} bytes, at most {MAX_VALUE_BYTES} are allowed",
            value.len()
        )));
    }
    Ok(())
}

/// A branch may change a key only once, as in etcd: events of one revision have no order that a
/// reader of the past could see.
fn validate_branch(ops: &[Op]) -> Result<(), StoreError> {
    let mut put_keys = HashSet::new();
    for op in ops {
        match op {
            Op::Put { key, value, .. } => {
                validate_key(key)?;
                validate_value(key, value)?;
                if !put_keys.insert(key.as_str()) {
                    return Err(StoreError::invalid(format!("one branch of the transaction puts key {key:?} twice")));
                }
            }
            Op::Delete { key } => validate_key(key)?,
            Op::DeletePrefix { prefix } if prefix.is_empty() => {
                return Err(StoreError::invalid("deleting the empty prefix would delete everything; name a prefix"));
            }
            Op::DeletePrefix { prefix } => validate_prefix(prefix)?,
        }
    }
    for op in ops {
        let clash = match op {
            Op::Put { .. } => None,
            Op::Delete { key } => put_keys.get(key.as_str()).copied(),
            Op::DeletePrefix { prefix } => put_keys.iter().find(|key| key.starts_with(prefix.as_str())).copied(),
        };
        if let Some(key) = clash {
            return Err(StoreError::invalid(format!(
                "one branch of the transaction both puts and deletes key {key:?}"
            )));
        }
    }
    Ok(())
}
