//! A VM whose host has lost what it needs: [`gantry_ha::loss`] decides, this carries it out.
//!
//! ```text
//!   runs ── lost for a while ──▶ told of ── may leave ──▶ QEMU is ended ── seen to end ──▶ the controller starts it elsewhere
//!                                                             └── does not end ──▶ told of; the host has to be proved off
//! ```
//! A QEMU that waits in the kernel for a file system that is gone can't be ended: it may still write when that comes back.
//! So nothing is left to others before its end was seen, however long that takes.

use std::time::Duration;

use gantry_ha::loss::{Decision, Situation, decide};
use gantry_ha::reaction::Next;
use tokio::time::Instant;

use super::actor::{Run, VmTask};

/// A process that was killed and is there for longer waits in the kernel.
const END_LIMIT: Duration = Duration::from_secs(15);

/// What is told of a VM that lacks something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stranded {
    pub why: String,
    /// It is given up once it may be.
    pub awaits: bool,
}

impl VmTask {
    /// Called whenever something has happened.
    pub(super) fn heed_losses(&mut self) {
        let view = self.loss_views.borrow_and_update().clone();
        let (now, before) = (Instant::now(), self.protection.stranded.take());
        self.protection.loss_at = None;
        if matches!(self.run, Run::Off) {
            self.protection.condemned_at = None;
            return;
        }
        if let Some(condemned_at) = self.protection.condemned_at {
            return self.tell_of_no_end(condemned_at, now);
        }
        let Some(record) = self.record.as_ref().filter(|_| self.expected_end.is_none() && !self.is_moving()) else {
            return;
        };
        let Some((loss, lost)) = view.of(&record.assignment) else { return };
        let situation = Situation {
            loss,
            since: self.protection.moment(lost.since),
            now: self.protection.moment(now),
            may_leave: view.may_leave(self.vm),
        };
        let spec = &record.assignment.ha;
        let why = format!("{}, for {} s and longer", lost.what, spec.loss_s);
        let stranded = match decide(spec, situation) {
            Decision::Wait { until } => {
                self.protection.loss_at = Some(self.protection.instant(until));
                return;
            }
            Decision::Tell => Stranded { why, awaits: false },
            Decision::Await => Stranded { why, awaits: true },
            Decision::Leave => return self.condemn(why, Next::Elsewhere),
        };
        if before.as_ref() != Some(&stranded) {
            tracing::warn!(vm = %self.vm, ?stranded, "its host has lost what it needs");
        }
        self.protection.stranded = Some(stranded);
    }

    fn tell_of_no_end(&mut self, condemned_at: Instant, now: Instant) {
        let told_at = condemned_at + END_LIMIT;
        if now < told_at {
            self.protection.loss_at = Some(told_at);
            return;
        }
        let host = &self.host.config.name;
        let why = format!(
            "its QEMU was killed and does not end: it waits in the kernel for its storage. It is started nowhere before it \
             has ended or host '{host}' is seen to be off: gantry host fence {host}"
        );
        self.protection.stranded = Some(Stranded { why, awaits: false });
    }
}
