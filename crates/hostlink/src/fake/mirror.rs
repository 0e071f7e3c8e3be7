//! VMs of fake hosts whose disks have copies on others. What the guest writes is on its peer's copy at once.

use async_trait::async_trait;
use gantry_api::{
    MirrorApi,
    mirror::{
        CopyEndpoint, CopyObservation, CopyProgress, DropCopy, DropLeftVolume, FormerCopy, GoAlone, JoinCopy,
        ServeCopy, SettleCopy, TakeCopy,
    },
    storage::VolumeAssignment,
};
use gantry_types::{Name, Problem};
use uuid::Uuid;

use super::{
    FakeHost, FakeWorld, HostState, State,
    copies::{CopyState, missing},
    guest::{FakeVm, Guest},
    host::stale,
    unreachable,
};

/// How often joining says that it catches up before they are paired.
const CATCHING_ROUNDS: u32 = 2;

/// How a VM's disks in mirrored pools stand on its host.
#[derive(Debug, Clone, Default)]
pub(super) struct FakePairing {
    pub shown: CopyObservation,
    rounds: Option<(Name, u32)>,
    /// Where its peer has what is written.
    copies: Vec<Uuid>,
}

/// The VM's disks that have copies.
fn mirrored_disks(vm: &FakeVm) -> Vec<Uuid> {
    let own = vm.assignment.disk.pool.iter().map(|pool| (pool, vm.assignment.uuid));
    let volumes = vm.assignment.volumes.iter().map(|volume| (&volume.pool, volume.uuid));
    own.chain(volumes).filter(|(pool, _)| pool.is_mirrored()).map(|(_, disk)| disk).collect()
}

pub(super) fn is_mirrored(vm: &FakeVm) -> bool {
    !mirrored_disks(vm).is_empty()
}

/// What is said of it.
pub(super) fn told(vm: &FakeVm) -> Option<CopyObservation> {
    let shown = vm.pairing.shown.clone();
    match is_mirrored(vm) {
        true => Some(shown),
        false if shown.generation > 0 => Some(CopyObservation { peer: None, wants_alone: false, ..shown }),
        false => None,
    }
}

/// A volume with a copy comes, or grows, while there is no copy.
pub(super) fn expect_to_change(vm: &mut FakeVm, wanted: &VolumeAssignment) -> Result<(), Problem> {
    let had = vm.assignment.volumes.iter().find(|has| has.uuid == wanted.uuid).map(|had| had.size);
    match had {
        _ if !wanted.pool.is_mirrored() => Ok(()),
        None => {
            expect_alone(vm)?;
            (vm.pairing.rounds, vm.pairing.shown.since) = (None, None);
            Ok(())
        }
        Some(size) if size < wanted.size && !matches!(vm.guest, Guest::Off { .. }) => {
            Err(Problem::conflict("volume-mirrored", "a mirrored volume does not grow while its VM runs"))
        }
        Some(size) if size < wanted.size => expect_alone(vm),
        Some(_) => Ok(()),
    }
}

/// A VM that is off goes on only when it is current alone.
pub(super) fn expect_alone(vm: &mut FakeVm) -> Result<(), Problem> {
    if vm.pairing.shown.peer.is_none() || !is_mirrored(vm) {
        return Ok(());
    }
    vm.pairing.shown.wants_alone = true;
    Err(Problem::transient("copy-not-alone", "its disk has a copy that may be current as well"))
}

/// Before the VM is sent to another host.
pub(super) fn leave_copy(vm: &mut FakeVm) -> Result<(), Problem> {
    vm.pairing.rounds = None;
    expect_alone(vm)
}

impl HostState {
    fn go_alone(&mut self, vm: Uuid, request: &GoAlone) -> Result<(), Problem> {
        let vm = self.vm(vm)?;
        stale(vm, request.epoch)?;
        let shown = &mut vm.pairing.shown;
        if shown.generation >= request.generation {
            return Ok(());
        }
        if let Some(host) = shown.peer.take() {
            shown.since = Some(FormerCopy { host, generation: shown.generation });
        }
        (shown.generation, shown.wants_alone) = (request.generation, false);
        shown.servings.clear();
        vm.pairing.rounds = None;
        if vm.guest == Guest::Paused && vm.waits_for_peer {
            vm.guest = Guest::Running;
        }
        vm.waits_for_peer = false;
        Ok(())
    }
}

