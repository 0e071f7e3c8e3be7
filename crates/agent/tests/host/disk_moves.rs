//! A VM's own disk goes to another pool of its host, while its guest runs and while it is off, and agents die on the way.

use std::path::{Path, PathBuf};

use gantry_api::agent::{AdoptVm, Assignment, PowerAction, RevertVm, TakeSnapshot, VmRunState};
use gantry_api::storage::{LeftDisk, MoveDisk, PoolAssignment, VolumeMoveReport};
use gantry_api::{AgentApi, StorageApi};
use gantry_types::{PoolType, RecoveryPolicy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use crate::world::{World, code, eventually, in_world, request};

/// A pool that all hosts of the world reach.
async fn pool(world: &World, place: &Path, name: &str) -> PoolAssignment {
    std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = place.join(name).to_str().unwrap().to_owned();
    let pool =
        PoolAssignment { uuid: Uuid::now_v7(), name: name.parse().unwrap(), kind: PoolType::Dir, path, export: None };
    world.agent(0).open_pool(&pool).await.unwrap();
    for host in 1..world.hosts.len() {
        world.agent(host).join_pool(&pool).await.unwrap();
    }
    pool
}

fn to(world: &World, vm: &Assignment, pool: Option<&PoolAssignment>) -> MoveDisk {
    MoveDisk { epoch: vm.epoch, to: pool.cloned(), image: Some(world.image.clone()) }
}

fn file(world: &World, vm: &Assignment, pool: Option<&PoolAssignment>) -> PathBuf {
    let own = world.hosts[0].state_dir.join("pool");
    let pool = pool.map_or(own, |pool| PathBuf::from(&pool.path));
    pool.join(format!("disks/{}.qcow2", vm.uuid))
}

async fn step(world: &World, vm: &Assignment, pool: Option<&PoolAssignment>) -> VolumeMoveReport {
    world.agent(0).move_disk(vm.uuid, &to(world, vm, pool)).await.unwrap()
}

async fn until_moved(world: &World, vm: &Assignment, pool: Option<&PoolAssignment>) {
    eventually("the disk has moved", async || (step(world, vm, pool).await == VolumeMoveReport::Moved).then_some(()))
        .await;
}

async fn clear(world: &World, vm: &Assignment, from: Option<&PoolAssignment>) {
    let left = LeftDisk { epoch: vm.epoch, from: from.cloned() };
    world.agent(0).clear_left_disk(vm.uuid, &left).await.unwrap();
}

fn in_pool(vm: &Assignment, pool: Option<&PoolAssignment>) -> Assignment {
    let mut there = vm.clone();
    there.disk.pool = pool.cloned();
    there
}

/// Files that the VM's QEMU has open.
fn opened(world: &World) -> Vec<String> {
    let directory = format!("/proc/{}/fd", world.qemus(0)[0]);
    let links =
        std::fs::read_dir(directory).unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).filter(|link| link.contains("/disks/")).collect()
}

