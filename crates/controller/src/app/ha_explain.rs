//! What protects a VM, and what would happen now if it or its host failed, in words.

use gantry_api::rest::{HaExplanation, HaSentence, VmExplanation};
use gantry_types::{
    FailureReaction, HaPolicy, HaSpec, HaStatus, LossReaction, Name, Pool, Probe, ProbeKind, ProbeState, Problem,
    Resource, Vm, VmPhase,
};

use super::{App, Caller, copies, explain as placement};

pub fn vm(app: &App, caller: &Caller, name: &str) -> Result<HaExplanation, Problem> {
    let placement = placement::vm(app, caller, name)?;
    let vm = app.model.get::<Vm>(name).ok_or_else(|| Problem::not_found(Vm::KIND, name))?;
    let vm = app.model.decorate(&*vm);
    let pool = vm.spec.pool.as_ref().and_then(|pool| app.model.get::<Pool>(pool.as_str()));
    let copied = app.model.read(|tables| copies::is_copied(tables, &vm));
    Ok(explain(&vm, pool.as_deref(), copied, &placement))
}

/// One sentence for each thing that can fail. `copied`: disks of it are in mirrored pools.
fn explain(vm: &Vm, pool: Option<&Pool>, copied: bool, placement: &VmExplanation) -> HaExplanation {
    let (name, ha, done) = (&vm.metadata.name, &vm.spec.ha, &vm.status.ha);
    let host = vm.status.host.as_ref().map_or("its host", |host| host.as_str());
    let mut rows = vec![("now", format!("{} on {host}", vm.status.phase))];
    if let Some(displaced) = &vm.status.displaced {
        let waits = displaced.waits.as_deref().unwrap_or("it is its turn");
        rows.push(("displaced", format!("{} was shut out at {}; {waits}", displaced.from, displaced.since)));
    }
    match ha.policy {
        HaPolicy::None => {
            rows.push(("if it fails", "it stays failed until somebody starts it".to_owned()));
            rows.push(("to protect it", format!("gantry vm set {name} --ha restart")));
        }
        HaPolicy::Restart => {
            let (limit, hang_s) = (ha.restarts_per_hour, ha.hang_s);
            let on_guest = done_about(ha.on_guest_failure, host);
            rows.push(("if its QEMU ends", format!("{host} starts it again at once")));
            rows.push((
                "if it panics",
                if ha.on_guest_failure == FailureReaction::Alarm {
                    "it stays failed until somebody starts it".to_owned()
                } else {
                    format!("at once, {on_guest}")
                },
            ));
            rows.push(("if it hangs", format!("after {hang_s} s without a sign of life, {on_guest}")));
            if ha.watchdog {
                rows.push(("without feeding", format!("when its watchdog's time is over, {on_guest}")));
            }
            if let Some(failures) = ha.roll_back_after {
                let what = "without having been good in between, its disk goes back to its last known good state";
                rows.push(("if worn out", format!("after {failures} failures of guest or application {what}")));
            }
            rows.push(("if a pool is lost", loss(ha, ha.on_pool_loss, host, "does not reach a pool of its disks")));
            rows.push(("if its link is lost", loss(ha, ha.on_network_loss, host, "has no link for its network")));
            rows.push((
                "if that repeats",
                format!("pauses of 5 s, 10 s, 20 s and so on, {limit} restarts within an hour"),
            ));
        }
    }
    rows.extend(probe_rows(vm, host));
    if let Some(copies) = vm.status.copies.as_ref().filter(|_| copied) {
        let current: Vec<&str> = copies.current.iter().map(Name::as_str).collect();
        rows.push(("its disks are on", format!("{}; generation {}", current.join(" and "), copies.generation)));
    }
    let elsewhere = elsewhere(vm, host, pool, copied, placement);
    rows.push(("if its host dies", match &elsewhere {
        Ok((starts_on, pool)) => format!(
            "it starts on {starts_on} from pool {pool}, once {host} is proved to be shut out: when its power is seen off, or \
             its last lease has ended"
        ),
        Err(why) => format!("{why}: it can't be started elsewhere; {host} starts it again when it is back"),
    }));
    if !ha.depends_on.is_empty() {
        let names: Vec<&str> = ha.depends_on.iter().map(Name::as_str).collect();
        rows.push(("it waits then for", format!("{} to be ready, for two minutes at most", names.join(", "))));
    }
    if let Some(unhealthy) = &done.unhealthy {
        let what = format!("{unhealthy}; it is given up there as soon as another host can take it");
        rows.push(match done.stranded {
            true => ("stranded", what),
            false => ("only told of", unhealthy.clone()),
        });
    }
    if done.restarts + done.resets > 0 {
        let when = done.last_at.map_or_else(String::new, |at| format!(" at {at}"));
        let cause = done.last_cause.as_deref().unwrap_or("it failed");
        rows.push(("restarts so far", format!("{} on {host}, the last{when}: {cause}", counted(done))));
    }
    if done.given_up && vm.status.phase == VmPhase::Failed {
        rows.push(("given up", format!("it failed too often; when the cause is gone: gantry vm start {name}")));
    }
    let sentences = rows.into_iter().map(|(about, text)| HaSentence { about: about.to_owned(), text }).collect();
    HaExplanation {
        vm: name.clone(),
        host: vm.status.host.clone(),
        is_protected: ha.policy == HaPolicy::Restart,
        starts_on: elsewhere.as_ref().ok().map(|(host, _)| host.clone()),
        waits_because: elsewhere.err(),
        sentences,
    }
}

