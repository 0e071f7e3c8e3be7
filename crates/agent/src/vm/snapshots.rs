//! Snapshots of a VM, inside its disk and its volumes: taken and deleted by QEMU while it runs, otherwise by the pools.
//!
//! Taking one may take as long as writing the guest's memory, or as the guest needs to freeze its file systems, so it has a
//! task of its own; until that ends, the VM is neither changed nor moved (`snapshot-at-work`). The disk's own table says
//! what there is: a repeated request finds its snapshot there ([`volume_states`](super::volume_states)).
//!
//! A guest whose file systems are frozen is thawed whatever becomes of the snapshot; if the agent dies in between, by the
//! next one, as soon as it reaches the guest's agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::agent::{TakeSnapshot, TakenSnapshot};
use gantry_api::storage::VolumeAssignment;
use gantry_qemu::qmp::Qmp;
use gantry_qemu::snapshot;
use gantry_storage::{InternalSnapshot, StorageError, VmDisks};
use gantry_types::{ErrorClass, Firmware, Problem};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::Reply;
use super::actor::{Run, VmTask};
use super::guest::GuestLine;
use super::volume_states::{StateNodes, listed};
use crate::problem::problem;
use crate::records::{Record, blocking};
use crate::vm_files;

/// Writing out 4 TiB of memory takes long.
pub(super) const STATE_LIMIT: Duration = Duration::from_secs(3600);
/// The longest that a guest's file systems are kept frozen.
pub(super) const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// QEMU's answer to a snapshot of the disk: it goes through the disk's tables.
pub(super) const TABLES_LIMIT: Duration = Duration::from_secs(300);

/// What a snapshot is called inside the disk.
pub(super) fn snapshot_tag(snapshot: Uuid) -> String {
    format!("s-{snapshot}")
}
/// Whether it is one of these, in a volume as in the disk.
pub(super) fn is_state_tag(tag: &str) -> bool {
    tag.starts_with("s-") || tag.starts_with("p-")
}
/// Where the firmware's variables are kept that belong to a state of the disk.
pub(super) fn variables_of(state: Uuid) -> String {
    format!("uefi-vars.{state}.fd")
}
/// What a recovery point is called there.
pub(super) fn point_tag(point: Uuid) -> String {
    format!("p-{point}")
}

/// A snapshot of a running machine.
struct Job {
    what: String,
    vm: Uuid,
    request: TakeSnapshot,
    qmp: Qmp,
    nodes: StateNodes,
    volumes: Vec<Uuid>,
    guest: GuestLine,
    pool: Arc<dyn VmDisks>,
}

