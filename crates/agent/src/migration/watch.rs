//! Whether the destination still waits for the guest, as its agent tells the one that sends.
//!
//! QEMU does not notice a destination without power: nothing says that the connection is over, and TCP tries for minutes.
//! So its agent is asked all the time while disk and memory are copied. A host that is merely slow answers now and then;
//! only a row of failures counts. Giving up is safe then, because nothing was handed over yet.

use std::time::Duration;

use gantry_api::AgentApi;
use gantry_api::agent::{MigrationReport, MigrationState};
use gantry_types::Problem;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::sending::Sending;

const ASK_INTERVAL: Duration = Duration::from_secs(2);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// In a row, and about 10 s together.
const FAILURES_MAX: u32 = 5;

impl Sending {
    /// Ends when the destination has to be given up, and says why.
    pub(super) async fn destination_lost(&self) -> Problem {
        let mut asking = interval(ASK_INTERVAL);
        asking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            asking.tick().await;
            match self.ask_destination().await {
                Ok(report) if report.state == MigrationState::Receiving => failures = 0,
                Ok(report) => return self.not_receiving(report),
                Err(reason) => {
                    failures += 1;
                    if failures == FAILURES_MAX {
                        return self.silent(&format!("{FAILURES_MAX} times in a row while the VM was copied"), &reason);
                    }
                    tracing::warn!(vm = %self.vm, failures, reason, "the migration's destination does not answer");
                }
            }
        }
    }

    /// A destination whose agent doesn't answer could not commit: better to stay here.
    pub(super) async fn check_destination(&self) -> Result<(), Problem> {
        let asked = self.ask_destination().await;
        let report = asked.map_err(|reason| self.silent("just before the switchover", &reason))?;
        if report.state == MigrationState::Receiving { Ok(()) } else { Err(self.not_receiving(report)) }
    }

    async fn ask_destination(&self) -> Result<MigrationReport, String> {
        let asked = timeout(ANSWER_LIMIT, self.peer.migration_report(self.vm, self.request.migration)).await;
        match asked {
            Ok(answer) => answer.map_err(|error| error.detail),
            Err(_) => Err(format!("no answer within {} s", ANSWER_LIMIT.as_secs())),
        }
    }

    fn silent(&self, when: &str, reason: &str) -> Problem {
        let detail =
            format!("{}: the agent of '{}' did not answer {when}: {reason}", self.what(), self.request.destination);
        Problem::transient("destination-silent", detail).remedy(format!(
            "check '{}', its agent and the network between the hosts, then migrate again; the VM goes on at '{}'",
            self.request.destination, self.host_name
        ))
    }

    fn not_receiving(&self, report: MigrationReport) -> Problem {
        let why = report.error.map(|error| format!(": {}", error.detail)).unwrap_or_default();
        let detail = format!("{}: '{}' is no longer receiving{why}", self.what(), self.request.destination);
        Problem::transient("migration-aborted", detail)
            .remedy(format!("migrate again, or to another host; the VM goes on at '{}'", self.host_name))
    }
}
