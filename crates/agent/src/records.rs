//! What the agent must not forget about a VM: one `record.json` per VM.
//!
//! Only the VM's task writes its record; a change that others may rely on is on disk before it is answered. A record
//! that can't be read is reported, never dropped: its VM's QEMU may still be running.
//!
//! A VM directory without a record is what a crash leaves of a VM that was being made or removed; nothing of value is
//! in it, because the record is written first and removed last.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_api::agent::{Assignment, MigrationEndpoint, MigrationState, SendMigration};
use gantry_api::storage::PoolAssignment;
use gantry_ha::reaction::Next;
use gantry_types::{HaPolicy, HaStatus, MigrationFigures, Name, PowerState, ProbeStatus, Problem, RecoveryPoint};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::create_passable;
use crate::durable;
use crate::networks::Place;
use crate::vm::Copied;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub assignment: Assignment,
    pub owner_uid: u32,
    /// What it was last told to be; kept up without a controller.
    pub wanted: PowerState,
    /// The number of the last command that told it so.
    #[serde(default)]
    pub command: u64,
    /// Its disk was made and is all there is of its data: one that is not there is lost, not still to be made. Agents that did not write this down made the disk with the record.
    #[serde(default = "yes")]
    pub disk_made: bool,
    /// The QEMU process, once it was started.
    #[serde(default)]
    pub process: Option<ProcessRecord>,
    /// Why it is stopped or failed.
    #[serde(default)]
    pub end: Option<End>,
    #[serde(default)]
    pub migration: Option<MigrationRecord>,
    /// What was done about its failures.
    #[serde(default)]
    pub ha: HaStatus,
    /// What the probes of its present run have said.
    #[serde(default)]
    pub probes: Vec<ProbeStatus>,
    #[serde(default)]
    pub recovery: RecoveryRecord,
    /// It runs only while the lease is held, and the warden guards it. Once true it stays so until the VM is defined
    /// anew while it is off: the controller goes by it.
    #[serde(default)]
    pub guarded: bool,
    /// Shut out by this generation, the host has stopped it; it starts again when the controller says so.
    #[serde(default)]
    pub fenced: Option<u64>,
    /// The relocation that has brought it here, until the controller says that it is this host's.
    #[serde(default)]
    pub arrived: Option<Uuid>,
    /// Of a disk in a mirrored pool.
    #[serde(default)]
    pub copied: Copied,
    /// The pool that its disk has moved away from and may still be in, where another host could take it for the VM's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_disk: Option<PoolAssignment>,
}

/// The states of its disk that are kept so that the VM can be brought back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecoveryRecord {
    /// In the order in which they were taken.
    pub points: Vec<RecoveryPoint>,
    /// The last request to go back that was carried out.
    pub last_revert: Option<Uuid>,
    /// The run of QEMU in which the last good one was kept.
    pub kept_in: Option<ProcessRecord>,
    /// The good state that the host went back to last, by itself.
    pub rolled_back_to: Option<Uuid>,
    /// It is on its way back to a state: nothing of it executes until that is done.
    pub rolling_back: Option<RollBack>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollBack {
    pub to: Uuid,
    pub keep_as: Uuid,
}

fn yes() -> bool {
    true
}

/// Identifies a process across agent restarts and reboots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessRecord {
    pub pid: u32,
    pub start_time_ticks: u64,
    pub boot_id: String,
    pub accelerator: String,
    /// What it calls the VM's own disk, where that has moved since it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_node: Option<String>,
}

/// How a VM's last run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    /// It should have gone on running.
    pub failed: bool,
    pub reason: String,
    /// It was stopped because the lease was over: it starts again with the next one.
    #[serde(default)]
    pub lease_over: bool,
    /// What follows if it failed and is protected.
    #[serde(default)]
    pub next: Next,
}

/// The one migration a VM is, or last was, in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MigrationRecord {
    pub id: Uuid,
    pub state: MigrationState,
    pub role: MigrationRole,
    #[serde(default)]
    pub figures: Option<MigrationFigures>,
    #[serde(default)]
    pub error: Option<Problem>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MigrationRole {
    Source(Box<SendMigration>),
    Destination {
        endpoint: MigrationEndpoint,
        paused: bool,
        #[serde(default)]
        source: Option<Name>,
    },
}

impl MigrationRecord {
    /// The host that sends, as seen on `here`.
    pub fn source(&self, here: &Name) -> Option<Name> {
        match &self.role {
            MigrationRole::Source(_) => Some(here.clone()),
            MigrationRole::Destination { source, .. } => source.clone(),
        }
    }
}

impl Record {
    /// What its host must have stopped before others may run it.
    pub fn is_to_be_guarded(assignment: &Assignment) -> bool {
        assignment.ha.policy == HaPolicy::Restart
    }

    /// Of a VM that is off and has no disk yet.
    pub fn new(assignment: Assignment, owner_uid: u32) -> Self {
        Self {
            guarded: Self::is_to_be_guarded(&assignment),
            fenced: None,
            assignment,
            owner_uid,
            wanted: PowerState::Stopped,
            command: 0,
            disk_made: false,
            process: None,
            end: None,
            migration: None,
            ha: HaStatus::default(),
            probes: Vec::new(),
            recovery: RecoveryRecord::default(),
            arrived: None,
            copied: Copied::default(),
            left_disk: None,
        }
    }

