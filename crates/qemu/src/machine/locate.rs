//! Finding QEMU's binaries and UEFI images on this machine, with errors that say what to install.

use std::path::{Path, PathBuf};

use super::Arch;
use crate::ErrorClass;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LocateError {
    #[error("{program} is not installed, so {arch} guests cannot run here: install the package {package}")]
    Binary { arch: &'static str, program: String, package: &'static str },
    #[error("no UEFI firmware for {arch} guests was found (looked for {looked_for}): install the package {package}")]
    Uefi { arch: &'static str, looked_for: String, package: &'static str },
    #[error("{arch} guests have no UEFI firmware: use the machine's own (`bios`)")]
    NoUefi { arch: &'static str },
}

impl LocateError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Binary { .. } | Self::Uefi { .. } => ErrorClass::NotFound,
            Self::NoUefi { .. } => ErrorClass::Invalid,
        }
    }
}

/// The QEMU program for guests of `arch`, from `PATH`.
pub fn find_binary(arch: Arch) -> Result<PathBuf, LocateError> {
    let program = format!("qemu-system-{}", arch.name());
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(&program)).find(|candidate| candidate.is_file()).ok_or(
        LocateError::Binary {
            arch: arch.name(),
            program,
            package: match arch {
                Arch::X86_64 => "qemu-system-x86",
                Arch::Aarch64 => "qemu-system-arm",
                Arch::Ppc64 => "qemu-system-ppc",
                Arch::Sparc64 => "qemu-system-sparc",
            },
        },
    )
}

/// The UEFI code image and the template of its variables (to be copied for each machine).
pub fn find_uefi(arch: Arch) -> Result<(PathBuf, PathBuf), LocateError> {
    let (candidates, package): (&[(&str, &str)], _) = match arch {
        Arch::X86_64 => (
            &[
                ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
                ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
                ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
            ],
            "ovmf",
        ),
        Arch::Aarch64 => (&[("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd")], "qemu-efi-aarch64"),
        Arch::Ppc64 | Arch::Sparc64 => return Err(LocateError::NoUefi { arch: arch.name() }),
    };
    candidates
        .iter()
        .find(|(code, vars)| Path::new(code).is_file() && Path::new(vars).is_file())
        .map(|(code, vars)| (PathBuf::from(code), PathBuf::from(vars)))
        .ok_or_else(|| LocateError::Uefi {
            arch: arch.name(),
            looked_for: candidates.iter().map(|(code, _)| *code).collect::<Vec<_>>().join(", "),
            package,
        })
}
