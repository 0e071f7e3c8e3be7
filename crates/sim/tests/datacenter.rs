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
    let (fences, restarts) = (AtomicU64::new(0), AtomicU64::new(0));
    let broken = first(SEEDS, |seed| {
        let report = of(seed, Options::default());
        fences.fetch_add(report.fences, Ordering::Relaxed);
        restarts.fetch_add(report.restarts, Ordering::Relaxed);
        report.violations.iter().for_each(|violation| eprintln!("seed {seed}: {violation}"));
        !report.violations.is_empty()
    });
    assert_eq!(broken, None);
    // Without fences and restarts it would have shown nothing.
    assert!(fences.into_inner() > SEEDS / 2 && restarts.into_inner() > SEEDS / 2);
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
#[test]
fn guests_that_go_on_untold_without_their_copies_are_found() {
    shows(Planted::PartsUntold, " writes");
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
