//! Why a host was not chosen, in words.

use std::fmt;

use gantry_types::{Arch, ByteSize, DomainLevel, Keep, Name, Selector};

/// Why a host was not chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// It would have done; another one scored more.
    LowerScore {
        score: f64,
        best: f64,
    },
    NotTheOneAskedFor,
    Excluded,
    Joining,
    Lost,
    Cordoned,
    Maintenance,
    Asleep,
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
    TooLittleUnreservedMemory {
        needed: ByteSize,
        free: ByteSize,
    },
    TooFewCpus {
        needed: u32,
        free: u32,
    },
    TooLittleUnreservedCpu {
        needed_percent: u32,
        free_percent: u32,
    },
    TooLittleDisk {
        needed: ByteSize,
        free: ByteSize,
    },
    NoSuchPool {
        pool: String,
    },
    NetworkOutOfReach {
        network: Name,
        why: String,
    },
    /// A rule between VMs, the request's own or one of a VM that is placed.
    VmRule {
        keep: Keep,
        selector: Selector,
        domain: DomainLevel,
        own: bool,
    },
    HostRule {
        keep: Keep,
        selector: Selector,
    },
    /// The memory is there, but promised to the VMs of a host that fails.
    FailoverCapacity {
        hosts: u32,
        needed: ByteSize,
        free: ByteSize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LowerScore { score, best } => write!(f, "would do, but scores {score:.3}, less than {best:.3}"),
            Self::NotTheOneAskedFor => f.write_str("is not the host asked for"),
            Self::Excluded => f.write_str("is where the VM is now"),
            Self::Joining => f.write_str("has not reported its inventory yet"),
            Self::Lost => f.write_str("is lost: its agent does not answer"),
            Self::Cordoned => f.write_str("is cordoned"),
            Self::Maintenance => f.write_str("is in maintenance"),
            Self::Asleep => f.write_str("is asleep"),
            Self::CannotRun { arch } => write!(f, "can't run {arch} guests"),
            Self::OtherArch { arch } => write!(f, "has another architecture, {arch}"),
            Self::OtherAccelerator { kvm: true } => f.write_str("uses KVM, the VM runs under TCG"),
            Self::OtherAccelerator { kvm: false } => f.write_str("uses TCG, the VM runs under KVM"),
            Self::OlderQemu { has, needed } => write!(f, "has QEMU {has}, older than {needed} which the VM runs on"),
            Self::MissingCpuFlag { flag } => write!(f, "has a processor without '{flag}', which the guest may use"),
            Self::TooLittleMemory { needed, free } => {
                write!(f, "has {} of memory free, {} are needed", free.approximate(), needed.approximate())
            }
            Self::TooLittleUnreservedMemory { needed, free } => write!(
                f,
                "has {} of memory that is not reserved, a reservation of {} is needed",
                free.approximate(),
                needed.approximate()
            ),
            Self::TooFewCpus { needed, free } => {
                write!(f, "may give out {free} more virtual processors, {needed} are needed")
            }
            Self::TooLittleUnreservedCpu { needed_percent, free_percent } => write!(
                f,
                "has {free_percent} % of a processor that is not reserved, a reservation of {needed_percent} % is needed"
            ),
            Self::TooLittleDisk { needed, free } => {
                write!(f, "has {} of disk free, {} are needed", free.approximate(), needed.approximate())
            }
            Self::NoSuchPool { pool } => write!(f, "has no storage pool '{pool}'"),
            Self::NetworkOutOfReach { network, why } => write!(f, "does not reach network '{network}': {why}"),
            Self::VmRule { keep, selector, domain, own } => {
                let whose = if *own { "the VM" } else { "a VM that is placed" };
                match keep {
                    Keep::Apart => write!(f, "would break a rule of {whose}: on another {domain} than {selector}"),
                    Keep::Together => write!(f, "would break a rule of {whose}: on the same {domain} as {selector}"),
                }
            }
            Self::HostRule { keep: Keep::Together, selector } => {
                write!(f, "is not among the hosts that the VM must be on: {selector}")
            }
            Self::HostRule { keep: Keep::Apart, selector } => {
                write!(f, "is among the hosts that the VM must not be on: {selector}")
            }
            Self::FailoverCapacity { hosts, needed, free } => write!(
                f,
                "would leave {} of memory free in all, {} are kept for the VMs of {hosts} failed host(s)",
                free.approximate(),
                needed.approximate()
            ),
        }
    }
}
