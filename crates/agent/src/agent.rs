//! The host's side of [`AgentApi`]: finds the VM's task for each call and passes it on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::access::ConsoleKind;
use gantry_api::agent::{
    AdoptVm, Assignment, ImageRef, Liveness, MigrationEndpoint, MigrationReport, PowerRequest, ProtectVm,
    ReceiveMigration, RevertVm, SendMigration, TakeSnapshot, TakenSnapshot, Verdict, VmObservation, VmRunState,
};
use gantry_api::{
    AgentApi,
    fencing::LeaseReport,
    rest::CaptureQuery,
    storage::{ExportVolume, PoolAssignment},
};
use gantry_hostlink::{Console, Content, Exported, Streams};
use gantry_qemu::machine::SocketsDir;
use gantry_types::{Flow, HostNetworks, HostResources, Name, Problem, ResourcesReport};
use tokio::sync::{Mutex, mpsc};
use uuid::Uuid;

use crate::backups::RepositoryWorks;
use crate::host::Host;
use crate::images::Images;
use crate::migration::{decide_unknown, settled_report};
use crate::problem::{chain, problem};
use crate::records::Loaded;
use crate::relocation::{Copies, Expected};
use crate::storage::pool_problem;
use crate::vm::{self, Command, VmHandle};

/// One host.
pub(crate) struct Agent {
    pub(crate) host: Arc<Host>,
    images: Images,
    vms: Mutex<HashMap<Uuid, VmHandle>>,
    /// VMs whose record can't be read, and why.
    damaged: Mutex<BTreeMap<Uuid, String>>,
    pub(crate) expected: Expected,
    pub(crate) copies: Copies,
    pub(crate) repository_works: RepositoryWorks,
}

impl Agent {
    pub fn new(host: Arc<Host>, images: Images) -> Self {
        Self {
            host,
            images,
            vms: Mutex::default(),
            damaged: Mutex::default(),
            expected: Expected::default(),
            copies: Copies::default(),
            repository_works: RepositoryWorks::default(),
        }
    }

    /// Takes up the VMs of the last run. Ports and guards come first, guests after them.
    pub async fn take_up(&self, loaded: Vec<Loaded>) {
        for (vm, record) in &loaded {
            if let Ok(record) = record {
                self.host.networks.remember(*vm, &record.assignment.nics, record.owner_uid, record.place()).await;
            }
        }
        if let Err(error) = self.host.networks.reapply().await {
            tracing::error!(%error, "the networks are not as they were");
        }
        let mut vms = self.vms.lock().await;
        for (vm, record) in loaded {
            match record {
                Ok(record) => {
                    vms.insert(vm, VmHandle::start(self.host.clone(), vm, Some(record)));
                }
                Err(error) => {
                    let reason = chain(&error);
                    tracing::error!(%vm, reason, "this VM can't be managed");
                    self.damaged.lock().await.insert(vm, reason);
                }
            }
        }
    }

    pub async fn observations(&self) -> Vec<VmObservation> {
        self.read_damaged_again().await;
        let mut vms = self.vms.lock().await;
        vms.retain(|_, handle| !handle.is_over());
        let mut all: Vec<_> = vms.values().filter_map(|handle| handle.shared.observation()).collect();
        drop(vms);
        let damaged = self.damaged.lock().await;
        all.extend(damaged.iter().filter_map(|(vm, reason)| damaged_observation(*vm, reason)));
        all
    }

    /// What this host says of its lease.
    pub async fn lease_report(&self) -> LeaseReport {
        // Nobody can say whether these may run.
        let any_damaged = !self.damaged.lock().await.is_empty();
        let vms = self.vms.lock().await;
        let settled = |generation: u64| !any_damaged && vms.values().all(|vm| vm.shared.has_settled(generation));
        self.host.lease.report(settled)
    }

    pub(crate) async fn find(&self, vm: Uuid) -> Option<VmHandle> {
        self.vms.lock().await.get(&vm).filter(|handle| !handle.is_over()).cloned()
    }

    pub(crate) async fn existing(&self, vm: Uuid) -> Result<VmHandle, Problem> {
        if let Some(reason) = self.damaged.lock().await.get(&vm) {
            return Err(self.damaged_problem(vm, reason));
        }
        self.find(vm).await.ok_or_else(|| {
            Problem::not_found("vm", &vm.to_string())
                .remedy("look again on which host the VM is, then repeat the command")
        })
    }

    /// The VM's task; a new one, without a record, for a VM that is not known.
    pub(crate) async fn obtain(&self, vm: Uuid) -> Result<VmHandle, Problem> {
        if let Some(reason) = self.damaged.lock().await.get(&vm) {
            return Err(self.damaged_problem(vm, reason));
        }
        let mut vms = self.vms.lock().await;
        match vms.get(&vm).filter(|handle| !handle.is_over()) {
            Some(handle) => Ok(handle.clone()),
            None => {
                let handle = VmHandle::start(self.host.clone(), vm, None);
                vms.insert(vm, handle.clone());
                Ok(handle)
            }
        }
    }

