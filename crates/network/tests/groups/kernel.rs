//! Random groups in the kernel: what was written is what is there, and real packets meet the fate that the model gives
//! them.

#[path = "../support/mod.rs"]
mod support;

use gantry_network::{
    CaptureLimits, DataPlane, HostGroup, HostGroupRule, HostNetworks, HostPeer, LinuxDataPlane, LocalPort, PCAP_HEADER,
    PortRef, groups, tap_name,
};
use gantry_types::{Direction, PeerAddresses, PeerSet, PortRange, Protocol};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use support::*;
use uuid::Uuid;

#[tokio::test]
async fn whatever_is_compiled_is_read_back_and_leads_from_one_to_the_next() {
    let host = Namespace::new("groups");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    let mut runner = TestRunner::deterministic();
    for _ in 0..12 {
        let desired = crate::hosts().new_tree(&mut runner).unwrap().current();
        plane.apply(&desired).await.unwrap();
        assert_eq!(plane.observe().await.unwrap().groups, groups::compile(&desired));
        assert_eq!(plane.apply(&desired).await.unwrap().changes, Vec::<String>::new());
    }
    // What somebody flushes or switches off comes back.
    let desired = one_host(&[rule(Protocol::Udp, Some(5001), HostPeer::Anyone)]);
    plane.apply(&desired).await.unwrap();
    let whole = plane.observe().await.unwrap();
    for damage in ["flush ruleset", "delete chain inet gantry ingress", "flush map inet gantry in4"] {
        host.nft(damage);
        assert!(!plane.apply(&desired).await.unwrap().changes.is_empty(), "{damage}");
        assert_eq!(plane.observe().await.unwrap(), whole, "{damage}");
    }
    // Also when the groups change at that moment, which looks at nothing but groups; the rest comes with the next look.
    host.nft("flush ruleset");
    let other = one_host(&[rule(Protocol::Udp, Some(5002), HostPeer::Anyone)]);
    assert_eq!(plane.apply(&other).await.unwrap().changes, ["set the security groups"]);
    assert_eq!(plane.observe().await.unwrap().groups, groups::compile(&other));
    assert!(!plane.apply(&other).await.unwrap().changes.is_empty());
    plane.apply(&desired).await.unwrap();
    assert_eq!(plane.observe().await.unwrap(), whole);
    host.enter(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0").unwrap());
    assert_eq!(plane.apply(&desired).await.unwrap().changes, ["filter bridged packets"]);
}

fn rule(protocol: Protocol, port: Option<u16>, peer: HostPeer) -> HostGroupRule {
    let ports = port.map(|port| PortRange { first: port, last: port });
    HostGroupRule { direction: Direction::Ingress, protocol, ports, peer }
}

/// Guest 12 has a group with these rules; 11 and 13 have none.
fn one_host(rules: &[HostGroupRule]) -> HostNetworks {
    let group =
        HostGroup { uuid: Uuid::from_u128(1), name: "web".parse().unwrap(), rules: rules.to_vec(), shown: Vec::new() };
    let guarded = LocalPort { groups: vec![group.uuid], ..port(12, true) };
    let ports = vec![port(11, true), guarded, port(13, true)];
    HostNetworks { groups: vec![group], ..network(1, ports, vec![], vec![]) }
}

fn attach(host: &Namespace, last: u8) -> Guest {
    let guest = Guest::attach(host, last);
    eventually("the tap to forward", || {
        host.bridge(&format!("link show dev {}", tap_name(port(last, true).id))).contains("state forwarding")
    });
    guest
}

fn say(from: u8, to: u8, port: u16, data: &[u8]) -> Vec<u8> {
    udp((mac(to), guest_address(to)), (mac(from), guest_address(from)), (5000, port), data)
}

#[tokio::test]
async fn only_what_a_rule_allows_comes_in_and_a_rule_taken_back_cuts_it() {
    let host = Namespace::new("groups");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    let members = PeerAddresses::InNetworks(vec![(VNI, guest_address(11).into())]);
    let from_11 = HostPeer::Set(PeerSet { uuid: Uuid::from_u128(7), addresses: members });
    let allowing = one_host(&[rule(Protocol::Udp, Some(5001), from_11)]);
    assert!(plane.traffic().await.unwrap().rules.is_empty());
    plane.apply(&allowing).await.unwrap();
    let [eleven, twelve, thirteen] = [11, 12, 13].map(|last| attach(&host, last));
    // What is dropped was sent before what passes, through the same bridge.
    let seen = |frames: &[(&Guest, Vec<u8>)], marker: (&Guest, Vec<u8>)| {
        for (from, frame) in frames.iter().chain([&marker]) {
            from.send(frame);
        }
        let mut seen = Vec::new();
        let cell = std::cell::RefCell::new(&mut seen);
        twelve.receive("the marker", |frame| {
            cell.borrow_mut().push(frame.to_vec());
            frame == marker.1
        });
        seen.retain(|frame| kind(frame) == 0x0800);
        seen
    };
    let hello = say(11, 12, 5001, b"allowed");
    let stray = [
        (&thirteen, say(13, 12, 5001, b"not a member")),
        (&eleven, say(11, 12, 5002, b"another port")),
        (&thirteen, udp((BROADCAST, std::net::Ipv4Addr::BROADCAST), (mac(13), guest_address(13)), (1, 2), b"to all")),
    ];
    assert_eq!(seen(&stray, (&eleven, hello.clone())), std::slice::from_ref(&hello));
    let counted = plane.traffic().await.unwrap();
    assert_eq!(counted.rules[&groups::counter_name(allowing.groups[0].uuid, &allowing.groups[0].rules[0])].0, 1);
    assert!(counted.taps[&tap_name(port(11, true).id)].received_packets >= 2, "{counted:?}");
    // Twelve may say what it likes, and is answered.
    twelve.send(&udp((mac(13), guest_address(13)), (mac(12), guest_address(12)), (7000, 7001), b"question"));
    thirteen.receive("twelve's question", |frame| carries(frame, b"question"));
    let answer = udp((mac(12), guest_address(12)), (mac(13), guest_address(13)), (7001, 7000), b"answer");
    assert_eq!(seen(&[(&thirteen, say(13, 12, 7000, b"no answer"))], (&thirteen, answer.clone())), [answer]);
    // The rule is taken back: what belongs to its flow is dropped too.
    let other = one_host(&[rule(Protocol::Udp, Some(5003), HostPeer::Anyone)]);
    plane.apply(&other).await.unwrap();
    let marker = say(11, 12, 5003, b"allowed now");
    assert_eq!(seen(&[(&eleven, hello)], (&eleven, marker.clone())), [marker]);
}

#[tokio::test]
async fn a_capture_shows_what_passes_and_ends_by_its_size() {
    let host = Namespace::new("capture");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    plane.apply(&network(1, vec![port(11, true), port(12, true)], vec![], vec![])).await.unwrap();
    let (eleven, twelve) = (attach(&host, 11), attach(&host, 12));
    let reference = PortRef { vni: VNI, id: port(12, true).id, mac: mac(12), bridged: false };
    let limits = CaptureLimits { time: std::time::Duration::from_secs(60), bytes: 4096 };
    let mut records = plane.capture(&reference, limits).unwrap();
    assert_eq!(records.recv().await.unwrap(), PCAP_HEADER);
    let frame = say(11, 12, 5001, &[7; 1000]);
    let mut total = PCAP_HEADER.len();
    for _ in 0..10 {
        eleven.send(&frame);
        twelve.receive("the datagram", |received| received == frame);
    }
    let mut seen = 0;
    while let Some(record) = records.recv().await {
        total += record.len();
        seen += usize::from(record[16..] == frame[..]);
    }
    assert!(seen > 0 && total <= 4096, "{seen} in {total} bytes");
    let unknown = PortRef { id: Uuid::from_u128(1), ..reference };
    assert!(plane.capture(&unknown, limits).is_err());
}
