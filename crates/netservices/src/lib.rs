//! What a network answers its guests with, on the host where they run: DHCP, router advertisements, DNS, metadata.
//!
//! ```text
//!   guest ── tap ──┐
//!                  ├── bridge ── veth ── namespace of the network's services: 169.254.169.254, fd00:ec2::254
//!   guest ── tap ──┘                       67/udp DHCPv4 · 547/udp DHCPv6 · ICMPv6 router advertisements
//!                                          53/udp, tcp DNS · 80/tcp metadata
//! ```
//! The protocols are pure: [`dhcp4`], [`dhcp6`], [`router`], [`dns`] and [`metadata`] each turn one request and the
//! [`PortTable`] into an answer, without a socket or a clock. [`Server`] is the rest: sockets opened in a network's
//! namespace ([`Sockets::open`]) and the loops over them.
//!
//! Who asks is never taken from what is asked. The guard before each tap lets a guest send only under its own MAC and
//! addresses, its own client hardware address in DHCP included; the services' bridge port is cut off from the vxlan
//! device. So a request's source address is a port of this host, and each request is answered for that port alone.
//!
//! Nothing is leased: a port's addresses are the controller's, for as long as the port exists. There is no state to
//! lose, so a host that restarts its agent answers as before, and so does another host after a VM has moved.
//!
//! # On failure
//! What can't be understood is dropped, as the protocols ask. An interruption of some seconds is not noticed by guests:
//! a lease is good for a day and is renewed every hour. A forwarder that does not answer is a SERVFAIL.
//!
//! Not here: making the namespace and its devices, and who may be a port's peer (`gantry-network`).

mod callers;
pub mod dhcp4;
pub mod dhcp6;
pub mod dns;
mod forward;
mod http;
pub mod metadata;
pub mod router;
mod serve;
mod sockets;
mod table;
mod tokens;

pub use serve::Server;
pub use sockets::{SocketError, Sockets};
pub use table::{GuestMetadata, GuestNic, Network, Port, PortTable, Subnet};
pub use tokens::Tokens;

use std::net::{Ipv4Addr, Ipv6Addr};

/// Where every guest finds its services. Link-local (RFC 3927); the address that clouds have agreed on for metadata.
pub const SERVICES_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The same for guests that have only IPv6, as cloud-init looks for it.
pub const SERVICES_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The services' link-local address, the source of what they send to guests by ICMPv6 and DHCPv6.
pub const SERVICES_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);

/// How long a lease is good: longer than any repair of a host takes.
pub const LEASE_S: u32 = 24 * 3600;
/// When guests ask again, so that a changed gateway or resolver reaches them.
pub const RENEWAL_S: u32 = 3600;
/// When a guest that got no answer asks everybody.
pub const REBINDING_S: u32 = 21 * 3600;
