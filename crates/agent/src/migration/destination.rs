//! The destination's side, as the VM's task holds it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::agent::{MigrationEndpoint, MigrationReport, MigrationState, ReceiveMigration, Verdict};
use gantry_qemu::migration::{ListenOptions, ListenTls, MigrationDestination, MigrationPhase};
use gantry_qemu::qmp::command::AnnounceSelf;
use gantry_trust::{LeafNames, PeerIdentity, Role};
use gantry_types::{Flow, PowerState, Problem};
use tokio::time::Instant;
use uuid::Uuid;

use super::source::write_credentials;
use super::verdicts::Decision;
use crate::flows;
use crate::host::Host;
use crate::networks::Place;
use crate::problem::problem;
use crate::records::{MigrationRecord, MigrationRole, Record, RecoveryRecord};
use crate::vm::{
    Begin, DISK_NODE, MONITOR_LIMIT, Next, Run, VmTask, check_arriving, committed_here, files, prepare_files, within,
};

/// Private ports (RFC 6335); two for each VM on its way here.
pub(super) const PORTS: RangeInclusive<u16> = 49_152..=49_663;
/// The source says commit when all is sent; loading the last of it takes milliseconds.
const LOAD_LIMIT: Duration = Duration::from_secs(8);
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// Repeated, because a single frame may be lost.
const ANNOUNCEMENT: AnnounceSelf = AnnounceSelf { initial: 10, max: 300, rounds: 8, step: 50 };

impl VmTask {
    pub(crate) async fn receive(&mut self, request: ReceiveMigration) -> Result<MigrationEndpoint, Problem> {
        let migration = request.migration;
        if let Some(decision) = self.host.verdicts.get(migration).await? {
            let name = &request.assignment.name;
            let detail = format!("this migration of VM '{name}' was decided here already: {}", decision.reason);
            return Err(Problem::conflict("migration-decided", detail).remedy("start a new migration"));
        }
        if self.record.is_some() {
            if let Some(endpoint) = self.endpoint_of(migration) {
                return Ok(endpoint);
            }
            self.check_epoch(request.assignment.epoch)?;
            if !self.is_receiving() {
                let detail = format!("VM '{}' is on this host already", request.assignment.name);
                return Err(Problem::conflict("vm-exists", detail)
                    .remedy("if an earlier migration left it here, release or remove it first"));
            }
            // An earlier attempt that nobody ended; if it is of the same migration, nobody was told where to send it.
            if self.migration_id() != Some(migration)
                && self.decide_aborted("another migration of the VM replaced it").await? == Verdict::Committed
            {
                return Err(committed_here(self.known()?));
            }
            self.tear_down().await?;
        }
        let owner_uid = self.host.uids.take()?;
        let made = self.make_receiver(request, owner_uid).await;
        if let Err(error) = &made {
            self.undo_receiver(migration, owner_uid, error).await;
        }
        made
    }

    fn endpoint_of(&self, id: Uuid) -> Option<MigrationEndpoint> {
        let migration = self.record.as_ref()?.migration.as_ref()?;
        match &migration.role {
            MigrationRole::Destination { endpoint, .. }
                // Without ports it was never told to anybody.
                if migration.id == id && migration.state == MigrationState::Receiving && endpoint.ram_port != 0 =>
            {
                Some(endpoint.clone())
            }
            _ => None,
        }
    }

