//! The typed client of the public API. The CLI, the end-to-end tests and the benchmarks use it.
//!
//! One method per operation of the API; all kinds of object share the generic ones. Errors are the controller's
//! problems, or a transient problem if it can't be reached.

mod change;
mod uploads;
mod watch;

use std::time::Duration;

use gantry_api::access::{ConsoleKind, CreateUser, CreatedUser, PasswordSet, SetPassword};
use gantry_api::alarms::{AcknowledgeRequest, SilenceRequest};
use gantry_api::audit::{AuditPage, AuditQuery};
use gantry_api::backup::{BackupContent, RepositoryContent};
use gantry_api::energy::{EnergyQuery, EnergyReport};
use gantry_api::overview::{Overview, SearchQuery, SearchResult};
use gantry_api::rest::{
    AdoptBackupsQuery, AdoptedBackups, AttachRequest, BackupFilesQuery, CaptureQuery, Changed, CloneRequest,
    CreateToken, CreatedToken, DeleteBackupQuery, DeleteVmQuery, ExportQuery, FenceRequest, HaExplanation, ListQuery,
    MigrateRequest, MigrateVolumeRequest, Page, RebootRequest, RecoverRequest, RepositoryCheckQuery,
    RestoreBackupRequest, RevertRequest, StopRequest, Trace, TraceQuery, UpdateClusterRequest, Version, VmExplanation,
    WriteQuery,
};
use gantry_hostlink::{answer, causes, checked};
use gantry_trust::{ClientConfig, ExpectedPeer, TrustError, WebSocket};
use gantry_types::{
    Alarm, Backup, Cluster, Host, Notice, Operation, Port, Problem, Receiver, Repository, Resource, Snapshot, User, Vm,
    Volume,
};
use reqwest::{
    Method, RequestBuilder,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde::Serialize;

pub use watch::Watch;

/// For calls that answer at once.
const QUICK: Duration = Duration::from_secs(30);

/// A connection pool to one controller.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    config: ClientConfig,
    base: String,
    peer: String,
    token: String,
}