fn expect_mirrored(vm: &FakeVm) -> Result<(), Problem> {
    if is_mirrored(vm) {
        Ok(())
    } else {
        Err(Problem::conflict("disk-not-mirrored", "its disk is in no mirrored pool"))
    }
}

impl State {
    fn join_copy(&mut self, host: &Name, uuid: Uuid, request: &JoinCopy) -> Result<CopyProgress, Problem> {
        let parsed = request.copies.iter().map(|copy| copy.endpoint.export.parse().map_err(|_| missing(copy.disk)));
        let copies = parsed.collect::<Result<Vec<Uuid>, _>>()?;
        let reached = self.host(&request.peer)?;
        let is_served = |copy: &Uuid| reached.copies.get(copy).is_some_and(|copy| copy.is_served);
        if reached.cut || !copies.iter().all(is_served) {
            return Err(unreachable(&request.peer));
        }
        let vm = self.host(host)?.vm(uuid)?;
        stale(vm, request.epoch)?;
        expect_mirrored(vm)?;
        let (mut has, mut given) =
            (mirrored_disks(vm), request.copies.iter().map(|copy| copy.disk).collect::<Vec<_>>());
        has.sort();
        given.sort();
        if has != given {
            return Err(Problem::transient("copy-disks-changed", "the copies are not of the disks that it has now"));
        }
        if vm.pairing.shown.peer.as_ref() == Some(&request.peer) {
            return Ok(CopyProgress::Paired);
        }
        if vm.is_moving() {
            return Err(Problem::conflict("vm-migrating", "the VM is being migrated"));
        }
        if vm.guest != Guest::Running {
            return Err(Problem::conflict("vm-not-running", "a copy catches up under a running VM"));
        }
        let known = vm.pairing.rounds.take().filter(|(peer, _)| *peer == request.peer);
        let (peer, rounds) = known.unwrap_or((request.peer.clone(), CATCHING_ROUNDS));
        if rounds > 0 {
            vm.pairing.rounds = Some((peer, rounds - 1));
            return Ok(CopyProgress::Catching { done_bytes: 1, total_bytes: 2 });
        }
        let shown = &mut vm.pairing.shown;
        (shown.generation, shown.peer, shown.since) = (request.generation, Some(peer.clone()), None);
        shown.servings = request.servings();
        let disk = vm.disk.clone();
        vm.pairing.copies.clone_from(&copies);
        for copy in copies {
            if let Some(copy) = self.host(&peer)?.copies.get_mut(&copy) {
                copy.disk = disk.clone();
            }
        }
        Ok(CopyProgress::Paired)
    }

    /// What the guest has written is on its peer's copy, too; without that it stands still with its write.
    pub(super) fn guest_writes(&mut self, host: &Name, uuid: Uuid, reaches: impl Fn(&Name) -> bool) {
        let goes_on = self.parts_untold;
        let Some(vm) = self.hosts.get_mut(host).and_then(|host| host.vms.get_mut(&uuid)) else { return };
        if vm.waits_for_peer {
            return;
        }
        let mut disk = vm.disk.clone();
        disk.content += 1;
        if let Some(peer) = vm.pairing.shown.peer.clone().filter(|_| is_mirrored(vm)) {
            let copies = vm.pairing.copies.clone();
            let kept = self.hosts.get_mut(&peer).filter(|state| !state.cut && reaches(&peer));
            let is_there = kept.is_some_and(|peer| {
                let served = |copy: &Uuid| peer.copies.get(copy).is_some_and(|copy| copy.is_served);
                let is_there = copies.iter().all(served);
                for copy in copies.iter().filter(|_| is_there) {
                    if let Some(copy) = peer.copies.get_mut(copy) {
                        copy.disk = disk.clone();
                    }
                }
                is_there
            });
            let Some(vm) = self.hosts.get_mut(host).and_then(|host| host.vms.get_mut(&uuid)) else { return };
            if !is_there && !goes_on {
                (vm.guest, vm.waits_for_peer, vm.pairing.shown.wants_alone) = (Guest::Paused, true, true);
                return;
            }
            vm.disk = disk;
        } else {
            vm.disk = disk;
        }
        self.note_acknowledged(host, uuid);
    }

