//! Shares of a host's processors and memory, enforced by the kernel's control groups (cgroups(7)).
//!
//! ```text
//!  HostResources, Members ──tree──▶ Groups ──Cgroups::apply──▶ <hierarchy>/<scope>/<pool>/<pool inside>/vm-<uuid>
//!                                                              one Hierarchy for each controller of version 1,
//!                                                              one for all of version 2
//! ```
//! Each host has a scope of its own, so that the hosts of a lab on one machine don't touch each other's groups. The
//! kernel divides among the groups of one parent by their weights, and only while there is too little; [`tree`] makes
//! weights of shares and reservations.
//!
//! Version 1, version 2 and both at once (hybrid) are found from the mounts. A controller that is missing is told of
//! ([`Support`]) and the others are used. This crate knows neither QEMU nor where VMs come from: it is given processes.
//!
//! On failure nothing is half right for long: [`Cgroups::apply`] can be repeated, and says every group that could not be
//! made as was asked. Processes are only ever moved into groups, never ended.

pub mod conformance;
mod hierarchy;
mod mounts;
mod tree;
mod unified;
mod version1;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gantry_types::Name;

pub use hierarchy::Hierarchy;
pub use mounts::{Support, Version};
pub use tree::{Capacity, Member, tree};

/// What one group may have of its parent. Absent limits are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Weight among the groups of the same parent, 1–10000; 100 is as much as a process in no group has.
    pub cpu_weight: u32,
    /// Percent of one processor: 150 is one and a half. Never more than that of a group around it.
    pub cpu_limit_percent: Option<u32>,
    pub memory_limit_bytes: Option<u64>,
    /// Not taken from it while others have more than theirs.
    pub memory_protected_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_weight: 100, cpu_limit_percent: None, memory_limit_bytes: None, memory_protected_bytes: 0 }
    }
}

/// One group: where it is below the scope, and what it may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Names from the outermost pool inward, none with a slash; the scope itself if empty.
    pub path: PathBuf,
    pub limits: Limits,
    /// The process that belongs in it, if it is a VM's.
    pub pid: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct CgroupError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// The scope of the host whose agent has this state directory: unique on this machine, where a lab has several hosts.
pub fn scope(host: &Name, state_dir: &Path) -> String {
    // FNV-1a: the same in every version of this program, so that an upgrade finds the groups again.
    let path = state_dir.as_os_str().as_encoded_bytes();
    let tag = path.iter().fold(0x811c_9dc5_u32, |tag, byte| (tag ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("gantry-{host}-{tag:08x}")
}

/// The groups of one host.
#[derive(Clone)]
pub struct Cgroups {
    scope: String,
    support: Support,
    hierarchies: Vec<Arc<dyn Hierarchy>>,
}

impl Cgroups {
    /// Looks at what this machine has. `scope` names the host, uniquely on this machine.
    pub fn find(scope: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::with(scope, mounts::support(&mounts))
    }

    fn with(scope: &str, support: Support) -> Self {
        assert!(!scope.is_empty() && !scope.contains('/'), "'{scope}' can't be a group's name");
        Self { scope: scope.to_owned(), hierarchies: support.hierarchies(), support }
    }

    pub fn support(&self) -> &Support {
        &self.support
    }

    pub fn hierarchies(&self) -> &[Arc<dyn Hierarchy>] {
        &self.hierarchies
    }

    /// Makes the groups exactly these, and puts each process where it belongs. Outer ones must come before those inside.
    /// Groups of this scope that are not named are removed once nothing is in them.
    ///
    /// Returns what could not be done; the rest is done all the same.
    pub fn apply(&self, groups: &[Group]) -> Vec<CgroupError> {
        let scoped: Vec<Group> = groups.iter().map(|group| self.scoped(group)).collect();
        let wanted: BTreeSet<&Path> = scoped.iter().map(|group| group.path.as_path()).collect();
        let mut errors = Vec::new();
        for hierarchy in &self.hierarchies {
            errors.extend(apply_to(&**hierarchy, &scoped));
            remove_others(&**hierarchy, Path::new(&self.scope), &wanted);
        }
        errors
    }

    /// Puts one process into its group, which is made if it is not there yet; its limits come with [`Self::apply`].
    pub fn put(&self, path: &Path, pid: u32) -> Vec<CgroupError> {
        let path = Path::new(&self.scope).join(path);
        let put = |hierarchy: &Arc<dyn Hierarchy>| hierarchy.make(&path).and_then(|()| hierarchy.put(&path, pid)).err();
        self.hierarchies.iter().filter_map(put).collect()
    }

    /// Processor time of the group so far, the groups inside it included; `None` if nothing counts it here.
    pub fn cpu_usage_us(&self, path: &Path) -> Option<u64> {
        let path = Path::new(&self.scope).join(path);
        self.hierarchies.iter().find_map(|hierarchy| hierarchy.cpu_usage_us(&path))
    }

    fn scoped(&self, group: &Group) -> Group {
        Group { path: Path::new(&self.scope).join(&group.path), ..group.clone() }
    }
}

/// A group's limit can't be lowered below one inside it, nor raised above the one around it (version 1), so what was
/// refused is tried again after the others, as often as the tree is deep.
fn apply_to(hierarchy: &dyn Hierarchy, groups: &[Group]) -> Vec<CgroupError> {
    let mut errors = Vec::new();
    let mut made = Vec::new();
    for group in groups {
        match hierarchy.make(&group.path) {
            Ok(()) => made.push(group),
            Err(error) => errors.push(error),
        }
    }
    let deepest = groups.iter().map(|group| group.path.iter().count()).max().unwrap_or_default();
    let mut refused = made.clone();
    for last in (0..=deepest).map(|round| round == deepest) {
        refused.retain(|group| match hierarchy.limit(&group.path, &group.limits) {
            Ok(()) => false,
            Err(error) => {
                if last {
                    errors.push(error);
                }
                true
            }
        });
        if refused.is_empty() {
            break;
        }
    }
    let put = |group: &&Group| group.pid.and_then(|pid| hierarchy.put(&group.path, pid).err());
    errors.extend(made.iter().filter_map(put));
    errors
}

/// Groups in which something still runs stay: the kernel refuses to remove them.
fn remove_others(hierarchy: &dyn Hierarchy, group: &Path, wanted: &BTreeSet<&Path>) {
    for inner in hierarchy.inside(group) {
        remove_others(hierarchy, &group.join(inner), wanted);
    }
    if !wanted.contains(group) {
        hierarchy.remove(group);
    }
}

/// A failing call on a file of a group.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { action, path, source }
}
