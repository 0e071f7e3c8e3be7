//! What states of a VM there are in its volumes.
//!
//! A snapshot is of the VM's own disk and of all volumes that it has, at one instant and under one tag. The own disk has the tag
//! last, so a state that is there is there on all of them; what is in volumes only is what an interrupted attempt has left. Going
//! back, and deleting, is about every volume that has the tag.

use std::collections::BTreeSet;

use gantry_api::storage::VolumeAssignment;
use gantry_storage::StorageError;
use gantry_types::Problem;
use uuid::Uuid;

use super::actor::VmTask;
use super::snapshots::is_state_tag;
use super::volumes::{describe, of_vm};
use crate::storage::pool_problem;

/// What QEMU calls the disks that a state is of, the own one last.
#[derive(Debug, Clone)]
pub(super) struct StateNodes {
    /// What stands above the format, where something does: where requests come in.
    pub roots: Vec<String>,
    /// What has the tables.
    pub formats: Vec<String>,
}

/// As QEMU's commands want them.
pub(super) fn listed(nodes: &[String]) -> Vec<&str> {
    nodes.iter().map(String::as_str).collect()
}

impl VmTask {
    pub(super) fn state_nodes(&self, volumes: &[VolumeAssignment]) -> StateNodes {
        let described = volumes.iter().map(|volume| describe(&self.host, volume));
        let (mut roots, mut formats): (Vec<_>, Vec<_>) =
            described.map(|volume| (volume.node(), volume.format_node())).unzip();
        roots.push(self.disk_node());
        formats.push(self.disk_node());
        StateNodes { roots, formats }
    }

    /// The volumes that it has.
    pub(super) fn volumes(&self) -> Vec<VolumeAssignment> {
        self.record.as_ref().map(|record| record.assignment.volumes.clone()).unwrap_or_default()
    }

    pub(super) async fn volumes_with(&self, tag: &str) -> Result<Vec<VolumeAssignment>, Problem> {
        let mut having = Vec::new();
        for volume in self.volumes() {
            if self.tags_in(&volume).await?.iter().any(|found| found == tag) {
                having.push(volume);
            }
        }
        Ok(having)
    }

    /// All that there are, in the disk or in a volume.
    pub(super) async fn state_tags(&self) -> Result<BTreeSet<String>, Problem> {
        let mut tags: BTreeSet<_> = self.tags().await?.into_iter().map(|state| state.name).collect();
        for volume in self.volumes() {
            tags.extend(self.tags_in(&volume).await?);
        }
        Ok(tags)
    }

    async fn tags_in(&self, volume: &VolumeAssignment) -> Result<Vec<String>, Problem> {
        let found = self.host.pools.driver(&volume.pool).snapshots(volume.uuid).await;
        let found = found.map_err(|error| self.volume_problem("snapshots-not-read", volume, &error))?;
        Ok(found.into_iter().map(|state| state.name).collect())
    }

    /// Without a QEMU.
    pub(super) async fn keep_volume(&self, volume: &VolumeAssignment, tag: &str) -> Result<(), Problem> {
        let kept = self.host.pools.driver(&volume.pool).create_snapshot(volume.uuid, tag).await;
        kept.map_err(|error| self.volume_problem("snapshot-not-taken", volume, &error))
    }

    /// Without a QEMU.
    pub(super) async fn put_volume_back(&self, volume: &VolumeAssignment, tag: &str) -> Result<(), Problem> {
        let applied = self.host.pools.driver(&volume.pool).apply_snapshot(volume.uuid, tag).await;
        applied.map_err(|error| self.volume_problem("snapshot-not-applied", volume, &error))
    }

    /// Without a QEMU.
    pub(super) async fn delete_in_volume(&self, volume: &VolumeAssignment, tag: &str) -> Result<(), Problem> {
        let deleted = self.host.pools.driver(&volume.pool).delete_snapshot(volume.uuid, tag).await;
        deleted.map_err(|error| self.volume_problem("snapshot-not-deleted", volume, &error))
    }

    /// Nobody goes back to a state of a VM that has the volume no longer. No QEMU has it open.
    pub(super) async fn forget_states_of(&self, volume: &VolumeAssignment) -> Result<(), Problem> {
        for tag in self.tags_in(volume).await?.iter().filter(|tag| is_state_tag(tag)) {
            self.delete_in_volume(volume, tag).await?;
        }
        Ok(())
    }

    /// All of these volumes, and no fewer, are the VM's and have the state.
    ///
    /// # Errors
    /// `volumes-changed`.
    pub(super) fn expect_volumes(&self, wanted: &[Uuid], having: &[VolumeAssignment]) -> Result<(), Problem> {
        let missing = wanted.iter().filter(|wanted| having.iter().all(|volume| volume.uuid != **wanted)).count();
        if missing == 0 {
            return Ok(());
        }
        let detail = format!("{} has {missing} volumes less, or others, than when the state was kept", self.named()?);
        Err(Problem::conflict("volumes-changed", detail)
            .remedy("go back to a snapshot without its memory, or to another state; the volumes are as they are now"))
    }

    fn volume_problem(&self, code: &str, volume: &VolumeAssignment, error: &StorageError) -> Problem {
        let what = self.record.as_ref().map(|record| of_vm(volume, record)).unwrap_or_default();
        pool_problem(code, &what, error)
    }
}
