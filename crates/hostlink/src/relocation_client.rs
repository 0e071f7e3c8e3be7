//! Stopped VMs of a host that is elsewhere.

use std::time::Duration;

use async_trait::async_trait;
use gantry_api::{
    RelocationApi,
    paths::host as paths,
    relocation::{DiskArrival, DiskCopied, ExpectDisk, SendDisk},
};
use gantry_types::Problem;
use reqwest::Method;
use uuid::Uuid;

use crate::{
    client::{AgentClient, FETCH, QUICK},
    reply::{answer, done},
};

/// For a disk of terabytes over a slow link. Whoever asks looks after the hosts meanwhile, and may stop waiting.
const DISK: Duration = Duration::from_secs(7 * 24 * 3600);

impl AgentClient {
    /// The content of a disk, for the host that expects it; `bytes` is what it takes.
    pub async fn send_disk_content(&self, vm: Uuid, bytes: u64, content: reqwest::Body) -> Result<(), Problem> {
        let request = self.request(Method::PUT, &paths::vm_part(vm, "disk/content"), DISK);
        done(&self.host, request.query(&[("bytes", bytes)]).body(content)).await
    }
}

#[async_trait]
impl RelocationApi for AgentClient {
    async fn expect_disk(&self, vm: Uuid, request: &ExpectDisk) -> Result<DiskArrival, Problem> {
        answer(&self.host, self.put(&paths::vm_part(vm, "disk/expectation"), request, FETCH)).await
    }
    async fn send_disk(&self, vm: Uuid, request: &SendDisk) -> Result<(), Problem> {
        done(&self.host, self.post(&paths::vm_part(vm, "disk/sending"), request, DISK)).await
    }
    async fn disk_copied(&self, vm: Uuid, clone: Uuid) -> Result<Option<DiskCopied>, Problem> {
        let path = paths::vm_part(vm, &format!("disk/copies/{clone}"));
        answer(&self.host, self.request(Method::GET, &path, QUICK)).await
    }
}
