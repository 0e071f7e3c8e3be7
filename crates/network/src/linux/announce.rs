//! Telling a network that an address is here now: an ARP answer that nobody asked for, to all.
//!
//! It is no gratuitous ARP (RFC 5227) in form: bridges that answer for others keep those to themselves. Its target is the
//! gateway, and everybody who knows the address already takes note of the new MAC.

use std::net::Ipv4Addr;
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

/// Announces addresses of a device in a namespace.
pub fn announce(
    namespace: Option<&str>,
    device: &str,
    mac: MacAddress,
    addresses: &[Ipv4Addr],
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
        let target = link_address(index, ARP).ok_or_else(|| refused(nix::Error::EINVAL))?;
        for address in addresses {
            sendto(socket.as_raw_fd(), &frame(mac, *address, to), &target, MsgFlags::empty()).map_err(refused)?;
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

fn frame(mac: MacAddress, address: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
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
