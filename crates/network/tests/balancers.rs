//! Load balancers through the kernel: two hosts, clients and members on both, in the network of the virtual address and
//! in another one.

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use gantry_network::ruleset::Ruleset;
use gantry_network::{
    DataPlane, HostNetwork, HostNetworks, LocalPort, MacAddress, RemotePort, steering, translation, vxlan_name,
};
use gantry_types::{ExternalLeg, HealthCheck, HostBalancer, HostMember, HostRouter, RouterLeg, gateway_mac};
use proptest::prelude::*;
use support::site::{attach, insistently, site};
use support::*;
use uuid::Uuid;

const WEB: u32 = 100;
const DB: u32 = 101;
const OUTSIDE: u32 = 102;
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const FLOATING: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

/// Guests 11 (a client) and 12 are on host 1, 13 and, in the other network, 21 on host 2.
const WEB_GUESTS: [(u8, u8); 3] = [(11, 1), (12, 1), (13, 2)];
const MEMBERS: [u8; 3] = [12, 13, 21];

fn address(guest: u8) -> Ipv4Addr {
    if guest == 21 { Ipv4Addr::new(10, 8, 0, 21) } else { guest_address(guest) }
}

fn leg_address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, host)
}

/// With these members healthy; the floating address is host 1's to translate.
fn desired(host: u8, healthy: &[u8]) -> HostNetworks {
    let network = |vni: u32| HostNetwork::new(Uuid::from_u128(vni.into()), format!("n{vni}"), vni, 1450, vtep(host));
    let (mut web, mut db, mut outside) = (network(WEB), network(DB), network(OUTSIDE));
    outside.external_vteps = vec![vtep(9)];
    for (guest, at) in WEB_GUESTS {
        if at == host {
            web.local.push(port(guest, true));
        } else {
            web.remote.push(remote(guest, at));
        }
    }
    if host == 2 {
        db.local.push(LocalPort { addresses: vec![address(21).into()], ..port(21, true) });
    } else {
        db.remote.push(RemotePort::new(mac(21), vec![address(21).into()], vtep(2)));
    }
    let other = 3 - host;
    let leg_mac = |host: u8| MacAddress([0x52, 0x54, 0, 9, 9, host]);
    outside.remote.push(RemotePort::new(leg_mac(other), vec![leg_address(other).into()], vtep(other)));
    let leg = |vni: u32, gateway: Ipv4Addr| RouterLeg {
        vni,
        mtu: 1450,
        mac: gateway_mac(vni),
        addresses: vec![format!("{gateway}/24").parse().unwrap()],
    };
    let router = HostRouter {
        uuid: Uuid::from_u128(0xabcd),
        name: "main".parse().unwrap(),
        legs: vec![leg(WEB, Ipv4Addr::new(10, 9, 0, 1)), leg(DB, Ipv4Addr::new(10, 8, 0, 1))],
        external: Some(ExternalLeg {
            vni: OUTSIDE,
            mtu: 1450,
            mac: leg_mac(host),
            addresses: vec![format!("{}/24", leg_address(host)).parse().unwrap()],
            gateways: vec![CLIENT.into()],
            snat: true,
            balancing_hosts: vec![leg_address(1).into()],
        }),
        floating: vec![],
    };
    let member = |guest: &u8| HostMember {
        port: port(*guest, true).id,
        vni: if *guest == 21 { DB } else { WEB },
        address: address(*guest).into(),
        healthy: healthy.contains(guest),
    };
    let balancer = HostBalancer {
        uuid: Uuid::from_u128(0xb),
        name: "shop".parse().unwrap(),
        router: router.uuid,
        vni: WEB,
        address: VIRTUAL.into(),
        floating: if host == 1 { vec![FLOATING.into()] } else { vec![] },
        listeners: vec!["udp:80:8080".parse().unwrap()],
        check: HealthCheck::default(),
        checked_port: 8080,
        members: MEMBERS.iter().map(member).collect(),
    };
    let networks = vec![web, db, outside];
    HostNetworks { networks, routers: vec![router], balancers: vec![balancer], ..HostNetworks::default() }
}

/// What a guest sends to somewhere beyond its gateway, or to the virtual address, which the gateway has too.
fn to_router(from: u8, to: Ipv4Addr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let vni = if from == 21 { DB } else { WEB };
    udp((gateway_mac(vni), to), (mac(from), address(from)), ports, data)
}

/// As the guest's own network stack would: straight to who is in its network.
fn answer(from: u8, to: Ipv4Addr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    match WEB_GUESTS.iter().find(|(guest, _)| from != 21 && address(*guest) == to) {
        Some((guest, _)) => udp((mac(*guest), to), (mac(from), address(from)), ports, data),
        None => to_router(from, to, ports, data),
    }
}

