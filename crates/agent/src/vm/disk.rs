//! A VM's disk: made once, never replaced.
//!
//! The record says whether it was made. A disk that was made and is not there is lost or its filesystem is not mounted: a
//! fresh one in its place would look like the VM and be empty. A disk that is there although the record says that none was
//! made is what a crash left before anything could use it; without any record it may be the last of a VM.
//!
//! A disk in a pool has a lease beside it, which says whose it is. It is claimed when the disk is made or the VM adopted,
//! before each start of QEMU, and at the end of a move; whoever finds another host's there leaves the disk alone. The
//! claim's hold stays with the running machine.

use std::sync::Arc;

use gantry_api::agent::Assignment;
use gantry_storage::{Claiming, DiskHold, DiskSpec, StorageError, VmDisks};
use gantry_types::Problem;

use super::actor::{Run, VmTask};
use super::{DISK_NODE, volumes};
use crate::host::Host;
use crate::images::digest;
use crate::problem::{chain, problem};
use crate::records::{End, Record};
use crate::storage::pool_problem;

fn named(assignment: &Assignment) -> String {
    format!("VM '{}'", assignment.name)
}

/// The pool that the VM's disk is in: the host's own, or the one that it was given.
pub(crate) async fn place(host: &Host, assignment: &Assignment) -> Result<Arc<dyn VmDisks>, Problem> {
    let pool = assignment.disk.pool.as_ref();
    let found = host.pools.disks(pool, host.claim(assignment.epoch)).await;
    found.map_err(|error| {
        let pool = pool.map(|pool| format!(" in pool '{}'", pool.name)).unwrap_or_default();
        pool_problem("disk-missing", &format!("the disk of {}{pool}", named(assignment)), &error)
    })
}

/// Makes a disk in a pool this host's, or finds that it is; `None` for one in the host's own pool, which nobody else has.
pub(super) async fn claim(
    host: &Host,
    assignment: &Assignment,
    claiming: Claiming,
) -> Result<Option<DiskHold>, Problem> {
    if assignment.disk.pool.is_none() {
        return Ok(None);
    }
    let claimed = place(host, assignment).await?.claim_disk(assignment.uuid, claiming).await;
    claimed.map(Some).map_err(|error| lease_problem(assignment, &error))
}

fn lease_problem(assignment: &Assignment, error: &StorageError) -> Problem {
    let code = match error {
        StorageError::DiskElsewhere { .. } => "disk-elsewhere",
        StorageError::DiskInUse { .. } => "disk-in-use",
        StorageError::DiskMissing { .. } => "disk-missing",
        StorageError::LeaseDamaged { .. } => "lease-damaged",
        _ => "disk-not-claimed",
    };
    problem(code, &named(assignment), error)
}

/// Makes the disk the first time; afterwards only looks whether it is as assigned.
pub(super) async fn make(host: &Host, record: &mut Record) -> Result<(), Problem> {
    let assignment = &record.assignment;
    let image = assignment.disk.image.as_ref().map(|image| digest(&image.digest)).transpose()?;
    let failed = |error| problem("disk-not-made", &named(assignment), &error);
    let pool = place(host, assignment).await?;
    if record.disk_made {
        check(host, record).await?;
        // Another host's is not touched.
        claim(host, assignment, Claiming::Keep).await?;
    } else {
        expect_not_elsewhere(host, &*pool, assignment).await?;
        // No QEMU was started on it: that takes a record that says it was made.
        pool.delete_disk(assignment.uuid).await.map_err(failed)?;
    }
    let size_bytes = assignment.disk.size.bytes();
    let spec = DiskSpec { disk: assignment.uuid, size_bytes, image, owner_uid: Some(record.owner_uid) };
    pool.create_disk(&spec).await.map_err(failed)?;
    if !record.disk_made {
        claim(host, assignment, Claiming::Keep).await?;
        let made = Record { disk_made: true, ..record.clone() };
        host.records.save(&made).await.map_err(|error| error.problem())?;
        *record = made;
    }
    Ok(())
}

