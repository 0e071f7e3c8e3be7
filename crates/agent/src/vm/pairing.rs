//! A VM's disk in a mirrored pool, and its copy on another host.
//!
//! ```text
//!   alone ── join_copy: catches up under the guest ── the guest stands still for the last of it ──▶ paired
//!     ▲                                                                                              │
//!     └── go_alone: written down here as by the controller ◀── wants to be alone ◀── a write the peer has not got,
//!                                                                                    a start, a change of what is off
//! ```
//! The record says that there is a peer before QEMU has one, and that there is none before QEMU goes on without. So whoever finds a
//! peer in it has to ask before anything executes, or changes the disk: the peer may be current, and may be started.
//!
//! Every QEMU begins alone: after an end that was not orderly the two places differ in what was never acknowledged, and a guest must
//! not read now this, now that.

use gantry_api::mirror::{CopyObservation, CopyProgress, FormerCopy, GoAlone, JoinCopy};
use gantry_qemu::migration::PeerTls;
use gantry_qemu::mirror::{Catch, Mirror, Peer, Together, advance, forget_old_changes, is_paired, part, unite};
use gantry_qemu::qmp::Event;
use gantry_qemu::qmp::command::{Cont, QueryStatus, Stop};
use gantry_storage::mirror_id;
use gantry_types::{MirrorNodes, Name, PowerState, Problem};
use serde::{Deserialize, Serialize};

use super::actor::{Run, VmTask};
use super::machine::{disk_of, files};
use super::{MONITOR_LIMIT, within};
use crate::migration::write_credentials;
use crate::problem::problem;
use crate::records::Record;

const NOT_JOINED: &str = "copy-not-joined";

/// Who has the content of its disk besides this host, as its record says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Copied {
    /// That of which this host is known to be current.
    pub generation: u64,
    /// It may be current as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Name>,
}

/// What the VM's task remembers of it.
#[derive(Debug, Default)]
pub(crate) struct Pairing {
    /// It is catching up.
    joining: Option<Name>,
    /// Its peer has not got a write.
    pub lost: bool,
    /// Something waits for it to be alone.
    waits: bool,
    /// It has just parted from its peer: QEMU may still be about to stop the guest for a write that failed with that.
    parted: bool,
    /// Parted from a copy that was whole at this generation; QEMU knows what was written since.
    since: Option<FormerCopy>,
}

impl Pairing {
    /// With its QEMU, that has ended, goes what was known of the peer.
    pub fn run_ended(&mut self) {
        *self = Self { waits: self.waits, ..Self::default() };
    }
}

impl VmTask {
    fn is_mirrored(&self) -> bool {
        let pool = self.record.as_ref().and_then(|record| record.assignment.disk.pool.as_ref());
        pool.is_some_and(|pool| pool.is_mirrored())
    }

    /// Whether it may execute, and its disk be changed, only after it was told that it is alone.
    pub(super) fn has_peer(&self) -> bool {
        self.is_mirrored() && self.record.as_ref().is_some_and(|record| record.copied.peer.is_some())
    }

    pub(super) fn copy_observation(&self) -> Option<CopyObservation> {
        let record = self.record.as_ref().filter(|_| self.is_mirrored())?;
        let Copied { generation, peer } = record.copied.clone();
        let wants_alone = peer.is_some() && (self.pairing.lost || self.pairing.waits);
        Some(CopyObservation { generation, peer, wants_alone, since: self.pairing.since.clone() })
    }

    /// # Errors
    /// `copy-not-alone` (transient): it is asked for then.
    pub(super) fn expect_alone(&mut self) -> Result<(), Problem> {
        if !self.has_peer() {
            return Ok(());
        }
        self.pairing.waits = true;
        let peer = self.record.as_ref().and_then(|record| record.copied.peer.clone());
        let peer = peer.map(|peer| format!(" on host '{peer}'")).unwrap_or_default();
        let detail = format!("the disk of VM {} has a copy{peer} that may be current as well", self.vm);
        Err(Problem::transient("copy-not-alone", detail).remedy("wait: the controller is asked which one is used"))
    }

    /// A start has to wait for word that it is alone.
    pub(super) fn waits_to_be_alone(&mut self) -> bool {
        self.expect_alone().is_err()
    }

