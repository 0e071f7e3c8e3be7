//! The copies that this host keeps of disks and volumes in mirrored pools: the host's side of [`MirrorApi`].
//!
//! Each copy that is written to has a server of its own, which ends with the agent: the VM's host goes on without it then, and is joined
//! again by the controller. That is also what shuts a former host out: a copy that is taken over has no server any more.

use std::collections::HashMap;

use async_trait::async_trait;
use gantry_api::MirrorApi;
use gantry_api::mirror::{
    CopyEndpoint, CopyProgress, DropCopy, DropLeftVolume, GoAlone, JoinCopy, ServeCopy, SettleCopy, TakeCopy,
};
use gantry_api::storage::{PoolAssignment, VolumePlace};
use gantry_storage::{
    Copies, CopyServer, CopyState, CopyTls, ServeCopy as Serving, StorageError, container_bytes, loose_socket_dir,
};
use gantry_trust::{CredentialReader, LeafNames, PeerIdentity, Role, write_qemu_credentials};
use gantry_types::Problem;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::agent::Agent;
use crate::problem::chain;
use crate::records::blocking;
use crate::storage::pool_problem;
use crate::vm::Command;

/// Private ports (RFC 6335), beside those of migrations; one for each copy that is written to.
const PORTS: std::ops::RangeInclusive<u16> = 49_664..=51_199;

/// The servers that run, by disk, and the user that each runs as.
#[derive(Default)]
pub(crate) struct CopyServers(Mutex<HashMap<Uuid, (CopyServer, u32)>>);

fn copy_named(pool: &PoolAssignment, disk: Uuid) -> String {
    format!("the copy of disk {disk} in pool '{}'", pool.name)
}

fn copy_problem(pool: &PoolAssignment, disk: Uuid, error: &StorageError) -> Problem {
    let what = copy_named(pool, disk);
    match error {
        StorageError::CopyStale { .. } => Problem::conflict("copy-stale", format!("{what}: {}", chain(error)))
            .remedy("nothing is to be done: the VM starts where its disk is current"),
        error => pool_problem("copy-not-kept", &what, error),
    }
}

impl Agent {
    async fn copies(&self, pool: &PoolAssignment, disk: Uuid) -> Result<Copies, Problem> {
        self.host.pools.copies(pool).await.map_err(|error| copy_problem(pool, disk, &error))
    }

    async fn end_server(&self, disk: Uuid) {
        // Taken out first: nobody waits for the end of another's.
        let running = self.host.copies.0.lock().await.remove(&disk);
        if let Some((server, uid)) = running {
            server.end().await;
            self.host.uids.release(uid);
        }
    }

    /// A host that still has the VM has its disk, and not a copy of it: what it has is removed first.
    async fn expect_not_here(&self, disk: Uuid) -> Result<(), Problem> {
        if self.find(disk).await.is_none() {
            return Ok(());
        }
        let detail = format!("VM {disk} is still on this host, so it keeps no copy of its disk");
        Err(Problem::transient("vm-exists", detail).remedy("it is removed here by itself, then it is tried again"))
    }

    async fn start_server(
        &self,
        copies: &Copies,
        request: &ServeCopy,
        uid: u32,
        fresh: bool,
    ) -> Result<CopyServer, Problem> {
        let directory = loose_socket_dir().map_err(|error| {
            let detail = format!("{}: {error}", copy_named(&request.pool, request.disk));
            Problem::transient("copy-not-kept", detail).remedy("check the host's file system for temporary files")
        })?;
        std::os::unix::fs::chown(directory.path(), Some(uid), Some(uid)).map_err(|error| {
            Problem::transient("copy-not-kept", format!("{}: {error}", copy_named(&request.pool, request.disk)))
        })?;
        let (creds_dir, identity) = (directory.path().join("tls"), self.host.qemu_identity.current());
        let written = {
            let creds_dir = creds_dir.clone();
            blocking(move || write_qemu_credentials(&creds_dir, &identity, CredentialReader::Uid(uid))).await
        };
        written.map_err(|error| Problem::new(error.class(), "no-credentials", chain(&error)))?;
        let source = PeerIdentity::new(Role::Qemu, request.source.clone());
        let serving = Serving {
            address: self.host.config.underlay_address,
            ports: PORTS,
            tls: Some(CopyTls { creds_dir, authorized: LeafNames::new(source, &[]).subject() }),
            uid,
        };
        let size = container_bytes(request.size.bytes());
        let started = copies.serve(request.disk, size, &serving, fresh).await;
        started.map_err(|error| copy_problem(&request.pool, request.disk, &error))
    }
}