fn done_about(reaction: FailureReaction, host: &str) -> String {
    match reaction {
        FailureReaction::Restart => format!("{host} starts it again"),
        FailureReaction::Reset => format!("{host} resets its machine"),
        FailureReaction::RestartElsewhere => format!("it is started on another host than {host} if its disk allows"),
        FailureReaction::Alarm => "it is told of and nothing is done".to_owned(),
    }
}

fn loss(ha: &HaSpec, reaction: LossReaction, host: &str, what: &str) -> String {
    let after = format!("after {} s in which {host} {what} and lives,", ha.loss_s);
    match reaction {
        LossReaction::Alarm => format!("{after} it is told of and nothing is done"),
        LossReaction::RestartElsewhere => {
            format!("{after} {host} ends it once another host can take it, and it is started there")
        }
    }
}

/// What was done so far.
fn counted(done: &HaStatus) -> String {
    let others = [(done.resets, "resets"), (done.roll_backs, "returns to a good state")];
    let others = others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(" and {count} {what}"));
    format!("{}{}", done.restarts, others.collect::<String>())
}

/// What its probes are for, and what they say now.
fn probe_rows(vm: &Vm, host: &str) -> Vec<(&'static str, String)> {
    let is_restarted = vm.spec.ha.policy == HaPolicy::Restart;
    let row = |probe: &Probe| {
        let check = probe.check.to_string();
        let said = vm.status.probes.iter().find(|said| (said.kind, &said.check) == (probe.kind, &check));
        let now = said.map_or_else(String::new, |said| match (&said.message, said.state) {
            (Some(message), ProbeState::Failing) => format!("; now failing: {message}"),
            (_, state) => format!("; now {state}"),
        });
        let (failures, period_s) = (probe.failure_threshold, probe.period_s);
        match (probe.kind, is_restarted) {
            (ProbeKind::Readiness, _) => ("ready while", format!("{check} succeeds, asked every {period_s} s{now}")),
            (ProbeKind::Liveness, true) => {
                let done = done_about(vm.spec.ha.on_application_failure, host);
                ("if it serves not", format!("after {failures} failures of {check}, {period_s} s apart, {done}{now}"))
            }
            (ProbeKind::Liveness, false) => {
                ("if it serves not", format!("that is shown: {check}, {failures} failures {period_s} s apart{now}"))
            }
        }
    };
    vm.spec.probes.iter().map(row).collect()
}

