//! A stopped VM goes from one host to another with its disk and all states in it.

use std::fs;

use gantry_api::agent::{Assignment, DiskAssignment, PowerAction, RevertVm, TakeSnapshot, VmRunState};
use gantry_api::relocation::{DiskArrival, ExpectDisk, SendDisk};
use gantry_api::{AgentApi, RelocationApi};
use gantry_types::{ByteSize, ErrorClass, Firmware};
use uuid::Uuid;

use crate::world::{World, code, eventually, in_world, request};

/// To host 1.
fn expected(vm: &Assignment) -> ExpectDisk {
    let assignment = Assignment { epoch: vm.epoch + 1, ..vm.clone() };
    ExpectDisk { relocation: Uuid::new_v4(), assignment, source: "host-1".parse().unwrap() }
}

fn order(vm: &Assignment) -> SendDisk {
    let destination = "host-2".parse().unwrap();
    SendDisk {
        epoch: vm.epoch,
        destination,
        destination_agent: "10.77.0.2:7443".to_owned(),
        clone: None,
        snapshot: None,
    }
}

async fn relocate(world: &World, vm: &Assignment, expected: &ExpectDisk) {
    let arrival = world.agent(1).expect_disk(vm.uuid, expected).await.unwrap();
    assert!(matches!(arrival, DiskArrival::Expected { .. }), "{arrival:?}");
    world.agent(0).send_disk(vm.uuid, &order(vm)).await.unwrap();
    assert_eq!(world.agent(1).expect_disk(vm.uuid, expected).await, Ok(DiskArrival::Arrived));
}

#[test]
fn it_arrives_whole_and_is_this_hosts_only_when_it_is_defined() {
    in_world(2, async |mut world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        let snapshot = TakeSnapshot { epoch: vm.epoch, snapshot: Uuid::new_v4(), memory: false, quiesce: false };
        world.agent(0).take_snapshot(vm.uuid, &snapshot).await.unwrap();
        let expectation = expected(&vm);
        world.agent(1).expect_disk(vm.uuid, &expectation).await.unwrap();
        assert_eq!(code(world.agent(0).send_disk(vm.uuid, &order(&vm)).await), "vm-running");
        world.agent(0).power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();

        // Nobody else may send it, and nobody what is not expected any more.
        let stranger = world.as_host(1, 1).send_disk_content(vm.uuid, 0, reqwest::Body::default()).await;
        assert_eq!(code(stranger), "not-your-move");
        world.agent(1).remove_vm(vm.uuid, vm.epoch + 1).await.unwrap();
        // Who refuses does not read what is sent: the refusal itself may be lost with the connection.
        let refused = code(world.agent(0).send_disk(vm.uuid, &order(&vm)).await);
        assert!(["disk-not-expected", "peer-unreachable"].contains(&refused.as_str()), "{refused}");

        relocate(&world, &vm, &expectation).await;
        // What came for a move that was given up is no base for the next one.
        let again = expected(&vm);
        relocate(&world, &vm, &again).await;
        world.kill_agent(1);
        world.start_agent(1).await;
        let there = Assignment { epoch: vm.epoch + 1, ..vm.clone() };
        let agent = world.agent(1);
        assert_eq!(agent.expect_disk(vm.uuid, &again).await, Ok(DiskArrival::Arrived));
        assert_eq!(world.look(1, vm.uuid).await.unwrap().state, VmRunState::Arrived);
        assert_eq!(code(agent.power(vm.uuid, &request(&there, PowerAction::Start)).await), "vm-arrived");

        assert_eq!(agent.define_vm(&there).await.unwrap().state, VmRunState::Stopped);
        world.agent(0).remove_vm(vm.uuid, vm.epoch).await.unwrap();
        agent.power(vm.uuid, &request(&there, PowerAction::Start)).await.unwrap();
        world.until(1, vm.uuid, "it boots from the disk that came", |vm| vm.guest_agent).await;
        agent.power(vm.uuid, &request(&there, PowerAction::Kill)).await.unwrap();
        let to = snapshot.snapshot;
        let revert =
            RevertVm { epoch: there.epoch, command: 0, revert: Uuid::new_v4(), to, memory: false, keep_as: None };
        assert_eq!(agent.revert_vm(vm.uuid, &revert).await.unwrap().state, VmRunState::Stopped);
        agent.remove_vm(vm.uuid, there.epoch).await.unwrap();
        for host in 0..2 {
            let state = &world.hosts[host].state_dir;
            assert_eq!(fs::read_dir(state.join("vms")).unwrap().count(), 0);
            assert_eq!(fs::read_dir(state.join("pool/disks")).unwrap().count(), 0);
            assert_eq!(fs::read_dir(state.join("pool/images/.staging")).unwrap().count(), 0);
        }
    });
}