#[test]
fn it_moves_under_a_guest_there_and_back_and_everything_works_on_it_as_before() {
    in_world(2, async |mut world| {
        let place = tempfile::tempdir().unwrap();
        let nas = pool(&world, place.path(), "nas").await;
        let mut vm = world.assignment("web-1");
        vm.recovery = RecoveryPolicy { keep: 1, after_s: 2, every_s: 86_400 };
        world.boot(0, &vm).await;
        let qemu = world.qemus(0);
        world.until(0, vm.uuid, "a good state is kept", |vm| !vm.recovery_points.is_empty()).await;

        assert!(matches!(step(&world, &vm, Some(&nas)).await, VolumeMoveReport::Copying { .. }));
        let busy = world.agent(0).power(vm.uuid, &request(&vm, PowerAction::Pause)).await;
        assert_eq!(code(busy), "disk-being-moved");
        let cancelled = world.agent(0).cancel_disk_move(vm.uuid, &to(&world, &vm, Some(&nas))).await.unwrap();
        assert_eq!(cancelled, VolumeMoveReport::Cancelled);
        assert!(!file(&world, &vm, Some(&nas)).exists(), "nothing is left of a move that was given up");
        until_moved(&world, &vm, Some(&nas)).await;
        clear(&world, &vm, None).await;
        assert!(!file(&world, &vm, None).exists() && file(&world, &vm, Some(&nas)).exists());
        let seen = world.look(0, vm.uuid).await.unwrap();
        assert!(seen.recovery_points.is_empty() && seen.state == VmRunState::Running, "{seen:?}");
        let open = opened(&world);
        assert!(!open.is_empty() && open.iter().all(|path| path.starts_with(&nas.path)), "{open:?}");

        // Its agent is another one from here on, and knows the disk by its new name.
        world.kill_agent(0);
        world.start_agent(0).await;
        let agent = world.agent(0);
        let there = in_pool(&vm, Some(&nas));
        assert_eq!(agent.define_vm(&there).await.unwrap().state, VmRunState::Running);
        let refused = world.agent(1).adopt_vm(vm.uuid, &adopt(&there, 2)).await;
        assert_eq!(code(refused), "disk-in-use", "the new place is held");
        world.until(0, vm.uuid, "a good state is kept again", |vm| !vm.recovery_points.is_empty()).await;
        let taken = TakeSnapshot { epoch: vm.epoch, snapshot: Uuid::new_v4(), memory: true, quiesce: false };
        agent.take_snapshot(vm.uuid, &taken).await.unwrap();
        let back = RevertVm {
            epoch: vm.epoch,
            command: 0,
            revert: Uuid::new_v4(),
            to: taken.snapshot,
            memory: true,
            keep_as: None,
        };
        assert_eq!(agent.revert_vm(vm.uuid, &back).await.unwrap().state, VmRunState::Running);
        agent.delete_snapshot(vm.uuid, vm.epoch, taken.snapshot).await.unwrap();

        until_moved(&world, &vm, None).await;
        clear(&world, &vm, Some(&nas)).await;
        assert!(file(&world, &vm, None).exists() && !file(&world, &vm, Some(&nas)).exists());
        assert_eq!(std::fs::read_dir(Path::new(&nas.path).join("disks")).unwrap().count(), 0, "no lease either");
        assert_eq!(world.qemus(0), qemu, "the same guest all the while");
        world.until(0, vm.uuid, "the guest's agent answers", |vm| vm.guest_agent).await;
        world.agent(0).remove_vm(vm.uuid, vm.epoch).await.unwrap();
        assert!(!file(&world, &vm, None).exists());
        world.agent(0).close_pool(&nas).await.unwrap();
    });
}

fn adopt(vm: &Assignment, epoch: u64) -> AdoptVm {
    AdoptVm { assignment: Assignment { epoch, ..vm.clone() }, recovery_points: Vec::new() }
}

