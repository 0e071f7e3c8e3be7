//! A VM's volumes: given to it and taken from it, also while it runs.
//!
//! The record says which it has. It is written before QEMU gets one and after QEMU has let one go, so a QEMU that is
//! started anew never lacks a volume that its guest was told of, and every request can be repeated after any interruption.
//! The file belongs to the VM's user for as long as the VM has it, and to nobody otherwise.

use gantry_api::agent::Assignment;
use gantry_api::storage::{AttachVolume, VolumeAssignment};
use gantry_qemu::machine::Volume;
use gantry_qemu::qmp::command::ThrottleLimits;
use gantry_qemu::volume::{VolumeError, plug, unplug};
use gantry_types::{CacheMode, Problem};
use uuid::Uuid;

use super::actor::{Run, VmTask};
use super::machine::may_bypass_cache;
use super::{MONITOR_LIMIT, within};
use crate::host::Host;
use crate::inventory::qemu_arch;
use crate::problem::{chain, problem};
use crate::records::Record;
use crate::storage::{NOT_ANSWERING, WAIT_FOR_SERVER, pool_problem};

impl VmTask {
    pub(super) async fn attach_volume(&mut self, request: AttachVolume) -> Result<(), Problem> {
        let wanted = request.volume;
        self.check_volume_change(request.epoch)?;
        self.expect_exports_answer().await?;
        self.expect_mirrored_to_change(&wanted).await?;
        let record = self.known()?;
        let what = format!("volume '{}' of VM '{}'", wanted.name, record.assignment.name);
        let taken =
            record.assignment.volumes.iter().find(|other| other.slot == wanted.slot && other.uuid != wanted.uuid);
        if let Some(other) = taken {
            let detail = format!("{what}: slot {} is taken by volume '{}'", wanted.slot, other.name);
            return Err(
                Problem::conflict("volume-slot-taken", detail).remedy("look at the VM again: gantry describe vm")
            );
        }
        let driver = self.host.pools.driver(&wanted.pool);
        if matches!(self.run, Run::Off) {
            let grown = driver.grow(wanted.uuid, wanted.size.bytes()).await;
            grown.map_err(|error| pool_problem("volume-not-grown", &what, &error))?;
        }
        give(&self.host, &wanted, Some(record.owner_uid), &what).await?;
        let mut volumes = record.assignment.volumes.clone();
        volumes.retain(|other| other.uuid != wanted.uuid);
        volumes.push(wanted.clone());
        self.save_volumes(volumes).await?;
        if matches!(self.run, Run::Off) {
            return Ok(());
        }
        let (arch, machine) = (self.known()?.assignment.arch, self.machine()?);
        let volume = describe(&self.host, &wanted);
        let plugged = within(MONITOR_LIMIT, self.vm, plug(&machine.qmp, qemu_arch(arch), &volume, wanted.size.bytes()));
        plugged.await?.map_err(|error| problem("volume-not-attached", &what, &error))
    }

    pub(super) async fn detach_volume(&mut self, epoch: u64, volume: Uuid) -> Result<(), Problem> {
        self.check_volume_change(epoch)?;
        self.expect_exports_answer().await?;
        let record = self.known()?;
        let Some(has) = record.assignment.volumes.iter().find(|has| has.uuid == volume).cloned() else {
            return Ok(());
        };
        let what = format!("volume '{}' of VM '{}'", has.name, record.assignment.name);
        if has.pool.is_mirrored() {
            self.join_anew().await?;
        }
        if !matches!(self.run, Run::Off) {
            let described = describe(&self.host, &has);
            let gone = within(MONITOR_LIMIT, self.vm, unplug(&self.machine()?.qmp, &described)).await?;
            gone.map_err(|error| match error {
                VolumeError::InUse => Problem::transient("volume-in-use", format!("{what}: {error}"))
                    .remedy("unmount it in the guest; a guest that is paused or hangs lets nothing go"),
                error => problem("volume-not-detached", &what, &error),
            })?;
        }
        self.forget_states_of(&has).await?;
        let mut volumes = self.known()?.assignment.volumes.clone();
        volumes.retain(|other| other.uuid != volume);
        self.save_volumes(volumes).await?;
        give(&self.host, &has, None, &what).await
    }

    /// A volume with a copy comes, or grows, when there is no copy: that would not have it, or would be too short.
    async fn expect_mirrored_to_change(&mut self, wanted: &VolumeAssignment) -> Result<(), Problem> {
        if !wanted.pool.is_mirrored() {
            return Ok(());
        }
        let had = self.known()?.assignment.volumes.iter().find(|has| has.uuid == wanted.uuid);
        let Some(had) = had else {
            self.expect_alone()?;
            return self.join_anew().await;
        };
        if had.size >= wanted.size {
            return Ok(());
        }
        if matches!(self.run, Run::Off) {
            return self.expect_alone();
        }
        let detail = format!("volume '{}' is mirrored, and does not grow while its VM runs", wanted.name);
        Err(Problem::conflict("volume-mirrored", detail).remedy("stop the VM first, or detach the volume"))
    }

