//! Volumes of a running machine: plugged in, changed, and taken out. How they look inside is [`crate::machine::Volume`]'s.
//!
//! Everything looks first what is there already, so it can be repeated after any interruption.

use std::collections::HashSet;
use std::time::Duration;

use gantry_types::DiskLocation;
use tokio::time::{Instant, sleep};

use crate::ErrorClass;
use crate::machine::{Arch, MachineError, Volume};
use crate::mirror::clear;
use crate::qmp::command::{
    BlockResize, BlockdevAddNode, BlockdevDel, DeviceAdd, DeviceDel, ObjectAddAny, ObjectDel, QomList, QomSetLimits,
    QueryBlockstats, QueryNamedBlockNodes,
};
use crate::qmp::{Qmp, QmpError};

/// How long a guest may take to let go of a device before the caller is told to come again.
const LETTING_GO: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the guest has not let go of it yet")]
    InUse,
    #[error("it was not copied: {reason}")]
    Move { reason: String },
}

impl VolumeError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Qmp(error) => error.class(),
            Self::Machine(error) => error.class(),
            Self::InUse => ErrorClass::Transient,
            Self::Move { .. } => ErrorClass::Permanent,
        }
    }
}

/// The machine has the volume afterwards, as large as `size_bytes` (if it was smaller), with its limits.
pub async fn plug(qmp: &Qmp, arch: Arch, volume: &Volume, size_bytes: u64) -> Result<(), VolumeError> {
    if has_object(qmp, &volume.group()).await? {
        let (path, value) = (format!("/objects/{}", volume.group()), volume.limits);
        qmp.execute(QomSetLimits { path, property: "limits".to_owned(), value }).await?;
    } else {
        qmp.execute(ObjectAddAny(volume.group_json())).await?;
    }
    if virtual_size(qmp, &volume.node()).await?.is_none() {
        qmp.execute(BlockdevAddNode(volume.node_json()?)).await?;
    }
    if virtual_size(qmp, &volume.node()).await?.is_some_and(|size| size < size_bytes) {
        qmp.execute(BlockResize { node_name: volume.node(), size: size_bytes }).await?;
    }
    if !has_device(qmp, volume).await? {
        qmp.execute(DeviceAdd(volume.device_json(arch))).await?;
    }
    Ok(())
}

/// The machine does not have it afterwards; nothing there is fine.
///
/// # Errors
/// [`VolumeError::InUse`] if the guest does not let it go soon: it was asked to, and is asked again by the next call.
pub async fn unplug(qmp: &Qmp, volume: &Volume) -> Result<(), VolumeError> {
    let until = Instant::now() + LETTING_GO;
    if has_device(qmp, volume).await? {
        match qmp.execute(DeviceDel { id: volume.device() }).await {
            // Refused while an earlier request is under way.
            Ok(_) | Err(QmpError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        while has_device(qmp, volume).await? {
            if Instant::now() >= until {
                return Err(VolumeError::InUse);
            }
            sleep(LOOK_AGAIN).await;
        }
    }
    if virtual_size(qmp, &volume.node()).await?.is_some() {
        close(qmp, &volume.node()).await?;
    }
    // One that it was moved to is not the filter's own, nor are those that have joined a mirrored one.
    for node in nodes_below(qmp, volume).await? {
        qmp.execute(BlockdevDel { node_name: node }).await?;
    }
    if let DiskLocation::Mirrored { id, .. } = &volume.location {
        clear(qmp, id).await?;
    }
    if has_object(qmp, &volume.group()).await? {
        qmp.execute(ObjectDel { id: volume.group() }).await?;
    }
    Ok(())
}

async fn has_device(qmp: &Qmp, volume: &Volume) -> Result<bool, VolumeError> {
    let place = format!("/machine/peripheral/{}/", volume.device());
    let all = qmp.execute(QueryBlockstats {}).await?;
    Ok(all.iter().any(|one| one.qdev.as_ref().is_some_and(|qdev| format!("{qdev}/").starts_with(&place))))
}

async fn has_object(qmp: &Qmp, id: &str) -> Result<bool, VolumeError> {
    let objects = qmp.execute(QomList { path: "/objects".to_owned() }).await?;
    Ok(objects.into_iter().map(|object| object.name).collect::<HashSet<_>>().contains(id))
}

/// A device that has just gone from its bus is still being taken apart for a moment.
async fn close(qmp: &Qmp, node: &str) -> Result<(), VolumeError> {
    let until = Instant::now() + LETTING_GO;
    loop {
        match qmp.execute(BlockdevDel { node_name: node.to_owned() }).await {
            Ok(_) => return Ok(()),
            Err(QmpError::Refused { .. }) if Instant::now() < until => sleep(LOOK_AGAIN).await,
            Err(QmpError::Refused { .. }) => return Err(VolumeError::InUse),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The places of the volume that QEMU has open.
async fn nodes_below(qmp: &Qmp, volume: &Volume) -> Result<Vec<String>, VolumeError> {
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    let names = nodes.into_iter().filter_map(|node| node.node_name);
    Ok(names.filter(|name| name.starts_with(&volume.format_prefix())).collect())
}

async fn virtual_size(qmp: &Qmp, node: &str) -> Result<Option<u64>, VolumeError> {
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    let found = nodes.into_iter().find(|found| found.node_name.as_deref() == Some(node));
    Ok(found.map(|found| found.image.virtual_size))
}