#[test]
fn stopped_it_takes_all_its_states_along_and_leaves_none_that_another_host_could_adopt() {
    in_world(2, async |mut world| {
        let place = tempfile::tempdir().unwrap();
        let (nas, other) = (pool(&world, place.path(), "nas").await, pool(&world, place.path(), "other").await);
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        let agent = world.agent(0);
        let taken = TakeSnapshot { epoch: vm.epoch, snapshot: Uuid::new_v4(), memory: true, quiesce: false };
        agent.take_snapshot(vm.uuid, &taken).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();

        // An agent that dies in the middle leaves the disk where it was; its successor begins anew.
        step(&world, &vm, Some(&nas)).await;
        assert_eq!(code(agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await), "disk-being-moved");
        world.kill_agent(0);
        world.start_agent(0).await;
        assert!(file(&world, &vm, None).exists());
        until_moved(&world, &vm, Some(&nas)).await;
        clear(&world, &vm, None).await;
        assert!(!file(&world, &vm, None).exists());

        // A controller that has not heard of the next move finds nothing to adopt.
        until_moved(&world, &vm, Some(&other)).await;
        let stale = world.agent(1).adopt_vm(vm.uuid, &adopt(&in_pool(&vm, Some(&nas)), 2)).await;
        assert_eq!(code(stale), "disk-missing");
        clear(&world, &vm, Some(&nas)).await;
        assert_eq!(code(world.agent(0).clear_left_disk(vm.uuid, &left(&vm, &other)).await), "disk-in-use");

        // All states came along, and another host of the pool goes on with them.
        let there = in_pool(&vm, Some(&other));
        let elsewhere = world.agent(1).adopt_vm(vm.uuid, &adopt(&there, 2)).await.unwrap();
        assert_eq!(elsewhere.epoch, 2);
        let moved = Assignment { epoch: 2, ..there };
        let back =
            RevertVm { epoch: 2, command: 0, revert: Uuid::new_v4(), to: taken.snapshot, memory: true, keep_as: None };
        assert_eq!(world.agent(1).revert_vm(vm.uuid, &back).await.unwrap().state, VmRunState::Running);
        world.until(1, vm.uuid, "the guest goes on", |vm| vm.guest_agent).await;
        // The former host may not move what is no longer its own.
        assert_eq!(code(world.agent(0).move_disk(vm.uuid, &to(&world, &vm, Some(&nas))).await), "disk-elsewhere");
        world.agent(0).remove_vm(vm.uuid, 2).await.unwrap();
        world.agent(1).remove_vm(vm.uuid, moved.epoch).await.unwrap();
        world.agent(0).close_pool(&nas).await.unwrap();
        world.agent(0).close_pool(&other).await.unwrap();
    });
}

fn left(vm: &Assignment, pool: &PoolAssignment) -> LeftDisk {
    LeftDisk { epoch: vm.epoch, from: Some(pool.clone()) }
}

#[test]
fn whoever_dies_while_it_moves_the_guest_has_one_disk() {
    in_world(1, async |mut world| {
        let place = tempfile::tempdir().unwrap();
        let nas = pool(&world, place.path(), "nas").await;
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        // Its agent, again and again: the mirror goes on without it, and the next one takes the move up.
        for target in [Some(&nas), None] {
            step(&world, &vm, target).await;
            world.kill_agent(0);
            world.start_agent(0).await;
            world.until(0, vm.uuid, "QEMU is taken over", |vm| vm.state == VmRunState::Running).await;
            until_moved(&world, &vm, target).await;
            world.kill_agent(0);
            world.start_agent(0).await;
            until_moved(&world, &vm, target).await;
            let former = if target.is_some() { None } else { Some(&nas) };
            clear(&world, &vm, former).await;
            let exist = [None, Some(&nas)].map(|pool| file(&world, &vm, pool).exists());
            assert_eq!(exist, [target.is_none(), target.is_some()]);
            world.until(0, vm.uuid, "the guest's agent answers", |vm| vm.guest_agent).await;
        }
        // Its QEMU: the move fails, and the VM goes on where it was.
        step(&world, &vm, Some(&nas)).await;
        kill(Pid::from_raw(world.qemus(0)[0] as i32), Signal::SIGKILL).unwrap();
        world.until(0, vm.uuid, "QEMU has ended", |vm| vm.state == VmRunState::Failed).await;
        let failed = world.agent(0).move_disk(vm.uuid, &to(&world, &vm, Some(&nas))).await;
        assert_eq!(code(failed), "vm-not-running");
        world.agent(0).cancel_disk_move(vm.uuid, &to(&world, &vm, Some(&nas))).await.unwrap();
        assert!(!file(&world, &vm, Some(&nas)).exists());
        world.agent(0).power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        world.until(0, vm.uuid, "it boots from where it was", |vm| vm.guest_agent).await;
        world.agent(0).remove_vm(vm.uuid, vm.epoch).await.unwrap();
    });
}
