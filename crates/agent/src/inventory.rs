//! What this host is and can do, found out by trying.
//!
//! The probes start QEMU several times and take seconds, so their answers are kept for as long as the host is up and
//! QEMU is the same; a probe that fails costs the host that ability, never the agent its start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_qemu::machine::{Accelerator, Arch as QemuArch};
use gantry_qemu::probe::{self, BootProbe, PostcopySupport};
use gantry_storage::DirPool;
use gantry_types::{Arch, ByteSize, CpuInfo, Inventory, PoolInfo, Problem};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::problem::chain;

/// What the agent itself needs to know of this host's QEMU.
pub(crate) struct QemuHost {
    pub boot_id: String,
    pub direct_io: bool,
    found: Found,
    binaries: BTreeMap<Arch, Binary>,
}

pub(crate) struct Binary {
    pub path: PathBuf,
    pub machine_type: String,
    pub sandbox: Option<&'static str>,
}

/// The kept answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    boot_id: String,
    /// Path, size and time of change of each QEMU: another QEMU is asked again.
    stamps: Vec<String>,
    qemus: Vec<FoundQemu>,
    qemu_version: String,
    kvm_reason: Option<String>,
    post_copy_reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FoundQemu {
    arch: Arch,
    path: PathBuf,
    machine_type: String,
    sandbox: Option<String>,
}

impl QemuHost {
    /// Takes the kept answers if they are still true, asks QEMU otherwise.
    pub async fn find(state_dir: &Path, pool_dir: &Path) -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let path = state_dir.join("inventory.json");
        let stamps = stamps();
        let kept = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Found>(&text).ok());
        let found = match kept.filter(|found| found.boot_id == boot_id && found.stamps == stamps) {
            Some(found) => found,
            None => {
                let found = ask(boot_id.clone(), stamps, state_dir).await;
                durable::replace(&path, &serde_json::to_vec_pretty(&found)?)?;
                found
            }
        };
        let direct_io = probe::direct_io_works(pool_dir)?;
        let binaries = found.qemus.iter().map(|qemu| {
            // The text lives as long as the agent; there is one for each architecture.
            let sandbox = qemu.sandbox.clone().map(|text| &*text.leak());
            let binary = Binary { path: qemu.path.clone(), machine_type: qemu.machine_type.clone(), sandbox };
            (qemu.arch, binary)
        });
        let binaries = binaries.collect();
        Ok(Self { boot_id, direct_io, found, binaries })
    }

    pub fn binary(&self, arch: Arch) -> Result<&Binary, Problem> {
        self.binaries.get(&arch).ok_or_else(|| {
            Problem::conflict("architecture-not-here", format!("this host has no QEMU for {arch} guests"))
                .remedy(format!("install QEMU for {arch} on it and restart its agent, or use another host"))
        })
    }

    /// KVM for guests of the host's own kind if it works, translation otherwise.
    pub fn accelerator(&self, arch: Arch) -> Accelerator {
        if self.found.kvm_reason.is_none() && QemuArch::native() == Some(qemu_arch(arch)) {
            Accelerator::Kvm
        } else {
            Accelerator::Tcg
        }
    }

    pub fn inventory(&self, pool: &DirPool) -> Inventory {
        let cpu = probe::host_cpu().unwrap_or_default();
        let count = std::thread::available_parallelism().map_or(1, |count| count.get());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let pools = pool.capacity().map(|space| PoolInfo {
            name: "default".to_owned(),
            path: pool.path().to_string_lossy().into_owned(),
            capacity: ByteSize(space.capacity_bytes),
            free: ByteSize(space.free_bytes),
        });
        Inventory {
            arch: native_arch(),
            cpu: CpuInfo {
                count: u32::try_from(count).unwrap_or(u32::MAX),
                model: cpu.model_name,
                flags: cpu.flags.into_iter().collect(),
            },
            memory: ByteSize(crate::host_metrics::memory().total_bytes),
            qemu_version: self.found.qemu_version.clone(),
            kvm: self.found.kvm_reason.is_none(),
            kvm_reason: self.found.kvm_reason.clone(),
            guest_archs: self.binaries.keys().copied().collect(),
            sandbox: self.binaries.values().all(|binary| binary.sandbox.is_some()),
            post_copy: self.found.post_copy_reason.is_none(),
            post_copy_reason: self.found.post_copy_reason.clone(),
            kernel,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            pools: pools.into_iter().collect(),
            links: None,
            lost_pools: Default::default(),
        }
    }
}

const KVM: &str = "/dev/kvm";
/// Translation boots the probe in half a second: what takes longer is worse than translation.
const KVM_BOOT_LIMIT: Duration = Duration::from_secs(2);

const ARCHS: [Arch; 4] = [Arch::X86_64, Arch::Aarch64, Arch::Ppc64, Arch::Sparc64];

