//! What takes its time runs beside a loop's passes: one of each kind at a time.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

pub(super) struct Errands<K> {
    tasks: JoinSet<K>,
    under_way: BTreeSet<K>,
}

impl<K> Default for Errands<K> {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), under_way: BTreeSet::new() }
    }
}

impl<K: Ord + Clone + Send + 'static> Errands<K> {
    /// Forgets those that have ended.
    pub fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok(errand) => drop(self.under_way.remove(&errand)),
                // Which one it was is lost with the panic; all are repeatable.
                Err(error) => {
                    tracing::error!(%error, "an errand of a loop ended unexpectedly");
                    self.under_way.clear();
                }
            }
        }
    }

    /// Sends one out, unless one of its kind is under way.
    pub fn send_out(&mut self, errand: K, work: impl Future<Output = ()> + Send + 'static) {
        if self.under_way.insert(errand.clone()) {
            self.tasks.spawn(async move {
                work.await;
                errand
            });
        }
    }
}
