//! Router advertisements (RFC 4861), with resolvers (RFC 8106): their encoder, and what a network says in them.
//!
//! Addresses come by DHCPv6 (the M flag); prefixes are only announced as being on the link, not for making addresses
//! from, because a guest may send only from those it was given. A default router is announced only if a router of ours
//! answers for the gateway: then the advertisement comes from that router's link-local address, as it must.

use std::net::{IpAddr, Ipv6Addr};

use gantry_types::MacAddress;
use ipnet::{IpNet, Ipv6Net};

use crate::table::{PortTable, link_local};
use crate::{LEASE_S, SERVICES_LINK_LOCAL, SERVICES_V6};

pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// How often all guests are told (RFC 4861 asks for at most 1800 s).
pub const INTERVAL_S: u64 = 200;
/// Hop limit of neighbour discovery: nothing else than a neighbour can send it.
pub const HOP_LIMIT: u32 = 255;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const ROUTER_LIFETIME_S: u16 = 1800;
/// Nine intervals: eight may be lost.
const RESOLVER_LIFETIME_S: u32 = 1800;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const ON_LINK: u8 = 0x80;

/// What goes out: the ICMPv6 message (the kernel adds its checksum) and the source it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    pub message: Vec<u8>,
    pub source: Ipv6Addr,
}

/// Whether an ICMPv6 message is a well-formed router solicitation (RFC 4861, 6.1.1).
pub fn is_solicitation(message: &[u8]) -> bool {
    let [kind, code, ..] = message else { return false };
    if *kind != SOLICITATION || *code != 0 || message.len() < 8 {
        return false;
    }
    let mut options = &message[8..];
    while let [_, eighths, ..] = options {
        let length = usize::from(*eighths) * 8;
        if length == 0 || length > options.len() {
            return false;
        }
        options = &options[length..];
    }
    options.is_empty()
}

/// The network's advertisement; `None` if it has no IPv6 subnet.
pub fn advertisement(table: &PortTable) -> Option<Advertisement> {
    if !table.has_v6() {
        return None;
    }
    let subnets = || table.network.subnets.iter();
    let prefixes =
        subnets().filter_map(|subnet| if let IpNet::V6(net) = subnet.cidr { Some((subnet, net)) } else { None });
    let prefixes = prefixes.collect::<Vec<_>>();
    let router = prefixes.iter().find_map(|(subnet, _)| match (subnet.gateway, subnet.gateway_mac) {
        (Some(IpAddr::V6(_)), Some(mac)) => Some(mac),
        _ => None,
    });
    let managed = if prefixes.iter().any(|(subnet, _)| subnet.dhcp) { MANAGED | OTHER } else { 0 };
    let lifetime_s = if router.is_some() { ROUTER_LIFETIME_S } else { 0 };

    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 64, managed];
    message.extend(lifetime_s.to_be_bytes());
    // Reachable time and retransmission timer: the guest's own.
    message.extend([0; 8]);
    message.extend(source_link_layer(router.unwrap_or(table.network.services_mac)));
    message.extend(mtu(table.network.mtu));
    let services = Ipv6Net::from(SERVICES_V6);
    for prefix in prefixes.iter().map(|(_, net)| *net).chain([services]) {
        message.extend(on_link_prefix(prefix));
    }
    let mut resolvers = Vec::new();
    for resolver in prefixes.iter().flat_map(|(subnet, _)| table.resolvers_v6(subnet)) {
        if !resolvers.contains(&resolver) {
            resolvers.push(resolver);
        }
    }
    message.extend(recursive_dns(&resolvers));
    message.extend(search_list(&table.network.domain));
    Some(Advertisement { message, source: router.map_or(SERVICES_LINK_LOCAL, link_local) })
}

fn source_link_layer(mac: MacAddress) -> Vec<u8> {
    [&[1, 1], mac.0.as_slice()].concat()
}

fn mtu(bytes: u32) -> Vec<u8> {
    [&[5, 1, 0, 0], bytes.to_be_bytes().as_slice()].concat()
}

