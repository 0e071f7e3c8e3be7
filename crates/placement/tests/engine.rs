//! The engine as properties over random datacenters.

mod datacenter;

use std::collections::BTreeMap;

use datacenter::{Seats, host, hosts, name, request, requests, violations, vm};
use gantry_placement::{
    Demand, HostFacts, Request, Settings, Snapshot, VmFacts, Weights, balance, drain, explain, place, place_batch,
    power,
};
use gantry_types::{ByteSize, DomainLevel, Keep, Name, PlacementRules, Strength, VmRule};
use proptest::prelude::*;

fn settings(pack: bool) -> Settings {
    Settings {
        cpu_overcommit: 4.0,
        weights: if pack { Weights::pack() } else { Weights::spread() },
        ..Settings::default()
    }
}

/// A datacenter with the VMs that found a place in it.
fn filled(hosts: &[HostFacts], requests: &[Request], pack: bool) -> (Snapshot, BTreeMap<u128, Name>) {
    let mut snapshot = Snapshot::build(settings(pack), hosts.iter().cloned(), []);
    let mut seats = BTreeMap::new();
    for (request, (_, answer)) in requests.iter().zip(place_batch(&snapshot, requests)) {
        if let Ok(placement) = answer {
            seats.insert(request.vm.as_u128(), placement.host);
        }
    }
    for request in requests {
        if let Some(host) = seats.get(&request.vm.as_u128()) {
            snapshot.put_vm(vm(request.clone(), Some(host.as_str())));
        }
    }
    (snapshot, seats)
}