#[test]
fn its_firmwares_variables_come_along_and_it_is_not_started_while_it_is_sent() {
    in_world(2, async |world| {
        let mut vm = world.assignment("uefi-1");
        vm.firmware = Firmware::Uefi;
        vm.disk = DiskAssignment { image: None, size: ByteSize::mib(64), pool: None };
        world.agent(0).define_vm(&vm).await.unwrap();
        let variables = |host: usize| world.hosts[host].state_dir.join(format!("vms/{}/uefi-vars.fd", vm.uuid));
        let mut marked = fs::read(variables(0)).unwrap();
        marked[1000..1004].copy_from_slice(b"mark");
        fs::write(variables(0), &marked).unwrap();

        let expectation = expected(&vm);
        world.agent(1).expect_disk(vm.uuid, &expectation).await.unwrap();
        world.part_hosts(true);
        let (agent, uuid, send) = (world.agent(0), vm.uuid, order(&vm));
        let sending = tokio::spawn(async move { agent.send_disk(uuid, &send).await });
        eventually("it is lent", async || {
            let again = world.agent(0).define_vm(&vm).await;
            again.is_err_and(|problem| problem.code() == "disk-being-sent").then_some(())
        })
        .await;
        assert_eq!(code(world.agent(0).power(vm.uuid, &request(&vm, PowerAction::Start)).await), "disk-being-sent");
        // Nobody waits for it any more.
        sending.abort();
        eventually("it is free again", async || world.agent(0).define_vm(&vm).await.ok()).await;
        world.part_hosts(false);

        relocate(&world, &vm, &expectation).await;
        assert!(fs::read(variables(1)).unwrap() == marked, "the variables are others");
        world.agent(0).remove_vm(vm.uuid, vm.epoch).await.unwrap();
        world.agent(1).remove_vm(vm.uuid, vm.epoch + 1).await.unwrap();
    });
}

#[test]
fn a_running_vm_is_copied_for_a_clone_here_and_elsewhere_and_runs_on() {
    in_world(2, async |mut world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        let snapshot = TakeSnapshot { epoch: vm.epoch, snapshot: Uuid::new_v4(), memory: false, quiesce: false };
        world.agent(0).take_snapshot(vm.uuid, &snapshot).await.unwrap();
        let clones =
            ["copy-1", "copy-2", "copy-3", "copy-4"].map(|name| Assignment { epoch: 1, ..world.assignment(name) });
        let expect = |clone: &Assignment| ExpectDisk {
            relocation: Uuid::new_v4(),
            assignment: clone.clone(),
            source: "host-1".parse().unwrap(),
        };
        let order = |clone: &Assignment, host: usize| SendDisk {
            destination: world.hosts[host].name.clone(),
            destination_agent: format!("10.77.0.{}:7443", host + 1),
            clone: Some(clone.uuid),
            ..order(&vm)
        };
        let of_snapshot = |snapshot| SendDisk { snapshot: Some(snapshot), ..order(&clones[3], 1) };
        let orders = [order(&clones[0], 0), order(&clones[1], 1), order(&clones[2], 1), of_snapshot(snapshot.snapshot)];
        let gone = world.agent(0).send_disk(vm.uuid, &of_snapshot(Uuid::new_v4())).await.unwrap_err();
        assert_eq!(gone.class, ErrorClass::NotFound);
        for (host, clone, order) in
            [(0, &clones[0], &orders[0]), (1, &clones[1], &orders[1]), (1, &clones[3], &orders[3])]
        {
            let expectation = expect(clone);
            let arrival = world.agent(host).expect_disk(clone.uuid, &expectation).await.unwrap();
            assert!(matches!(arrival, DiskArrival::Expected { .. }), "{arrival:?}");
            world.agent(0).send_disk(vm.uuid, order).await.unwrap();
            assert_eq!(world.agent(host).expect_disk(clone.uuid, &expectation).await, Ok(DiskArrival::Arrived));
            assert_eq!(world.look(0, vm.uuid).await.unwrap().state, VmRunState::Running);
            let defined = world.agent(host).define_vm(clone).await.unwrap();
            assert!(defined.recovery_points.is_empty(), "{defined:?}");
            world.agent(host).power(clone.uuid, &request(clone, PowerAction::Start)).await.unwrap();
            world.until(host, clone.uuid, "it boots from the copy", |vm| vm.guest_agent).await;
        }

        // One that is off is copied without its snapshot.
        world.agent(0).power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();
        world.agent(1).expect_disk(clones[2].uuid, &expect(&clones[2])).await.unwrap();
        world.agent(0).send_disk(vm.uuid, &orders[2]).await.unwrap();
        world.agent(1).define_vm(&clones[2]).await.unwrap();
        let to = snapshot.snapshot;
        let revert = RevertVm { epoch: 1, command: 0, revert: Uuid::new_v4(), to, memory: false, keep_as: None };
        assert!(world.agent(1).revert_vm(clones[2].uuid, &revert).await.is_err());
        world.kill_agent(0);
        world.start_agent(0).await;
        for host in 0..2 {
            assert_eq!(fs::read_dir(world.hosts[host].state_dir.join("pool/images/.staging")).unwrap().count(), 0);
        }
        for (host, vm) in [(0, &vm), (0, &clones[0]), (1, &clones[1]), (1, &clones[2]), (1, &clones[3])] {
            world.agent(host).remove_vm(vm.uuid, vm.epoch).await.unwrap();
        }
    });
}
