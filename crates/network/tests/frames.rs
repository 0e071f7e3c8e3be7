//! Frames through the kernel: three hosts and an outside client, joined by an underlay switch.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gantry_network::{
    DataPlane, EthernetAddress, HostNetworks, LinuxDataPlane, MacAddress, PortRef, RemotePort, bridge_name, tap_name,
};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use support::*;

/// Hosts 1 to 3 and, at underlay address 9, a client outside Gantry whose VTEP learns by itself.
struct Site {
    hosts: Vec<(Namespace, LinuxDataPlane)>,
    client: Namespace,
    _switch: Namespace,
}

const CLIENT: u8 = 200;

impl Site {
    fn new() -> Self {
        let switch = Namespace::new("switch");
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let host = |number: u8| {
            let host = Namespace::new(&format!("h{number}"));
            plug(&switch, &host, number);
            let plane = LinuxDataPlane::in_namespace(&host.name);
            (host, plane)
        };
        let hosts = (1..=3).map(host).collect();
        let client = Namespace::new("client");
        plug(&switch, &client, 9);
        client.ip(&format!("link add ext0 mtu 1450 type vxlan id {VNI} local {} dstport 4789 learning", vtep(9)));
        client.ip(&format!("addr add {}/24 dev ext0", guest_address(CLIENT)));
        client.ip("link set ext0 up");
        for number in 1..=3 {
            client.bridge(&format!("fdb append 00:00:00:00:00:00 dev ext0 dst {} self permanent", vtep(number)));
        }
        Self { hosts, client, _switch: switch }
    }

    async fn apply(&self, host: u8, desired: &HostNetworks) {
        self.plane(host).apply(desired).await.unwrap();
    }

    fn plane(&self, host: u8) -> &LinuxDataPlane {
        &self.hosts[usize::from(host) - 1].1
    }

    fn attach(&self, host: u8, last: u8) -> Guest {
        attach(self.namespace(host), last)
    }

    fn namespace(&self, host: u8) -> &Namespace {
        &self.hosts[usize::from(host) - 1].0
    }