    pub fn is_receiving(&self) -> bool {
        self.migration.as_ref().is_some_and(|migration| migration.state == MigrationState::Receiving)
    }

    /// It is still, or by now, another host that has its volumes: it is on its way here, or has left.
    pub fn volumes_are_elsewhere(&self) -> bool {
        let Some(migration) = &self.migration else { return false };
        match migration.role {
            MigrationRole::Destination { .. } => {
                matches!(migration.state, MigrationState::Receiving | MigrationState::Aborted)
            }
            MigrationRole::Source(_) => matches!(migration.state, MigrationState::Committing | MigrationState::Moved),
        }
    }

    /// The recovery points, newest first.
    pub fn shown_points(&self) -> Vec<RecoveryPoint> {
        self.recovery.points.iter().rev().cloned().collect()
    }

    /// Where the guest's frames go.
    pub fn place(&self) -> Place {
        let Some(migration) = &self.migration else { return Place::Here };
        match (&migration.role, migration.state) {
            (MigrationRole::Destination { .. }, MigrationState::Receiving) => Place::Coming,
            (MigrationRole::Source(request), MigrationState::Committing | MigrationState::Moved) => {
                Place::Left(request.endpoint.address)
            }
            _ => Place::Here,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{} was written by a newer agent than this one ({})", path.display(), env!("CARGO_PKG_VERSION"))]
    Newer {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl End {
    pub fn failed(reason: impl Into<String>) -> Self {
        Self { failed: true, reason: reason.into(), lease_over: false, next: Next::Restart }
    }
    /// As was wanted, or by the guest itself.
    pub fn stopped(reason: impl Into<String>) -> Self {
        Self { failed: false, reason: reason.into(), lease_over: false, next: Next::Restart }
    }
}

impl RecordError {
    pub fn problem(&self) -> Problem {
        let detail = crate::problem::chain(self);
        match self {
            Self::File { .. } => Problem::transient("record-not-written", detail)
                .remedy("check that the state directory's filesystem is writable and has space"),
            Self::Damaged { .. } | Self::Newer { .. } => Problem::permanent("record-damaged", detail)
                .remedy("restore it from a backup, or run the newer agent again; it is read again by itself"),
        }
    }
}

/// A VM found on disk, and what its record says.
pub(crate) type Loaded = (Uuid, Result<Record, RecordError>);

/// All records of a host.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    root: PathBuf,
}

impl Records {
    pub fn open(state_dir: &Path) -> Result<Self, RecordError> {
        let root = state_dir.join("vms");
        create_passable(&root).map_err(failed("create", &root))?;
        Ok(Self { root })
    }

    pub fn vm_dir(&self, vm: Uuid) -> PathBuf {
        self.root.join(vm.to_string())
    }
    /// QEMU's sockets and nothing else; belongs to the VM's user.
    pub fn run_dir(&self, vm: Uuid) -> PathBuf {
        self.vm_dir(vm).join("run")
    }
    fn path(&self, vm: Uuid) -> PathBuf {
        self.vm_dir(vm).join("record.json")
    }

    /// Every VM of this host with its record, or why that can't be read. Leftovers of crashes are removed.
    pub fn load_all(&self) -> Result<Vec<Loaded>, RecordError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed("list", &self.root))? {
            let entry = entry.map_err(failed("list", &self.root))?;
            let Some(vm) = entry.file_name().to_str().and_then(|name| name.parse::<Uuid>().ok()) else {
                tracing::warn!(path = %entry.path().display(), "not a VM's directory, left alone");
                continue;
            };
            let path = self.path(vm);
            match fs::read(&path) {
                Ok(text) => found.push((vm, parse(path, &text))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
                }
                Err(source) => found.push((vm, Err(RecordError::File { action: "read", path, source }))),
            }
        }
        Ok(found)
    }

    /// A record that must be there.
    pub async fn read(&self, vm: Uuid) -> Result<Record, RecordError> {
        let path = self.path(vm);
        blocking(move || {
            let text = fs::read(&path).map_err(failed("read", &path))?;
            parse(path, &text)
        })
        .await
    }

    /// On disk when it returns.
    pub async fn save(&self, record: &Record) -> Result<(), RecordError> {
        let vm = record.assignment.uuid;
        let (directory, path) = (self.vm_dir(vm), self.path(vm));
        let text =
            serde_json::to_vec_pretty(record).map_err(|source| RecordError::Damaged { path: path.clone(), source })?;
        let root = self.root.clone();
        blocking(move || {
            if !directory.is_dir() {
                create_passable(&directory).map_err(failed("create", &directory))?;
                durable::sync_directory(&root).map_err(failed("sync", &root))?;
            }
            durable::replace(&path, &text).map_err(failed("write", &path))
        })
        .await
    }

    /// Forgets the VM; everything it had outside its directory must be gone already.
    pub async fn remove(&self, vm: Uuid) -> Result<(), RecordError> {
        let (directory, path) = (self.vm_dir(vm), self.path(vm));
        blocking(move || {
            durable::remove(&path).or_else(ignore_missing).map_err(failed("remove", &path))?;
            fs::remove_dir_all(&directory).or_else(ignore_missing).map_err(failed("remove", &directory))
        })
        .await
    }

    /// User ids that are taken: by records, and, for those that can't be read, by what their directories belong to.
    pub fn taken_uids(&self, loaded: &[Loaded]) -> BTreeSet<u32> {
        let of_directory = |vm: Uuid| fs::metadata(self.run_dir(vm)).ok().map(|found| found.uid());
        loaded
            .iter()
            .filter_map(|(vm, record)| match record {
                Ok(record) => Some(record.owner_uid),
                Err(_) => of_directory(*vm),
            })
            .collect()
    }
}

/// What an older agent wrote lacks fields, which have defaults. What a newer one wrote has more: to go on without them
/// would lose them at the next save.
fn parse(path: PathBuf, text: &[u8]) -> Result<Record, RecordError> {
    serde_json::from_slice(text).map_err(|source| {
        let reason = source.to_string();
        if reason.starts_with("unknown field") || reason.starts_with("unknown variant") {
            RecordError::Newer { path, source }
        } else {
            RecordError::Damaged { path, source }
        }
    })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::File { action, path, source }
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Runs disk work off the async threads; a panic in it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use gantry_api::agent::DiskAssignment;
    use gantry_types::{Arch, ByteSize, Firmware};

    pub(crate) fn record(vm: Uuid) -> Record {
        Record {
            assignment: Assignment {
                uuid: vm,
                name: "web-1".parse().unwrap(),
                epoch: 3,
                arch: Arch::X86_64,
                cpus: 1,
                memory: ByteSize::mib(64),
                cpu_model: None,
                firmware: Firmware::Bios,
                display: gantry_types::Display::None,
                disk: DiskAssignment { image: None, size: ByteSize::mib(8), pool: None },
                volumes: Vec::new(),
                nics: Vec::new(),
                user_data: None,
                power: PowerState::Running,
                ha: Default::default(),
                probes: Vec::new(),
                recovery: Default::default(),
                resources: Default::default(),
            },
            owner_uid: 200_007,
            wanted: PowerState::Running,
            command: 0,
            disk_made: true,
            process: None,
            end: None,
            migration: None,
            ha: HaStatus::default(),
            probes: Vec::new(),
            recovery: RecoveryRecord::default(),
            guarded: false,
            fenced: None,
            arrived: None,
            copied: Copied::default(),
            left_disk: None,
        }
    }

    #[tokio::test]
    async fn a_record_comes_back_and_a_half_made_vm_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        let (kept, half_made) = (Uuid::new_v4(), Uuid::new_v4());
        records.save(&record(kept)).await.unwrap();
        // What a crash in the first write leaves.
        fs::create_dir(records.vm_dir(half_made)).unwrap();
        fs::write(records.vm_dir(half_made).join("record.json.new"), b"{").unwrap();

        let loaded = records.load_all().unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].1.as_ref().unwrap(), &record(kept));
        assert!(!records.vm_dir(half_made).exists());

        records.remove(kept).await.unwrap();
        records.remove(kept).await.unwrap();
        assert!(records.load_all().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_newer_agents_record_is_refused_as_such_and_an_older_ones_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        let vm = Uuid::new_v4();
        records.save(&record(vm)).await.unwrap();
        let written: serde_json::Value = serde_json::from_slice(&fs::read(records.path(vm)).unwrap()).unwrap();

        let mut newer = written.clone();
        newer["snapshots"] = serde_json::json!([]);
        fs::write(records.path(vm), newer.to_string()).unwrap();
        let error = records.read(vm).await.unwrap_err();
        assert!(matches!(error, RecordError::Newer { .. }) && error.to_string().contains("newer agent"), "{error}");

        let mut older = written;
        for later in ["disk_made", "command", "process", "end", "migration"] {
            older.as_object_mut().unwrap().remove(later);
        }
        fs::write(records.path(vm), older.to_string()).unwrap();
        assert_eq!(records.read(vm).await.unwrap(), record(vm));
    }

    #[tokio::test]
    async fn a_damaged_record_is_reported_and_keeps_its_user() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        let vm = Uuid::new_v4();
        records.save(&record(vm)).await.unwrap();
        fs::create_dir(records.run_dir(vm)).unwrap();
        for damage in [&b""[..], b"{\"assignment\": 1}", b"\xff\xfe"] {
            fs::write(records.path(vm), damage).unwrap();
            let loaded = records.load_all().unwrap();
            let (found, result) = &loaded[0];
            assert_eq!(*found, vm);
            assert!(matches!(result, Err(RecordError::Damaged { .. })));
            let own_uid = fs::metadata(records.run_dir(vm)).unwrap().uid();
            assert!(records.taken_uids(&loaded).contains(&own_uid));
        }
    }
}
