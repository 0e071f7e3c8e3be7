//! Last known good: while the guest is fine, the state of its disk is kept now and then, a few of them.
//!
//! Fine means that its agent has answered without a gap for as long as the VM's policy says, and that its probes pass.
//! The host does this by itself, also without a controller. A point is on record only when it is in the disk, and no
//! longer on record before it is taken out of it; what a crash leaves of either in the disk is found and deleted when the
//! next one is kept.

use std::time::{Duration, SystemTime};

use gantry_types::{ProbeState, Problem, RecoveryPoint, RecoveryPointKind, RecoveryPolicy, Timestamp};
use uuid::Uuid;

use super::actor::{Run, VmTask};
use super::probing::known_of;
use super::snapshots::point_tag;

/// How often it is looked whether a point is due or over.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// What was replaced is kept for its time, but no more than this many.
const REPLACED_MAX: usize = 16;

impl VmTask {
    /// Keeps and deletes what is due.
    pub(super) async fn look_after_points(&mut self) {
        let idle = self.check_not_moving().and_then(|()| self.check_no_snapshot_at_work());
        let Some(record) = self.record.as_ref().filter(|record| record.disk_made && idle.is_ok()) else { return };
        let policy = record.assignment.recovery;
        let now = Timestamp::from(SystemTime::now());
        let over = surplus(&record.recovery.points, policy.keep, now);
        if !over.is_empty()
            && self.expect_exports_answer().await.is_ok()
            && let Err(error) = self.drop_points(&over).await
        {
            tracing::warn!(vm = %self.vm, %error, "recovery points that are over can't be deleted yet");
        }
        if self.is_due(policy, now)
            && self.expect_exports_answer().await.is_ok()
            && let Err(error) = self.keep_good(now).await
        {
            tracing::warn!(vm = %self.vm, %error, "the VM's good state can't be kept");
        }
    }

    fn is_due(&self, policy: RecoveryPolicy, now: Timestamp) -> bool {
        let (Some(record), Run::On(machine), false) = (&self.record, &self.run, self.paused) else { return false };
        let serves =
            known_of(&record.assignment, &record.probes).iter().all(|probe| probe.state == ProbeState::Passing);
        let healthy_for = self.shared.guest_healthy_for().filter(|_| serves);
        let kept_in_this_run = record.recovery.kept_in == Some(machine.record(&self.host));
        is_due(policy, &record.recovery.points, healthy_for, kept_in_this_run, now)
    }

    async fn keep_good(&mut self, now: Timestamp) -> Result<(), Problem> {
        self.delete_orphans().await?;
        let point = RecoveryPoint::new(Uuid::new_v4(), RecoveryPointKind::Good, now, None);
        self.keep_disks(&point_tag(point.uuid), &[]).await?;
        self.keep_uefi_variables(point.uuid).await?;
        let kept_in = self.machine()?.record(&self.host);
        if let Some(record) = &mut self.record {
            record.recovery.points.push(point);
            record.recovery.kept_in = Some(kept_in);
            record.ha.failures_in_a_row = 0;
        }
        self.save().await
    }

    /// Deletes points that are in the disk, or in a volume, and not on record.
    async fn delete_orphans(&mut self) -> Result<(), Problem> {
        let known: Vec<_> = self.known()?.recovery.points.iter().map(|point| point_tag(point.uuid)).collect();
        for tag in self.state_tags().await? {
            if tag.starts_with("p-") && !known.contains(&tag) {
                self.delete_tag(&tag).await?;
            }
        }
        Ok(())
    }

    async fn drop_points(&mut self, over: &[Uuid]) -> Result<(), Problem> {
        let epoch = self.known()?.assignment.epoch;
        for point in over {
            self.delete_snapshot(epoch, *point).await?;
        }
        Ok(())
    }

    /// Takes points off the record.
    pub(super) async fn forget_points(&mut self, gone: &[Uuid]) -> Result<(), Problem> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let before = record.recovery.points.clone();
        record.recovery.points.retain(|point| !gone.contains(&point.uuid));
        if record.recovery.points == before {
            return Ok(());
        }
        let saved = self.save().await;
        if saved.is_err()
            && let Some(record) = &mut self.record
        {
            record.recovery.points = before;
        }
        saved
    }
}

