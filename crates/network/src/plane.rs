//! The trait between the agent and a host's data plane.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use async_trait::async_trait;
use gantry_types::HostLinks;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::desired::{HostNetwork, HostNetworks, LocalPort};
use crate::error::Result;
use crate::mac::MacAddress;
use crate::names;
use crate::observed::Observed;
use crate::underlay::UnderlayReport;

/// Names a port without its network's full description, for the calls inside a guest's blackout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRef {
    pub vni: u32,
    pub id: Uuid,
    pub mac: MacAddress,
    /// Its network continues on an interface of the host, not on VXLAN.
    #[serde(default)]
    pub bridged: bool,
}

impl PortRef {
    pub fn new(network: &HostNetwork, port: &LocalPort) -> Self {
        Self { vni: network.vni, id: port.id, mac: port.mac, bridged: network.interface.is_some() }
    }

    pub fn tap(&self) -> String {
        names::tap_name(self.id)
    }

    pub fn bridge(&self) -> String {
        names::bridge_name(self.vni)
    }

    pub fn vxlan(&self) -> String {
        names::vxlan_name(self.vni)
    }
}

/// What a converging call did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One line for each change, in the order made. Empty when the host already was as wanted.
    pub changes: Vec<String>,
}

/// Traffic of one port as the host sees it. "received" is what the guest sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    pub received_bytes: u64,
    pub received_packets: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
    /// Frames that the guard refused.
    pub spoofed_packets: u64,
}

/// Counters of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By the tap.
    pub taps: BTreeMap<String, PortCounters>,
    /// Packets and bytes by [`crate::groups::counter_name`].
    pub rules: BTreeMap<String, (u64, u64)>,
}

/// When a capture ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureLimits {
    pub time: Duration,
    /// Of the pcap file.
    pub bytes: u64,
}

/// The head of a pcap file with Ethernet frames, times in microseconds.
pub const PCAP_HEADER: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];

/// A host's data plane. All calls are idempotent; concurrent calls on one plane are serialised.
#[async_trait]
pub trait DataPlane: Send + Sync {
    /// Makes the host carry exactly `desired`: adds, repairs and removes.
    async fn apply(&self, desired: &HostNetworks) -> Result<Applied>;

    /// Makes sure one port and what it needs of its network exist. Removes nothing else.
    async fn ensure_port(&self, network: &HostNetwork, port: &LocalPort) -> Result<Applied>;

    /// Gives the port's MAC to its tap: from here the guest's frames pass in both directions.
    /// One batch; the port must have been ensured.
    async fn activate_port(&self, port: &PortRef) -> Result<()>;

    /// Gives the port's MAC to `new_vtep`; the tap stays, but nothing passes through it any more.
    async fn deactivate_port(&self, port: &PortRef, new_vtep: IpAddr) -> Result<()>;

    /// Removes the port's tap and guard. A port that is not there is a success.
    async fn remove_port(&self, port: &PortRef) -> Result<Applied>;

    /// Opens the port's tap for its guest, to be handed to QEMU as `-netdev tap,fd=N`. The descriptor closes on exec
    /// until its owner says otherwise. While it is open nobody else can attach.
    fn open_tap(&self, port: &PortRef) -> Result<OwnedFd>;

    /// Everything that passes the port's tap, both ways, as the parts of a pcap file, until a limit is reached or the
    /// receiver is dropped.
    fn capture(&self, port: &PortRef, limits: CaptureLimits) -> Result<mpsc::Receiver<Vec<u8>>>;

    /// What is there now.
    async fn observe(&self) -> Result<Observed>;

    async fn port_counters(&self, port: &PortRef) -> Result<PortCounters>;

    /// What all ports and all rules of security groups have counted, cheaply.
    async fn traffic(&self) -> Result<Traffic>;

    /// Checks that the underlay can carry the network's MTU plus the VXLAN overhead; of a bridged network, that its
    /// interface is there, free, and can carry the network's MTU.
    async fn check_underlay(&self, network: &HostNetwork) -> Result<UnderlayReport>;

    /// What networks find on this host, whose underlay address is `underlay`.
    async fn links(&self, underlay: IpAddr) -> Result<HostLinks>;
}