fn on_link_prefix(prefix: Ipv6Net) -> Vec<u8> {
    let mut option = vec![3, 4, prefix.prefix_len(), ON_LINK];
    option.extend(LEASE_S.to_be_bytes());
    option.extend(LEASE_S.to_be_bytes());
    option.extend([0; 4]);
    option.extend(prefix.network().octets());
    option
}

fn recursive_dns(resolvers: &[Ipv6Addr]) -> Vec<u8> {
    // The length is one octet of eighths: more resolvers than fit are of no use either.
    let resolvers = &resolvers[..resolvers.len().min(8)];
    let mut option = vec![25, 1 + 2 * resolvers.len() as u8, 0, 0];
    option.extend(RESOLVER_LIFETIME_S.to_be_bytes());
    resolvers.iter().for_each(|resolver| option.extend(resolver.octets()));
    option
}

fn search_list(domain: &str) -> Vec<u8> {
    let mut names = Vec::new();
    for label in domain.split('.').filter(|label| (1..=63).contains(&label.len())) {
        names.push(label.len() as u8);
        names.extend(label.as_bytes());
    }
    names.push(0);
    names.resize(names.len().next_multiple_of(8), 0);
    let mut option = vec![31, 1 + (names.len() / 8) as u8, 0, 0];
    option.extend(RESOLVER_LIFETIME_S.to_be_bytes());
    option.extend(names);
    option
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::fixture::table;
    use proptest::prelude::*;

    /// Kind and body of each option after a fixed part.
    fn options(mut rest: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut all = Vec::new();
        while !rest.is_empty() {
            let length = usize::from(rest[1]) * 8;
            all.push((rest[0], rest[2..length].to_vec()));
            rest = &rest[length..];
        }
        all
    }

    #[test]
    fn a_network_with_a_router_of_ours_announces_it_and_how_to_get_addresses() {
        let table = table();
        let sent = advertisement(&table).unwrap();
        let gateway = table.network.subnets[1].gateway_mac.unwrap();
        assert_eq!(sent.source, link_local(gateway));
        assert_eq!(sent.message[..8], [134, 0, 0, 0, 64, 0xc0, 7, 8]);
        let options = options(&sent.message[16..]);
        assert_eq!(options.iter().map(|o| o.0).collect::<Vec<_>>(), [1, 5, 3, 3, 25, 31]);
        assert_eq!(options[0].1, gateway.0);
        assert_eq!(options[1].1[2..], 1450u32.to_be_bytes());
        // /64, on the link, not for autoconfiguration.
        assert_eq!(options[2].1[..2], [64, 0x80]);
        assert_eq!(options[2].1[14..], "fd09::".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(options[3].1[..2], [128, 0x80]);
        assert_eq!(options[4].1[6..], SERVICES_V6.octets());
        assert_eq!(options[5].1[6..], *b"\x03lan\x08internal\0\0\0");
    }

    #[test]
    fn without_a_router_nothing_is_a_default_route_and_without_ipv6_nothing_is_said() {
        let mut table = table();
        table.network.subnets[1].gateway_mac = None;
        let sent = advertisement(&table).unwrap();
        assert_eq!((sent.source, &sent.message[6..8]), (SERVICES_LINK_LOCAL, [0, 0].as_slice()));
        assert_eq!(options(&sent.message[16..])[0].1, table.network.services_mac.0);
        table.network.subnets.pop();
        assert_eq!(advertisement(&table), None);
    }

    #[test]
    fn only_well_formed_solicitations_count() {
        let good = [133, 0, 1, 2, 0, 0, 0, 0];
        assert!(is_solicitation(&good));
        let with_option = [good.as_slice(), &[1, 1, 2, 3, 4, 5, 6, 7]].concat();
        assert!(is_solicitation(&with_option));
        for bad in [&[][..], &good[..7], &[134, 0, 0, 0, 0, 0, 0, 0], &[133, 1, 0, 0, 0, 0, 0, 0], &with_option[..15]] {
            assert!(!is_solicitation(bad), "{bad:?}");
        }
        assert!(!is_solicitation(&[good.as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0]].concat()));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_survived(noise in prop::collection::vec(any::<u8>(), 0..100)) {
            is_solicitation(&noise);
            is_solicitation(&[&[133, 0, 0, 0, 0, 0, 0, 0], noise.as_slice()].concat());
        }
    }
}