    /// It is started once it is told that it is alone.
    pub(super) fn waits_to_run_alone(&self) -> bool {
        let wanted = self.record.as_ref().is_some_and(|record| record.wanted == PowerState::Running);
        self.pairing.waits && self.has_peer() && wanted
    }

    /// Before the VM is sent to another host: what its QEMU writes goes to no copy, and it copies nothing but what is sent.
    ///
    /// # Errors
    /// `copy-not-alone` (transient).
    pub(crate) async fn leave_copy(&mut self) -> Result<(), Problem> {
        self.expect_alone()?;
        if self.is_mirrored() {
            self.pairing.joining = None;
            self.part_from_peer().await?;
        }
        Ok(())
    }

    async fn mirror(&self) -> Result<Mirror, Problem> {
        let assignment = &self.known()?.assignment;
        Mirror::of(&disk_of(&self.host, assignment).await?).ok_or_else(|| {
            let detail = format!("the disk of VM '{}' is in no mirrored pool", assignment.name);
            Problem::conflict("disk-not-mirrored", detail).remedy("move it to one: gantry volume migrate")
        })
    }

    async fn note_copied(&mut self, copied: Copied) -> Result<(), Problem> {
        let noted = Record { copied, ..self.known()?.clone() };
        self.host.records.save(&noted).await.map_err(|error| error.problem())?;
        self.record = Some(noted);
        Ok(())
    }

    pub(super) async fn join_copy(&mut self, request: JoinCopy) -> Result<CopyProgress, Problem> {
        self.check_epoch(request.epoch)?;
        self.check_not_moving()?;
        self.check_no_snapshot_at_work()?;
        let (mirror, what) = (self.mirror().await?, self.named()?);
        let qmp = self.machine()?.qmp.clone();
        if let Some(peer) = self.known()?.copied.peer.clone() {
            let is_it = peer == request.peer && !self.pairing.lost;
            let paired = within(MONITOR_LIMIT, self.vm, is_paired(&qmp, &mirror)).await?;
            if is_it && paired.map_err(|error| problem(NOT_JOINED, &what, &error))? {
                return Ok(CopyProgress::Paired);
            }
            return self.expect_alone().map(|()| CopyProgress::Paired);
        }
        let peer = self.peer(&request).await?;
        // What was written since is known only of the copy that it parted from, and only once.
        let catch = if request.endpoint.fresh { Catch::All } else { Catch::Changed };
        let advanced = within(MONITOR_LIMIT, self.vm, advance(&qmp, &mirror, &peer, catch)).await?;
        let advanced = advanced.map_err(|error| problem(NOT_JOINED, &what, &error));
        if advanced.is_err() {
            (self.pairing.joining, self.pairing.since) = (None, None);
        }
        match advanced? {
            Together::Catching { done_bytes, total_bytes } => Ok(CopyProgress::Catching { done_bytes, total_bytes }),
            Together::Nearly => self.unite(&mirror, request).await,
            Together::Paired => Ok(CopyProgress::Paired),
        }
    }

    /// How its QEMU reaches the copy. What an earlier attempt with another has left is taken away first.
    async fn peer(&mut self, request: &JoinCopy) -> Result<Peer, Problem> {
        if self.pairing.joining.as_ref() != Some(&request.peer) {
            self.part_from_peer().await?;
            write_credentials(&self.host, self.vm, self.known()?.owner_uid).await?;
            self.pairing.joining = Some(request.peer.clone());
        }
        let endpoint = &request.endpoint;
        let tls = PeerTls { creds_dir: files(&self.host, self.vm).tls, peer_name: endpoint.tls_name.clone() };
        let (host, export) = (endpoint.address.to_string(), endpoint.export.clone());
        Ok(Peer { host, port: endpoint.port, export, tls: Some(tls) })
    }

    /// The last of it, while the guest stands still.
    async fn unite(&mut self, mirror: &Mirror, request: JoinCopy) -> Result<CopyProgress, Problem> {
        let (qmp, what) = (self.machine()?.qmp.clone(), self.named()?);
        let before = self.known()?.copied.clone();
        self.note_copied(Copied { generation: request.generation, peer: Some(request.peer) }).await?;
        // What is believed of it may be older than the last event.
        let status = within(MONITOR_LIMIT, self.vm, qmp.execute(QueryStatus {})).await?;
        let was_running = status.map_err(|error| problem(NOT_JOINED, &what, &error))?.running;
        if was_running {
            self.tell(Stop {}).await?;
        }
        let united = within(MONITOR_LIMIT, self.vm, unite(&qmp, mirror)).await;
        if was_running {
            self.tell(Cont {}).await?;
        }
        self.pairing = Pairing::default();
        self.remove_credentials().await;
        match united? {
            Ok(()) => Ok(CopyProgress::Paired),
            Err(error) => {
                // QEMU is alone, so nothing was told of a peer.
                self.note_copied(before).await?;
                Err(problem(NOT_JOINED, &what, &error))
            }
        }
    }

