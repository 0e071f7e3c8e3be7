//! A stopped VM's disk is lent to the task that sends it, or has arrived from another host.

use std::sync::Arc;

use gantry_api::agent::Assignment;
use gantry_storage::{AlongFiles, Claiming, DiskFile, DiskSpec, StagedDisk};
use gantry_types::Problem;
use uuid::Uuid;

use super::actor::{Run, VmTask};
use super::machine::file_problem;
use super::{disk, prepare_files};
use crate::images::digest;
use crate::problem::problem;
use crate::records::{Record, RecoveryRecord, blocking};
use crate::vm_files;

const RECOVERY: &str = "recovery.json";
pub(super) const VARIABLES_NOW: &str = "uefi-vars.fd";
const VARIABLES: &str = "uefi-vars.";
const VARIABLES_END: &str = "fd";

/// What a VM has, or a copy of it; while this is there the VM is not started or changed.
pub(crate) struct Lent {
    pub disk: DiskFile,
    pub along: AlongFiles,
    /// The copy, if it is one.
    pub(super) _copy: Option<StagedDisk>,
    pub(super) _loan: Arc<()>,
}

/// A disk that has come, with all that belongs to it.
pub(crate) struct Arrival {
    pub relocation: Uuid,
    pub assignment: Assignment,
    pub staged: StagedDisk,
    pub along: AlongFiles,
}

impl VmTask {
    pub(super) async fn lend(&mut self, epoch: u64) -> Result<Lent, Problem> {
        self.check_epoch(epoch)?;
        // Again, if the last who borrowed it has not noticed yet that nobody waits for it.
        self.check_not_migrating()?;
        let record = self.known()?;
        let name = &record.assignment.name;
        if !matches!(self.run, Run::Off) {
            let detail = format!("VM '{name}' runs; only a stopped VM's disk is sent");
            return Err(Problem::conflict("vm-running", detail).remedy("stop it first, or move it while it runs"));
        }
        if record.assignment.disk.pool.is_some() {
            let detail = format!("the disk of VM '{name}' is in a pool, and is adopted from there instead of sent");
            return Err(Problem::conflict("vm-in-pool", detail).remedy("start it on the other host"));
        }
        let what = format!("the disk of VM '{name}'");
        let pool = self.disks().await?;
        let directory = self.host.records.vm_dir(self.vm);
        let recovery = RecoveryRecord { kept_in: None, ..record.recovery.clone() };
        let disk = pool.read_disk(self.vm).await;
        let disk = disk.map_err(|error| problem("disk-not-sent", &what, &error))?;
        let read = blocking(move || {
            let mut along = vm_files::read_all(&directory, is_variables)?;
            along.insert(RECOVERY.to_owned(), serde_json::to_vec(&recovery)?);
            Ok(along)
        });
        let along = read.await.map_err(|error| file_problem(&what, &self.host.records.vm_dir(self.vm), &error))?;
        Ok(Lent { disk, along, _copy: None, _loan: Arc::clone(&self.loan) })
    }

    /// Whether this relocation has brought the VM here. What another one left that nobody defined since is removed.
    pub(super) async fn has_arrived(&mut self, relocation: Uuid, epoch: u64) -> Result<bool, Problem> {
        let Some(record) = &self.record else { return Ok(false) };
        self.check_epoch(epoch)?;
        match record.arrived {
            Some(id) if id == relocation && record.disk_made => Ok(true),
            Some(_) => self.tear_down().await.map(|()| false),
            // Defined since.
            None if record.assignment.epoch == epoch => Ok(true),
            None => {
                let detail = format!("VM '{}' is on this host already", record.assignment.name);
                Err(Problem::conflict("vm-exists", detail).remedy("remove what is left of it here, then move it again"))
            }
        }
    }

