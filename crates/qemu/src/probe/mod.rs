//! What the QEMU on this machine can really do. Nothing is concluded from a file's existence alone:
//! accelerators are tried by booting, the sandbox by starting under it.
//!
//! Failure behaviour: a probe that cannot start QEMU at all is an error; one that gets a "no" is a value.
//! Probes leave no process behind, also when dropped half way.

mod boot;
mod userfaultfd;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, timeout};

pub use boot::{BootProbe, KVM_BOOT_LIMIT, boots_under};
pub use userfaultfd::{PostcopySupport, enable_unprivileged_userfaultfd, postcopy_support};

use crate::ErrorClass;
use crate::machine::{Accelerator, Arch, find_binary};
use crate::qmp::command::{CpuModel, CpuModelExpansion, QueryCpuModelExpansion, QueryMachines, Quit};
use crate::qmp::{QemuVersion, Qmp, QmpError};

/// A QEMU without a guest answers in well under a second; this is for a very busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot run {}", binary.display())]
    Run {
        binary: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} started for a probe does not answer: {stderr}", binary.display())]
    Monitor {
        binary: PathBuf,
        stderr: String,
        #[source]
        source: QmpError,
    },
    #[error("cannot write the probe's boot image")]
    Image(#[source] io::Error),
}

impl ProbeError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Run { source, .. } | Self::Image(source) => crate::class_of_io(source),
            Self::Monitor { source, .. } => source.class(),
        }
    }
}

/// A QEMU for guests of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuInfo {
    pub arch: Arch,
    pub binary: PathBuf,
    pub version: QemuVersion,
    /// What [`Arch::default_machine_type`] stands for in this release, e.g. `pc-q35-7.2`: to be pinned in
    /// a machine that may migrate.
    pub machine_type: String,
}

/// The processor of this machine, as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostCpu {
    pub model_name: String,
    pub flags: BTreeSet<String>,
}

/// Every architecture that has a QEMU here.
pub async fn installed() -> Result<Vec<QemuInfo>, ProbeError> {
    let mut found = Vec::new();
    for arch in Arch::ALL {
        if let Ok(binary) = find_binary(arch) {
            found.push(inspect(arch, &binary).await?);
        }
    }
    Ok(found)
}

pub async fn inspect(arch: Arch, binary: &Path) -> Result<QemuInfo, ProbeError> {
    let (version, machines) = ask(binary, &["-machine", "none"], async |qmp| {
        let machines = qmp.execute(QueryMachines {}).await?;
        Ok((qmp.version().clone(), machines))
    })
    .await?;
    let default = arch.default_machine_type();
    let machine_type = machines
        .into_iter()
        .find(|machine| machine.alias.as_deref() == Some(default))
        .map_or_else(|| default.to_owned(), |machine| machine.name);
    Ok(QemuInfo { arch, binary: binary.to_owned(), version, machine_type })
}

/// The features a guest sees with `cpu_model` under an accelerator. Not every architecture's QEMU can tell.
pub async fn guest_cpu_features(
    binary: &Path,
    arch: Arch,
    accelerator: Accelerator,
    cpu_model: &str,
) -> Result<BTreeSet<String>, ProbeError> {
    let accel = match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
    };
    let args = ["-machine", arch.default_machine_type(), "-accel", accel, "-S"];
    let props: BTreeMap<_, _> = ask(binary, &args, async |qmp| {
        let expansion = qmp
            .execute(QueryCpuModelExpansion {
                expansion: CpuModelExpansion::Full,
                model: CpuModel { name: cpu_model.to_owned() },
            })
            .await?;
        Ok(expansion.model.props)
    })
    .await?;
    Ok(props.into_iter().filter(|(_, value)| value == &serde_json::Value::Bool(true)).map(|(name, _)| name).collect())
}

/// Reads `/proc/cpuinfo`.
pub fn host_cpu() -> io::Result<HostCpu> {
    Ok(parse_cpuinfo(&std::fs::read_to_string("/proc/cpuinfo")?))
}

fn parse_cpuinfo(text: &str) -> HostCpu {
    let mut cpu = HostCpu::default();
    // All processors of a machine are alike: the first one's paragraph is enough.
    let first = text.split("\n\n").next().unwrap_or_default();
    for line in first.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            // The names on x86, POWER and SPARC.
            "model name" | "cpu" => cpu.model_name = value.trim().to_owned(),
            "flags" | "Features" => {
                cpu.flags = value.split_whitespace().map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    cpu
}

/// The strictest `-sandbox` value this QEMU starts with; `None` if it has no sandbox (built without
/// seccomp, or the kernel refuses).
pub async fn probe_sandbox(binary: &Path) -> Result<Option<&'static str>, ProbeError> {
    const LEVELS: [&str; 2] = [
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
    ];
    for level in LEVELS {
        let args = ["-machine", "none", "-sandbox", level];
        match ask(binary, &args, async |_| Ok(())).await {
            Ok(()) => return Ok(Some(level)),
            Err(ProbeError::Monitor { stderr, .. }) => {
                tracing::debug!(level, stderr, "QEMU does not start with this sandbox");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether files in `dir` can be opened with O_DIRECT (tmpfs, for one, may refuse).
pub fn direct_io_works(dir: &Path) -> io::Result<bool> {
    let path = dir.join(format!(".direct-io-probe-{}", std::process::id()));
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
    let opened = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .custom_flags(direct)
        .open(&path);
    // A refused O_DIRECT may still have made the file.
    let removed = std::fs::remove_file(&path);
    match opened {
        Ok(_) => removed.map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

/// Starts a QEMU whose monitor is its standard streams, asks it something and ends it.
async fn ask<T>(
    binary: &Path,
    args: &[&str],
    question: impl AsyncFnOnce(&Qmp) -> Result<T, QmpError>,
) -> Result<T, ProbeError> {
    let failed = |source| ProbeError::Run { binary: binary.to_owned(), source };
    let fixed = ["-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"];
    let mut child = Command::new(binary)
        .args(fixed.iter().chain(args).map(OsStr::new))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed(io::ErrorKind::BrokenPipe.into()));
    };
    let answer = async {
        let endpoint = binary.display().to_string();
        let deadline = Instant::now() + START_LIMIT;
        let qmp = Qmp::from_stream(stdout, stdin, &endpoint, deadline).await?;
        let answer = question(&qmp).await?;
        qmp.execute(Quit {}).await?;
        Ok(answer)
    };
    let answer: Result<T, QmpError> = timeout(START_LIMIT, answer)
        .await
        .unwrap_or_else(|_| Err(QmpError::Timeout { what: "an answer to a probe".to_owned() }));
    if answer.is_err() {
        // It may have ended already; `wait_with_output` below tells why.
        child.start_kill().ok();
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    answer.map_err(|source| ProbeError::Monitor {
        binary: binary.to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_of_two_architectures() {
        let x86 = parse_cpuinfo(
            "processor\t: 0\nmodel name\t: Foo CPU\nflags\t\t: fpu sse2\n\nprocessor\t: 1\nmodel name\t: other\n",
        );
        assert_eq!(x86.model_name, "Foo CPU");
        assert_eq!(x86.flags, BTreeSet::from(["fpu".to_owned(), "sse2".to_owned()]));
        let arm = parse_cpuinfo("processor : 0\nFeatures : fp asimd\n");
        assert_eq!(arm.flags.len(), 2);
    }
}
