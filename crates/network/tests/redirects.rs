//! A router sends nobody the shorter way: a load balancer's client and member may be in one network, and yet everything
//! between them has to pass the router that translates it.

mod support;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gantry_network::{HostNetwork, HostNetworks, LocalPort};
use gantry_types::{HealthCheck, HostBalancer, HostMember, HostRouter, RouterLeg, gateway_mac};
use support::site::{attach, site};
use support::*;
use uuid::Uuid;

/// Nothing is in it here.
const OUTSIDE: u32 = 102;
const ROUTER: u128 = 0xabcd;

/// By the last part: 11 is the client, 12 the member, 1 the gateway, 100 the virtual address.
fn four(last: u8) -> Ipv4Addr {
    guest_address(last)
}

fn six(last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, last.into())
}

fn desired(host: u8) -> HostNetworks {
    if host != 1 {
        return HostNetworks::default();
    }
    let both = |last: u8| -> Vec<IpAddr> { vec![four(last).into(), six(last).into()] };
    let mut network = HostNetwork::new(Uuid::from_u128(7), "default", VNI, 1450, vtep(host));
    network.local = [11, 12].map(|last| LocalPort { addresses: both(last), ..port(last, true) }).into();
    let router = HostRouter {
        uuid: Uuid::from_u128(ROUTER),
        name: "main".parse().unwrap(),
        legs: vec![RouterLeg {
            vni: VNI,
            mtu: 1450,
            mac: gateway_mac(VNI),
            addresses: vec!["10.9.0.1/24".parse().unwrap(), "fd09::1/64".parse().unwrap()],
        }],
        external: None,
        floating: vec![],
    };
    let balancer = |number: u128, address: IpAddr, member: IpAddr| HostBalancer {
        uuid: Uuid::from_u128(number),
        name: format!("shop-{number}").parse().unwrap(),
        router: router.uuid,
        vni: VNI,
        address,
        floating: vec![],
        listeners: vec!["udp:80:8080".parse().unwrap()],
        check: HealthCheck::default(),
        checked_port: 8080,
        members: vec![HostMember { port: port(12, true).id, vni: VNI, address: member, healthy: true }],
    };
    let balancers = vec![balancer(4, four(100).into(), four(12).into()), balancer(6, six(100).into(), six(12).into())];
    HostNetworks { networks: vec![network], routers: vec![router], balancers, ..HostNetworks::default() }
}

/// As [`udp`], over IPv6, where the checksum is not optional (RFC 8200, 8.1).
fn udp6(to: (gantry_network::MacAddress, u8), from: u8, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len() as u16;
    let mut datagram = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(data);
    let ends = [six(from).octets(), six(to.1).octets()].concat();
    let covered = [&ends[..], &u32::from(length).to_be_bytes(), &[0, 0, 0, 17], &datagram].concat();
    datagram[6..8].copy_from_slice(&checksum(&covered).to_be_bytes());
    let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[17, 64]].concat();
    ethernet(to.0, mac(from), 0x86dd, &[header, ends, datagram].concat())
}

fn is_redirect(frame: &[u8]) -> bool {
    match kind(frame) {
        0x0800 => frame[23] == 1 && frame[34] == 5,
        0x86dd => frame[20] == 58 && frame[54] == 137,
        _ => false,
    }
}

/// Everything that a guest has got when the frame with this text is there.
fn until(guest: &Guest, text: &[u8]) -> Vec<Vec<u8>> {
    let seen = RefCell::new(Vec::new());
    guest.receive(&String::from_utf8_lossy(text), |frame| {
        seen.borrow_mut().push(frame.to_vec());
        carries(frame, text)
    });
    seen.into_inner()
}

#[tokio::test]
async fn neither_client_nor_member_is_told_a_way_around_the_router() {
    let site = site(desired, OUTSIDE, Ipv4Addr::new(192, 0, 2, 200)).await;
    let host = &site.hosts[0].0;
    let (client, member) = (attach(host, 11), attach(host, 12));
    let inside = format!("{}-r{ROUTER:08x}", host.name);
    // Redirects come from it, once nobody else can have it.
    eventually("the router's link-local address", || {
        let shown = run(&["ip", "-n", &inside, "-6", "addr", "show", "dev", "n100", "scope", "link"]);
        shown.contains("fe80::") && !shown.contains("tentative")
    });
    // As guests answer when the router asks for them.
    for last in [11, 12] {
        for address in [IpAddr::from(four(last)), six(last).into()] {
            let mac = mac(last).to_string();
            run(&["ip", "-n", &inside, "neigh", "replace", &address.to_string(), "lladdr", &mac, "dev", "n100"]);
        }
    }
    let gateway = gateway_mac(VNI);
    let by_four = [
        udp((gateway, four(100)), (mac(11), four(11)), (5000, 80), b"question"),
        udp((mac(11), four(11)), (mac(12), four(12)), (8080, 5000), b"answer"),
    ];
    let by_six = [udp6((gateway, 100), 11, (5000, 80), b"question"), udp6((mac(11), 11), 12, (8080, 5000), b"answer")];
    for [question, answer] in [by_four, by_six] {
        for _ in 0..3 {
            client.send(&question);
            let at_member = until(&member, b"question");
            member.send(&answer);
            let at_client = until(&client, b"answer");
            let redirects = at_member.iter().chain(&at_client).filter(|frame| is_redirect(frame));
            assert_eq!(redirects.collect::<Vec<_>>(), Vec::<&Vec<u8>>::new());
        }
    }
}
