//! `pool`: a place for volumes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ByteSize, Name, NfsExport, Problem, resource::resource};

resource!(
    /// A place for volumes and VMs' disks. Each host has one of its own, `local-HOST`, for the disks of VMs that name none;
    /// more are made from directories, of one host or of a file system that several hosts have mounted, from exports of NFS
    /// servers, or, for VMs' own disks only, from a directory of each of several hosts, between which they are mirrored.
    Pool, "pool", "pools", PoolSpec, PoolStatus
);

/// `type`, `path`, `url` and `hosts` are fixed once it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    #[serde(default, rename = "type")]
    pub kind: PoolType,
    /// The directory, absolute. Its parent has to be there; the directory itself is made if it is missing, but only
    /// when the pool is made: a file system that is not mounted later is noticed. For types `dir` and `mirrored`; for the
    /// latter `{host}` in it stands for the host's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The export, as `nfs://SERVER/PATH`. For type `nfs` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The hosts that reach it. With more than one, its path has to lead to the same directory on all of them; for type
    /// `mirrored`, which takes at least two, to one of each host's own. For types `nfs` and `mirrored` none need to be
    /// named: then it is all hosts that answer when the pool is made.
    pub hosts: Vec<Name>,
    /// How much of its capacity volumes may be promised together, in percent, 100–10000. They are thin: what a volume
    /// takes is what was written to it.
    #[serde(default = "overcommit_percent")]
    pub overcommit_percent: u32,
    /// From which use on there is an alarm, in percent of its capacity, 1–100.
    #[serde(default = "alarm_percent")]
    pub alarm_percent: u32,
}

/// How a pool keeps its volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolType {
    /// qcow2 files in a directory, of a host or of a file system that hosts share.
    #[default]
    Dir,
    /// qcow2 files of an NFS export that no host needs to mount: QEMU is its own client.
    Nfs,
    /// A directory of each host's own: a VM's disk in it is on one host, with a copy on another that gets every write.
    Mirrored,
}

fn overcommit_percent() -> u32 {
    200
}
fn alarm_percent() -> u32 {
    85
}

impl PoolSpec {
    /// A directory of one host, with the usual limits.
    pub fn dir(path: impl Into<String>, host: Name) -> Self {
        Self {
            kind: PoolType::Dir,
            path: path.into(),
            url: None,
            hosts: vec![host],
            overcommit_percent: overcommit_percent(),
            alarm_percent: alarm_percent(),
        }
    }

    /// An NFS export, with the usual limits.
    pub fn nfs(url: impl Into<String>, hosts: Vec<Name>) -> Self {
        Self {
            kind: PoolType::Nfs,
            path: String::new(),
            url: Some(url.into()),
            hosts,
            overcommit_percent: overcommit_percent(),
            alarm_percent: alarm_percent(),
        }
    }

    /// Where it is: a directory, or a URL.
    pub fn place(&self) -> &str {
        self.url.as_deref().unwrap_or(&self.path)
    }

    /// What is wrong with where it is, by field.
    fn check_place(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        match self.kind {
            PoolType::Dir | PoolType::Mirrored => {
                if !is_plain_path(&self.path) {
                    let message = "give an absolute path without '..', at most 1024 characters, for example /srv/fast";
                    wrong.push(("spec.path", message.to_owned()));
                }
                if self.url.is_some() {
                    wrong.push(("spec.url", "is for type nfs: give a path, or that type".to_owned()));
                }
            }
            PoolType::Nfs => {
                if let Err(error) = self.url.as_deref().unwrap_or_default().parse::<NfsExport>() {
                    wrong.push(("spec.url", error.to_string()));
                }
                if !self.path.is_empty() {
                    wrong.push(("spec.path", "is for type dir: the path of an export is a part of its URL".to_owned()));
                }
            }
        }
        wrong
    }
}

impl Pool {
    /// The pool that a host has of its own; `None` if that is too long for a name.
    pub fn local_name(host: &Name) -> Option<Name> {
        format!("{LOCAL_PREFIX}{host}").parse().ok()
    }

