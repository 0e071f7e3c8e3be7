//! Restarts, admission, probes and silence.

use std::collections::BTreeSet;

use gantry_ha::{
    Moment,
    admission::{self, Need, Room, Shortfall},
    attempts::{Attempts, RetryPolicy, Turn},
    probe::{Health, Probe, ProbePolicy},
    restart::{Candidate, GATE_LIMIT_MS, State, Tier, Wait, plan},
    silence::{Silence, SilencePolicy},
};
use gantry_types::Name;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn vm(text: &str, tier: Tier, state: State) -> Candidate {
    Candidate {
        name: name(text),
        tier,
        depends_on: BTreeSet::new(),
        state,
        policy: RetryPolicy::default(),
        attempts: Attempts::default(),
    }
}

const DOWN: State = State::Down { since: Moment(1_000) };

#[test]
fn tiers_and_dependencies_are_gates_that_open_by_readiness_and_at_last_by_time() {
    let mut app = vm("app", Tier::Normal, DOWN);
    app.depends_on.insert(name("db"));
    let all = [vm("batch", Tier::Low, DOWN), app.clone(), vm("db", Tier::Normal, DOWN), vm("dns", Tier::High, DOWN)];
    let first = plan(&all, Moment(2_000));
    let order: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(order, ["dns", "app", "db", "batch"]);
    assert_eq!(first[0].1, Ok(()));
    assert_eq!(first[1].1, Err(Wait::Tier { first: name("dns") }));
    let mut later = all.clone();
    later[3].state = State::Ready;
    let second = plan(&later, Moment(2_000));
    assert_eq!(second[0].1, Err(Wait::Dependency { first: name("db") }));
    assert_eq!(second[1].1, Ok(()));
    assert!(plan(&all, Moment(1_000 + GATE_LIMIT_MS)).iter().all(|(_, gate)| gate.is_ok()));
}

#[test]
fn a_circle_of_dependencies_holds_nobody_up() {
    let (mut a, mut b) = (vm("a", Tier::Normal, DOWN), vm("b", Tier::Normal, DOWN));
    a.depends_on.insert(name("b"));
    b.depends_on.insert(name("a"));
    assert!(plan(&[a, b], Moment(2_000)).iter().all(|(_, gate)| gate.is_ok()));
}

#[test]
fn restarts_pause_longer_each_time_and_end_for_the_hour() {
    let policy = RetryPolicy { first_pause_ms: 1_000, longest_pause_ms: 3_000, per_hour: 4 };
    let mut attempts = Attempts::default();
    let mut now = Moment(10_000);
    let mut pauses = Vec::new();
    while let Turn::Now | Turn::Pause { .. } = attempts.turn(&policy, now) {
        if let Turn::Pause { until } = attempts.turn(&policy, now) {
            pauses.push(until.ms_since(now));
            now = until;
        }
        attempts.begun(now);
    }
    assert_eq!(pauses, [1_000, 2_000, 3_000]);
    assert_eq!(attempts.turn(&policy, now), Turn::Exhausted { until: Moment(10_000 + 3_600_000) });
    assert_eq!(
        Attempts::default().turn(&RetryPolicy { per_hour: 0, ..policy }, now),
        Turn::Exhausted { until: Moment(u64::MAX) }
    );
    let hopeless = Candidate { attempts, policy, ..vm("db", Tier::High, DOWN) };
    let waiting = plan(&[hopeless, vm("web", Tier::Normal, DOWN)], now);
    assert!(matches!(waiting[0].1, Err(Wait::Exhausted { .. })));
    assert_eq!(waiting[1].1, Ok(()), "what has used up its attempts holds nobody up");
}

const PROBE: ProbePolicy =
    ProbePolicy { initial_delay_ms: 10_000, period_ms: 1_000, success_threshold: 1, failure_threshold: 2 };

#[test]
fn a_probe_lets_a_system_boot_and_then_counts() {
    let mut probe = Probe::new(PROBE, Moment(0), Health::Starting);
    assert_eq!(probe.due(), Moment(0));
    for at in [0, 3_000, 9_999] {
        assert!(!probe.result(false, Moment(at)));
    }
    assert_eq!((probe.health(), probe.due()), (Health::Starting, Moment(10_999)));
    assert!(probe.result(true, Moment(11_000)), "it serves");
    assert!(!probe.result(false, Moment(12_000)) && !probe.result(true, Moment(13_000)), "failures in a row count");
    assert!(!probe.result(false, Moment(14_000)));
    assert_eq!((probe.health(), probe.due()), (Health::Passing, Moment(15_000)));
    assert!(probe.result(false, Moment(15_000)) && !probe.result(false, Moment(16_000)), "once");
    assert_eq!(probe.health(), Health::Failing);

    let mut never_up = Probe::new(PROBE, Moment(0), Health::Starting);
    assert!(!never_up.result(false, Moment(9_000)) && !never_up.result(false, Moment(10_000)));
    assert!(never_up.result(false, Moment(11_000)), "it never came up");
    let mut known = Probe::new(PROBE, Moment(0), Health::Passing);
    assert!(!known.result(false, Moment(0)) && known.result(false, Moment(1_000)), "what has served boots no more");
}

