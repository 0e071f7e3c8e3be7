//! What the services of one network on one host answer from: the network, its local ports, and everybody's names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use gantry_types::MacAddress;
use ipnet::IpNet;
use uuid::Uuid;

use crate::{SERVICES_V4, SERVICES_V6};

/// What is the same for all ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// The domain of the names of its VMs, without a dot at the end: `lan.internal`.
    pub domain: String,
    pub subnets: Vec<Subnet>,
    /// Whether other names are asked for elsewhere.
    pub forwards: bool,
    /// The MAC address of the services themselves.
    pub services_mac: MacAddress,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    pub cidr: IpNet,
    pub gateway: Option<IpAddr>,
    /// Present if a router of ours answers for `gateway`: only then may we advertise it.
    pub gateway_mac: Option<MacAddress>,
    /// Resolvers. Those inside the network are told to guests as they are; others are forwarded to.
    pub dns: Vec<IpAddr>,
    /// Whether ports of this subnet are served by DHCP.
    pub dhcp: bool,
}

/// A port of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub id: Uuid,
    pub mac: MacAddress,
    pub addresses: Vec<IpAddr>,
    /// One DNS label.
    pub hostname: String,
    pub metadata: Option<Arc<GuestMetadata>>,
}

/// What a guest may read about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestMetadata {
    pub instance_id: String,
    pub hostname: String,
    /// NoCloud's three files, as they would be on a seed disk.
    pub meta_data: String,
    pub user_data: Option<String>,
    pub network_config: String,
    /// In the guest's order.
    pub nics: Vec<GuestNic>,
}

/// A network interface of a guest, for the EC2 layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNic {
    pub mac: MacAddress,
    pub addresses: Vec<IpNet>,
}

/// See the module. Built anew for each change.
#[derive(Debug)]
pub struct PortTable {
    pub network: Network,
    ports: Vec<Port>,
    by_mac: BTreeMap<MacAddress, usize>,
    by_address: BTreeMap<IpAddr, usize>,
    by_link_local: BTreeMap<Ipv6Addr, usize>,
    /// By lower-case label.
    names: BTreeMap<String, Vec<IpAddr>>,
    by_named_address: BTreeMap<IpAddr, String>,
}

impl PortTable {
    /// `elsewhere` are the names and addresses of ports on other hosts.
    pub fn new(network: Network, ports: Vec<Port>, elsewhere: impl IntoIterator<Item = (String, Vec<IpAddr>)>) -> Self {
        let index = |key: &dyn Fn(&Port) -> Vec<IpAddr>| {
            let each = ports.iter().enumerate();
            each.flat_map(|(i, port)| key(port).into_iter().map(move |address| (address, i))).collect()
        };
        let by_address = index(&|port| port.addresses.clone());
        let by_mac = ports.iter().enumerate().map(|(i, port)| (port.mac, i)).collect();
        let by_link_local = ports.iter().enumerate().map(|(i, port)| (link_local(port.mac), i)).collect();
        let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let mut by_named_address = BTreeMap::new();
        let local = ports.iter().map(|port| (port.hostname.clone(), port.addresses.clone()));
        for (name, addresses) in local.chain(elsewhere) {
            let name = name.to_ascii_lowercase();
            for address in addresses {
                let named = names.entry(name.clone()).or_default();
                if !named.contains(&address) {
                    named.push(address);
                }
                by_named_address.insert(address, name.clone());
            }
        }
        Self { network, ports, by_mac, by_address, by_link_local, names, by_named_address }
    }

    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    pub fn by_mac(&self, mac: MacAddress) -> Option<&Port> {
        self.by_mac.get(&mac).map(|i| &self.ports[*i])
    }

    /// The port that a packet comes from; IPv4 addresses may be mapped into IPv6 (RFC 4291).
    pub fn by_address(&self, address: IpAddr) -> Option<&Port> {
        let address = address.to_canonical();
        let index = self.by_address.get(&address).or_else(|| match address {
            IpAddr::V6(address) => self.by_link_local.get(&address),
            IpAddr::V4(_) => None,
        });
        index.map(|i| &self.ports[*i])
    }

    pub fn addresses_of_name(&self, label: &str) -> Option<&[IpAddr]> {
        self.names.get(&label.to_ascii_lowercase()).map(Vec::as_slice)
    }

    pub fn name_of_address(&self, address: IpAddr) -> Option<&str> {
        self.by_named_address.get(&address).map(String::as_str)
    }

