//! What a host keeps on its disk: of its lease, of each VM, and what it has decided about moves to it.

use std::collections::{BTreeMap, BTreeSet};

use gantry_agent::lease::{Kept, Process};
use gantry_api::agent::{MigrationEndpoint, MigrationState, SendMigration, Verdict};
use gantry_types::{Name, Problem};
use uuid::Uuid;

#[derive(Default)]
pub struct Disk {
    pub kept: Kept,
    pub vms: BTreeMap<Uuid, VmRecord>,
    /// By move. The first is final, also after the VM has left again.
    pub verdicts: BTreeMap<Uuid, Verdict>,
    /// Whom the warden has stopped.
    pub stopped: BTreeSet<Process>,
}

/// What an agent has on disk of a VM, beside its assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmRecord {
    /// It is to run.
    pub wanted: bool,
    /// The number of the last command that said so.
    pub command: u64,
    /// Settled for the fence of this generation: it does not start by itself.
    pub fenced: Option<u64>,
    pub process: Option<Process>,
    pub end: Option<End>,
    pub migration: Option<MoveRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub lease_over: bool,
    pub reason: String,
}

/// The one move that a VM is in, or was last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRecord {
    pub id: Uuid,
    pub state: MigrationState,
    pub side: Side,
    pub error: Option<Problem>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    Source(Box<SendMigration>),
    Destination {
        source: Name,
        /// Without one nobody was told where to send it.
        endpoint: Option<MigrationEndpoint>,
    },
}

impl VmRecord {
    pub fn move_state(&self) -> Option<MigrationState> {
        self.migration.as_ref().map(|migration| migration.state)
    }

    /// What it says of this move.
    pub fn of_move(&self, id: Uuid) -> Option<&MoveRecord> {
        self.migration.as_ref().filter(|migration| migration.id == id)
    }

    pub fn is_receiving(&self) -> bool {
        self.move_state() == Some(MigrationState::Receiving)
    }

    pub fn receives(&self, id: Uuid) -> bool {
        self.is_receiving() && self.of_move(id).is_some()
    }

    pub fn is_handed_over(&self) -> bool {
        matches!(self.move_state(), Some(MigrationState::Committing | MigrationState::Moved))
    }

    /// Where it was told to be sent to for this move.
    pub fn endpoint_of(&self, id: Uuid) -> Option<&MigrationEndpoint> {
        match &self.of_move(id).filter(|_| self.is_receiving())?.side {
            Side::Destination { endpoint, .. } => endpoint.as_ref(),
            Side::Source(_) => None,
        }
    }

    /// # Errors
    /// In the middle of a move, whichever side this is, and after one from here.
    pub fn expect_not_moving(&self, name: &Name) -> Result<(), Problem> {
        self.expect_not_handed_over(name)?;
        match self.move_state() {
            Some(MigrationState::Sending | MigrationState::Receiving) => {
                Err(Problem::conflict("vm-migrating", format!("VM '{name}' is being migrated")))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// `vm-handed-over`.
    pub fn expect_not_handed_over(&self, name: &Name) -> Result<(), Problem> {
        match self.is_handed_over() {
            true => Err(Problem::conflict("vm-handed-over", format!("VM '{name}' was handed over"))),
            false => Ok(()),
        }
    }

    /// The same after its move has come to this.
    pub fn with_move(mut self, state: MigrationState, error: Option<Problem>) -> Self {
        if let Some(migration) = &mut self.migration {
            (migration.state, migration.error) = (state, error);
        }
        self
    }
}