    async fn make_receiver(&mut self, request: ReceiveMigration, owner_uid: u32) -> Result<MigrationEndpoint, Problem> {
        let mut endpoint = MigrationEndpoint {
            address: self.host.config.underlay_address,
            ram_port: 0,
            disk_port: 0,
            disk_export: DISK_NODE.to_owned(),
            tls_name: self.host.config.name.to_string(),
        };
        let source_dn = LeafNames::new(PeerIdentity::new(Role::Qemu, request.source.clone()), &[]).subject();
        let what = format!("receiving VM '{}'", request.assignment.name);
        let source = Some(request.source);
        let wanted = if request.paused { PowerState::Paused } else { PowerState::Running };
        // Those of a disk of the source's own are inside it and stay there.
        let mut points = request.recovery_points;
        points.reverse();
        let record = Record {
            wanted,
            migration: Some(MigrationRecord {
                id: request.migration,
                state: MigrationState::Receiving,
                role: MigrationRole::Destination {
                    endpoint: endpoint.clone(),
                    paused: request.paused,
                    source: source.clone(),
                },
                figures: None,
                error: None,
            }),
            probes: request.probes,
            recovery: RecoveryRecord { points, ..RecoveryRecord::default() },
            ..Record::new(request.assignment, owner_uid)
        };
        let travels = record.assignment.disk.travels();
        check_arriving(&self.host, &record).await?;
        self.host.records.save(&record).await.map_err(|error| error.problem())?;
        let (nics, vm, host) = (record.assignment.nics.clone(), self.vm, Arc::clone(&self.host));
        let record = self.record.insert(record);
        // None needs another, and each waits mostly for the disk or for a tool.
        let (made, ports, credentials) = tokio::join!(
            prepare_files(&host, record),
            host.networks.ensure(vm, &nics, owner_uid, Place::Coming),
            write_credentials(&host, vm, owner_uid),
        );
        made.and(ports).and(credentials)?;
        self.launch(Begin::Incoming).await?;
        // What both QEMUs have open is the source's until the guest runs here. A paused guest does not begin to run, so
        // nothing would take its disks later.
        let comes_along = !travels || !self.known()?.assignment.volumes.is_empty();
        let late_activation = comes_along && !request.paused;
        let options = ListenOptions {
            host: endpoint.address.to_string(),
            ports: PORTS,
            disks: if travels { vec![DISK_NODE.to_owned()] } else { Vec::new() },
            late_activation,
            tls: Some(ListenTls { creds_dir: files(&self.host, self.vm).tls, source_dn }),
            postcopy: request.post_copy,
        };
        let destination = MigrationDestination::new(self.machine()?.qmp.clone());
        let listening = within(LISTEN_LIMIT, self.vm, destination.listen(&options))
            .await?
            .map_err(|error| problem("cannot-receive", &what, &error))?;
        self.remove_credentials().await;
        endpoint.ram_port = listening.ram_port;
        endpoint.disk_port = listening.nbd_port.unwrap_or(0);
        if let Some(migration) = self.record.as_mut().and_then(|record| record.migration.as_mut()) {
            migration.role = MigrationRole::Destination { endpoint: endpoint.clone(), paused: request.paused, source };
        }
        self.save().await?;
        Ok(endpoint)
    }

    async fn undo_receiver(&mut self, migration: Uuid, owner_uid: u32, error: &Problem) {
        if self.record.is_none() {
            self.host.uids.release(owner_uid);
            return;
        }
        tracing::warn!(vm = %self.vm, %migration, %error, "cannot receive this VM");
        if let Err(left) = self.tear_down().await {
            tracing::error!(vm = %self.vm, error = %left, "something of it is left until the agent starts again");
        }
    }

    /// The source has handed over. Decided once, then carried out; a repeated call carries on with it.
    pub(crate) async fn commit(&mut self, migration: Uuid) -> (Result<Verdict, Problem>, Next) {
        if !self.is_receiving() || self.migration_id() != Some(migration) {
            return (decide_unknown(&self.host, self.vm, migration).await, Next::Continue);
        }
        let loss = self.loss().await;
        let proposed = match &loss {
            None => self.decision(Verdict::Committed, "the source handed over"),
            Some(reason) => self.decision(Verdict::Aborted, reason),
        };
        let decision = self.host.verdicts.decide(migration, proposed).await.map(|decision| decision.verdict);
        self.carry_out_verdict(decision).await
    }

    /// The source sends them while it hands over; they are of use from the moment the guest runs. The guest stands still
    /// by now: frames that come here already wait at its port.
    pub(crate) async fn adopt_flows(&mut self, migration: Uuid, flows: &[Flow]) -> Result<(), Problem> {
        if !self.is_receiving() || self.migration_id() != Some(migration) {
            return Err(Problem::conflict("not-receiving", format!("migration {migration} is not received here"))
                .remedy("nothing is to be done: the source sends them once, and goes on without"));
        }
        if let Err(error) = self.host.networks.activate(self.vm).await {
            tracing::warn!(vm = %self.vm, %error, "the arriving guest's network port is not active yet");
        }
        let added = flows::adopt(&self.known()?.assignment.nics, flows).await?;
        tracing::debug!(vm = %self.vm, sent = flows.len(), added = added.len(), "connections of the arriving VM");
        self.adopted_flows.extend(added);
        Ok(())
    }

