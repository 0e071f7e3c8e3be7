//! A thousand ports on three hosts, all with one group, whose rules and members change while traffic flows: not one packet
//! that must not get through does, and each change is one change of each host's rules.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gantry_network::{
    DataPlane, HostGroup, HostGroupRule, HostNetwork, HostNetworks, HostPeer, LinuxDataPlane, LocalPort, MacAddress,
    RemotePort, tap_name,
};
use gantry_types::{Direction, PeerAddresses, PeerSet, PortRange, Protocol};
use support::*;
use uuid::Uuid;

const PORTS: u32 = 1_000;
const HOSTS: u32 = 3;
const OPEN: u16 = 5_001;
const CLOSED: u16 = 5_002;
const ROUNDS: u16 = 3;
/// From one round of the sender's packets to the next.
const PACE: Duration = Duration::from_micros(500);
/// Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ports are dealt out in turn: 1 is on host 2, 2 on host 3, 3 on host 1.
fn home(port: u32) -> u32 {
    1 + port % HOSTS
}

fn address_of(port: u32) -> Ipv4Addr {
    let [_, _, high, low] = port.to_be_bytes();
    Ipv4Addr::new(10, 9, high, low)
}

fn mac_of(port: u32) -> MacAddress {
    let [_, high, middle, low] = port.to_be_bytes();
    MacAddress([0x52, 0x54, 1, high, middle, low])
}

fn id_of(port: u32) -> Uuid {
    Uuid::from_u128(u128::from(port))
}

/// The group lets `OPEN` in from `members`, and `more` from anyone.
fn desired(host: u32, members: &[u32], more: u16) -> HostNetworks {
    let uuid = Uuid::from_u128(1 << 100);
    let mut network = HostNetwork::new(Uuid::from_u128(7), "default", VNI, 1450, vtep(host as u8));
    for port in 1..=PORTS {
        let addresses = vec![IpAddr::from(address_of(port))];
        if home(port) == host {
            let local = LocalPort::new(id_of(port), mac_of(port), addresses, 0, true);
            network.local.push(LocalPort { groups: vec![uuid], ..local });
        } else {
            network.remote.push(RemotePort::new(mac_of(port), addresses, vtep(home(port) as u8)));
        }
    }
    let peers = members.iter().map(|port| (VNI, address_of(*port).into())).collect();
    let peers = PeerSet { uuid: Uuid::from_u128(9), addresses: PeerAddresses::InNetworks(peers) };
    let rule = |port: u16, peer: HostPeer| HostGroupRule {
        direction: Direction::Ingress,
        protocol: Protocol::Udp,
        ports: Some(PortRange { first: port, last: port }),
        peer,
    };
    let rules = vec![rule(OPEN, HostPeer::Set(peers)), rule(more, HostPeer::Anyone)];
    let group = HostGroup { uuid, name: "all".parse().unwrap(), rules, shown: Vec::new() };
    HostNetworks { networks: vec![network], groups: vec![group], ..HostNetworks::default() }
}

fn datagram(from: u32, to: u32, port: u16, data: &[u8]) -> Vec<u8> {
    udp((mac_of(to), address_of(to)), (mac_of(from), address_of(from)), (4_000, port), data)
}

/// Whether a frame with this text has come; frames with another one of `never` must not.
fn has_come(guest: &Guest, text: &[u8]) -> bool {
    let frames = guest.drain();
    let stray = frames.iter().find(|frame| carries(frame, b"forbidden"));
    assert!(stray.is_none(), "guest {} got what must not get through", guest.last);
    frames.iter().any(|frame| carries(frame, text))
}

#[test]
fn not_one_forbidden_packet_gets_through_while_the_group_of_a_thousand_ports_changes() {
    let switch = Namespace::new("switch");
    switch.ip("link add br0 type bridge");
    switch.ip("link set br0 up");
    let mut hosts = Vec::new();
    for number in 1..=HOSTS {
        let host = Namespace::new(&format!("h{number}"));
        host.ip(&format!("link add u0 mtu 1600 type veth peer name p{number} netns {} mtu 1600", switch.name));
        switch.ip(&format!("link set p{number} master br0 up"));
        host.ip(&format!("addr add {}/24 dev u0", vtep(number as u8)));
        host.ip("link set u0 up");
        let plane = LinuxDataPlane::in_namespace(&host.name);
        hosts.push((host, plane));
    }
    // Everywhere at once, as the controller does; each host makes one change of its rules and nothing else.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let change = |members: &[u32], more: u16| {
        let apply =
            async |host: u32| hosts[host as usize - 1].1.apply(&desired(host, members, more)).await.unwrap().changes;
        runtime.block_on(async { <[_; 3]>::from(tokio::join!(apply(1), apply(2), apply(3))) })
    };
    // One host after the other: the kernel makes devices one at a time, for all namespaces.
    for host in 1..=HOSTS {
        runtime.block_on(hosts[host as usize - 1].1.apply(&desired(host, &[], 6_000))).unwrap();
    }

    let guest = |port: u32| {
        let host = &hosts[home(port) as usize - 1].0;
        let tap = tap_name(id_of(port));
        let guest = Guest::attach_to(host, &tap, port as u8);
        eventually("the tap to forward", || host.bridge(&format!("link show dev {tap}")).contains("state forwarding"));
        guest
    };
    // A sender on one host; receivers on its own host and on both others.
    let (sender, receivers) = (guest(3), [6, 1, 2].map(guest));
    let send = |port: u16, data: &[u8]| {
        for receiver in [6, 1, 2] {
            sender.send(&datagram(3, receiver, port, data));
        }
    };
    let allowed = AtomicBool::new(false);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // What no rule ever allows flows all the time.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                send(CLOSED, b"forbidden");
                if allowed.load(Ordering::Relaxed) {
                    send(OPEN, b"welcome");
                }
                // Enough to be there at each change; the rest of the machine is to be the hosts'.
                std::thread::sleep(PACE);
            }
        });
        let end = Ending(&ended);
        let all_hear = |text: &[u8]| {
            for receiver in &receivers {
                let deadline = Instant::now() + PATIENCE;
                while !has_come(receiver, text) {
                    assert!(Instant::now() < deadline, "guest {} waited in vain", receiver.last);
                }
            }
        };
        for round in 0..ROUNDS {
            // Others join and leave, rules come and go: the sender stays a stranger.
            for (members, more) in [(vec![100 + u32::from(round)], 6_000), (vec![500, 501], 6_001 + round)] {
                for changes in change(&members, more) {
                    assert_eq!(changes, ["set the security groups"]);
                }
                send(OPEN, b"forbidden");
            }
            // It joins, is heard, and leaves: from the moment that the change is made it is not heard.
            change(&[3, 500, 501], 6_001 + round);
            allowed.store(true, Ordering::Relaxed);
            all_hear(b"welcome");
            allowed.store(false, Ordering::Relaxed);
            change(&[500, 501], 6_001 + round);
            for _ in 0..50 {
                send(OPEN, b"forbidden");
            }
            for receiver in &receivers {
                has_come(receiver, b"");
            }
        }
        // What was sent before this has arrived, or never will.
        change(&[3], 6_000);
        send(OPEN, b"the last");
        all_hear(b"the last");
        drop(end);
    });
}

/// Ends the traffic, also when the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
