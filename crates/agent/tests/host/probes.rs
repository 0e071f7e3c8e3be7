//! Probes of real guests: by HTTP, by TCP and by the guest's agent; with overlapping addresses, over an agent's restart.
//! And the watchdog, which asks from inside.

use gantry_api::AgentApi;
use gantry_api::agent::{Assignment, PowerAction, ProtectVm, VmObservation, VmRunState};
use gantry_types::{HaPolicy, HaSpec, Probe, ProbeCheck, ProbeKind, ProbeState};

use crate::world::{World, in_world, request};

fn restart() -> HaSpec {
    HaSpec { policy: HaPolicy::Restart, ..HaSpec::default() }
}

fn probe(kind: ProbeKind, check: &str) -> Probe {
    Probe { period_s: 1, timeout_s: 2, ..Probe::new(kind, check.parse().unwrap()) }
}

/// By a shell in the guest.
fn shell(script: &str) -> Probe {
    let mut probe = probe(ProbeKind::Readiness, "exec:/bin/sh -c");
    if let ProbeCheck::Exec(exec) = &mut probe.check {
        exec.command.push(script.to_owned());
    }
    probe
}

fn state(vm: &VmObservation, index: usize) -> Option<ProbeState> {
    vm.probes.get(index).map(|probe| probe.state)
}

async fn start(world: &World, vm: &Assignment) {
    let agent = world.agent(0);
    agent.define_vm(vm).await.unwrap();
    agent.power(vm.uuid, &request(vm, PowerAction::Start)).await.unwrap();
}

#[test]
fn an_application_that_dies_is_found_by_its_probe_and_its_vm_started_again() {
    in_world(1, async |mut world| {
        let mut serves = probe(ProbeKind::Liveness, "http://:80/");
        if let ProbeCheck::HttpGet(http) = &mut serves.check {
            (http.status, http.body) = (Some(200), Some("ok".to_owned()));
        }
        let is_up = shell("test -f /run/app-ready");
        let mut vm = Assignment { ha: restart(), ..world.assignment("web-1") };
        vm.probes = vec![serves.clone(), is_up.clone()];
        // Another one has the same address, in another network, and nothing that serves.
        let mut other = world.assignment("web-2");
        other.user_data = Some("#cloud-config\nbootcmd:\n - killall httpd\n".to_owned());
        other.nics[0].vni += 1;
        other.nics[0].network = "other".parse().unwrap();
        other.probes = vec![Probe { initial_delay_s: 0, ..probe(ProbeKind::Readiness, "tcp://other:80") }];
        for vm in [&vm, &other] {
            start(&world, vm).await;
        }

        let starting = world.look(0, vm.uuid).await.unwrap();
        assert_eq!(
            (state(&starting, 0), state(&starting, 1)),
            (Some(ProbeState::Starting), Some(ProbeState::Starting))
        );
        let seen = world.until(0, vm.uuid, "it serves", |vm| state(vm, 0) == Some(ProbeState::Passing)).await;
        assert_eq!(seen.probes[0].check, "http://:80/");
        let refuses = "port 80 refuses connections";
        // It may have served before its application was ended.
        let silent = |vm: &VmObservation| {
            let refused = vm.probes[0].message.as_deref() == Some(refuses);
            vm.guest_agent && refused && state(vm, 0) == Some(ProbeState::Failing)
        };
        world.until(0, other.uuid, "the other one does not", silent).await;
        world.agent(0).power(other.uuid, &request(&other, PowerAction::Kill)).await.unwrap();
        assert_eq!(world.look(0, other.uuid).await.unwrap().probes, []);

        // It becomes ready; an agent that is killed knows it afterwards.
        let protect = |probes: &[&Probe]| {
            let probes = probes.iter().copied().cloned().collect();
            ProtectVm { epoch: vm.epoch, ha: restart(), probes }
        };
        let agent = world.agent(0);
        agent.protect_vm(vm.uuid, &protect(&[&serves, &is_up, &shell("touch /run/app-ready")])).await.unwrap();
        world.until(0, vm.uuid, "it is ready", |vm| state(vm, 1) == Some(ProbeState::Passing)).await;
        world.kill_agent(0);
        world.start_agent(0).await;
        let seen = world.until(0, vm.uuid, "it is taken over", |vm| vm.state == VmRunState::Running).await;
        assert_eq!((state(&seen, 0), state(&seen, 1)), (Some(ProbeState::Passing), Some(ProbeState::Passing)));

        // Its application dies, once.
        let die = shell("test -e /data/died || { touch /data/died; sync; killall httpd; }");
        agent.protect_vm(vm.uuid, &protect(&[&serves, &is_up, &die])).await.unwrap();
        let again = |vm: &VmObservation| vm.ha.status.restarts == 1 && state(vm, 0) == Some(ProbeState::Passing);
        let seen = world.until(0, vm.uuid, "it serves again", again).await;
        let cause = seen.ha.status.last_cause.unwrap();
        assert_eq!(cause, format!("its liveness probe http://:80/ failed 3 times in a row: {refuses}"));
        // What was told of the run before is not told of this one. (Until the agent in the guest is up, it says that.)
        let not_ready = |vm: &VmObservation| {
            assert_ne!(state(vm, 1), Some(ProbeState::Passing), "{:?}", vm.probes);
            vm.probes[1].message.as_ref().is_some_and(|it| it.contains("/bin/sh ended with status 1"))
        };
        world.until(0, vm.uuid, "it is not ready", not_ready).await;
    });
}

/// The kernel of the test guest has no driver for it: this is what the driver does.
const FEED_ONCE: &str = "
D=$(dirname $(grep -l 0x25ab /sys/bus/pci/devices/*/device)); echo 1 > $D/enable
B=$(($(head -1 $D/resource | cut -d' ' -f1)))
unlock() { devmem $((B + 12)) 16 0x80; devmem $((B + 12)) 16 0x86; }
unlock; devmem $B 32 2000; unlock; devmem $((B + 4)) 32 2000
unlock; devmem $((B + 12)) 16 0x100
printf '\\002' | dd of=$D/config bs=1 seek=104 conv=notrunc
";

#[test]
fn a_guest_that_does_not_feed_its_watchdog_is_started_again() {
    in_world(1, async |world| {
        let user_data = Some(format!("#!/bin/sh\nsync{FEED_ONCE}"));
        let ha = HaSpec { watchdog: true, ..restart() };
        let vm = Assignment { user_data, ha, ..world.assignment("web-1") };
        start(&world, &vm).await;
        let again = |vm: &VmObservation| vm.ha.status.restarts == 1 && vm.guest_agent;
        let seen = world.until(0, vm.uuid, "it answers again", again).await;
        assert_eq!(seen.ha.status.last_cause.as_deref(), Some("the guest hangs: it has not fed its watchdog"));
    });
}
