//! Network namespaces and guests for the tests. A guest is a tap opened by the test itself: exact and quick.
//! Namespaces vanish when their value is dropped, also while a test panics.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod site;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gantry_network::{EthernetAddress, HostNetwork, HostNetworks, LocalPort, MacAddress, RemotePort, tap_name};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use uuid::Uuid;

pub const VNI: u32 = 100;
/// Waits end as soon as the frame is there; only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(10);

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(role: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gntest-{}-{number}-{role}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip("link set dev lo up");
        namespace
    }

    pub fn ip(&self, words: &str) -> String {
        self.tool("ip", words)
    }

    pub fn bridge(&self, words: &str) -> String {
        self.tool("bridge", words)
    }

    pub fn nft(&self, words: &str) -> String {
        let mut args = vec!["ip", "netns", "exec", &self.name, "nft"];
        args.extend(words.split_whitespace());
        run(&args)
    }

    fn tool(&self, tool: &str, words: &str) -> String {
        let mut args = vec![tool, "-n", &self.name];
        args.extend(words.split_whitespace());
        run(&args)
    }

    /// Runs `work` on a thread of its own inside the namespace; what it opens stays bound to it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let inside = move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let status = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !status.is_ok_and(|s| s.success()) {
            eprintln!("could not delete the namespace {}", self.name);
        }
    }
}

pub fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if check() {
            return;
        }
    }
    panic!("waited in vain for {what}");
}

pub fn run(args: &[&str]) -> String {
    let output = Command::new(args[0]).args(&args[1..]).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn mac(last: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, last])
}

pub fn guest_address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, last)
}

pub fn vtep(host: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, host])
}

pub fn port(last: u8, active: bool) -> LocalPort {
    let id = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000 + u128::from(last));
    LocalPort::new(id, mac(last), vec![guest_address(last).into()], 64_000 + u32::from(last), active)
}

pub fn remote(last: u8, host: u8) -> RemotePort {
    RemotePort::new(mac(last), vec![guest_address(last).into()], vtep(host))
}

pub fn network(host: u8, ports: Vec<LocalPort>, remote: Vec<RemotePort>, external: Vec<IpAddr>) -> HostNetworks {
    HostNetworks {
        generation: 1,
        networks: vec![HostNetwork {
            local: ports,
            remote,
            external_vteps: external,
            ..HostNetwork::new(Uuid::from_u128(7), "default", VNI, 1450, vtep(host))
        }],
        ..HostNetworks::default()
    }
}

#[repr(C)]
struct TunRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<libc_int>()), TunRequest);
#[allow(non_camel_case_types, reason = "the kernel's request number counts the size of a C int")]
type libc_int = i32;

/// A guest's end of a tap.
pub struct Guest {
    tap: File,
    pub last: u8,
}

impl Guest {
    pub fn attach(host: &Namespace, last: u8) -> Self {
        Self::attach_to(host, &tap_name(port(last, true).id), last)
    }

    pub fn attach_to(host: &Namespace, name: &str, last: u8) -> Self {
        let tap = host.enter(|| {
            let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
            let mut request = TunRequest { name: [0; 16], flags: 0x0002 | 0x1000, rest: [0; 22] };
            request.name[..name.len()].copy_from_slice(name.as_bytes());
            // SAFETY: the request is a valid ifreq that outlives the call.
            unsafe { tun_set_iff(tap.as_raw_fd(), &request) }.unwrap();
            tap
        });
        fcntl(&tap, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Self { tap, last }
    }

    pub fn send(&self, frame: &[u8]) {
        (&self.tap).write_all(frame).unwrap();
    }

    /// The next frame that satisfies `wanted`; others are dropped.
    pub fn receive(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let mut fds = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
            if let Some(frame) = self.drain().into_iter().find(|f| wanted(f)) {
                return frame;
            }
        }
        panic!("guest {} waited in vain for {what}", self.last);
    }

    /// Everything queued on the tap now.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 70_000];
        while let Ok(length) = (&self.tap).read(&mut buffer) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

pub fn ethernet(to: MacAddress, from: MacAddress, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(body);
    frame
}

pub const BROADCAST: MacAddress = MacAddress([0xff; 6]);

pub fn arp(operation: u16, from: (MacAddress, Ipv4Addr), to: (MacAddress, Ipv4Addr)) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    for (mac, address) in [from, to] {
        body.extend(mac.0);
        body.extend(address.octets());
    }
    body
}

pub fn arp_request(last: u8, target: Ipv4Addr) -> Vec<u8> {
    let body = arp(1, (mac(last), guest_address(last)), (MacAddress::ZERO, target));
    ethernet(BROADCAST, mac(last), 0x0806, &body)
}

/// What QEMU sends after a migration: a reverse ARP request for the guest's own MAC.
pub fn announcement(last: u8) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    ethernet(BROADCAST, mac(last), 0x8035, &arp(3, (mac(last), none), (mac(last), none)))
}

pub fn udp(to: (MacAddress, Ipv4Addr), from: (MacAddress, Ipv4Addr), ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend((8 + data.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    let mut packet = vec![0x45, 0];
    packet.extend((20 + datagram.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.1.octets());
    packet.extend(to.1.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(datagram);
    ethernet(to.0, from.0, 0x0800, &packet)
}

/// The Internet checksum (RFC 1071); zero over data that contains its own right checksum.
pub fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn carries(frame: &[u8], data: &[u8]) -> bool {
    frame.ends_with(data)
}

pub fn kind(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}