    /// Nobody can open what the VM had, once it is gone.
    pub(super) async fn give_volumes_back(&self) {
        let Some(record) = &self.record else { return };
        for volume in &record.assignment.volumes {
            let what = format!("volume '{}'", volume.name);
            if let Err(error) = self.forget_states_of(volume).await {
                tracing::warn!(vm = %self.vm, %error, "a volume still has states of a VM that is gone");
            }
            if let Err(error) = give(&self.host, volume, None, &what).await {
                tracing::warn!(vm = %self.vm, %error, "a volume still belongs to the user of a VM that is gone");
            }
        }
    }

    pub(super) fn check_volume_change(&self, epoch: u64) -> Result<(), Problem> {
        self.check_epoch(epoch)?;
        self.check_not_moving()?;
        self.check_no_snapshot_at_work()?;
        if matches!(self.run, Run::Deaf(_)) { self.machine().map(drop) } else { Ok(()) }
    }

    /// Before QEMU is told to do what would have it wait for the VM's disks: it waits with all that it does, and the guest with
    /// it, when an NFS server is away.
    ///
    /// # Errors
    /// `pool-not-answering` (transient).
    pub(crate) async fn expect_exports_answer(&self) -> Result<(), Problem> {
        if matches!(self.run, Run::Off) {
            return Ok(());
        }
        let record = self.known()?;
        let own = record.assignment.disk.pool.iter().map(|pool| (pool, format!("the disk of {}", named(record))));
        let volumes = record.assignment.volumes.iter().map(|volume| (&volume.pool, of_vm(volume, record)));
        for (pool, what) in own.chain(volumes).filter(|(pool, _)| pool.export.is_some()) {
            let Err(error) = self.host.pools.driver(pool).space().await else { continue };
            let detail = format!("{what} waits for its pool: {}", chain(&error));
            return Err(Problem::transient(NOT_ANSWERING, detail).remedy(WAIT_FOR_SERVER));
        }
        Ok(())
    }

    async fn save_volumes(&mut self, mut volumes: Vec<VolumeAssignment>) -> Result<(), Problem> {
        volumes.sort_by_key(|volume| volume.slot);
        let record = self.known()?;
        if record.assignment.volumes == volumes {
            return Ok(());
        }
        let assignment = Assignment { volumes, ..record.assignment.clone() };
        let record = Record { assignment, ..record.clone() };
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        self.record = Some(record);
        Ok(())
    }
}

pub(super) async fn give(host: &Host, volume: &VolumeAssignment, uid: Option<u32>, what: &str) -> Result<(), Problem> {
    let given = host.pools.driver(&volume.pool).give(volume.uuid, uid).await;
    given.map(drop).map_err(|error| pool_problem("volume-missing", what, &error))
}

/// Each volume is there, and its user's alone.
pub(super) async fn give_all(host: &Host, record: &Record) -> Result<(), Problem> {
    for volume in &record.assignment.volumes {
        give(host, volume, Some(record.owner_uid), &of_vm(volume, record)).await?;
    }
    Ok(())
}

fn named(record: &Record) -> String {
    format!("VM '{}'", record.assignment.name)
}

pub(super) fn of_vm(volume: &VolumeAssignment, record: &Record) -> String {
    format!("volume '{}' of {}", volume.name, named(record))
}

/// Before QEMU is started: each volume is there, and its user's; also its user's if the VM is on its way here.
pub(super) async fn prepare(host: &Host, record: &Record) -> Result<Vec<Volume>, Problem> {
    if !record.is_receiving() {
        give_all(host, record).await?;
        return Ok(describe_all(host, record));
    }
    for volume in &record.assignment.volumes {
        let shared = host.pools.driver(&volume.pool).share(volume.uuid, record.owner_uid).await;
        shared.map_err(|error| pool_problem("volume-missing", &of_vm(volume, record), &error))?;
    }
    Ok(describe_all(host, record))
}

fn describe_all(host: &Host, record: &Record) -> Vec<Volume> {
    record.assignment.volumes.iter().map(|volume| describe(host, volume)).collect()
}

/// The ends of a version 7 uuid are random.
fn id_of(volume: Uuid) -> String {
    volume.simple().to_string()[16..].to_owned()
}

/// What QEMU knows a volume by.
pub(crate) fn node_of(volume: Uuid) -> String {
    Volume::node_named(&id_of(volume))
}

pub(super) fn describe(host: &Host, volume: &VolumeAssignment) -> Volume {
    let location = host.pools.driver(&volume.pool).location(volume.uuid);
    let direct_io = volume.cache == CacheMode::None && may_bypass_cache(&location);
    Volume {
        id: id_of(volume.uuid),
        place: volume.pool.uuid.simple().to_string()[24..].to_owned(),
        serial: volume.name.to_string(),
        slot: volume.slot,
        location,
        direct_io,
        discard: volume.discard,
        limits: ThrottleLimits {
            iops_total: volume.limits.iops.unwrap_or(0).into(),
            bps_total: volume.limits.bytes_per_s.map_or(0, |rate| rate.bytes()),
        },
    }
}