    pub(super) fn note_acknowledged(&mut self, host: &Name, uuid: Uuid) {
        let Some(vm) = self.hosts.get(host).and_then(|host| host.vms.get(&uuid)).filter(|vm| is_mirrored(vm)) else {
            return;
        };
        self.acknowledged.insert(uuid, vm.disk.content);
    }

    /// Whether a guest that executes has all that any run of it was told is durable.
    pub(super) fn lost_writes(&self, uuid: Uuid) -> Option<String> {
        let acknowledged = *self.acknowledged.get(&uuid)?;
        let runs = |vm: &&FakeVm| vm.guest == Guest::Running && vm.disk.content < acknowledged;
        let (name, vm) = self.hosts.iter().find_map(|(name, host)| Some((name, host.vms.get(&uuid).filter(runs)?)))?;
        Some(format!("VM {uuid} executes on {name} with {} of {acknowledged} writes", vm.disk.content))
    }
}

impl FakeWorld {
    /// The guest writes to its disk, where its host reaches these.
    pub fn guest_writes_over(&self, host: &Name, vm: Uuid, reaches: impl Fn(&Name) -> bool) {
        self.lock().guest_writes(host, vm, reaches);
    }

    /// The host's agent ends, and with it what serves copies.
    pub fn agent_ends(&self, host: &Name) {
        if let Some(host) = self.lock().hosts.get_mut(host) {
            host.copies.values_mut().for_each(|copy| copy.is_served = false);
        }
    }

    /// From here on guests go on without their peers, and nobody is asked.
    pub fn part_untold(&self) {
        self.lock().parts_untold = true;
    }

    /// What is on the copy of a VM's disk that a host keeps: how often the guest wrote to it.
    pub fn copy_on(&self, host: &Name, disk: Uuid) -> Option<u64> {
        self.lock().hosts.get(host)?.copies.get(&disk).map(|copy| copy.disk.content)
    }
}

#[async_trait]
impl MirrorApi for FakeHost {
    async fn serve_copy(&self, request: &ServeCopy) -> Result<CopyEndpoint, Problem> {
        self.call("serve_copy", |state| {
            // A real host need not know: its volumes and disks are the same files.
            let source = state.hosts.get_mut(&request.source);
            let volume = source.and_then(|source| source.has_volume(&request.pool, request.disk).ok().flatten());
            state.host(&self.name)?.serve_copy(&self.name, request, volume)
        })
    }

    async fn settle_copy(&self, request: &SettleCopy) -> Result<(), Problem> {
        self.on_host("settle_copy", |host| host.settle_copy(request))
    }

    async fn take_copy(&self, request: &TakeCopy) -> Result<(), Problem> {
        self.on_host("take_copy", |host| host.take_copy(request))
    }

    async fn drop_copy(&self, request: &DropCopy) -> Result<(), Problem> {
        self.on_host("drop_copy", |host| {
            host.pool(&request.pool)?;
            host.copies.retain(|disk, copy| *disk != request.disk || matches!(copy.state, CopyState::Taken(_)));
            Ok(())
        })
    }

    async fn drop_left_volume(&self, request: &DropLeftVolume) -> Result<(), Problem> {
        self.on_host("drop_left_volume", |host| host.drop_left_volume(request))
    }

    async fn join_copy(&self, vm: Uuid, request: &JoinCopy) -> Result<CopyProgress, Problem> {
        self.call("join_copy", |state| state.join_copy(&self.name, vm, request))
    }

    async fn go_alone(&self, vm: Uuid, request: &GoAlone) -> Result<(), Problem> {
        self.on_host("go_alone", |host| host.go_alone(vm, request))
    }
}