/// Where it would run again and from which pool, or why it would not.
fn elsewhere(
    vm: &Vm,
    host: &str,
    pool: Option<&Pool>,
    copied: bool,
    placement: &VmExplanation,
) -> Result<(Name, Name), String> {
    let Some(pool) = pool.filter(|pool| pool.is_shared() || pool.is_mirrored()) else {
        return Err(format!("its disk is only on {host}"));
    };
    if let Some(why) = lacks_copy(vm).filter(|_| copied) {
        return Err(why);
    }
    if vm.spec.ha.policy == HaPolicy::None {
        return Err("it is not protected".to_owned());
    }
    if vm.spec.host.is_some() {
        return Err("it may only run there (spec.host)".to_owned());
    }
    if vm.status.phase.may_execute() && !vm.status.is_guarded() {
        return Err(format!("{host} has not confirmed yet that it stops it when its lease ends"));
    }
    let others = placement.hosts.iter().filter(|verdict| verdict.host.as_str() != host);
    let has_copies = |host: &Name| vm.status.copies.as_ref().is_some_and(|copies| copies.is_current(host));
    let has_disk = |host: &Name| pool.is_at(host) && (!copied || has_copies(host));
    let fit = others.filter(|verdict| verdict.fits && has_disk(&verdict.host));
    let best = fit.max_by(|a, b| a.score.unwrap_or(0.0).total_cmp(&b.score.unwrap_or(0.0)));
    let best = best.ok_or_else(|| "no other host that reaches its disk can take it now".to_owned())?;
    Ok((best.host.clone(), pool.metadata.name.clone()))
}