impl Client {
    /// To the controller at `url` (`https://ADDRESS:PORT`), trusting only `ca_pem`, as the bearer of `token`. Nothing
    /// is sent yet.
    pub fn new(url: &str, ca_pem: &str, token: &str) -> Result<Self, TrustError> {
        let config = ClientConfig::anonymous(ca_pem, ExpectedPeer::any_controller())?;
        let base = url.trim_end_matches('/').to_owned();
        let peer = format!("the controller at {base}");
        Ok(Self { http: config.http()?, config, base, peer, token: token.to_owned() })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }
    fn quick(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).timeout(QUICK)
    }
    fn verb<T: Serialize>(&self, path: &str, body: &T) -> RequestBuilder {
        self.quick(Method::POST, path).json(body)
    }

    pub async fn version(&self) -> Result<Version, Problem> {
        answer(&self.peer, self.quick(Method::GET, "/v1/version")).await
    }

    pub async fn get<T: Resource>(&self, name: &str) -> Result<T, Problem> {
        answer(&self.peer, self.quick(Method::GET, &object_path::<T>(name)?)).await
    }
    /// One page.
    pub async fn page<T: Resource>(&self, query: &ListQuery) -> Result<Page<T>, Problem> {
        let request = self.quick(Method::GET, &format!("/v1/{}", T::PLURAL)).query(query);
        answer(&self.peer, request).await
    }
    /// All pages.
    pub async fn list<T: Resource>(&self, selector: Option<&str>) -> Result<Vec<T>, Problem> {
        let mut query = ListQuery { selector: selector.map(str::to_owned), limit: Some(1000), ..ListQuery::default() };
        let mut items = Vec::new();
        loop {
            let page: Page<T> = self.page(&query).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => query.next = Some(next),
                None => return Ok(items),
            }
        }
    }
    pub async fn create<T: Resource>(&self, object: &T, write: &WriteQuery) -> Result<Changed<T>, Problem> {
        let request = self.verb(&format!("/v1/{}", T::PLURAL), object).query(write);
        answer(&self.peer, request).await
    }
    pub async fn update<T: Resource>(&self, object: &T, write: &WriteQuery) -> Result<Changed<T>, Problem> {
        let request = self.quick(Method::PUT, &object_path::<T>(object.name())?).json(object).query(write);
        answer(&self.peer, request).await
    }
    pub async fn delete<T: Resource>(&self, name: &str, write: &WriteQuery) -> Result<Changed<T>, Problem> {
        let request = self.quick(Method::DELETE, &object_path::<T>(name)?).query(write);
        answer(&self.peer, request).await
    }
    /// With what only the deletion of a VM can be told.
    pub async fn delete_vm(&self, vm: &str, query: &DeleteVmQuery) -> Result<Changed<Vm>, Problem> {
        let request = self.quick(Method::DELETE, &object_path::<Vm>(vm)?).query(query);
        answer(&self.peer, request).await
    }

    pub async fn start(&self, vm: &str) -> Result<Changed<Vm>, Problem> {
        self.vm_verb(vm, "start", &()).await
    }
    pub async fn stop(&self, vm: &str, request: &StopRequest) -> Result<Changed<Vm>, Problem> {
        self.vm_verb(vm, "stop", request).await
    }
    pub async fn reboot(&self, vm: &str, request: &RebootRequest) -> Result<Changed<Vm>, Problem> {
        self.vm_verb(vm, "reboot", request).await
    }
    pub async fn pause(&self, vm: &str) -> Result<Changed<Vm>, Problem> {
        self.vm_verb(vm, "pause", &()).await
    }
    pub async fn resume(&self, vm: &str) -> Result<Changed<Vm>, Problem> {
        self.vm_verb(vm, "resume", &()).await
    }
    pub async fn migrate(&self, vm: &str, request: &MigrateRequest) -> Result<Changed<Vm>, Problem> {
        self.vm_verb(vm, "migrate", request).await
    }
    /// The object is the clone.
    pub async fn clone_vm(&self, vm: &str, request: &CloneRequest, query: &WriteQuery) -> Result<Changed<Vm>, Problem> {
        let path = format!("{}/clone", object_path::<Vm>(vm)?);
        answer(&self.peer, self.verb(&path, request).query(query)).await
    }
    pub async fn recover(&self, vm: &str, request: &RecoverRequest) -> Result<Changed<Vm>, Problem> {
        self.vm_verb(vm, "recover", request).await
    }
    pub async fn revert(&self, snapshot: &str, request: &RevertRequest) -> Result<Changed<Snapshot>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/revert", object_path::<Snapshot>(snapshot)?), request)).await
    }
    pub async fn restore_backup(&self, backup: &str, request: &RestoreBackupRequest) -> Result<Changed<Vm>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/restore", object_path::<Backup>(backup)?), request)).await
    }
    pub async fn verify_backup(&self, backup: &str) -> Result<Changed<Backup>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/verify", object_path::<Backup>(backup)?), &())).await
    }
    pub async fn check_repository(&self, repository: &str, host: Option<String>) -> Result<RepositoryContent, Problem> {
        let path = format!("{}/check", object_path::<Repository>(repository)?);
        answer(&self.peer, self.verb(&path, &()).query(&RepositoryCheckQuery { host })).await
    }
    /// One page.
    pub async fn adopt_backups(&self, repository: &str, query: &AdoptBackupsQuery) -> Result<AdoptedBackups, Problem> {
        let path = format!("{}/adopt", object_path::<Repository>(repository)?);
        answer(&self.peer, self.verb(&path, &()).query(query)).await
    }
    pub async fn backup_files(&self, backup: &str, query: &BackupFilesQuery) -> Result<BackupContent, Problem> {
        let path = format!("{}/files", object_path::<Backup>(backup)?);
        answer(&self.peer, self.quick(Method::GET, &path).query(query)).await
    }
    /// With what only the deletion of a backup can be told.
    pub async fn delete_backup(&self, backup: &str, query: &DeleteBackupQuery) -> Result<Changed<Backup>, Problem> {
        answer(&self.peer, self.quick(Method::DELETE, &object_path::<Backup>(backup)?).query(query)).await
    }
    pub async fn attach(&self, volume: &str, request: &AttachRequest) -> Result<Changed<Volume>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/attach", object_path::<Volume>(volume)?), request)).await
    }
    pub async fn migrate_volume(
        &self,
        volume: &str,
        request: &MigrateVolumeRequest,
    ) -> Result<Changed<Volume>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/migrate", object_path::<Volume>(volume)?), request)).await
    }
    /// All of a volume; the body is the file.
    pub async fn export(&self, volume: &str, query: &ExportQuery) -> Result<reqwest::Response, Problem> {
        let path = format!("{}/content", object_path::<Volume>(volume)?);
        checked(&self.peer, self.request(Method::GET, &path).query(query)).await
    }
    pub async fn detach(&self, volume: &str) -> Result<Changed<Volume>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/detach", object_path::<Volume>(volume)?), &())).await
    }
    async fn vm_verb(&self, vm: &str, verb: &str, body: &impl Serialize) -> Result<Changed<Vm>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/{verb}", object_path::<Vm>(vm)?), body)).await
    }

    pub async fn explain(&self, vm: &str) -> Result<VmExplanation, Problem> {
        answer(&self.peer, self.quick(Method::GET, &format!("{}/explain", object_path::<Vm>(vm)?))).await
    }
    pub async fn explain_ha(&self, vm: &str) -> Result<HaExplanation, Problem> {
        answer(&self.peer, self.quick(Method::GET, &format!("{}/ha", object_path::<Vm>(vm)?))).await
    }
    /// Carries a policy's recommendation out.
    pub async fn apply_recommendation(&self, policy: &str, id: &str) -> Result<Operation, Problem> {
        // An id is made of names.
        let id: gantry_types::Name = id.parse().map_err(|_| Problem::not_found("recommendation", id))?;
        let path = format!("{}/recommendations/{id}/apply", object_path::<gantry_types::Policy>(policy)?);
        answer(&self.peer, self.verb(&path, &())).await
    }
    /// `drain`, `undrain`, `sleep`, `wake` or `reboot`.
    pub async fn host_verb(&self, host: &str, verb: &str) -> Result<Changed<Host>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/{verb}", object_path::<Host>(host)?), &())).await
    }
    pub async fn fence(&self, host: &str, request: &FenceRequest) -> Result<Changed<Host>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/fence", object_path::<Host>(host)?), request)).await
    }
    pub async fn acknowledge(&self, alarm: &str, request: &AcknowledgeRequest) -> Result<Changed<Alarm>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/acknowledge", object_path::<Alarm>(alarm)?), request)).await
    }
    pub async fn silence(&self, alarm: &str, request: &SilenceRequest) -> Result<Changed<Alarm>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/silence", object_path::<Alarm>(alarm)?), request)).await
    }
    pub async fn test_receiver(&self, receiver: &str) -> Result<Changed<Notice>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/test", object_path::<Receiver>(receiver)?), &())).await
    }
    pub async fn update_cluster(
        &self,
        cluster: &str,
        request: &UpdateClusterRequest,
    ) -> Result<Changed<Cluster>, Problem> {
        answer(&self.peer, self.verb(&format!("{}/update", object_path::<Cluster>(cluster)?), request)).await
    }

    pub async fn cancel(&self, operation: &str) -> Result<Operation, Problem> {
        answer(&self.peer, self.verb(&format!("{}/cancel", object_path::<Operation>(operation)?), &())).await
    }
    pub async fn trace(&self, port: &str, query: &TraceQuery) -> Result<Trace, Problem> {
        let path = format!("{}/trace", object_path::<Port>(port)?);
        answer(&self.peer, self.quick(Method::GET, &path).query(query)).await
    }

    /// A pcap file that grows until a limit is reached.
    pub async fn capture(&self, port: &str, query: &CaptureQuery) -> Result<reqwest::Response, Problem> {
        let path = format!("{}/capture", object_path::<Port>(port)?);
        checked(&self.peer, self.request(Method::GET, &path).query(query)).await
    }

    pub async fn create_token(&self, request: &CreateToken) -> Result<CreatedToken, Problem> {
        answer(&self.peer, self.verb("/v1/tokens", request)).await
    }

    pub async fn create_user(&self, request: &CreateUser) -> Result<CreatedUser, Problem> {
        answer(&self.peer, self.verb("/v1/users", request)).await
    }
    pub async fn set_password(&self, user: &str, request: &SetPassword) -> Result<PasswordSet, Problem> {
        answer(&self.peer, self.verb(&format!("{}/password", object_path::<User>(user)?), request)).await
    }

    /// With groups by this label of hosts.
    pub async fn overview(&self, by: &str) -> Result<Overview, Problem> {
        answer(&self.peer, self.quick(Method::GET, "/v1/overview").query(&[("by", by)])).await
    }
    pub async fn search(&self, query: &SearchQuery) -> Result<SearchResult, Problem> {
        answer(&self.peer, self.quick(Method::GET, "/v1/search").query(query)).await
    }
    pub async fn energy(&self, query: &EnergyQuery) -> Result<EnergyReport, Problem> {
        answer(&self.peer, self.quick(Method::GET, "/v1/energy").query(query)).await
    }
    /// One page, the newest first.
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, Problem> {
        answer(&self.peer, self.quick(Method::GET, "/v1/audit").query(query)).await
    }

    /// One of the VM's consoles: bytes both ways in binary messages.
    pub async fn console(&self, vm: &str, kind: ConsoleKind) -> Result<WebSocket, Problem> {
        let url = format!("{}{}/{}", self.base, object_path::<Vm>(vm)?, kind.path());
        let mut headers = HeaderMap::new();
        let token = HeaderValue::from_str(&format!("Bearer {}", self.token))
            .map_err(|_| Problem::invalid("invalid-token", "the API token has characters that no token has"))?;
        headers.insert(AUTHORIZATION, token);
        self.config.websocket(&url, headers).await.map_err(|error| match error {
            TrustError::UpgradeRefused { ref body, .. } => {
                serde_json::from_str(body).unwrap_or_else(|_| Problem::permanent("unexpected-answer", causes(&error)))
            }
            other => Problem::transient("peer-unreachable", format!("{}: {}", self.peer, causes(&other))),
        })
    }
}

/// A name from a command line must not leave its place in a URL.
fn object_path<T: Resource>(name: &str) -> Result<String, Problem> {
    let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if valid && !name.starts_with('.') {
        return Ok(format!("/v1/{}/{name}", T::PLURAL));
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Err(Problem::invalid("invalid-name", format!("'{shown}' can't be the name of a {}", T::KIND)))
}
