//! [`AgentApi`] of a host that is elsewhere.
//!
//! Every call has a time limit; one that runs into it is transient, because the host may have done what was asked:
//! the caller asks again, and every call can be repeated.

use std::time::Duration;

use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderName};
use gantry_api::{
    AgentApi,
    access::ConsoleKind,
    agent::{
        AdoptVm, Assignment, ImageRef, Liveness, MigrationEndpoint, MigrationReport, PowerRequest, ProtectVm,
        ReceiveMigration, RevertVm, SendMigration, TakeSnapshot, TakenSnapshot, Verdict, VmObservation,
    },
    paths::host as paths,
    rest::CaptureQuery,
    storage::ExportVolume,
};
use gantry_trust::{ClientConfig, ExpectedPeer, LiveIdentity, TrustError, WebSocket};
use gantry_types::{Flow, HostNetworks, HostResources, Name, Problem, ResourcesReport};
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use uuid::Uuid;

use crate::reply::{answer, causes, checked, done};

/// For calls that only look or flip a switch.
pub(crate) const QUICK: Duration = Duration::from_secs(10);
/// For calls that make disks or start processes.
pub(crate) const SLOW: Duration = Duration::from_secs(60);
/// For fetching an image over the datacenter's own network.
pub(crate) const FETCH: Duration = Duration::from_secs(1800);

/// For calls that write or read a guest's memory.
pub(crate) const STATE: Duration = Duration::from_secs(3600);

/// A connection pool to the agent of one host.
#[derive(Clone)]
pub struct AgentClient {
    http: reqwest::Client,
    config: ClientConfig,
    pub(crate) host: String,
    base: String,
    /// Which of the host's fences are known to be lifted.
    lifted: u64,
}

impl AgentClient {
    /// To the agent of `host` at `address` (`ADDRESS:PORT`). Nothing is sent yet.
    pub fn new(identity: &LiveIdentity, host: &Name, address: &str) -> Result<Self, TrustError> {
        let config = ClientConfig::with_identity(identity, ExpectedPeer::host(host.clone()))?;
        let http = config.http()?;
        Ok(Self {
            http,
            config,
            host: format!("the agent of host '{host}'"),
            base: format!("https://{address}"),
            lifted: 0,
        })
    }

    /// For a controller that knows the host's fences up to this one to be lifted: it says so with each call.
    pub fn knowing_lifted(&self, lifted: u64) -> Self {
        Self { lifted, ..self.clone() }
    }

    /// Captures what passes a port; the body is a pcap file that grows until a limit is reached.
    pub async fn capture(&self, port: Uuid, limits: &CaptureQuery) -> Result<reqwest::Response, Problem> {
        let url = format!("{}{}", self.base, paths::port_capture(port));
        let request = self.http.get(url).query(limits).header(paths::FENCES_LIFTED_HEADER, self.lifted);
        checked(&self.host, request).await
    }

    /// A volume as a file; the body is that.
    pub async fn export(&self, request: &ExportVolume) -> Result<reqwest::Response, Problem> {
        let path = format!("{}/content", paths::pool_volume(request.volume.pool.uuid, request.volume.uuid));
        let sent = self.http.post(format!("{}{path}", self.base)).json(request);
        checked(&self.host, sent.header(paths::FENCES_LIFTED_HEADER, self.lifted)).await
    }

    /// Opens one of the VM's consoles: bytes both ways in binary messages.
    pub async fn console(&self, vm: Uuid, kind: ConsoleKind) -> Result<WebSocket, Problem> {
        let url = format!("{}{}", self.base, paths::vm_part(vm, kind.path()));
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static(paths::FENCES_LIFTED_HEADER), self.lifted.into())]);
        self.config.websocket(&url, headers).await.map_err(|error| match error {
            TrustError::UpgradeRefused { body, .. } if serde_json::from_str::<Problem>(&body).is_ok() => {
                serde_json::from_str(&body).unwrap_or_else(|_| Problem::permanent("console", body))
            }
            other => Problem::transient("peer-unreachable", format!("{}: {}", self.host, causes(&other))),
        })
    }

    pub(crate) fn request(&self, method: Method, path: &str, limit: Duration) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).timeout(limit);
        request.header(paths::FENCES_LIFTED_HEADER, self.lifted)
    }
    pub(crate) fn put(&self, path: &str, body: &impl Serialize, limit: Duration) -> RequestBuilder {
        self.request(Method::PUT, path, limit).json(body)
    }
    pub(crate) fn post(&self, path: &str, body: &impl Serialize, limit: Duration) -> RequestBuilder {
        self.request(Method::POST, path, limit).json(body)
    }
    fn migration_verb(&self, vm: Uuid, migration: Uuid, verb: &str) -> RequestBuilder {
        self.request(Method::POST, &format!("{}/{verb}", paths::migration(vm, migration)), QUICK)
    }
}