#[test]
fn a_probe_passes_again_after_enough_successes_in_a_row() {
    let policy = ProbePolicy { success_threshold: 3, failure_threshold: 1, ..PROBE };
    let mut probe = Probe::new(policy, Moment(0), Health::Passing);
    let mut seen = Vec::new();
    for (at, success) in [false, true, true, false, true, true, true].into_iter().enumerate() {
        seen.push((probe.result(success, Moment(at as u64 * 1_000)), probe.health()));
    }
    let (passing, failing) = (Health::Passing, Health::Failing);
    let still = (false, failing);
    assert_eq!(seen, [(true, failing), still, still, still, still, still, (true, passing)]);
}

#[test]
fn a_guest_hangs_only_if_its_agent_and_its_devices_are_silent() {
    let policy = SilencePolicy { limit_ms: 1_000 };
    let mut guest = Silence::default();
    guest.io_seen(5, Moment(0));
    assert_eq!(guest.hangs(policy, Moment(9_000)), None, "no agent ever answered");
    guest.agent_answered(Moment(9_000));
    assert_eq!(guest.hangs(policy, Moment(9_500)), None);
    guest.io_seen(6, Moment(9_800));
    guest.io_seen(6, Moment(10_500));
    assert_eq!(guest.hangs(policy, Moment(10_500)), None, "its disk moved");
    assert_eq!(guest.hangs(policy, Moment(10_800)), Some(Moment(9_800)));
}

fn rooms(sizes: &[(u64, Vec<u64>)]) -> Vec<Room> {
    let room = |(index, (memory_bytes, needs)): (usize, &(u64, Vec<u64>))| Room {
        host: name(&format!("host-{index}")),
        memory_bytes: *memory_bytes,
        unprotected_bytes: 0,
        protected: needs
            .iter()
            .enumerate()
            .map(|(vm, need)| Need { vm: name(&format!("vm-{index}-{vm}")), memory_bytes: *need })
            .collect(),
    };
    sizes.iter().enumerate().map(room).collect()
}

#[test]
fn a_shortfall_names_the_hosts_the_vm_and_what_is_missing() {
    let full = rooms(&[(8, vec![4, 3]), (8, vec![3]), (4, vec![])]);
    assert_eq!(admission::check(&full, 0), Ok(()));
    assert_eq!(admission::check(&full, 1), Ok(()));
    let too_much = Shortfall { lost: vec![name("host-0"), name("host-1")], vm: name("vm-0-1"), missing_bytes: 3 };
    assert_eq!(admission::check(&full, 2), Err(too_much));
}

/// Whether the needs fit, by trying everything.
fn fits(needs: &[u64], free: &mut [u64]) -> bool {
    let Some((first, rest)) = needs.split_first() else { return true };
    (0..free.len()).any(|host| {
        if free[host] < *first {
            return false;
        }
        free[host] -= first;
        let fitted = fits(rest, free);
        free[host] += first;
        fitted
    })
}

proptest! {
    #[test]
    fn a_promise_that_is_given_can_be_kept(
        hosts in prop::collection::vec((0_u64..12, prop::collection::vec(1_u64..6, 0..3)), 1..5), tolerate in 0_usize..3,
    ) {
        let all = rooms(&hosts);
        prop_assume!(all.iter().all(|room| room.protected.iter().map(|need| need.memory_bytes).sum::<u64>() <= room.memory_bytes));
        if admission::check(&all, tolerate).is_ok() {
            for lost in 0_u32..1 << all.len() {
                if lost.count_ones() as usize != tolerate.min(all.len()) {
                    continue;
                }
                let is_lost = |index: &usize| lost & (1 << index) != 0;
                let homeless: Vec<u64> = (0..hosts.len()).filter(is_lost).flat_map(|index| hosts[index].1.clone()).collect();
                let mut free: Vec<u64> = (0..hosts.len())
                    .filter(|index| !is_lost(index))
                    .map(|index| hosts[index].0 - hosts[index].1.iter().sum::<u64>())
                    .collect();
                prop_assert!(fits(&homeless, &mut free));
            }
        }
    }
}
