//! Every operation under every fault: each step repeated, each call failed before and after its effect, the
//! controller killed at each write, a cancel at each write. After all of it no VM runs twice, and what the objects say
//! is what the hosts do.

mod alarm_metrics;
mod alarms;
mod app;
mod backup_schedules;
mod backups;
mod balancing;
mod cluster_view;
mod crashing_store;
mod disk_moves;
mod energy;
mod fencing;
mod hosts_fail;
mod hosts_work;
mod late_commands;
mod late_reports;
mod mirrored;
mod mirrored_volumes;
mod networking;
mod nfs_pools;
mod policies;
mod pool_balance;
mod protection;
mod reach;
mod resource_pools;
mod scenarios;
mod snapshots;
mod storage;
mod volume_snapshots;
mod world;

use std::{sync::Arc, time::Duration};

use crashing_store::{CrashingStore, Plan};
use gantry_controller::{
    objects::{self, Change},
    operations::{
        executor, procedure,
        step::{Ending, StepContext},
    },
};
use gantry_hostlink::fake::{Fault, When};
use gantry_store::SharedStore;
use gantry_types::{Name, Operation, OperationPhase, PoolPhase, Problem, Resource, SnapshotPhase, VmPhase};
use scenarios::Scenario;
use world::{Controller, World, succeeded};

async fn expect_success(world: &World, scenario: Scenario, operation: &Name) {
    let ended = world.operation(operation.as_str()).await;
    succeeded(&ended);
    let figures = ended.status.figures;
    assert_eq!(figures.is_some(), scenario.is_migration(), "{scenario:?}");
    if let Some(figures) = figures {
        assert!(figures.memory_bytes > 0, "{scenario:?}: {figures:?}");
        assert_eq!(world.vm("web").await.expect("a VM").status.last_migration, Some(figures), "{scenario:?}");
    }
    expect_result(world, scenario).await;
}

async fn expect_result(world: &World, scenario: Scenario) {
    world.check().await;
    if scenario.is_of_hosts() {
        hosts_work::expect_hosts(world, scenario).await;
    }
    let vm = world.vm("web").await;
    let found = vm.as_ref().map(|vm| (vm.status.phase, vm.status.host.as_ref().map(|host| host.as_str().to_owned())));
    let expected = scenario.expected().map(|(phase, host)| (phase, host.map(str::to_owned)));
    assert_eq!(found, expected, "{scenario:?}");
    if let (Some(vm), Some((_, Some(host)))) = (&vm, &expected) {
        let mut everywhere = world.on_hosts();
        // The host that is lost still has what it had.
        everywhere.retain(|vm| !scenario.leaves_its_host() || !vm.starts_with("host-1"));
        if let Some((runs, content)) = scenario.expected_clone() {
            let clone = expect_clone(world, vm, runs).await;
            everywhere.retain(|vm| !vm.starts_with("host-2"));
            assert!(clone == content, "{scenario:?}: its disk has {clone}");
        }
        assert!(everywhere.len() == 1 && everywhere[0].starts_with(host.as_str()), "{scenario:?}: {everywhere:?}");
        assert_eq!(vm.status.nics.len(), 1, "{scenario:?}");
    }
    if let Some((content, states)) = scenario.expected_disk() {
        let vm = vm.as_ref().expect("a VM");
        let host = vm.status.host.as_ref().expect("a host");
        let (found, kept) = world.hosts.disk_on(host, vm.metadata.uuid).expect("a disk");
        assert_eq!((found, kept.len()), (content, states), "{scenario:?}");
        let snapshots = world.snapshots().await;
        assert!(snapshots.iter().all(|snapshot| snapshot.status.phase == SnapshotPhase::Ready), "{snapshots:?}");
    }
    if let Some(pool) = scenario.expected_disk_pool() {
        let vm = vm.as_ref().expect("a VM");
        let pools = world.pools().await;
        let pool = pools.iter().find(|known| known.name() == pool).expect("a pool");
        assert_eq!(vm.spec.pool.as_ref(), Some(&pool.metadata.name), "{scenario:?}");
        let disks = world.hosts.disks_of(&world::name("host-1"), vm.metadata.uuid);
        assert_eq!(disks, [Some(pool.metadata.uuid)], "{scenario:?}: one disk and no other");
    }
    if let Some((count, is_read)) = scenario.expected_backups() {
        backups::expect(world, count, is_read).await;
    }
    if let Some((has_pool, volume)) = scenario.expected_storage() {
        let pools = world.pools().await;
        let ready = |pool: &&gantry_types::Pool| pool.status.phase == PoolPhase::Ready && pool.name() == "fast";
        assert_eq!(pools.iter().filter(ready).count(), usize::from(has_pool));
        let found = world.volume("data").await.map(|volume| (volume.status.phase, volume.spec.size));
        assert_eq!(found, volume, "{scenario:?}");
        if matches!(scenario, Scenario::VolumeMigrate | Scenario::VolumeMigrateLoose) {
            let pool = world.volume("data").await.expect("a volume").spec.pool;
            assert_eq!(pool.as_str(), "slow");
        }
        let mut kept: Vec<_> = world.hosts.volumes_on(&world::name("host-1")).into_values().collect();
        if scenario == Scenario::VolumeClone {
            let copy = world.volume("copy").await.expect("a clone");
            assert_eq!(copy.status.phase, gantry_types::VolumePhase::Ready);
            assert_eq!(kept.pop(), Some(copy.spec.size), "{scenario:?}");
        }
        assert_eq!(kept, Vec::from_iter(volume.map(|(_, size)| size)), "{scenario:?}");
    }
    if expected.is_none() {
        assert!(world.on_hosts().is_empty(), "{scenario:?}: {:?}", world.on_hosts());
    }
}