#[async_trait]
impl AgentApi for AgentClient {
    async fn observe(&self) -> Result<Vec<VmObservation>, Problem> {
        answer(&self.host, self.request(Method::GET, paths::OBSERVE, QUICK)).await
    }
    async fn ensure_image(&self, image: &ImageRef) -> Result<(), Problem> {
        done(&self.host, self.put(&paths::image(&image.digest), image, FETCH)).await
    }
    async fn remove_image(&self, digest: &str) -> Result<(), Problem> {
        done(&self.host, self.request(Method::DELETE, &paths::image(digest), SLOW)).await
    }
    async fn apply_networks(&self, networks: &HostNetworks) -> Result<(), Problem> {
        done(&self.host, self.put(paths::NETWORKS, networks, SLOW)).await
    }
    async fn apply_resources(&self, resources: &HostResources) -> Result<ResourcesReport, Problem> {
        answer(&self.host, self.put(paths::RESOURCES, resources, QUICK)).await
    }
    async fn define_vm(&self, assignment: &Assignment) -> Result<VmObservation, Problem> {
        answer(&self.host, self.put(&paths::vm(assignment.uuid), assignment, SLOW)).await
    }
    async fn adopt_vm(&self, vm: Uuid, request: &AdoptVm) -> Result<VmObservation, Problem> {
        answer(&self.host, self.post(&paths::vm_part(vm, "adoption"), request, SLOW)).await
    }
    async fn power(&self, vm: Uuid, request: &PowerRequest) -> Result<VmObservation, Problem> {
        answer(&self.host, self.post(&paths::vm_part(vm, "power"), request, SLOW)).await
    }
    async fn protect_vm(&self, vm: Uuid, request: &ProtectVm) -> Result<(), Problem> {
        done(&self.host, self.put(&paths::vm_part(vm, "protection"), request, QUICK)).await
    }
    async fn remove_vm(&self, vm: Uuid, epoch: u64) -> Result<(), Problem> {
        let request = self.request(Method::DELETE, &paths::vm(vm), SLOW).query(&[("epoch", epoch)]);
        done(&self.host, request).await
    }
    async fn take_snapshot(&self, vm: Uuid, request: &TakeSnapshot) -> Result<TakenSnapshot, Problem> {
        answer(&self.host, self.put(&paths::snapshot(vm, request.snapshot), request, STATE)).await
    }
    async fn delete_snapshot(&self, vm: Uuid, epoch: u64, snapshot: Uuid) -> Result<(), Problem> {
        let request = self.request(Method::DELETE, &paths::snapshot(vm, snapshot), STATE);
        done(&self.host, request.query(&[("epoch", epoch)])).await
    }
    async fn revert_vm(&self, vm: Uuid, request: &RevertVm) -> Result<VmObservation, Problem> {
        answer(&self.host, self.post(&paths::vm_part(vm, "revert"), request, STATE)).await
    }
    async fn receive_migration(&self, vm: Uuid, request: &ReceiveMigration) -> Result<MigrationEndpoint, Problem> {
        answer(&self.host, self.post(&paths::vm_part(vm, "receive"), request, SLOW)).await
    }
    async fn send_migration(&self, vm: Uuid, request: &SendMigration) -> Result<(), Problem> {
        done(&self.host, self.post(&paths::vm_part(vm, "send"), request, SLOW)).await
    }
    async fn migration_report(&self, vm: Uuid, migration: Uuid) -> Result<MigrationReport, Problem> {
        answer(&self.host, self.request(Method::GET, &paths::migration(vm, migration), QUICK)).await
    }
    async fn cancel_migration(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        done(&self.host, self.migration_verb(vm, migration, "cancel")).await
    }
    async fn adopt_flows(&self, vm: Uuid, migration: Uuid, flows: &[Flow]) -> Result<(), Problem> {
        done(&self.host, self.migration_verb(vm, migration, "flows").json(&flows)).await
    }
    async fn commit_migration(&self, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
        answer(&self.host, self.migration_verb(vm, migration, "commit")).await
    }
    async fn abort_migration(&self, vm: Uuid, migration: Uuid) -> Result<Verdict, Problem> {
        answer(&self.host, self.migration_verb(vm, migration, "abort")).await
    }
    async fn release_migration(&self, vm: Uuid, migration: Uuid) -> Result<(), Problem> {
        done(&self.host, self.migration_verb(vm, migration, "release").timeout(SLOW)).await
    }
    async fn check_liveness(&self, vm: Uuid, expect_guest_agent: bool) -> Result<Liveness, Problem> {
        let path = paths::vm_part(vm, "liveness");
        let query = [("expect_guest_agent", expect_guest_agent)];
        answer(&self.host, self.request(Method::GET, &path, SLOW).query(&query)).await
    }
}