    fn client_socket(&self) -> UdpSocket {
        let socket = self.client.enter(|| UdpSocket::bind(SocketAddr::from((guest_address(CLIENT), 4000))).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    fn client_mac(&self) -> MacAddress {
        let rows: serde_json::Value = serde_json::from_str(&self.client.ip("-j link show dev ext0")).unwrap();
        rows[0]["address"].as_str().unwrap().parse().unwrap()
    }
}

fn attach(host: &Namespace, last: u8) -> Guest {
    let guest = Guest::attach(host, last);
    // The bridge notices the carrier of a tap some time after the attachment.
    eventually("the tap to forward", || forwards(host, last));
    guest
}

fn forwards(host: &Namespace, last: u8) -> bool {
    host.bridge(&format!("link show dev {}", tap_name(port(last, true).id))).contains("state forwarding")
}

fn plug(switch: &Namespace, namespace: &Namespace, number: u8) {
    let words = format!("link add u0 mtu 1600 type veth peer name p{number} netns {} mtu 1600", switch.name);
    namespace.ip(&words);
    switch.ip(&format!("link set p{number} master br0 up"));
    namespace.ip(&format!("addr add {}/24 dev u0", vtep(number)));
    namespace.ip("link set u0 up");
}

fn say(from: u8, to: u8, data: &[u8]) -> Vec<u8> {
    udp((mac(to), guest_address(to)), (mac(from), guest_address(from)), (5000, 5001), data)
}

fn port_ref(last: u8) -> PortRef {
    PortRef { vni: VNI, id: port(last, true).id, mac: mac(last), bridged: false }
}

/// Two guests on host 1 (11, 12), one each on host 2 (21) and 3 (31).
async fn site_with_guests(external: bool) -> (Site, [Guest; 4]) {
    let site = Site::new();
    let outside = if external { vec![vtep(9)] } else { vec![] };
    let homes = [(11, 1), (12, 1), (21, 2), (31, 3)];
    for host in 1..=3 {
        let ports = homes.iter().filter(|h| h.1 == host).map(|h| port(h.0, true)).collect();
        let remote = homes.iter().filter(|h| h.1 != host).map(|h| remote(h.0, h.1)).collect();
        site.apply(host, &network(host, ports, remote, outside.clone())).await;
    }
    let guests = homes.map(|(last, host)| site.attach(host, last));
    (site, guests)
}

/// Sends a marked frame that certainly arrives after `frames`, and returns all that `to` saw before it.
fn seen_before_marker(from: &Guest, to: &Guest, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    to.drain();
    for frame in frames {
        from.send(frame);
    }
    let marker = say(from.last, to.last, b"the marker frame");
    from.send(&marker);
    let mut seen = Vec::new();
    let seen_cell = std::cell::RefCell::new(&mut seen);
    to.receive("the marker", |frame| {
        let is_marker = frame == marker;
        if !is_marker {
            seen_cell.borrow_mut().push(frame.to_vec());
        }
        is_marker
    });
    // What IPv6 stacks and bridges say by themselves is none of the test's.
    seen.retain(|f| kind(f) != 0x86dd);
    seen
}

#[tokio::test]
async fn guests_resolve_and_reach_each_other_across_hosts() {
    let (_site, [eleven, twelve, twenty_one, _]) = site_with_guests(false).await;
    // Across hosts the bridge answers; the asked guest hears nothing.
    eleven.send(&arp_request(11, guest_address(21)));
    let reply = eleven.receive("an ARP reply for 21", |f| kind(f) == 0x0806);
    assert_eq!(reply[20..32], [&[0, 2][..], &mac(21).0, &guest_address(21).octets()].concat()[..]);
    assert_eq!(seen_before_marker(&eleven, &twenty_one, &[]), Vec::<Vec<u8>>::new());
    // Within a host the guest itself answers.
    eleven.send(&arp_request(11, guest_address(12)));
    twelve.receive("the ARP request", |f| kind(f) == 0x0806);
    let answer = arp(2, (mac(12), guest_address(12)), (mac(11), guest_address(11)));
    twelve.send(&ethernet(mac(11), mac(12), 0x0806, &answer));
    eleven.receive("12's ARP reply", |f| kind(f) == 0x0806 && f[22..28] == mac(12).0);
    // Data, both ways, and in the full MTU.
    let large = vec![7; 1450 - 28];
    for (from, to) in [(&eleven, &twelve), (&eleven, &twenty_one), (&twenty_one, &twelve)] {
        from.send(&say(from.last, to.last, &large));
        to.receive("a full-size datagram", |f| carries(f, &large));
    }
}

#[tokio::test]
async fn nothing_is_flooded_to_guests() {
    let (_site, [eleven, twelve, twenty_one, thirty_one]) = site_with_guests(true).await;
    let stray = udp((mac(0x77), guest_address(77)), (mac(11), guest_address(11)), (1, 2), b"stray");
    let unknown = arp_request(11, guest_address(77));
    // Broadcast stays on the host; unknown unicast goes to no guest at all.
    let seen = seen_before_marker(&eleven, &twelve, std::slice::from_ref(&stray));
    assert!(seen.is_empty(), "{seen:?}");
    for other in [&twenty_one, &thirty_one] {
        let seen = seen_before_marker(&eleven, other, &[stray.clone(), unknown.clone()]);
        assert!(seen.is_empty(), "{seen:?}");
    }
}

#[tokio::test]
async fn spoofed_frames_are_dropped_and_counted() {
    let (site, [eleven, twelve, twenty_one, _]) = site_with_guests(false).await;
    let (own_mac, own_ip) = (mac(11), guest_address(11));
    let other = guest_address(31);
    let to = (mac(12), guest_address(12));
    let advertise = |target: std::net::Ipv6Addr, message: u8| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
        packet.extend(own_mac.link_local().octets());
        packet.extend(mac(12).link_local().octets());
        packet.extend([message, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(target.octets());
        ethernet(mac(12), own_mac, 0x86dd, &packet)
    };
    let spoofed = [
        udp(to, (mac(31), own_ip), (1, 2), b"foreign MAC"),
        udp(to, (own_mac, other), (1, 2), b"foreign IPv4"),
        ethernet(BROADCAST, own_mac, 0x0806, &arp(1, (own_mac, other), (MacAddress::ZERO, to.1))),
        ethernet(mac(12), own_mac, 0x0806, &arp(2, (mac(31), own_ip), to)),
        advertise(mac(31).link_local(), 136),
        advertise(mac(31).link_local(), 134),
        ethernet(mac(12), own_mac, 0x8100, &[0, 5, 8, 0, 1, 2, 3, 4]),
        ethernet(mac(12), own_mac, 0x88cc, b"lldp"),
    ];
    for (to, frames) in [(&twelve, &spoofed[..]), (&twenty_one, &spoofed[..4])] {
        let seen = seen_before_marker(&eleven, to, frames);
        assert!(seen.is_empty(), "{seen:?}");
    }
    let counters = site.plane(1).port_counters(&port_ref(11)).await.unwrap();
    assert_eq!(counters.spoofed_packets, 12);
    // Counted for the port, too, whatever becomes of the chain; a port without a lie has none.
    let told = async || site.plane(1).traffic().await.unwrap().taps;
    let of = |last: u8| tap_name(port(last, true).id);
    assert_eq!((told().await[&of(11)].spoofed_packets, told().await[&of(12)].spoofed_packets), (12, 0));
    assert!(counters.received_packets >= 14 && counters.received_bytes > 0, "{counters:?}");

    // The same frames without the lie pass.
    let honest = [advertise(own_mac.link_local(), 136), say(11, 12, b"own IPv4"), arp_request(11, guest_address(12))];
    for frame in honest {
        eleven.send(&frame);
        twelve.receive("an honest frame", |f| f == frame);
    }
}

#[tokio::test]
async fn the_host_itself_is_out_of_a_guests_reach() {
    let (site, [eleven, ..]) = site_with_guests(false).await;
    // Linux answers ARP for any of its addresses on any interface, unless it never hears the question.
    let std::net::IpAddr::V4(underlay) = vtep(1) else { panic!("IPv4 underlay") };
    eleven.send(&arp_request(11, underlay));
    eleven.send(&arp_request(11, guest_address(21)));
    let reply = eleven.receive("the answer to the second question", |f| kind(f) == 0x0806);
    assert_eq!(reply[28..32], guest_address(21).octets());
    let addresses = site.namespace(1).ip("-6 addr show dev gb100");
    assert_eq!(addresses.trim(), "");
}

#[tokio::test]
async fn an_outside_client_and_guests_find_each_other() {
    let (site, [eleven, ..]) = site_with_guests(true).await;
    let (socket, client) = (site.client_socket(), guest_address(CLIENT));
    // The guest asks for an address nobody in Gantry knows; the client's own stack answers.
    eleven.send(&arp_request(11, client));
    let reply = eleven.receive("the client's ARP reply", |f| kind(f) == 0x0806 && f[28..32] == client.octets());
    let client_mac = MacAddress(reply[22..28].try_into().unwrap());
    assert_eq!(client_mac, site.client_mac());
    eleven.send(&udp((client_mac, client), (mac(11), guest_address(11)), (5000, 4000), b"from the guest"));
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"from the guest"[..], SocketAddr::from((guest_address(11), 5000))));
    // The client asks for the guest; the guest's unicast answer is not swallowed, and checksums come out right.
    site.client.ip("neigh flush dev ext0");
    socket.send_to(b"from the client", (guest_address(11), 5000)).unwrap();
    eleven.receive("the client's ARP request", |f| kind(f) == 0x0806 && f[21] == 1);
    let answer = arp(2, (mac(11), guest_address(11)), (client_mac, client));
    eleven.send(&ethernet(client_mac, mac(11), 0x0806, &answer));
    let frame = eleven.receive("the client's datagram", |f| carries(f, b"from the client"));
    let mut covered = frame[26..34].to_vec();
    covered.extend([0, 17]);
    covered.extend(&frame[38..40]);
    covered.extend(&frame[34..]);
    assert_ne!(frame[40..42], [0, 0], "a UDP checksum is there");
    assert_eq!(checksum(&covered), 0, "and right");
}

#[tokio::test]
async fn a_port_moves_with_one_flip_and_the_outside_learns_it() {
    let (site, [source, peer, twenty_one, thirty_one]) = site_with_guests(true).await;
    let socket = site.client_socket();
    site.client.ip(&format!("neigh replace {} lladdr {} dev ext0 nud permanent", guest_address(11), mac(11)));
    // The destination on host 2 is prepared.
    let mut host_2 = network(2, vec![port(21, true)], vec![remote(11, 1), remote(12, 1), remote(31, 3)], vec![vtep(9)]);
    site.plane(2).ensure_port(&host_2.networks[0], &port(11, false)).await.unwrap();
    let destination = site.attach(2, 11);
    source.send(&announcement(11));
    let say_from_client = |text: &[u8]| socket.send_to(text, (guest_address(11), 5001)).map(|_| ()).unwrap();
    // Until the flip everything still goes to the source, also from the destination's own host,
    // and nothing leaves the destination's tap.
    say_from_client(b"before");
    source.receive("the client before the move", |f| carries(f, b"before"));
    twenty_one.send(&say(21, 11, b"still there"));
    source.receive("21 before the move", |f| carries(f, b"still there"));
    destination.send(&say(11, 21, b"too early"));
    destination.send(&say(11, 31, b"too early"));
    assert!(seen_before_marker(&source, &twenty_one, &[]).is_empty());
    assert!(destination.drain().is_empty());

    site.plane(1).deactivate_port(&port_ref(11), vtep(2)).await.unwrap();
    site.plane(2).activate_port(&port_ref(11)).await.unwrap();
    // The source's host and the destination's host already agree, host 3 follows with its next apply.
    peer.send(&say(12, 11, b"from the old host"));
    destination.receive("12 after the move", |f| carries(f, b"from the old host"));
    twenty_one.send(&say(21, 11, b"from the new host"));
    destination.receive("21 after the move", |f| carries(f, b"from the new host"));
    let host_3 = network(3, vec![port(31, true)], vec![remote(11, 2), remote(12, 1), remote(21, 2)], vec![vtep(9)]);
    assert_eq!(site.plane(3).apply(&host_3).await.unwrap().changes.len(), 1);
    thirty_one.send(&say(31, 11, b"from host 3"));
    destination.receive("31 after the move", |f| carries(f, b"from host 3"));
    // The guest announces itself as QEMU does; the client learns the new place.
    destination.send(&announcement(11));
    let there = mac(11).to_string();
    eventually("the client's VTEP to learn the move", || {
        let rows = site.client.bridge("fdb show dev ext0");
        rows.lines().any(|l| l.starts_with(&there) && l.contains(&vtep(2).to_string()))
    });
    say_from_client(b"after");
    destination.receive("the client after the move", |f| carries(f, b"after"));
    // The source's tap is out: nothing arrived there since, and nothing leaves it.
    source.send(&say(11, 21, b"too late"));
    assert!(seen_before_marker(&destination, &twenty_one, &[]).is_empty());
    assert!(source.drain().iter().all(|f| !carries(f, b"after") && !carries(f, b"host") && !carries(f, b"host 3")));
    // The described state agrees with the flip: only the stale vxlan entry goes.
    host_2.networks[0].remote.remove(0);
    host_2.networks[0].local.push(port(11, true));
    assert_eq!(site.plane(2).apply(&host_2).await.unwrap().changes.len(), 1);
}

#[tokio::test]
async fn an_ipv6_underlay_carries_frames_too() {
    let switch = Namespace::new("switch");
    let six = |host: u8| format!("fd77::{host}").parse::<std::net::IpAddr>().unwrap();
    let mut guests = Vec::new();
    let mut hosts = Vec::new();
    switch.ip("link add br0 type bridge");
    switch.ip("link set br0 up");
    for (own, other) in [(1, 2), (2, 1)] {
        let host = Namespace::new(&format!("h{own}"));
        plug(&switch, &host, own);
        host.ip(&format!("addr add {}/64 dev u0 nodad", six(own)));
        let plane = LinuxDataPlane::in_namespace(&host.name);
        let there = RemotePort { vtep: six(other), ..remote(other * 11, 1) };
        let mut desired = network(own, vec![port(own * 11, true)], vec![there], vec![six(9)]);
        desired.networks[0].underlay_address = six(own);
        plane.apply(&desired).await.unwrap();
        assert!(plane.apply(&desired).await.unwrap().changes.is_empty());
        assert_eq!(plane.check_underlay(&desired.networks[0]).await.unwrap().mtu, 1600);
        guests.push(attach(&host, own * 11));
        hosts.push(host);
    }
    let frame = say(11, 22, b"over IPv6");
    guests[0].send(&frame);
    guests[1].receive("the datagram", |f| f == frame);
}

#[tokio::test]
async fn bulk_tcp_from_a_machine_with_offloads_arrives() {
    let site = Site::new();
    site.apply(1, &network(1, vec![], vec![], vec![vtep(9)])).await;
    // A machine with a real TCP stack, checksum and segmentation offload, beside Gantry's own ports on the bridge.
    let machine = Namespace::new("machine");
    let host = site.namespace(1);
    host.ip(&format!("link add gv0 mtu 1450 type veth peer name eth0 mtu 1450 netns {}", machine.name));
    host.ip("link set gv0 master gb100 up");
    machine.ip(&format!("link set eth0 address {} up", mac(50)));
    machine.ip(&format!("addr add {}/24 dev eth0", guest_address(50)));
    host.bridge(&format!("fdb replace {} dev gv0 master static", mac(50)));
    let listener = site.client.enter(|| TcpListener::bind((guest_address(CLIENT), 4001)).unwrap());
    let sent = (0..8_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>();
    let mut sender = machine.enter(|| TcpStream::connect((guest_address(CLIENT), 4001)).unwrap());
    let received = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received
        });
        sender.write_all(&sent).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
        receiver.join().unwrap()
    });
    assert!(received == sent, "{} of {} bytes arrived unharmed", received.len(), sent.len());
}