impl VmTask {
    pub(super) async fn take_snapshot(&mut self, request: TakeSnapshot, reply: Reply<TakenSnapshot>) {
        let done = match self.begin_snapshot(&request).await {
            Ok(Some(taken)) => Ok(taken),
            Ok(None) => match self.job(request).await {
                Ok(job) => {
                    self.snapshotting = Some(tokio::spawn(async move {
                        // Whoever asked may have given up; the disk's table tells the next one.
                        drop(reply.send(job.run().await));
                    }));
                    return;
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        drop(reply.send(done));
    }

    /// `None` if QEMU has to take it.
    async fn begin_snapshot(&mut self, request: &TakeSnapshot) -> Result<Option<TakenSnapshot>, Problem> {
        self.check_epoch(request.epoch)?;
        self.check_not_moving()?;
        self.expect_exports_answer().await?;
        self.check_no_snapshot_at_work()?;
        let tag = snapshot_tag(request.snapshot);
        let taken = |memory_bytes, volumes: Vec<VolumeAssignment>| {
            let volumes = volumes.iter().map(|volume| volume.uuid).collect();
            Ok(Some(TakenSnapshot { memory_bytes, pause_ms: None, volumes }))
        };
        if let Some(found) = self.find_tag(&tag).await? {
            return taken(found.memory_bytes, self.volumes_with(&tag).await?);
        }
        self.forget_attempt(&tag).await?;
        self.keep_uefi_variables(request.snapshot).await?;
        match &self.run {
            Run::Off if !request.memory && !request.quiesce => {
                self.expect_alone()?;
                self.keep_disks(&tag, &self.volumes()).await?;
                taken(0, self.volumes())
            }
            _ => self.machine().map(|_| None),
        }
    }

    async fn job(&self, request: TakeSnapshot) -> Result<Job, Problem> {
        let (machine, volumes) = (self.machine()?, self.volumes());
        Ok(Job {
            what: self.named()?,
            vm: self.vm,
            request,
            qmp: machine.qmp.clone(),
            nodes: self.state_nodes(&volumes),
            volumes: volumes.iter().map(|volume| volume.uuid).collect(),
            guest: machine.guest.clone(),
            pool: self.disks().await?,
        })
    }

    /// Deletes a snapshot or a recovery point.
    pub(super) async fn delete_snapshot(&mut self, epoch: u64, snapshot: Uuid) -> Result<(), Problem> {
        self.check_epoch(epoch)?;
        self.check_not_moving()?;
        self.check_no_snapshot_at_work()?;
        self.expect_exports_answer().await?;
        self.forget_points(&[snapshot]).await?;
        for tag in [snapshot_tag(snapshot), point_tag(snapshot)] {
            self.delete_tag(&tag).await?;
        }
        self.delete_uefi_copy(snapshot).await
    }

    pub(super) async fn delete_uefi_copy(&self, snapshot: Uuid) -> Result<(), Problem> {
        let path = self.uefi_copy(snapshot);
        let removed = tokio::fs::remove_file(&path).await;
        removed.or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(Problem::transient("files-not-removed", format!("cannot remove {}: {error}", path.display()))),
        })
    }

    /// Takes a state out of the disk and of the volumes that have it; one that is not there is fine.
    pub(super) async fn delete_tag(&mut self, tag: &str) -> Result<(), Problem> {
        let volumes = self.volumes_with(tag).await?;
        if volumes.is_empty() && self.find_tag(tag).await?.is_none() {
            return Ok(());
        }
        match &self.run {
            Run::Off => {
                self.expect_alone()?;
                for volume in &volumes {
                    self.delete_in_volume(volume, tag).await?;
                }
                let deleted = self.disks().await?.delete_disk_snapshot(self.vm, tag).await;
                deleted.map_err(|error| self.storage_problem("snapshot-not-deleted", &error))
            }
            _ => {
                let (nodes, qmp) = (self.state_nodes(&volumes), &self.machine()?.qmp);
                let deleted = snapshot::delete(qmp, &listed(&nodes.formats), tag, STATE_LIMIT).await;
                let what = self.named()?;
                deleted.map_err(|error| problem("snapshot-not-deleted", &what, &error))
            }
        }
    }

    /// What an attempt that was interrupted has left in volumes: the disk has no such state.
    async fn forget_attempt(&mut self, tag: &str) -> Result<(), Problem> {
        if self.volumes_with(tag).await?.is_empty() { Ok(()) } else { self.delete_tag(tag).await }
    }

    /// Keeps the disk, and these of its volumes, as they are now under this tag; a state that is there is fine.
    pub(super) async fn keep_disks(&mut self, tag: &str, volumes: &[VolumeAssignment]) -> Result<(), Problem> {
        if self.find_tag(tag).await?.is_some() {
            return Ok(());
        }
        self.forget_attempt(tag).await?;
        match &self.run {
            Run::Off => {
                for volume in volumes {
                    self.keep_volume(volume, tag).await?;
                }
                let taken = self.disks().await?.create_disk_snapshot(self.vm, tag).await;
                taken.map_err(|error| self.storage_problem("snapshot-not-taken", &error))
            }
            _ => {
                let nodes = self.state_nodes(volumes);
                take(&self.machine()?.qmp, &nodes, &self.named()?, self.vm, tag).await
            }
        }
    }

    pub(super) async fn tags(&self) -> Result<Vec<InternalSnapshot>, Problem> {
        let listed = self.disks().await?.disk_snapshots(self.vm).await;
        listed.map_err(|error| self.storage_problem("snapshots-not-read", &error))
    }

    pub(super) async fn find_tag(&self, tag: &str) -> Result<Option<InternalSnapshot>, Problem> {
        Ok(self.tags().await?.into_iter().find(|snapshot| snapshot.name == tag))
    }

    pub(crate) fn check_no_snapshot_at_work(&self) -> Result<(), Problem> {
        if self.snapshotting.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            return self.check_no_backup_at_work();
        }
        Err(Problem::transient("snapshot-at-work", format!("a snapshot of {} is being taken", self.named()?))
            .remedy("wait for its end"))
    }

    /// Refuses what would leave the VM's snapshots behind. A disk that both hosts reach stays where it is, with all that is in it.
    pub(crate) async fn check_no_snapshots(&self) -> Result<(), Problem> {
        self.check_no_snapshot_at_work()?;
        if !self.known()?.assignment.disk.travels() {
            return Ok(());
        }
        let count = self.tags().await?.iter().filter(|snapshot| snapshot.name.starts_with("s-")).count();
        if count == 0 {
            return Ok(());
        }
        Err(Problem::conflict("vm-has-snapshots", format!("{} has {count} snapshots, which can't move", self.named()?))
            .remedy("delete the snapshots first: gantry snapshot list"))
    }