/// The clone is on host-2 with an identity of its own, and without the states in its source's disk. What its disk holds.
async fn expect_clone(world: &World, source: &gantry_types::Vm, runs: bool) -> u64 {
    let clone = world.vm("copy").await.expect("a clone");
    let phase = if runs { VmPhase::Running } else { VmPhase::Stopped };
    let host = world::name("host-2");
    assert_eq!((clone.status.phase, clone.status.host.as_ref()), (phase, Some(&host)), "{clone:?}");
    let (nic, its) = (&clone.status.nics[0], &source.status.nics[0]);
    assert!(nic.address != its.address && nic.mac != its.mac && nic.port != its.port, "{nic:?} of {its:?}");
    assert_eq!(
        clone.spec,
        gantry_types::VmSpec { host: Some(host.clone()), power: clone.spec.power, ..source.spec.clone() }
    );
    let (content, kept) = world.hosts.disk_on(&host, clone.metadata.uuid).expect("a disk");
    assert!(kept.is_empty(), "{kept:?}");
    content
}

/// Runs the operation to its end, and with it all that it needs.
async fn run(world: &World, controller: &Controller, scenario: Scenario, operation: &Name) {
    if scenario.is_of_hosts() {
        world.drive(controller, operation).await;
    } else {
        controller.execute(operation).await;
    }
}

/// Runs the happy path; how many calls and writes it took.
async fn happy(scenario: Scenario) -> (usize, usize) {
    let (world, operation) = scenario.prepare().await;
    let before = world.hosts.calls().len();
    let store = CrashingStore::new(Arc::clone(&world.store), Plan::Nothing);
    let controller = world.controller_on(store.clone()).await;
    run(&world, &controller, scenario, &operation).await;
    expect_success(&world, scenario, &operation).await;
    (world.hosts.calls().len() - before, store.writes())
}

/// Work on hosts is VMs' operations over again, with hosts' reports in between: a sample is enough.
fn stride(scenario: Scenario) -> usize {
    match scenario {
        Scenario::ClusterUpdate => 23,
        _ if scenario.is_of_hosts() => 11,
        _ => 1,
    }
}

#[tokio::test]
async fn every_operation_succeeds() {
    for scenario in Scenario::ALL {
        happy(scenario).await;
    }
}

