//! Answers of placement, and how people read them.

use std::{collections::BTreeMap, fmt};

use gantry_types::{Arch, ByteSize, Name};

/// Where the VM goes, and why nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub host: Name,
    /// Before the VM took its share.
    pub free_memory: ByteSize,
    pub refused: BTreeMap<Name, Reason>,
}

/// No host will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub refused: BTreeMap<Name, Reason>,
}

impl Refusal {
    /// The architecture that no host has a QEMU for, if nothing else is in the way.
    pub fn missing_arch(&self) -> Option<Arch> {
        let archs: Option<Vec<_>> = self
            .refused
            .values()
            .filter(|reason| !matches!(reason, Reason::NotTheOneAskedFor | Reason::Excluded))
            .map(|reason| match reason {
                Reason::CannotRun { arch } => Some(*arch),
                _ => None,
            })
            .collect();
        archs?.first().copied()
    }
}

/// Why a host was not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It would have done; another one had more.
    LessFreeMemory {
        free: ByteSize,
    },
    NotTheOneAskedFor,
    Excluded,
    Joining,
    Lost,
    Asleep,
    Cordoned,
    CannotRun {
        arch: Arch,
    },
    OtherArch {
        arch: Arch,
    },
    OtherAccelerator {
        kvm: bool,
    },
    OlderQemu {
        has: String,
        needed: String,
    },
    MissingCpuFlag {
        flag: String,
    },
    TooLittleMemory {
        needed: ByteSize,
        free: ByteSize,
    },
    TooLittleDisk {
        needed: ByteSize,
        free: ByteSize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LessFreeMemory { free } => write!(f, "would do, but has only {} free", free.approximate()),
            Self::NotTheOneAskedFor => f.write_str("is not the host asked for"),
            Self::Excluded => f.write_str("is where the VM is now"),
            Self::Joining => f.write_str("has not reported its inventory yet"),
            Self::Lost => f.write_str("is lost: its agent does not answer"),
            Self::Asleep => f.write_str("is asleep"),
            Self::Cordoned => f.write_str("is cordoned"),
            Self::CannotRun { arch } => write!(f, "can't run {arch} guests"),
            Self::OtherArch { arch } => write!(f, "has another architecture, {arch}"),
            Self::OtherAccelerator { kvm: true } => f.write_str("uses KVM, the VM runs under TCG"),
            Self::OtherAccelerator { kvm: false } => f.write_str("uses TCG, the VM runs under KVM"),
            Self::OlderQemu { has, needed } => write!(f, "has QEMU {has}, older than {needed} which the VM runs on"),
            Self::MissingCpuFlag { flag } => write!(f, "has a processor without '{flag}', which the guest may use"),
            Self::TooLittleMemory { needed, free } => {
                write!(f, "has {} of memory free, {} are needed", free.approximate(), needed.approximate())
            }
            Self::TooLittleDisk { needed, free } => {
                write!(f, "has {} of disk free, {} are needed", free.approximate(), needed.approximate())
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.refused.is_empty() {
            return f.write_str("there are no hosts");
        }
        // With one host asked for, the others are of no interest.
        let told = self.refused.iter().filter(|(_, reason)| **reason != Reason::NotTheOneAskedFor);
        let told: Vec<_> = told.map(|(host, reason)| format!("{host} {reason}")).collect();
        if told.is_empty() {
            return f.write_str("the host asked for does not exist");
        }
        f.write_str(&told.join("; "))
    }
}

impl std::error::Error for Refusal {}
