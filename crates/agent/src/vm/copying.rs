//! A copy of a VM's disk for a clone: of one that runs by its QEMU, of one that is off by the pool. What a snapshot inside the
//! disk holds is read by the pool in either case: nobody writes to that.
//!
//! A running guest's disk is copied as it is at one instant. If its agent answers, its file systems are frozen for that
//! instant; a guest that can't be frozen is copied all the same, and finds in the copy what it would find after a power
//! failure. While the copy is made and sent, the VM is not changed ([`VmTask::check_not_lent`]), but may be stopped by
//! force, which ends the copy.
//!
//! Whoever stops waiting for the copy ends it. What an agent that died left of one in QEMU, the next one gives up
//! ([`VmTask::settle_copy`]).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gantry_api::relocation::DiskCopied;
use gantry_qemu::disk_copy::{self, COPY_NODE};
use gantry_qemu::machine::Disk;
use gantry_qemu::qmp::Qmp;
use gantry_storage::{AlongFiles, DiskFile, StagedDisk, VmDisks};
use gantry_types::Problem;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::actor::{Run, VmTask};
use super::guest::GuestLine;
use super::machine::{disk_of, file_problem};
use super::relocation::{Lent, VARIABLES_NOW};
use super::snapshots::{snapshot_tag, variables_of};
use super::{MONITOR_LIMIT, disk, within};
use crate::problem::problem;
use crate::records::blocking;
use crate::vm_files;

/// For a disk of terabytes; whoever asks may stop waiting.
const COPY_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest that a guest's file systems are kept frozen.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// All that is needed to make a copy apart from the VM's task.
pub(crate) struct Copying {
    vm: Uuid,
    what: String,
    pool: Arc<dyn VmDisks>,
    /// Of the VM's QEMU.
    uid: u32,
    along: AlongFiles,
    /// The disk as QEMU opens it; the copy is opened like it.
    like: Disk,
    machine: Option<Running>,
    /// The snapshot that is copied, as the disk calls it.
    state: Option<String>,
    in_sight: CopyInSight,
    loan: Arc<()>,
}

/// A copy as it grows, for whoever wants to know how far it is.
#[derive(Clone, Default)]
pub(crate) struct CopyInSight(Arc<OnceLock<(PathBuf, u64)>>);

impl CopyInSight {
    /// `None` until it is begun.
    pub fn look(&self) -> Option<DiskCopied> {
        let (path, total_bytes) = self.0.get()?;
        let copied_bytes = (fs::metadata(path).ok()?.blocks() * 512).min(*total_bytes);
        Some(DiskCopied { copied_bytes, total_bytes: *total_bytes })
    }
}

struct Running {
    qmp: Qmp,
    disk_node: String,
    /// Its agent answers.
    guest: Option<GuestLine>,
}

impl VmTask {
    pub(super) async fn copy(&mut self, epoch: u64, snapshot: Option<Uuid>) -> Result<Copying, Problem> {
        self.check_epoch(epoch)?;
        self.check_not_migrating()?;
        self.check_no_snapshot_at_work()?;
        self.expect_exports_answer().await?;
        let record = self.known()?;
        let what = format!("the disk of VM '{}'", record.assignment.name);
        disk::check(&self.host, record).await?;
        let machine = match &self.run {
            Run::Off => None,
            _ => {
                let machine = self.machine()?;
                let guest = self.shared.guest_healthy_for().map(|_| machine.guest.clone());
                Some(Running { qmp: machine.qmp.clone(), disk_node: machine.disk_node.clone(), guest })
            }
        };
        let directory = self.host.records.vm_dir(self.vm);
        let at = directory.clone();
        let variables = snapshot.map_or_else(|| VARIABLES_NOW.to_owned(), variables_of);
        let along = blocking(move || vm_files::read_all(&at, |name| name == variables)).await;
        let along = along.map_err(|error| file_problem(&what, &directory, &error))?;
        let along: AlongFiles = along.into_values().map(|content| (VARIABLES_NOW.to_owned(), content)).collect();
        let like = disk_of(&self.host, &record.assignment).await?;
        let pool = self.disks().await?;
        let (state, loan) = (snapshot.map(snapshot_tag), Arc::clone(&self.loan));
        let in_sight = CopyInSight::default();
        let uid = record.owner_uid;
        Ok(Copying { vm: self.vm, what, pool, uid, along, like, machine, state, in_sight, loan })
    }

    /// After the agent has come back: nobody waits for a copy that another one began.
    pub(super) async fn settle_copy(&self) {
        let Run::On(machine) = &self.run else { return };
        match within(MONITOR_LIMIT, self.vm, disk_copy::give_up(&machine.qmp)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(vm = %self.vm, %error, "a copy that nobody waits for could not be given up")
            }
            Err(error) => tracing::warn!(vm = %self.vm, %error, "a copy that nobody waits for could not be given up"),
        }
    }
}

