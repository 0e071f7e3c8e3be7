//! Protected VMs run only while their host's lease is held, whatever becomes of the agent.

use std::time::Duration;

use gantry_api::AgentApi;
use gantry_api::agent::{Assignment, PowerAction, ProtectVm, VmRunState};
use gantry_api::fencing::LeaseGrant;
use gantry_types::{Fence, HaPolicy, HaSpec, LeaseStanding, Members, Timestamp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{World, code, eventually, in_world, request};

fn protection() -> HaSpec {
    HaSpec { policy: HaPolicy::Restart, ..HaSpec::default() }
}

fn members(world: &World) -> Members {
    let address = |number: usize| format!("10.77.0.{}:7443", number + 1);
    let hosts = world.hosts.iter().enumerate().map(|(number, host)| (host.name.clone(), address(number)));
    Members { generation: 1, hosts: hosts.collect() }
}

/// The controller grants, or shows a fence.
fn answer(world: &World, fence: Option<u64>, lifted: u64) {
    let fence = fence.map(|generation| Fence {
        host: "host-1".parse().unwrap(),
        generation,
        by: "controller".to_owned(),
        why: "a test".to_owned(),
        at: Timestamp::UNIX_EPOCH,
    });
    let mut answers = world.controller.lock().unwrap();
    answers.silent = false;
    answers.lease = Some(LeaseGrant { fence, lifted, members: Some(members(world)) });
}

fn silence(world: &World) {
    world.controller.lock().unwrap().silent = true;
}

async fn standing(world: &World, expected: LeaseStanding) {
    let what = format!("its lease is {expected:?}");
    eventually(&what, async || {
        let lease = world.last_heartbeat(0)?.lease?.lease;
        (lease.standing == expected).then_some(())
    })
    .await;
}

async fn runs(world: &World, vm: &Assignment) -> u32 {
    eventually("it runs", async || {
        // An agent that has just gone on may not have noticed yet that its QEMU is gone.
        let told = world.look(0, vm.uuid).await?.state == VmRunState::Running;
        world.qemus(0).first().copied().filter(|_| told)
    })
    .await
}

async fn no_qemu(world: &World) {
    eventually("no QEMU is left", async || world.qemus(0).is_empty().then_some(())).await;
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// Longer than a lease lasts and stopping takes.
async fn longer_than_a_lease() {
    tokio::time::sleep(Duration::from_secs(6)).await;
}

#[test]
fn a_protected_vm_is_stopped_with_the_lease_and_an_outage_of_the_controller_stops_nothing() {
    in_world(2, async |world| {
        let agent = world.agent(0);
        let vm = Assignment { ha: protection(), ..world.assignment("web-1") };
        let free = world.assignment("batch-1");
        agent.define_vm(&vm).await.unwrap();
        agent.define_vm(&free).await.unwrap();
        // Alone, or without anybody who has said who belongs together, it needs no lease.
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        answer(&world, None, 0);
        standing(&world, LeaseStanding::Held).await;
        let qemu = runs(&world, &vm).await;
        let guarded = world.look(0, vm.uuid).await.unwrap().guarded;
        assert!(guarded && !world.look(0, free.uuid).await.unwrap().guarded);
        eventually("one VM is guarded", async || {
            (world.last_heartbeat(0)?.lease?.lease.guarded_vms == 1).then_some(())
        })
        .await;

        // The controller is away: the other member has no record.
        silence(&world);
        longer_than_a_lease().await;
        standing(&world, LeaseStanding::Held).await;
        assert_eq!(world.qemus(0), [qemu]);

        // A warden that is killed has a successor, which guards what runs.
        let warden = world.warden(0).unwrap();
        signal(warden, Signal::SIGTERM);
        assert_eq!(world.warden(0), Some(warden), "it does not end when it is asked to");
        signal(warden, Signal::SIGKILL);
        eventually("there is another warden", async || world.warden(0).filter(|now| *now != warden)).await;
        assert_eq!(world.qemus(0), [qemu]);

        // Nobody answers: what is protected is stopped, what is not runs on, and nothing protected starts.
        agent.power(free.uuid, &request(&free, PowerAction::Start)).await.unwrap();
        world.part_hosts(true);
        standing(&world, LeaseStanding::Lapsed).await;
        eventually("only what is not protected runs", async || (world.qemus(0).len() == 1).then_some(())).await;
        assert_ne!(world.qemus(0), [qemu]);
        let seen = world.until(0, vm.uuid, "it waits", |vm| vm.state == VmRunState::Starting).await;
        assert_eq!(seen.reason.unwrap(), "this host had no lease any more, so it was stopped");
        let start = request(&vm, PowerAction::Start);
        assert_eq!(code(agent.power(vm.uuid, &start).await), "lease-not-held");
        let protect = ProtectVm { epoch: free.epoch, ha: protection(), probes: Vec::new() };
        assert_eq!(code(agent.protect_vm(free.uuid, &protect).await), "lease-not-held");
        agent.power(free.uuid, &request(&free, PowerAction::Kill)).await.unwrap();

        // A lapse alone loses nothing.
        answer(&world, None, 0);
        runs(&world, &vm).await;
        let ha = world.look(0, vm.uuid).await.unwrap().ha.status;
        assert_eq!((ha.restarts, ha.given_up), (1, false));

        // Nobody answers any more, so there is nothing new to tell the warden when it is killed: its successor stops what runs.
        let warden = world.warden(0).unwrap();
        silence(&world);
        eventually("its lease gets old", async || {
            world.last_heartbeat(0)?.lease?.lease.left_ms.filter(|left_ms| *left_ms < 3_000)
        })
        .await;
        signal(warden, Signal::SIGKILL);
        no_qemu(&world).await;
        assert!(world.warden(0).is_some_and(|now| now != warden));
    });
}

#[test]
fn an_agent_that_stands_still_or_is_shut_out_leaves_nothing_running() {
    in_world(2, async |mut world| {
        answer(&world, None, 0);
        standing(&world, LeaseStanding::Held).await;
        let vm = Assignment { ha: protection(), ..world.assignment("web-1") };
        world.agent(0).define_vm(&vm).await.unwrap();
        world.agent(0).power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        runs(&world, &vm).await;

        // Frozen for longer than its lease, it has renewed nothing.
        signal(world.agent_pid(0), Signal::SIGSTOP);
        no_qemu(&world).await;
        signal(world.agent_pid(0), Signal::SIGCONT);
        let qemu = runs(&world, &vm).await;

        // The lease of an agent that ends is its successor's.
        world.kill_agent(0);
        world.start_agent(0).await;
        assert_eq!(runs(&world, &vm).await, qemu);

        // Shut out, it stops everything, says so when that is on disk, and starts nothing by itself again.
        answer(&world, Some(1), 0);
        no_qemu(&world).await;
        eventually("it acknowledges", async || {
            let beat = world.last_heartbeat(0)?;
            (beat.lease?.acknowledged == Some(1)).then(|| assert_eq!(beat.vms[0].state, VmRunState::Failed))
        })
        .await;
        world.kill_agent(0);
        world.start_agent(0).await;
        standing(&world, LeaseStanding::Fenced).await;
        answer(&world, None, 1);
        standing(&world, LeaseStanding::Held).await;
        let seen = world.look(0, vm.uuid).await.unwrap();
        assert_eq!((seen.state, world.qemus(0).len()), (VmRunState::Failed, 0));

        // What was sent before the fence counts no more.
        let start = request(&vm, PowerAction::Start);
        assert_eq!(code(world.agent(0).power(vm.uuid, &start).await), "stale-fence");
        let agent = world.agent(0).knowing_lifted(1);
        agent.power(vm.uuid, &start).await.unwrap();
        runs(&world, &vm).await;
    });
}
