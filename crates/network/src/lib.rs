//! The host's data plane: bridges, VXLAN devices, taps and anti-spoofing guards.
//!
//! ```text
//!   QEMU ── tap gt<port> ──┐
//!            (guard chain) ├── bridge gb<vni> ── vxlan gx<vni> ══ underlay ══ other hosts' VTEPs
//!   QEMU ── tap gt<port> ──┘   (host chain)                             ╚═══ external VTEPs
//! ```
//!
//! The caller describes what the host should carry ([`HostNetworks`]); a [`DataPlane`] reads what is there
//! ([`Observed`]), plans the difference ([`plan::plan`], pure) and makes only those changes. Whatever was removed by
//! hand comes back at the next apply (one that changes nothing but security groups looks at nothing else); objects with
//! Gantry's names that are no longer wanted go; anything else on the host is left alone.
//!
//! # How frames find their way
//! - Nothing is learned. Each local MAC is a static bridge entry on its tap; each remote MAC is a static bridge entry on
//!   the vxlan device and a static vxlan entry naming the VTEP.
//! - Taps never receive unknown unicast. Broadcast reaches local active taps, so ARP between them needs no help.
//! - The bridge answers ARP and neighbour solicitations for remote ports by itself, from permanent neighbours on the
//!   bridge (`neigh_suppress` on the vxlan port). A query for an address that nobody in the table has goes out only
//!   through the all-zero vxlan entries, which name external VTEPs only. The vxlan device's own `proxy` mode is not used:
//!   it consumes *every* ARP packet, also the replies local guests send to outside clients.
//! - Unknown unicast, broadcast and multicast likewise reach external VTEPs and no Gantry host. External VTEPs learn by
//!   themselves. Reverse ARP, with which QEMU announces a moved guest, is not suppressed and reaches them; a gratuitous
//!   ARP is suppressed (its sender binding is fixed by the guard anyway).
//! - Each tap is a `locked` bridge port: the kernel forwards from it only frames whose source MAC is a bridge
//!   entry *on that tap*. So one entry decides in both directions which host a MAC belongs to, and a port is
//!   activated or deactivated in one netlink batch.
//!
//! # Guards
//! One `netdev gantry` table holds a chain per tap, named as the tap (MAC, ARP sender, IPv4 and IPv6 source, router
//! advertisements), installed before the tap joins its bridge, and a chain per bridge that drops what guests send to
//! the host itself: a guest reaches the host through no network of its own. Netdev chains have no connection tracking.
//!
//! # On failure
//! Every call is idempotent: after an error the host is partly changed, and the same call continues. A tap is never up
//! on a bridge without its guard.
//!
//! # Security groups
//! One `inet gantry` table, made from the ports that are here ([`groups`]) and changed in single transactions
//! ([`ruleset`]). A port with groups that are not known yet gets nothing in.
//!
//! # Routers
//! Each is a namespace of its own with an end in the bridge of each of its networks ([`router`]). It translates floating
//! addresses and those of load balancers ([`translation`]); what answers a balanced connection is sent back through it
//! ([`steering`]).
//!
//! Not here: address management, DHCP, and the announcement of a moved guest: its QEMU sends it
//! when told to (`announce-self`), and only while the guest runs. Until external VTEPs have heard it, what they send for
//! the guest reaches the old host and is dropped there.

pub mod desired;
pub mod error;
pub mod fake;
pub mod flows;
pub mod groups;
pub mod guard;
pub mod linux;
pub mod mac;
pub mod model;
pub mod names;
pub mod observed;
pub mod plan;
pub mod plane;
pub mod router;
pub mod ruleset;
pub mod steering;
pub mod target;
pub mod translation;
pub mod underlay;

pub use desired::{HostGroup, HostGroupRule, HostNetwork, HostNetworks, HostPeer, LocalPort, RemotePort, Validate};
pub use error::{ErrorClass, NetworkError, Result};
pub use fake::FakeDataPlane;
pub use linux::{LinuxDataPlane, services};
pub use mac::{EthernetAddress, MacAddress};
pub use names::{bridge_name, services_mac, services_name, tap_name, vxlan_name};
pub use observed::Observed;
pub use plane::{Applied, CaptureLimits, DataPlane, PCAP_HEADER, PortCounters, PortRef, Traffic};
pub use underlay::UnderlayReport;