fn stamps() -> Vec<String> {
    let binaries = ARCHS.iter().filter_map(|arch| gantry_qemu::machine::find_binary(qemu_arch(*arch)).ok());
    let stamp = |path: PathBuf| {
        let found = fs::metadata(&path).ok()?;
        Some(format!("{} {} {}", path.display(), found.size(), found.mtime()))
    };
    binaries.filter_map(stamp).collect()
}

async fn ask(boot_id: String, stamps: Vec<String>, state_dir: &Path) -> Found {
    let mut qemus = Vec::new();
    let mut versions = BTreeMap::new();
    for arch in ARCHS {
        let Ok(path) = gantry_qemu::machine::find_binary(qemu_arch(arch)) else { continue };
        let info = match probe::inspect(qemu_arch(arch), &path).await {
            Ok(info) => info,
            Err(error) => {
                tracing::warn!(%arch, error = chain(&error), "this QEMU does not work");
                continue;
            }
        };
        let sandbox = probe::probe_sandbox(&path).await.unwrap_or_else(|error| {
            tracing::warn!(%arch, error = chain(&error), "QEMU runs without its sandbox");
            None
        });
        versions.insert(arch, info.version);
        let sandbox = sandbox.map(str::to_owned);
        qemus.push(FoundQemu { arch, path, machine_type: info.machine_type, sandbox });
    }
    let native = versions.get(&native_arch()).or_else(|| versions.values().next());
    let post_copy_reason = match native.map(probe::postcopy_support) {
        Some(PostcopySupport::Available) => None,
        Some(PostcopySupport::NeedsSysctl) => probe::enable_unprivileged_userfaultfd()
            .err()
            .map(|error| format!("vm.unprivileged_userfaultfd can't be set to 1: {error}")),
        Some(PostcopySupport::Unavailable { reason }) => Some(reason),
        None => Some("there is no QEMU".to_owned()),
    };
    let native_qemu = qemus.iter().find(|qemu| qemu.arch == native_arch());
    let kvm_reason = match native_qemu {
        Some(qemu) => kvm_reason(&qemu.path, state_dir).await,
        None => Some("there is no QEMU for this host's own architecture".to_owned()),
    };
    let qemu_version = native.map(ToString::to_string).unwrap_or_default();
    Found { boot_id, stamps, qemus, qemu_version, kvm_reason, post_copy_reason }
}

async fn kvm_reason(binary: &Path, scratch_dir: &Path) -> Option<String> {
    match fs::metadata(KVM) {
        Ok(device) if kvm_group(device.mode(), device.gid()).is_none() => {
            let remedy = "run: chgrp kvm /dev/kvm && chmod 660 /dev/kvm, then restart the host's agent";
            return Some(format!("the unprivileged users of VMs can't open {KVM}; {remedy}"));
        }
        Ok(_) => {}
        Err(error) => return Some(format!("{KVM}: {error}")),
    }
    if native_arch() != Arch::X86_64 {
        return Some("KVM is probed on x86-64 hosts only".to_owned());
    }
    match probe::boots_under(binary, Accelerator::Kvm, scratch_dir, KVM_BOOT_LIMIT).await {
        Ok(BootProbe::Boots) => None,
        Ok(BootProbe::DoesNot { reason }) => Some(reason),
        Err(error) => Some(chain(&error)),
    }
}

/// The groups with which a VM's user may open a device of this mode and group; `None` if none helps. Root's own group
/// is never given away.
fn kvm_group(mode: u32, gid: u32) -> Option<Vec<u32>> {
    match mode {
        mode if mode & 0o006 == 0o006 => Some(Vec::new()),
        mode if mode & 0o060 == 0o060 && gid != 0 => Some(vec![gid]),
        _ => None,
    }
}

/// For a QEMU that is to use `accelerator`.
pub(crate) fn supplementary_gids(accelerator: Accelerator) -> Vec<u32> {
    let device = fs::metadata(KVM).ok().filter(|_| accelerator == Accelerator::Kvm);
    device.and_then(|device| kvm_group(device.mode(), device.gid())).unwrap_or_default()
}

fn native_arch() -> Arch {
    match std::env::consts::ARCH {
        "aarch64" => Arch::Aarch64,
        "powerpc64" => Arch::Ppc64,
        "sparc64" => Arch::Sparc64,
        _ => Arch::X86_64,
    }
}

pub(crate) fn qemu_arch(arch: Arch) -> QemuArch {
    match arch {
        Arch::X86_64 => QemuArch::X86_64,
        Arch::Aarch64 => QemuArch::Aarch64,
        Arch::Ppc64 => QemuArch::Ppc64,
        Arch::Sparc64 => QemuArch::Sparc64,
    }
}

pub(crate) fn accelerator_name(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_gets_the_devices_group_and_never_roots() {
        assert_eq!(kvm_group(0o20660, 106), Some(vec![106]));
        assert_eq!(kvm_group(0o20666, 0), Some(Vec::new()));
        assert_eq!(kvm_group(0o20660, 0), None);
        assert_eq!(kvm_group(0o20600, 106), None);
    }
}
