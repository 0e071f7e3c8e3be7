//! What somebody should look at, in words and with what to do next.
//!
//! Only what is so now; what has happened are events. A host that is lost is told once, with its VMs.

use gantry_api::overview::{Named, Wrong, WrongSeverity};
use gantry_types::{
    Host, HostState, Image, ImagePhase, Operation, OperationPhase, Resource, StepState, Timestamp, Vm, VmPhase,
};

use crate::model::{Overlay, Tables};

const SHOWN: usize = 50;
/// A step that was tried this often is not just waiting its turn.
const MANY_ATTEMPTS: u32 = 3;
/// A pool with less than this share free.
const NEARLY_FULL_PERCENT: u64 = 10;

/// The most serious, and how many there are in all.
pub fn find(tables: &Tables, overlay: &Overlay, now: Timestamp) -> (Vec<Wrong>, u64) {
    let hosts = tables.hosts.values().flat_map(|host| of_host(tables, overlay, host, now));
    let vms = tables.vms.values().filter_map(|vm| of_vm(vm));
    let images = tables.images.values().filter_map(|image| of_image(image));
    let operations = tables.operations.values().filter_map(|operation| of_operation(operation));
    let mut wrongs: Vec<_> = hosts.chain(vms).chain(images).chain(operations).collect();
    let total = wrongs.len() as u64;
    wrongs.sort_by_key(|wrong| wrong.severity);
    wrongs.truncate(SHOWN);
    (wrongs, total)
}

fn wrong(severity: WrongSeverity, object: &impl Resource, what: String, remedy: String) -> Wrong {
    let reference = object.reference();
    let object = Named { kind: reference.kind, name: reference.name.to_string() };
    Wrong { severity, object, what, remedy: Some(remedy), since: None }
}

fn of_host(tables: &Tables, overlay: &Overlay, host: &Host, now: Timestamp) -> Vec<Wrong> {
    let name = host.name();
    let mut found = Vec::new();
    if host.status.state == HostState::Lost {
        let is_here = |vm: &Vm| vm.status.host.as_ref().is_some_and(|at| at.as_str() == name);
        let vms = tables.vms.values().filter(|vm| is_here(vm)).count();
        let seen = overlay.hosts.get(name).map(|report| report.last_seen).or(host.status.last_seen);
        let since = seen.map_or_else(String::new, |seen| format!(" for {} s", now.since(seen).as_secs()));
        let what = format!("host '{name}' has not been heard{since}; it has {vms} VMs, which may still run");
        let remedy = format!("check its power and network, then its agent; see: gantry describe host {name}");
        found.push(Wrong { since: seen, ..wrong(WrongSeverity::Critical, host, what, remedy) });
    }
    for pool in host.status.inventory.iter().flat_map(|inventory| &inventory.pools) {
        let (free, capacity) = (pool.free.bytes(), pool.capacity.bytes());
        if capacity > 0 && u128::from(free) * 100 < u128::from(capacity) * u128::from(NEARLY_FULL_PERCENT) {
            let what = format!(
                "pool '{}' of host '{name}' is nearly full: {} of {} are free",
                pool.name,
                pool.free.approximate(),
                pool.capacity.approximate()
            );
            let remedy = "move VMs away from it, delete what nobody needs, or give it more space".to_owned();
            found.push(wrong(WrongSeverity::Warning, host, what, remedy));
        }
    }
    found
}

fn of_vm(vm: &Vm) -> Option<Wrong> {
    if vm.status.phase != VmPhase::Failed {
        return None;
    }
    let name = vm.name();
    let reason = vm.status.reason.as_deref().unwrap_or("no reason was recorded");
    let remedy = format!("when the cause is gone: gantry vm start {name}; see: gantry describe vm {name}");
    Some(wrong(WrongSeverity::Critical, vm, format!("VM '{name}' has failed: {reason}"), remedy))
}

fn of_image(image: &Image) -> Option<Wrong> {
    if image.status.phase != ImagePhase::Failed {
        return None;
    }
    let name = image.name();
    let reason = image.status.reason.as_deref().unwrap_or("no reason was recorded");
    let remedy = format!("import it again: gantry image import {name} FILE|URL; or delete it");
    Some(wrong(WrongSeverity::Warning, image, format!("image '{name}' could not be imported: {reason}"), remedy))
}

fn of_operation(operation: &Operation) -> Option<Wrong> {
    if !matches!(operation.status.phase, OperationPhase::Running | OperationPhase::Unwinding) {
        return None;
    }
    let stuck = |step: &&gantry_types::StepStatus| {
        step.state == StepState::Running && step.attempts >= MANY_ATTEMPTS && step.error.is_some()
    };
    let step = operation.status.steps.iter().find(stuck)?;
    let (name, error) = (operation.name(), step.error.as_deref().unwrap_or_default());
    let what = format!(
        "operation '{name}' on {} tries step '{}' again and again ({}): {error}",
        operation.spec.target, step.name, step.attempts
    );
    let remedy = format!("remove the cause, or stop it: gantry operation cancel {name}");
    Some(Wrong { since: step.started_at, ..wrong(WrongSeverity::Warning, operation, what, remedy) })
}
