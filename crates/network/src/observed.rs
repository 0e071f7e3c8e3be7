//! The state of the data plane, as the kernel has it: the same shape for what is there and for what should be.
//!
//! It holds only objects Gantry owns by name ([`crate::names::role`]), and of those only what Gantry sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::mac::MacAddress;
use crate::plane::PortRef;
use crate::router::RouterState;
use crate::ruleset::Ruleset;

/// Devices, forwarding entries, neighbours and guards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub links: BTreeMap<String, Link>,
    /// Static entries of a bridge: (bridge, MAC) to the bridge port.
    pub bridge_fdb: BTreeMap<(String, MacAddress), String>,
    /// Static entries of a vxlan device: (device, MAC) to VTEPs. Only [`MacAddress::ZERO`] has several.
    pub vxlan_fdb: BTreeMap<(String, MacAddress), BTreeSet<IpAddr>>,
    /// Permanent neighbours: (device, address) to MAC.
    pub neighbours: BTreeMap<(String, IpAddr), MacAddress>,
    /// Guard chains by their name: that of the device they stand before, or [`crate::guard::delivery_name`].
    pub guards: BTreeMap<String, Guard>,
    /// Routers' namespaces by their key ([`crate::names::router_key`]).
    pub routers: BTreeMap<String, RouterState>,
    /// Security groups.
    pub groups: Ruleset,
    /// Frames that take another way ([`crate::steering`]).
    pub steering: Ruleset,
    /// Whether the kernel shows bridged packets to `groups` (br_netfilter). Only looked at while there are some.
    pub filters_bridges: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub kind: LinkKind,
    pub mtu: u32,
    pub up: bool,
    /// Whether the host gives itself an IPv6 address on the device.
    pub generates_address: bool,
    pub master: Option<String>,
    /// Present exactly on bridge ports.
    pub port: Option<PortFlags>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Bridge(BridgeOptions),
    Vxlan(VxlanOptions),
    /// The way out of a bridged network, in the place of a vxlan device: everything that comes in by the interface, and
    /// out by it (macvlan, mode passthru). The interface itself stays as it is.
    Uplink {
        interface: String,
    },
    Tap {
        owner_uid: u32,
    },
    /// A router's end of the pair of devices that leads into its namespace.
    Leg {
        router: String,
    },
    /// A device that is not of the kind its name promises; the text is the kernel's kind.
    Foreign(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeOptions {
    /// Set, because the kernel otherwise gives the bridge its lowest port's address, which changes as taps come and go,
    /// and with each change forgets every neighbour, the permanent ones too.
    pub address: MacAddress,
    pub multicast_snooping: bool,
    pub spanning_tree: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanOptions {
    pub vni: u32,
    pub local: Option<IpAddr>,
    pub udp_port: u16,
    pub learning: bool,
    pub proxy: bool,
}

/// The bridge port flags Gantry sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    pub learning: bool,
    pub flood: bool,
    pub multicast_flood: bool,
    pub broadcast_flood: bool,
    pub neighbour_suppression: bool,
    pub locked: bool,
}

/// The rules of one guard chain, in nft's JSON, without handles and counter values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    pub drops_by_default: bool,
    pub rules: Vec<Value>,
}

impl Observed {
    /// The port's tap exists and is on its network's bridge.
    pub fn has_port(&self, port: &PortRef) -> bool {
        self.links.get(&port.tap()).is_some_and(|l| l.master.as_deref() == Some(port.bridge().as_str()))
    }

    /// The port's MAC is forwarded to (and accepted from) its tap.
    pub fn is_active(&self, port: &PortRef) -> bool {
        self.bridge_fdb.get(&(port.bridge(), port.mac)) == Some(&port.tap())
    }

    /// Where the vxlan device sends frames for a MAC.
    pub fn vtep_of(&self, vni: u32, mac: MacAddress) -> Option<IpAddr> {
        let key = (crate::names::vxlan_name(vni), mac);
        self.vxlan_fdb.get(&key).and_then(|vteps| vteps.first().copied())
    }
}