impl Copying {
    pub fn in_sight(&self) -> CopyInSight {
        self.in_sight.clone()
    }

    /// Makes the copy; given up if nobody waits for it any more.
    pub async fn make(self) -> Result<Lent, Problem> {
        let what = self.what.clone();
        let given_up = CancellationToken::new();
        let waited_for = given_up.clone().drop_guard();
        let made = tokio::spawn(self.work(given_up)).await;
        drop(waited_for.disarm());
        made.unwrap_or_else(|error| {
            Err(Problem::permanent("disk-not-copied", format!("{what} was not copied: {error}"))
                .remedy("see the agent's log on the VM's host"))
        })
    }

    async fn work(self, given_up: CancellationToken) -> Result<Lent, Problem> {
        let failed = |error| problem("disk-not-copied", &self.what, &error);
        let states = self.pool.disk_snapshots(self.vm).await.map_err(failed)?;
        if let Some(state) = &self.state
            && !states.iter().any(|known| known.name == *state)
        {
            return Err(Problem::not_found("snapshot", state).remedy("see which there are: gantry snapshot list VM"));
        }
        if self.machine.is_none() && states.is_empty() {
            // It is what the guest sees already.
            let disk = self.pool.read_disk(self.vm).await.map_err(failed)?;
            return Ok(Lent { disk, along: self.along, _copy: None, _loan: self.loan });
        }
        let copy = self.pool.stage_copy(self.vm, self.uid).await.map_err(failed)?;
        if let Ok(Some(disk)) = self.pool.disk(self.vm).await {
            // Begun once: each copying has its own.
            self.in_sight.0.get_or_init(|| (copy.path(), disk.allocated_bytes));
        }
        match &self.machine {
            Some(machine) if self.state.is_none() => self.copy_running(machine, &copy, &given_up).await?,
            _ => tokio::select! {
                filled = self.pool.fill_copy(self.vm, &copy, self.state.as_deref()) => filled.map_err(failed)?,
                () = given_up.cancelled() => return Err(self.not_waited_for()),
            },
        }
        let disk = self.to_send(&copy)?;
        Ok(Lent { disk, along: self.along, _copy: Some(copy), _loan: self.loan })
    }

    fn to_send(&self, copy: &StagedDisk) -> Result<DiskFile, Problem> {
        copy.to_send().map_err(|error| {
            Problem::transient("disk-not-copied", format!("{}: {error}", self.what))
                .remedy("look at this host's pool; it is tried again")
        })
    }

    async fn copy_running(
        &self,
        machine: &Running,
        copy: &StagedDisk,
        given_up: &CancellationToken,
    ) -> Result<(), Problem> {
        let target = Disk {
            node_name: COPY_NODE.to_owned(),
            location: copy.path().into(),
            boot_index: None,
            ..self.like.clone()
        };
        let begun = self.begin(machine, &target).await;
        let copied = match begun {
            Ok(()) => tokio::select! {
                copied = disk_copy::finish(&machine.qmp, &machine.disk_node, &target, COPY_LIMIT) => {
                    return copied.map_err(|error| problem("disk-not-copied", &self.what, &error));
                }
                () = given_up.cancelled() => Err(self.not_waited_for()),
            },
            failed => failed,
        };
        let ended = within(MONITOR_LIMIT, self.vm, disk_copy::give_up(&machine.qmp)).await?;
        ended.map_err(|error| problem("disk-not-copied", &self.what, &error))?;
        copied
    }

    /// From here on the copy is of this instant.
    async fn begin(&self, machine: &Running, target: &Disk) -> Result<(), Problem> {
        let begin = async {
            let begun = disk_copy::begin(&machine.qmp, &machine.disk_node, target);
            let begun = within(MONITOR_LIMIT, self.vm, begun).await?;
            begun.map_err(|error| problem("disk-not-copied", &self.what, &error))
        };
        let Some(guest) = &machine.guest else { return begin.await };
        let frozen = guest.freeze(FREEZE_LIMIT).await;
        let begun = begin.await;
        // Also after a freeze that failed: it may have been half done.
        let thawed = guest.thaw().await;
        match frozen {
            Ok(()) => begun.and(thawed),
            Err(error) => {
                tracing::info!(vm = %self.vm, %error, "its file systems are copied as after a power failure");
                begun
            }
        }
    }

    fn not_waited_for(&self) -> Problem {
        let detail = format!("{} is copied no more: nobody waits for it", self.what);
        Problem::transient("disk-not-copied", detail)
    }
}
