//! Objects in the store: typed reads, and changes of several objects in one transaction.
//!
//! An object lives under `/v1/<kind>/<name>` as JSON. Its revision is the store's own for that key and is not written
//! into the value. A [`Change`] compares every object it touches with the revision it was read at, so nothing is ever
//! overwritten unseen: a loser gets the conflict `changed-meanwhile` and reads again.

use gantry_store::{Compare, ErrorClass as StoreErrorClass, KeyValue, Op, RangeRequest, Revision, SharedStore, Txn};
use gantry_types::{ErrorClass, Event, Problem, Resource};

/// The code of the conflict that a lost race gives.
pub const CHANGED_MEANWHILE: &str = "changed-meanwhile";
/// How often a read-change-write is repeated before the conflict is reported.
const MAX_RACES: u32 = 32;

pub const ROOT: &str = "/v1/";

pub fn prefix<T: Resource>() -> String {
    format!("{ROOT}{}/", T::KIND)
}
pub fn key<T: Resource>(name: &str) -> String {
    format!("{ROOT}{}/{name}", T::KIND)
}

/// Typed access to the store.
#[derive(Clone)]
pub struct Objects {
    store: SharedStore,
}

impl Objects {
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    pub async fn find<T: Resource>(&self, name: &str) -> Result<Option<T>, Problem> {
        let found = self.store.get(&key::<T>(name)).await.map_err(store_problem)?;
        found.map(|kv| decode(&kv)).transpose()
    }

    pub async fn get<T: Resource>(&self, name: &str) -> Result<T, Problem> {
        self.find(name).await?.ok_or_else(|| Problem::not_found(T::KIND, name))
    }

    pub async fn list<T: Resource>(&self) -> Result<Vec<T>, Problem> {
        let listing = self.store.range(RangeRequest::prefix(prefix::<T>())).await.map_err(store_problem)?;
        listing.kvs.iter().map(decode).collect()
    }

    /// Applies the change; returns the revision that every object of it now has.
    ///
    /// # Errors
    /// `changed-meanwhile` if an object is not as it was read; `store-unavailable` (transient) leaves open whether it
    /// was applied.
    pub async fn commit(&self, change: Change) -> Result<u64, Problem> {
        let response = self.store.txn(change.txn).await.map_err(store_problem)?;
        if response.succeeded {
            return Ok(response.revision.0);
        }
        Err(Problem::conflict(
            CHANGED_MEANWHILE,
            format!("{} changed while this request was at work", change.subject.as_deref().unwrap_or("an object")),
        )
        .remedy("read the object again and repeat the request"))
    }

    /// Repeats `attempt` (read, decide, commit) for as long as it loses races.
    pub async fn racing<R, F, A>(&self, attempt: F) -> Result<R, Problem>
    where
        F: Fn() -> A,
        A: Future<Output = Result<R, Problem>>,
    {
        for _ in 1..MAX_RACES {
            match attempt().await {
                Err(problem) if problem.code() == CHANGED_MEANWHILE => tokio::task::yield_now().await,
                done => return done,
            }
        }
        attempt().await
    }
}

/// Several writes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Change {
    txn: Txn,
    /// What a conflict is reported about: the first object touched.
    subject: Option<String>,
}

impl Change {
    pub fn new() -> Self {
        Self::default()
    }

    fn about<T: Resource>(&mut self, object: &T) -> String {
        self.subject.get_or_insert_with(|| format!("{} '{}'", T::KIND, object.name()));
        key::<T>(object.name())
    }

    /// Refused if an object of that name exists.
    pub fn create<T: Resource>(&mut self, object: &T) -> Result<&mut Self, Problem> {
        let key = self.about(object);
        self.txn.compare.push(Compare::absent(key.clone()));
        self.txn.success.push(Op::put(key, encode(object)?));
        Ok(self)
    }

    /// Refused if the object is no longer at `metadata.revision`.
    pub fn update<T: Resource>(&mut self, object: &T) -> Result<&mut Self, Problem> {
        let key = self.about(object);
        self.txn.compare.push(Compare::mod_revision(key.clone(), Revision(object.metadata().revision)));
        self.txn.success.push(Op::put(key, encode(object)?));
        Ok(self)
    }

    pub fn delete<T: Resource>(&mut self, object: &T) -> &mut Self {
        let key = self.about(object);
        self.txn.compare.push(Compare::mod_revision(key.clone(), Revision(object.metadata().revision)));
        self.txn.success.push(Op::delete(key));
        self
    }

    /// Changes nothing, but the whole is refused if this object is no longer as it was read.
    pub fn require<T: Resource>(&mut self, object: &T) -> &mut Self {
        let key = self.about(object);
        self.txn.compare.push(Compare::mod_revision(key, Revision(object.metadata().revision)));
        self
    }

    /// Events have fresh names and are never compared.
    pub fn event(&mut self, event: &Event) -> Result<&mut Self, Problem> {
        self.txn.success.push(Op::put(key::<Event>(event.name()), encode(event)?));
        Ok(self)
    }

    pub fn is_empty(&self) -> bool {
        self.txn.success.is_empty()
    }
}

fn encode<T: Resource>(object: &T) -> Result<Vec<u8>, Problem> {
    let mut stored = object.clone();
    stored.metadata_mut().revision = 0;
    let value = serde_json::to_vec(&stored)
        .map_err(|e| Problem::permanent("unwritable-object", format!("{} '{}': {e}", T::KIND, object.name())))?;
    if value.len() > gantry_store::MAX_VALUE_BYTES {
        return Err(Problem::invalid(
            "object-too-large",
            format!("{} '{}' takes {} bytes, more than one object may have", T::KIND, object.name(), value.len()),
        ));
    }
    Ok(value)
}

/// The object in a key-value of the store.
pub fn decode<T: Resource>(kv: &KeyValue) -> Result<T, Problem> {
    let mut object: T = serde_json::from_slice(&kv.value).map_err(|e| {
        Problem::permanent("unreadable-object", format!("the stored object {} is damaged: {e}", kv.key))
    })?;
    object.metadata_mut().revision = kv.mod_revision.0;
    Ok(object)
}

/// A store's error as the API tells it.
pub fn store_problem(error: gantry_store::StoreError) -> Problem {
    let detail = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let (class, code) = match error.class() {
        StoreErrorClass::Invalid => (ErrorClass::Invalid, "store-refused"),
        StoreErrorClass::NotFound => (ErrorClass::NotFound, "store-refused"),
        StoreErrorClass::Compacted => (ErrorClass::Conflict, "revision-too-old"),
        StoreErrorClass::Transient => (ErrorClass::Transient, "store-unavailable"),
        StoreErrorClass::Permanent => (ErrorClass::Permanent, "store-broken"),
    };
    Problem::new(class, code, detail)
}
