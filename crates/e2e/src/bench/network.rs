//! `bench network`: the data plane alone, in network namespaces that stand for hosts.
//!
//! The stream runs between two endpoints on different hosts: through the product's taps, guards, bridges and VXLAN, through
//! the same with security groups, and through a bridge and a VXLAN made by hand. The endpoints are the same: a tap of a
//! namespace of their own, whose frames this process carries to and from the host's tap, as QEMU does for a guest.
//!
//! An endpoint has the offloads that Linux guests use with virtio-net: checksums are left to the other end, and TCP comes in
//! frames of up to 64 KiB. With groups the stream is also measured without, in frames of the MTU: the worst case, where
//! what is done for each frame counts 40 times as much.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_network::{DataPlane, LinuxDataPlane, tap_name};
use gantry_qemu::process::open_tap;
use gantry_types::{
    Direction, HostGroup, HostGroupRule, HostNetwork, HostNetworks, HostPeer, LocalPort, MacAddress, PeerAddresses,
    PeerSet, PortRange, Protocol, RemotePort,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uuid::Uuid;

use super::{Better, Figure, median};
use crate::peer::Namespace;

/// Ports whose group changes.
pub const PORTS: u32 = 1_000;
const HOSTS: u32 = 3;
const VNI: u32 = 4_000;
const MTU: u32 = 1_450;
const STREAM: Duration = Duration::from_secs(2);
const STREAM_PORT: u16 = 5_001;
const MEMBERS_PORT: u16 = 9;

/// `runs` of each side.
pub async fn network(ports: u32, runs: usize) -> Result<Vec<Figure>> {
    let mut figures = group_change(ports, runs).await?;
    figures.extend(rules_and_sets(ports).await?);
    let mut speeds = vec![Vec::new(); 5];
    let (whole, cut) = (Frames::Offloaded, Frames::OfTheMtu);
    let (open, guarded) = (Through::Product { groups: false }, Through::Product { groups: true });
    for _ in 0..runs {
        let ways = [(Through::ByHand, whole), (open, whole), (guarded, whole), (Through::ByHand, cut), (guarded, cut)];
        for (speeds, (through, frames)) in speeds.iter_mut().zip(ways) {
            speeds.push(stream(through, frames).await?);
        }
    }
    let middle = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let medians: Vec<f64> = speeds.iter_mut().map(middle).collect();
    let against = |name, product, peer| Figure::against(name, product, peer, Better::Higher, runs);
    figures.push(against("network_throughput_mib_per_s", medians[1], medians[0]).promise(0.95));
    figures.push(against("network_throughput_with_groups_mib_per_s", medians[2], medians[0]).promise(0.95));
    figures.push(against("network_mtu_frames_with_groups_mib_per_s", medians[4], medians[3]));
    Ok(figures)
}

/// What the endpoints send.
#[derive(Clone, Copy)]
enum Frames {
    Offloaded,
    OfTheMtu,
}

nix::ioctl_write_int!(tun_set_offload, b'T', 208);
/// TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 (`linux/if_tun.h`).
const OFFLOADS: nix::libc::c_ulong = 1 | 2 | 4;

/// What a stream passes.
#[derive(Clone, Copy)]
enum Through {
    Product { groups: bool },
    ByHand,
}

/// Hosts on a switch; underlay addresses 10.77.0.1 and up.
struct Site {
    hosts: Vec<Namespace>,
    _switch: Namespace,
}

impl Site {
    fn new(hosts: u32) -> Result<Self> {
        let switch = Namespace::create()?;
        switch.ip(&["link", "add", "br0", "mtu", "1600", "type", "bridge"])?;
        switch.ip(&["link", "set", "br0", "up"])?;
        let plug = |number: u32| {
            let host = Namespace::create()?;
            let port = format!("p{number}");
            host.ip(&[
                "link",
                "add",
                "u0",
                "mtu",
                "1600",
                "type",
                "veth",
                "peer",
                "name",
                &port,
                "mtu",
                "1600",
                "netns",
                switch.name(),
            ])?;
            switch.ip(&["link", "set", &port, "master", "br0", "up"])?;
            host.ip(&["addr", "add", &format!("{}/24", underlay(number)), "dev", "u0"])?;
            host.ip(&["link", "set", "u0", "up"])?;
            Ok(host)
        };
        let hosts = (1..=hosts).map(plug).collect::<Result<Vec<_>>>()?;
        Ok(Self { hosts, _switch: switch })
    }
}

fn underlay(host: u32) -> IpAddr {
    IpAddr::from([10, 77, 0, host as u8])
}

fn inner(port: u32) -> Ipv4Addr {
    let [_, _, high, low] = port.to_be_bytes();
    Ipv4Addr::new(10, 9, high, low)
}

fn mac(port: u32) -> MacAddress {
    let [_, high, middle, low] = port.to_be_bytes();
    MacAddress::qemu([high, middle, low])
}

fn id(port: u32) -> Uuid {
    Uuid::from_u128(u128::from(port))
}

/// What host `host` of `hosts` should be, with ports 1 to `ports` dealt out in turn. The one group lets `tcp` in, and its
/// own members at [`MEMBERS_PORT`].
fn desired(host: u32, hosts: u32, ports: u32, local: impl Fn(u32) -> u32, tcp: u16) -> Result<HostNetworks> {
    let group = Uuid::from_u128(1 << 100);
    let mut network = HostNetwork::new(Uuid::from_u128(7), "bench", VNI, MTU, underlay(host));
    for port in 1..=ports {
        let addresses = vec![IpAddr::from(inner(port))];
        let home = local(port).clamp(1, hosts);
        if home == host {
            let mut local = LocalPort::new(id(port), mac(port), addresses, 0, true);
            local.groups = vec![group];
            network.local.push(local);
        } else {
            network.remote.push(RemotePort::new(mac(port), addresses, underlay(home)));
        }
    }
    let rule = |port: u16, peer: HostPeer| HostGroupRule {
        direction: Direction::Ingress,
        protocol: Protocol::Tcp,
        ports: Some(PortRange { first: port, last: port }),
        peer,
    };
    let members = (1..=ports).map(|port| (VNI, inner(port).into())).collect();
    let members = PeerSet { uuid: group, addresses: PeerAddresses::InNetworks(members) };
    let rules = vec![rule(tcp, HostPeer::Anyone), rule(MEMBERS_PORT, HostPeer::Set(members))];
    let group = HostGroup { uuid: group, name: "bench".parse()?, rules, shown: Vec::new() };
    Ok(HostNetworks { generation: 1, networks: vec![network], groups: vec![group], ..HostNetworks::default() })
}

/// From the moment all hosts have the changed group until it is in force on the last of them.
async fn group_change(ports: u32, runs: usize) -> Result<Vec<Figure>> {
    let site = Site::new(HOSTS)?;
    let planes = site.hosts.iter().map(|host| LinuxDataPlane::in_namespace(host.name())).collect::<Vec<_>>();
    let dealt = |port: u32| 1 + port % HOSTS;
    let apply = async |tcp: u16| -> Result<Duration> {
        let wanted = (1..=HOSTS).map(|host| desired(host, HOSTS, ports, dealt, tcp)).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let applied =
            futures::future::try_join_all(planes.iter().zip(&wanted).map(|(plane, wanted)| plane.apply(wanted)));
        applied.await?;
        Ok(begun.elapsed())
    };
    let first = apply(STREAM_PORT).await?;
    let mut changes = Vec::new();
    for run in 0..runs {
        changes.push(apply(STREAM_PORT + 1 + run as u16).await?);
    }
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let change = Figure::alone("network_group_change_ms", ms(median(&changes)), Better::Lower, runs).promise(1000.0);
    Ok(vec![change, Figure::alone("network_first_apply_ms", ms(first), Better::Lower, 1)])
}

/// What a host with ten ports has, in a network of `ports` and in one of a tenth of that.
async fn rules_and_sets(ports: u32) -> Result<[Figure; 2]> {
    let local = |port: u32| if port <= 10 { 1 } else { 2 };
    let mut counts = Vec::new();
    for ports in [ports, ports / 10] {
        let site = Site::new(1)?;
        let plane = LinuxDataPlane::in_namespace(site.hosts[0].name());
        plane.apply(&desired(1, 2, ports, local, STREAM_PORT)?).await?;
        counts.push(count(&site.hosts[0])?);
    }
    let against = |name, of: fn(&(usize, usize)) -> usize| {
        Figure::against(name, of(&counts[0]) as f64, of(&counts[1]) as f64, Better::Lower, 1).promise(1.0)
    };
    Ok([against("network_rules_on_a_host", |(rules, _)| *rules), against("network_sets_on_a_host", |(_, sets)| *sets)])
}

/// Rules, and sets with maps.
fn count(host: &Namespace) -> Result<(usize, usize)> {
    let listed = Command::new("ip").args(["netns", "exec", host.name(), "nft", "-j", "list", "ruleset"]).output()?;
    ensure!(listed.status.success(), "nft: {}", String::from_utf8_lossy(&listed.stderr));
    let ruleset: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    let items = ruleset["nftables"].as_array().context("nft lists nothing")?;
    let of = |kinds: &[&str]| items.iter().filter(|item| kinds.iter().any(|kind| item.get(*kind).is_some())).count();
    Ok((of(&["rule"]), of(&["set", "map"])))
}

/// MiB per second from the endpoint on one host to that on the other.
async fn stream(through: Through, frames: Frames) -> Result<f64> {
    let site = Site::new(2)?;
    let home = |port: u32| port;
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (host, port) in site.hosts.iter().zip(1..) {
        let tap = match through {
            Through::Product { groups } => {
                let plane = LinuxDataPlane::in_namespace(host.name());
                let mut wanted = desired(port, 2, 2, home, STREAM_PORT)?;
                if !groups {
                    wanted
                        .networks
                        .iter_mut()
                        .flat_map(|network| &mut network.local)
                        .for_each(|own| own.groups.clear());
                    wanted.groups.clear();
                }
                plane.apply(&wanted).await?;
                tap_name(id(port))
            }
            Through::ByHand => {
                by_hand(host, port)?;
                "tap0".to_owned()
            }
        };
        endpoints.push(Endpoint::new(host, &tap, port, frames)?);
    }
    let server = SocketAddr::from((inner(2), STREAM_PORT));
    let (ready, listening) = mpsc::channel();
    let received = endpoints[1].namespace.enter(move || -> Result<f64> {
        let listener = TcpListener::bind(server)?;
        ready.send(()).ok();
        let (mut stream, _) = listener.accept()?;
        let (mut buffer, mut bytes, begun) = (vec![0; 1 << 18], 0, Instant::now());
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(bytes as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64()),
                length => bytes += length,
            }
        }
    })?;
    listening.recv().context("the server did not start")?;
    let sent = endpoints[0].namespace.enter(move || -> Result<()> {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(20))?;
        let (data, begun) = (vec![0; 1 << 18], Instant::now());
        while begun.elapsed() < STREAM {
            stream.write_all(&data)?;
        }
        Ok(())
    })?;
    sent.join().ok().context("the sender panicked")??;
    received.join().ok().context("the receiver panicked")?
}

