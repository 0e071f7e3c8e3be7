//! Protected VMs that fail in every way a host can notice: by their QEMU, by their kernel, by silence.

use gantry_api::AgentApi;
use gantry_api::agent::{Assignment, PowerAction, ProtectVm, VmRunState};
use gantry_types::{HaPolicy, HaSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{World, code, in_world, request};

fn protection(restarts_per_hour: u32) -> HaSpec {
    HaSpec { policy: HaPolicy::Restart, restarts_per_hour, hang_s: 10, ..HaSpec::default() }
}

fn signal(world: &World, signal: Signal) {
    kill(Pid::from_raw(world.qemus(0)[0] as i32), signal).unwrap();
}

/// Waits until the VM was restarted this often and its guest answers; says why it was.
async fn restarted(world: &World, vm: &Assignment, times: u64) -> String {
    let what = format!("it answers after restart {times}");
    let seen = world.until(0, vm.uuid, &what, |vm| vm.ha.status.restarts == times && vm.guest_agent).await;
    assert_eq!((seen.state, world.qemus(0).len()), (VmRunState::Running, 1));
    seen.ha.status.last_cause.unwrap()
}

#[test]
fn a_vm_whose_qemu_dies_or_stands_still_is_started_again_up_to_its_limit() {
    in_world(1, async |world| {
        let agent = world.agent(0);
        let vm = world.assignment("web-1");
        world.boot(0, &vm).await;

        // It is protected while it runs, and not by a word from before.
        let protect = |epoch, limit| ProtectVm { epoch, ha: protection(limit), probes: Vec::new() };
        assert_eq!(code(agent.protect_vm(vm.uuid, &protect(0, 2)).await), "stale-epoch");
        for _ in 0..2 {
            agent.protect_vm(vm.uuid, &protect(vm.epoch, 2)).await.unwrap();
        }
        assert_eq!(world.look(0, vm.uuid).await.unwrap().ha.spec, protection(2));

        signal(&world, Signal::SIGKILL);
        assert!(restarted(&world, &vm, 1).await.contains("signal: 9"));
        signal(&world, Signal::SIGSTOP);
        assert_eq!(restarted(&world, &vm, 2).await, "its QEMU has not answered for 10 s");

        signal(&world, Signal::SIGKILL);
        let seen = world.until(0, vm.uuid, "it is given up", |vm| vm.ha.status.given_up).await;
        assert_eq!((seen.state, seen.ha.status.restarts), (VmRunState::Failed, 2));
        assert!(seen.reason.unwrap().contains("it was restarted 2 times within an hour, which is its limit"));
        assert!(world.qemus(0).is_empty());

        // Somebody starts it; then it counts anew.
        let started = agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        assert_eq!((started.state, started.ha.status.given_up), (VmRunState::Running, false));
        signal(&world, Signal::SIGKILL);
        restarted(&world, &vm, 3).await;

        // What somebody stops stays stopped.
        agent.power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();
        let seen = world.look(0, vm.uuid).await.unwrap();
        assert_eq!((seen.state, world.qemus(0).len()), (VmRunState::Stopped, 0));
    });
}

/// The guest does this once, on its first boot.
fn once(world: &World, command: &str) -> Assignment {
    let user_data = format!("#cloud-config\nruncmd:\n - sync; sleep 10; {command}\n");
    Assignment { user_data: Some(user_data), ha: protection(5), ..world.assignment("web-1") }
}

#[test]
fn a_guest_that_panics_is_started_again() {
    in_world(1, async |world| {
        let vm = once(&world, "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger");
        world.boot(0, &vm).await;
        assert_eq!(restarted(&world, &vm, 1).await, "the guest's kernel panicked");
    });
}

#[test]
fn a_guest_that_hangs_is_started_again_also_by_an_agent_that_came_later() {
    in_world(1, async |mut world| {
        let vm = once(&world, "kill -STOP $(pidof qemu-ga)");
        world.boot(0, &vm).await;
        let cause = restarted(&world, &vm, 1).await;
        assert!(cause.starts_with("the guest hangs"), "{cause}");

        // Its QEMU and the agent die together; what was decided before is still known.
        world.kill_agent(0);
        signal(&world, Signal::SIGKILL);
        world.start_agent(0).await;
        let seen = world.until(0, vm.uuid, "it answers again", |vm| vm.guest_agent).await;
        assert_eq!((seen.ha.spec, seen.ha.status.restarts), (protection(5), 1));
    });
}