#[tokio::test]
async fn every_step_can_be_run_twice() {
    for scenario in Scenario::ALL {
        let (world, name) = scenario.prepare().await;
        let controller = world.controller().await;
        let app = &controller.app;
        let operation: Operation = world.operation(name.as_str()).await;
        let procedure = procedure(&operation.spec.action);
        let mut context = StepContext::new(Arc::clone(app), operation);
        let twice = async {
            for step in procedure.steps() {
                for _ in 0..2 {
                    step.run(&mut context).await.unwrap_or_else(|e| panic!("{scenario:?} {}: {e}", step.name()));
                    context.save().await.expect("a store");
                }
            }
        };
        if scenario.is_of_hosts() {
            tokio::select! {
                () = twice => {}
                () = world.meanwhile(&controller, &name) => {}
            }
        } else {
            twice.await;
        }
        let mut change = Change::new();
        procedure.conclude(&context, Ending::Succeeded, &mut change).await.expect("concludes");
        if !change.is_empty() {
            app.objects.commit(change).await.expect("a store");
        }
        expect_result(&world, scenario).await;
    }
}

/// It runs where it ran, and only there: with the copy of its disk, or without.
async fn expect_where_it_was(world: &World, scenario: Scenario) {
    let vm = world.vm("web").await.expect("a VM");
    let at = if scenario == Scenario::VolumeTakeOver { "host-3" } else { "host-1" };
    let (here, copies) = (world::name(at), vm.status.copies.clone().expect("of its disk"));
    assert_eq!((vm.status.phase, vm.status.host.as_ref()), (VmPhase::Running, Some(&here)), "{:?}", vm.status);
    assert_eq!((copies.current.first(), vm.status.moving_to), (Some(&here), None));
    assert_eq!(world.hosts.executing(vm.metadata.uuid), [here]);
}

/// One failing call; how the operation ended.
async fn with_fault(scenario: Scenario, fault: Fault) -> OperationPhase {
    let (world, name) = scenario.prepare().await;
    let before = world.everything();
    world.hosts.inject(fault.clone());
    let controller = world.controller().await;
    run(&world, &controller, scenario, &name).await;
    world.hosts.settle();
    // What a step had done all the same shows in the hosts' reports.
    world.reports(&controller).await;
    world.check().await;
    let operation = world.operation(name.as_str()).await;
    let phase = operation.status.phase;
    assert!(phase.is_finished(), "{operation:#?}");
    if phase == OperationPhase::Succeeded {
        expect_result(&world, scenario).await;
    } else {
        assert!(operation.status.error.is_some());
        // A stop that fails may have stopped the guest; a removal may have been done.
        let undoable = !matches!(scenario, Scenario::Stop | Scenario::Kill | Scenario::Delete | Scenario::SnapshotDelete)
                && !matches!(scenario, Scenario::VolumeDelete | Scenario::VolumeDetach | Scenario::BackupDelete)
                && scenario != Scenario::VolumeDetachMirrored
                // Whoever has adopted it keeps it.
                && !scenario.leaves_its_host()
                && !scenario.parts_copies()
                && !scenario.is_of_hosts();
        if scenario.is_of_hosts() {
            hosts_work::expect_back_to_work(&world).await;
        }
        if scenario.expected_clone().is_some() {
            assert_eq!(world.vm("copy").await, None, "{scenario:?} with {fault:?}");
        }
        let is_final = |name: &str| ["record", "keep"].contains(&name);
        let final_step = operation.status.steps.iter().any(|step| is_final(&step.name) && step.attempts > 0);
        if scenario.parts_copies() && !final_step {
            expect_where_it_was(&world, scenario).await;
        }
        if undoable && !final_step {
            assert_eq!(world.everything(), before, "{scenario:?} with {fault:?}: {operation:#?}");
        }
    }
    phase
}

#[tokio::test]
async fn a_call_that_fails_for_good_is_undone() {
    let broken = Problem::permanent("broken", "it is broken");
    for scenario in Scenario::ALL {
        let (calls, _) = happy(scenario).await;
        for call in (0..calls).step_by(stride(scenario)) {
            for when in [When::Before, When::After] {
                with_fault(scenario, Fault::nth(call, when, broken.clone())).await;
            }
        }
    }
}

