//! A bridged network: guests are stations of the LAN that an interface of the host is in.

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use gantry_network::{
    DataPlane, ErrorClass, HostNetwork, HostNetworks, LinuxDataPlane, PortRef, bridge_name, tap_name, vxlan_name,
};
use support::site::insistently;
use support::*;
use uuid::Uuid;

const STATION: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 200);

fn bridged(mtu: u32) -> HostNetwork {
    HostNetwork {
        local: vec![port(11, true)],
        interface: Some("lan0".to_owned()),
        ..HostNetwork::new(Uuid::from_u128(7), "office", VNI, mtu, vtep(1))
    }
}

fn one(network: HostNetwork) -> HostNetworks {
    HostNetworks { networks: vec![network], ..HostNetworks::default() }
}

#[tokio::test]
async fn guests_and_the_stations_of_a_lan_reach_each_other_until_the_port_is_moved_away() {
    let (host, lan) = (Namespace::new("host"), Namespace::new("lan"));
    host.ip(&format!("link add lan0 mtu 1500 type veth peer name e0 netns {} mtu 1500", lan.name));
    lan.ip(&format!("addr add {STATION}/24 dev e0"));
    lan.ip("link set e0 up");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    let network = bridged(1500);
    plane.check_underlay(&network).await.unwrap();
    plane.apply(&one(network.clone())).await.unwrap();
    assert_eq!(plane.apply(&one(network.clone())).await.unwrap().changes, Vec::<String>::new());

    let guest = Guest::attach(&host, 11);
    eventually("the tap to forward", || {
        host.bridge(&format!("link show dev {}", tap_name(port(11, true).id))).contains("state forwarding")
    });
    guest.send(&arp_request(11, STATION));
    let reply = guest.receive("the station's answer", |frame| kind(frame) == 0x0806 && frame[21] == 2);
    let station = gantry_network::MacAddress(reply[6..12].try_into().unwrap());
    let socket = lan.enter(|| UdpSocket::bind(SocketAddr::from((STATION, 4000))).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let question = udp((station, STATION), (mac(11), guest_address(11)), (5000, 4000), b"from the guest");
    let mut heard = None;
    let mut buffer = [0; 100];
    insistently(&guest, &question, || {
        heard = socket.recv_from(&mut buffer).ok();
        heard.is_some()
    });
    assert_eq!(heard.unwrap().1, SocketAddr::from((guest_address(11), 5000)));
    socket.send_to(b"to the guest", (guest_address(11), 5000)).unwrap();
    guest.receive("the station's datagram", |frame| carries(frame, b"to the guest"));
    // The guard holds here, too.
    guest.send(&udp((station, STATION), (mac(11), guest_address(12)), (5000, 4000), b"spoofed"));
    guest.send(&question);
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"from the guest");

    // Who uses its MAC in the LAN does not take its place.
    lan.ip(&format!("link set e0 address {}", mac(11)));
    socket.set_broadcast(true).unwrap();
    socket.send_to(b"as the guest", (Ipv4Addr::new(10, 9, 0, 255), 9)).unwrap();
    guest.receive("the liar's broadcast", |frame| carries(frame, b"as the guest"));
    lan.ip(&format!("link set e0 address {station}"));
    guest.send(&arp_request(11, STATION));
    guest.receive("the answer after the lie", |frame| kind(frame) == 0x0806 && frame[21] == 2);
    socket.send_to(b"to the guest all the same", (guest_address(11), 5000)).unwrap();
    guest.receive("the datagram after the lie", |frame| carries(frame, b"to the guest all the same"));

    // Moved away: the LAN gets what is for it, the tap nothing.
    let reference = PortRef::new(&network, &network.local[0]);
    for _ in 0..2 {
        plane.deactivate_port(&reference, vtep(2)).await.unwrap();
    }
    guest.drain();
    lan.ip(&format!("neigh replace {} lladdr {} dev e0 nud permanent", guest_address(11), mac(11)));
    socket.send_to(b"too late", (guest_address(11), 5000)).unwrap();
    plane.activate_port(&reference).await.unwrap();
    socket.send_to(b"back again", (guest_address(11), 5000)).unwrap();
    let mut strays = Vec::new();
    let seen = std::cell::RefCell::new(&mut strays);
    guest.receive("what comes after the move back", |frame| {
        seen.borrow_mut().push(carries(frame, b"too late"));
        carries(frame, b"back again")
    });
    assert!(!strays.contains(&true));

    // Nothing is left, and the interface is as it was.
    plane.apply(&HostNetworks::default()).await.unwrap();
    let links = host.ip("-o link show");
    assert!(
        links.contains("lan0") && !links.contains(&vxlan_name(VNI)) && !links.contains(&bridge_name(VNI)),
        "{links}"
    );
}

#[tokio::test]
async fn an_interface_that_can_not_be_given_away_is_refused_with_the_remedy() {
    let host = Namespace::new("host");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    let refused = async |mtu: u32, parts: &[&str]| {
        let error = plane.check_underlay(&bridged(mtu)).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent);
        for part in parts {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    };
    refused(1500, &["no interface 'lan0'", "network 'office'", "plug it in"]).await;
    host.ip("link add lan0 mtu 1400 type veth peer name e0 mtu 1400");
    refused(1500, &["'lan0' has 1400", "ip link set lan0 mtu 1500", "to 1400"]).await;
    host.ip("addr add 192.0.2.1/24 dev lan0");
    refused(1400, &["has the address 192.0.2.1", "use an interface that is free"]).await;
    host.ip("addr flush dev lan0");
    host.ip("link add br0 type bridge");
    host.ip("link set lan0 master br0");
    refused(1400, &["it is in 'br0'"]).await;
    let strange = HostNetwork { interface: Some("gb1".to_owned()), ..bridged(1400) };
    assert!(plane.apply(&one(strange)).await.is_err());
}
