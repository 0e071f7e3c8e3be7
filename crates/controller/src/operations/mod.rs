//! Operations: durable pieces of work made of steps that can be repeated and undone.
//!
//! ```text
//!  plan(action) -> steps            executor: for each step  persist `running` -> run -> persist `done`
//!                                   error: transient -> again, with patience; permanent -> undo backwards
//! ```
//! An operation is an object in the store. Its steps are found again from its action, so a controller that starts
//! goes on where the last one stopped. One file per operation says what its steps do; [`executor`] alone decides when
//! they run.

mod addresses;
mod assignment;
mod backup_create;
mod backup_keep;
mod backup_place;
mod backup_restore;
mod children;
mod cluster_update;
mod disk_sending;
pub mod executor;
mod host_drain;
mod host_empty;
mod host_power;
mod host_target;
mod image_delete;
mod image_import;
mod migration_ending;
mod migration_outcome;
mod move_report;
mod placing;
mod pool_mark;
mod snapshot_create;
mod snapshot_delete;
pub mod step;
mod vm_clone;
mod vm_delete;
mod vm_disk_migrate;
mod vm_migrate;
mod vm_power;
mod vm_relocate;
mod vm_revert;
mod vm_start;
mod vm_stop;
mod volume_attach;
mod volume_make;
mod volume_migrate;
mod waking;

use gantry_types::{
    Action, Name, Operation, OperationSpec, PowerState, Problem, Resource, StepState, StepStatus, Vm, VmPhase,
};
use serde::{Deserialize, Serialize};

use crate::app::{App, Caller, fresh_name};
pub(crate) use assignment::image_of;
pub(crate) use backup_create::machine_with_identity;
pub(crate) use backup_place::{any_host, place_of, reaching_host};
pub(crate) use snapshot_create::machine_of;
use step::Procedure;
pub(crate) use vm_revert::choose_point;
pub(crate) use vm_start::{observe, place_elsewhere};

/// The memo under which an operation keeps how its VM was before.
const FORMER: &str = "former";
/// The memo under which it keeps the spec that its volume had.
pub(crate) const FORMER_SPEC: &str = "former_spec";

/// What a VM goes back to if its operation is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerState {
    /// None if it never had a host, so nothing of it is anywhere.
    pub host: Option<Name>,
    pub phase: VmPhase,
    pub power: PowerState,
    pub reason: Option<String>,
}

impl FormerState {
    pub fn of(vm: &Vm) -> Self {
        Self {
            host: vm.status.host.clone(),
            phase: vm.status.phase,
            power: vm.spec.power,
            reason: vm.status.reason.clone(),
        }
    }
}

/// The steps that carry an action out.
pub fn procedure(action: &Action) -> Box<dyn Procedure> {
    match action {
        Action::VmStart => Box::new(vm_start::VmStart),
        Action::VmStop { .. } => Box::new(vm_stop::VmStop),
        Action::VmReboot { .. } | Action::VmPause | Action::VmResume => Box::new(vm_power::VmPower),
        Action::VmDelete { .. } => Box::new(vm_delete::VmDelete),
        Action::VmMigrate { .. } => Box::new(vm_migrate::VmMigrate),
        Action::VmRelocate { .. } => Box::new(vm_relocate::VmRelocate),
        Action::VmDiskMigrate { .. } => Box::new(vm_disk_migrate::VmDiskMigrate),
        Action::VmClone { start, .. } => Box::new(vm_clone::VmClone { start: *start }),
        Action::VmRecover { .. } | Action::SnapshotRevert { .. } => Box::new(vm_revert::VmRevert),
        Action::SnapshotCreate { .. } => Box::new(snapshot_create::SnapshotCreate),
        Action::SnapshotDelete { .. } => Box::new(snapshot_delete::SnapshotDelete),
        Action::BackupCreate { .. } => Box::new(backup_create::BackupCreate),
        Action::BackupRestore { start, .. } => Box::new(backup_restore::BackupRestore { start: *start }),
        Action::BackupDelete { .. } => Box::new(backup_keep::BackupDelete),
        Action::BackupVerify => Box::new(backup_keep::BackupVerify),
        Action::ImageImport => Box::new(image_import::ImageImport),
        Action::ImageDelete => Box::new(image_delete::ImageDelete),
        Action::PoolCreate => Box::new(pool_mark::PoolCreate),
        Action::PoolDelete => Box::new(pool_mark::PoolDelete),
        Action::VolumeCreate => Box::new(volume_make::VolumeCreate),
        Action::VolumeDelete => Box::new(volume_make::VolumeDelete),
        Action::VolumeAttach { .. } => Box::new(volume_attach::VolumeAttach),
        Action::VolumeDetach => Box::new(volume_attach::VolumeDetach),
        Action::VolumeMigrate { .. } => Box::new(volume_migrate::VolumeMigrate),
        Action::VolumeUpdate => Box::new(volume_attach::VolumeUpdate),
        Action::HostDrain => Box::new(host_drain::HostDrain),
        Action::HostSleep | Action::HostWake | Action::HostReboot => {
            Box::new(host_power::HostPowerCycle { action: action.clone() })
        }
        Action::ClusterUpdate { .. } => Box::new(cluster_update::ClusterUpdate),
    }
}

/// A new operation object, to be written in the transaction of the change that asks for it.
pub fn new_operation<T: Resource>(
    app: &App,
    caller: &Caller,
    action: Action,
    target: &T,
    former: Option<&FormerState>,
) -> Result<Operation, Problem> {
    let steps = procedure(&action)
        .steps()
        .iter()
        .map(|step| StepStatus {
            name: step.name().into(),
            state: StepState::Pending,
            attempts: 0,
            started_at: None,
            finished_at: None,
            error: None,
        })
        .collect();
    // The last digits of a version 7 uuid are random.
    let id = app.clock.new_uuid().simple().to_string();
    let name = fresh_name(format!("{}-{}", action.verb(), &id[20..]));
    let spec = OperationSpec { action, target: target.reference(), requested_by: caller.name.clone() };
    let mut operation = Operation::new(name, spec);
    app.stamp(&mut operation.metadata);
    operation.status.steps = steps;
    if let Some(former) = former {
        let value = serde_json::to_value(former)
            .map_err(|e| Problem::permanent("unwritable-object", format!("the VM's former state: {e}")))?;
        operation.status.memo.insert(FORMER.into(), value);
    }
    Ok(operation)
}
