//! IPv6 through the kernel: neighbours are asked for and answered on one host, datagrams pass between two, and groups look
//! at them.

mod support;

use std::net::Ipv6Addr;

use gantry_network::{
    DataPlane, HostGroup, HostGroupRule, HostNetworks, HostPeer, LinuxDataPlane, LocalPort, MacAddress, RemotePort,
    tap_name,
};
use gantry_types::{Direction, PortRange, Protocol};
use support::*;
use uuid::Uuid;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ICMPV6: u8 = 58;
const UDP: u8 = 17;

fn six(last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, last.into())
}

/// Guest 11 is on host 1, 21 on host 2, where its group lets UDP port 5001 in.
fn desired(host: u8) -> HostNetworks {
    let of = |last: u8| LocalPort { addresses: vec![six(last).into()], ..port(last, true) };
    let there = |last: u8, host: u8| RemotePort::new(mac(last), vec![six(last).into()], vtep(host));
    let rule = HostGroupRule {
        direction: Direction::Ingress,
        protocol: Protocol::Udp,
        ports: Some(PortRange { first: 5001, last: 5001 }),
        peer: HostPeer::Cidr("fd09::/64".parse().unwrap()),
    };
    let group =
        HostGroup { uuid: Uuid::from_u128(1), name: "web".parse().unwrap(), rules: vec![rule], shown: Vec::new() };
    let guarded = LocalPort { groups: vec![group.uuid], ..of(21) };
    let (local, remote) = if host == 1 { (of(11), there(21, 2)) } else { (guarded, there(11, 1)) };
    HostNetworks { groups: vec![group], ..network(host, vec![local], vec![remote], vec![vtep(9)]) }
}

fn packet(to: (MacAddress, Ipv6Addr), from: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut sum = [six(from).octets(), to.1.octets()].concat();
    sum.extend(u32::from(length).to_be_bytes());
    sum.extend([0, 0, 0, protocol]);
    sum.extend(payload);
    let (at, sum) = (if protocol == UDP { 6 } else { 2 }, checksum(&sum).to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([protocol, 255]);
    packet.extend(six(from).octets());
    packet.extend(to.1.octets());
    let start = packet.len();
    packet.extend(payload);
    packet[start + at..start + at + 2].copy_from_slice(&sum);
    ethernet(to.0, mac(from), 0x86dd, &packet)
}

fn solicitation(from: u8, target: Ipv6Addr) -> Vec<u8> {
    let [.., high, middle, low] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(high), u16::from(middle) << 8 | u16::from(low));
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(mac(from).0);
    packet((MacAddress([0x33, 0x33, 0xff, high, middle, low]), group), from, ICMPV6, &message)
}

fn datagram(from: u8, to: u8, port: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = [5000u16, port, 8 + data.len() as u16, 0].map(u16::to_be_bytes).concat();
    datagram.extend(data);
    packet((mac(to), six(to)), from, UDP, &datagram)
}

#[tokio::test]
async fn neighbours_are_answered_where_they_are_asked_for_and_groups_judge_what_passes_between_hosts() {
    let switch = Namespace::new("switch");
    switch.ip("link add br0 type bridge");
    switch.ip("link set br0 up");
    let mut hosts = Vec::new();
    for number in 1..=2 {
        let host = Namespace::new(&format!("h{number}"));
        host.ip(&format!("link add u0 mtu 1600 type veth peer name p{number} netns {} mtu 1600", switch.name));
        switch.ip(&format!("link set p{number} master br0 up"));
        host.ip(&format!("addr add {}/24 dev u0", vtep(number)));
        host.ip("link set u0 up");
        LinuxDataPlane::in_namespace(&host.name).apply(&desired(number)).await.unwrap();
        hosts.push(host);
    }
    let attach = |host: &Namespace, last: u8| {
        let guest = Guest::attach(host, last);
        let tap = tap_name(port(last, true).id);
        eventually("the tap to forward", || host.bridge(&format!("link show dev {tap}")).contains("state forwarding"));
        guest
    };
    let (eleven, twenty_one) = (attach(&hosts[0], 11), attach(&hosts[1], 21));
    // Multicast goes to the external VTEP that the network has, unless it is answered before.
    let sent = || -> u64 {
        let rows: serde_json::Value = serde_json::from_str(&hosts[0].ip(&format!("-s -j link show gx{VNI}"))).unwrap();
        rows[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    };
    let before = sent();
    eleven.send(&solicitation(11, six(21)));
    let answer = eleven.receive("the neighbour's MAC", |frame| kind(frame) == 0x86dd && frame[54] == ADVERTISEMENT);
    assert_eq!(answer[62..78], six(21).octets());
    assert!(carries(&answer, &mac(21).0), "{answer:02x?}");
    assert_eq!(sent(), before, "the question left the host");
    // One that nobody has is asked for outside, so the look before meant something.
    eleven.send(&solicitation(11, six(99)));
    eventually("the question outside", || sent() > before);

    // What the group does not allow was sent before what it does.
    eleven.send(&datagram(11, 21, 5002, b"another port"));
    let welcome = datagram(11, 21, 5001, b"welcome");
    eleven.send(&welcome);
    let seen = std::cell::RefCell::new(Vec::new());
    twenty_one.receive("the datagram", |frame| {
        seen.borrow_mut().push(frame.to_vec());
        frame == welcome
    });
    assert!(!seen.borrow().iter().any(|frame| carries(frame, b"another port")));
    // It may ask, and is answered.
    twenty_one.send(&datagram(21, 11, 7000, b"question"));
    eleven.receive("the question", |frame| carries(frame, b"question"));
    let mut answer = [7000u16, 5000, 8 + 6, 0].map(u16::to_be_bytes).concat();
    answer.extend(b"answer");
    eleven.send(&packet((mac(21), six(21)), 11, UDP, &answer));
    twenty_one.receive("the answer", |frame| carries(frame, b"answer"));
}
