//! Volumes that begin as images, and volumes as files.

use gantry_api::storage::{ExportVolume, VolumeAssignment};
use gantry_types::{
    BackedUpVolume, Backup, BackupPhase, Host, HostState, Image, ImageFormat, ImagePhase, Name, Pool, Problem,
    Resource, Severity, Vm, VmPhase, Volume, VolumePhase,
};

use super::{App, Caller, volume};
use crate::objects::Change;

/// Whether the image that a new volume is to begin as is there and fits into it.
///
/// # Errors
/// The field that is wrong, and why.
pub(super) fn check_image(app: &App, sent: &Volume) -> Result<(), (&'static str, String)> {
    let Some(name) = &sent.spec.image else { return Ok(()) };
    let Some(image) = app.model.get::<Image>(name.as_str()) else {
        return Err(("spec.image", format!("image '{name}' does not exist; see: gantry image list")));
    };
    if image.status.phase != ImagePhase::Ready {
        return Err(("spec.image", format!("image '{name}' is not ready; see: gantry image show {name}")));
    }
    let needed = image.status.virtual_size;
    if sent.spec.size < needed {
        return Err(("spec.size", format!("{} is less than the {needed} of image '{name}'", sent.spec.size)));
    }
    Ok(())
}

/// Whether the backup that a new volume is to begin from has such a disk, whole, and that fits into it.
///
/// # Errors
/// The field that is wrong, and why.
pub(super) fn check_backup(app: &App, sent: &Volume) -> Result<(), (&'static str, String)> {
    let Some(BackedUpVolume { name, disk }) = &sent.spec.backup else { return Ok(()) };
    let Some(backup) = app.model.get::<Backup>(name.as_str()) else {
        return Err(("spec.backup.name", format!("backup '{name}' does not exist; see: gantry backup list")));
    };
    if backup.status.phase != BackupPhase::Ready {
        let message = format!("backup '{name}' is {}; see: gantry backup show {}", backup.status.phase, backup.typed());
        return Err(("spec.backup.name", message));
    }
    let disks = &backup.status.disks;
    let Some(found) = disks.iter().find(|one| one.name == *disk) else {
        let names: Vec<_> = disks.iter().map(|one| one.name.as_str()).collect();
        let shown: String = disk.chars().filter(|c| !c.is_control()).take(64).collect();
        return Err(("spec.backup.disk", format!("'{shown}' is not in backup '{name}'; it has: {}", names.join(", "))));
    };
    if sent.spec.size < found.size {
        let message = format!("{} is less than the {} of '{disk}' in backup '{name}'", sent.spec.size, found.size);
        return Err(("spec.size", message));
    }
    Ok(())
}

/// The host that sends a volume as a file, and what it is asked for. It is written down who had it sent.
pub(crate) async fn export(
    app: &App,
    caller: &Caller,
    name: &str,
    format: ImageFormat,
) -> Result<(Host, ExportVolume), Problem> {
    // It shows what is on it.
    caller.may_change()?;
    let current: Volume = app.objects.get(name).await?;
    expect_still(app, &current)?;
    let assignment: VolumeAssignment = volume::assignment(app, &current)?;
    let pool: Pool = app.objects.get(current.spec.pool.as_str()).await?;
    let answers =
        |host: &Name| app.model.get::<Host>(host.as_str()).filter(|host| host.status.state == HostState::Ready);
    let host = pool.spec.hosts.iter().find_map(answers).ok_or_else(|| {
        let detail = format!("no host that answers reaches pool '{}' of volume '{name}'", pool.name());
        Problem::transient("pool-not-reached", detail)
            .object(current.reference())
            .remedy("see what is wrong with its hosts: gantry host list")
    })?;
    let mut change = Change::new();
    let message = format!("volume '{name}' is sent as a {format} file to {}", caller.name);
    change.event(&app.event(current.reference(), Severity::Normal, "VolumeExported", message))?;
    app.commit(change).await?;
    Ok((Host::clone(&host), ExportVolume { volume: assignment, format }))
}

/// Nobody writes to it now.
fn expect_still(app: &App, current: &Volume) -> Result<(), Problem> {
    volume::expect_idle(current)?;
    let name = current.name();
    let vm = current.status.vm.as_ref().and_then(|vm| app.model.get::<Vm>(vm.as_str()));
    if let Some(vm) = vm.filter(|vm| !matches!(vm.status.phase, VmPhase::Stopped | VmPhase::Failed)) {
        let detail = format!("volume '{name}' is attached to VM '{}', which is {}", vm.name(), vm.status.phase);
        return Err(Problem::conflict("volume-in-use", detail)
            .object(current.reference())
            .remedy(format!("stop the VM, or detach it first: gantry volume detach {name}")));
    }
    volume::expect_phase(current, &[VolumePhase::Ready, VolumePhase::Attached], "export")
}
