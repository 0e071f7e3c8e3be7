//! Whether everything is as it has to be: at every moment, and in the end.

use std::sync::Arc;

use futures::FutureExt;
use gantry_controller::objects::Objects;
use gantry_store::SharedStore;
use gantry_types::{Host, Maintenance, Operation, Resource, Vm, VmPhase};

use super::{UNTIL_MS, World};
use crate::datacenter::store::ShelfStore;
use crate::datacenter::time::Timers;
use crate::datacenter::user::{host_name, vm_name};

impl World {
    pub(super) fn note_violations(&mut self) {
        let violations = self.guests.violations();
        for violation in &violations[self.known_violations..] {
            self.report.violations.push(format!("at {} ms {violation}", self.hub.now_us() / 1_000));
        }
        self.known_violations = violations.len();
        let resting = self.seat.wishes.resting();
        for (index, vm) in resting.into_iter().filter(|(_, vm)| !self.guests.executing(*vm).is_empty()) {
            let (at_ms, hosts) = (self.hub.now_us() / 1_000, self.guests.executing(vm));
            self.report
                .violations
                .push(format!("at {at_ms} ms {} was stopped and executes on {hosts:?}", vm_name(index)));
            self.seat.wishes.tell_no_more(index);
        }
    }

    pub(super) fn check(&mut self) {
        if !self.stopped {
            return;
        }
        self.report.recovery_ms = self.hub.now_us() / 1_000 - UNTIL_MS;
        self.well_checks = if self.wrongs().is_empty() { self.well_checks + 1 } else { 0 };
    }

    /// What is not as it has to be in the end.
    pub(super) fn wrongs(&self) -> Vec<String> {
        let mut wrongs = Vec::new();
        let (hosts, vms, operations) = self.objects();
        for host in hosts.iter().filter(|host| host.status.fence.is_some()) {
            wrongs.push(format!("{} is still fenced", host.name()));
        }
        for operation in operations.iter().filter(|operation| !operation.status.phase.is_finished()) {
            let target = &operation.spec.target.name;
            wrongs.push(format!("operation {} on {target} has not ended", operation.spec.action.verb()));
        }
        for node in self.seat.wishes.upkeep.to_be_empty() {
            let name = host_name(node);
            let is_drained = |host: &Host| host.status.maintenance == Maintenance::Drained;
            if !hosts.iter().any(|host| host.metadata.name == name && is_drained(host)) {
                wrongs.push(format!("{name} is not drained"));
            }
            let executes = |vm: &&Vm| self.guests.executing(vm.metadata.uuid).contains(&name);
            wrongs
                .extend(vms.iter().filter(executes).map(|vm| format!("{name} is not empty: {} runs there", vm.name())));
        }
        for index in 0..self.seat.wishes.vms {
            let Some(vm) = vms.iter().find(|vm| vm.metadata.name == vm_name(index)) else {
                wrongs.push(format!("{} was not made", vm_name(index)));
                continue;
            };
            let (status, executing) = (&vm.status, self.guests.executing(vm.metadata.uuid));
            let is_well = if self.seat.wishes.is_off(index) {
                // One that was to be started first, and could not, is off as well.
                let is_off = match status.phase {
                    VmPhase::Failed => status.displaced.is_none(),
                    phase => phase == VmPhase::Stopped,
                };
                is_off && executing.is_empty()
            } else {
                status.phase == VmPhase::Running && status.ready && executing == Vec::from_iter(status.host.clone())
            };
            if !is_well {
                let failed = operations.iter().rev().find(|operation| operation.spec.target.uuid == vm.metadata.uuid);
                let error = failed.and_then(|operation| operation.status.error.as_ref()).map(ToString::to_string);
                let reason = status.reason.as_deref().unwrap_or("no reason");
                let waits = status.displaced.as_ref().and_then(|displaced| displaced.waits.as_deref());
                let seen = status.host.iter().flat_map(|host| self.guests.vms_on(host));
                let seen = seen.filter(|seen| seen.uuid == vm.metadata.uuid).map(|seen| (seen.epoch, seen.state));
                let seen = Vec::from_iter(seen);
                wrongs.push(format!(
                    "{} is {} at {:?}, epoch {}, there {seen:?}, and executes on {executing:?}: {reason}; waits: {waits:?}; \
                     at work: {:?}; last operation: {error:?}",
                    vm.name(),
                    status.phase,
                    status.host,
                    status.epoch,
                    status.operation
                ));
            }
        }
        wrongs
    }

    pub(super) fn objects(&self) -> (Vec<Host>, Vec<Vm>, Vec<Operation>) {
        let read = async {
            let store: SharedStore = Arc::new(ShelfStore {
                shelf: self.seat.shelf.clone(),
                hub: self.hub.clone(),
                timers: Timers::new(self.seat.clock.clone()),
            });
            let objects = Objects::new(store);
            Ok::<_, gantry_types::Problem>((objects.list().await?, objects.list().await?, objects.list().await?))
        };
        let read = read.now_or_never().unwrap_or_else(|| panic!("the store in memory waits"));
        read.unwrap_or_else(|problem| panic!("the store in memory: {problem}"))
    }
}
