//! [`AgentApi`] of a host that is at the other end of a bad network: what the controller has of its hosts here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use gantry_api::agent::*;
use gantry_api::backup::*;
use gantry_api::fencing::*;
use gantry_api::mirror::*;
use gantry_api::relocation::*;
use gantry_api::storage::*;
use gantry_api::{AgentApi, FencingApi};
use gantry_controller::links::HostLinks;
use gantry_hostlink::stale_fence;
use gantry_types::*;
use uuid::Uuid;

use super::agent::AgentSide;
use super::hub::{CONTROLLER, Hub, Node, Server};
use super::time::Timers;
use crate::rules::host_node;

/// As of calls over HTTP.
const LIMIT: Duration = Duration::from_secs(10);
/// What only looks is answered to everybody.
const LOOKS: [&str; 3] = ["observe", "migration_report", "check_liveness"];

/// Every host's agent, as the controller reaches it.
pub struct Wires {
    pub hub: Arc<Hub>,
    pub timers: Arc<Timers>,
    /// Says that it knows of every fence that was lifted, whether it does or not.
    pub knows_all: bool,
}

impl HostLinks for Wires {
    fn agent(&self, host: &Host) -> Arc<dyn AgentApi> {
        let lifted = if self.knows_all { u64::MAX } else { host.status.fences_lifted };
        let to = host_node(&host.metadata.name).unwrap_or(CONTROLLER);
        Arc::new(Wire { hub: Arc::clone(&self.hub), timers: Arc::clone(&self.timers), to, lifted })
    }
}

struct Wire {
    hub: Arc<Hub>,
    timers: Arc<Timers>,
    to: Node,
    lifted: u64,
}

impl Wire {
    async fn carry<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Fn(Arc<AgentSide>) -> BoxFuture<'static, Result<T, Problem>> + Send + Sync + 'static,
    ) -> Result<T, Problem> {
        let known = self.lifted;
        let work = move |server| -> BoxFuture<'static, Result<T, Problem>> {
            let Server::Agent(agent) = server else {
                return Box::pin(async { Err(Problem::permanent("no-agent", "a controller is no host")) });
            };
            let lifted = agent.lifted();
            if known < lifted && !LOOKS.contains(&what) {
                return Box::pin(async move { Err(stale_fence(known, lifted)) });
            }
            work(agent)
        };
        let answered =
            Arc::clone(&self.hub).call((CONTROLLER, self.to), what, (Arc::clone(&self.timers), LIMIT), work).await;
        let silent = || Problem::transient("host-unreachable", format!("host {} does not answer", self.to));
        answered.unwrap_or_else(|| Err(silent()))
    }
}

/// Each call with what comes first by reference, then by value, then by reference.
macro_rules! carried {
    ($api:ident { $($call:ident($($a:ident: &$at:ty)?; $($v:ident: $vt:ty),*; $($b:ident: &$bt:ty)?) -> $out:ty,)* }) => {
        #[async_trait]
        impl $api for Wire {
            $(async fn $call(&self, $($a: &$at,)? $($v: $vt,)* $($b: &$bt,)?) -> Result<$out, Problem> {
                $(let $a = $a.to_owned();)? $(let $b = $b.to_owned();)?
                self.carry(stringify!($call), move |agent| {
                    $(let $a = $a.clone();)? $(let $b = $b.clone();)?
                    Box::pin(async move { agent.$call($(&$a,)? $($v,)* $(&$b,)?).await })
                }).await
            })*
        }
    };
}

