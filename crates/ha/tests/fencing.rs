//! Leases and fences against each other, with every message lost, late or repeated: what one side may do, the other
//! side never contradicts.

use std::collections::{BTreeMap, BTreeSet};

use gantry_ha::{
    FenceLedger, Fencing, Lease, Moment, Timing,
    fencing::{Progress, Proof},
    lease::{Answer, Standing},
    votes,
};
use gantry_types::{Fence, Member, Members, Name, Timestamp};
use proptest::prelude::*;

const TIMING: Timing = Timing { lease_ms: 1_000, drift_permille: 10, kill_margin_ms: 100 };

fn host(number: usize) -> Name {
    format!("host-{number}").parse().unwrap()
}
fn members(generation: u64, hosts: impl IntoIterator<Item = usize>) -> Members {
    Members { generation, hosts: hosts.into_iter().map(|n| (host(n), format!("10.0.0.{n}:7443"))).collect() }
}
fn fence(generation: u64) -> Fence {
    Fence { host: host(1), generation, by: "test".into(), why: "test".into(), at: Timestamp::UNIX_EPOCH }
}
fn who(hosts: &BTreeSet<usize>, controller: bool) -> BTreeSet<Member> {
    let hosts = hosts.iter().map(|n| Member::Host(host(*n)));
    hosts.chain(controller.then_some(Member::Controller)).collect()
}

proptest! {
    #[test]
    fn two_majorities_meet_and_one_half_always_has_one(
        count in 1_usize..9, side in prop::collection::btree_set(1_usize..9, 0..9), controller: bool,
    ) {
        let all = members(1, 1..=count);
        let other: BTreeSet<usize> = (1..=count).filter(|n| !side.contains(n)).collect();
        let one = votes::is_majority(&all, &who(&side, controller));
        let rest = votes::is_majority(&all, &who(&other, !controller));
        prop_assert!(one != rest);
    }

    #[test]
    fn what_a_host_renews_with_and_what_it_is_fenced_with_share_a_member(
        count in 2_usize..8,
        renewing in prop::collection::btree_set(2_usize..8, 0..8),
        fencing in prop::collection::btree_set(1_usize..8, 0..8),
        controllers: [bool; 2],
    ) {
        let all = members(1, 1..=count);
        let mut renewing = who(&renewing, controllers[0]);
        renewing.insert(Member::Host(host(1)));
        let fencing = who(&fencing, controllers[1]);
        if votes::is_majority(&all, &renewing) && votes::is_majority_without(&all, &fencing, &host(1)) {
            let mut shared = renewing.intersection(&fencing).filter(|member| **member != Member::Host(host(1)));
            prop_assert!(shared.any(|member| *member == Member::Controller
                || matches!(member, Member::Host(name) if all.hosts.contains_key(name))));
        }
    }
}

/// One thing that happens. Numbers choose a member.
#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Heartbeat,
    HeartbeatAnswered,
    Ask,
    /// A member takes in one of the questions sent to it.
    Arrive(usize, usize),
    /// One of the answers on their way reaches the host; it may do so again.
    Return(usize),
    Decide,
    /// A member takes in the order to store the record.
    Store(usize),
    /// One of the confirmations on their way reaches the controller; it may do so again.
    Stored(usize),
    MemberRestarts(usize),
    NewMembers(usize),
    MembersArrive,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..600).prop_map(Step::Pass),
        2 => Just(Step::Heartbeat),
        2 => Just(Step::HeartbeatAnswered),
        3 => Just(Step::Ask),
        6 => (0_usize..6, 0_usize..4).prop_map(|(member, question)| Step::Arrive(member, question)),
        6 => (0_usize..12).prop_map(Step::Return),
        2 => Just(Step::Decide),
        6 => (0_usize..6).prop_map(Step::Store),
        6 => (0_usize..12).prop_map(Step::Stored),
        1 => (0_usize..6).prop_map(Step::MemberRestarts),
        1 => (2_usize..7).prop_map(Step::NewMembers),
        1 => Just(Step::MembersArrive),
    ]
}

/// Everything by one true clock; the drift is the sim's to check.
struct World {
    now: Moment,
    lease: Lease,
    ledgers: BTreeMap<Member, FenceLedger>,
    heartbeats: Vec<Moment>,
    grants: Vec<Moment>,
    last_grant: Moment,
    questions: Vec<u64>,
    answers: Vec<Answer>,
    fencing: Option<Fencing>,
    stored: Vec<(Member, Moment)>,
    configurations: Vec<Members>,
}

