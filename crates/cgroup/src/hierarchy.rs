//! One hierarchy of groups, of either version: what they have in common, and what each has to say for itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{CgroupError, Limits, failed};

/// `ESRCH`: the process has ended.
const NO_SUCH_PROCESS: i32 = 3;

/// A mounted hierarchy. Groups are paths below its mount. Every call can be repeated.
pub trait Hierarchy: Send + Sync {
    /// For people: `cgroup v1 (cpu)`.
    fn name(&self) -> String;

    fn mount(&self) -> &Path;

    /// Gives the group its limits, as far as this hierarchy has a controller for them.
    fn limit(&self, group: &Path, limits: &Limits) -> Result<(), CgroupError>;

    /// What the group has now, as far as this hierarchy knows; the rest is as in [`Limits::default`].
    fn limits(&self, group: &Path) -> Result<Limits, CgroupError>;

    /// Processor time of the group so far, if this hierarchy counts it.
    fn cpu_usage_us(&self, group: &Path) -> Option<u64>;

    /// Has the groups around this one pass on what it needs.
    fn delegate(&self, _group: &Path) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Makes the group and those around it.
    fn make(&self, group: &Path) -> Result<(), CgroupError> {
        let directory = self.directory(group);
        if !directory.exists() {
            fs::create_dir_all(&directory).map_err(failed("make", &directory))?;
        }
        self.delegate(group)
    }

    /// Takes the process into the group with all its threads; one that has ended is no error.
    fn put(&self, group: &Path, pid: u32) -> Result<(), CgroupError> {
        if self.processes(group).contains(&pid) {
            return Ok(());
        }
        let file = self.directory(group).join("cgroup.procs");
        match fs::write(&file, pid.to_string()) {
            Err(error) if error.raw_os_error() == Some(NO_SUCH_PROCESS) => Ok(()),
            written => written.map_err(failed("write", &file)),
        }
    }

    fn processes(&self, group: &Path) -> Vec<u32> {
        let text = fs::read_to_string(self.directory(group).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Names of the groups right inside this one.
    fn inside(&self, group: &Path) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.directory(group)) else { return Vec::new() };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// True if the group is gone; one with a process or a group in it stays.
    fn remove(&self, group: &Path) -> bool {
        match fs::remove_dir(self.directory(group)) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    fn directory(&self, group: &Path) -> PathBuf {
        assert!(
            group.components().all(|part| matches!(part, std::path::Component::Normal(_))),
            "'{}' can't be a group",
            group.display()
        );
        self.mount().join(group)
    }
}

/// Writes only what is different: some files cost the kernel work.
pub(crate) fn set(file: &Path, value: &str) -> Result<(), CgroupError> {
    if read(file)? == value {
        return Ok(());
    }
    fs::write(file, value).map_err(failed("write", file))
}

pub(crate) fn read(file: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(file).map(|text| text.trim().to_owned()).map_err(failed("read", file))
}

pub(crate) fn number(file: &Path) -> Result<Option<u64>, CgroupError> {
    read(file).map(|text| text.parse().ok())
}
