//! When a host gives a VM up because it has lost what the VM needs.

use gantry_ha::Moment;
use gantry_ha::loss::{Decision, Loss, Situation, decide};
use gantry_types::{HaPolicy, HaSpec, LossReaction};
use proptest::prelude::*;

fn reaction() -> impl Strategy<Value = LossReaction> {
    prop_oneof![Just(LossReaction::Alarm), Just(LossReaction::RestartElsewhere)]
}

#[test]
fn by_default_a_lost_pool_is_left_and_a_lost_network_is_told_of() {
    let spec = HaSpec { policy: HaPolicy::Restart, ..HaSpec::default() };
    let at = |loss, now_s: u64, may_leave| {
        decide(&spec, Situation { loss, since: Moment(5_000), now: Moment(now_s * 1000), may_leave })
    };
    assert_eq!(at(Loss::Pool, 64, true), Decision::Wait { until: Moment(65_000) });
    assert_eq!(at(Loss::Pool, 65, false), Decision::Await);
    assert_eq!(at(Loss::Pool, 65, true), Decision::Leave);
    assert_eq!(at(Loss::Network, 64, false), Decision::Wait { until: Moment(65_000) });
    assert_eq!(at(Loss::Network, 65, true), Decision::Tell);
}

proptest! {
    /// Ended is only what is protected, is to be given up, has been without for long enough and has somewhere to go.
    #[test]
    fn nothing_is_left_without_all_reasons(
        is_protected: bool, is_pool: bool, pool in reaction(), network in reaction(),
        loss_s in 10..3600_u32, since in 0..10_000_000_u64, gone_ms in 0..5_000_000_u64, may_leave: bool,
    ) {
        let policy = if is_protected { HaPolicy::Restart } else { HaPolicy::None };
        let spec = HaSpec { policy, on_pool_loss: pool, on_network_loss: network, loss_s, ..HaSpec::default() };
        let loss = if is_pool { Loss::Pool } else { Loss::Network };
        let situation = Situation { loss, since: Moment(since), now: Moment(since + gone_ms), may_leave };
        let is_over = gone_ms >= u64::from(loss_s) * 1000;
        let wished = if is_pool { pool } else { network };
        let gives_up = is_protected && wished == LossReaction::RestartElsewhere;
        match decide(&spec, situation) {
            Decision::Wait { until } => prop_assert!(!is_over && until > situation.now),
            Decision::Tell => prop_assert!(is_over && !gives_up),
            Decision::Await => prop_assert!(is_over && gives_up && !may_leave),
            Decision::Leave => prop_assert!(is_over && gives_up && may_leave),
        }
    }
}
