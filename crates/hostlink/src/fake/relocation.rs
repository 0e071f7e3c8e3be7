//! Stopped VMs and clones that go from one fake host to another: all at once, when the source is asked to send.

use async_trait::async_trait;
use gantry_api::{
    RelocationApi,
    relocation::{DiskArrival, DiskCopied, ExpectDisk, SendDisk},
};
use gantry_types::{Name, Problem};
use uuid::Uuid;

use super::{
    FakeHost, HostState, State,
    guest::{FakeDisk, FakeVm, Guest},
    host::{handed_over, stale},
    unreachable,
};

impl HostState {
    fn expect(&mut self, uuid: Uuid, request: &ExpectDisk) -> Result<DiskArrival, Problem> {
        if let Some(known) = self.vms.get(&uuid) {
            stale(known, request.assignment.epoch)?;
            match known.arrived {
                Some(relocation) if relocation == request.relocation => return Ok(DiskArrival::Arrived),
                None if known.assignment.epoch == request.assignment.epoch => return Ok(DiskArrival::Arrived),
                None => return Err(Problem::conflict("vm-exists", "the VM is on this host already")),
                // Of a move that was given up.
                Some(_) => self.vms.remove(&uuid),
            };
        }
        self.expect_image(&request.assignment)?;
        self.expected.insert(uuid, request.clone());
        Ok(DiskArrival::Expected { received_bytes: 0, total_bytes: 0 })
    }
}

impl State {
    fn send_disk(&mut self, source: &Name, uuid: Uuid, request: &SendDisk) -> Result<(), Problem> {
        let vm = self.host(source)?.vm(uuid)?.clone();
        stale(&vm, request.epoch)?;
        handed_over(&vm)?;
        if vm.is_moving() || request.clone.is_none() && !matches!(vm.guest, Guest::Off { .. }) {
            return Err(Problem::conflict("vm-running", "only a stopped VM's disk is sent"));
        }
        let content = match request.snapshot {
            None => vm.disk.content,
            Some(snapshot) => {
                let state = vm.disk.snapshots.get(&snapshot);
                state.ok_or_else(|| Problem::not_found("snapshot", &snapshot.to_string()))?.content
            }
        };
        let destination = self.host(&request.destination)?;
        if destination.cut {
            return Err(unreachable(&request.destination));
        }
        let goes_as = request.clone.unwrap_or(uuid);
        let Some(expected) = destination.expected.remove(&goes_as).filter(|expected| expected.source == *source) else {
            return Err(Problem::transient("disk-not-expected", "that host does not expect it"));
        };
        let (disk, points) = match request.clone {
            None => (vm.disk.clone(), vm.points.clone()),
            Some(_) => (FakeDisk { content, ..FakeDisk::default() }, Vec::new()),
        };
        let arrived = FakeVm {
            disk,
            points,
            arrived: Some(expected.relocation),
            ..FakeVm::new(expected.assignment, destination.next_uid())
        };
        destination.vms.insert(goes_as, arrived);
        Ok(())
    }
}

#[async_trait]
impl RelocationApi for FakeHost {
    async fn expect_disk(&self, vm: Uuid, request: &ExpectDisk) -> Result<DiskArrival, Problem> {
        self.on_host("expect_disk", |host| host.expect(vm, request))
    }

    async fn send_disk(&self, vm: Uuid, request: &SendDisk) -> Result<(), Problem> {
        self.call("send_disk", |state| state.send_disk(&self.name, vm, request))
    }

    /// Copies are made at once.
    async fn disk_copied(&self, _vm: Uuid, _clone: Uuid) -> Result<Option<DiskCopied>, Problem> {
        self.on_host("disk_copied", |_| Ok(None))
    }
}
