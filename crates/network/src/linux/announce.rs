//! Telling a network that an address is here now: an answer that nobody asked for, to all. For IPv4 that is one of ARP,
//! for IPv6 a neighbour advertisement (RFC 4861, section 7.2.6) that overrides what was known.
//!
//! The ARP answer is no gratuitous ARP (RFC 5227) in form: bridges that answer for others keep those to themselves. Its target is the
//! gateway, and everybody who knows the address already takes note of the new MAC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};

use super::tap::inside;
use crate::error::{ErrorClass, NetworkError, Result};
use crate::mac::MacAddress;

const ETHERNET: u16 = 1;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const REPLY: u16 = 2;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
/// Every IPv6 node, and the Ethernet address that stands for it (RFC 2464).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Announces addresses of a device in a namespace.
pub fn announce(
    namespace: Option<&str>,
    device: &str,
    mac: MacAddress,
    addresses: &[IpAddr],
    to: Ipv4Addr,
) -> Result<()> {
    inside(namespace, || {
        let refused = |errno: nix::Error| NetworkError::Refused {
            attempt: format!("announce addresses on '{device}'"),
            reason: errno.to_string(),
            remedy: "run as root or with CAP_NET_RAW".to_owned(),
            class: ErrorClass::Transient,
        };
        let index = nix::net::if_::if_nametoindex(device).map_err(refused)?;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).map_err(refused)?;
        for address in addresses {
            let (protocol, frame) = match address {
                IpAddr::V4(address) => (ARP, arp(mac, *address, to)),
                IpAddr::V6(address) => (IPV6, advertisement(mac, *address)),
            };
            let target = link_address(index, protocol).ok_or_else(|| refused(nix::Error::EINVAL))?;
            sendto(socket.as_raw_fd(), &frame, &target, MsgFlags::empty()).map_err(refused)?;
        }
        Ok(())
    })
}

/// All stations on a device.
pub fn link_address(index: u32, protocol: u16) -> Option<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(index).ok()?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a whole sockaddr_ll of that length, which is copied.
    unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }
}

/// From the address itself, as a router, overriding what is known, with the link-layer address as its only option.
fn advertisement(mac: MacAddress, address: Ipv6Addr) -> Vec<u8> {
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const ROUTER_AND_OVERRIDE: u8 = 0xa0;
    const TARGET_LINK_ADDRESS: u8 = 2;
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, ROUTER_AND_OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_LINK_ADDRESS, 1]);
    message.extend(mac.0);
    let length = message.len() as u16;
    let pseudo_header =
        [&address.octets()[..], &ALL_NODES.octets(), &[0, 0], &length.to_be_bytes(), &[0, 0, 0, ICMPV6]];
    let sum = checksum(&[&pseudo_header.concat()[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = [ALL_NODES_MAC, mac.0].concat();
    frame.extend(IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // Neighbours believe only what has not been routed (RFC 4861, section 7.1.2).
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum (RFC 1071) of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn arp(mac: MacAddress, address: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], mac.0].concat();
    for field in [ARP, ETHERNET, IPV4, 0x0604, REPLY] {
        frame.extend(field.to_be_bytes());
    }
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend([0xff; 6]);
    frame.extend(to.octets());
    frame
}
