//! What starts and stops VMs, once more: a test delivers again, as late as it likes, what was sent to a fake host long ago.

use gantry_api::{
    AgentApi,
    agent::{PowerRequest, RevertVm, VmObservation},
};
use gantry_types::{Name, Problem};
use uuid::Uuid;

use super::{FakeHost, FakeWorld};

/// A command as it was sent, whether it arrived or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub host: Name,
    pub vm: Uuid,
    pub command: SentCommand,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentCommand {
    Power(PowerRequest),
    Revert(RevertVm),
}

impl FakeWorld {
    /// In the order in which they were sent, without those that were delivered again.
    pub fn sent(&self) -> Vec<Sent> {
        self.lock().sent.clone()
    }
}

impl FakeHost {
    pub(super) fn note_sent(&self, vm: Uuid, command: SentCommand) {
        self.world.lock().sent.push(Sent { host: self.name.clone(), vm, command });
    }

    /// Delivers the command to this host again.
    ///
    /// # Errors
    /// As of the command.
    pub async fn deliver(&self, sent: &Sent) -> Result<VmObservation, Problem> {
        let before = self.world.sent().len();
        let answer = match &sent.command {
            SentCommand::Power(request) => self.power(sent.vm, request).await,
            SentCommand::Revert(request) => self.revert_vm(sent.vm, request).await,
        };
        self.world.lock().sent.truncate(before);
        answer
    }
}