    pub(super) fn named(&self) -> Result<String, Problem> {
        Ok(format!("VM '{}'", self.known()?.assignment.name))
    }

    pub(super) fn storage_problem(&self, code: &str, error: &StorageError) -> Problem {
        let what = self.named().unwrap_or_else(|_| format!("VM {}", self.vm));
        problem(code, &what, error)
    }

    fn uefi_copy(&self, snapshot: Uuid) -> PathBuf {
        self.host.records.vm_dir(self.vm).join(variables_of(snapshot))
    }

    fn has_uefi(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.assignment.firmware == Firmware::Uefi)
    }

    /// The firmware's variables belong to the disk: a boot entry without its loader is of no use.
    pub(super) async fn keep_uefi_variables(&self, snapshot: Uuid) -> Result<(), Problem> {
        if !self.has_uefi() {
            return Ok(());
        }
        let record = self.known()?;
        copy(record, super::files(&self.host, self.vm).uefi_variables, self.uefi_copy(snapshot), false).await
    }

    /// QEMU must not have them open.
    pub(super) async fn put_uefi_variables_back(&self, snapshot: Uuid) -> Result<(), Problem> {
        let copy_of = self.uefi_copy(snapshot);
        if !self.has_uefi() || !copy_of.exists() {
            return Ok(());
        }
        copy(self.known()?, copy_of, super::files(&self.host, self.vm).uefi_variables, true).await
    }
}

async fn copy(record: &Record, from: PathBuf, to: PathBuf, replace: bool) -> Result<(), Problem> {
    let (what, uid) = (record.assignment.name.clone(), record.owner_uid);
    blocking(move || {
        let removed = if replace { std::fs::remove_file(&to) } else { Ok(()) };
        removed.and_then(|()| vm_files::copy_once(&from, &to, uid)).map_err(|error| {
            Problem::transient("files-not-made", format!("VM '{what}': cannot write {}: {error}", to.display()))
                .remedy("check the state directory's filesystem")
        })
    })
    .await
}

async fn take(qmp: &Qmp, nodes: &StateNodes, what: &str, vm: Uuid, tag: &str) -> Result<(), Problem> {
    let taken = super::within(TABLES_LIMIT, vm, snapshot::take(qmp, &listed(&nodes.roots), tag)).await?;
    taken.map_err(|error| problem("snapshot-not-taken", what, &error))
}

impl Job {
    async fn run(self) -> Result<TakenSnapshot, Problem> {
        let tag = snapshot_tag(self.request.snapshot);
        let begun = Instant::now();
        if self.request.memory {
            let saved = snapshot::save(&self.qmp, &listed(&self.nodes.formats), &tag, STATE_LIMIT).await;
            saved.map_err(|error| problem("snapshot-not-taken", &self.what, &error))?;
        } else if self.request.quiesce {
            self.take_frozen(&tag).await?;
        } else {
            take(&self.qmp, &self.nodes, &self.what, self.vm, &tag).await?;
        }
        let pause_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let found = self.pool.disk_snapshots(self.vm).await;
        let found = found.map_err(|error| problem("snapshots-not-read", &self.what, &error))?;
        let taken = found.into_iter().find(|snapshot| snapshot.name == tag).ok_or_else(|| {
            let detail = format!("QEMU took a snapshot of {}, but the disk has none", self.what);
            Problem::permanent("snapshot-not-taken", detail).remedy("check the host's pool")
        })?;
        Ok(TakenSnapshot { memory_bytes: taken.memory_bytes, pause_ms: Some(pause_ms), volumes: self.volumes })
    }

    async fn take_frozen(&self, tag: &str) -> Result<(), Problem> {
        let until = Instant::now() + FREEZE_LIMIT;
        let frozen = self.guest.freeze(FREEZE_LIMIT).await;
        let taken = match frozen {
            Ok(()) => {
                let taken = take(&self.qmp, &self.nodes, &self.what, self.vm, tag);
                timeout(until.saturating_duration_since(Instant::now()), taken).await.unwrap_or_else(|_| {
                    let detail = format!("{}: the snapshot took longer than {FREEZE_LIMIT:?}", self.what);
                    Err(Problem::new(ErrorClass::Transient, "freeze-limit", detail).remedy("take it without --quiesce"))
                })
            }
            Err(error) => Err(error),
        };
        // Also after a freeze that failed: it may have been half done.
        let thawed = self.guest.thaw().await;
        taken.and(thawed)
    }
}
