//! The seed's `network-config`: netplan's version 2 format, as cloud-init documents it.
//!
//! Interfaces are matched by MAC and named in order, `eth0` first. `gateway4` and `gateway6` are
//! written rather than `routes`: cloud-init reads both, and small guests' own readers only these.
//!
//! A card without a gateway gets a route to the services' address, which it has no way to otherwise. One with a gateway
//! sends there what is for the services, too, and its host sees to it that they get it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_types::MacAddress;
use ipnet::IpNet;
use serde::Serialize;

/// One network interface as the guest shall set it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedNic {
    pub mac: MacAddress,
    /// Host addresses with the prefix length of their subnet; none means DHCP.
    pub addresses: Vec<IpNet>,
    /// At most one of each family is used: the first.
    pub gateways: Vec<IpAddr>,
    pub dns: Vec<IpAddr>,
    pub mtu: Option<u32>,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u8,
    ethernets: BTreeMap<String, Ethernet<'a>>,
}

#[derive(Serialize)]
struct Ethernet<'a> {
    r#match: Match,
    #[serde(rename = "set-name")]
    set_name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dhcp4: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    addresses: &'a [IpNet],
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway4: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway6: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<Nameservers<'a>>,
}

/// To somebody on the link.
#[derive(Serialize)]
struct Route {
    to: &'static str,
    scope: &'static str,
}

const TO_SERVICES: Route = Route { to: "169.254.169.254/32", scope: "link" };

#[derive(Serialize)]
struct Match {
    macaddress: MacAddress,
}

#[derive(Serialize)]
struct Nameservers<'a> {
    addresses: &'a [IpAddr],
}

pub(crate) fn render(nics: &[SeedNic]) -> Result<String, serde_norway::Error> {
    let ethernets = nics.iter().enumerate().map(|(index, nic)| {
        let name = format!("eth{index}");
        let has_ipv4 = |address: &IpNet| address.addr().is_ipv4();
        let needs_route = nic.addresses.iter().any(has_ipv4) && !nic.gateways.iter().any(IpAddr::is_ipv4);
        let ethernet = Ethernet {
            r#match: Match { macaddress: nic.mac },
            set_name: name.clone(),
            dhcp4: nic.addresses.is_empty(),
            addresses: &nic.addresses,
            gateway4: nic.gateways.iter().copied().find(IpAddr::is_ipv4),
            gateway6: nic.gateways.iter().copied().find(IpAddr::is_ipv6),
            mtu: nic.mtu,
            routes: if needs_route { vec![TO_SERVICES] } else { Vec::new() },
            nameservers: (!nic.dns.is_empty()).then_some(Nameservers { addresses: &nic.dns }),
        };
        (name, ethernet)
    });
    serde_norway::to_string(&Document { version: 2, ethernets: ethernets.collect() })
}
