//! Giving a move up on the sending side, whatever state it and its destination are in.

use tokio::time::Instant;

use super::MigrationError;
use super::source::{MigrationSource, mirror_id};
use crate::qmp::QmpError;
use crate::qmp::command::*;

impl MigrationSource {
    /// Gives the move up, at any step before the hand-over, and removes every trace of it; works whether
    /// the destination lives, is dead or does not answer. With `resume`, a guest that the move had
    /// stopped runs again; pass what `query-status` said before the move. May be repeated.
    pub async fn cancel(&self, resume: bool, deadline: Instant) -> Result<(), MigrationError> {
        let nodes = self.mirror_nodes();
        // First of all, and out of band: QEMU may be waiting for a peer that will never answer.
        for node_name in &nodes {
            let instances = vec![YankInstance::BlockNode { node_name: node_name.clone() }];
            tolerate_refusal(self.qmp.execute(Yank { instances }).await)?;
        }
        let mut events = self.qmp.events();
        self.end_ram(&mut events, deadline).await?;
        for index in 0..nodes.len() {
            self.end_mirror(index, &mut events, deadline).await?;
        }
        let status = self.qmp.execute(QueryStatus {}).await?;
        if resume && is_stopped_by_migration(&status) {
            self.qmp.execute(Cont {}).await?;
        }
        Ok(())
    }

    fn mirror_nodes(&self) -> Vec<String> {
        (0..self.disks.len()).map(mirror_id).collect()
    }

    async fn end_ram(&self, events: &mut crate::qmp::EventStream, deadline: Instant) -> Result<(), MigrationError> {
        let mut asked = false;
        loop {
            let progress = self.progress().await?;
            if progress.phase.is_handed_over() {
                // A machine that once arrived here by migration reports that one as completed until it
                // is itself sent; only a guest that was handed over is also stopped by the migration.
                let status = self.qmp.execute(QueryStatus {}).await?;
                if asked || is_stopped_by_migration(&status) {
                    return Err(MigrationError::HandedOver);
                }
                return Ok(());
            }
            if progress.phase.is_final() {
                return Ok(());
            }
            if !asked {
                self.qmp.execute(MigrateCancel {}).await?;
                asked = true;
            }
            self.look_again(events, deadline, "cancelling the copy of the memory").await?;
        }
    }

    async fn end_mirror(
        &self,
        index: usize,
        events: &mut crate::qmp::EventStream,
        deadline: Instant,
    ) -> Result<(), MigrationError> {
        let id = mirror_id(index);
        while let Some(job) = self.job(index).await? {
            // A job that ended by itself, e.g. because the destination died, can only be dismissed. It
            // may do so between the look and the command: then the command is refused and we look again.
            let outcome = if job.status == "concluded" {
                self.qmp.execute(JobDismiss { id: id.clone() }).await
            } else {
                let device = id.clone();
                self.qmp.execute(BlockJobCancel { device, force: true }).await
            };
            tolerate_refusal(outcome)?;
            if self.job(index).await?.is_some() {
                self.look_again(events, deadline, "cancelling the copy of a disk").await?;
            }
        }
        let nodes = self.qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
        if nodes.iter().any(|node| node.node_name.as_ref() == Some(&id)) {
            self.qmp.execute(BlockdevDel { node_name: id }).await?;
        }
        Ok(())
    }
}

fn is_stopped_by_migration(status: &StatusInfo) -> bool {
    matches!(status.status.as_str(), "postmigrate" | "finish-migrate")
}

fn tolerate_refusal<T>(outcome: Result<T, QmpError>) -> Result<(), QmpError> {
    match outcome {
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
