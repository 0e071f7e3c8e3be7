//! Security groups: the compiled rules against a slow model of what they mean, by an interpreter and by the kernel.

mod interpreter;
mod kernel;
mod model;

use std::collections::BTreeSet;
use std::net::IpAddr;

use gantry_network::ruleset::{Family, Ruleset};
use gantry_network::{HostGroup, HostGroupRule, HostNetwork, HostNetworks, HostPeer, LocalPort, MacAddress, groups};
use gantry_types::{Direction, HostRouter, PeerAddresses, PeerSet, PortRange, Protocol, RouterLeg, gateway_mac};
use interpreter::{Verdict, judge};
use model::{Connection, Packet, Way};
use proptest::prelude::*;
use uuid::Uuid;

/// Two networks that use the same addresses, and groups that name each other.
fn hosts() -> impl Strategy<Value = HostNetworks> {
    let ports = prop::collection::vec((0u8..2, 1u8..8, prop::collection::btree_set(1u128..5, 0..3)), 1..8);
    let groups = prop::collection::btree_map(1u128..4, prop::collection::vec(rule(), 0..5), 0..4);
    // A router in none, the first or both of them.
    let routers = prop::collection::vec(prop::collection::vec(0u32..2, 0..3), 0..2);
    (ports, groups, routers).prop_map(|(ports, groups, routers)| {
        let leg = |at| RouterLeg { vni: 100 + at, mtu: 1450, mac: gateway_mac(100 + at), addresses: Vec::new() };
        let routers = routers.into_iter().map(|legs| HostRouter {
            uuid: Uuid::from_u128(50),
            name: "main".parse().unwrap(),
            legs: legs.into_iter().collect::<BTreeSet<_>>().into_iter().map(leg).collect(),
            external: None,
            floating: Vec::new(),
        });
        let routers = routers.collect();
        let mut networks: Vec<_> = (0..2).map(network).collect();
        for (at, last, groups) in ports {
            let local = &mut networks[usize::from(at)].local;
            let id = Uuid::from_u128(u128::from(at) << 8 | u128::from(last));
            if local.iter().any(|port| port.id == id) {
                continue;
            }
            let mac = MacAddress([2, 0, 0, 0, at, last]);
            let mut port = LocalPort::new(id, mac, vec![four(last), six(last)], 64_000, true);
            port.groups = groups.into_iter().map(Uuid::from_u128).collect();
            local.push(port);
        }
        let members = |group: Uuid| {
            let all = networks.iter().flat_map(|network| network.local.iter().map(move |port| (network.vni, port)));
            let of_group = all.filter(|(_, port)| port.groups.contains(&group));
            of_group.flat_map(|(vni, port)| port.addresses.iter().map(move |address| (vni, *address))).collect()
        };
        let groups = groups.into_iter().map(|(id, rules)| HostGroup {
            uuid: Uuid::from_u128(id),
            name: format!("group-{id}").parse().unwrap(),
            rules: rules
                .into_iter()
                .map(|mut rule| {
                    if let HostPeer::Set(PeerSet { uuid, addresses: PeerAddresses::InNetworks(of) }) = &mut rule.peer {
                        *of = members(*uuid);
                    }
                    rule
                })
                .collect(),
            shown: Vec::new(),
        });
        let groups = groups.collect();
        HostNetworks { networks, groups, routers, ..HostNetworks::default() }
    })
}

fn network(at: u8) -> HostNetwork {
    HostNetwork::new(Uuid::from_u128(at.into()), format!("n{at}"), 100 + u32::from(at), 1450, four(200))
}

fn four(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}
fn six(last: u8) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)])
}

fn rule() -> impl Strategy<Value = HostGroupRule> {
    let direction = prop_oneof![4 => Just(Direction::Ingress), 1 => Just(Direction::Egress)];
    let protocol =
        prop::sample::select(vec![Protocol::Any, Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp]);
    let ports = prop::option::of((1u16..6, 0u16..4));
    (direction, protocol, ports, peer()).prop_map(|(direction, protocol, ports, peer)| {
        let ports = ports.filter(|_| protocol.has_ports());
        HostGroupRule {
            direction,
            protocol,
            ports: ports.map(|(first, more)| PortRange { first, last: first + more }),
            peer,
        }
    })
}

