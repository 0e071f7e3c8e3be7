//! A VM's disks in mirrored pools, and their copies on another host.
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
//! Its own disk and its volumes are joined and parted together, so that there is one peer and one generation for all of them.
//!
//! Every QEMU begins alone: after an end that was not orderly the two places differ in what was never acknowledged, and a guest must
//! not read now this, now that.

use gantry_api::mirror::{CopyEndpoint, CopyObservation, CopyProgress, CopyServing, FormerCopy, GoAlone, JoinCopy};
use gantry_qemu::migration::PeerTls;
use gantry_qemu::mirror::{
    Catch, Mirror, MirrorError, Peer, Together, advance, forget_old_changes, has_changes, is_paired, part_all, unite,
};
use gantry_qemu::qmp::command::{Cont, QueryStatus, Stop};
use gantry_qemu::qmp::{Event, Qmp};
use gantry_storage::mirror_id;
use gantry_types::{MirrorNodes, Name, PowerState, Problem};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::actor::{Run, VmTask};
use super::machine::{disk_of, files};
use super::{MONITOR_LIMIT, volumes, within};
use crate::migration::write_credentials;
use crate::problem::problem;
use crate::records::Record;

const NOT_JOINED: &str = "copy-not-joined";

/// Who has the content of its disks besides this host, as its record says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Copied {
    /// That of which this host is known to be current.
    pub generation: u64,
    /// It may be current as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Name>,
    /// Which servings of its copies it writes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servings: Vec<CopyServing>,
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
    /// Its own disk, which is called as the VM is, and its volumes, as far as they have copies.
    fn mirrored_disks(&self) -> Vec<Uuid> {
        let Some(record) = &self.record else { return Vec::new() };
        let own = record.assignment.disk.pool.iter().map(|pool| (pool, self.vm));
        let volumes = record.assignment.volumes.iter().map(|volume| (&volume.pool, volume.uuid));
        own.chain(volumes).filter(|(pool, _)| pool.is_mirrored()).map(|(_, disk)| disk).collect()
    }

    fn is_mirrored(&self) -> bool {
        !self.mirrored_disks().is_empty()
    }

    /// Whether it may execute, and its disks be changed, only after it was told that it is alone.
    pub(super) fn has_peer(&self) -> bool {
        self.is_mirrored() && self.record.as_ref().is_some_and(|record| record.copied.peer.is_some())
    }

    pub(super) fn copy_observation(&self) -> Option<CopyObservation> {
        let Copied { generation, peer, servings } = self.record.as_ref()?.copied.clone();
        let peer = peer.filter(|_| self.is_mirrored());
        if !self.is_mirrored() && generation == 0 {
            return None;
        }
        let wants_alone = peer.is_some() && (self.pairing.lost || self.pairing.waits);
        Some(CopyObservation { generation, peer, servings, wants_alone, since: self.pairing.since.clone() })
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
        let detail = format!("VM {} has a copy of its disks{peer} that may be current as well", self.vm);
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

    /// As QEMU has them, or is to have them.
    async fn mirrors(&self) -> Result<Vec<(Uuid, Mirror)>, Problem> {
        let assignment = &self.known()?.assignment;
        let own = match assignment.disk.pool.as_ref().is_some_and(|pool| pool.is_mirrored()) {
            true => Mirror::of(&disk_of(&self.host, assignment).await?).map(|mirror| (self.vm, mirror)),
            false => None,
        };
        let of_volumes = assignment.volumes.iter().filter_map(|volume| {
            let described = volumes::describe(&self.host, volume);
            Some((volume.uuid, Mirror::at(&described.location, described.direct_io)?))
        });
        Ok(own.into_iter().chain(of_volumes).collect())
    }

    /// Each with where its copy is served.
    async fn joined_mirrors(&self, request: &JoinCopy) -> Result<Vec<(Mirror, CopyEndpoint)>, Problem> {
        let mirrors = self.mirrors().await?;
        if mirrors.is_empty() {
            let detail = format!("no disk of {} is in a mirrored pool", self.named()?);
            return Err(Problem::conflict("disk-not-mirrored", detail).remedy("move it to one: gantry volume migrate"));
        }
        let served = |disk| request.copies.iter().find(|copy| copy.disk == disk).map(|copy| copy.endpoint.clone());
        let joined: Vec<_> =
            mirrors.iter().filter_map(|(disk, mirror)| Some((mirror.clone(), served(*disk)?))).collect();
        if joined.len() == mirrors.len() && request.copies.len() == mirrors.len() {
            return Ok(joined);
        }
        let detail = format!("the copies that are to be joined are not of the disks that {} has now", self.named()?);
        Err(Problem::transient("copy-disks-changed", detail).remedy("it is tried again by itself"))
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
        let (joined, what) = (self.joined_mirrors(&request).await?, self.named()?);
        let qmp = self.machine()?.qmp.clone();
        if let Some(peer) = self.known()?.copied.peer.clone() {
            let is_it = peer == request.peer && !self.pairing.lost;
            let paired = within(MONITOR_LIMIT, self.vm, are_paired(&qmp, joined.iter().map(|(mirror, _)| mirror)));
            if is_it && paired.await?.map_err(|error| problem(NOT_JOINED, &what, &error))? {
                return Ok(CopyProgress::Paired);
            }
            return self.expect_alone().map(|()| CopyProgress::Paired);
        }
        self.expect_peer(&request).await?;
        // By what is known here: who has asked for this may know it from before.
        let parted = self.pairing.since.as_ref().is_some_and(|former| former.host == request.peer);
        let mut together = CopyProgress::Paired;
        for (mirror, endpoint) in &joined {
            let peer = self.peer(endpoint);
            let advanced = async {
                // What was written since is known only of the copy that it parted from, and not of a volume that has come since.
                let is_known = parted && !endpoint.fresh && has_changes(&qmp, mirror).await?;
                advance(&qmp, mirror, &peer, if is_known { Catch::Changed } else { Catch::All }).await
            };
            match within(MONITOR_LIMIT, self.vm, advanced).await? {
                Ok(step) => together = add(together, step),
                Err(error) => {
                    (self.pairing.joining, self.pairing.since) = (None, None);
                    self.part_from_peer().await?;
                    return Err(problem(NOT_JOINED, &what, &error));
                }
            }
        }
        match together {
            CopyProgress::Paired => self.unite(joined.into_iter().map(|(mirror, _)| mirror).collect(), request).await,
            catching => Ok(catching),
        }
    }

    /// What an earlier attempt with another has left is taken away first.
    async fn expect_peer(&mut self, request: &JoinCopy) -> Result<(), Problem> {
        if self.pairing.joining.as_ref() != Some(&request.peer) {
            self.part_from_peer().await?;
            write_credentials(&self.host, self.vm, self.known()?.owner_uid).await?;
            self.pairing.joining = Some(request.peer.clone());
            // From here on QEMU notes what this one lacks, and no more what another does.
            self.pairing.since.take_if(|former| former.host != request.peer);
        }
        Ok(())
    }

    /// How its QEMU reaches a copy.
    fn peer(&self, endpoint: &CopyEndpoint) -> Peer {
        let tls = PeerTls { creds_dir: files(&self.host, self.vm).tls, peer_name: endpoint.tls_name.clone() };
        let (host, export) = (endpoint.address.to_string(), endpoint.export.clone());
        Peer { host, port: endpoint.port, export, tls: Some(tls) }
    }

    /// The last of it, while the guest stands still.
    async fn unite(&mut self, mirrors: Vec<Mirror>, request: JoinCopy) -> Result<CopyProgress, Problem> {
        let (qmp, what) = (self.machine()?.qmp.clone(), self.named()?);
        let before = self.known()?.copied.clone();
        // Until it is known that they are: nobody takes the copies for current, wherever this ends.
        self.pairing.lost = true;
        let servings = request.servings();
        self.note_copied(Copied { generation: request.generation, peer: Some(request.peer), servings }).await?;
        // What is believed of it may be older than the last event.
        let status = within(MONITOR_LIMIT, self.vm, qmp.execute(QueryStatus {})).await?;
        let was_running = status.map_err(|error| problem(NOT_JOINED, &what, &error))?.running;
        if was_running {
            self.tell(Stop {}).await?;
        }
        let united = within(MONITOR_LIMIT, self.vm, unite_all(&qmp, &mirrors)).await;
        self.pairing = Pairing { lost: !matches!(united, Ok(Ok(()))), ..Pairing::default() };
        if was_running {
            self.tell(Cont {}).await?;
        }
        self.remove_credentials().await;
        match united? {
            Ok(()) => Ok(CopyProgress::Paired),
            Err(error) => {
                // QEMU is alone, so nothing was told of a peer.
                self.note_copied(before).await?;
                self.pairing.lost = false;
                Err(problem(NOT_JOINED, &what, &error))
            }
        }
    }

    /// QEMU writes to no peer afterwards.
    async fn part_from_peer(&mut self) -> Result<(), Problem> {
        let Run::On(machine) = &self.run else { return Ok(()) };
        let (qmp, what) = (machine.qmp.clone(), self.named()?);
        let mirrors: Vec<_> = self.mirrors().await?.into_iter().map(|(_, mirror)| mirror).collect();
        let parted = within(MONITOR_LIMIT, self.vm, part_all(&qmp, &mirrors)).await?;
        parted.map_err(|error| problem("copy-not-parted", &what, &error))
    }

    /// Before a volume with a copy comes, or goes while it catches up: copies are joined all together, and anew.
    pub(super) async fn join_anew(&mut self) -> Result<(), Problem> {
        if !self.has_peer() {
            self.pairing.joining = None;
            self.part_from_peer().await?;
        }
        Ok(())
    }

    pub(super) async fn go_alone(&mut self, request: GoAlone) -> Result<(), Problem> {
        self.check_epoch(request.epoch)?;
        let Copied { generation, peer, .. } = self.known()?.copied.clone();
        if generation >= request.generation && peer.is_some() {
            // An old order: it was alone before it was joined at this generation.
            return Ok(());
        }
        if generation < request.generation {
            self.note_copied(Copied { generation: request.generation, ..Copied::default() }).await?;
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
        self.mirrored_disks().into_iter().any(|disk| node == MirrorNodes::of(&mirror_id(disk)).peer())
    }

    /// QEMU could not write to one of a disk's two places.
    pub(super) fn note_bad_write(&mut self, event: &Event) {
        let node = event.data["node-name"].as_str().unwrap_or_default();
        self.pairing.lost |= self.has_peer() && self.is_peer(node) && event.data["type"] != "read";
    }

    /// Now and then: what both places have had for long need not be copied after they have parted.
    pub(super) async fn forget_old_changes(&mut self) {
        self.pairing.parted = false;
        let (Run::On(machine), true, false) = (&self.run, self.has_peer(), self.pairing.lost) else { return };
        let Ok(mirrors) = self.mirrors().await else { return };
        for (disk, mirror) in mirrors {
            if let Ok(Err(error)) = within(MONITOR_LIMIT, self.vm, forget_old_changes(&machine.qmp, &mirror)).await {
                tracing::warn!(vm = %self.vm, %disk, %error, "what its copy would lack is noted from further back");
            }
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
        let Ok(mirrors) = self.mirrors().await else { return };
        let Run::On(machine) = &self.run else { return };
        let paired = are_paired(&machine.qmp, mirrors.iter().map(|(_, mirror)| mirror));
        let paired = within(MONITOR_LIMIT, self.vm, paired).await;
        self.pairing.lost = !matches!(paired, Ok(Ok(true)));
    }
}

async fn are_paired(qmp: &Qmp, mirrors: impl Iterator<Item = &Mirror>) -> Result<bool, MirrorError> {
    for mirror in mirrors {
        if !is_paired(qmp, mirror).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All of them, or none.
async fn unite_all(qmp: &Qmp, mirrors: &[Mirror]) -> Result<(), MirrorError> {
    for mirror in mirrors {
        if let Err(error) = unite(qmp, mirror).await {
            return part_all(qmp, mirrors).await.and(Err(error));
        }
    }
    Ok(())
}

/// How far several are: those that have nearly caught up wait for the others.
fn add(all: CopyProgress, one: Together) -> CopyProgress {
    match (all, one) {
        (all, Together::Nearly | Together::Paired) => all,
        (CopyProgress::Paired, Together::Catching { done_bytes, total_bytes }) => {
            CopyProgress::Catching { done_bytes, total_bytes }
        }
        (
            CopyProgress::Catching { done_bytes: done, total_bytes: total },
            Together::Catching { done_bytes, total_bytes },
        ) => CopyProgress::Catching { done_bytes: done + done_bytes, total_bytes: total + total_bytes },
    }
}