carried! { AgentApi {
    observe(;;) -> Vec<VmObservation>,
    ensure_image(image: &ImageRef;;) -> (),
    remove_image(digest: &str;;) -> (),
    apply_networks(networks: &HostNetworks;;) -> (),
    apply_resources(resources: &HostResources;;) -> ResourcesReport,
    define_vm(assignment: &Assignment;;) -> VmObservation,
    adopt_vm(; vm: Uuid; request: &AdoptVm) -> VmObservation,
    power(; vm: Uuid; request: &PowerRequest) -> VmObservation,
    protect_vm(; vm: Uuid; request: &ProtectVm) -> (),
    remove_vm(; vm: Uuid, epoch: u64;) -> (),
    take_snapshot(; vm: Uuid; request: &TakeSnapshot) -> TakenSnapshot,
    delete_snapshot(; vm: Uuid, epoch: u64, snapshot: Uuid;) -> (),
    revert_vm(; vm: Uuid; request: &RevertVm) -> VmObservation,
    receive_migration(; vm: Uuid; request: &ReceiveMigration) -> MigrationEndpoint,
    send_migration(; vm: Uuid; request: &SendMigration) -> (),
    migration_report(; vm: Uuid, migration: Uuid;) -> MigrationReport,
    cancel_migration(; vm: Uuid, migration: Uuid;) -> (),
    adopt_flows(; vm: Uuid, migration: Uuid; flows: &[Flow]) -> (),
    commit_migration(; vm: Uuid, migration: Uuid;) -> Verdict,
    abort_migration(; vm: Uuid, migration: Uuid;) -> Verdict,
    release_migration(; vm: Uuid, migration: Uuid;) -> (),
    check_liveness(; vm: Uuid, expect_guest_agent: bool;) -> Liveness,
} }

carried! { FencingApi {
    ask_fence(question: &FenceQuestion;;) -> FenceAnswer,
    store_fence(fence: &Fence;;) -> StoredFence,
    lift_fence(lifted: &LiftedFence;;) -> (),
} }

carried! { StorageApi {
    open_pool(pool: &PoolAssignment;;) -> (),
    join_pool(pool: &PoolAssignment;;) -> (),
    close_pool(pool: &PoolAssignment;;) -> (),
    create_volume(volume: &VolumeAssignment;;) -> (),
    grow_volume(volume: &VolumeAssignment;;) -> (),
    fill_volume(request: &FillVolume;;) -> (),
    delete_volume(pool: &PoolAssignment; volume: Uuid;) -> (),
    attach_volume(; vm: Uuid; request: &AttachVolume) -> (),
    detach_volume(; vm: Uuid, epoch: u64, volume: Uuid;) -> (),
    move_volume(; vm: Uuid; request: &MoveVolume) -> VolumeMoveReport,
    cancel_volume_move(; vm: Uuid; request: &MoveVolume) -> VolumeMoveReport,
    move_disk(; vm: Uuid; request: &MoveDisk) -> VolumeMoveReport,
    cancel_disk_move(; vm: Uuid; request: &MoveDisk) -> VolumeMoveReport,
    clear_left_disk(; vm: Uuid; request: &LeftDisk) -> (),
    copy_volume(request: &CopyVolume;;) -> (),
} }

carried! { BackupApi {
    back_up(; vm: Uuid; request: &BackUp) -> Work<BackedUp>,
    cancel_backup(; vm: Uuid, backup: Uuid;) -> (),
    fill_disk(; vm: Uuid; request: &FillDisk) -> Work<()>,
    restore_volume(request: &RestoreVolume;;) -> Work<()>,
    open_repository(repository: &RepositoryAccess;;) -> RepositoryContent,
    list_backups(request: &ListBackups;;) -> StoredBackups,
    check_backup(place: &BackupPlace;;) -> Work<BackupCheck>,
    delete_backup(place: &BackupPlace;;) -> Work<()>,
    read_backup(request: &ReadBackup;;) -> BackupContent,
} }

carried! { MirrorApi {
    serve_copy(request: &ServeCopy;;) -> CopyEndpoint,
    settle_copy(request: &SettleCopy;;) -> (),
    take_copy(request: &TakeCopy;;) -> (),
    drop_copy(request: &DropCopy;;) -> (),
    drop_left_volume(request: &DropLeftVolume;;) -> (),
    join_copy(; vm: Uuid; request: &JoinCopy) -> CopyProgress,
    go_alone(; vm: Uuid; request: &GoAlone) -> (),
} }

carried! { RelocationApi {
    expect_disk(; vm: Uuid; request: &ExpectDisk) -> DiskArrival,
    send_disk(; vm: Uuid; request: &SendDisk) -> (),
    disk_copied(; vm: Uuid, clone: Uuid;) -> Option<DiskCopied>,
} }