fn peer() -> impl Strategy<Value = HostPeer> {
    let ranges = ["0.0.0.0/0", "::/0", "10.0.0.0/30", "10.0.0.4/32", "10.0.0.4/31", "fd00::/126", "fd00::5/128"];
    let range = prop::sample::select(ranges.map(|range| range.parse::<ipnet::IpNet>().unwrap()).to_vec());
    let set = |uuid: u128, addresses| HostPeer::Set(PeerSet { uuid: Uuid::from_u128(uuid), addresses });
    prop_oneof![
        Just(HostPeer::Anyone),
        range.clone().prop_map(HostPeer::Cidr),
        // One set has one content, wherever it is named.
        (20u128..23).prop_map(move |id| {
            let ranges = match id {
                20 => vec!["10.0.0.2/32", "10.0.0.2/31", "fd00::1/128"],
                21 => vec!["0.0.0.0/0"],
                _ => vec![],
            };
            set(id, PeerAddresses::Everywhere(ranges.into_iter().map(|range| range.parse().unwrap()).collect()))
        }),
        (1u128..4).prop_map(move |id| set(id, PeerAddresses::InNetworks(Vec::new()))),
    ]
}

fn packet() -> impl Strategy<Value = Packet> {
    let connection = prop_oneof![
        3 => Just(Connection::New),
        1 => Just(Connection::Established),
        1 => Just(Connection::Reply),
        1 => Just(Connection::Related),
    ];
    let protocol = prop::sample::select(vec!["tcp", "udp", "sctp", "icmp", "gre"]);
    let ports = (1u16..10, 1u16..10);
    let way = prop::sample::select(vec![Way::Direct, Way::FromRouter, Way::ToRouter]);
    (0u32..2, any::<bool>(), 1u8..10, 1u8..10, protocol, ports, (connection, way)).prop_map(
        |(at, is_v4, from, to, protocol, (source_port, destination_port), (connection, way))| {
            let address = if is_v4 { four } else { six };
            let protocol = if protocol == "icmp" && !is_v4 { "ipv6-icmp" } else { protocol };
            Packet {
                vni: 100 + at,
                source: address(from),
                destination: address(to),
                protocol,
                source_port,
                destination_port,
                connection,
                way,
            }
        },
    )
}

fn passes(rules: &Ruleset, packet: &Packet) -> bool {
    judge(rules, packet) == Verdict::Accept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_compiled_rules_mean_what_the_groups_say(
        host in hosts(), packets in prop::collection::vec(packet(), 1..20)
    ) {
        let rules = groups::compile(&host);
        for packet in packets {
            prop_assert_eq!(passes(&rules, &packet), model::allows(&host, &packet), "{:?}\n{:#?}", packet, rules);
        }
    }
}

#[test]
fn rules_grow_with_local_ports_and_groups_only() {
    let host = |ports: u8, members: u32| {
        let mut network = network(0);
        for last in 1..=ports {
            let id = Uuid::from_u128(last.into());
            let mut port = LocalPort::new(id, MacAddress([2, 0, 0, 0, 0, last]), vec![four(last)], 64_000, true);
            port.groups = vec![Uuid::from_u128(1)];
            network.local.push(port);
        }
        let addresses = (0..members).map(|n| (100, IpAddr::from((0x0a01_0000 + n).to_be_bytes())));
        let peer = PeerSet { uuid: Uuid::from_u128(1), addresses: PeerAddresses::InNetworks(addresses.collect()) };
        let rule = HostGroupRule {
            direction: Direction::Ingress,
            protocol: Protocol::Tcp,
            ports: None,
            peer: HostPeer::Set(peer),
        };
        let group =
            HostGroup { uuid: Uuid::from_u128(1), name: "web".parse().unwrap(), rules: vec![rule], shown: Vec::new() };
        let groups = vec![group];
        groups::compile(&HostNetworks { networks: vec![network], groups, ..HostNetworks::default() })
    };
    let (few, many) = (host(1, 10), host(200, 10));
    assert_eq!(few.size().0, many.size().0, "rules do not grow with ports");
    // Its own address and the link-local one.
    assert_eq!(many.size().1 - few.size().1, 199 * 2);
    // A change of a group's members is a change of one set, whatever the number of ports.
    let changed = gantry_network::ruleset::change::commands(Family::Inet, &many, &host(200, 11));
    let changed: Vec<_> =
        changed.iter().filter(|command| command.get("add").is_none_or(|add| add.get("table").is_none())).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
}
