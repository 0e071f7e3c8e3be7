//! Many seeds without a mistake, and a mistake in each of the places where one would hurt.

use gantry_sim::rules::run;
use gantry_sim::{Options, Planted};

const SEEDS: u64 = 1_000;

#[test]
fn no_seed_breaks_a_rule() {
    let (mut fences, mut restarts) = (0, 0);
    for seed in 0..SEEDS {
        let report = run(seed, Options::default());
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
        fences += report.fences;
        restarts += report.restarts;
    }
    // Without fences and restarts it would have shown nothing.
    assert!(fences > SEEDS && restarts > SEEDS, "{fences} fences, {restarts} restarts");
}

#[test]
fn a_seed_is_repeated_exactly() {
    for seed in 0..20 {
        assert_eq!(run(seed, Options::default()), run(seed, Options::default()));
    }
}

fn is_found(planted: Planted) {
    let options = Options { planted: Some(planted), ..Options::default() };
    let found = (0..SEEDS).flat_map(|seed| run(seed, options).violations).find(|text| text.contains("executes on"));
    assert!(found.is_some(), "{planted:?} went unnoticed");
}

#[test]
fn a_controller_that_does_not_wait_is_found() {
    is_found(Planted::ShortWait);
}
#[test]
fn a_host_that_does_not_stop_is_found() {
    is_found(Planted::NoWarden);
}
#[test]
fn a_controller_that_grants_despite_its_fence_is_found() {
    is_found(Planted::GrantsDespiteFence);
}
#[test]
fn hosts_that_obey_old_commands_are_found() {
    is_found(Planted::OldCommands);
}
