//! What a transaction means: the one place that evaluates compares and derives versions and
//! events, over any backend's tables.
//!
//! It neither validates limits (see [`crate::txn`]) nor makes anything durable. Everything that
//! can be refused is refused before the first table is changed; a failure after that can only
//! come from the tables themselves, and their owner has to roll them back.

use bytes::Bytes;

use crate::error::StoreError;
use crate::model::{Event, KeyValue, LeaseId, Revision};
use crate::txn::{Compare, Op, Txn};

/// What is known of a live key besides its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHead {
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: u64,
}

/// A backend's current state, as a transaction sees and changes it.
pub(crate) trait Tables {
    fn head(&self, key: &str) -> Result<Option<KeyHead>, StoreError>;
    fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError>;
    fn keys_with_prefix(&self, prefix: &str) -> Result<Vec<String>, StoreError>;
    fn lease_exists(&self, lease: LeaseId) -> Result<bool, StoreError>;
    fn keys_of_lease(&self, lease: LeaseId) -> Result<Vec<String>, StoreError>;
    fn put(&mut self, kv: &KeyValue) -> Result<(), StoreError>;
    /// Only called for keys that are there.
    fn delete(&mut self, key: &str, revision: Revision) -> Result<(), StoreError>;
    fn remove_lease(&mut self, lease: LeaseId) -> Result<(), StoreError>;
}

/// The branch taken and what it changed; without events the revision was not used.
#[derive(Debug)]
pub(crate) struct Applied {
    pub succeeded: bool,
    pub events: Vec<Event>,
}

/// Applies a validated transaction; its changes get `revision`.
pub(crate) fn apply_txn<T: Tables>(tables: &mut T, txn: &Txn, revision: Revision) -> Result<Applied, StoreError> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !holds(tables, compare)? {
            succeeded = false;
            break;
        }
    }
    let branch = if succeeded { &txn.success } else { &txn.failure };
    for op in branch {
        if let Op::Put { lease: Some(lease), .. } = op
            && !tables.lease_exists(*lease)?
        {
            return Err(StoreError::LeaseNotFound { lease: *lease });
        }
    }
    let mut events = Vec::with_capacity(branch.len());
    for op in branch {
        match op {
            Op::Put { key, value, lease } => {
                let head = tables.head(key)?;
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: head.map_or(revision, |head| head.create_revision),
                    mod_revision: revision,
                    version: head.map_or(1, |head| head.version + 1),
                    lease: *lease,
                };
                tables.put(&kv)?;
                events.push(Event::Put(kv));
            }
            Op::Delete { key } => {
                if tables.head(key)?.is_some() {
                    delete(tables, key.clone(), revision, &mut events)?;
                }
            }
            Op::DeletePrefix { prefix } => {
                for key in tables.keys_with_prefix(prefix)? {
                    delete(tables, key, revision, &mut events)?;
                }
            }
        }
    }
    Ok(Applied { succeeded, events })
}

/// Ends a lease and deletes its keys at `revision`.
pub(crate) fn apply_revoke<T: Tables>(
    tables: &mut T,
    lease: LeaseId,
    revision: Revision,
) -> Result<Vec<Event>, StoreError> {
    if !tables.lease_exists(lease)? {
        return Err(StoreError::LeaseNotFound { lease });
    }
    let mut events = Vec::new();
    for key in tables.keys_of_lease(lease)? {
        delete(tables, key, revision, &mut events)?;
    }
    tables.remove_lease(lease)?;
    Ok(events)
}

fn delete<T: Tables>(
    tables: &mut T,
    key: String,
    revision: Revision,
    events: &mut Vec<Event>,
) -> Result<(), StoreError> {
    tables.delete(&key, revision)?;
    events.push(Event::Delete { key, revision });
    Ok(())
}

fn holds<T: Tables>(tables: &T, compare: &Compare) -> Result<bool, StoreError> {
    Ok(match compare {
        Compare::ModRevision { key, revision } => {
            let actual = tables.head(key)?.map_or(Revision(0), |head| head.mod_revision);
            actual == *revision
        }
        Compare::Absent { key } => tables.head(key)?.is_none(),
        Compare::Exists { key } => tables.head(key)?.is_some(),
        Compare::Value { key, value } => tables.value(key)?.as_ref() == Some(value),
    })
}