    fn decision(&self, verdict: Verdict, reason: &str) -> Decision {
        let migration = self.record.as_ref().and_then(|record| record.migration.as_ref());
        let source = migration.and_then(|migration| migration.source(&self.host.config.name));
        Decision { vm: self.vm, verdict, reason: reason.to_owned(), source }
    }

    async fn carry_out_verdict(&mut self, decided: Result<Verdict, Problem>) -> (Result<Verdict, Problem>, Next) {
        match decided {
            Ok(Verdict::Committed) => (self.take_over().await.map(|()| Verdict::Committed), Next::Continue),
            Ok(Verdict::Aborted) => (Ok(Verdict::Aborted), self.clean_up_aborted().await),
            Err(error) => (Err(error), Next::Continue),
        }
    }

    /// What can't be removed now is removed when the agent starts again.
    async fn clean_up_aborted(&mut self) -> Next {
        let added = std::mem::take(&mut self.adopted_flows);
        flows::give_back(&added).await;
        match self.tear_down().await {
            Ok(()) => Next::Over,
            Err(error) => {
                tracing::error!(vm = %self.vm, %error, "the aborted migration is not cleaned up yet");
                Next::Continue
            }
        }
    }

    fn migration_id(&self) -> Option<Uuid> {
        self.record.as_ref()?.migration.as_ref().map(|migration| migration.id)
    }

    /// Why the guest that was to come can't run here, if so.
    async fn loss(&self) -> Option<String> {
        let Run::On(machine) = &self.run else { return Some("its QEMU is gone".to_owned()) };
        if machine.process.has_exited().unwrap_or(true) {
            return Some("its QEMU has ended".to_owned());
        }
        let destination = MigrationDestination::new(machine.qmp.clone());
        match within(MONITOR_LIMIT, self.vm, destination.progress()).await {
            Ok(Ok(progress)) => match progress.phase {
                MigrationPhase::Failed | MigrationPhase::PostcopyPaused => {
                    Some(format!("the memory stream was lost in phase {}", progress.phase))
                }
                _ => None,
            },
            Ok(Err(error)) => Some(crate::problem::chain(&error)),
            Err(error) => Some(error.detail),
        }
    }

