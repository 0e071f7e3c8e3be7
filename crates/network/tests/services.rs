//! The bridge port of a network's services, between a guest on its tap and the outside.

mod support;

use std::net::{IpAddr, TcpListener};
use std::time::{Duration, Instant};

use gantry_network::services::{Reach, ServicesAddresses, ServicesPort};
use gantry_network::{DataPlane, LinuxDataPlane, MacAddress, bridge_name, services_mac, services_name};
use support::*;

const SERVICES: &str = "169.254.169.254";

fn addresses() -> ServicesAddresses {
    ServicesAddresses {
        v4: SERVICES.parse().unwrap(),
        v6: "fd00:ec2::254".parse().unwrap(),
        link_local: "fe80::a9fe:a9fe".parse().unwrap(),
    }
}

async fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !look() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A host with guests 11 and 12, and an external VTEP that nobody is behind.
async fn host() -> (Namespace, LinuxDataPlane, [Guest; 2]) {
    let host = Namespace::new("h1");
    host.ip("link add u0 mtu 1600 type bridge");
    host.ip(&format!("addr add {}/24 dev u0", vtep(1)));
    host.ip("link set u0 up");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    let ports = vec![port(11, true), port(12, true)];
    plane.apply(&network(1, ports, vec![], vec![vtep(9)])).await.unwrap();
    let guests = [Guest::attach(&host, 11), Guest::attach(&host, 12)];
    for guest in &guests {
        let tap = gantry_network::tap_name(port(guest.last, true).id);
        eventually("the tap to forward", || host.bridge(&format!("link show dev {tap}")).contains("state forwarding"))
            .await;
    }
    (host, plane, guests)
}

async fn services(host: &Namespace) -> ServicesPort {
    let network = network(1, vec![], vec![], vec![]).networks.remove(0);
    let mut port = ServicesPort::make(Some(&host.name), &network, addresses()).await.unwrap();
    let neighbours = [11, 12].map(|last| (IpAddr::from(guest_address(last)), mac(last)));
    let reach = Reach { subnets: ["10.9.0.0/24".parse().unwrap()].into(), neighbours: neighbours.into() };
    port.set_reach(reach).await.unwrap();
    let name = services_name(VNI);
    eventually("the services' port to forward", || {
        host.bridge(&format!("link show dev {name}")).contains("state forwarding")
    })
    .await;
    port
}

#[tokio::test]
async fn guests_reach_the_services_and_are_answered_at_their_own_mac() {
    let (host, plane, [guest, other]) = host().await;
    let port = services(&host).await;
    assert!(port.is_whole().await.unwrap());
    let address = SERVICES.parse().unwrap();
    guest.send(&arp_request(11, address));
    let answer = guest.receive("the services' MAC", |frame| kind(frame) == 0x0806 && frame[20..22] == [0, 2]);
    assert_eq!(answer[6..12], services_mac(VNI).0);

    // Nobody listens: the refusal comes from the services, to the asker alone.
    let question = udp((services_mac(VNI), address), (mac(11), guest_address(11)), (5000, 53), b"anybody there?");
    other.drain();
    guest.send(&question);
    let refusal = guest.receive("port unreachable", |frame| kind(frame) == 0x0800 && frame[23] == 1);
    assert_eq!((&refusal[0..6], &refusal[6..12]), (mac(11).0.as_slice(), services_mac(VNI).0.as_slice()));
    assert!(!other.drain().iter().any(|frame| kind(frame) == 0x0800));

    // A guest that knows no better gives it to its gateway.
    let gateway = MacAddress([2, 0, 0, 0, 0, 1]);
    guest.send(&udp((gateway, address), (mac(11), guest_address(11)), (5001, 53), b"by the gateway"));
    let refusal = guest.receive("port unreachable", |frame| kind(frame) == 0x0800 && frame[23] == 1);
    assert_eq!(refusal[6..12], services_mac(VNI).0);

    // The planned state neither removes it nor finds it wrong.
    let ports = vec![self::port(11, true), self::port(12, true)];
    let applied = plane.apply(&network(1, ports, vec![], vec![vtep(9)])).await.unwrap();
    assert_eq!(applied.changes, Vec::<String>::new());
    assert!(port.is_whole().await.unwrap());
}

#[tokio::test]
async fn nothing_passes_between_the_services_and_other_hosts() {
    let (host, _plane, [guest, _]) = host().await;
    let _port = services(&host).await;
    let sent = || -> u64 {
        let rows: serde_json::Value = serde_json::from_str(&host.ip(&format!("-s -j link show gx{VNI}"))).unwrap();
        rows[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    };
    // The bridge answers for the services' address: the question is not asked outside.
    let before = sent();
    guest.send(&arp_request(11, SERVICES.parse().unwrap()));
    guest.receive("the services' MAC", |frame| kind(frame) == 0x0806);
    assert_eq!(sent(), before);
    // One that nobody has is: so the first look meant something.
    guest.send(&arp_request(11, guest_address(99)));
    eventually("the question outside", || sent() > before).await;
    let isolated = host.bridge(&format!("-d link show dev {}", services_name(VNI)));
    assert!(isolated.contains("isolated on"), "{isolated}");
    assert!(host.bridge(&format!("-d link show dev gx{VNI}")).contains("isolated on"));
}

#[tokio::test]
async fn a_removed_port_is_noticed_and_nothing_outlives_its_owner() {
    let (host, _plane, _guests) = host().await;
    let port = services(&host).await;
    let listener = port.enter(|| TcpListener::bind((SERVICES, 80)).unwrap()).await.unwrap();
    host.ip(&format!("link set {} nomaster", services_name(VNI)));
    assert!(!port.is_whole().await.unwrap());
    host.ip(&format!("link del {}", services_name(VNI)));
    assert!(!port.is_whole().await.unwrap());

    // A new one takes its place at once, while the old one's sockets are still open.
    let again = services(&host).await;
    assert!(again.is_whole().await.unwrap());
    drop((port, listener));
    assert!(again.is_whole().await.unwrap());
    drop(again);
    eventually("the pair to go with its namespace", || {
        !host.ip("link show").contains(&format!(" {}@", services_name(VNI)))
    })
    .await;
    let entries = host.bridge(&format!("fdb show br {}", bridge_name(VNI)));
    assert!(!entries.contains(&services_mac(VNI).to_string()), "{entries}");
}
