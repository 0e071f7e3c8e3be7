//! Version 2: one hierarchy with whichever controllers it offers (kernel: admin-guide/cgroup-v2).

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    CgroupError, Hierarchy, Limits, failed,
    hierarchy::{number, read, set},
};

const PERIOD_US: u64 = 100_000;

pub(crate) struct Unified {
    pub mount: PathBuf,
    pub cpu: bool,
    pub memory: bool,
}

impl Hierarchy for Unified {
    fn name(&self) -> String {
        let controllers: Vec<_> = [(self.cpu, "cpu"), (self.memory, "memory")]
            .into_iter()
            .filter_map(|(has, name)| has.then_some(name))
            .collect();
        format!("cgroup v2 ({})", controllers.join(", "))
    }
    fn mount(&self) -> &Path {
        &self.mount
    }

    fn limit(&self, group: &Path, limits: &Limits) -> Result<(), CgroupError> {
        let at = |file: &str| self.directory(group).join(file);
        if self.cpu {
            set(&at("cpu.weight"), &limits.cpu_weight.clamp(1, 10_000).to_string())?;
            let quota = limits.cpu_limit_percent.map(|percent| u64::from(percent) * PERIOD_US / 100);
            let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            set(&at("cpu.max"), &format!("{quota} {PERIOD_US}"))?;
        }
        if self.memory {
            let limit = limits.memory_limit_bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
            set(&at("memory.max"), &limit)?;
            set(&at("memory.low"), &limits.memory_protected_bytes.to_string())?;
        }
        Ok(())
    }

    fn limits(&self, group: &Path) -> Result<Limits, CgroupError> {
        let at = |file: &str| self.directory(group).join(file);
        let mut limits = Limits::default();
        if self.cpu {
            limits.cpu_weight = number(&at("cpu.weight"))?.unwrap_or(100) as u32;
            let max = read(&at("cpu.max"))?;
            let quota = max.split_whitespace().next().and_then(|quota| quota.parse::<u64>().ok());
            limits.cpu_limit_percent = quota.map(|quota| (quota * 100 / PERIOD_US) as u32);
        }
        if self.memory {
            limits.memory_limit_bytes = number(&at("memory.max"))?;
            limits.memory_protected_bytes = number(&at("memory.low"))?.unwrap_or_default();
        }
        Ok(limits)
    }

    /// Counted in every group, also without the controller.
    fn cpu_usage_us(&self, group: &Path) -> Option<u64> {
        let text = fs::read_to_string(self.directory(group).join("cpu.stat")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
    }

    /// A group has a controller only if every group around it passes it on.
    fn delegate(&self, group: &Path) -> Result<(), CgroupError> {
        let around = group.ancestors().skip(1).collect::<Vec<_>>();
        for outer in around.into_iter().rev() {
            let file = self.directory(outer).join("cgroup.subtree_control");
            for (_, name) in [(self.cpu, "cpu"), (self.memory, "memory")].into_iter().filter(|(wanted, _)| *wanted) {
                let passed_on = fs::read_to_string(&file).unwrap_or_default();
                if !passed_on.split_whitespace().any(|known| known == name) {
                    fs::write(&file, format!("+{name}")).map_err(failed("write", &file))?;
                }
            }
        }
        Ok(())
    }
}