fn is_due(
    policy: RecoveryPolicy,
    points: &[RecoveryPoint],
    healthy_for: Option<Duration>,
    kept_in_this_run: bool,
    now: Timestamp,
) -> bool {
    let fine = healthy_for.is_some_and(|healthy_for| healthy_for >= Duration::from_secs(policy.after_s.into()));
    let newest = points.iter().filter(|point| point.kind == RecoveryPointKind::Good).map(|point| point.taken_at).max();
    let fresh =
        kept_in_this_run && newest.is_some_and(|newest| now.since(newest) < Duration::from_secs(policy.every_s.into()));
    policy.keep > 0 && fine && !fresh
}

/// The points that are to go. `points` are in the order in which they were taken.
fn surplus(points: &[RecoveryPoint], keep: u32, now: Timestamp) -> Vec<Uuid> {
    let of = |kind| points.iter().rev().filter(move |point| point.kind == kind);
    let too_old = |point: &&RecoveryPoint| point.expires_at.is_some_and(|expires_at| expires_at <= now);
    let good = of(RecoveryPointKind::Good).skip(keep as usize);
    let replaced = of(RecoveryPointKind::Replaced).enumerate();
    let replaced = replaced.filter(|(at, point)| *at >= REPLACED_MAX || too_old(point)).map(|(_, point)| point);
    good.chain(replaced).map(|point| point.uuid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RecoveryPolicy = RecoveryPolicy { keep: 2, after_s: 60, every_s: 3600 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_ms(second * 1000)
    }
    fn point(kind: RecoveryPointKind, taken: i64, expires: Option<i64>) -> RecoveryPoint {
        RecoveryPoint::new(Uuid::new_v4(), kind, at(taken), expires.map(at))
    }

    #[test]
    fn a_state_is_kept_after_a_while_of_health_and_then_now_and_then() {
        let seconds = |s| Some(Duration::from_secs(s));
        let due = |points: &[RecoveryPoint], healthy, kept, now| is_due(POLICY, points, healthy, kept, at(now));
        assert!(!due(&[], None, false, 100));
        assert!(!due(&[], seconds(59), false, 100));
        assert!(due(&[], seconds(60), false, 100));
        let one = [point(RecoveryPointKind::Good, 100, None)];
        assert!(!due(&one, seconds(3000), true, 3699));
        assert!(due(&one, seconds(3600), true, 3700), "old enough");
        assert!(due(&one, seconds(60), false, 170), "another run came up well");
        let replaced = [point(RecoveryPointKind::Replaced, 100, Some(200))];
        assert!(due(&replaced, seconds(60), true, 110), "what was replaced is no good state");
        let none = RecoveryPolicy { keep: 0, ..POLICY };
        assert!(!is_due(none, &[], seconds(600), false, at(1)));
    }

    proptest! {
        /// Against the plainest model: sort by age, count, compare.
        #[test]
        fn the_newest_good_ones_stay_and_the_replaced_for_their_time(
            kinds in proptest::collection::vec((any::<bool>(), 0i64..200), 0..40),
            keep in 0u32..9,
            now in 0i64..300,
        ) {
            let points: Vec<_> = kinds.iter().enumerate().map(|(taken, (good, expires))| match good {
                true => point(RecoveryPointKind::Good, taken as i64, None),
                false => point(RecoveryPointKind::Replaced, taken as i64, Some(*expires)),
            }).collect();
            let gone = surplus(&points, keep, at(now));
            for (index, one) in points.iter().enumerate() {
                let newer = points[index + 1..].iter().filter(|other| other.kind == one.kind).count();
                let stays = match one.kind {
                    RecoveryPointKind::Good => newer < keep as usize,
                    RecoveryPointKind::Replaced => newer < REPLACED_MAX && one.expires_at.unwrap() > at(now),
                };
                prop_assert_eq!(gone.contains(&one.uuid), !stays);
            }
        }
    }
}