    /// The guest is ours: its frames come here, then it runs.
    async fn take_over(&mut self) -> Result<(), Problem> {
        let what = format!("taking over VM '{}'", self.known()?.assignment.name);
        self.take_disk_over().await?;
        let machine = self.machine()?;
        let destination = MigrationDestination::new(machine.qmp.clone());
        // The guest stands still meanwhile, so both are done at once.
        let (loaded, activated) = tokio::join!(
            within(LOAD_LIMIT, self.vm, destination.commit(false, Instant::now() + LOAD_LIMIT)),
            self.host.networks.activate(self.vm),
        );
        loaded?.map_err(|error| problem("not-taken-over", &what, &error))?;
        if let Err(error) = activated {
            // A guest without network is better than none; the controller's next update repairs it.
            tracing::error!(vm = %self.vm, %error, "the moved guest's network port is not active");
        }
        let paused = self.known()?.wanted == PowerState::Paused;
        if !paused {
            self.let_run(machine).await?;
            // Whether it executes is what the controller wants to know next.
            self.shared.ask_guest_now();
            // QEMU's own announcement was made when the memory was loaded, before the port was active.
            let announced = within(MONITOR_LIMIT, self.vm, machine.qmp.execute(ANNOUNCEMENT)).await;
            if !matches!(announced, Ok(Ok(_))) {
                tracing::warn!(vm = %self.vm, "outside clients may look for the moved guest for a while");
            }
        }
        self.paused = paused;
        self.adopted_flows.clear();
        if let Some(migration) = self.record.as_mut().and_then(|record| record.migration.as_mut()) {
            migration.state = MigrationState::Committed;
        }
        // The verdict is on disk already: a record that isn't yet is brought up to it when the agent starts.
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.vm, %error, "the committed migration is not in the VM's record yet");
        }
        Ok(())
    }

    /// Gives the migration up unless it is committed.
    pub(crate) async fn abort(&mut self, migration: Uuid) -> (Result<Verdict, Problem>, Next) {
        if !self.is_receiving() || self.migration_id() != Some(migration) {
            return (decide_unknown(&self.host, self.vm, migration).await, Next::Continue);
        }
        let decided = self.decide_aborted("it was asked to give up").await;
        self.carry_out_verdict(decided).await
    }

    pub(crate) async fn decide_aborted(&self, reason: &str) -> Result<Verdict, Problem> {
        let Some(migration) = self.migration_id() else { return Ok(Verdict::Aborted) };
        let proposed = self.decision(Verdict::Aborted, reason);
        Ok(self.host.verdicts.decide(migration, proposed).await?.verdict)
    }

    /// QEMU ended while receiving: the guest is not here and will not be.
    pub(crate) async fn receiving_failed(&mut self, reason: &str) -> Next {
        match self.decide_aborted(reason).await {
            Ok(Verdict::Aborted) => self.clean_up_aborted().await,
            Ok(Verdict::Committed) => {
                self.lost_after_commit(reason).await;
                Next::Continue
            }
            Err(error) => {
                tracing::error!(vm = %self.vm, %error, "the end of an incoming migration can't be decided yet");
                Next::Continue
            }
        }
    }

    /// It was ours and its QEMU is gone: as with any VM whose QEMU dies.
    async fn lost_after_commit(&mut self, reason: &str) {
        if let Some(record) = &mut self.record {
            record.process = None;
            record.end = Some(crate::records::End::failed(reason));
        }
        self.note_committed().await;
    }

    pub(crate) async fn note_committed(&mut self) {
        if let Some(migration) = self.record.as_mut().and_then(|record| record.migration.as_mut()) {
            migration.state = MigrationState::Committed;
        }
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.vm, %error, "what became of the incoming VM is not on disk");
        }
    }

    /// The agent was restarted while this VM was on its way here.
    pub(crate) async fn recover_receiving(&mut self) -> Next {
        let Some(migration) = self.migration_id() else { return Next::Over };
        let decision = match self.host.verdicts.get(migration).await {
            Ok(decision) => decision,
            Err(error) => {
                tracing::error!(vm = %self.vm, %error, "an incoming migration can't be taken up");
                return Next::Continue;
            }
        };
        let told = self.endpoint_of(migration).is_some();
        match (decision.map(|decision| decision.verdict), &self.run) {
            (Some(Verdict::Committed), Run::On(_)) => {
                if let Err(error) = self.take_over().await {
                    tracing::error!(vm = %self.vm, %error, "the committed VM does not run yet; the source asks again");
                }
                Next::Continue
            }
            // Taken over when it answers, or when it is gone.
            (Some(Verdict::Committed), Run::Deaf(_)) => Next::Continue,
            (Some(Verdict::Committed), Run::Off) => {
                // The guest was ours and its disk is complete: it starts again like any VM after a power loss.
                self.note_committed().await;
                self.keep_up().await;
                Next::Continue
            }
            (None, Run::On(_)) if told => Next::Continue,
            _ => self.receiving_failed("its QEMU ended while the agent was away").await,
        }
    }
}

/// The answer about a migration that is not being received here: what was decided, or that it is over now.
pub(crate) async fn decide_unknown(host: &Host, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
    let reason = "this host is not receiving it".to_owned();
    let decision =
        host.verdicts.decide(migration, Decision { vm, verdict: Verdict::Aborted, reason, source: None }).await?;
    Ok(decision.verdict)
}

/// What this host, as its destination, decided about a migration.
pub(crate) async fn settled_report(host: &Host, migration: Uuid) -> Result<MigrationReport, Problem> {
    let decision = host.verdicts.get(migration).await?;
    let decision = decision.ok_or_else(|| Problem::not_found("migration", &migration.to_string()))?;
    let (state, error) = match decision.verdict {
        Verdict::Committed => (MigrationState::Committed, None),
        Verdict::Aborted => {
            let detail = format!("the destination gave the migration up: {}", decision.reason);
            let error = Problem::transient("migration-aborted", detail).remedy("migrate again, or to another host");
            (MigrationState::Aborted, Some(error))
        }
    };
    Ok(MigrationReport {
        migration,
        state,
        progress: Default::default(),
        figures: None,
        error,
        source: decision.source,
        recovery_port: None,
    })
}