    /// Makes the VM from what has come.
    pub(super) async fn arrive(&mut self, arrival: Arrival) -> Result<(), Problem> {
        if self.has_arrived(arrival.relocation, arrival.assignment.epoch).await? {
            return Ok(());
        }
        let owner_uid = self.host.uids.take()?;
        let made = self.make_arrived(arrival, owner_uid).await;
        if made.is_err() {
            match self.record {
                Some(_) => self.tear_down().await?,
                None => self.host.uids.release(owner_uid),
            }
        }
        made
    }

    async fn make_arrived(&mut self, arrival: Arrival, owner_uid: u32) -> Result<(), Problem> {
        let Arrival { relocation, assignment, staged, along } = arrival;
        let what = format!("VM '{}'", assignment.name);
        let damaged = |why: String| {
            let detail = format!("what has come along with {what} can't be read: {why}");
            Problem::permanent("disk-not-received", detail)
                .remedy("compare the versions of both hosts: gantry host list -o wide")
        };
        let recovery = along.get(RECOVERY).map(|bytes| serde_json::from_slice::<RecoveryRecord>(bytes)).transpose();
        let recovery = recovery.map_err(|error| damaged(error.to_string()))?.unwrap_or_default();
        let strange = along.keys().find(|name| *name != RECOVERY && !is_variables(name));
        if let Some(name) = strange {
            return Err(damaged(format!("an unknown file {name:?}")));
        }
        let image = assignment.disk.image.as_ref().map(|image| digest(&image.digest)).transpose()?;
        let (disk, size_bytes) = (assignment.uuid, assignment.disk.size.bytes());
        let spec = DiskSpec { disk, size_bytes, image, owner_uid: Some(owner_uid) };
        let record = Record { recovery, arrived: Some(relocation), ..Record::new(assignment, owner_uid) };
        disk::check_nothing_left(&self.host, &record).await?;
        // The record first: what a crash leaves of the rest is found through it.
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        let record = self.record.insert(record);
        let directory = self.host.records.vm_dir(self.vm);
        let files = along.into_iter().filter(|(name, _)| name != RECOVERY).collect();
        let place = directory.clone();
        let written = blocking(move || vm_files::write_all(&place, &files, owner_uid)).await;
        written.map_err(|error| file_problem(&what, &directory, &error))?;
        let pool = disk::place(&self.host, &record.assignment).await?;
        let adopted = pool.adopt_disk(&spec, staged).await;
        adopted.map_err(|error| problem("disk-not-received", &what, &error))?;
        drop(disk::claim(&self.host, &record.assignment, Claiming::Keep).await?);
        record.disk_made = true;
        self.host.records.save(record).await.map_err(|error| error.problem())?;
        prepare_files(&self.host, record).await
    }

    /// # Errors
    /// While its disk is being sent or copied, for whatever would change it.
    pub(crate) fn check_not_lent(&self) -> Result<(), Problem> {
        if Arc::strong_count(&self.loan) == 1 {
            return Ok(());
        }
        Err(Problem::transient("disk-being-sent", format!("the disk of VM {} is being sent or copied", self.vm))
            .remedy("wait for the end of the move or clone, or cancel it: gantry operation list"))
    }
}

/// Of the firmware: now, and as they were at each of the disk's states.
fn is_variables(name: &str) -> bool {
    let middle = name.strip_prefix(VARIABLES).and_then(|rest| rest.strip_suffix(VARIABLES_END));
    middle.is_some_and(|middle| {
        middle.is_empty() || middle.strip_suffix('.').is_some_and(|id| Uuid::try_parse(id).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::is_variables;

    #[test]
    fn nothing_but_variables_comes_along() {
        assert!(is_variables("uefi-vars.fd"));
        assert!(is_variables("uefi-vars.0191e2a0-0000-7000-8000-000000000001.fd"));
        for strange in
            ["record.json", "uefi-vars.x.fd", "uefi-vars...fd", "../uefi-vars.fd", "uefi-vars./etc/shadow.fd", ""]
        {
            assert!(!is_variables(strange), "{strange}");
        }
    }
}