    pub(crate) async fn ensure_base(&self, assignment: &Assignment) -> Result<(), Problem> {
        self.ensure_image_at(assignment.disk.pool.as_ref(), assignment.disk.image.as_ref()).await
    }

    /// The image's file in this host's pool.
    pub(crate) async fn image_file(&self, image: &ImageRef) -> Result<std::path::PathBuf, Problem> {
        self.images.ensure(image).await?;
        self.images.file(image).await
    }

    /// The image is where a disk is to lie over it: in this pool, or the host's own.
    pub(crate) async fn ensure_image_at(
        &self,
        pool: Option<&PoolAssignment>,
        image: Option<&ImageRef>,
    ) -> Result<(), Problem> {
        match (image, pool) {
            (None, _) => Ok(()),
            (Some(image), None) => self.images.ensure(image).await,
            (Some(image), Some(pool)) => {
                let disks = self.host.pools.disks(Some(pool), self.host.no_claim()).await;
                let disks = disks
                    .map_err(|error| pool_problem("image-not-fetched", &format!("pool '{}'", pool.name), &error))?;
                self.images.ensure_in(&*disks, image).await
            }
        }
    }

    /// What could not be read may be readable now: an I/O error passes, and a record can be repaired.
    async fn read_damaged_again(&self) {
        let mut damaged = self.damaged.lock().await;
        let mut repaired = Vec::new();
        for (vm, reason) in damaged.iter_mut() {
            match self.host.records.read(*vm).await {
                Ok(record) => repaired.push((*vm, record)),
                Err(error) => *reason = chain(&error),
            }
        }
        if repaired.is_empty() {
            return;
        }
        for (vm, record) in &repaired {
            tracing::info!(%vm, "its record can be read again");
            self.host.uids.claim(record.owner_uid);
            self.host.networks.remember(*vm, &record.assignment.nics, record.owner_uid, record.place()).await;
        }
        if let Err(error) = self.host.networks.reapply().await {
            tracing::error!(%error, "the networks of VMs that are managed again are not as they were");
        }
        let mut vms = self.vms.lock().await;
        for (vm, record) in repaired {
            damaged.remove(&vm);
            vms.insert(vm, VmHandle::start(self.host.clone(), vm, Some(record)));
        }
    }

    fn damaged_problem(&self, vm: Uuid, reason: &str) -> Problem {
        let directory = self.host.records.vm_dir(vm);
        let path = directory.join("record.json");
        Problem::permanent("record-damaged", format!("VM {vm} can't be managed and is left as it is: {reason}")).remedy(
            format!(
                "repair or put back {}: it is read again every second; to delete the VM for good, stop the agent, end \
                 the VM's QEMU and remove {}",
                path.display(),
                directory.display()
            ),
        )
    }
}

fn damaged_observation(vm: Uuid, reason: &str) -> Option<VmObservation> {
    // The name is in the record that can't be read.
    let name: Name = format!("vm-{vm}").parse().ok()?;
    Some(VmObservation {
        uuid: vm,
        name,
        epoch: 0,
        state: VmRunState::Failed,
        reason: Some(reason.to_owned()),
        guest_agent: false,
        guest: None,
        accelerator: None,
        metrics: None,
        migration: None,
        ha: Default::default(),
        probes: Vec::new(),
        recovery_points: Vec::new(),
        volumes: Vec::new(),
        copies: None,
        owner_uid: 0,
        damaged: true,
        guarded: false,
    })
}

#[async_trait]
impl AgentApi for Agent {
    async fn observe(&self) -> Result<Vec<VmObservation>, Problem> {
        Ok(self.observations().await)
    }

    async fn ensure_image(&self, image: &ImageRef) -> Result<(), Problem> {
        self.images.ensure(image).await
    }
    async fn remove_image(&self, digest: &str) -> Result<(), Problem> {
        let removed = self.host.pools.remove_image(crate::images::digest(digest)?, &self.host.no_claim()).await;
        removed.map_err(|error| problem("image-not-removed", &format!("image {digest}"), &error))?;
        self.images.remove(digest).await
    }
    async fn apply_networks(&self, networks: &HostNetworks) -> Result<(), Problem> {
        self.host.networks.apply(networks).await
    }

    async fn apply_resources(&self, resources: &HostResources) -> Result<ResourcesReport, Problem> {
        self.host.resources.apply(resources).await
    }

