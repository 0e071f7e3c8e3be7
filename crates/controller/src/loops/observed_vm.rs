//! What a host's report about a VM means for the VM's object. Pure.
//!
//! Only for VMs that no operation is at work on: an operation owns its VM's phase.

use gantry_api::agent::{VmObservation, VmRunState};
use gantry_types::{Name, PowerState, ProbeKind, ProbeState, ProbeStatus, Severity, Vm, VmPhase};

/// What changes, and what is told about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    pub vm: Vm,
    pub events: Vec<Told>,
}

/// Severity, reason and message of an event.
pub type Told = (Severity, &'static str, String);

/// The VM as its host's report makes it; `None` if nothing changes. `trusted`: the report was surely made after the
/// last operation on the VM, so it may contradict the object.
pub fn settle(vm: &Vm, host: &Name, observation: Option<&VmObservation>, trusted: bool) -> Option<Settled> {
    let observed = match observation {
        // An older assignment: what is there is not this.
        Some(observation) if observation.epoch != vm.status.epoch => return None,
        Some(observation) if observation.state == VmRunState::Starting => return pending_restart(vm, observation),
        Some(observation) => phase_of(observation.state)?,
        // Stopped VMs are in a host's report as well.
        None => VmPhase::Failed,
    };
    let mut settled = vm.clone();
    let mut events = Vec::new();
    let differs = observed != vm.status.phase;
    if differs {
        if !trusted || !vm.status.phase.may_execute() || !vm.status.phase.may_become(observed) {
            return None;
        }
        let reason = observation.and_then(|observation| observation.reason.clone());
        events.extend(enter(&mut settled, host, observed, reason, observation.is_none()));
    }
    match observation.filter(|observation| observation.state == VmRunState::Running) {
        Some(observation) => {
            settled.status.guest_agent = observation.guest_agent;
            events.extend(note_probes(&mut settled, host, observation));
            settled.status.ready = is_ready(observation);
            if !differs {
                settled.status.reason.clone_from(&observation.reason);
            }
            if observation.guest.is_some() {
                settled.status.guest.clone_from(&observation.guest);
            }
            settled.status.accelerator.clone_from(&observation.accelerator);
        }
        None => settled.status.forget_guest(),
    }
    if let Some(observation) = observation {
        let done = note_reactions(&mut settled, host, observation);
        if events.is_empty() {
            events.extend(done);
        }
    }
    if let Some(observation) = observation.filter(|_| trusted) {
        settled.status.guarded_epoch = observation.guarded.then_some(observation.epoch);
        settled.status.recovery_points.clone_from(&observation.recovery_points);
    }
    (settled != *vm).then_some(Settled { vm: settled, events })
}

/// Its host is about to start it again: it still counts as running, and is not ready.
fn pending_restart(vm: &Vm, observation: &VmObservation) -> Option<Settled> {
    // An agent that has just started says so of every VM, without a reason.
    let reason = observation.reason.as_ref().filter(|_| vm.status.phase == VmPhase::Running)?;
    let mut settled = vm.clone();
    settled.status.forget_guest();
    settled.status.reason = Some(format!("{reason}; its host starts it again"));
    (settled != *vm).then_some(Settled { vm: settled, events: Vec::new() })
}

/// Its readiness probes say so; where there are none, its guest's agent is enough.
fn is_ready(observation: &VmObservation) -> bool {
    let mut readiness = observation.probes.iter().filter(|probe| probe.kind == ProbeKind::Readiness).peekable();
    match readiness.peek() {
        Some(_) => readiness.all(|probe| probe.state == ProbeState::Passing),
        None => observation.guest_agent,
    }
}

/// Takes over what the probes say. An event for each that has begun to fail, or passes again.
fn note_probes(vm: &mut Vm, host: &Name, observation: &VmObservation) -> Vec<Told> {
    let before = std::mem::replace(&mut vm.status.probes, observation.probes.clone());
    let was_failing = |probe: &ProbeStatus| {
        let same = |known: &&ProbeStatus| (known.kind, &known.check) == (probe.kind, &probe.check);
        before.iter().find(same).is_some_and(|known| known.state == ProbeState::Failing)
    };
    let name = &vm.metadata.name;
    let told = |probe: &ProbeStatus| {
        let ProbeStatus { kind, check, message, .. } = probe;
        match (was_failing(probe), probe.state) {
            (false, ProbeState::Failing) => {
                let why = message.as_deref().unwrap_or("no reason is known");
                let message = format!("the {kind} probe {check} of VM '{name}' fails on host '{host}': {why}");
                Some((Severity::Warning, "ProbeFailed", message))
            }
            (true, ProbeState::Passing) => {
                let message = format!("the {kind} probe {check} of VM '{name}' passes again");
                Some((Severity::Normal, "ProbePassed", message))
            }
            _ => None,
        }
    };
    observation.probes.iter().filter_map(told).collect()
}

/// Takes over what its host has done about its failures. An event for each kind that is new.
fn note_reactions(vm: &mut Vm, host: &Name, observation: &VmObservation) -> Vec<Told> {
    let told = &observation.ha.status;
    let known = std::mem::replace(&mut vm.status.ha, told.clone());
    let (name, cause) = (&vm.metadata.name, told.last_cause.as_deref().unwrap_or("it failed"));
    let mut events = Vec::new();
    if told.roll_backs > known.roll_backs {
        let message = format!(
            "host '{host}' brought the disk of VM '{name}' back to its last known good state: {cause}; what was replaced is \
             kept for a day: gantry vm recover {name} --undo"
        );
        events.push((Severity::Warning, "VmRolledBack", message));
    }
    if told.restarts > known.restarts {
        let message = format!("VM '{name}' was started again by host '{host}': {cause}");
        events.push((Severity::Warning, "VmRestarted", message));
    }
    if told.resets > known.resets {
        let message = format!("VM '{name}' was reset by host '{host}': {cause}");
        events.push((Severity::Warning, "VmReset", message));
    }
    match (&known.unhealthy, &told.unhealthy) {
        (_, Some(why)) if told.stranded && !known.stranded => {
            let message = format!(
                "VM '{name}' lacks what it needs on host '{host}', which gives it up as soon as another host can take it: {why}"
            );
            events.push((Severity::Warning, "VmStranded", message));
        }
        (None, Some(why)) => {
            let message = format!("VM '{name}' fails on host '{host}', and that is only told of: {why}");
            events.push((Severity::Warning, "VmUnhealthy", message));
        }
        (Some(_), None) => {
            events.push((Severity::Normal, "VmHealthy", format!("VM '{name}' no longer fails on host '{host}'")));
        }
        _ => {}
    }
    events
}

fn phase_of(state: VmRunState) -> Option<VmPhase> {
    match state {
        VmRunState::Running => Some(VmPhase::Running),
        VmRunState::Paused => Some(VmPhase::Paused),
        VmRunState::Stopped => Some(VmPhase::Stopped),
        VmRunState::Failed => Some(VmPhase::Failed),
        // On their way; an operation or the host itself settles them.
        VmRunState::Starting | VmRunState::Receiving | VmRunState::Arrived | VmRunState::HandedOver => None,
    }
}

fn enter(vm: &mut Vm, host: &Name, phase: VmPhase, reason: Option<String>, missing: bool) -> Option<Told> {
    let name = vm.metadata.name.clone();
    let former = vm.status.phase;
    vm.status.phase = phase;
    vm.status.reason = None;
    match phase {
        VmPhase::Stopped => {
            // The guest's owner turned it off from the inside: that is what is wanted now.
            vm.spec.power = PowerState::Stopped;
            vm.status.started_at = None;
            vm.status.guest = None;
            let why = reason.unwrap_or_else(|| "it stopped".into());
            vm.status.reason = Some(why.clone());
            Some((Severity::Normal, "VmStopped", format!("VM '{name}' stopped on host '{host}': {why}")))
        }
        VmPhase::Failed => {
            let why = match (missing, reason) {
                (true, _) => format!("host '{host}' no longer has it"),
                (false, Some(reason)) => reason,
                (false, None) => "its QEMU ended unexpectedly".into(),
            };
            vm.status.reason = Some(why.clone());
            vm.status.started_at = None;
            vm.status.guest = None;
            Some((
                Severity::Warning,
                "VmFailed",
                format!("VM '{name}' failed on host '{host}': {why}; start it again with: gantry vm start {name}"),
            ))
        }
        VmPhase::Running if former == VmPhase::Paused => {
            Some((Severity::Normal, "VmResumed", format!("VM '{name}' goes on at host '{host}'")))
        }
        VmPhase::Paused if former != VmPhase::Unknown => {
            let why = reason.unwrap_or_else(|| "QEMU stopped the guest".into());
            vm.status.reason = Some(why.clone());
            Some((Severity::Warning, "VmPaused", format!("VM '{name}' was paused on host '{host}': {why}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use gantry_types::{HaStatus, VmSpec};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn vm(phase: VmPhase) -> Vm {
        let spec: VmSpec =
            serde_json::from_value(json!({"cpus": 1, "memory": "64MiB", "disk": "1GiB"})).expect("a spec");
        let mut vm = Vm::new("web".parse().expect("a name"), spec);
        vm.status.phase = phase;
        vm.status.epoch = 3;
        vm
    }
    fn observation(state: VmRunState, epoch: u64) -> VmObservation {
        VmObservation {
            uuid: Uuid::nil(),
            name: "web".parse().expect("a name"),
            epoch,
            state,
            reason: None,
            guest_agent: true,
            guest: None,
            accelerator: None,
            metrics: None,
            migration: None,
            ha: Default::default(),
            probes: Vec::new(),
            recovery_points: Vec::new(),
            copies: None,
            owner_uid: 0,
            volumes: Vec::new(),
            damaged: false,
            guarded: false,
        }
    }
    fn settled(phase: VmPhase, observation: Option<VmObservation>, trusted: bool) -> Option<Settled> {
        settle(&vm(phase), &"host-1".parse().expect("a name"), observation.as_ref(), trusted)
    }
    fn phase(phase: VmPhase, observation: Option<VmObservation>, trusted: bool) -> Option<VmPhase> {
        settled(phase, observation, trusted).map(|settled| settled.vm.status.phase)
    }

    fn reasons(settled: &Settled) -> Vec<&'static str> {
        settled.events.iter().map(|(_, reason, _)| *reason).collect()
    }
    fn probed(kind: ProbeKind, state: ProbeState) -> ProbeStatus {
        let message = (state == ProbeState::Failing).then(|| "port 80 refuses connections".to_owned());
        ProbeStatus { kind, check: "tcp://:80".to_owned(), state, message, since: None }
    }

    #[test]
    fn readiness_probes_say_whether_it_is_ready_and_a_change_is_told_once() {
        use ProbeState::{Failing, Passing, Starting};
        let mut known = vm(VmPhase::Running);
        let mut told = Vec::new();
        for (state, ready) in [(Starting, false), (Passing, true), (Failing, false), (Failing, false), (Passing, true)]
        {
            // Without a guest agent: whoever has probes needs none.
            let mut seen = VmObservation { guest_agent: false, ..observation(VmRunState::Running, 3) };
            seen.probes = vec![probed(ProbeKind::Readiness, state), probed(ProbeKind::Liveness, Passing)];
            if let Some(settled) = settle(&known, &"host-1".parse().expect("a name"), Some(&seen), true) {
                told.extend(settled.events);
                known = settled.vm;
            }
            assert_eq!((known.status.ready, known.status.guest_agent), (ready, false), "{state}");
        }
        let reasons: Vec<_> = told.iter().map(|(_, reason, _)| *reason).collect();
        assert_eq!(reasons, ["ProbeFailed", "ProbePassed"]);
        let message = "the readiness probe tcp://:80 of VM 'web' fails on host 'host-1': port 80 refuses connections";
        assert_eq!(told[0].2, message);
        let stopped =
            settle(&known, &"host-1".parse().expect("a name"), Some(&observation(VmRunState::Stopped, 3)), true);
        assert_eq!(stopped.expect("changes").vm.status.probes, []);
    }

    #[test]
    fn what_its_host_has_done_is_told_once() {
        let mut known = vm(VmPhase::Running);
        let mut told = Vec::new();
        let (unhealthy, last_cause) = (Some("the guest hangs".to_owned()), Some("the guest panicked".to_owned()));
        let reset = HaStatus { resets: 1, last_cause, ..HaStatus::default() };
        let rolled_back = HaStatus { restarts: 1, roll_backs: 1, ..reset.clone() };
        let unhealthy = HaStatus { unhealthy, ..rolled_back.clone() };
        let stranded = HaStatus { stranded: true, ..unhealthy.clone() };
        for status in [reset, rolled_back.clone(), unhealthy, stranded, rolled_back] {
            for _ in 0..2 {
                let mut seen = observation(VmRunState::Running, 3);
                seen.ha.status = status.clone();
                if let Some(settled) = settle(&known, &"host-1".parse().expect("a name"), Some(&seen), true) {
                    told.extend(settled.events);
                    known = settled.vm;
                }
            }
        }
        let reasons: Vec<_> = told.iter().map(|(_, reason, _)| *reason).collect();
        assert_eq!(reasons, ["VmReset", "VmRolledBack", "VmRestarted", "VmUnhealthy", "VmStranded", "VmHealthy"]);
        assert_eq!(told[0].2, "VM 'web' was reset by host 'host-1': the guest panicked");
    }

    #[test]
    fn a_guest_that_powers_off_is_stopped_and_stays_so() {
        let settled = settled(VmPhase::Running, Some(observation(VmRunState::Stopped, 3)), true).expect("changes");
        assert_eq!((settled.vm.status.phase, settled.vm.spec.power), (VmPhase::Stopped, PowerState::Stopped));
        assert_eq!(reasons(&settled), ["VmStopped"]);
    }

    #[test]
    fn a_guest_that_goes_on_by_itself_is_told_of() {
        let settled = settled(VmPhase::Paused, Some(observation(VmRunState::Running, 3)), true).expect("changes");
        assert_eq!((settled.vm.status.phase, settled.vm.status.reason.clone()), (VmPhase::Running, None));
        assert_eq!(reasons(&settled), ["VmResumed"]);
    }

    #[test]
    fn reports_that_may_be_late_or_of_an_older_epoch_contradict_nothing() {
        assert_eq!(phase(VmPhase::Running, Some(observation(VmRunState::Stopped, 3)), false), None);
        assert_eq!(phase(VmPhase::Running, Some(observation(VmRunState::Stopped, 2)), true), None);
        assert_eq!(phase(VmPhase::Running, None, false), None);
    }

    #[test]
    fn readiness_needs_no_second_report() {
        let settled = settled(VmPhase::Running, Some(observation(VmRunState::Running, 3)), false).expect("changes");
        assert!(settled.vm.status.ready && settled.events.is_empty());
    }

    #[test]
    fn what_a_lost_host_did_meanwhile_shows_when_it_is_back() {
        for (state, expected) in [
            (VmRunState::Running, VmPhase::Running),
            (VmRunState::Paused, VmPhase::Paused),
            (VmRunState::Stopped, VmPhase::Stopped),
            (VmRunState::Failed, VmPhase::Failed),
        ] {
            assert_eq!(phase(VmPhase::Unknown, Some(observation(state, 3)), true), Some(expected));
        }
        assert_eq!(phase(VmPhase::Unknown, None, true), Some(VmPhase::Failed));
    }

    #[test]
    fn a_vm_that_should_not_run_is_not_made_failed_by_being_absent() {
        for resting in [VmPhase::Pending, VmPhase::Stopped] {
            assert_eq!(phase(resting, None, true), None);
        }
        assert_eq!(phase(VmPhase::Deleting, None, true), None);
    }
}