pub(super) async fn expect_not_elsewhere(
    host: &Host,
    pool: &dyn VmDisks,
    assignment: &Assignment,
) -> Result<(), Problem> {
    let lease = match &assignment.disk.pool {
        Some(_) => pool.lease(assignment.uuid).await.map_err(|error| lease_problem(assignment, &error))?,
        None => None,
    };
    match lease.filter(|lease| lease.host != host.config.name) {
        Some(lease) => {
            let error = StorageError::DiskElsewhere { disk: assignment.uuid, host: lease.host, epoch: lease.epoch };
            Err(lease_problem(assignment, &error))
        }
        None => Ok(()),
    }
}

/// Whether the disk is there, before QEMU is started on it.
pub(super) async fn check(host: &Host, record: &Record) -> Result<(), Problem> {
    let (what, pool) = (named(&record.assignment), place(host, &record.assignment).await?);
    if !record.disk_made {
        let detail = format!("the disk of {what} was not made yet");
        return Err(Problem::conflict("disk-not-made", detail).remedy("define the VM again, then start it"));
    }
    if is_there(&record.assignment, &*pool).await? {
        return Ok(());
    }
    let disk =
        pool.location(record.assignment.uuid).await.map_err(|error| lease_problem(&record.assignment, &error))?;
    let detail = format!("the disk of {what}, {disk}, is not in its pool {}", pool.place());
    Err(Problem::permanent("disk-missing", detail)
        .remedy("mount the pool's filesystem or restore the disk, then start the VM; or delete the VM"))
}

/// Before the first record of a VM: a disk of its name that nobody here knows is not taken for its own.
pub(super) async fn check_nothing_left(host: &Host, record: &Record) -> Result<(), Problem> {
    let (what, pool) = (named(&record.assignment), place(host, &record.assignment).await?);
    if !is_there(&record.assignment, &*pool).await? {
        return Ok(());
    }
    expect_not_elsewhere(host, &*pool, &record.assignment).await?;
    let place =
        pool.location(record.assignment.uuid).await.map_err(|error| lease_problem(&record.assignment, &error))?;
    let detail = format!("{what} is new to this host, but a disk of it is here: {place}");
    Err(Problem::permanent("disk-left", detail)
        .remedy("move the file away if its content is still wanted, otherwise delete it; then repeat the command"))
}

/// Before a VM's move to this host has a record: a disk that both hosts reach is there, one that travels is still to be made,
/// because the mirror copies only what differs from the image.
pub(crate) async fn check_arriving(host: &Host, record: &Record) -> Result<(), Problem> {
    match record.assignment.disk.travels() {
        true => check_nothing_left(host, record).await,
        false => check(host, &Record { disk_made: true, ..record.clone() }).await,
    }
}

/// The QEMU that is started here opens a disk, and volumes, that another host's still writes to.
pub(super) async fn open_to_arriving(host: &Host, record: &mut Record) -> Result<(), Problem> {
    let (assignment, uid) = (&record.assignment, record.owner_uid);
    let opened = place(host, assignment).await?.share_disk(assignment.uuid, uid).await;
    opened.map_err(|error| problem("disk-not-opened", &named(assignment), &error))?;
    let arrived = Record { disk_made: true, ..record.clone() };
    host.records.save(&arrived).await.map_err(|error| error.problem())?;
    *record = arrived;
    Ok(())
}

/// Removes the disk of a VM that is no longer here, unless it is in a pool and by now another host's, or is to become that:
/// the VM was given a later epoch than this host knows. `false` if so: then nothing else of the VM in pools is this host's
/// either.
pub(super) async fn remove(host: &Host, record: &Record, superseded: bool) -> Result<bool, Problem> {
    let assignment = &record.assignment;
    // In a mirrored pool each host has its own.
    if superseded && assignment.disk.pool.as_ref().is_some_and(|pool| !pool.is_mirrored()) {
        return Ok(false);
    }
    if assignment.disk.pool.is_some() {
        return delete(host, assignment).await;
    }
    delete(host, assignment).await?;
    Ok(!record.volumes_are_elsewhere())
}

