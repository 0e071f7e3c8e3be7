//! The programs in datacenters that fail: seeds without a mistake, a mistake in each place where one would hurt, and the same
//! seed twice.

use std::sync::atomic::{AtomicU64, Ordering};

use gantry_sim::datacenter::{Fault, Report, run, run_with};
use gantry_sim::{Options, Planted};

const SEEDS: u64 = 30;
/// In which a planted mistake must show.
const PLANTED_SEEDS: u64 = 60;

fn of(seed: u64, options: Options) -> Report {
    run(seed, options).expect("a runtime and a directory")
}

/// The first of the seeds of which this is so; on two threads, because a test has two processors.
fn first(seeds: u64, is_so: impl Fn(u64) -> bool + Sync) -> Option<u64> {
    let (next, found) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || found.load(Ordering::Relaxed) < seed {
                        return;
                    }
                    if is_so(seed) {
                        found.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Some(found.into_inner()).filter(|seed| *seed < seeds)
}

#[test]
fn nothing_happens_in_a_quiet_datacenter() {
    let report = run_with(1, Options::default(), &[]).expect("a runtime and a directory");
    assert_eq!((report.violations, report.fences, report.restarts), (Vec::new(), 0, 0));
}

#[test]
fn the_vms_of_a_host_that_dies_run_elsewhere_and_it_is_let_in_again() {
    let faults = [(30_000, Fault::PowerOff(1)), (80_000, Fault::PowerOn(1))];
    let restarted: u64 = (0..5)
        .map(|seed| {
            let report = run_with(seed, Options::default(), &faults).expect("a runtime and a directory");
            assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
            report.restarts
        })
        .sum();
    assert!(restarted > 0);
}

#[test]
fn no_seed_breaks_a_rule() {
    let (fences, restarts, moves) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let broken = first(SEEDS, |seed| {
        let report = of(seed, Options::default());
        fences.fetch_add(report.fences, Ordering::Relaxed);
        restarts.fetch_add(report.restarts, Ordering::Relaxed);
        moves.fetch_add(report.moves, Ordering::Relaxed);
        report.violations.iter().for_each(|violation| eprintln!("seed {seed}: {violation}"));
        !report.violations.is_empty()
    });
    assert_eq!(broken, None);
    // Without fences, restarts and moves it would have shown nothing.
    let seen = [fences, restarts, moves].map(AtomicU64::into_inner);
    assert!(seen.iter().all(|count| *count > SEEDS / 2), "{seen:?}");
}

#[test]
fn a_seed_is_repeated_exactly() {
    for seed in 0..3 {
        assert_eq!(of(seed, Options::default()), of(seed, Options::default()));
    }
}

fn is_found(planted: Planted) {
    shows(planted, "executes on [");
}

fn shows(planted: Planted, what: &str) {
    let options = Options { planted: Some(planted), ..Options::default() };
    let is_it = |violation: &String| violation.contains(what);
    let found = first(PLANTED_SEEDS, |seed| of(seed, options).violations.iter().any(is_it));
    assert!(found.is_some(), "{planted:?} went unnoticed");
}

#[test]
fn a_controller_that_does_not_wait_is_found() {
    is_found(Planted::ShortWait);
}
#[test]
fn a_warden_that_does_not_stop_is_found() {
    is_found(Planted::NoWarden);
}
#[test]
fn a_controller_that_grants_despite_its_fence_is_found() {
    is_found(Planted::GrantsDespiteFence);
}
/// In a datacenter in which people move VMs all the time, and agents die where they have just decided something about a move.
fn shows_in_moves(planted: Planted) {
    let times = (25_000..105_000).step_by(3_000);
    let faults: Vec<_> = times.flat_map(|at| [1, 2].map(|host| (at, Fault::DiesWriting(host)))).collect();
    let options = Options { planted: Some(planted), ..Options::default() };
    let found = first(PLANTED_SEEDS, |seed| {
        let report = run_with(seed, options, &faults).expect("a runtime and a directory");
        report.violations.iter().any(|violation| violation.contains("executes on ["))
    });
    assert!(found.is_some(), "{planted:?} went unnoticed");
}

#[test]
fn a_host_that_takes_back_what_it_has_handed_over_is_found() {
    shows_in_moves(Planted::TakesBack);
}

#[test]
fn a_host_that_forgets_what_it_has_taken_over_is_found() {
    shows_in_moves(Planted::ForgetsTaken);
}

#[test]
fn guests_that_go_on_untold_without_their_copies_are_found() {
    shows(Planted::PartsUntold, " writes");
}
#[test]
fn a_host_that_starts_what_was_stopped_is_found() {
    let options = Options { planted: Some(Planted::ForgottenStop), ..Options::default() };
    let stopped = |violation: &String| violation.contains("was stopped and executes");
    assert!(first(PLANTED_SEEDS, |seed| of(seed, options).violations.iter().any(stopped)).is_some());
}
#[test]
fn a_warden_that_is_killed_is_replaced_while_its_agent_lives() {
    // With the lease held, and in the last second of one that nobody renews: no watchdog is needed for either.
    let held = vec![(30_000, Fault::WardenDies(1)), (40_000, Fault::WardenDies(2))];
    let mut cut = vec![(32_800, Fault::WardenDies(1))];
    cut.extend((0..5).filter(|other| *other != 1).flat_map(|other| {
        [(30_000, Fault::Cut(1, other)), (30_000, Fault::Cut(other, 1)), (80_000, Fault::Mend(1, other))]
    }));
    let options = Options { planted: Some(Planted::NoWatchdog), ..Options::default() };
    let mut fences = 0;
    for seed in 0..10 {
        for (faults, is_quiet) in [(&held, true), (&cut, false)] {
            let report = run_with(seed, options, faults).expect("a runtime and a directory");
            assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
            assert!(!is_quiet || report.fences == 0, "seed {seed}");
            fences += report.fences;
        }
    }
    assert!(fences > 0);
}
#[test]
fn a_machine_whose_warden_and_agent_fail_is_reset() {
    let faults = [(30_000, Fault::Freeze(1)), (31_000, Fault::WardenDies(1)), (90_000, Fault::Continue(1))];
    let ran = |seed, planted| {
        let report = run_with(seed, Options { planted, ..Options::default() }, &faults);
        report.expect("a runtime and a directory").violations
    };
    for seed in 0..5 {
        assert_eq!(ran(seed, None), Vec::<String>::new(), "seed {seed}");
    }
    let twice = |seed| ran(seed, Some(Planted::NoWatchdog)).iter().any(|violation| violation.contains("executes on ["));
    assert!(first(PLANTED_SEEDS, twice).is_some(), "guests that nobody stops went unnoticed");
}
#[test]
fn hosts_that_obey_old_commands_are_found() {
    // The epochs of VMs and the leases of disks leave it little room: hosts go and come while many calls are late.
    let mut faults = vec![(25_000, Fault::Stragglers(40))];
    for round in 0..8 {
        let at = 26_000 + 10_000 * round;
        let host = 1 + round as usize % 2;
        faults.extend([(at, Fault::PowerOff(host)), (at + 4_000, Fault::PowerOn(host))]);
    }
    let options = Options { planted: Some(Planted::OldCommands), ..Options::default() };
    let found = first(PLANTED_SEEDS, |seed| {
        let report = run_with(seed, options, &faults).expect("a runtime and a directory");
        report.violations.iter().any(|violation| violation.contains("executes on ["))
    });
    assert!(found.is_some(), "{:?} went unnoticed", options.planted);
}
