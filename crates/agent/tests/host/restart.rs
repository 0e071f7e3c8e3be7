//! The agent is killed and comes back; its VMs go on.

use std::time::Duration;

use gantry_api::AgentApi;
use gantry_api::agent::{PowerAction, PowerRequest, VmRunState};
use gantry_trust::{Identity, LeafNames, PeerIdentity, Role};
use gantry_types::ErrorClass;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{code, eventually, in_world, now, request};

#[test]
fn a_killed_agent_finds_its_vms_again() {
    in_world(1, async |mut world| {
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;
        let before = world.qemus(0);

        world.kill_agent(0);
        assert_eq!(world.qemus(0), before, "QEMU outlives its agent");
        world.start_agent(0).await;
        let seen = world.until(0, vm.uuid, "it is taken over", |vm| vm.guest_agent).await;
        assert_eq!(seen.state, VmRunState::Running);
        assert_eq!(world.qemus(0), before);
        assert!(world.agent(0).check_liveness(vm.uuid, true).await.unwrap().alive);

        // Its record is lost to a crash before the process was written down: it is found by what it is.
        world.kill_agent(0);
        let path = world.hosts[0].state_dir.join(format!("vms/{}/record.json", vm.uuid));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record["process"] = serde_json::Value::Null;
        std::fs::write(&path, record.to_string()).unwrap();
        world.start_agent(0).await;
        world.until(0, vm.uuid, "it is taken over", |vm| vm.state == VmRunState::Running).await;
        assert_eq!(world.qemus(0), before);

        // The host loses power: no agent, no QEMU. What should run is started again, and what was sent before it was
        // last wanted to run does not end that.
        let numbered = |command, action| PowerRequest { command, ..request(&vm, action) };
        world.agent(0).power(vm.uuid, &numbered(1, PowerAction::Start)).await.unwrap();
        world.kill_agent(0);
        kill(Pid::from_raw(before[0] as i32), Signal::SIGKILL).unwrap();
        world.start_agent(0).await;
        world.until(0, vm.uuid, "it is started again", |vm| vm.state == VmRunState::Running).await;
        assert_ne!(world.qemus(0), before);
        assert_eq!(code(world.agent(0).power(vm.uuid, &numbered(0, PowerAction::Kill)).await), "stale-command");
        assert_eq!(world.look(0, vm.uuid).await.unwrap().state, VmRunState::Running);

        // What its owner has stopped stays so, also when the command that started it comes once more.
        let agent = world.agent(0);
        agent.power(vm.uuid, &numbered(2, PowerAction::Kill)).await.unwrap();
        world.kill_agent(0);
        world.start_agent(0).await;
        assert_eq!(world.look(0, vm.uuid).await.unwrap().state, VmRunState::Stopped);
        assert_eq!(code(world.agent(0).power(vm.uuid, &numbered(1, PowerAction::Start)).await), "stale-command");
        assert!(world.qemus(0).is_empty());
    });
}

#[test]
fn a_vm_whose_record_is_damaged_is_left_alone_until_it_is_repaired() {
    in_world(1, async |mut world| {
        let vm = world.assignment("web-1");
        let agent = world.agent(0);
        agent.define_vm(&vm).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        world.kill_agent(0);
        let path = world.hosts[0].state_dir.join(format!("vms/{}/record.json", vm.uuid));
        let record = std::fs::read(&path).unwrap();
        std::fs::write(&path, "{").unwrap();
        world.start_agent(0).await;

        let seen = world.look(0, vm.uuid).await.unwrap();
        assert!(seen.damaged && seen.state == VmRunState::Failed);
        assert!(seen.reason.unwrap().contains("damaged"));
        assert_eq!(code(agent.define_vm(&vm).await), "record-damaged");
        let refused = agent.remove_vm(vm.uuid, u64::MAX).await.unwrap_err();
        assert_eq!((refused.code(), refused.class), ("record-damaged", ErrorClass::Permanent));
        assert!(refused.remedy.unwrap().contains("record.json"));
        assert_eq!(world.qemus(0).len(), 1, "it is left alone");

        std::fs::write(&path, record).unwrap();
        let seen = world.until(0, vm.uuid, "it is managed again", |vm| vm.state == VmRunState::Running).await;
        assert!(!seen.damaged);
        agent.remove_vm(vm.uuid, vm.epoch).await.unwrap();
        assert!(world.qemus(0).is_empty() && agent.observe().await.unwrap().is_empty());
    });
}

#[test]
fn a_vm_that_can_not_be_started_again_now_is_started_by_the_next_agent() {
    in_world(1, async |mut world| {
        let vm = world.assignment("web-1");
        let agent = world.agent(0);
        agent.define_vm(&vm).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        let disk = world.hosts[0].state_dir.join(format!("pool/disks/{}.qcow2", vm.uuid));
        let elsewhere = disk.with_extension("away");

        // The host loses power, and comes back without its pool.
        world.kill_agent(0);
        kill(Pid::from_raw(world.qemus(0)[0] as i32), Signal::SIGKILL).unwrap();
        std::fs::rename(&disk, &elsewhere).unwrap();
        world.start_agent(0).await;
        let seen = world.until(0, vm.uuid, "it has failed", |vm| vm.state == VmRunState::Failed).await;
        assert!(seen.reason.unwrap().contains(disk.to_str().unwrap()));

        world.kill_agent(0);
        std::fs::rename(&elsewhere, &disk).unwrap();
        world.start_agent(0).await;
        world.until(0, vm.uuid, "it runs again", |vm| vm.state == VmRunState::Running).await;
    });
}

#[test]
fn a_qemu_that_was_silent_when_the_agent_came_is_taken_over_when_it_answers() {
    in_world(1, async |mut world| {
        let vm = world.assignment("web-1");
        let agent = world.agent(0);
        agent.define_vm(&vm).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        let qemus = world.qemus(0);
        let pid = Pid::from_raw(qemus[0] as i32);
        world.kill_agent(0);
        kill(pid, Signal::SIGSTOP).unwrap();
        world.start_agent(0).await;
        let seen = world.until(0, vm.uuid, "it is silent", |vm| vm.state == VmRunState::Failed).await;
        assert!(seen.reason.unwrap().contains("does not answer"));

        kill(pid, Signal::SIGCONT).unwrap();
        world.until(0, vm.uuid, "it is taken over", |vm| vm.state == VmRunState::Running).await;
        assert_eq!(world.qemus(0), qemus);
        agent.power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();
    });
}

#[test]
fn certificates_that_end_soon_are_renewed() {
    in_world(1, async |mut world| {
        world.kill_agent(0);
        let (directory, name) = (world.hosts[0].state_dir.join("identity"), world.hosts[0].name.clone());
        let names = LeafNames::new(PeerIdentity::new(Role::Host, name), &[]);
        let soon_over = world.authority.issue_identity(&names, Duration::from_secs(120), now()).unwrap();
        assert!(soon_over.needs_renewal(now()));
        soon_over.save(&directory).unwrap();
        world.start_agent(0).await;
        eventually("the new certificate is there", async || {
            let identity = Identity::load(&directory).ok()?;
            (!identity.needs_renewal(now())).then_some(())
        })
        .await;
        assert!(world.agent(0).observe().await.is_ok());
    });
}
