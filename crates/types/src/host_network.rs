//! What the data plane of one host should be: the controller computes it, the host's agent makes it so.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::MacAddress;

/// All networks of one host. Applying it again changes nothing; what is not in it is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostNetworks {
    /// Grows with every change; a host refuses to go back.
    pub generation: u64,
    pub networks: Vec<HostNetwork>,
}

/// One network as one host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostNetwork {
    pub uuid: Uuid,
    pub name: String,
    pub vni: u32,
    pub mtu: u32,
    /// This host's VTEP address.
    #[schema(value_type = String)]
    pub underlay_address: IpAddr,
    pub local: Vec<LocalPort>,
    pub remote: Vec<RemotePort>,
    #[schema(value_type = Vec<String>)]
    pub external_vteps: Vec<IpAddr>,
}

/// A VM's port on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocalPort {
    pub id: Uuid,
    pub mac: MacAddress,
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The unprivileged user whose QEMU opens the tap.
    pub owner_uid: u32,
    /// False for the destination of a migration until it is committed: the port exists, but frames for it still go
    /// to `remote` and none from it are forwarded.
    pub active: bool,
}

/// A VM's port on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemotePort {
    pub mac: MacAddress,
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    #[schema(value_type = String)]
    pub vtep: IpAddr,
}