    /// QEMU writes to no peer afterwards.
    async fn part_from_peer(&mut self) -> Result<(), Problem> {
        let Run::On(machine) = &self.run else { return Ok(()) };
        let (qmp, mirror, what) = (machine.qmp.clone(), self.mirror().await?, self.named()?);
        let parted = within(MONITOR_LIMIT, self.vm, part(&qmp, &mirror)).await?;
        parted.map_err(|error| problem("copy-not-parted", &what, &error))
    }

    pub(super) async fn go_alone(&mut self, request: GoAlone) -> Result<(), Problem> {
        self.check_epoch(request.epoch)?;
        self.mirror().await?;
        let Copied { generation, peer } = self.known()?.copied.clone();
        if generation >= request.generation && peer.is_some() {
            // An old order: it was alone before it was joined at this generation.
            return Ok(());
        }
        if generation < request.generation {
            self.note_copied(Copied { generation: request.generation, peer: None }).await?;
        }
        self.part_from_peer().await?;
        let runs = matches!(self.run, Run::On(_));
        let since = peer.filter(|_| runs).map(|host| FormerCopy { host, generation });
        self.pairing = Pairing { since: since.or(self.pairing.since.take()), ..Pairing::default() };
        self.pairing.parted = runs;
        // Events that tell of it may still be on their way.
        self.look_at_status().await;
        self.go_on_parted().await
    }

    /// Writes that failed for the peer's sake are repeated, and nothing else.
    pub(super) async fn go_on_parted(&mut self) -> Result<(), Problem> {
        let stands_still = self.paused && self.hold.as_ref().is_some_and(|hold| !hold.no_space);
        if !self.pairing.parted || !stands_still || self.known()?.wanted != PowerState::Running {
            return Ok(());
        }
        self.resume().await
    }

    fn is_peer(&self, node: &str) -> bool {
        node == MirrorNodes::of(&mirror_id(self.vm)).peer()
    }

    /// QEMU could not write to one of the two places.
    pub(super) fn note_bad_write(&mut self, event: &Event) {
        let node = event.data["node-name"].as_str().unwrap_or_default();
        self.pairing.lost |= self.has_peer() && self.is_peer(node) && event.data["type"] != "read";
    }

    /// Now and then: what both places have had for long need not be copied after they have parted.
    pub(super) async fn forget_old_changes(&mut self) {
        self.pairing.parted = false;
        let (Run::On(machine), true, false) = (&self.run, self.has_peer(), self.pairing.lost) else { return };
        let Ok(mirror) = self.mirror().await else { return };
        if let Ok(Err(error)) = within(MONITOR_LIMIT, self.vm, forget_old_changes(&machine.qmp, &mirror)).await {
            tracing::warn!(vm = %self.vm, %error, "what its copy would lack is noted from further back");
        }
    }

    /// After a start of the agent: what the last one was at is begun anew by whoever wants it.
    pub(super) async fn settle_pairing(&mut self) {
        if !self.is_mirrored() || !matches!(self.run, Run::On(_)) {
            return;
        }
        if !self.has_peer() {
            if let Err(error) = self.part_from_peer().await {
                tracing::warn!(vm = %self.vm, %error, "a copy that was catching up is still connected");
            }
            return;
        }
        let wanted = self.record.as_ref().is_some_and(|record| record.wanted == PowerState::Running);
        if self.paused && self.hold.is_none() && wanted
            // Stopped for the last of a copy.
            && let Err(error) = self.resume().await
        {
            tracing::warn!(vm = %self.vm, %error, "the guest still stands still");
        }
        let Ok(mirror) = self.mirror().await else { return };
        let Run::On(machine) = &self.run else { return };
        let paired = within(MONITOR_LIMIT, self.vm, is_paired(&machine.qmp, &mirror)).await;
        self.pairing.lost = !matches!(paired, Ok(Ok(true)));
    }
}
