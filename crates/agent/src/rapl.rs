//! What this host's processors and memory have drawn, from the kernel's power capping framework (kernel:
//! power/powercap/powercap, class `intel-rapl`; AMD's counters are there, too).
//!
//! Counters start anew when they reach `max_energy_range_uj`. A host without them, or one on which they can't be read, has
//! no figure; nothing is made up here.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const ZONES: &str = "/sys/class/powercap";

/// Adds up what the counters moved since it began.
pub(crate) struct EnergyMeter {
    zones: PathBuf,
    last_uj: BTreeMap<PathBuf, u64>,
    total_uj: u64,
}

impl Default for EnergyMeter {
    fn default() -> Self {
        Self::at(Path::new(ZONES))
    }
}

impl EnergyMeter {
    fn at(zones: &Path) -> Self {
        Self { zones: zones.to_owned(), last_uj: BTreeMap::new(), total_uj: 0 }
    }

    /// Joules since the first call; `None` where nothing counts them.
    pub fn joules(&mut self) -> Option<f64> {
        let zones = self.counted();
        if zones.is_empty() {
            return None;
        }
        for zone in zones {
            let Some(now) = number(&zone.join("energy_uj")) else { continue };
            if let Some(last) = self.last_uj.insert(zone.clone(), now) {
                let range = number(&zone.join("max_energy_range_uj")).unwrap_or(u64::MAX);
                self.total_uj += if now >= last { now - last } else { range.saturating_sub(last) + now };
            }
        }
        (!self.last_uj.is_empty()).then_some(self.total_uj as f64 / 1e6)
    }

    /// Each package, which includes its cores, and its memory, which it does not include.
    fn counted(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.zones) else { return Vec::new() };
        let named = |path: &Path| fs::read_to_string(path.join("name")).unwrap_or_default();
        let wanted = |path: &PathBuf| {
            let name = named(path);
            name.starts_with("package-") || name.trim() == "dram"
        };
        let mut zones: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(wanted).collect();
        zones.sort();
        zones
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(directory: &Path, zone: &str, name: &str, energy_uj: u64) {
        let zone = directory.join(zone);
        fs::create_dir_all(&zone).unwrap();
        for (file, text) in
            [("name", name.to_owned()), ("energy_uj", energy_uj.to_string()), ("max_energy_range_uj", "1000000".into())]
        {
            fs::write(zone.join(file), format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn packages_and_memory_count_also_when_a_counter_starts_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut meter = EnergyMeter::at(directory.path());
        assert_eq!(meter.joules(), None);
        let zones = |package: u64, cores: u64, dram: u64| {
            zone(directory.path(), "intel-rapl:0", "package-0", package);
            zone(directory.path(), "intel-rapl:0:0", "core", cores);
            zone(directory.path(), "intel-rapl:0:1", "dram", dram);
        };
        zones(500_000, 400_000, 900_000);
        assert_eq!(meter.joules(), Some(0.0));
        zones(800_000, 600_000, 100_000);
        // 0.3 J of the package, and 0.1 J to the end of the counter and 0.1 J after it.
        assert_eq!(meter.joules(), Some(0.5));
        zones(800_000, 700_000, 100_000);
        assert_eq!(meter.joules(), Some(0.5));
    }
}