fn seats<'a>(hosts: &'a [HostFacts], requests: &'a [Request], at: &BTreeMap<u128, Name>) -> Seats<'a> {
    let host = |name: &Name| hosts.iter().find(|host| host.name == *name);
    requests.iter().filter_map(|request| Some((request, host(at.get(&request.vm.as_u128())?)?))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// No constraint is ever violated, one by one or in a batch, spread or packed.
    #[test]
    fn placement_keeps_every_constraint(hosts in hosts(), requests in requests(), pack: bool) {
        let (_, at) = filled(&hosts, &requests, pack);
        prop_assert_eq!(violations(&hosts, &seats(&hosts, &requests, &at), 4.0), Vec::<String>::new());

        let mut one_by_one = Snapshot::build(settings(pack), hosts.iter().cloned(), []);
        let mut at = BTreeMap::new();
        for request in &requests {
            if let Ok(placement) = place(&one_by_one, request) {
                at.insert(request.vm.as_u128(), placement.host.clone());
                one_by_one.put_vm(vm(request.clone(), Some(placement.host.as_str())));
            }
        }
        prop_assert_eq!(violations(&hosts, &seats(&hosts, &requests, &at), 4.0), Vec::<String>::new());
    }

    /// The same facts in another order give the same answer.
    #[test]
    fn the_order_of_the_input_does_not_matter(hosts in hosts(), requests in requests(), last in 0usize..24) {
        let (_, at) = filled(&hosts, &requests, false);
        let vms: Vec<VmFacts> = requests
            .iter()
            .filter_map(|request| Some(vm(request.clone(), Some(at.get(&request.vm.as_u128())?.as_str()))))
            .collect();
        let asked = request(100 + last, 256, 1, "a");
        let there = Snapshot::build(settings(false), hosts.iter().cloned(), vms.iter().cloned());
        let back = Snapshot::build(settings(false), hosts.iter().rev().cloned(), vms.iter().rev().cloned());
        prop_assert_eq!(explain(&there, &asked), explain(&back, &asked));
        prop_assert_eq!(place(&there, &asked), place(&back, &asked));
    }

    /// A snapshot that was changed and changed back decides as if nothing had been.
    #[test]
    fn taking_vms_away_and_giving_them_back_changes_nothing(hosts in hosts(), requests in requests(), which in 0usize..9) {
        let (snapshot, _) = filled(&hosts, &requests, true);
        let host = hosts[which % hosts.len()].clone();
        let mut changed = snapshot.clone();
        let vms: Vec<VmFacts> = changed.vms_on(&host.name).into_iter().cloned().collect();
        for vm in &vms {
            prop_assert!(changed.remove_vm(vm.request.vm));
        }
        prop_assert!(changed.remove_host(&host.name));
        vms.into_iter().for_each(|vm| changed.put_vm(vm));
        changed.put_host(host);
        for asked in requests.iter().chain([&request(999, 300, 1, "b")]) {
            prop_assert_eq!(explain(&changed, asked), explain(&snapshot, asked));
        }
    }

    /// What `explain` tells is what `place` does.
    #[test]
    fn an_explanation_is_the_decision(hosts in hosts(), requests in requests()) {
        let (snapshot, _) = filled(&hosts, &requests, false);
        let asked = request(999, 700, 2, "c");
        let told = explain(&snapshot, &asked);
        match place(&snapshot, &asked) {
            Ok(placement) => {
                prop_assert_eq!(told.chosen.as_ref(), Some(&placement.host));
                let first = &told.hosts[0];
                prop_assert_eq!(first.score, Some(placement.score));
                let points: f64 = first.terms.iter().map(|term| term.points).sum();
                prop_assert!((points - placement.score).abs() < 1e-9);
            }
            Err(refusal) => {
                prop_assert_eq!(told.chosen, None);
                prop_assert_eq!(told.hosts.len(), refusal.refused.len());
                prop_assert!(told.hosts.iter().all(|host| !host.fits && host.reason.is_some()));
            }
        }
    }

    /// Balance never makes it worse, keeps every constraint, and has nothing more to say once it is followed.
    #[test]
    fn balance_never_worsens_and_comes_to_rest(hosts in hosts(), requests in requests()) {
        let (mut snapshot, mut at) = filled(&hosts, &requests, true);
        let limits = balance::Settings { max_moves_per_host: 99, ..balance::Settings::default() };
        let cost = balance::Cost::default();
        for round in 0.. {
            let advice = balance::propose(&snapshot, &limits, &cost, &[], &BTreeMap::new());
            prop_assert!(advice.pressure_after <= advice.pressure_before + 1e-9, "{advice:?}");
            prop_assert_eq!(&advice, &balance::propose(&snapshot, &limits, &cost, &[], &BTreeMap::new()));
            if advice.moves.is_empty() {
                prop_assert!(advice.why_none.is_some());
                break;
            }
            prop_assert!(advice.pressure_after < advice.pressure_before);
            prop_assert!(round < 100, "it does not come to rest");
            for proposal in advice.moves {
                prop_assert!(proposal.benefit_cpu_s > proposal.cost_cpu_s);
                let mut facts = snapshot.vm(proposal.planned.vm).cloned().expect("a known VM");
                prop_assert_eq!(facts.host.as_ref(), Some(&proposal.planned.from));
                at.insert(proposal.planned.vm.as_u128(), proposal.planned.to.clone());
                facts.host = Some(proposal.planned.to);
                snapshot.put_vm(facts);
            }
            prop_assert_eq!(violations(&hosts, &seats(&hosts, &requests, &at), 4.0), Vec::<String>::new());
        }
    }

    /// A power plan keeps constraints, never fills a host above the target, and puts to sleep only what is empty, proved
    /// and not needed.
    #[test]
    fn power_plans_are_safe(hosts in hosts(), requests in requests(), proven: bool, failover in 0u32..2) {
        let hosts: Vec<HostFacts> = hosts.into_iter().map(|host| HostFacts { wake_proven: proven, ..host }).collect();
        let (_, at) = filled(&hosts, &requests, false);
        let vms = requests.iter().filter_map(|request| Some(vm(request.clone(), Some(at.get(&request.vm.as_u128())?.as_str()))));
        let promised = Settings { failover_hosts: failover, ..settings(true) };
        let snapshot = Snapshot::build(promised, hosts.iter().cloned(), vms);
        let limits = power::Settings { max_moves: 99, max_emptied: 99, spare_hosts: 1, ..power::Settings::default() };
        let plan = power::propose(&snapshot, &limits, &power::Outlook::default());
        prop_assert_eq!(&plan, &power::propose(&snapshot, &limits, &power::Outlook::default()));
        let mut at = at;
        for planned in &plan.moves {
            prop_assert_eq!(at.insert(planned.vm.as_u128(), planned.to.clone()), Some(planned.from.clone()));
        }
        prop_assert_eq!(violations(&hosts, &seats(&hosts, &requests, &at), 4.0), Vec::<String>::new());
        for step in &plan.sleep {
            prop_assert!(proven);
            prop_assert!(snapshot.vms_on(&step.host).is_empty());
            prop_assert!(plan.moves.iter().all(|planned| planned.to != step.host));
        }
        let empty = hosts.iter().filter(|host| snapshot.vms_on(&host.name).is_empty()).count();
        prop_assert!(plan.sleep.len() <= empty.saturating_sub(1));
        if failover > 0 {
            let slept = |host: &&HostFacts| !plan.sleep.iter().any(|step| step.host == host.name);
            let awake: Vec<&HostFacts> = hosts.iter().filter(slept).collect();
            let capacity: u64 = awake.iter().map(|host| host.memory.bytes()).sum();
            let largest = awake.iter().map(|host| host.memory.bytes()).max().unwrap_or(0);
            let given: u64 = seats(&hosts, &requests, &at).iter().map(|(request, _)| request.memory.bytes()).sum();
            prop_assert!(plan.sleep.is_empty() || capacity - given >= largest);
        }
    }

    /// A host is emptied completely, or each VM that stays is named with its reason.
    #[test]
    fn a_drain_leaves_nobody_unmentioned(hosts in hosts(), requests in requests(), which in 0usize..9) {
        let (snapshot, mut at) = filled(&hosts, &requests, false);
        let host = &hosts[which % hosts.len()].name;
        let plan = drain::plan(&snapshot, host);
        let there = snapshot.vms_on(host).len();
        prop_assert_eq!(plan.moves.len() + plan.obstacles.len(), there);
        for planned in &plan.moves {
            prop_assert!(planned.to != *host);
            at.insert(planned.vm.as_u128(), planned.to.clone());
        }
        prop_assert_eq!(violations(&hosts, &seats(&hosts, &requests, &at), 4.0), Vec::<String>::new());
        prop_assert!(plan.obstacles.iter().all(|obstacle| !obstacle.reason.is_empty()));
    }
}

fn busy(number: usize, percent: f64) -> Request {
    Request { demand: Demand { now: percent, expected: percent, deviation: 5.0 }, ..request(number, 256, 1, "a") }
}

#[test]
fn an_even_cluster_gets_no_moves_and_says_why() {
    let hosts = [host(0, 4096, 2), host(1, 4096, 2)];
    let vms = [vm(busy(0, 90.0), Some("h0")), vm(busy(1, 90.0), Some("h1"))];
    let snapshot = Snapshot::build(Settings::default(), hosts, vms);
    let none = BTreeMap::new();
    let advice = balance::propose(&snapshot, &balance::Settings::default(), &balance::Cost::default(), &[], &none);
    assert!(advice.moves.is_empty());
    assert_eq!(advice.why_none.as_deref(), Some("no host is expected to use more than 80 % of its processors"));
}

#[test]
fn a_full_host_is_relieved_once_and_not_to_and_fro() {
    let hosts = [host(0, 4096, 2), host(1, 4096, 2)];
    let vms = [vm(busy(0, 95.0), Some("h0")), vm(busy(1, 95.0), Some("h0")), vm(busy(2, 10.0), Some("h1"))];
    let snapshot = Snapshot::build(Settings::default(), hosts, vms);
    let limits = balance::Settings::default();
    let cost = balance::Cost::default();
    let none = BTreeMap::new();
    let advice = balance::propose(&snapshot, &limits, &cost, &[], &none);
    assert_eq!(advice.moves.len(), 1, "{advice:?}");
    assert!(advice.imbalance_after < advice.imbalance_before);
    let moved = &advice.moves[0].planned;
    assert_eq!((moved.from.as_str(), moved.to.as_str()), ("h0", "h1"));

    // Both are held down: they came only now.
    let recent: Vec<_> =
        [1, 2].map(|vm| balance::Recent { vm: uuid::Uuid::from_u128(vm), from: name("h1"), age_s: 60 }).into();
    assert!(balance::propose(&snapshot, &limits, &cost, &recent, &none).moves.is_empty());
    // Later they may move, but not back.
    let recent: Vec<_> = recent.into_iter().map(|recent| balance::Recent { age_s: 900, ..recent }).collect();
    assert!(balance::propose(&snapshot, &limits, &cost, &recent, &none).moves.is_empty());
    // A host that migrates already is left alone.
    let at_work = BTreeMap::from([(name("h1"), 1)]);
    assert!(balance::propose(&snapshot, &limits, &cost, &[], &at_work).moves.is_empty());
    // A move that costs more than it spares is not proposed.
    let dear = balance::Cost { burns_percent: 1e6, ..cost };
    let advice = balance::propose(&snapshot, &limits, &dear, &[], &none);
    assert!(advice.moves.is_empty() && advice.why_none.is_some_and(|why| why.contains("would spare")));
}

#[test]
fn idle_hosts_are_emptied_then_sleep_and_wake_for_a_start() {
    let mut hosts = vec![host(0, 1024, 4), host(1, 1024, 4), host(2, 1024, 4)];
    let vms = [vm(busy(0, 20.0), Some("h0")), vm(busy(1, 10.0), Some("h1"))];
    let limits = power::Settings { spare_hosts: 0, ..power::Settings::default() };
    let mut snapshot = Snapshot::build(settings(true), hosts.clone(), vms);
    let plan = power::propose(&snapshot, &limits, &power::Outlook::default());
    assert_eq!(plan.moves.len(), 1, "{plan:?}");
    assert_eq!((plan.moves[0].from.as_str(), plan.moves[0].to.as_str()), ("h1", "h0"));
    assert_eq!(plan.sleep.iter().map(|step| step.host.as_str()).collect::<Vec<_>>(), ["h2"]);

    let mut moved = snapshot.vm(plan.moves[0].vm).cloned().expect("known");
    moved.host = Some(name("h0"));
    snapshot.put_vm(moved);
    hosts[2].asleep = true;
    snapshot.put_host(hosts[2].clone());
    let plan = power::propose(&snapshot, &limits, &power::Outlook::default());
    assert!(plan.moves.is_empty());
    assert_eq!(plan.sleep[0].host, name("h1"));
    hosts[1].asleep = true;
    snapshot.put_host(hosts[1].clone());

    // 512 MiB are free on the only host that is awake.
    let start = request(9, 800, 1, "a");
    let refusal = place(&snapshot, &start).expect_err("sleeping hosts take nothing");
    assert!(refusal.to_string().contains("h1 is asleep"), "{refusal}");
    let outlook = power::Outlook { starts: vec![start], ..power::Outlook::default() };
    let plan = power::propose(&snapshot, &limits, &outlook);
    assert_eq!(plan.wake[0].host, name("h1"));
    assert!(plan.sleep.is_empty() && plan.moves.is_empty());
}

#[test]
fn rules_hold_in_both_directions_and_a_move_leaves_nobody_behind() {
    let rule = |keep, domain| PlacementRules {
        vms: vec![VmRule { keep, selector: "app=db".parse().expect("a selector"), domain, strength: Strength::Must }],
        hosts: vec![],
    };
    // Hosts 0 and 1 are one rack, 2 and 3 another.
    let hosts: Vec<HostFacts> = (0..4).map(|number| host(number, 4096, 4)).collect();
    let loner = Request { rules: rule(Keep::Apart, DomainLevel::Rack), ..request(0, 256, 1, "web") };
    let snapshot = Snapshot::build(Settings::default(), hosts.clone(), [vm(loner, Some("h0"))]);
    let told = explain(&snapshot, &request(1, 256, 1, "db"));
    let fitting: Vec<_> = told.hosts.iter().filter(|host| host.fits).map(|host| host.host.as_str()).collect();
    assert_eq!(fitting, ["h2", "h3"]);
    let refused = told.hosts.iter().find(|verdict| verdict.host.as_str() == "h1").and_then(|host| host.reason.clone());
    assert_eq!(refused.as_deref(), Some("would break a rule of a VM that is placed: on another rack than app=db"));

    let friend = Request { rules: rule(Keep::Together, DomainLevel::Rack), ..request(0, 256, 1, "web") };
    let db = request(1, 256, 1, "db");
    let snapshot = Snapshot::build(Settings::default(), hosts, [vm(friend, Some("h0")), vm(db.clone(), Some("h0"))]);
    let leaving = Request { except: Some(name("h0")), ..db };
    assert_eq!(place(&snapshot, &leaving).map(|placement| placement.host), Ok(name("h1")));
}

#[test]
fn promised_failover_is_not_given_away() {
    let hosts: Vec<HostFacts> = (0..3).map(|number| host(number, 1024, 4)).collect();
    let promised = Settings { failover_hosts: 1, ..Settings::default() };
    let mut snapshot = Snapshot::build(promised, hosts, []);
    // 3 GiB, of which the largest host's 1 GiB stays free.
    for number in 0..4 {
        let asked = request(number, 512, 1, "a");
        let placement = place(&snapshot, &asked).expect("room for 2 GiB");
        snapshot.put_vm(vm(asked, Some(placement.host.as_str())));
    }
    let refusal = place(&snapshot, &request(9, 512, 1, "a")).expect_err("promised");
    assert!(refusal.to_string().contains("are kept for the VMs of 1 failed host(s)"), "{refusal}");
    // What is there already may move.
    let moving = Request { except: Some(name("h0")), ..snapshot.vms_on(&name("h0"))[0].request.clone() };
    assert!(place(&snapshot, &moving).is_ok());
}

#[test]
fn memory_may_be_lent_but_never_what_is_reserved() {
    let lending = Settings { memory_overcommit: 2.0, ..Settings::default() };
    let reserved = |number| Request { memory_reservation: ByteSize::mib(512), ..request(number, 768, 1, "a") };
    let mut snapshot = Snapshot::build(lending, [host(0, 1024, 4)], []);
    for number in 0..2 {
        assert!(place(&snapshot, &reserved(number)).is_ok());
        snapshot.put_vm(vm(reserved(number), Some("h0")));
    }
    assert!(place(&snapshot, &request(5, 512, 1, "a")).is_ok(), "2048 MiB are lent, 1536 given out");
    let small = Request { memory_reservation: ByteSize::mib(64), ..request(6, 64, 1, "a") };
    let refusal = place(&snapshot, &small).expect_err("all memory is reserved");
    assert!(refusal.to_string().contains("not reserved"), "{refusal}");
}