    pub(crate) fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.network.subnets.iter().find(|subnet| subnet.cidr.contains(&address))
    }

    /// The resolvers that guests are told.
    pub(crate) fn resolvers_v4(&self, subnet: &Subnet) -> Vec<Ipv4Addr> {
        let own = self.inner_resolvers(subnet).filter_map(|a| if let IpAddr::V4(a) = a { Some(a) } else { None });
        let own = own.collect::<Vec<_>>();
        if own.is_empty() { vec![SERVICES_V4] } else { own }
    }

    pub(crate) fn resolvers_v6(&self, subnet: &Subnet) -> Vec<Ipv6Addr> {
        let own = self.inner_resolvers(subnet).filter_map(|a| if let IpAddr::V6(a) = a { Some(a) } else { None });
        let own = own.collect::<Vec<_>>();
        if own.is_empty() { vec![SERVICES_V6] } else { own }
    }

    fn inner_resolvers<'a>(&'a self, subnet: &'a Subnet) -> impl Iterator<Item = IpAddr> + 'a {
        subnet.dns.iter().copied().filter(|address| self.subnet_of(*address).is_some())
    }

    /// Where questions about other names go; none means the host's own resolvers.
    pub(crate) fn forwarders(&self) -> Vec<IpAddr> {
        let all = self.network.subnets.iter().flat_map(|subnet| &subnet.dns).copied();
        let mut outside = Vec::new();
        for address in all.filter(|address| self.subnet_of(*address).is_none()) {
            if !outside.contains(&address) && address != SERVICES_V4 && address != SERVICES_V6 {
                outside.push(address);
            }
        }
        outside
    }

    pub(crate) fn has_v6(&self) -> bool {
        self.network.subnets.iter().any(|subnet| matches!(subnet.cidr, IpNet::V6(_)))
    }
}

/// The IPv6 link-local address made from a MAC (RFC 4291, modified EUI-64), the only one the guards let a guest use.
pub(crate) fn link_local(mac: MacAddress) -> Ipv6Addr {
    let m = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    pub fn mac(last: u8) -> MacAddress {
        MacAddress::qemu([0, 0, last])
    }

    /// `10.9.0.0/24` and `fd09::/64`; ports 10 and 11 here, 20 (`db-1`) elsewhere.
    pub fn table() -> PortTable {
        let subnet = |cidr: &str, gateway: &str| Subnet {
            cidr: cidr.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            gateway_mac: Some(MacAddress([0x0a, 0x67, 0x71, 0, 0, 100])),
            dns: vec!["192.0.2.53".parse().unwrap()],
            dhcp: true,
        };
        let network = Network {
            name: "lan".to_owned(),
            mtu: 1450,
            domain: "lan.internal".to_owned(),
            subnets: vec![subnet("10.9.0.0/24", "10.9.0.1"), subnet("fd09::/64", "fd09::1")],
            forwards: true,
            services_mac: MacAddress([0x0a, 0x67, 0x73, 0, 0, 100]),
        };
        let port = |last: u8| Port {
            id: Uuid::from_u128(u128::from(last)),
            mac: mac(last),
            addresses: addresses(last),
            hostname: format!("web-{last}"),
            metadata: Some(Arc::new(GuestMetadata {
                instance_id: format!("i-{last}"),
                hostname: format!("web-{last}"),
                meta_data: format!("instance-id: i-{last}\nlocal-hostname: web-{last}\n"),
                user_data: (last == 10).then(|| "#cloud-config\n".to_owned()),
                network_config: "version: 2\n".to_owned(),
                nics: vec![GuestNic { mac: mac(last), addresses: vec![format!("10.9.0.{last}/24").parse().unwrap()] }],
            })),
        };
        PortTable::new(network, vec![port(10), port(11)], [("DB-1".to_owned(), addresses(20))])
    }

    pub fn addresses(last: u8) -> Vec<IpAddr> {
        vec![format!("10.9.0.{last}").parse().unwrap(), format!("fd09::{last}").parse().unwrap()]
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::*;
    use super::*;

    #[test]
    fn a_port_is_found_by_each_of_its_addresses_and_no_other() {
        let table = table();
        for (address, found) in [
            ("10.9.0.10", Some("web-10")),
            ("::ffff:10.9.0.11", Some("web-11")),
            ("fd09::10", Some("web-10")),
            ("fe80::5054:ff:fe00:b", Some("web-11")),
            ("10.9.0.20", None),
            ("fe80::1", None),
        ] {
            let port = table.by_address(address.parse().unwrap());
            assert_eq!(port.map(|port| port.hostname.as_str()), found, "{address}");
        }
        assert_eq!(table.addresses_of_name("db-1"), Some(addresses(20).as_slice()));
        assert_eq!(table.name_of_address(addresses(20)[0]), Some("db-1"));
    }

    #[test]
    fn resolvers_inside_the_network_are_told_and_others_are_forwarded_to() {
        let mut table = table();
        let outside: IpAddr = "192.0.2.53".parse().unwrap();
        assert_eq!(table.resolvers_v4(&table.network.subnets[0]), [SERVICES_V4]);
        assert_eq!(table.forwarders(), [outside]);
        table.network.subnets[0].dns = vec!["10.9.0.53".parse().unwrap(), outside, SERVICES_V4.into()];
        assert_eq!(table.resolvers_v4(&table.network.subnets[0]), [Ipv4Addr::new(10, 9, 0, 53)]);
        assert_eq!(table.forwarders(), [outside]);
        assert_eq!(table.resolvers_v6(&table.network.subnets[1]), [SERVICES_V6]);
    }
}
