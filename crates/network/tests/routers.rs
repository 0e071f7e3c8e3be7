//! Routers through the kernel: two hosts, two networks behind one router, and a client outside.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use gantry_network::flows::FlowTable;
use gantry_network::{DataPlane, HostNetwork, HostNetworks, LocalPort, MacAddress, RemotePort};
use gantry_types::{ExternalLeg, HostFloatingIp, HostRouter, RouterLeg, gateway_mac};
use support::site::{attach, insistently, site};
use support::*;
use uuid::Uuid;

const WEB: u32 = 100;
const DB: u32 = 101;
const OUTSIDE: u32 = 102;
const FLOATING: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

/// The guests of the web network are 11 (host 1), that of the db network 21 (host 2); they have the same last octet there.
fn db_address() -> Ipv4Addr {
    Ipv4Addr::new(10, 8, 0, 21)
}

fn leg_address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, host)
}

fn desired(host: u8) -> HostNetworks {
    let network = |vni: u32| HostNetwork::new(Uuid::from_u128(vni.into()), format!("n{vni}"), vni, 1450, vtep(host));
    let (mut web, mut db, mut outside) = (network(WEB), network(DB), network(OUTSIDE));
    outside.external_vteps = vec![vtep(9)];
    let db_port = LocalPort { addresses: vec![db_address().into()], ..port(21, true) };
    if host == 1 {
        web.local.push(port(11, true));
        db.remote.push(RemotePort::new(mac(21), vec![db_address().into()], vtep(2)));
    } else {
        db.local.push(db_port);
        web.remote.push(remote(11, 1));
    }
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
            mac: MacAddress([0x52, 0x54, 0, 9, 9, host]),
            addresses: vec![format!("{}/24", leg_address(host)).parse().unwrap()],
            gateways: vec![CLIENT.into()],
            snat: true,
            balancing_hosts: vec![],
        }),
        floating: vec![],
    };
    HostNetworks { networks: vec![web, db, outside], routers: vec![router], ..HostNetworks::default() }
}

/// A frame of guest 11 to somewhere beyond its gateway.
fn beyond(to: Ipv4Addr, port: u16, data: &[u8]) -> Vec<u8> {
    udp((gateway_mac(WEB), to), (mac(11), guest_address(11)), (5000, port), data)
}

#[tokio::test]
async fn guests_reach_other_networks_the_outside_and_are_reached_by_floating_addresses() {
    let site = site(desired, OUTSIDE, CLIENT).await;
    let plane = &site.hosts[0].1;
    assert!(plane.apply(&desired(1)).await.unwrap().changes.is_empty());
    let (eleven, twenty_one) = (attach(&site.hosts[0].0, 11), attach(&site.hosts[1].0, 21));

    // From one network to another, over two hosts; the router answers for the gateway.
    eleven.send(&arp_request(11, Ipv4Addr::new(10, 9, 0, 1)));
    let reply = eleven.receive("the gateway's answer", |frame| kind(frame) == 0x0806);
    assert_eq!(reply[22..28], gateway_mac(WEB).0);
    eleven.send(&beyond(db_address(), 5001, b"to the db"));
    let frame = twenty_one.receive("the routed datagram", |frame| carries(frame, b"to the db"));
    assert_eq!(frame[6..12], gateway_mac(DB).0);
    let back = udp((gateway_mac(DB), guest_address(11)), (mac(21), db_address()), (5001, 5000), b"from the db");
    twenty_one.send(&back);
    eleven.receive("the routed answer", |frame| carries(frame, b"from the db"));

    // Out: the host's address, and the answer finds its way back.
    let socket = site.client.enter(|| UdpSocket::bind(SocketAddr::from((CLIENT, 4000))).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 100];
    let mut heard = None;
    insistently(&eleven, &beyond(CLIENT, 4000, b"out"), || {
        heard = socket.recv_from(&mut buffer).ok();
        heard.is_some()
    });
    let (_, from) = heard.unwrap();
    assert_eq!(from.ip(), IpAddr::from(leg_address(1)));
    socket.send_to(b"and back", from).unwrap();
    eleven.receive("the answer", |frame| carries(frame, b"and back"));

    // In and out by a floating address.
    let mut with_floating = desired(1);
    with_floating.routers[0].floating =
        vec![HostFloatingIp { address: FLOATING.into(), fixed: guest_address(11).into() }];
    plane.apply(&with_floating).await.unwrap();
    assert!(plane.apply(&with_floating).await.unwrap().changes.is_empty());
    socket.send_to(b"in", SocketAddr::from((FLOATING, 80))).unwrap();
    let frame = eleven.receive("what came to the floating address", |frame| carries(frame, b"in"));
    assert_eq!(frame[30..34], guest_address(11).octets());
    // A new flow: one that began before goes on as it began.
    let new_flow = udp((gateway_mac(WEB), CLIENT), (mac(11), guest_address(11)), (6000, 4000), b"from it");
    insistently(&eleven, &new_flow, || {
        heard = socket.recv_from(&mut buffer).ok();
        heard.is_some_and(|(_, from)| from.ip() == IpAddr::from(FLOATING))
    });

    // What somebody breaks comes back; what is not wanted goes.
    let whole = plane.observe().await.unwrap();
    let inside = format!("{}-r0000abcd", site.hosts[0].0.name);
    for damage in [
        &["ip", "netns", "exec", &inside, "nft", "flush", "ruleset"][..],
        &["ip", "-n", &inside, "addr", "flush", "dev", "n100", "scope", "global"],
        &["ip", "-n", &inside, "link", "del", "ext"],
        &["ip", "netns", "del", &inside],
    ] {
        run(damage);
        // The kernel takes a namespace's devices away some time after the namespace.
        eventually("the devices of a deleted namespace to go", || {
            damage[2] != "del" || !site.hosts[0].0.ip("-o link show").contains("gq100")
        });
        assert!(!plane.apply(&with_floating).await.unwrap().changes.is_empty(), "{damage:?}");
        assert_eq!(plane.observe().await.unwrap(), whole, "{damage:?}");
    }
    eleven.send(&beyond(db_address(), 5001, b"again"));
    twenty_one.receive("the datagram after the repair", |frame| carries(frame, b"again"));
    plane.apply(&HostNetworks::default()).await.unwrap();
    assert!(plane.observe().await.unwrap().routers.is_empty());
}