#[async_trait]
impl MirrorApi for Agent {
    async fn serve_copy(&self, request: &ServeCopy) -> Result<CopyEndpoint, Problem> {
        let (pool, disk) = (&request.pool, request.disk);
        self.expect_not_here(disk).await?;
        self.expect_loose(VolumePlace { volume: disk, pool: pool.uuid }).await?;
        self.ensure_image_at(Some(pool), request.image.as_ref()).await?;
        let copies = self.copies(pool, disk).await?;
        self.end_server(disk).await;
        let failed = |error: StorageError| copy_problem(pool, disk, &error);
        let mark = copies.find(disk).await.map_err(failed)?;
        if mark.is_some_and(|mark| mark.state == CopyState::Taken) {
            // It was the disk of this host's, which has gone with the VM.
            copies.drop_copy(disk).await.map_err(failed)?;
        }
        let fresh = !mark.is_some_and(|mark| mark.is_whole_at(request.since));
        let uid = self.host.uids.take()?;
        let server = self.start_server(&copies, request, uid, fresh).await;
        let server = server.inspect_err(|_| self.host.uids.release(uid))?;
        let endpoint = CopyEndpoint {
            address: self.host.config.underlay_address,
            port: server.port(),
            export: server.export().to_owned(),
            tls_name: self.host.config.name.to_string(),
            fresh,
            serving: server.serving(),
        };
        self.host.copies.0.lock().await.insert(disk, (server, uid));
        Ok(endpoint)
    }

    async fn settle_copy(&self, request: &SettleCopy) -> Result<(), Problem> {
        let copies = self.copies(&request.pool, request.disk).await?;
        let settled = copies.settle(request.disk, request.generation, request.serving).await;
        settled.map_err(|error| copy_problem(&request.pool, request.disk, &error))
    }

    async fn take_copy(&self, request: &TakeCopy) -> Result<(), Problem> {
        let copies = self.copies(&request.pool, request.disk).await?;
        self.end_server(request.disk).await;
        let taken = copies.take(request.disk, request.from, request.generation).await;
        taken.map_err(|error| copy_problem(&request.pool, request.disk, &error))
    }

    async fn drop_copy(&self, request: &DropCopy) -> Result<(), Problem> {
        let copies = self.copies(&request.pool, request.disk).await?;
        self.end_server(request.disk).await;
        let dropped = copies.drop_copy(request.disk).await;
        dropped.map_err(|error| copy_problem(&request.pool, request.disk, &error))
    }

    async fn drop_left_volume(&self, request: &DropLeftVolume) -> Result<(), Problem> {
        let (pool, volume) = (&request.pool, request.volume);
        self.expect_loose(VolumePlace { volume, pool: pool.uuid }).await?;
        let dropped = self.copies(pool, volume).await?.drop_left(volume, request.generation).await;
        dropped.map_err(|error| copy_problem(pool, volume, &error))
    }

    async fn join_copy(&self, vm: Uuid, request: &JoinCopy) -> Result<CopyProgress, Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::JoinCopy(Box::new(request.clone()), reply)).await
    }

    async fn go_alone(&self, vm: Uuid, request: &GoAlone) -> Result<(), Problem> {
        self.existing(vm).await?.ask(vm, |reply| Command::GoAlone(request.clone(), reply)).await
    }
}
