//! This host's processors and memory, divided among its VMs by control groups.
//!
//! The controller says what each pool's part of this host is and what each VM asks for; the agent knows which QEMU
//! processes there are. Both together are the groups ([`gantry_cgroup::tree`]). What was said last is on disk, so an agent
//! without a controller goes on dividing. Groups outlive the agent as QEMU does; a new agent makes them what they should be.
//!
//! A VM never waits for its group and never ends by it: what can't be done is reported and tried again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_api::agent::Assignment;
use gantry_cgroup::{Capacity, Cgroups, Group, Member, scope, tree};
use gantry_qemu::process::QemuProcess;
use gantry_types::{HostResources, Name, Problem, ResourcesReport};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::host_metrics;
use crate::problem::chain;
use crate::records::blocking;
use crate::{durable, host::Host};

/// In the state directory: what the controller said last.
pub(crate) const RESOURCES_FILE: &str = "resources.json";
/// How often groups are compared with what they should be, and those of VMs that have ended are removed.
const INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Resources {
    cgroups: Cgroups,
    capacity: Capacity,
    path: PathBuf,
    state: Mutex<State>,
    /// Held while groups are written, so that an older view is never written over a newer one.
    writing: Mutex<()>,
}

#[derive(Default)]
struct State {
    told: HostResources,
    running: BTreeMap<Uuid, Running>,
    report: ResourcesReport,
}

struct Running {
    member: Member,
    process: Arc<QemuProcess>,
}

impl Resources {
    /// With what was said before the agent ended. A damaged file is as none: the controller says it again.
    pub fn open(host: &Name, state_dir: &Path) -> Self {
        let path = state_dir.join(RESOURCES_FILE);
        let told = match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => {
                tracing::warn!(path = %path.display(), %error, "unreadable; shares and limits are as if none were set");
                HostResources::default()
            }
            Err(_) => HostResources::default(),
        };
        let cgroups = Cgroups::find(&scope(host, state_dir));
        let enforced = cgroups.support().told();
        tracing::info!(enforced, "shares and limits of VMs");
        let report = ResourcesReport { enforced, problems: Vec::new() };
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let capacity = Capacity { cpus, memory_bytes: host_metrics::memory().total_bytes };
        let state = Mutex::new(State { told, report, ..State::default() });
        Self { cgroups, capacity, path, state, writing: Mutex::default() }
    }

    // Each holder makes plain assignments.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A VM's QEMU runs, from now on in the VM's group.
    pub fn joined(&self, assignment: &Assignment, process: &Arc<QemuProcess>) {
        let member = Member {
            vm: assignment.uuid,
            pid: process.pid(),
            cpus: assignment.cpus,
            memory_bytes: assignment.memory.bytes(),
            wishes: assignment.resources.clone(),
        };
        self.lock().running.insert(assignment.uuid, Running { member, process: process.clone() });
        let (_, places) = self.wanted();
        let Some(place) = places.get(&assignment.uuid) else { return };
        for error in self.cgroups.put(place, process.pid()) {
            tracing::warn!(vm = %assignment.name, error = chain(&error), "not in its group yet");
        }
    }

    /// Takes over what the controller wants and makes it so.
    pub async fn apply(self: &Arc<Self>, told: &HostResources) -> Result<ResourcesReport, Problem> {
        if self.lock().told != *told {
            let (path, text) = (self.path.clone(), serde_json::to_vec(told).unwrap_or_default());
            blocking(move || durable::replace(&path, &text)).await.map_err(|error| {
                let detail = format!("cannot write {}: {error}", self.path.display());
                Problem::transient("resources-not-written", detail).remedy("check the state directory's filesystem")
            })?;
            self.lock().told = told.clone();
        }
        let own = Arc::clone(self);
        Ok(blocking(move || own.reconcile()).await)
    }

    /// The groups as they should be, of the processes that still run.
    fn wanted(&self) -> (Vec<Group>, BTreeMap<Uuid, PathBuf>) {
        let mut state = self.lock();
        state.running.retain(|_, running| !running.process.has_exited().unwrap_or(false));
        let members: Vec<Member> = state.running.values().map(|running| running.member.clone()).collect();
        tree(&state.told, &members, self.capacity)
    }

    fn reconcile(&self) -> ResourcesReport {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (groups, _) = self.wanted();
        // Without VMs there is nothing to divide, and the host's own group goes, too.
        let groups = if groups.len() == 1 { Vec::new() } else { groups };
        let problems: Vec<String> = self.cgroups.apply(&groups).iter().map(|error| chain(error)).collect();
        let mut state = self.lock();
        if state.report.problems != problems {
            for problem in &problems {
                tracing::warn!(problem, "a group is not as it should be");
            }
            state.report.problems = problems;
        }
        state.report.clone()
    }
}

pub(crate) async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    loop {
        let resources = host.resources.clone();
        blocking(move || resources.reconcile()).await;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