/// Deletes the disk of a VM in the place of this assignment; nothing there is fine. `false` if it is another host's.
pub(super) async fn delete(host: &Host, assignment: &Assignment) -> Result<bool, Problem> {
    let pool = place(host, assignment).await?;
    let mut hold = None;
    if assignment.disk.pool.is_some() {
        let lease = pool.lease(assignment.uuid).await.map_err(|error| lease_problem(assignment, &error))?;
        if lease.is_some_and(|lease| lease.host != host.config.name) {
            return Ok(false);
        }
        // Nobody gets it while it goes.
        hold = match claim(host, assignment, Claiming::Keep).await {
            Err(error) if error.code() == "disk-missing" => None,
            claimed => claimed?,
        };
    }
    let deleted = pool.delete_disk(assignment.uuid).await;
    drop(hold);
    deleted.map_err(|error| problem("disk-not-deleted", &named(assignment), &error))?;
    Ok(true)
}

async fn is_there(assignment: &Assignment, pool: &dyn VmDisks) -> Result<bool, Problem> {
    let there = pool.has_disk(assignment.uuid).await;
    there.map_err(|error| pool_problem("disk-not-readable", &named(assignment), &error))
}

impl VmTask {
    /// What the VM's QEMU calls its disk; what the next one will, without one.
    pub(super) fn disk_node(&self) -> String {
        self.machine().map_or(DISK_NODE, |machine| &machine.disk_node).to_owned()
    }

    /// The pool that the VM's disk is in.
    pub(super) async fn disks(&self) -> Result<Arc<dyn VmDisks>, Problem> {
        place(&self.host, &self.known()?.assignment).await
    }

    /// Holds the disk of a QEMU that was found again, or whose guest came back from a move that failed. A guest whose disk
    /// was given to another host while nobody looked is ended at once.
    pub(crate) async fn hold_disk(&mut self) {
        let Some(record) = self.record.clone().filter(|record| !record.volumes_are_elsewhere()) else { return };
        if !matches!(&self.run, Run::On(machine) if machine.disk_hold.is_none()) {
            return;
        }
        let lost = match claim(&self.host, &record.assignment, Claiming::Keep).await {
            Ok(hold) => {
                if let Run::On(machine) = &mut self.run {
                    machine.disk_hold = hold;
                }
                return;
            }
            Err(error) if error.code() == "disk-elsewhere" => error,
            Err(error) => {
                tracing::warn!(vm = %self.vm, %error, "the VM's disk is not held; QEMU has it locked");
                return;
            }
        };
        tracing::error!(vm = %self.vm, error = %lost, "the VM runs on another host's disk and is ended");
        if let Err(error) = self.end_qemu().await {
            tracing::error!(vm = %self.vm, %error, "it can't be ended");
        }
        if let Some(record) = &mut self.record {
            record.process = None;
            record.end = Some(End::failed(lost.detail));
        }
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.vm, error = chain(&error), "the end of QEMU is not on disk");
        }
    }

    /// At the end of a move to this host: the disk becomes this host's, and nobody's besides.
    pub(crate) async fn take_disk_over(&mut self) -> Result<(), Problem> {
        let record = self.known()?.clone();
        if record.assignment.disk.pool.is_some() && self.machine()?.disk_hold.is_none() {
            let hold = claim(&self.host, &record.assignment, Claiming::Arrived).await?;
            if let Run::On(machine) = &mut self.run {
                machine.disk_hold = hold;
            }
            let given = self.disks().await?.unshare_disk(self.vm, record.owner_uid).await;
            given.map_err(|error| self.storage_problem("disk-not-claimed", &error))?;
        }
        volumes::give_all(&self.host, &record).await
    }

    /// A move from this host has failed: disk and volumes are this host's as before, and nobody's besides.
    pub(crate) async fn take_disks_back(&mut self) {
        self.hold_disk().await;
        let Some(record) = self.record.clone() else { return };
        let given = async {
            if record.assignment.disk.pool.is_some() {
                let given = self.disks().await?.unshare_disk(self.vm, record.owner_uid).await;
                given.map_err(|error| self.storage_problem("disk-not-claimed", &error))?;
            }
            volumes::give_all(&self.host, &record).await
        };
        if let Err(error) = given.await {
            tracing::warn!(vm = %self.vm, %error, "the host that the VM did not go to may still open its disks");
        }
    }

    /// The guest was handed over: whoever gets it claims the disk next.
    pub(crate) fn let_disk_go(&mut self) {
        if let Run::On(machine) = &mut self.run {
            machine.disk_hold = None;
        }
    }
}
