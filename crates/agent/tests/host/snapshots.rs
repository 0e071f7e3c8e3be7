//! Snapshots and recovery on one host, with a real guest.

use gantry_api::agent::{MigrationEndpoint, PowerAction, RevertVm, SendMigration, TakeSnapshot, VmRunState};
use gantry_api::backup::{BackUp, BackupLabel, BackupPlace, RepositoryAccess, Work};
use gantry_api::{AgentApi, BackupApi};
use gantry_types::{
    MigrationPolicy, RecoveryPointKind, RecoveryPolicy, RepositoryDirectory, RepositoryPlace, Timestamp, VmSpec,
};
use uuid::Uuid;

use crate::world::{code, eventually, in_world, request};

fn take(epoch: u64) -> TakeSnapshot {
    TakeSnapshot { epoch, snapshot: Uuid::new_v4(), memory: false, quiesce: false }
}

fn back(epoch: u64, to: Uuid) -> RevertVm {
    RevertVm { epoch, command: 0, revert: Uuid::new_v4(), to, memory: false, keep_as: Some(Uuid::new_v4()) }
}

#[test]
fn a_guest_is_kept_and_brought_back_across_agents() {
    in_world(1, async |mut world| {
        let mut vm = world.assignment("web-1");
        vm.recovery = RecoveryPolicy { keep: 1, after_s: 2, every_s: 86_400 };
        world.boot(0, &vm).await;
        let agent = world.agent(0);

        // Frozen for the instant, and not longer: the guest's agent answers again.
        let quiet = TakeSnapshot { quiesce: true, ..take(vm.epoch) };
        let taken = agent.take_snapshot(vm.uuid, &quiet).await.unwrap();
        assert!(taken.memory_bytes == 0 && taken.pause_ms.is_some());
        let whole = TakeSnapshot { memory: true, ..take(vm.epoch) };
        let taken = agent.take_snapshot(vm.uuid, &whole).await.unwrap();
        assert!(taken.memory_bytes > 1 << 20, "{taken:?}");

        // The host keeps a good state by itself, one in each run.
        let kept = world.until(0, vm.uuid, "a good state is kept", |vm| !vm.recovery_points.is_empty()).await;
        let good = kept.recovery_points[0].clone();
        assert_eq!(good.kind, RecoveryPointKind::Good);

        // The whole state comes back into the same QEMU; asked again, the guest is not taken back once more.
        let pids = world.qemus(0);
        let revert = RevertVm { memory: true, ..back(vm.epoch, whole.snapshot) };
        for _ in 0..2 {
            assert_eq!(agent.revert_vm(vm.uuid, &revert).await.unwrap().state, VmRunState::Running);
        }
        assert_eq!(world.qemus(0), pids);
        world.until(0, vm.uuid, "the guest's agent answers", |vm| vm.guest_agent).await;

        // Another agent goes on with the same request and the same points.
        world.kill_agent(0);
        world.start_agent(0).await;
        let agent = world.agent(0);
        let seen = agent.revert_vm(vm.uuid, &revert).await.unwrap();
        assert_eq!((seen.state, world.qemus(0)), (VmRunState::Running, pids));
        let replaced = seen.recovery_points[0].clone();
        assert_eq!((replaced.kind, Some(replaced.uuid)), (RecoveryPointKind::Replaced, revert.keep_as));
        assert!(seen.recovery_points.iter().any(|point| point.uuid == good.uuid), "{seen:?}");
        assert!(replaced.expires_at.is_some_and(|at| at > replaced.taken_at));

        // What has snapshots is not sent away.
        let endpoint = MigrationEndpoint {
            address: "10.77.0.2".parse().unwrap(),
            ram_port: 1,
            disk_port: 2,
            disk_export: "disk0".to_owned(),
            tls_name: "host-2".to_owned(),
        };
        let send = SendMigration {
            migration: Uuid::new_v4(),
            epoch: vm.epoch,
            endpoint,
            destination: "host-2".parse().unwrap(),
            destination_agent: "10.77.0.2:7443".to_owned(),
            policy: MigrationPolicy::default(),
            post_copy: false,
        };
        assert_eq!(code(agent.send_migration(vm.uuid, &send).await), "vm-has-snapshots");

        // The last known good state: the machine is off, the disk is what it was, and it boots.
        let seen = agent.revert_vm(vm.uuid, &back(vm.epoch, good.uuid)).await.unwrap();
        assert!(seen.state == VmRunState::Stopped && world.qemus(0).is_empty());
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        world.until(0, vm.uuid, "it boots from the good state", |vm| vm.guest_agent).await;
        let kept = world
            .until(0, vm.uuid, "this run is good, too, and only one such state is kept", |vm| {
                let newest = vm.recovery_points.iter().find(|point| point.kind == RecoveryPointKind::Good);
                newest.is_some_and(|newest| newest.uuid != good.uuid)
            })
            .await;
        eventually("the older one is gone", async || {
            let points = world.look(0, vm.uuid).await?.recovery_points;
            points.iter().all(|point| point.uuid != good.uuid).then_some(())
        })
        .await;
        assert!(kept.recovery_points.len() >= 3, "{kept:?}");

        // A snapshot with memory comes to life in a machine that is off.
        agent.power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();
        let revert = RevertVm { memory: true, ..back(vm.epoch, whole.snapshot) };
        assert_eq!(agent.revert_vm(vm.uuid, &revert).await.unwrap().state, VmRunState::Running);
        world.until(0, vm.uuid, "the guest's agent answers", |vm| vm.guest_agent).await;
        agent.delete_snapshot(vm.uuid, vm.epoch, whole.snapshot).await.unwrap();
        let gone = agent.revert_vm(vm.uuid, &back(vm.epoch, whole.snapshot)).await;
        assert_eq!(code(gone), "not-found");
        agent.remove_vm(vm.uuid, vm.epoch).await.unwrap();
    });
}

/// A backup has QEMU note what is written from then on; what it has noted is of no use once the guest has gone back.
#[test]
fn a_guest_that_was_backed_up_goes_back_and_is_backed_up_again() {
    in_world(1, async |world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        let (agent, kept) = (world.agent(0), tempfile::tempdir().unwrap());
        let place = RepositoryPlace::Directory(RepositoryDirectory { path: kept.path().to_str().unwrap().to_owned() });
        let back_up = async || {
            let repository = RepositoryAccess { place: place.clone(), passphrase: None };
            let request = BackUp {
                epoch: vm.epoch,
                place: BackupPlace { repository, backup: Uuid::new_v4() },
                quiesce: false,
                name: vm.name.clone(),
                spec: VmSpec::new(vm.cpus, vm.memory),
                label: BackupLabel { name: "one".to_owned(), taken_at: Timestamp::UNIX_EPOCH, description: None },
            };
            eventually("it is backed up", async || match agent.back_up(vm.uuid, &request).await.unwrap() {
                Work::Done(done) => Some(done),
                Work::Working { .. } => None,
            })
            .await
        };
        let first = back_up().await;
        let whole = TakeSnapshot { memory: true, ..take(vm.epoch) };
        agent.take_snapshot(vm.uuid, &whole).await.unwrap();
        assert!(back_up().await.read < first.read, "only what has changed is read");
        let pids = world.qemus(0);
        let revert = RevertVm { memory: true, ..back(vm.epoch, whole.snapshot) };
        assert_eq!(agent.revert_vm(vm.uuid, &revert).await.unwrap().state, VmRunState::Running);
        assert_eq!(world.qemus(0), pids);
        assert!(back_up().await.read >= first.read, "all is read again");
    });
}