#[tokio::test]
async fn a_call_that_fails_for_a_while_is_repeated() {
    let away = Problem::transient("away", "nobody answers");
    for scenario in Scenario::ALL {
        let (calls, _) = happy(scenario).await;
        for (round, call) in (0..calls).step_by(stride(scenario)).enumerate() {
            // Every second call fails once before it is carried out and three times afterwards, the others the other way.
            let (before, after) = if round % 2 == 0 { (1, 3) } else { (3, 1) };
            for (when, times) in [(When::Before, before), (When::After, after)] {
                let fault = Fault { times, ..Fault::nth(call, when, away.clone()) };
                assert_eq!(
                    with_fault(scenario, fault).await,
                    OperationPhase::Succeeded,
                    "{scenario:?} {call} {when:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_controller_that_dies_at_any_write_goes_on_afterwards() {
    for scenario in Scenario::ALL {
        let (_, writes) = happy(scenario).await;
        for write in (0..writes).step_by(stride(scenario)) {
            for plan in [Plan::DieBefore(write), Plan::DieAfter(write)] {
                let (world, operation) = scenario.prepare().await;
                let store = CrashingStore::new(Arc::clone(&world.store), plan.clone());
                let controller = world.controller_on(store.clone()).await;
                tokio::select! {
                    () = store.died.notified() => {}
                    ended = executor::execute(&controller.app, operation.as_str()) => {
                        // Hosts' reports are writes too, and come when they come.
                        assert!(scenario.is_of_hosts(), "{scenario:?} {plan:?}: ended with {ended:?}");
                    }
                    () = world.meanwhile(&controller, &operation), if scenario.is_of_hosts() => {}
                }
                drop(controller);
                let successor = world.controller().await;
                run(&world, &successor, scenario, &operation).await;
                expect_success(&world, scenario, &operation).await;
            }
        }
    }
}

#[tokio::test]
async fn a_cancel_at_any_write_unwinds_or_comes_too_late() {
    for scenario in Scenario::ALL {
        let (_, writes) = happy(scenario).await;
        for write in (0..writes).step_by(stride(scenario)) {
            let (world, name) = scenario.prepare().await;
            let before = world.everything();
            let key = objects::key::<Operation>(name.as_str());
            let inner: SharedStore = Arc::clone(&world.store);
            let store = CrashingStore::new(inner, Plan::CancelAfter(write, key));
            let controller = world.controller_on(store).await;
            run(&world, &controller, scenario, &name).await;
            world.reports(&controller).await;
            world.check().await;
            let operation = world.operation(name.as_str()).await;
            match operation.status.phase {
                OperationPhase::Succeeded => expect_result(&world, scenario).await,
                OperationPhase::Cancelled => {
                    if scenario.is_of_hosts() {
                        hosts_work::expect_back_to_work(&world).await;
                    } else if scenario.parts_copies() {
                        expect_where_it_was(&world, scenario).await;
                    } else if !matches!(
                        scenario,
                        Scenario::Stop
                            | Scenario::Kill
                            | Scenario::Delete
                            | Scenario::DeleteUnplaced
                            | Scenario::SnapshotDelete
                            | Scenario::VolumeDelete
                            | Scenario::VolumeDetach
                            | Scenario::VolumeDetachMirrored
                            | Scenario::BackupDelete
                            | Scenario::StartElsewhere
                            | Scenario::StartOnCopy
                    ) {
                        assert_eq!(world.everything(), before, "{scenario:?} cancelled after write {write}");
                        assert_eq!(world.vm("copy").await, None, "{scenario:?} cancelled after write {write}");
                    }
                }
                _ => panic!("{scenario:?} cancelled after write {write}: {operation:#?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_executor_finds_operations_by_itself() {
    let (world, operation) = Scenario::Start.prepare().await;
    let controller = world.controller().await;
    let running = tokio::spawn(executor::run(Arc::clone(&controller.app)));
    let mut changes = controller.app.model.revisions();
    let ended = async {
        loop {
            let shown = controller.app.model.get::<Operation>(operation.as_str()).expect("an operation");
            if shown.status.phase.is_finished() {
                return;
            }
            changes.changed().await.expect("a model");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends");
    running.abort();
    expect_success(&world, Scenario::Start, &operation).await;
}
