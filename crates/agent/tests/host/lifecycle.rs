//! A VM's life on one host.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use gantry_api::AgentApi;
use gantry_api::agent::{Assignment, DiskAssignment, PowerAction, VmRunState};
use gantry_api::storage::PoolAssignment;
use gantry_types::{ByteSize, HostNetworks, PoolType};
use uuid::Uuid;

use crate::world::{code, eventually, in_world, request};

#[test]
fn a_vm_lives_and_is_forgotten() {
    in_world(1, async |world| {
        let agent = world.agent(0);
        let vm = world.assignment("web-1");
        let action = |action| request(&vm, action);

        // Taking it on starts nothing, and can be repeated.
        for _ in 0..2 {
            assert_eq!(agent.define_vm(&vm).await.unwrap().state, VmRunState::Stopped);
        }
        assert_eq!(code(agent.power(vm.uuid, &action(PowerAction::Pause)).await), "vm-not-running");
        let seen = agent.power(vm.uuid, &action(PowerAction::Start)).await.unwrap();
        assert_eq!((seen.state, seen.accelerator.as_deref()), (VmRunState::Running, Some("tcg")));
        agent.power(vm.uuid, &action(PowerAction::Start)).await.unwrap();
        let pids = world.qemus(0);
        assert_eq!(pids.len(), 1);
        let status = std::fs::read_to_string(format!("/proc/{}/status", pids[0])).unwrap();
        assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", seen.owner_uid)), "{status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "QEMU has no privilege");

        // Its user can put something in place of its sockets and of nothing else.
        let directory = world.hosts[0].state_dir.join(format!("vms/{}", vm.uuid));
        assert_eq!(std::fs::metadata(&directory).unwrap().uid(), 0);
        for name in ["console.log", "seed.img"] {
            assert_eq!(std::fs::symlink_metadata(directory.join(name)).unwrap().uid(), seen.owner_uid, "{name}");
        }
        for entry in std::fs::read_dir(directory.join("run")).unwrap() {
            let entry = entry.unwrap();
            assert!(entry.file_type().unwrap().is_socket(), "{}", entry.path().display());
        }

        // A command from before is refused; a machine is not changed while it runs.
        let older = Assignment { epoch: 0, ..vm.clone() };
        assert_eq!(code(agent.define_vm(&older).await), "stale-epoch");
        assert_eq!(code(agent.power(vm.uuid, &request(&older, PowerAction::Kill)).await), "stale-epoch");
        let larger = Assignment { memory: ByteSize::mib(160), ..vm.clone() };
        assert_eq!(code(agent.define_vm(&larger).await), "vm-running");

        let seen = world.until(0, vm.uuid, "the guest's agent answers", |vm| vm.guest_agent).await;
        assert!(seen.metrics.is_some_and(|metrics| metrics.cpu_time_ms > 0 && metrics.resident_memory.bytes() > 0));
        let liveness = agent.check_liveness(vm.uuid, true).await.unwrap();
        assert!(liveness.alive, "{}", liveness.evidence);

        assert_eq!(agent.power(vm.uuid, &action(PowerAction::Pause)).await.unwrap().state, VmRunState::Paused);
        assert!(!agent.check_liveness(vm.uuid, false).await.unwrap().alive);
        agent.power(vm.uuid, &action(PowerAction::Resume)).await.unwrap();
        assert!(agent.check_liveness(vm.uuid, false).await.unwrap().alive);

        // Networks the controller computed before it knew of this VM don't take its tap away.
        let tap = gantry_network::tap_name(vm.nics[0].port);
        agent.apply_networks(&HostNetworks { generation: 5, ..HostNetworks::default() }).await.unwrap();
        let older = HostNetworks { generation: 4, ..HostNetworks::default() };
        assert_eq!(code(agent.apply_networks(&older).await), "stale-generation");
        eventually("the tap is counted", async || {
            let metrics = world.look(0, vm.uuid).await?.metrics?;
            (metrics.cpu_time_ms > 0).then_some(())
        })
        .await;
        assert!(world.links(0).contains(&tap));

        // Its owner shuts it down from inside; that is no failure.
        agent.power(vm.uuid, &action(PowerAction::ShutDown)).await.unwrap();
        let seen = world.until(0, vm.uuid, "it is shut down", |vm| vm.state == VmRunState::Stopped).await;
        assert_eq!(seen.reason.as_deref(), Some("guest shut down"));
        assert!(world.qemus(0).is_empty());

        // While it is stopped it can be changed.
        agent.define_vm(&larger).await.unwrap();
        agent.power(vm.uuid, &action(PowerAction::Start)).await.unwrap();
        let heartbeats = world.heartbeats.clone();
        eventually("the controller hears of it", async || {
            let heard = heartbeats.lock().unwrap();
            let last = heard.last()?;
            let seen = last.vms.iter().find(|seen| seen.uuid == vm.uuid)?;
            (seen.state == VmRunState::Running && last.networks_generation == 5).then_some(())
        })
        .await;

        // QEMU dies.
        let pid = nix::unistd::Pid::from_raw(world.qemus(0)[0] as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let seen = world.until(0, vm.uuid, "its end is seen", |vm| vm.state == VmRunState::Failed).await;
        assert!(seen.reason.unwrap().contains("signal: 9"));
        agent.power(vm.uuid, &action(PowerAction::Start)).await.unwrap();
        assert_eq!(agent.power(vm.uuid, &action(PowerAction::Kill)).await.unwrap().state, VmRunState::Stopped);

        for _ in 0..2 {
            agent.remove_vm(vm.uuid, vm.epoch).await.unwrap();
        }
        assert!(agent.observe().await.unwrap().is_empty());
        assert!(world.qemus(0).is_empty() && !world.links(0).contains(&tap));
        let state = &world.hosts[0].state_dir;
        assert_eq!(std::fs::read_dir(state.join("vms")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(state.join("pool/disks")).unwrap().count(), 0);
        agent.remove_image(&world.image.digest).await.unwrap();
    });
}

#[test]
fn what_cannot_be_made_leaves_nothing_and_says_why() {
    in_world(1, async |world| {
        let agent = world.agent(0);
        let mut vm = world.assignment("web-1");
        vm.disk.image.as_mut().unwrap().digest = "0".repeat(64);
        // The controller's image has another digest than was promised.
        assert_eq!(code(agent.define_vm(&vm).await), "image-not-fetched");
        assert!(agent.observe().await.unwrap().is_empty());
        let absent = agent.power(Uuid::new_v4(), &request(&vm, PowerAction::Start)).await;
        assert_eq!(code(absent), "not-found");

        // A CPU model that QEMU does not have: the VM is failed, with QEMU's own words, and can be repaired.
        let mut vm = world.assignment("web-2");
        vm.cpu_model = Some("no-such-cpu".to_owned());
        agent.define_vm(&vm).await.unwrap();
        let error = agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap_err();
        assert!(error.detail.contains("no-such-cpu"), "{error}");
        assert_eq!(world.look(0, vm.uuid).await.unwrap().state, VmRunState::Failed);
        assert!(world.qemus(0).is_empty());
        vm.cpu_model = None;
        agent.define_vm(&vm).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
    });
}

#[test]
fn a_qemu_that_hangs_holds_nobody_up() {
    in_world(1, async |world| {
        let agent = world.agent(0);
        let vm = world.assignment("web-1");
        agent.define_vm(&vm).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        let pid = nix::unistd::Pid::from_raw(world.qemus(0)[0] as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert_eq!(code(agent.power(vm.uuid, &request(&vm, PowerAction::Pause)).await), "qemu-silent");
        assert_eq!(code(agent.check_liveness(vm.uuid, false).await), "qemu-silent");
        let killed = agent.power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();
        assert_eq!(killed.state, VmRunState::Stopped);
        assert!(world.qemus(0).is_empty());
    });
}

#[test]
fn the_agent_conforms() {
    in_world(1, async |world| {
        let mut template = world.assignment("conformance");
        template.disk = DiskAssignment { image: None, size: ByteSize::mib(1), pool: None };
        template.nics.clear();
        let place = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(place.path(), open).unwrap();
        let repository = place.path().join("backup");
        let pool = PoolAssignment {
            uuid: Uuid::new_v4(),
            name: "fast".parse().unwrap(),
            kind: PoolType::Dir,
            path: place.path().join("fast").to_str().unwrap().to_owned(),
            export: None,
        };
        assert_eq!(
            gantry_hostlink::conformance::run(&world.agent(0), &template, &pool, repository.to_str().unwrap()).await,
            Ok(())
        );
        assert!(world.qemus(0).is_empty());
    });
}

#[test]
fn a_lost_disk_is_reported_and_never_replaced_by_an_empty_one() {
    in_world(1, async |mut world| {
        let vm = world.assignment("web-1");
        let agent = world.agent(0);
        agent.define_vm(&vm).await.unwrap();
        let disk = world.hosts[0].state_dir.join(format!("pool/disks/{}.qcow2", vm.uuid));
        let elsewhere = disk.with_extension("away");
        std::fs::rename(&disk, &elsewhere).unwrap();
        world.kill_agent(0);
        world.start_agent(0).await;

        let agent = world.agent(0);
        let refused = agent.define_vm(&vm).await.unwrap_err();
        assert!(refused.code() == "disk-missing" && refused.detail.contains(disk.to_str().unwrap()), "{refused}");
        assert_eq!(code(agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await), "disk-missing");
        assert!(!disk.exists());
        std::fs::rename(&elsewhere, &disk).unwrap();
        agent.define_vm(&vm).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        agent.remove_vm(vm.uuid, vm.epoch).await.unwrap();

        // What lies there without a record may be somebody's data.
        std::fs::write(&disk, b"precious").unwrap();
        assert_eq!(code(agent.define_vm(&vm).await), "disk-left");
        assert_eq!(std::fs::read(&disk).unwrap(), b"precious");
        assert!(agent.observe().await.unwrap().is_empty());

        // A crash between the disk and the note that it was made leaves one that nothing has used.
        std::fs::remove_file(&disk).unwrap();
        agent.define_vm(&vm).await.unwrap();
        world.kill_agent(0);
        let path = world.hosts[0].state_dir.join(format!("vms/{}/record.json", vm.uuid));
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["disk_made"] = false.into();
        std::fs::write(&path, record.to_string()).unwrap();
        std::fs::write(&disk, b"half").unwrap();
        world.start_agent(0).await;
        let agent = world.agent(0);
        assert_eq!(code(agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await), "disk-not-made");
        agent.define_vm(&vm).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
    });
}