impl World {
    fn new() -> Self {
        let first = members(1, 1..=3);
        let everyone = (2..=6).map(|n| Member::Host(host(n))).chain([Member::Controller]);
        let ledger = || FenceLedger::load(Moment(0), [], BTreeMap::new());
        Self {
            now: Moment(10_000),
            lease: Lease::new(host(1), TIMING, Some(first.clone()), None, 0),
            ledgers: everyone.map(|member| (member, ledger())).collect(),
            heartbeats: Vec::new(),
            grants: Vec::new(),
            last_grant: Moment(0),
            questions: Vec::new(),
            answers: Vec::new(),
            fencing: None,
            stored: Vec::new(),
            configurations: vec![first],
        }
    }

    fn member(number: usize) -> Member {
        if number == 0 { Member::Controller } else { Member::Host(host(number + 1)) }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Pass(ms) => self.now = self.now + *ms,
            Step::Heartbeat => self.heartbeats.push(self.now),
            Step::HeartbeatAnswered => {
                // It arrives now at the controller and its answer at some time at the host.
                if let Some(sent) = self.heartbeats.pop()
                    && self.ledgers[&Member::Controller].fence(&host(1)).is_none()
                {
                    self.last_grant = self.now;
                    self.grants.push(sent);
                }
                if let Some(sent) = self.grants.last() {
                    self.lease.granted(*sent, 0);
                }
            }
            Step::Ask => self.questions.push(self.lease.ask(self.now)),
            Step::Arrive(member, question) => {
                let from = Self::member(*member);
                let Some(round) = self.questions.iter().rev().nth(*question).copied() else { return };
                let fence = self.ledgers.get_mut(&from).unwrap().ask(&host(1), 0, self.now).cloned();
                self.answers.push(Answer { from, round, fence });
            }
            Step::Return(which) => {
                if let Some(answer) = self.answers.iter().rev().nth(*which).cloned() {
                    match &answer.fence {
                        Some(fence) => drop(self.lease.fenced(fence)),
                        None => drop(self.lease.answered(&answer)),
                    }
                }
            }
            Step::Decide => {
                if self.fencing.is_none() {
                    let ledger = self.ledgers.get_mut(&Member::Controller).unwrap();
                    let last_word = ledger.record(&fence(1)).max(self.last_grant);
                    let mut fencing = Fencing::new(fence(1), TIMING, self.configurations.clone());
                    fencing.stored(Member::Controller, last_word);
                    self.fencing = Some(fencing);
                }
            }
            Step::Store(member) => {
                if let Some(fencing) = &self.fencing {
                    let member = Self::member(*member);
                    let last_word = self.ledgers.get_mut(&member).unwrap().record(fencing.fence());
                    if member != Member::Controller {
                        self.stored.push((member, last_word));
                    }
                }
            }
            Step::Stored(which) => {
                if let (Some(fencing), Some((member, word))) = (&mut self.fencing, self.stored.iter().rev().nth(*which))
                {
                    fencing.stored(member.clone(), *word);
                }
            }
            Step::MemberRestarts(member) => {
                let member = Self::member(*member);
                let old = &self.ledgers[&member];
                let fresh = FenceLedger::load(self.now, old.recorded().cloned(), old.lifted());
                self.ledgers.insert(member, fresh);
            }
            Step::NewMembers(count) => {
                // Once it has begun, a fencing keeps the members it began with.
                if self.fencing.is_none() {
                    let generation = self.configurations.len() as u64 + 1;
                    self.configurations.push(members(generation, 1..=*count));
                }
            }
            Step::MembersArrive => drop(self.lease.adopt(self.configurations.last().unwrap())),
        }
    }

    fn check(&self) {
        let Some(fencing) = &self.fencing else { return };
        if let Progress::Proved(Proof::LeaseOver { .. }) = fencing.progress(self.now) {
            let standing = self.lease.standing(self.now);
            assert!(!standing.may_run(), "{standing:?} at {:?} though proved gone", self.now);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]
    #[test]
    fn a_host_proved_gone_has_no_lease_and_never_gets_one_again(steps in prop::collection::vec(step(), 1..100)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check();
        }
    }
}