/// A bridge with a VXLAN to the one other host and a tap, as anybody would make it.
fn by_hand(host: &Namespace, number: u32) -> Result<()> {
    let (own, other) = (underlay(number).to_string(), underlay(3 - number).to_string());
    let mtu = MTU.to_string();
    for line in [
        format!("link add br0 mtu {mtu} type bridge"),
        format!("link add vx0 mtu {mtu} type vxlan id {VNI} local {own} remote {other} dstport 4789"),
        "tuntap add dev tap0 mode tap".to_owned(),
        format!("link set tap0 mtu {mtu} master br0 up"),
        "link set vx0 master br0 up".to_owned(),
        "link set br0 up".to_owned(),
    ] {
        host.ip(&line.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

/// A namespace in the place of a guest.
struct Endpoint {
    namespace: Namespace,
    stop: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl Endpoint {
    fn new(host: &Namespace, tap: &str, port: u32, frames: Frames) -> Result<Self> {
        let namespace = Namespace::create()?;
        let mac = mac(port).to_string();
        for line in [
            "tuntap add dev eth0 mode tap".to_owned(),
            format!("link set eth0 address {mac} mtu {MTU}"),
            format!("addr add {}/16 dev eth0", inner(port)),
        ] {
            namespace.ip(&line.split(' ').collect::<Vec<_>>())?;
        }
        let open = |namespace: &Namespace, name: &str| -> Result<Arc<File>> {
            let name = name.to_owned();
            let opened = namespace.enter(move || open_tap(&name))?.join().ok().context("a thread panicked")?;
            let opened = File::from(opened?);
            if matches!(frames, Frames::Offloaded) {
                // SAFETY: TUNSETOFFLOAD takes a number.
                unsafe { tun_set_offload(opened.as_raw_fd(), OFFLOADS) }.context("the tap takes no offloads")?;
            }
            Ok(Arc::new(opened))
        };
        let (guest, outer) = (open(&namespace, "eth0")?, open(host, tap)?);
        namespace.ip(&["link", "set", "eth0", "up"])?;
        let stop = Arc::new(AtomicBool::new(false));
        let carry = |from: &Arc<File>, to: &Arc<File>| {
            let (from, to, stop) = (from.clone(), to.clone(), stop.clone());
            std::thread::spawn(move || carry(&from, &to, &stop))
        };
        let carriers = vec![carry(&guest, &outer), carry(&outer, &guest)];
        Ok(Self { namespace, stop, carriers })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            carrier.join().ok();
        }
    }
}

fn carry(mut from: &File, mut to: &File, stop: &AtomicBool) {
    let mut frame = [0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        let mut waiting = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(100u8)).is_ok_and(|ready| ready > 0)
            && let Ok(length) = from.read(&mut frame)
        {
            // A full queue loses a frame, as anywhere.
            to.write_all(&frame[..length]).ok();
        }
    }
}