#[tokio::test]
async fn an_unprivileged_qemu_attaches_and_its_announcement_reaches_the_outside() {
    let site = Site::new();
    let wanted = port(11, true);
    site.apply(1, &network(1, vec![wanted.clone()], vec![], vec![vtep(9)])).await;
    let tap = site.plane(1).open_tap(&port_ref(11)).unwrap();
    fcntl(&tap, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let netdev = format!("tap,id=n0,fd={}", tap.as_raw_fd());
    let device = format!("virtio-net-pci,netdev=n0,mac={},romfile=", wanted.mac);
    let mut qemu = Command::new("setpriv");
    qemu.arg("--clear-groups");
    qemu.args([format!("--reuid={}", wanted.owner_uid), format!("--regid={}", wanted.owner_uid)]);
    qemu.args(["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "16376K", "-display", "none"]);
    qemu.args(["-nodefaults", "-no-user-config", "-netdev", &netdev, "-device", &device, "-qmp", "stdio"]);
    let mut qemu = Running(qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    drop(tap);
    let mut commands = qemu.0.stdin.take().unwrap();
    let mut answers = BufReader::new(qemu.0.stdout.take().unwrap()).lines();
    assert!(answers.next().unwrap().unwrap().contains("QMP"));
    eventually("QEMU's tap to forward", || forwards(site.namespace(1), 11));
    for command in [
        r#"{"execute": "qmp_capabilities"}"#,
        r#"{"execute": "announce-self", "arguments": {"initial": 10, "max": 50, "rounds": 3, "step": 10}}"#,
    ] {
        commands.write_all(command.as_bytes()).unwrap();
        assert!(answers.next().unwrap().unwrap().contains("return"));
    }
    eventually("the client's VTEP to learn QEMU's MAC", || {
        let rows = site.client.bridge("fdb show dev ext0");
        rows.lines().any(|l| l.starts_with(&mac(11).to_string()) && l.contains(&vtep(1).to_string()))
    });
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(|_| ())) {
            eprintln!("could not end process {}: {error}", self.0.id());
        }
    }
}

#[tokio::test]
async fn a_refusal_by_the_kernel_names_the_object() {
    let host = Namespace::new("refused");
    host.ip("link add elsewhere type vxlan id 100 dstport 4789 local 10.77.0.1");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    let error = plane.apply(&network(1, vec![], vec![], vec![])).await.unwrap_err();
    assert!(error.to_string().starts_with("could not create interface 'gx100': "), "{error}");
    // What was made before is kept; the cause removed, the same call finishes the work.
    host.ip("link del elsewhere");
    plane.apply(&network(1, vec![], vec![], vec![])).await.unwrap();
}

#[tokio::test]
async fn what_is_removed_by_hand_comes_back_and_strangers_stay() {
    let site = Site::new();
    let host = site.namespace(1);
    let external = RemotePort::new(mac(90), vec![guest_address(90).into()], vtep(9));
    let desired = network(1, vec![port(11, true)], vec![remote(21, 2), external], vec![vtep(9)]);
    site.apply(1, &desired).await;
    for stranger in ["link add gtk0 type bridge", "link add gb type bridge", "link add br-x type bridge"] {
        host.ip(stranger);
    }
    host.nft("add table netdev other");
    let healthy = site.plane(1).observe().await.unwrap();
    let tap = tap_name(port(11, true).id);
    let bridge = bridge_name(VNI);
    let damage: [&dyn Fn(); 12] = [
        &|| drop(host.bridge(&format!("fdb del {} dev gx100 dst {} self", mac(21), vtep(2)))),
        &|| drop(host.bridge(&format!("fdb del {} dev gx100 master", mac(21)))),
        &|| drop(host.bridge(&format!("fdb replace {} dev gx100 master static", mac(11)))),
        &|| drop(host.bridge("fdb append 00:00:00:00:00:00 dev gx100 dst 10.77.0.66 self permanent")),
        &|| drop(host.ip(&format!("neigh del {} dev {bridge}", guest_address(21)))),
        &|| drop(host.ip(&format!("link set {tap} type bridge_slave learning on flood on locked off"))),
        &|| drop(host.ip(&format!("link del {tap}"))),
        &|| drop(host.ip("link del gx100")),
        &|| drop(host.ip(&format!("link del {bridge}"))),
        &|| drop(host.ip(&format!("link set {bridge} down mtu 1300 address 02:00:00:00:00:01"))),
        &|| drop(host.nft(&format!("flush chain netdev gantry {tap}"))),
        &|| drop(host.nft("delete table netdev gantry")),
    ];
    for (number, damage) in damage.iter().enumerate() {
        damage();
        assert_ne!(site.plane(1).observe().await.unwrap(), healthy, "damage {number} shows");
        assert!(!site.plane(1).apply(&desired).await.unwrap().changes.is_empty());
        assert_eq!(site.plane(1).observe().await.unwrap(), healthy, "damage {number} is repaired");
        assert!(site.plane(1).apply(&desired).await.unwrap().changes.is_empty());
    }
    site.apply(1, &HostNetworks::default()).await;
    let left = host.ip("-o link show");
    for stranger in ["gtk0", "gb:", "br-x"] {
        assert!(left.contains(stranger), "{stranger} stays: {left}");
    }
    assert!(host.nft("list tables").contains("netdev other"));
}

#[tokio::test]
async fn a_name_taken_by_something_else_is_named() {
    let host = Namespace::new("taken");
    host.ip("link add gb100 type veth peer name other");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    let error = plane.apply(&network(1, vec![], vec![], vec![])).await.unwrap_err();
    assert!(error.to_string().contains("'gb100' exists as a veth"), "{error}");
    assert_eq!(error.class(), gantry_network::ErrorClass::Conflict);
    let nowhere = LinuxDataPlane::in_namespace("gntest-nowhere");
    let error = nowhere.observe().await.unwrap_err();
    assert_eq!(error.class(), gantry_network::ErrorClass::NotFound, "{error}");
}

#[tokio::test]
async fn the_underlay_is_read_from_the_interface() {
    let site = Site::new();
    let mut desired = network(1, vec![], vec![], vec![]).networks.remove(0);
    let report = site.plane(1).check_underlay(&desired).await.unwrap();
    assert_eq!((report.interface.as_str(), report.mtu), ("u0", 1600));
    desired.mtu = 1551;
    let error = site.plane(1).check_underlay(&desired).await.unwrap_err().to_string();
    assert!(error.contains("at least 1601") && error.contains("'u0'"), "{error}");
}