/// The same, after guest 11 has moved to host 2.
fn moved(host: u8) -> HostNetworks {
    let mut desired = desired(host);
    let web = &mut desired.networks[0];
    (web.local, web.remote) = if host == 2 { (vec![port(11, true)], vec![]) } else { (vec![], vec![remote(11, 2)]) };
    desired
}

#[tokio::test]
async fn what_a_guest_has_sent_out_goes_on_under_its_first_hosts_address_after_it_has_moved() {
    let site = site(desired, OUTSIDE, CLIENT).await;
    let before = attach(&site.hosts[0].0, 11);
    let socket = site.client.enter(|| UdpSocket::bind(SocketAddr::from((CLIENT, 4000))).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let hears = |guest: &Guest, data: &[u8]| {
        let mut buffer = [0; 100];
        let mut heard = None;
        insistently(guest, &beyond(CLIENT, 4000, data), || {
            heard = socket.recv_from(&mut buffer).ok().filter(|(length, _)| buffer[..*length] == *data);
            heard.is_some()
        });
        heard.unwrap().1
    };
    let outside = hears(&before, b"before");
    assert_eq!(outside.ip(), IpAddr::from(leg_address(1)));

    // What the two agents do: the connections ahead, then the port.
    let tables = site.hosts.iter().map(|(host, _)| FlowTable::of(Some(host.name.clone()))).collect::<Vec<_>>();
    let router = desired(1).routers[0].uuid;
    let flows = tables[0].flows(&tables[0].router(router), &[guest_address(11).into()]).await.unwrap();
    assert_eq!(flows.len(), 1, "{flows:?}");
    site.hosts[1].1.apply(&moved(2)).await.unwrap();
    assert_eq!(tables[1].add(&tables[1].router(router), &flows).await.unwrap(), flows);
    site.hosts[0].1.apply(&moved(1)).await.unwrap();
    drop(before);

    // Out by the new host and back by the old one, which sends it on.
    let after = attach(&site.hosts[1].0, 11);
    assert_eq!(hears(&after, b"after"), outside, "the client sees the connection that it knows");
    for _ in 0..3 {
        socket.send_to(b"answer", outside).unwrap();
        let answer = after.receive("the answer", |frame| carries(frame, b"answer"));
        assert_eq!(answer[26..30], CLIENT.octets());
    }
    // The old host is not idle as long as it lasts; what is new belongs to the new one.
    let left = tables[0].flows(&tables[0].router(router), &[leg_address(1).into()]).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    let fresh = udp((gateway_mac(WEB), CLIENT), (mac(11), guest_address(11)), (6000, 4000), b"new");
    let mut buffer = [0; 100];
    let mut heard = None;
    insistently(&after, &fresh, || {
        heard = socket.recv_from(&mut buffer).ok();
        heard.is_some_and(|(_, from)| from.ip() == IpAddr::from(leg_address(2)))
    });
}