/// Why disks that are mirrored can't be used elsewhere now.
fn lacks_copy(vm: &Vm) -> Option<String> {
    let host = vm.status.host.as_ref()?;
    if vm.status.copies.as_ref().is_some_and(|copies| copies.other(host).is_some()) {
        return None;
    }
    Some(
        "its disks have no second copies that are up to date; they are made by themselves while it runs and another host of their \
         pools has room"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn explain(vm: &Vm, pool: Option<&Pool>, placement: &VmExplanation) -> HaExplanation {
        super::explain(vm, pool, pool.is_some_and(Pool::is_mirrored), placement)
    }

    fn vm(ha: serde_json::Value, status: serde_json::Value) -> Vm {
        let vm = json!({
            "kind": "vm", "metadata": {"name": "web"}, "status": status,
            "spec": {"cpus": 1, "memory": "64MiB", "disk": "1GiB", "ha": ha},
        });
        serde_json::from_value(vm).expect("a VM")
    }

    fn told(explanation: &HaExplanation) -> String {
        let lines = explanation.sentences.iter().map(|sentence| format!("{} {}", sentence.about, sentence.text));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn probes_are_told_with_what_they_say_now() {
        let mut vm = vm(
            json!({"policy": "restart"}),
            json!({"phase": "running", "host": "host-1", "probes": [
                {"kind": "readiness", "check": "tcp://:5432", "state": "failing", "message": "port 5432 refuses connections"},
                {"kind": "liveness", "check": "http://:80/health", "state": "passing"},
            ]}),
        );
        let probe = |kind, check: &str| Probe::new(kind, check.parse().expect("a check"));
        vm.spec.probes =
            vec![probe(ProbeKind::Liveness, "http://:80/health"), probe(ProbeKind::Readiness, "tcp://:5432")];
        let text = told(&explain(&vm, None, &placement(true)));
        for part in [
            "after 3 failures of http://:80/health, 10 s apart, host-1 starts it again; now passing",
            "tcp://:5432 succeeds, asked every 10 s; now failing: port 5432 refuses connections",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    fn pool(hosts: &[&str]) -> Pool {
        let spec = json!({"path": "/srv/nas", "hosts": hosts});
        serde_json::from_value(json!({"kind": "pool", "metadata": {"name": "nas"}, "spec": spec})).expect("a pool")
    }

    fn placement(fits: bool) -> VmExplanation {
        let verdict = |host: &str, score: f64| json!({"host": host, "cluster": "main", "fits": fits, "score": score});
        let hosts = [verdict("host-1", 9.0), verdict("host-2", 1.0), verdict("host-3", 5.0)];
        serde_json::from_value(json!({"vm": "web", "summary": "", "hosts": hosts})).expect("an explanation")
    }

    #[test]
    fn a_mirrored_disk_says_where_it_is_and_what_follows() {
        let mut pair = pool(&["host-1", "host-2", "host-3"]);
        pair.spec.kind = gantry_types::PoolType::Mirrored;
        let status = |current: &[&str]| {
            let copies = json!({"generation": 4, "current": current});
            json!({"phase": "running", "host": "host-1", "epoch": 2, "guarded_epoch": 2, "copies": copies})
        };
        let protected = |current: &[&str]| vm(json!({"policy": "restart"}), status(current));
        let two = explain(&protected(&["host-1", "host-2"]), Some(&pair), &placement(true));
        assert_eq!(two.starts_on, Some("host-2".parse().unwrap()), "host-3 would be better, but has none of it");
        assert!(told(&two).contains("its disks are on host-1 and host-2; generation 4"), "{}", told(&two));
        let one = explain(&protected(&["host-1"]), Some(&pair), &placement(true));
        assert!(one.waits_because.unwrap_or_default().contains("no second copies"));
        // Its own disk can be used on all hosts, its volume on two.
        let shared = pool(&["host-1", "host-2", "host-3"]);
        let volume = super::explain(&protected(&["host-1", "host-2"]), Some(&shared), true, &placement(true));
        assert_eq!(volume.starts_on, Some("host-2".parse().unwrap()));
    }

    #[test]
    fn an_unprotected_vm_is_told_so_and_how_to_protect_it() {
        let text =
            told(&explain(&vm(json!({}), json!({"phase": "running", "host": "host-1"})), None, &placement(true)));
        assert!(text.contains("it stays failed") && text.contains("gantry vm set web --ha restart"), "{text}");
        assert!(text.contains("its disk is only on host-1"), "{text}");
    }

    #[test]
    fn a_protected_vm_says_what_happens_and_what_has_happened() {
        let ha = json!({"policy": "restart", "restarts_per_hour": 3, "hang_s": 60});
        let done = json!({"restarts": 3, "last_cause": "the guest's kernel panicked", "given_up": true});
        let text =
            told(&explain(&vm(ha, json!({"phase": "failed", "host": "host-1", "ha": done})), None, &placement(true)));
        for part in ["after 60 s", "3 restarts within", "3 on host-1", "panicked", "gantry vm start web"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn its_policy_for_guest_and_application_is_told() {
        let ha = json!({
            "policy": "restart", "on_guest_failure": "reset", "on_application_failure": "alarm", "roll_back_after": 3,
        });
        let done = json!({"resets": 2, "roll_backs": 1, "unhealthy": "port 80 refuses connections"});
        let mut vm = vm(ha, json!({"phase": "running", "host": "host-1", "ha": done}));
        vm.spec.probes = vec![Probe::new(ProbeKind::Liveness, "tcp://:80".parse().expect("a check"))];
        let text = told(&explain(&vm, None, &placement(true)));
        for part in [
            "at once, host-1 resets its machine",
            "after 3 failures of guest or application",
            "10 s apart, it is told of and nothing is done",
            "0 and 2 resets and 1 returns to a good state on host-1",
            "only told of port 80 refuses connections",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_follows_a_loss_is_told_and_what_it_waits_for() {
        let ha = json!({"policy": "restart", "loss_s": 30, "on_network_loss": "alarm"});
        let done = json!({"unhealthy": "pool 'nas' is missing on its host", "stranded": true});
        let vm = vm(ha, json!({"phase": "running", "host": "host-1", "ha": done}));
        let text = told(&explain(&vm, None, &placement(true)));
        for part in [
            "after 30 s in which host-1 does not reach a pool of its disks and lives, host-1 ends it once",
            "after 30 s in which host-1 has no link for its network and lives, it is told of and nothing is done",
            "stranded pool 'nas' is missing on its host; it is given up there as soon as another host can take it",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn where_it_would_run_again_depends_on_its_pool_its_guard_and_the_room() {
        let running =
            |guarded: u64| json!({"phase": "running", "host": "host-1", "epoch": 3, "guarded_epoch": guarded});
        let explained = |guarded: u64, hosts: &[&str], fits: bool| {
            let vm = vm(json!({"policy": "restart"}), running(guarded));
            explain(&vm, Some(&pool(hosts)), &placement(fits))
        };
        let all = ["host-1", "host-2", "host-3"];
        for (explanation, expected) in [
            (explained(3, &all, true), "it starts on host-3 from pool nas"),
            (explained(3, &all[..2], true), "it starts on host-2 from pool nas"),
            (explained(2, &all, true), "host-1 has not confirmed yet"),
            (explained(3, &all, false), "no other host that reaches its disk can take it now"),
            (explained(3, &all[..1], true), "its disk is only on host-1"),
        ] {
            let text = told(&explanation);
            assert!(text.contains(expected), "{expected}: {text}");
            assert_eq!(explanation.starts_on.is_none(), explanation.waits_because.is_some(), "{text}");
        }
    }
}