#[test]
fn a_host_that_died_with_its_last_heartbeat_is_gone_one_lease_later() {
    let all = members(1, 1..=3);
    let mut fencing = Fencing::new(fence(1), TIMING, vec![all]);
    assert!(matches!(fencing.progress(Moment(9_000)), Progress::Recording { missing } if missing.len() == 3));
    fencing.stored(Member::Controller, Moment(5_000));
    assert!(matches!(fencing.progress(Moment(9_000)), Progress::Recording { .. }));
    fencing.stored(Member::Host(host(3)), Moment(100));
    let until = Moment(5_000) + TIMING.gone_after_ms();
    assert_eq!(fencing.progress(Moment(6_000)), Progress::Waiting { until });
    assert_eq!(fencing.progress(until), Progress::Proved(Proof::LeaseOver { since: until }));
    fencing.power_is_off();
    assert_eq!(fencing.progress(Moment(6_000)), Progress::Proved(Proof::PowerOff));
}

#[test]
fn a_host_alone_is_not_bound_and_can_only_be_fenced_by_its_power() {
    let alone = members(1, [1]);
    let lease = Lease::new(host(1), TIMING, Some(alone.clone()), None, 0);
    assert_eq!((lease.standing(Moment(1 << 40)), lease.deadline()), (Standing::Unbound, None));
    let mut fencing = Fencing::new(fence(1), TIMING, vec![alone.clone(), members(2, 1..=3)]);
    for member in [Member::Controller, Member::Host(host(2)), Member::Host(host(3))] {
        fencing.stored(member, Moment(0));
    }
    // It may still go by the first members, of which there was nobody else.
    assert_eq!(fencing.progress(Moment(1 << 40)), Progress::Unbound);
}

#[test]
fn a_controller_outage_stops_nothing_and_isolation_stops_the_isolated() {
    let mut lease = Lease::new(host(1), TIMING, Some(members(1, 1..=2)), None, 0);
    assert_eq!(lease.standing(Moment(0)), Standing::Lapsed);
    lease.granted(Moment(100), 0);
    assert_eq!(lease.standing(Moment(1_099)), Standing::Held { until: Moment(1_100) });
    assert!(!lease.wants_to_ask(Moment(200)) && lease.wants_to_ask(Moment(900)));
    let round = lease.ask(Moment(900));
    assert!(lease.answered(&Answer { from: Member::Host(host(2)), round, fence: None }));
    assert_eq!(lease.deadline(), Some(Moment(1_900)));
    let round = lease.ask(Moment(1_800));
    // Its own vote, and that of a stranger, are no majority.
    assert!(!lease.answered(&Answer { from: Member::Host(host(9)), round, fence: None }));
    assert_eq!(lease.standing(Moment(1_900)), Standing::Lapsed);
}

#[test]
fn a_fence_ends_the_lease_at_once_until_the_controller_lifts_it() {
    let mut lease = Lease::new(host(1), TIMING, Some(members(1, 1..=3)), None, 0);
    lease.granted(Moment(100), 0);
    assert!(lease.fenced(&fence(2)));
    assert!(!lease.fenced(&fence(2)) && !lease.fenced(&fence(1)));
    lease.granted(Moment(150), 0);
    assert_eq!(lease.standing(Moment(200)), Standing::Fenced { generation: 2 });
    assert_eq!((lease.acknowledge(true), lease.acknowledge(false)), (None, Some(2)));
    lease.granted(Moment(300), 2);
    assert!(lease.standing(Moment(400)).may_run());
    // A member that has not heard of the lifting yet.
    let round = lease.ask(Moment(900));
    assert!(!lease.fenced(&fence(2)));
    assert!(!lease.answered(&Answer { from: Member::Host(host(2)), round, fence: Some(fence(3)) }));
}

#[test]
fn a_ledger_forgets_no_fence_and_lifts_no_later_one() {
    let mut ledger = FenceLedger::load(Moment(50), [fence(3)], BTreeMap::new());
    ledger.lift(&host(1), 2);
    assert_eq!(ledger.ask(&host(1), 0, Moment(60)), Some(&fence(3)));
    ledger.lift(&host(1), 3);
    assert_eq!(ledger.record(&fence(3)), Moment(60));
    assert_eq!(ledger.ask(&host(1), 0, Moment(70)), None);
    assert_eq!(ledger.record(&fence(4)), Moment(70));
    let again = FenceLedger::load(Moment(90), ledger.recorded().cloned(), ledger.lifted());
    assert_eq!((again.fence(&host(1)), again.lifted()), (Some(&fence(4)), ledger.lifted()));
}
