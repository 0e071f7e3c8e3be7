//! Which notices an alarm's change brings, and when one that has not arrived is sent again. Pure but for fresh names.

use std::{sync::Arc, time::Duration};

use gantry_types::{Alarm, Firing, Notice, NoticePhase, NoticeSpec, NoticeState, Problem, Receiver, Timestamp};

use crate::{
    app::{App, fresh_name},
    objects::Change,
};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Then a notice is given up.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Adds a notice for each receiver that hears of the alarm.
pub fn write(
    app: &App,
    alarm: &Alarm,
    told: &[(NoticeState, Firing)],
    receivers: &[Arc<Receiver>],
    change: &mut Change,
) -> Result<(), Problem> {
    let (name, severity) = (&alarm.metadata.name, alarm.spec.severity);
    for (state, firing) in told {
        for receiver in receivers.iter().filter(|receiver| receiver.spec.hears_of(name, severity)) {
            let spec = NoticeSpec {
                receiver: receiver.metadata.name.clone(),
                alarm: name.clone(),
                severity,
                state: *state,
                object: firing.object.clone(),
                message: firing.message.clone(),
                since: firing.since,
            };
            change.create(&new(app, spec))?;
        }
    }
    Ok(())
}

/// Names of notices sort by time.
pub fn new(app: &App, spec: NoticeSpec) -> Notice {
    let mut notice = Notice::new(fresh_name(app.clock.new_uuid().simple().to_string()), spec);
    app.stamp(&mut notice.metadata);
    notice
}

pub fn is_due(notice: &Notice, now: Timestamp) -> bool {
    notice.status.phase == NoticePhase::Pending && notice.status.next_at.is_none_or(|at| at <= now)
}

/// What becomes of a notice that was tried.
pub fn tried(notice: &Notice, outcome: Result<(), String>, now: Timestamp) -> Notice {
    let mut notice = notice.clone();
    let status = &mut notice.status;
    status.attempts += 1;
    match outcome {
        Ok(()) => (status.phase, status.error) = (NoticePhase::Delivered, None),
        Err(error) => {
            status.error = Some(error);
            let age = notice.metadata.created_at.map_or(Duration::ZERO, |created| now.since(created));
            if age >= PATIENCE {
                status.phase = NoticePhase::Failed;
            }
        }
    }
    status.next_at = (status.phase == NoticePhase::Pending).then(|| now.after(pause(status.attempts)));
    status.finished_at = (status.phase != NoticePhase::Pending).then_some(now);
    notice
}

/// Before the next attempt.
fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1))).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use gantry_types::{AlarmSeverity, ObjectRef};

    use super::*;

    #[test]
    fn it_is_tried_again_after_longer_and_longer_pauses_for_a_day() {
        let name = |text: &str| text.parse().expect("a name");
        let mut now = Timestamp::from_unix_ms(1_800_000_000_000);
        let object = ObjectRef { kind: "host".into(), name: name("host-1"), uuid: Default::default() };
        let (state, severity) = (NoticeState::Firing, AlarmSeverity::Critical);
        let (receiver, alarm) = (name("ops"), name("host-lost"));
        let spec = NoticeSpec { receiver, alarm, severity, state, object, message: String::new(), since: now };
        let mut notice = Notice::new(name("n"), spec);
        notice.metadata.created_at = Some(now);
        let begun = now;
        let mut pauses = Vec::new();
        while notice.status.phase == NoticePhase::Pending {
            assert!(is_due(&notice, now));
            notice = tried(&notice, Err("refused".into()), now);
            if let Some(next) = notice.status.next_at {
                assert!(!is_due(&notice, now));
                pauses.push(next.since(now).as_secs());
                now = next;
            }
        }
        assert_eq!(pauses[..9], [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert!(now.since(begun) >= PATIENCE && now.since(begun) < PATIENCE + LONGEST_PAUSE);
        assert_eq!((notice.status.phase, notice.status.finished_at), (NoticePhase::Failed, Some(now)));
        let arrived = tried(&notice, Ok(()), now).status;
        assert_eq!((arrived.phase, arrived.error, arrived.next_at), (NoticePhase::Delivered, None, None));
    }
}
