//! Which controllers this machine has, and where: from `/proc/self/mountinfo` (proc_pid_mountinfo(5), cgroups(7)).

use std::{fs, path::PathBuf, sync::Arc};

use crate::{Hierarchy, unified::Unified, version1};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What can be enforced on this machine, and by which mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Support {
    pub cpu: Option<(Version, PathBuf)>,
    pub memory: Option<(Version, PathBuf)>,
    /// Where processor time is counted under version 1, if not where it is divided.
    account: Option<PathBuf>,
    unified: Option<PathBuf>,
}

impl Support {
    /// What is enforced, and by what; what is not, and why.
    pub fn told(&self) -> String {
        let controllers = [("cpu", &self.cpu), ("memory", &self.memory)];
        let version = |version: Version| match version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        let has = controllers.iter().filter_map(|(name, place)| {
            let (found, _) = place.as_ref()?;
            Some(format!("{name} by cgroups {}", version(*found)))
        });
        let missing = controllers.iter().filter(|(_, place)| place.is_none()).map(|(name, _)| {
            format!("{name} not at all: its kernel offers no cgroup controller for it, or it is not mounted")
        });
        has.chain(missing).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn hierarchies(&self) -> Vec<Arc<dyn Hierarchy>> {
        let v1 = |place: &Option<(Version, PathBuf)>| match place {
            Some((Version::V1, path)) => Some(path.clone()),
            _ => None,
        };
        let in_v2 = |place: &Option<(Version, PathBuf)>| matches!(place, Some((Version::V2, _)));
        let mut found: Vec<Arc<dyn Hierarchy>> = Vec::new();
        if let Some(path) = v1(&self.cpu) {
            found.push(Arc::new(version1::Cpu(path)));
        }
        if let Some(path) = &self.account {
            found.push(Arc::new(version1::CpuAccount(path.clone())));
        }
        if let Some(path) = v1(&self.memory) {
            found.push(Arc::new(version1::Memory(path)));
        }
        // Without either controller there is nothing to do in it.
        let (cpu, memory) = (in_v2(&self.cpu), in_v2(&self.memory));
        if let Some(mount) = self.unified.clone().filter(|_| cpu || memory) {
            found.push(Arc::new(Unified { mount, cpu, memory }));
        }
        found
    }

    /// The hierarchy of version 2 where it has no controller to offer: nothing is enforced in it, but it has groups.
    pub fn unified_alone(&self) -> Option<Arc<dyn Hierarchy>> {
        let offered = |place: &Option<(Version, PathBuf)>| matches!(place, Some((Version::V2, _)));
        let mount = self.unified.clone().filter(|_| !offered(&self.cpu) && !offered(&self.memory))?;
        Some(Arc::new(Unified { mount, cpu: false, memory: false }))
    }
}

/// A controller can be in one hierarchy only: what is mounted as version 1 is not in version 2.
pub(crate) fn support(mountinfo: &str) -> Support {
    let mut support = Support::default();
    let mut account = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(path) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut fields = right.split(' ');
        let (kind, options) = (fields.next(), fields.nth(1).unwrap_or_default());
        let has = |name: &str| options.split(',').any(|option| option == name);
        match kind {
            Some("cgroup") => {
                // One mount may have several of them.
                if has("cpu") {
                    support.cpu = Some((Version::V1, path.clone()));
                }
                if has("memory") {
                    support.memory = Some((Version::V1, path.clone()));
                }
                if has("cpuacct") {
                    account = Some(path);
                }
            }
            Some("cgroup2") => support.unified = Some(path),
            _ => {}
        }
    }
    if let Some(path) = &support.unified {
        let offered = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let offers = |name: &str| offered.split_whitespace().any(|controller| controller == name);
        for (place, name) in [(&mut support.cpu, "cpu"), (&mut support.memory, "memory")] {
            if place.is_none() && offers(name) {
                *place = Some((Version::V2, path.clone()));
            }
        }
    }
    // Version 2 counts by itself.
    support.account = account.filter(|_| !matches!(support.cpu, Some((Version::V2, _))));
    support
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory
";

    fn names(support: &Support) -> Vec<String> {
        support.hierarchies().iter().map(|hierarchy| hierarchy.name()).collect()
    }

    #[test]
    fn version_1_is_found_by_its_options() {
        let found = support(V1);
        assert_eq!(found.cpu, Some((Version::V1, "/sys/fs/cgroup/cpu,cpuacct".into())));
        assert_eq!(found.told(), "cpu by cgroups v1, memory by cgroups v1");
        assert_eq!(names(&found), ["cgroup v1 (cpu)", "cgroup v1 (cpuacct)", "cgroup v1 (memory)"]);
    }

    #[test]
    fn version_2_and_hybrids_have_what_the_unified_hierarchy_offers() {
        let unified = tempfile::tempdir().unwrap();
        fs::write(unified.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let line = format!("33 30 0:29 / {} rw shared:12 - cgroup2 cgroup2 rw\n", unified.path().display());
        let pure = support(&line);
        assert_eq!(pure.told(), "cpu by cgroups v2, memory by cgroups v2");
        assert_eq!(names(&pure), ["cgroup v2 (cpu, memory)"]);
        let memory_only = V1.lines().filter(|line| !line.contains("cpuacct")).collect::<Vec<_>>().join("\n");
        let hybrid = support(&format!("{memory_only}\n{line}"));
        assert_eq!(hybrid.told(), "cpu by cgroups v2, memory by cgroups v1");
        assert_eq!(names(&hybrid), ["cgroup v1 (memory)", "cgroup v2 (cpu)"]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let nothing = support("");
        assert!(nothing.hierarchies().is_empty());
        assert!(nothing.told().contains("cpu not at all") && nothing.told().contains("memory not at all"));
    }
}
