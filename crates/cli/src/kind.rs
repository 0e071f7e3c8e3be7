//! Kinds of object by the names people type.

use std::{fmt, str::FromStr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Vm,
    Host,
    Cluster,
    Policy,
    ResourcePool,
    Image,
    Network,
    Subnet,
    Port,
    SecurityGroup,
    AddressSet,
    Router,
    FloatingIp,
    LoadBalancer,
    Snapshot,
    Backup,
    Repository,
    Pool,
    Volume,
    Alarm,
    Receiver,
    Notice,
    Operation,
    Event,
    Token,
    User,
}

impl Kind {
    pub const ALL: [Self; 26] = [
        Self::Vm,
        Self::Host,
        Self::Cluster,
        Self::Policy,
        Self::ResourcePool,
        Self::Image,
        Self::Network,
        Self::Subnet,
        Self::Port,
        Self::SecurityGroup,
        Self::AddressSet,
        Self::Router,
        Self::FloatingIp,
        Self::LoadBalancer,
        Self::Snapshot,
        Self::Backup,
        Self::Repository,
        Self::Pool,
        Self::Volume,
        Self::Alarm,
        Self::Receiver,
        Self::Notice,
        Self::Operation,
        Self::Event,
        Self::Token,
        Self::User,
    ];

    /// As in an object's `kind`.
    pub fn singular(self) -> &'static str {
        self.names()[0]
    }

    /// What `status.phase` (a host's `status.state`) can be, by the API's names.
    pub fn phases(self) -> &'static [&'static str] {
        match self {
            Self::Vm => &[
                "pending",
                "starting",
                "running",
                "paused",
                "migrating",
                "stopping",
                "stopped",
                "failed",
                "unknown",
                "deleting",
            ],
            Self::Host => &["joining", "ready", "lost", "sleeping", "waking"],
            Self::Image => &["pending", "importing", "ready", "failed"],
            Self::Backup => &["creating", "ready", "damaged", "deleting"],
            Self::Snapshot | Self::Pool => &["creating", "ready", "deleting"],
            Self::Volume => &["creating", "ready", "attaching", "attached", "detaching", "deleting"],
            Self::Alarm => &["ok", "silenced", "acknowledged", "firing"],
            Self::Notice => &["pending", "delivered", "failed"],
            Self::Operation => &["pending", "running", "unwinding", "succeeded", "failed", "cancelled"],
            Self::Cluster
            | Self::Policy
            | Self::ResourcePool
            | Self::Network
            | Self::Subnet
            | Self::Port
            | Self::SecurityGroup
            | Self::AddressSet => &[],
            Self::Router | Self::FloatingIp | Self::LoadBalancer | Self::Receiver | Self::Repository => &[],
            Self::Event | Self::Token | Self::User => &[],
        }
    }

    /// Singular, plural, short.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Vm => &["vm", "vms"],
            Self::Host => &["host", "hosts"],
            Self::Cluster => &["cluster", "clusters"],
            Self::Policy => &["policy", "policies"],
            Self::ResourcePool => &["resource-pool", "resource-pools", "rp"],
            Self::Image => &["image", "images", "img"],
            Self::Network => &["network", "networks", "net"],
            Self::Subnet => &["subnet", "subnets"],
            Self::Port => &["port", "ports"],
            Self::SecurityGroup => &["security-group", "security-groups", "sg"],
            Self::AddressSet => &["address-set", "address-sets"],
            Self::Router => &["router", "routers"],
            Self::FloatingIp => &["floating-ip", "floating-ips", "fip"],
            Self::LoadBalancer => &["load-balancer", "load-balancers", "lb"],
            Self::Snapshot => &["snapshot", "snapshots", "snap"],
            Self::Backup => &["backup", "backups"],
            Self::Repository => &["repository", "repositories"],
            Self::Pool => &["pool", "pools"],
            Self::Volume => &["volume", "volumes", "vol"],
            Self::Alarm => &["alarm", "alarms"],
            Self::Receiver => &["receiver", "receivers"],
            Self::Notice => &["notice", "notices"],
            Self::Operation => &["operation", "operations", "op", "ops"],
            Self::Event => &["event", "events", "ev"],
            Self::Token => &["token", "tokens"],
            Self::User => &["user", "users"],
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| kind.names().contains(&wanted.as_str())).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|kind| kind.singular()).collect();
            let shown: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
            format!("'{shown}' is not a kind of object; there are {}", known.join(", "))
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.singular())
    }
}

