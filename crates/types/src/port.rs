//! `port`: a place in a network, with a MAC and addresses of its own.
//!
//! Each network card of a VM has one. It is made with the VM, named `<vm>-eth<n>`, and goes with it; or it is made
//! beforehand, named in the VM's `nics`, and stays when the VM goes, so that the next one has the same addresses.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{MacAddress, Name, resource::resource};

resource!(
    /// A place in a network for a network card of a VM. Its uuid is the port's.
    Port, "port", "ports", PortSpec, PortStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Fixed once the port is made.
    pub network: Name,
    /// Derived from the port's uuid if not given. Fixed once the port is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// One of each of the network's address families is chosen if not given. Fixed once the port is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// What may pass. Without any, everything may; with one, only what a rule of any of them allows. May be changed
    /// at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<Name>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The VM whose card it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
    /// It was made with its VM and goes with it.
    #[serde(default)]
    pub goes_with_vm: bool,
    /// What has passed it on the host where its VM is, as the guest sees it; not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<PortTraffic>,
}

/// Counters that grow until the VM moves or its host restarts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortTraffic {
    pub received_bytes: u64,
    pub received_packets: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
    /// Frames of the guest that were dropped because they were not in its own name.
    #[serde(default)]
    pub spoofed_packets: u64,
}
