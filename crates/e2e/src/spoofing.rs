//! Frames that a guest must not be able to send, and a listener for whatever gets out all the same.
//!
//! Each frame carries a text of its own as what it has to say, so that it is known wherever it turns up, whatever has become
//! of its headers.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use gantry_network::EthernetAddress;
use gantry_types::MacAddress;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

const BROADCAST: MacAddress = MacAddress([0xff; 6]);
const FOREIGN_MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0xfa, 0x15, 0xe0]);
const LOOK_MS: i64 = 100;

/// Who sends, and in whose name.
pub struct Sender {
    pub mac: MacAddress,
    pub address: Ipv4Addr,
    pub foreign: Ipv4Addr,
}

impl Sender {
    /// One frame of each kind of lie, with what it is; the first carries `text(0)`, and so on.
    pub fn lies(&self, text: impl Fn(usize) -> String) -> Vec<(&'static str, Vec<u8>)> {
        let (own, address, foreign) = (self.mac, self.address, self.foreign);
        let (all, none) = (Ipv4Addr::BROADCAST, MacAddress([0; 6]));
        let (own_six, foreign_six) = (own.link_local(), FOREIGN_MAC.link_local());
        let mut numbers = 0..;
        let mut with = |body: &[u8]| [body, numbers.next().map(&text).unwrap_or_default().as_bytes()].concat();
        // A request whose client is another.
        let request = [&[1, 1, 6, 0][..], &[0; 24], &FOREIGN_MAC.0, &[0; 202]].concat();
        let six = |from: Ipv6Addr, next: u8, body: &[u8]| frame(own, 0x86dd, &ipv6(from, next, body));
        let neighbour = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &foreign_six.octets()].concat();
        let router = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        vec![
            ("foreign MAC", frame(FOREIGN_MAC, 0x0800, &ipv4(address, all, (9, 9), &with(b"")))),
            ("foreign IPv4 address", frame(own, 0x0800, &ipv4(foreign, all, (9, 9), &with(b"")))),
            ("ARP request for another", frame(own, 0x0806, &with(&arp(1, (own, foreign), (none, address))))),
            (
                "ARP answer with another's MAC",
                frame(own, 0x0806, &with(&arp(2, (FOREIGN_MAC, address), (own, address)))),
            ),
            ("foreign IPv6 address", six(foreign_six, 17, &udp((9, 9), &with(b"")))),
            ("neighbour advertisement for another", six(own_six, 58, &with(&neighbour(136)))),
            ("router advertisement", six(own_six, 58, &with(&router))),
            ("redirect", six(own_six, 58, &with(&[&neighbour(137)[..], &foreign_six.octets()].concat()))),
            ("DHCP server", frame(own, 0x0800, &ipv4(address, all, (67, 68), &with(&request)))),
            (
                "DHCP request for another",
                frame(own, 0x0800, &ipv4(Ipv4Addr::UNSPECIFIED, all, (68, 67), &with(&request))),
            ),
            ("DHCPv6 server", six(own_six, 17, &udp((547, 546), &with(&[2, 0, 0, 1])))),
            ("VLAN tag", frame(own, 0x8100, &[&[0, 5, 8, 0][..], &ipv4(address, all, (9, 9), &with(b""))].concat())),
            ("another protocol", frame(own, 0x88cc, &with(&[0; 46]))),
        ]
    }

    /// What it may send: to everybody, in its own name.
    pub fn truth(&self, text: &str) -> Vec<u8> {
        frame(self.mac, 0x0800, &ipv4(self.address, Ipv4Addr::BROADCAST, (9, 9), text.as_bytes()))
    }
}

fn frame(from: MacAddress, kind: u16, body: &[u8]) -> Vec<u8> {
    [&BROADCAST.0[..], &from.0, &kind.to_be_bytes(), body].concat()
}

fn arp(operation: u16, from: (MacAddress, Ipv4Addr), to: (MacAddress, Ipv4Addr)) -> Vec<u8> {
    let ends = [from, to].map(|(mac, address)| [&mac.0[..], &address.octets()].concat()).concat();
    [&[0, 1, 8, 0, 6, 4][..], &operation.to_be_bytes(), &ends].concat()
}

fn udp(ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len() as u16;
    [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &length.to_be_bytes(), &[0, 0], data].concat()
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let datagram = udp(ports, data);
    let length = (20 + datagram.len() as u16).to_be_bytes();
    let mut header = [&[0x45, 0][..], &length, &[0, 0, 0x40, 0, 64, 17, 0, 0], &from.octets(), &to.octets()].concat();
    // The Internet checksum (RFC 1071).
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    [header, datagram].concat()
}

fn ipv6(from: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let length = (body.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 255], &from.octets(), &to.octets(), body].concat()
}

/// Hears everything on all interfaces of this network namespace, and keeps the frames with a certain text.
pub struct Sniffer {
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    pub fn listen(text: &str) -> Result<Self> {
        let socket: OwnedFd =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
                .context("cannot listen to frames")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK_MS))?;
        let (heard, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped, text) = (heard.clone(), stop.clone(), text.as_bytes().to_vec());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty()) else {
                    continue;
                };
                if holds(&buffer[..length], &text) {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).push(buffer[..length].to_vec());
                }
            }
        });
        Ok(Self { heard, stop, thread: Some(thread) })
    }

    /// How many of the frames had this text, too.
    pub fn heard(&self, text: &str) -> usize {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|frame| holds(frame, text.as_bytes())).count()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Whether the text is somewhere in these bytes.
pub fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// A line for `wl frames`.
pub fn line(frame: &[u8]) -> String {
    let digits = frame.iter().map(|byte| format!("{byte:02x}"));
    digits.chain(["\n".to_owned()]).collect()
}
