//! Two hosts that reach one pool: who has a VM's disk, and what becomes of the other's claim.

use std::path::{Path, PathBuf};

use gantry_api::agent::{AdoptVm, Assignment, MigrationState, PowerAction, PowerRequest, VmRunState};
use gantry_api::storage::PoolAssignment;
use gantry_api::{AgentApi, StorageApi};
use gantry_types::{HaPolicy, HaSpec, PoolType, PostCopy, PowerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use uuid::Uuid;

use crate::migration::Move;
use crate::world::{World, code, in_world, request};

/// A pool that both hosts have joined.
async fn shared(world: &World, place: &Path) -> PoolAssignment {
    std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let pool = PoolAssignment {
        uuid: Uuid::new_v4(),
        name: "nas".parse().unwrap(),
        kind: PoolType::Dir,
        path: place.join("nas").to_str().unwrap().to_owned(),
        export: None,
    };
    let refused = world.agent(1).join_pool(&pool).await.unwrap_err();
    assert!(
        refused.code() == "pool-missing" && refused.detail.contains("the same directory on all hosts"),
        "{refused}"
    );
    world.agent(0).open_pool(&pool).await.unwrap();
    world.agent(1).join_pool(&pool).await.unwrap();
    pool
}

/// The same, and a VM that runs on the first with its disk there.
async fn a_vm_in_a_pool(world: &World, place: &Path) -> (PoolAssignment, Assignment) {
    let pool = shared(world, place).await;
    let mut vm = world.assignment("web-1");
    vm.disk.pool = Some(pool.clone());
    world.boot(0, &vm).await;
    (pool, vm)
}

fn adopt(vm: &Assignment, epoch: u64) -> AdoptVm {
    AdoptVm { assignment: Assignment { epoch, ..vm.clone() }, recovery_points: Vec::new() }
}

fn file(pool: &PoolAssignment, vm: &Assignment, kind: &str) -> PathBuf {
    Path::new(&pool.path).join(format!("disks/{}.{kind}", vm.uuid))
}

fn lease(pool: &PoolAssignment, vm: &Assignment) -> (String, u64) {
    let lease: Value = serde_json::from_slice(&std::fs::read(file(pool, vm, "lease")).unwrap()).unwrap();
    (lease["host"].as_str().unwrap().to_owned(), lease["epoch"].as_u64().unwrap())
}

#[test]
fn a_disk_is_adopted_when_nothing_runs_on_it_and_stays_when_the_former_host_comes_back() {
    in_world(2, async |mut world| {
        let place = tempfile::tempdir().unwrap();
        let (pool, vm) = a_vm_in_a_pool(&world, place.path()).await;
        let (first, second) = (world.agent(0), world.agent(1));
        assert_eq!(lease(&pool, &vm), ("host-1".to_owned(), 1));
        let images = std::fs::read_dir(Path::new(&pool.path).join("images")).unwrap();
        let images = images.filter(|entry| entry.as_ref().unwrap().path().extension().is_some()).count();
        assert_eq!(images, 1, "its image is beside it");

        // Its agent is there, its QEMU is there, nothing is there.
        assert_eq!(code(second.adopt_vm(vm.uuid, &adopt(&vm, 2)).await), "disk-in-use");
        world.kill_agent(0);
        assert_eq!(code(second.adopt_vm(vm.uuid, &adopt(&vm, 2)).await), "disk-in-use");
        assert!(second.observe().await.unwrap().is_empty());
        kill(Pid::from_raw(world.qemus(0)[0] as i32), Signal::SIGKILL).unwrap();
        assert_eq!(code(second.adopt_vm(vm.uuid, &adopt(&vm, 1)).await), "disk-elsewhere");
        for _ in 0..2 {
            crate::world::eventually("it is adopted", async || second.adopt_vm(vm.uuid, &adopt(&vm, 2)).await.ok())
                .await;
        }
        assert_eq!(lease(&pool, &vm), ("host-2".to_owned(), 2));
        let adopted = adopt(&vm, 2).assignment;
        second.power(vm.uuid, &request(&adopted, PowerAction::Start)).await.unwrap();
        world.until(1, vm.uuid, "its guest came up from its disk", |vm| vm.guest_agent).await;

        // The host that comes back would have it running, and may not.
        world.start_agent(0).await;
        let seen = world.until(0, vm.uuid, "it is not started", |vm| vm.state == VmRunState::Failed).await;
        assert!(seen.reason.unwrap().contains("host-2"));
        assert!(world.qemus(0).is_empty());
        assert_eq!(code(first.power(vm.uuid, &request(&vm, PowerAction::Start)).await), "disk-elsewhere");
        first.remove_vm(vm.uuid, 2).await.unwrap();
        assert!(first.observe().await.unwrap().is_empty() && file(&pool, &vm, "qcow2").exists());

        second.remove_vm(vm.uuid, 2).await.unwrap();
        assert!(!file(&pool, &vm, "qcow2").exists() && !file(&pool, &vm, "lease").exists());
        second.close_pool(&pool).await.unwrap();
    });
}

#[test]
fn a_vm_that_was_lost_where_it_went_is_adopted_where_it_came_from_beside_what_it_has_left() {
    in_world(2, async |mut world| {
        let place = tempfile::tempdir().unwrap();
        let (pool, vm) = a_vm_in_a_pool(&world, place.path()).await;
        let moved = Move::of(&vm);
        moved.begin(&world, 0, PostCopy::Never).await;
        moved.until(&world, 0, MigrationState::Moved).await;
        // Nobody has its source let it go before its new host is lost.
        let first = world.agent(0);
        for epoch in [1, 2] {
            assert_eq!(code(first.adopt_vm(vm.uuid, &adopt(&vm, epoch)).await), "vm-handed-over");
        }
        assert_eq!(code(first.adopt_vm(vm.uuid, &adopt(&vm, 3)).await), "disk-in-use");
        assert_eq!((world.look(0, vm.uuid).await.unwrap().state, world.qemus(0).len()), (VmRunState::HandedOver, 1));
        let runs = world.qemus(1);
        world.kill_agent(1);
        kill(Pid::from_raw(runs[0] as i32), Signal::SIGKILL).unwrap();

        for _ in 0..2 {
            crate::world::eventually("it is adopted", async || first.adopt_vm(vm.uuid, &adopt(&vm, 3)).await.ok())
                .await;
        }
        assert!(world.qemus(0).is_empty());
        assert_eq!(lease(&pool, &vm), ("host-1".to_owned(), 3));
        let adopted = adopt(&vm, 3).assignment;
        first.power(vm.uuid, &request(&adopted, PowerAction::Start)).await.unwrap();
        let seen = world.until(0, vm.uuid, "its guest came up from its disk", |vm| vm.guest_agent).await;
        assert_eq!((seen.state, seen.migration), (VmRunState::Running, None));
        first.release_migration(vm.uuid, moved.migration).await.unwrap();
        assert_eq!(world.look(0, vm.uuid).await.unwrap().state, VmRunState::Running);
    });
}

#[test]
fn a_disk_that_went_along_stays_also_before_its_new_host_has_claimed_it() {
    in_world(2, async |mut world| {
        let place = tempfile::tempdir().unwrap();
        let (pool, vm) = a_vm_in_a_pool(&world, place.path()).await;
        let unclaimed = std::fs::read(file(&pool, &vm, "lease")).unwrap();
        let moved = Move::of(&vm);
        moved.begin(&world, 0, PostCopy::Never).await;
        moved.until(&world, 0, MigrationState::Moved).await;
        // As a host that dies between its word, which is on its disk, and its claim.
        let runs = world.qemus(1);
        world.kill_agent(1);
        kill(Pid::from_raw(runs[0] as i32), Signal::SIGKILL).unwrap();
        std::fs::write(file(&pool, &vm, "lease"), unclaimed).unwrap();

        world.agent(0).release_migration(vm.uuid, moved.migration).await.unwrap();
        assert!(world.agent(0).observe().await.unwrap().is_empty() && file(&pool, &vm, "qcow2").exists());
        world.start_agent(1).await;
        world.until(1, vm.uuid, "it comes up from its disk", |vm| vm.guest_agent).await;
        assert_eq!(lease(&pool, &vm), ("host-2".to_owned(), 2));
    });
}

#[test]
fn a_guest_whose_disk_was_given_away_is_ended_by_the_agent_that_comes_back() {
    in_world(2, async |mut world| {
        let place = tempfile::tempdir().unwrap();
        let (pool, vm) = a_vm_in_a_pool(&world, place.path()).await;
        world.kill_agent(0);
        // As where the storage has forgotten the locks of a host that it took for dead.
        std::fs::write(file(&pool, &vm, "lease"), br#"{"host": "host-2", "epoch": 2, "generation": 2}"#).unwrap();
        world.start_agent(0).await;
        let seen = world.until(0, vm.uuid, "it is ended", |vm| vm.state == VmRunState::Failed).await;
        assert!(world.qemus(0).is_empty() && seen.reason.unwrap().contains("host-2"));
        // A removal that speaks of a later epoch leaves the disk, whatever its lease says.
        std::fs::write(file(&pool, &vm, "lease"), br#"{"host": "host-1", "epoch": 1, "generation": 3}"#).unwrap();
        world.agent(0).remove_vm(vm.uuid, 2).await.unwrap();
        assert!(file(&pool, &vm, "qcow2").exists());
    });
}

#[test]
fn a_pool_that_is_not_mounted_starts_nothing_and_forgets_nothing() {
    in_world(2, async |world| {
        let place = tempfile::tempdir().unwrap();
        let (pool, vm) = a_vm_in_a_pool(&world, place.path()).await;
        let agent = world.agent(0);
        agent.power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();
        let away = place.path().join("away");
        std::fs::rename(&pool.path, &away).unwrap();
        std::fs::create_dir(&pool.path).unwrap();
        assert_eq!(code(agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await), "pool-missing");
        assert_eq!(code(agent.remove_vm(vm.uuid, vm.epoch).await), "pool-missing");
        assert_eq!(code(world.agent(1).adopt_vm(vm.uuid, &adopt(&vm, 2)).await), "pool-missing");
        assert_eq!(std::fs::read_dir(&pool.path).unwrap().count(), 0, "nothing is made on the mount point");
        std::fs::remove_dir(&pool.path).unwrap();
        std::fs::rename(&away, &pool.path).unwrap();
        agent.define_vm(&vm).await.unwrap();
        let seen = agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        assert_eq!((seen.state, vm.power), (VmRunState::Running, PowerState::Running));
        agent.remove_vm(vm.uuid, vm.epoch).await.unwrap();
    });
}

#[test]
fn a_vm_whose_host_has_lost_its_link_is_told_of_and_one_whose_pool_is_gone_is_given_up_to_others() {
    in_world(2, async |world| {
        let place = tempfile::tempdir().unwrap();
        let pool = shared(&world, place.path()).await;
        world.on_host(0, "ip link add lan0 type veth peer name lan0-end");
        world.on_host(0, "ip link set lan0-end up");
        let ha = HaSpec { policy: HaPolicy::Restart, loss_s: 10, ..HaSpec::default() };
        let mut vm = Assignment { ha, ..world.assignment("web-1") };
        vm.disk.pool = Some(pool.clone());
        vm.nics[0].interface = Some("lan0".to_owned());
        world.boot(0, &vm).await;
        world.controller.lock().unwrap().pools = vec![pool.clone()];

        world.on_host(0, "ip link set lan0-end down");
        let seen = world.until(0, vm.uuid, "the link is missed", |vm| vm.ha.status.unhealthy.is_some()).await;
        let why = seen.ha.status.unhealthy.unwrap();
        assert_eq!(why, "interface 'lan0' of its host has no link, for 10 s and longer");
        assert_eq!((seen.state, seen.ha.status.stranded), (VmRunState::Running, false));
        let links = world.last_heartbeat(0).unwrap().inventory.links.unwrap();
        assert!(links.without_link.contains("lan0") && links.underlay.is_some(), "{links:?}");
        assert!(!links.without_link.contains(&links.underlay.unwrap()));

        // Another file system lies over the pool, on this host only.
        world.on_host(0, &format!("mount -t tmpfs none {}", pool.path));
        let seen = world.until(0, vm.uuid, "the pool is missed", |vm| vm.ha.status.stranded).await;
        let why = seen.ha.status.unhealthy.unwrap();
        assert!(
            why.starts_with("pool 'nas' is missing on its host: ") && why.ends_with("for 10 s and longer"),
            "{why}"
        );
        assert_eq!((seen.state, world.qemus(0).len()), (VmRunState::Running, 1), "nobody has said who would start it");
        assert_eq!(world.last_heartbeat(0).unwrap().inventory.lost_pools, [pool.uuid].into());

        world.controller.lock().unwrap().may_leave = vec![vm.uuid];
        let seen = world.until(0, vm.uuid, "it is given up", |vm| vm.ha.status.elsewhere).await;
        assert_eq!((seen.state, world.qemus(0).len()), (VmRunState::Failed, 0));
        assert!(seen.reason.unwrap().starts_with("pool 'nas' is missing"));
        vm.nics[0].interface = None;
        world.agent(1).adopt_vm(vm.uuid, &adopt(&vm, 2)).await.unwrap();
        let start = PowerRequest { epoch: 2, command: 0, action: PowerAction::Start };
        world.agent(1).power(vm.uuid, &start).await.unwrap();
        world.until(1, vm.uuid, "it runs elsewhere", |vm| vm.guest_agent).await;
        assert_eq!(lease(&pool, &vm), ("host-2".to_owned(), 2));
        assert_eq!(world.qemus(0).len(), 0);
    });
}
