//! The benchmark on small days that are made here; no trace of the real ones is needed.

use gantry_simulate::planetlab::{ALL_STAY, BadTrace, CLOUDSIM, Day, HONEST, Policy, Rules, Trace, days, rows, run};

/// A fixed sequence that looks like use: mostly low, with bursts, around a level of each VM's own.
fn day(vms: u64) -> Day {
    let mut seed = 7u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % 100
    };
    let traces = (0..vms).map(|vm| {
        let level = 3 + vm % 17;
        Trace::new(std::array::from_fn(|_| {
            let burst = if next() < 8 { next() / 2 } else { 0 };
            (level + next() % 8 + burst).min(100) as u8
        }))
    });
    Day { name: "made".into(), vms: traces.collect() }
}

fn steady(percent: u8, vms: usize) -> Day {
    Day { name: "steady".into(), vms: vec![Trace::new([percent; 288]); vms] }
}

#[test]
fn energy_of_a_steady_day_is_what_the_power_curve_says() {
    // One VM of 2500 MIPS at half load on a G5 of 5320: 1250 MIPS, between 20 % (101 W) and 30 % (105 W).
    let share = 1250.0 / 5320.0;
    let watts = 101.0 + 4.0 * (share - 0.2) * 10.0;
    let figures = run(&steady(50, 1), Policy::Gantry, CLOUDSIM).expect("it fits");
    // CloudSim bills from the first decision to the last: 286 intervals.
    let kwh = watts * 286.0 * 300.0 / 3.6e6;
    assert!((figures.energy_kwh - kwh).abs() < 1e-6, "{} is not {kwh}", figures.energy_kwh);
    assert_eq!((figures.migrations, figures.slatah, figures.pdm), (0, 0.0, 0.0));
}

#[test]
fn a_vm_that_asks_for_nothing_ends_under_cloudsim_s_rules_only() {
    let ended = |rules: Rules| run(&steady(0, 8), Policy::LrMmt, rules).expect("it fits").vms_ended;
    assert_eq!((ended(CLOUDSIM), ended(ALL_STAY), ended(HONEST)), (8, 0, 0));
}

#[test]
fn the_same_day_gives_the_same_figures() {
    let day = day(60);
    for policy in [Policy::LrMmt, Policy::Gantry] {
        assert_eq!(run(&day, policy, HONEST), run(&day, policy, HONEST));
    }
}

#[test]
fn gantry_needs_less_energy_and_far_fewer_migrations_than_lr_mmt() {
    let day = day(160);
    for rules in [CLOUDSIM, ALL_STAY] {
        let peer = run(&day, Policy::LrMmt, rules).expect("it fits");
        let own = run(&day, Policy::Gantry, rules).expect("it fits");
        assert!(own.energy_kwh <= 0.8 * peer.energy_kwh, "{own:?} {peer:?}");
        assert!(own.migrations * 10 <= peer.migrations, "{own:?} {peer:?}");
        assert!(own.slav <= 0.1 * peer.slav, "{own:?} {peer:?}");
    }
}

#[test]
fn memory_counts_under_honest_rules() {
    // 613 MB each, six to a host: never fewer than 10 hosts for 60 VMs.
    let figures = run(&day(240), Policy::Gantry, HONEST).expect("it fits");
    let least = (240.0 / 4.0 * (870.0 + 1740.0 + 1740.0 + 613.0) / 4096.0_f64).ceil() as usize;
    assert!(figures.moments.iter().all(|moment| moment.hosts >= least));
}

#[test]
fn a_policy_does_not_know_the_future() {
    // Two days that are the same until noon give the same decisions until noon.
    let morning = day(80);
    let mut other = morning.clone();
    for vm in &mut other.vms {
        let mut percent = vm.percent();
        percent[145..].fill(90);
        *vm = Trace::new(percent);
    }
    for policy in [Policy::LrMmt, Policy::Gantry] {
        let until_noon = |day: &Day| run(day, policy, ALL_STAY).expect("it fits").moments[..143].to_vec();
        assert_eq!(until_noon(&morning), until_noon(&other));
    }
}

#[test]
fn traces_are_sorted_into_days_and_bad_ones_are_named() {
    let good = "5\n".repeat(288);
    let texts = [("x/20110303/b", &good), ("x/20110303/a", &good), ("x/20110306/a", &good)];
    let read = days(texts.map(|(path, text)| (path.to_owned(), text.clone()))).expect("traces");
    assert_eq!(
        read.iter().map(|day| (day.name.as_str(), day.vms.len())).collect::<Vec<_>>(),
        [("20110303", 2), ("20110306", 1)]
    );
    let bad = |text: String| days([("d/vm".to_owned(), text)]).expect_err("bad");
    assert_eq!(bad("5\n".repeat(287)), BadTrace::Length { path: "d/vm".into(), lines: 287 });
    let told = bad("5\n".repeat(287) + "101\n").to_string();
    assert_eq!(told, "line 288 of trace d/vm is '101', not a whole number from 0 to 100");
    assert_eq!(days([]), Err(BadTrace::None));
}

#[test]
fn the_table_has_the_ratios_to_the_peer_on_the_same_day_under_the_same_rules() {
    let day = day(40);
    let runs: Vec<_> =
        [Policy::LrMmt, Policy::Gantry].map(|policy| run(&day, policy, CLOUDSIM).expect("it fits")).into();
    let rows = rows(&runs);
    assert_eq!(rows[0][11], "-");
    assert!(rows[1][11].starts_with(&format!("{:.3} ", runs[1].energy_kwh / runs[0].energy_kwh)));
}
