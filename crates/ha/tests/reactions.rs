//! What is done about a failure, by policy.

use gantry_ha::reaction::{Decision, Failure, Next, Situation, decide, good_state};
use gantry_types::{FailureReaction, HaPolicy, HaSpec};
use proptest::prelude::*;

use FailureReaction::{Alarm, Reset, Restart, RestartElsewhere};

fn spec(guest: FailureReaction, application: FailureReaction) -> HaSpec {
    HaSpec {
        policy: HaPolicy::Restart,
        on_guest_failure: guest,
        on_application_failure: application,
        ..HaSpec::default()
    }
}

fn of(failure: Failure) -> Situation {
    Situation { failure, in_a_row: 1, has_good: true, may_reset: true }
}

#[test]
fn guest_and_application_each_have_their_reaction() {
    let spec = spec(Reset, Alarm);
    for (failure, decision) in [
        (Failure::Machine, Decision::End(Next::Restart)),
        (Failure::GuestHalted, Decision::Reset),
        (Failure::GuestSilent, Decision::Reset),
        (Failure::Application, Decision::Tell),
    ] {
        assert_eq!(decide(&spec, of(failure)), decision, "{failure:?}");
    }
    let halted = Situation { may_reset: false, ..of(Failure::GuestHalted) };
    assert_eq!(decide(&spec, halted), Decision::End(Next::Restart), "a reset whose turn has not come");
}

#[test]
fn a_guest_that_is_halted_stays_so_where_it_is_only_told_of() {
    let spec = spec(Alarm, RestartElsewhere);
    assert_eq!(decide(&spec, of(Failure::GuestHalted)), Decision::End(Next::Stay));
    assert_eq!(decide(&spec, of(Failure::GuestSilent)), Decision::Tell);
    assert_eq!(decide(&spec, of(Failure::Application)), Decision::End(Next::Elsewhere));
}

#[test]
fn a_state_that_was_gone_back_to_in_vain_is_not_gone_back_to_again() {
    assert_eq!(good_state::<u8>(&[], None), None);
    assert_eq!(good_state(&[3, 2], None), Some(3));
    assert_eq!(good_state(&[3, 2], Some(3)), Some(2));
    assert_eq!(good_state(&[2], Some(2)), None);
    assert_eq!(good_state(&[4, 2], Some(2)), Some(4), "a newer one has followed");
}

fn any_reaction() -> impl Strategy<Value = FailureReaction> {
    prop_oneof![Just(Restart), Just(Reset), Just(RestartElsewhere), Just(Alarm)]
}

proptest! {
    #[test]
    fn nothing_is_rolled_back_but_what_failed_often_enough_and_has_a_good_state(
        (guest, application) in (any_reaction(), any_reaction()),
        roll_back_after in proptest::option::of(1u32..=20),
        in_a_row in 1u64..30,
        (has_good, may_reset, protected) in any::<(bool, bool, bool)>(),
        failure in prop_oneof![
            Just(Failure::Machine), Just(Failure::GuestHalted), Just(Failure::GuestSilent), Just(Failure::Application)
        ],
    ) {
        let policy = if protected { HaPolicy::Restart } else { HaPolicy::None };
        let spec = HaSpec { policy, roll_back_after, ..spec(guest, application) };
        let decision = decide(&spec, Situation { failure, in_a_row, has_good, may_reset });
        let reaction = if failure == Failure::Application { application } else { guest };
        let by_guest = failure != Failure::Machine;
        if decision == Decision::End(Next::RollBack) {
            prop_assert!(protected && by_guest && has_good && reaction != Alarm);
            prop_assert!(roll_back_after.is_some_and(|after| in_a_row >= u64::from(after)));
        }
        prop_assert!(decision != Decision::Reset || may_reset && by_guest && reaction == Reset);
        // An unprotected VM is never started again; a protected one whose QEMU has gone always is.
        prop_assert!(protected || decision == Decision::End(Next::Stay));
        prop_assert!(by_guest || !protected || decision == Decision::End(Next::Restart));
    }
}