/// Evaluates `$body` with `$type` standing for the type of objects of `$kind`.
macro_rules! with_kind {
    ($kind:expr, $type:ident => $body:expr) => {
        match $kind {
            $crate::kind::Kind::Vm => {
                type $type = gantry_types::Vm;
                $body
            }
            $crate::kind::Kind::Host => {
                type $type = gantry_types::Host;
                $body
            }
            $crate::kind::Kind::Cluster => {
                type $type = gantry_types::Cluster;
                $body
            }
            $crate::kind::Kind::Policy => {
                type $type = gantry_types::Policy;
                $body
            }
            $crate::kind::Kind::ResourcePool => {
                type $type = gantry_types::ResourcePool;
                $body
            }
            $crate::kind::Kind::Image => {
                type $type = gantry_types::Image;
                $body
            }
            $crate::kind::Kind::Network => {
                type $type = gantry_types::Network;
                $body
            }
            $crate::kind::Kind::Subnet => {
                type $type = gantry_types::NetworkSubnet;
                $body
            }
            $crate::kind::Kind::Port => {
                type $type = gantry_types::Port;
                $body
            }
            $crate::kind::Kind::SecurityGroup => {
                type $type = gantry_types::SecurityGroup;
                $body
            }
            $crate::kind::Kind::AddressSet => {
                type $type = gantry_types::AddressSet;
                $body
            }
            $crate::kind::Kind::Router => {
                type $type = gantry_types::Router;
                $body
            }
            $crate::kind::Kind::FloatingIp => {
                type $type = gantry_types::FloatingIp;
                $body
            }
            $crate::kind::Kind::LoadBalancer => {
                type $type = gantry_types::LoadBalancer;
                $body
            }
            $crate::kind::Kind::Snapshot => {
                type $type = gantry_types::Snapshot;
                $body
            }
            $crate::kind::Kind::Backup => {
                type $type = gantry_types::Backup;
                $body
            }
            $crate::kind::Kind::Pool => {
                type $type = gantry_types::Pool;
                $body
            }
            $crate::kind::Kind::Volume => {
                type $type = gantry_types::Volume;
                $body
            }
            $crate::kind::Kind::Alarm => {
                type $type = gantry_types::Alarm;
                $body
            }
            $crate::kind::Kind::Repository => {
                type $type = gantry_types::Repository;
                $body
            }
            $crate::kind::Kind::Receiver => {
                type $type = gantry_types::Receiver;
                $body
            }
            $crate::kind::Kind::Notice => {
                type $type = gantry_types::Notice;
                $body
            }
            $crate::kind::Kind::Operation => {
                type $type = gantry_types::Operation;
                $body
            }
            $crate::kind::Kind::Event => {
                type $type = gantry_types::Event;
                $body
            }
            $crate::kind::Kind::Token => {
                type $type = gantry_types::ApiToken;
                $body
            }
            $crate::kind::Kind::User => {
                type $type = gantry_types::User;
                $body
            }
        }
    };
}
pub(crate) use with_kind;

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_types::{
        AlarmState, BackupPhase, HostState, ImagePhase, OperationPhase, PoolPhase, Resource, VmPhase, VolumePhase,
    };
    use serde::de::DeserializeOwned;

    #[test]
    fn phases_are_the_apis() {
        fn all_are<T: DeserializeOwned>(kind: Kind) {
            for phase in kind.phases() {
                assert!(serde_json::from_value::<T>((*phase).into()).is_ok(), "{kind} {phase}");
            }
        }
        all_are::<VmPhase>(Kind::Vm);
        all_are::<HostState>(Kind::Host);
        all_are::<ImagePhase>(Kind::Image);
        all_are::<AlarmState>(Kind::Alarm);
        all_are::<gantry_types::NoticePhase>(Kind::Notice);
        all_are::<OperationPhase>(Kind::Operation);
        all_are::<PoolPhase>(Kind::Pool);
        all_are::<BackupPhase>(Kind::Backup);
        all_are::<VolumePhase>(Kind::Volume);
        assert_eq!(Kind::Vm.phases().to_vec(), VmPhase::ALL.map(|phase| phase.to_string()));
    }

    #[test]
    fn every_name_of_a_kind_means_it() {
        for kind in Kind::ALL {
            for name in kind.names() {
                assert_eq!(name.parse(), Ok(kind));
                assert_eq!(name.to_uppercase().parse(), Ok(kind));
            }
            with_kind!(kind, T => {
                assert_eq!(T::KIND.parse(), Ok(kind));
                assert_eq!(T::PLURAL.parse(), Ok(kind));
                assert_eq!(T::KIND, kind.singular());
            });
        }
        for bad in ["", "vmss", "pod", "vm ", "\u{1b}[31mvm"] {
            let error = bad.parse::<Kind>().unwrap_err();
            assert!(error.contains("operation") && !error.contains('\u{1b}'), "{error}");
        }
    }
}