    async fn define_vm(&self, assignment: &Assignment) -> Result<VmObservation, Problem> {
        // Before the VM's task gets to it: fetching may take long.
        self.ensure_base(assignment).await?;
        let handle = self.obtain(assignment.uuid).await?;
        handle.ask(assignment.uuid, |reply| Command::Define(Box::new(assignment.clone()), reply)).await
    }
    async fn adopt_vm(&self, vm: Uuid, request: &AdoptVm) -> Result<VmObservation, Problem> {
        self.ensure_base(&request.assignment).await?;
        let handle = self.obtain(vm).await?;
        handle.ask(vm, |reply| Command::Adopt(Box::new(request.clone()), reply)).await
    }
    async fn power(&self, vm: Uuid, request: &PowerRequest) -> Result<VmObservation, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::Power(request.clone(), reply)).await
    }
    async fn protect_vm(&self, vm: Uuid, request: &ProtectVm) -> Result<(), Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::Protect(request.clone(), reply)).await
    }
    async fn remove_vm(&self, vm: Uuid, epoch: u64) -> Result<(), Problem> {
        // Whose epoch is not known: whatever the caller means may be older than what is here.
        if let Some(reason) = self.damaged.lock().await.get(&vm) {
            return Err(self.damaged_problem(vm, reason));
        }
        self.expected.forget(vm).await;
        match self.find(vm).await {
            Some(handle) => handle.ask(vm, |reply| Command::Remove { epoch, reply }).await,
            None => Ok(()),
        }
    }

    async fn take_snapshot(&self, vm: Uuid, request: &TakeSnapshot) -> Result<TakenSnapshot, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::TakeSnapshot(request.clone(), reply)).await
    }
    async fn delete_snapshot(&self, vm: Uuid, epoch: u64, snapshot: Uuid) -> Result<(), Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::DeleteSnapshot { epoch, snapshot, reply }).await
    }
    async fn revert_vm(&self, vm: Uuid, request: &RevertVm) -> Result<VmObservation, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::Revert(request.clone(), reply)).await
    }

    async fn receive_migration(&self, vm: Uuid, request: &ReceiveMigration) -> Result<MigrationEndpoint, Problem> {
        self.ensure_base(&request.assignment).await?;
        let handle = self.obtain(vm).await?;
        handle.ask(vm, |reply| Command::Receive(Box::new(request.clone()), reply)).await
    }
    async fn send_migration(&self, vm: Uuid, request: &SendMigration) -> Result<(), Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::Send(Box::new(request.clone()), reply)).await
    }
    async fn migration_report(&self, vm: Uuid, migration: Uuid) -> Result<MigrationReport, Problem> {
        match self.find(vm).await {
            Some(handle) => handle.ask(vm, |reply| Command::Report(migration, reply)).await,
            None => settled_report(&self.host, migration).await,
        }
    }
    async fn cancel_migration(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::Cancel(migration, reply)).await
    }
    async fn adopt_flows(&self, vm: Uuid, migration: Uuid, flows: &[Flow]) -> Result<(), Problem> {
        let handle = self.existing(vm).await?;
        handle.ask(vm, |reply| Command::AdoptFlows(migration, flows.to_vec(), reply)).await
    }
    async fn commit_migration(&self, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
        match self.find(vm).await {
            Some(handle) => handle.ask(vm, |reply| Command::Commit(migration, reply)).await,
            None => decide_unknown(&self.host, vm, migration).await,
        }
    }
    async fn abort_migration(&self, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
        match self.find(vm).await {
            Some(handle) => handle.ask(vm, |reply| Command::Abort(migration, reply)).await,
            None => decide_unknown(&self.host, vm, migration).await,
        }
    }
    async fn release_migration(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        match self.find(vm).await {
            Some(handle) => handle.ask(vm, |reply| Command::Release(migration, reply)).await,
            None => Ok(()),
        }
    }
    async fn check_liveness(&self, vm: Uuid, expect_guest_agent: bool) -> Result<Liveness, Problem> {
        let handle = self.existing(vm).await?;
        vm::check_liveness(vm, &handle, expect_guest_agent).await
    }
}

#[async_trait]
impl Streams for Agent {
    async fn open(&self, vm: Uuid, kind: ConsoleKind) -> Result<Console, Problem> {
        let line = self.existing(vm).await?.shared.console();
        let line = line.ok_or_else(|| {
            Problem::conflict("vm-not-running", format!("VM {vm} does not run on this host, so it has no console"))
                .remedy("start it first")
        })?;
        if kind == ConsoleKind::Serial {
            return Ok(line.open());
        }
        let socket = SocketsDir(self.host.records.run_dir(vm)).vnc();
        vm::open_screen(&socket).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Problem::conflict("no-display", format!("VM {vm} runs without a display"))
                .remedy("stop it and give it one: gantry vm set NAME --display vga"),
            _ => Problem::transient("qemu-silent", format!("the display of VM {vm} can't be reached: {error}")),
        })
    }

    async fn capture(&self, port: Uuid, limits: CaptureQuery) -> Result<mpsc::Receiver<Vec<u8>>, Problem> {
        self.host.networks.capture(port, limits).await
    }

    async fn take_disk(&self, vm: Uuid, from: &Name, bytes: u64, content: Content) -> Result<(), Problem> {
        self.take_disk_of(vm, from, bytes, content).await
    }

    async fn export(&self, request: ExportVolume) -> Result<Exported, Problem> {
        self.export_volume(request).await
    }
}
