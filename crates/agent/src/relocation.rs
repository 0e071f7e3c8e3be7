//! Stopped VMs that come from another host, and go to one, and disks of clones: the host's side of [`RelocationApi`].
//!
//! What is expected is kept in memory only: a controller whose move goes on says it again. What arrives is staged in the
//! pool, and becomes a VM in one go, when all of it is here. It is not this host's before the controller defines it; until
//! then another relocation of the same VM, or its removal, makes it go away again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::PoisonError;

use async_trait::async_trait;
use gantry_api::RelocationApi;
use gantry_api::relocation::{DiskArrival, DiskCopied, ExpectDisk, SendDisk};
use gantry_hostlink::{AgentClient, Content};
use gantry_types::{Name, Problem};
use tokio::sync::Mutex;
use tokio_util::io::{ReaderStream, StreamReader};
use uuid::Uuid;

use crate::agent::Agent;
use crate::problem::{chain, problem};
use crate::vm::{Arrival, Command, CopyInSight, disk_place};

/// Of what is on the way between the file and the network.
const BUFFER_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 256 << 10;

/// The VMs that are to come.
#[derive(Default)]
pub(crate) struct Expected(Mutex<HashMap<Uuid, Expectation>>);

struct Expectation {
    request: ExpectDisk,
    received_bytes: u64,
    total_bytes: u64,
}

impl Expected {
    /// How far it is; from now on, if it was not expected.
    async fn expect(&self, vm: Uuid, request: &ExpectDisk) -> DiskArrival {
        let fresh = || Expectation { request: request.clone(), received_bytes: 0, total_bytes: 0 };
        let mut all = self.0.lock().await;
        let expectation = match all.entry(vm) {
            Entry::Occupied(mut known) => {
                if known.get().request != *request {
                    known.insert(fresh());
                }
                known.into_mut()
            }
            Entry::Vacant(place) => place.insert(fresh()),
        };
        let Expectation { received_bytes, total_bytes, .. } = *expectation;
        DiskArrival::Expected { received_bytes, total_bytes }
    }

    pub async fn forget(&self, vm: Uuid) {
        self.0.lock().await.remove(&vm);
    }
}

/// Copies that are being made for clones, by clone.
#[derive(Default)]
pub(crate) struct Copies(std::sync::Mutex<HashMap<Uuid, CopyInSight>>);

impl Copies {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, CopyInSight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shown until the guard is dropped.
    fn show(&self, clone: Uuid, copy: CopyInSight) -> impl Drop + '_ {
        self.all().insert(clone, copy);
        Shown { copies: self, clone }
    }
}

struct Shown<'a> {
    copies: &'a Copies,
    clone: Uuid,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.copies.all().remove(&self.clone);
    }
}

impl Agent {
    /// Takes in what another host sends, if it is expected from there.
    pub(crate) async fn take_disk_of(
        &self,
        vm: Uuid,
        from: &Name,
        bytes: u64,
        content: Content,
    ) -> Result<(), Problem> {
        let what = format!("the disk of VM {vm} from host '{from}'");
        let not_expected = || {
            Problem::transient("disk-not-expected", format!("{what} is not expected here"))
                .remedy("nothing is to be done: the move expects it again, or was given up")
        };
        let (expected_id, assignment) = {
            let mut all = self.expected.0.lock().await;
            let expectation = all.get_mut(&vm).ok_or_else(not_expected)?;
            if expectation.request.source != *from {
                return Err(Problem::denied("not-your-move", format!("{what} is expected from another host")));
            }
            (expectation.received_bytes, expectation.total_bytes) = (0, bytes);
            (expectation.request.relocation, expectation.request.assignment.clone())
        };
        let pool = disk_place(&self.host, &assignment).await?;
        let mut staged = pool.stage_disk().await.map_err(|error| problem("disk-not-received", &what, &error))?;
        let mut reader = StreamReader::new(content);
        let on_progress = |received_bytes| {
            // Shown, and nothing else: one look that is missed matters to nobody.
            if let Ok(mut all) = self.expected.0.try_lock()
                && let Some(expectation) = all.get_mut(&vm)
            {
                expectation.received_bytes = received_bytes;
            }
        };
        let along = staged.fill(&mut reader, on_progress).await.map_err(|error| {
            Problem::transient("disk-not-received", format!("{what} did not arrive: {}", chain(&error))).remedy(
                "look at the free space of this host's pool and at the network between the hosts; it is tried again",
            )
        })?;
        // Held until the VM has it: whoever takes the expectation away finds either nothing here, or the VM.
        let mut all = self.expected.0.lock().await;
        let still = all.get(&vm).is_some_and(|known| known.request.relocation == expected_id);
        let expectation = all.remove(&vm).filter(|_| still).ok_or_else(not_expected)?;
        let handle = self.obtain(vm).await?;
        let ExpectDisk { relocation, assignment, .. } = expectation.request;
        let arrival = Arrival { relocation, assignment, staged, along };
        handle.ask(vm, |reply| Command::Arrive(Box::new(arrival), reply)).await
    }
}

#[async_trait]
impl RelocationApi for Agent {
    async fn expect_disk(&self, vm: Uuid, request: &ExpectDisk) -> Result<DiskArrival, Problem> {
        if let Some(handle) = self.find(vm).await {
            let (relocation, epoch) = (request.relocation, request.assignment.epoch);
            let has = handle.ask(vm, |reply| Command::HasArrived { relocation, epoch, reply }).await?;
            if has {
                return Ok(DiskArrival::Arrived);
            }
        }
        self.ensure_base(&request.assignment).await?;
        Ok(self.expected.expect(vm, request).await)
    }

    async fn send_disk(&self, vm: Uuid, request: &SendDisk) -> Result<(), Problem> {
        let (epoch, clone, snapshot) = (request.epoch, request.clone, request.snapshot);
        let task = self.existing(vm).await?;
        let what = format!("the disk of VM {vm} to host '{}'", request.destination);
        let peer = AgentClient::new(&self.host.identity, &request.destination, &request.destination_agent)
            .map_err(|error| Problem::new(error.class(), "no-agent-client", chain(&error)))?;
        let not_sent = |error: std::io::Error| {
            Problem::transient("disk-not-sent", format!("{what} was not sent: {}", chain(&error)))
                .remedy("look at this host's pool and at the network between the hosts; it is tried again")
        };
        let lent = match clone {
            None => task.ask(vm, |reply| Command::Lend { epoch, reply }).await?,
            Some(clone) => {
                let copying = task.ask(vm, |reply| Command::Copy { epoch, snapshot, reply }).await?;
                let _shown = self.copies.show(clone, copying.in_sight());
                copying.make().await?
            }
        };
        let bytes = lent.disk.allocated_bytes().map_err(not_sent)?;
        let (mut writer, reader) = tokio::io::duplex(BUFFER_BYTES);
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(reader, CHUNK_BYTES));
        let sending = async {
            let sent = lent.disk.send(&lent.along, &mut writer).await;
            drop(writer);
            sent
        };
        let (sent, taken) = tokio::join!(sending, peer.send_disk_content(clone.unwrap_or(vm), bytes, body));
        // What the other end says is the cause of a broken pipe here.
        taken?;
        sent.map_err(not_sent)
    }

    async fn disk_copied(&self, vm: Uuid, clone: Uuid) -> Result<Option<DiskCopied>, Problem> {
        self.existing(vm).await?;
        let copy = self.copies.all().get(&clone).cloned();
        Ok(copy.and_then(|copy| copy.look()))
    }
}
