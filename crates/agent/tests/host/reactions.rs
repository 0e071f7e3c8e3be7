//! What is done about a failure by policy: a machine that is reset, a disk that goes back to its last known good state.

use gantry_api::AgentApi;
use gantry_api::agent::{Assignment, PowerAction, ProtectVm, VmObservation, VmRunState};
use gantry_types::{
    FailureReaction, HaPolicy, HaSpec, Probe, ProbeCheck, ProbeKind, ProbeState, RecoveryPointKind, RecoveryPolicy,
};

use crate::world::{in_world, request};

fn protection() -> HaSpec {
    HaSpec { policy: HaPolicy::Restart, hang_s: 10, ..HaSpec::default() }
}

#[test]
fn a_guest_that_panics_is_reset_in_the_same_qemu_and_one_that_hangs_is_only_told_of() {
    in_world(1, async |world| {
        let panic = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger";
        let user_data = Some(format!("#cloud-config\nruncmd:\n - sync; sleep 5; {panic}\n"));
        let ha = HaSpec { on_guest_failure: FailureReaction::Reset, ..protection() };
        let vm = Assignment { user_data, ha, ..world.assignment("web-1") };
        let agent = world.agent(0);
        agent.define_vm(&vm).await.unwrap();
        agent.power(vm.uuid, &request(&vm, PowerAction::Start)).await.unwrap();
        let pids = world.qemus(0);
        let again = |vm: &VmObservation| vm.ha.status.resets == 1 && vm.guest_agent;
        let seen = world.until(0, vm.uuid, "it answers again", again).await;
        let status = &seen.ha.status;
        assert_eq!((seen.state, world.qemus(0), status.restarts), (VmRunState::Running, pids.clone(), 0));
        assert_eq!(status.last_cause.as_deref(), Some("the guest's kernel panicked"));
        assert_eq!((status.failures_in_a_row, status.within_hour), (1, 1));

        let mut stop_agent = Probe::new(ProbeKind::Readiness, "exec:/bin/sh -c".parse().unwrap());
        if let ProbeCheck::Exec(exec) = &mut stop_agent.check {
            exec.command.push("kill -STOP $(pidof qemu-ga)".to_owned());
        }
        let ha = HaSpec { on_guest_failure: FailureReaction::Alarm, ..protection() };
        agent.protect_vm(vm.uuid, &ProtectVm { epoch: vm.epoch, ha, probes: vec![stop_agent] }).await.unwrap();
        let told = |vm: &VmObservation| vm.ha.status.unhealthy.is_some();
        let seen = world.until(0, vm.uuid, "that it hangs is told", told).await;
        assert!(seen.ha.status.unhealthy.unwrap().starts_with("the guest hangs"));
        assert_eq!((seen.state, world.qemus(0), seen.ha.status.resets), (VmRunState::Running, pids, 1));
    });
}

#[test]
fn an_application_that_keeps_failing_gets_its_last_known_good_disk_back() {
    in_world(1, async |mut world| {
        let serves = Probe {
            period_s: 1,
            timeout_s: 2,
            initial_delay_s: 30,
            ..Probe::new(ProbeKind::Liveness, "http://:80/".parse().unwrap())
        };
        let mut breaks = Probe { period_s: 1, ..Probe::new(ProbeKind::Readiness, "exec:/bin/sh -c".parse().unwrap()) };
        if let ProbeCheck::Exec(exec) = &mut breaks.check {
            exec.command.push("touch /data/broken; sync; killall httpd".to_owned());
        }
        let user_data = Some("#cloud-config\nbootcmd:\n - test ! -e /data/broken || killall httpd\n".to_owned());
        let ha = HaSpec { roll_back_after: Some(2), ..protection() };
        let recovery = RecoveryPolicy { keep: 1, after_s: 10, every_s: 86_400 };
        let probes = vec![serves.clone()];
        let vm = Assignment { user_data, ha: ha.clone(), recovery, probes, ..world.assignment("web-1") };
        world.boot(0, &vm).await;
        let kept = world.until(0, vm.uuid, "a good state is kept", |vm| !vm.recovery_points.is_empty()).await;
        let good = kept.recovery_points[0].uuid;

        let agent = world.agent(0);
        let protect = |probes| ProtectVm { epoch: vm.epoch, ha: ha.clone(), probes };
        agent.protect_vm(vm.uuid, &protect(vec![serves.clone(), breaks])).await.unwrap();
        let restarted = |vm: &VmObservation| vm.ha.status.restarts == 1;
        let seen = world.until(0, vm.uuid, "it is restarted", restarted).await;
        assert_eq!((seen.ha.status.roll_backs, seen.ha.status.failures_in_a_row), (0, 1));
        agent.protect_vm(vm.uuid, &protect(vec![serves])).await.unwrap();

        // An agent that comes later goes on counting.
        world.kill_agent(0);
        world.start_agent(0).await;
        // The server answers for a moment of each boot before the guest breaks it: what serves is what was rolled back.
        let answers = |vm: &VmObservation| vm.probes.first().is_some_and(|probe| probe.state == ProbeState::Passing);
        let back = |vm: &VmObservation| vm.ha.status.roll_backs == 1 && answers(vm);
        let seen = world.until(0, vm.uuid, "it serves again", back).await;
        assert_eq!((seen.ha.status.restarts, seen.ha.status.failures_in_a_row), (2, 0));
        let kinds: Vec<_> = seen.recovery_points.iter().map(|point| (point.uuid == good, point.kind)).collect();
        assert_eq!(kinds, [(false, RecoveryPointKind::Replaced), (true, RecoveryPointKind::Good)]);
    });
}
