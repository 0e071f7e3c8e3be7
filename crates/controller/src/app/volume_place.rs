//! Where volumes can be used, and what can't be done with one because of its place.

use gantry_types::{Pool, Problem, Resource, Vm, VmPhase, Volume};

use super::{App, vm, volume};

/// Phases in which a VM's host can say what the VM has.
const AT_REST: [VmPhase; 4] = [VmPhase::Running, VmPhase::Paused, VmPhase::Stopped, VmPhase::Failed];

/// The VM has a host, and that reaches the volume's pool.
pub(super) fn expect_reached(app: &App, volume: &Volume, vm: &Vm) -> Result<(), Problem> {
    vm::expect_phase(vm, &AT_REST, "attach a volume to", None)?;
    let Some(host) = &vm.status.host else {
        let detail = format!("VM '{}' has never been started, so it is on no host", vm.name());
        return Err(Problem::conflict("vm-without-host", detail)
            .object(vm.reference())
            .remedy(format!("start it first: gantry vm start {}", vm.name())));
    };
    let name = volume.spec.pool.as_str();
    let pool = app.model.get::<Pool>(name).ok_or_else(|| Problem::not_found(Pool::KIND, name))?;
    // One that was not made yet is made where it is needed.
    let copies = volume.status.copies.as_ref().filter(|_| pool.is_mirrored());
    let reached = copies.map_or(&pool.spec.hosts, |copies| &copies.current);
    if pool.is_at(host) && reached.contains(host) {
        return Ok(());
    }
    let reached: Vec<_> = reached.iter().map(|host| host.as_str()).collect();
    let lacks = match copies {
        Some(_) => "has no current copy of".to_owned(),
        None => format!("does not reach pool '{name}' of"),
    };
    let detail = format!(
        "VM '{}' is on host '{host}', which {lacks} volume '{}'; that is reached from {}",
        vm.name(),
        volume.name(),
        reached.join(", ")
    );
    Err(Problem::conflict("pool-not-reached", detail).object(volume.reference()).remedy(format!(
        "move the VM there first: gantry vm migrate {} --to {}",
        vm.name(),
        reached.first().copied().unwrap_or("HOST")
    )))
}

/// Refuses to move a VM that has volumes which no other host reaches.
///
/// # Errors
/// `vm-has-volumes`, naming them.
pub(crate) fn expect_movable(app: &App, vm: &Vm) -> Result<(), Problem> {
    let stuck: Vec<_> = app.model.read(|tables| {
        let is_shared = |volume: &std::sync::Arc<Volume>| {
            tables.pools.get(volume.spec.pool.as_str()).is_some_and(|pool| pool.is_shared())
        };
        volume::of_vm(tables, vm).into_iter().filter(|volume| !is_shared(volume)).collect()
    });
    let Some(first) = stuck.first() else { return Ok(()) };
    let names: Vec<_> = stuck.iter().map(|volume| volume.name()).collect();
    let detail = format!("VM '{}' can't move: no other host can use its volumes {}", vm.name(), names.join(", "));
    Err(Problem::conflict("vm-has-volumes", detail).object(vm.reference()).remedy(format!(
        "move them to a pool that both hosts reach (gantry volume migrate {0} --to POOL), or detach them: gantry volume \
         detach {0}",
        first.name()
    )))
}

/// Copies are as long as their disk, and are not there when it grows.
pub(super) async fn expect_may_grow(app: &App, volume: &Volume) -> Result<(), Problem> {
    let Some(vm) = &volume.status.vm else { return Ok(()) };
    let pool = app.model.get::<Pool>(volume.spec.pool.as_str());
    let vm: Vm = app.objects.get(vm.as_str()).await?;
    if !pool.is_some_and(|pool| pool.is_mirrored()) || matches!(vm.status.phase, VmPhase::Stopped | VmPhase::Failed) {
        return Ok(());
    }
    let detail = format!("volume '{}' is mirrored, and does not grow while VM '{}' runs", volume.name(), vm.name());
    Err(Problem::conflict("volume-mirrored", detail)
        .object(volume.reference())
        .remedy(format!("stop the VM first, or detach the volume: gantry volume detach {}", volume.name())))
}

/// A volume that a VM has, and that has copies here or is to have them there, does not change its pool.
pub(super) fn expect_not_mirrored(app: &App, volume: &Volume, to: &Pool) -> Result<(), Problem> {
    let from = app.model.get::<Pool>(volume.spec.pool.as_str());
    if !to.is_mirrored() && !from.is_some_and(|from| from.is_mirrored()) {
        return Ok(());
    }
    let detail = format!("volume '{}' can't go to or from a mirrored pool while a VM has it", volume.name());
    Err(Problem::conflict("volume-mirrored", detail)
        .object(volume.reference())
        .remedy(format!("detach it first: gantry volume detach {}", volume.name())))
}
