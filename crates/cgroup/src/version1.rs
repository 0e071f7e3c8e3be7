//! Version 1: a hierarchy for each controller (kernel: admin-guide/cgroup-v1, scheduler/sched-bwc).

use std::path::{Path, PathBuf};

use crate::{
    CgroupError, Hierarchy, Limits,
    hierarchy::{number, set},
};

/// Of the processor quota.
const PERIOD_US: u64 = 100_000;
/// What the weight 100 is in `cpu.shares`.
const USUAL_SHARES: u64 = 1024;
/// Memory limits are whole pages; at least this is none.
const NO_LIMIT: u64 = i64::MAX as u64 & !0xffff;

/// Divides processor time.
pub(crate) struct Cpu(pub PathBuf);
/// Counts processor time.
pub(crate) struct CpuAccount(pub PathBuf);
pub(crate) struct Memory(pub PathBuf);

impl Hierarchy for Cpu {
    fn name(&self) -> String {
        "cgroup v1 (cpu)".to_owned()
    }
    fn mount(&self) -> &Path {
        &self.0
    }

    fn limit(&self, group: &Path, limits: &Limits) -> Result<(), CgroupError> {
        let at = |file: &str| self.directory(group).join(file);
        let shares = (u64::from(limits.cpu_weight) * USUAL_SHARES / 100).clamp(2, 262_144);
        set(&at("cpu.shares"), &shares.to_string())?;
        set(&at("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
        let quota = limits.cpu_limit_percent.map(|percent| u64::from(percent) * PERIOD_US / 100);
        set(&at("cpu.cfs_quota_us"), &quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string()))
    }

    fn limits(&self, group: &Path) -> Result<Limits, CgroupError> {
        let at = |file: &str| self.directory(group).join(file);
        let weight = number(&at("cpu.shares"))?.unwrap_or(USUAL_SHARES) * 100 / USUAL_SHARES;
        let quota = number(&at("cpu.cfs_quota_us"))?;
        Ok(Limits {
            cpu_weight: weight as u32,
            cpu_limit_percent: quota.map(|quota| (quota * 100 / PERIOD_US) as u32),
            ..Limits::default()
        })
    }

    fn cpu_usage_us(&self, _group: &Path) -> Option<u64> {
        None
    }
}

impl Hierarchy for CpuAccount {
    fn name(&self) -> String {
        "cgroup v1 (cpuacct)".to_owned()
    }
    fn mount(&self) -> &Path {
        &self.0
    }
    fn limit(&self, _group: &Path, _limits: &Limits) -> Result<(), CgroupError> {
        Ok(())
    }
    fn limits(&self, _group: &Path) -> Result<Limits, CgroupError> {
        Ok(Limits::default())
    }
    fn cpu_usage_us(&self, group: &Path) -> Option<u64> {
        let nanoseconds = number(&self.directory(group).join("cpuacct.usage")).ok()??;
        Some(nanoseconds / 1000)
    }
}

impl Hierarchy for Memory {
    fn name(&self) -> String {
        "cgroup v1 (memory)".to_owned()
    }
    fn mount(&self) -> &Path {
        &self.0
    }

    fn limit(&self, group: &Path, limits: &Limits) -> Result<(), CgroupError> {
        let at = |file: &str| self.directory(group).join(file);
        let known = self.limits(group)?;
        if known.memory_limit_bytes != limits.memory_limit_bytes {
            let limit = limits.memory_limit_bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
            set(&at("memory.limit_in_bytes"), &limit)?;
        }
        // The kernel reclaims from those above theirs first; a group with nothing protected has the least claim.
        set(&at("memory.soft_limit_in_bytes"), &limits.memory_protected_bytes.to_string())
    }

    fn limits(&self, group: &Path) -> Result<Limits, CgroupError> {
        let at = |file: &str| self.directory(group).join(file);
        Ok(Limits {
            memory_limit_bytes: number(&at("memory.limit_in_bytes"))?.filter(|bytes| *bytes < NO_LIMIT),
            memory_protected_bytes: number(&at("memory.soft_limit_in_bytes"))?
                .filter(|bytes| *bytes < NO_LIMIT)
                .unwrap_or_default(),
            ..Limits::default()
        })
    }

    fn cpu_usage_us(&self, _group: &Path) -> Option<u64> {
        None
    }
}
