//! Why the data plane could not be read or changed.

use std::path::PathBuf;

pub use gantry_types::ErrorClass;

pub type Result<T, E = NetworkError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network '{network}': {problem}")]
    Invalid { network: String, problem: String },

    #[error(
        "interface '{name}' exists as a {found}, but Gantry needs the name for a {wanted}; \
         rename or delete that interface"
    )]
    NameTaken { name: String, found: String, wanted: &'static str },

    #[error("interface '{name}' does not exist on this host ({needed_for}); apply the host's networks, then repeat")]
    NoInterface { name: String, needed_for: String },

    #[error("cannot run '{program}': it is not installed; install the package '{package}' and repeat")]
    ProgramMissing { program: &'static str, package: &'static str },

    #[error("cannot run '{program}'")]
    Spawn {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("could not {attempt}; the kernel needs nf_conntrack and nf_conntrack_netlink")]
    Flows {
        attempt: String,
        #[source]
        source: std::io::Error,
    },

    #[error("'{program}' did not finish within {limit_ms} ms while trying to {attempt}; it was stopped")]
    TimedOut { program: &'static str, attempt: String, limit_ms: u64 },

    #[error("could not {attempt}: {reason}; {remedy}")]
    Refused { attempt: String, reason: String, remedy: String, class: ErrorClass },

    #[error("'{program}' printed something that cannot be read while trying to {attempt}; check its version")]
    Unreadable {
        program: &'static str,
        attempt: String,
        #[source]
        source: serde_json::Error,
    },

    #[error("no interface carries the underlay address {address} of network '{network}'; assign it, then repeat")]
    NoUnderlay { network: String, address: std::net::IpAddr },

    #[error(
        "network '{network}' has MTU {mtu}, which needs an underlay MTU of at least {needed}, but interface \
         '{interface}' ({address}) has {actual}; raise it (ip link set {interface} mtu {needed}) or lower the \
         network's MTU to {possible}"
    )]
    UnderlayTooSmall {
        network: String,
        mtu: u32,
        interface: String,
        address: std::net::IpAddr,
        needed: u32,
        actual: u32,
        possible: u32,
    },

    #[error(
        "this host has no interface '{interface}', which network '{network}' continues on; plug it in or give an \
         interface that name, or keep the network's VMs on other hosts"
    )]
    NoUplink { network: String, interface: String },

    #[error(
        "interface '{interface}' can't be given to network '{network}': {used}; use an interface that is free, what \
         the host itself sends by it would be lost"
    )]
    UplinkInUse { network: String, interface: String, used: String },

    #[error(
        "network '{network}' has MTU {mtu}, but its interface '{interface}' has {actual}; raise it (ip link set \
         {interface} mtu {mtu}) or lower the network's MTU to {actual}"
    )]
    UplinkTooSmall { network: String, mtu: u32, interface: String, actual: u32 },
}

impl NetworkError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid { .. } => ErrorClass::Invalid,
            Self::NameTaken { .. } => ErrorClass::Conflict,
            Self::NoInterface { .. } => ErrorClass::NotFound,
            Self::TimedOut { .. } | Self::Flows { .. } => ErrorClass::Transient,
            Self::Refused { class, .. } => *class,
            Self::ProgramMissing { .. }
            | Self::Spawn { .. }
            | Self::Unreadable { .. }
            | Self::NoUnderlay { .. }
            | Self::NoUplink { .. }
            | Self::UplinkInUse { .. }
            | Self::UplinkTooSmall { .. }
            | Self::UnderlayTooSmall { .. } => ErrorClass::Permanent,
        }
    }
}