/// Lets the router know where it is, as the answer to its question would.
fn show(guest: &Guest) {
    let gateway = if guest.last == 21 { Ipv4Addr::new(10, 8, 0, 1) } else { Ipv4Addr::new(10, 9, 0, 1) };
    let question = arp(1, (mac(guest.last), address(guest.last)), (MacAddress([0; 6]), gateway));
    guest.send(&ethernet(BROADCAST, mac(guest.last), 0x0806, &question));
}

fn source_of(frame: &[u8]) -> (Ipv4Addr, u16) {
    let octets: [u8; 4] = frame[26..30].try_into().unwrap();
    (octets.into(), u16::from_be_bytes([frame[34], frame[35]]))
}

fn destination_of(frame: &[u8]) -> (Ipv4Addr, u16) {
    let octets: [u8; 4] = frame[30..34].try_into().unwrap();
    (octets.into(), u16::from_be_bytes([frame[36], frame[37]]))
}

#[tokio::test]
async fn connections_reach_healthy_members_wherever_they_are_and_stay_with_them() {
    let site = site(|host| desired(host, &[12]), OUTSIDE, CLIENT).await;
    let guests: Vec<Guest> =
        [(11, 0), (12, 0), (13, 1), (21, 1)].map(|(guest, host)| attach(&site.hosts[host].0, guest)).into();
    let become_healthy = async |healthy: &[u8]| {
        guests.iter().for_each(show);
        for (number, (_, plane)) in (1..).zip(&site.hosts) {
            plane.apply(&desired(number, healthy)).await.unwrap();
            assert_eq!(plane.apply(&desired(number, healthy)).await.unwrap().changes, Vec::<String>::new());
        }
    };
    let guest = |last: u8| guests.iter().find(|guest| guest.last == last).unwrap();
    let asks = |client: u8, port: u16, data: &[u8]| to_router(client, VIRTUAL, (port, 80), data);

    // The virtual address is the router's, for who is in its network.
    guest(11).send(&arp_request(11, VIRTUAL));
    let reply = guest(11).receive("the answer for the virtual address", |frame| kind(frame) == 0x0806);
    assert_eq!(reply[22..28], gateway_mac(WEB).0);

    // Each member, from a client in its network and from one in another, on its own host and on another one.
    for (number, (client, member)) in (0..).zip([(11, 12), (11, 13), (11, 21), (21, 12), (21, 13), (13, 21)]) {
        become_healthy(&[member]).await;
        let port = 5000 + number;
        guest(client).send(&asks(client, port, b"question"));
        let question = guest(member).receive("the question", |frame| carries(frame, b"question"));
        assert_eq!(source_of(&question), (address(client), port), "the client's own address");
        assert_eq!(destination_of(&question), (address(member), 8080));
        guest(member).send(&answer(member, address(client), (8080, port), b"the answer"));
        let reply = guest(client).receive("the answer", |frame| carries(frame, b"the answer"));
        assert_eq!(source_of(&reply), (VIRTUAL, 80), "{client} of {member}");
    }

    // A member is given itself: it sees the virtual address, and is answered from it.
    become_healthy(&[13]).await;
    guest(13).send(&asks(13, 6000, b"to myself"));
    let question = guest(13).receive("its own question", |frame| carries(frame, b"to myself"));
    let (source, source_port) = source_of(&question);
    assert_eq!((source, destination_of(&question)), (VIRTUAL, (address(13), 8080)));
    guest(13).send(&to_router(13, VIRTUAL, (8080, source_port), b"from myself"));
    let reply = guest(13).receive("its own answer", |frame| carries(frame, b"from myself"));
    assert_eq!((source_of(&reply), destination_of(&reply)), ((VIRTUAL, 80), (address(13), 6000)));

    // What began with 13 stays with it when it is not healthy any more; what is new does not.
    guest(11).send(&asks(11, 7000, b"before"));
    guest(13).receive("the first flow", |frame| carries(frame, b"before"));
    become_healthy(&[12]).await;
    guest(11).send(&asks(11, 7000, b"still"));
    guest(13).receive("the first flow again", |frame| carries(frame, b"still"));
    guest(11).send(&asks(11, 7001, b"new"));
    guest(12).receive("the second flow", |frame| carries(frame, b"new"));

    // From outside, by the floating address; members on other hosts answer by the host that it came by.
    for member in MEMBERS {
        become_healthy(&[member]).await;
        let socket = site.client.enter(|| UdpSocket::bind(SocketAddr::from((CLIENT, 0))).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.send_to(b"from outside", SocketAddr::from((FLOATING, 80))).unwrap();
        let question = guest(member).receive("the question from outside", |frame| carries(frame, b"from outside"));
        let (source, port) = source_of(&question);
        assert_eq!(source, leg_address(1));
        let mut heard = None;
        let mut buffer = [0; 100];
        insistently(guest(member), &to_router(member, source, (8080, port), b"to outside"), || {
            heard = socket.recv_from(&mut buffer).ok();
            heard.is_some()
        });
        assert_eq!(heard.unwrap().1, SocketAddr::from((IpAddr::from(FLOATING), 80)), "by member {member}");
    }

    // Without a healthy member nobody gets it.
    become_healthy(&[]).await;
    guest(11).send(&asks(11, 7002, b"to nobody"));
    let refusal = guest(11).receive("the refusal", |frame| kind(frame) == 0x0800 && frame[23] == 1);
    assert_eq!((source_of(&refusal).0, &refusal[34..36]), (VIRTUAL, &[3, 3][..]), "port unreachable");
    let strays = MEMBERS.map(|member| guest(member).drain());
    assert!(!strays.iter().flatten().any(|frame| carries(frame, b"to nobody")));
}

/// Whom a new connection to a listener may be given, read off the rules.
fn given(table: &Ruleset, to: IpAddr, protocol: &str, port: u16) -> BTreeSet<(IpAddr, u16)> {
    let rules = table.chains.get("prerouting").map(|chain| chain.rules.as_slice()).unwrap_or_default();
    for rule in rules {
        let statements = rule["expr"].as_array().unwrap();
        let matches = statements.iter().filter_map(|statement| statement.get("match")).all(|one| {
            let payload = &one["left"]["payload"];
            match payload["field"].as_str().unwrap() {
                "daddr" => one["right"] == to.to_string(),
                _ => payload["protocol"] == protocol && one["right"] == port,
            }
        });
        let Some(dnat) = statements.iter().find_map(|statement| statement.get("dnat")).filter(|_| matches) else {
            continue;
        };
        let port = dnat["port"].as_u64().unwrap() as u16;
        let parsed = |address: &serde_json::Value| (address.as_str().unwrap().parse().unwrap(), port);
        let Some(map) = dnat["addr"].get("map") else { return [parsed(&dnat["addr"])].into() };
        let entries = map["data"]["set"].as_array().unwrap();
        // The number is drawn from all entries: each is there once, and none is missing.
        assert_eq!(map["key"]["numgen"]["mod"], entries.len());
        assert!(entries.iter().enumerate().all(|(number, entry)| entry[0] == number));
        return entries.iter().map(|entry| parsed(&entry[1])).collect();
    }
    BTreeSet::new()
}

proptest! {
    /// Against what a load balancer is said to do: a new connection to a listener goes to the healthy members, to each of
    /// them and nobody else; everything else is left alone; answers go back through the router from wherever members are.
    #[test]
    fn only_healthy_members_are_given_new_connections(
        healthy in prop::collection::btree_set(prop::sample::select(MEMBERS.to_vec()), 0..4),
        host in 1u8..3, last in 99u8..102, is_udp in any::<bool>(), port in 79u16..82,
    ) {
        let healthy: Vec<u8> = healthy.into_iter().collect();
        let host = desired(host, &healthy);
        let table = translation::table(&host.routers[0], &host.balancers);
        let to = Ipv4Addr::new(10, 9, 0, last);
        let expected: BTreeSet<_> = if to == VIRTUAL && is_udp && port == 80 {
            healthy.iter().map(|guest| (IpAddr::from(address(*guest)), 8080)).collect()
        } else {
            BTreeSet::new()
        };
        prop_assert_eq!(given(&table, to.into(), if is_udp { "udp" } else { "tcp" }, port), expected);

        let back = &steering::compile(&host).sets["back4"];
        let devices = |guest: u8| -> BTreeSet<String> {
            let of = |element: &serde_json::Value| element[0]["concat"][1] == address(guest).to_string();
            back.values().filter(of).map(|element| element[0]["concat"][0].as_str().unwrap().to_owned()).collect()
        };
        for guest in MEMBERS {
            let found = devices(guest);
            prop_assert!(found.contains(&vxlan_name(WEB)) && found.contains(&vxlan_name(DB)));
            let is_here = host.networks.iter().flat_map(|network| &network.local).any(|here| here.mac == mac(guest));
            prop_assert_eq!(found.len(), if is_here { 3 } else { 2 });
        }
    }
}
