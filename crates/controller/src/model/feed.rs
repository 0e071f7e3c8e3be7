//! Keeps the read model equal to the store: one listing, then one watch.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt;
use gantry_api::rest::Change as ChangeKind;
use gantry_store::{Event as StoreEvent, RangeRequest, Revision, SharedStore, StoreError, WatchBatch, WatchStream};
use gantry_types::Problem;

use super::{AnyObject, ModelChange, ReadModel, Tables};
use crate::objects::{ROOT, store_problem};

const RETRY: Duration = Duration::from_millis(200);

/// The task behind a [`ReadModel`].
pub struct ModelFeed {
    store: SharedStore,
    model: Arc<ReadModel>,
    watch: WatchStream,
}

impl ModelFeed {
    /// Reads everything there is.
    ///
    /// # Errors
    /// Whatever the store says; `unreadable-object` if an object of it is damaged.
    pub async fn start(store: SharedStore) -> Result<(Arc<ReadModel>, Self), Problem> {
        let (objects, revision) = list(&store).await?;
        let mut tables = Tables::default();
        for object in objects.values() {
            object.insert_into(&mut tables);
        }
        let model = Arc::new(ReadModel::new(tables, revision));
        let watch = store.watch(ROOT, Revision(revision).next()).await.map_err(store_problem)?;
        Ok((Arc::clone(&model), Self { store, model, watch }))
    }

    /// Runs until it is dropped, or until the store is closed for good.
    pub async fn run(mut self) {
        loop {
            match self.watch.next().await {
                Some(Ok(batch)) => take(&self.model, &batch),
                Some(Err(StoreError::Closed)) => return,
                ended => {
                    if let Some(Err(error)) = ended {
                        tracing::warn!(%error, "the watch of the store broke; listing again");
                    }
                    self.watch = restart(&self.store, &self.model).await;
                }
            }
        }
    }
}

fn take(model: &ReadModel, batch: &WatchBatch) {
    let changes = batch.events.iter().filter_map(|event| change(model, event)).collect();
    model.apply(changes, batch.revision.0);
}

fn change(model: &ReadModel, event: &StoreEvent) -> Option<ModelChange> {
    let before = AnyObject::lookup(&model.state().tables, event.key());
    match event {
        StoreEvent::Put(kv) => match AnyObject::decode(kv)? {
            Ok(object) => {
                let change = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                Some(ModelChange { change, revision: kv.mod_revision.0, more: false, object })
            }
            Err(problem) => {
                tracing::error!(key = kv.key, %problem, "skipping an object");
                None
            }
        },
        StoreEvent::Delete { revision, .. } => {
            before.map(|object| ModelChange { change: ChangeKind::Deleted, revision: revision.0, more: false, object })
        }
    }
}

/// Lists again and watches from there, for as long as it takes.
async fn restart(store: &SharedStore, model: &ReadModel) -> WatchStream {
    loop {
        match relist(store, model).await {
            Ok(watch) => return watch,
            Err(problem) => tracing::warn!(%problem, "can't list the store; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn relist(store: &SharedStore, model: &ReadModel) -> Result<WatchStream, Problem> {
    let (objects, revision) = list(store).await?;
    let mut changes = Vec::new();
    {
        let state = model.state();
        let known: HashMap<String, AnyObject> = AnyObject::all(&state.tables).collect();
        for (key, object) in &known {
            if !objects.contains_key(key) {
                changes.push(ModelChange {
                    change: ChangeKind::Deleted,
                    revision,
                    more: false,
                    object: object.clone(),
                });
            }
        }
        for (key, object) in objects {
            let change = match known.get(&key) {
                Some(old) if old.revision() == object.revision() => continue,
                Some(_) => ChangeKind::Modified,
                None => ChangeKind::Added,
            };
            changes.push(ModelChange { change, revision: object.revision(), more: false, object });
        }
    }
    changes.sort_by_key(|change| change.revision);
    model.apply(changes, revision);
    store.watch(ROOT, Revision(revision).next()).await.map_err(store_problem)
}

async fn list(store: &SharedStore) -> Result<(HashMap<String, AnyObject>, u64), Problem> {
    let listing = store.range(RangeRequest::prefix(ROOT)).await.map_err(store_problem)?;
    let mut objects = HashMap::with_capacity(listing.kvs.len());
    for kv in &listing.kvs {
        if let Some(object) = AnyObject::decode(kv) {
            objects.insert(kv.key.clone(), object?);
        }
    }
    Ok((objects, listing.revision.0))
}