    /// Whether it is a host's own: made and deleted with the host.
    pub fn is_local(&self) -> bool {
        self.metadata.name.as_str().starts_with(LOCAL_PREFIX)
    }

    /// Whether this host reaches it.
    pub fn is_at(&self, host: &Name) -> bool {
        self.spec.hosts.contains(host)
    }

    /// Whether several hosts reach the same content.
    pub fn is_shared(&self) -> bool {
        self.spec.hosts.len() > 1 && !self.is_mirrored()
    }

    /// Whether each host has content of its own, copies of what others have among it.
    pub fn is_mirrored(&self) -> bool {
        self.spec.kind == PoolType::Mirrored
    }

    /// The space that it has, by what its hosts tell: they see the same, or, if it is mirrored, each its own, of which every disk
    /// takes some on two.
    pub fn space_among(&self, told: &[PoolSpace]) -> Option<PoolSpace> {
        if !self.is_mirrored() {
            return told.first().copied();
        }
        let half =
            |of: fn(&PoolSpace) -> ByteSize| ByteSize(told.iter().map(|space| of(space).bytes()).sum::<u64>() / 2);
        (!told.is_empty()).then(|| PoolSpace { capacity: half(|space| space.capacity), free: half(|space| space.free) })
    }

    /// All that is wrong with it by itself; whether its hosts are there is the controller's to check.
    pub fn validate(&self) -> Result<(), Problem> {
        let (spec, name) = (&self.spec, &self.metadata.name);
        let mut problem = Problem::invalid("invalid-pool", format!("pool '{name}' can't be like this"));
        for (field, message) in spec.check_place() {
            problem = problem.field(field, message);
        }
        if !(1..=HOSTS_MAX).contains(&spec.hosts.len()) {
            let message = format!("name 1 to {HOSTS_MAX} hosts that reach it; see: gantry host list");
            problem = problem.field("spec.hosts", message);
        }
        if self.is_mirrored() && spec.hosts.len() == 1 {
            problem = problem.field("spec.hosts", "a mirrored pool takes at least two hosts: each disk is on two");
        }
        for (index, host) in spec.hosts.iter().enumerate().filter(|(index, host)| spec.hosts[..*index].contains(host)) {
            problem = problem.field(format!("spec.hosts[{index}]"), format!("host '{host}' is named twice"));
        }
        for (field, value, range) in [
            ("spec.overcommit_percent", spec.overcommit_percent, 100..=10_000),
            ("spec.alarm_percent", spec.alarm_percent, 1..=100),
        ] {
            if !range.contains(&value) {
                let (low, high) = (range.start(), range.end());
                problem = problem.field(field, format!("{value} is out of range, use {low} to {high}"));
            }
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }
}

/// Names that begin so are for hosts' own pools.
const LOCAL_PREFIX: &str = "local-";
const PATH_CHARS_MAX: usize = 1024;
const HOSTS_MAX: usize = 256;

/// Whether a path can only mean one place, and travels as text.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let mut parts = path.split('/');
    let absolute = parts.next() == Some("") && path.len() > 1;
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
    absolute && path.len() <= PATH_CHARS_MAX && parts.all(plain)
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    #[serde(default)]
    pub phase: PoolPhase,
    #[serde(default)]
    pub health: PoolHealth,
    /// Why it is not healthy, or in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operation that is at work on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Name>,
    /// As measured last by a host; not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<PoolSpace>,
    /// Share of the time that its device was busy lately, 0–100, as the busiest of its hosts measured it; not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_percent: Option<u32>,
    /// The sizes of its volumes and VMs' disks together.
    #[serde(default)]
    pub promised: ByteSize,
    #[serde(default)]
    pub volumes: u32,
    /// Those whose own disk is here.
    #[serde(default)]
    pub vms: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolSpace {
    pub capacity: ByteSize,
    /// What a volume may still take.
    pub free: ByteSize,
}

impl PoolSpace {
    /// 0–100.
    pub fn used_percent(&self) -> u64 {
        let used = self.capacity.bytes().saturating_sub(self.free.bytes());
        if self.capacity.bytes() == 0 {
            100
        } else {
            (u128::from(used) * 100 / u128::from(self.capacity.bytes())) as u64
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolPhase {
    #[default]
    Creating,
    Ready,
    Deleting,
}

/// The worst that is known of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolHealth {
    /// No host has told yet.
    #[default]
    Unknown,
    Healthy,
    /// Fuller than its alarm allows.
    NearlyFull,
    /// Nothing more can be written.
    Full,
    /// VMs' users can't write to files in it.
    NotWritable,
    ReadOnly,
    /// The directory or the export is not there, or it is not this pool's: its file system may not be mounted.
    Missing,
    /// None of its hosts answers, or its server does not.
    Unreachable,
}

impl std::fmt::Display for PoolHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::NearlyFull => "nearly full",
            Self::Full => "full",
            Self::NotWritable => "not writable",
            Self::ReadOnly => "read-only",
            Self::Missing => "missing",
            Self::Unreachable => "unreachable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(path: &str) -> Pool {
        Pool::new("fast".parse().unwrap(), PoolSpec::dir(path, "host-1".parse().unwrap()))
    }

    #[test]
    fn a_path_means_one_place() {
        for good in ["/srv/fast", "/a", "/srv/with space/and,comma"] {
            assert!(pool(good).validate().is_ok(), "{good}");
        }
        for bad in ["", "/", "srv/fast", "/srv/../etc", "/srv//fast", "/srv/fast/", "/srv/./x", "/srv/a\nb"] {
            assert_eq!(pool(bad).validate().unwrap_err().fields[0].field, "spec.path", "{bad}");
        }
    }

    #[test]
    fn each_type_has_its_own_kind_of_place() {
        let mut nas = Pool::new("nas".parse().unwrap(), PoolSpec::nfs("nfs://nas/x", vec!["host-1".parse().unwrap()]));
        assert!(nas.validate().is_ok());
        nas.spec.path = "/x".to_owned();
        nas.spec.url = Some("/x".to_owned());
        let fields = |pool: &Pool| pool.validate().unwrap_err().fields.into_iter().map(|wrong| wrong.field);
        assert_eq!(fields(&nas).collect::<Vec<_>>(), ["spec.url", "spec.path"]);
        (nas.spec.kind, nas.spec.path) = (PoolType::Dir, String::new());
        assert_eq!(fields(&nas).collect::<Vec<_>>(), ["spec.path", "spec.url"]);
    }

    #[test]
    fn hosts_are_named_once_and_limits_are_limited() {
        let mut wrong = pool("/srv/fast");
        wrong.spec.hosts.push("host-2".parse().unwrap());
        assert!(wrong.validate().is_ok() && wrong.is_shared() && !pool("/srv/fast").is_shared());
        wrong.spec.hosts.push("host-1".parse().unwrap());
        (wrong.spec.overcommit_percent, wrong.spec.alarm_percent) = (99, 101);
        let fields: Vec<_> = wrong.validate().unwrap_err().fields.into_iter().map(|wrong| wrong.field).collect();
        assert_eq!(fields, ["spec.hosts[2]", "spec.overcommit_percent", "spec.alarm_percent"]);
        wrong.spec.hosts.clear();
        assert_eq!(wrong.validate().unwrap_err().fields[0].field, "spec.hosts");
    }

    #[test]
    fn a_mirrored_pool_is_on_two_hosts_and_shared_by_none() {
        let mut pair = pool("/srv/pair");
        pair.spec.kind = PoolType::Mirrored;
        assert_eq!(pair.validate().unwrap_err().fields[0].field, "spec.hosts");
        pair.spec.hosts.push("host-2".parse().unwrap());
        assert!(pair.validate().is_ok() && pair.is_mirrored() && !pair.is_shared());
    }

    #[test]
    fn use_is_a_share_of_what_there_is() {
        let space = |capacity, free| PoolSpace { capacity: ByteSize(capacity), free: ByteSize(free) };
        assert_eq!(space(200, 50).used_percent(), 75);
        assert_eq!(space(0, 0).used_percent(), 100);
        assert_eq!(space(u64::MAX, 0).used_percent(), 100);
    }
}
