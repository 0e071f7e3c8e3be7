//! The kernel's table of tracked connections, through ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! Only what moving a VM needs: reading the TCP and UDP entries of some addresses in one zone, adding entries as another
//! host had them, and deleting them. There is no checksum of what the other end acknowledged in an entry that is added, so
//! its window is not checked any more ("be liberal"): the guest's own TCP does that.

use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use gantry_types::{Flow, FlowPlace, FlowTuple, TcpFlow};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const EXCLUSIVE: u16 = 0x200;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const NAT_SOURCE: u16 = 6;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const NAT_DESTINATION: u16 = 13;
const ZONE: u16 = 18;

const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;
const BE_LIBERAL: u8 = 0x08;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Netlink answers in microseconds; only a kernel that is stuck takes longer.
const ANSWER_LIMIT_S: i64 = 5;
const BUFFER_BYTES: usize = 128 << 10;

/// A conversation with the table of the network namespace that the calling thread is in. Blocks.
pub struct Conntrack {
    socket: OwnedFd,
    sequence: u32,
}

impl Conntrack {
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_LIMIT_S, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The entries of `zone` that have one of `addresses` at one of their ends.
    pub fn flows(&mut self, place: FlowPlace, zone: u16, addresses: &[IpAddr]) -> io::Result<Vec<Flow>> {
        let mut flows = Vec::new();
        self.ask(GET, REQUEST | DUMP, 0, &[])?;
        self.answers(|kind, body| {
            if kind == NEW
                && let Some((found_zone, flow)) = read_flow(place, body)
                && found_zone == zone
                && addresses.iter().any(|address| flow.touches(*address))
            {
                flows.push(flow);
            }
        })?;
        Ok(flows)
    }

    /// Adds an entry; one that is there already is left as it is, and the answer is false.
    pub fn add(&mut self, zone: u16, flow: &Flow) -> io::Result<bool> {
        let family = family(flow.original.source);
        self.ask(NEW, REQUEST | ACKNOWLEDGE | CREATE | EXCLUSIVE, family, &write_flow(zone, flow))?;
        match self.answers(|_, _| {}) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            answered => answered.map(|()| true),
        }
    }

    /// Deletes an entry; one that is not there is a success.
    pub fn delete(&mut self, zone: u16, flow: &Flow) -> io::Result<()> {
        let mut body = attribute(ZONE, &zone.to_be_bytes());
        body.extend(write_tuple(TUPLE_ORIGINAL, flow.protocol, &flow.original));
        self.ask(DELETE, REQUEST | ACKNOWLEDGE, family(flow.original.source), &body)?;
        match self.answers(|_, _| {}) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            answered => answered,
        }
    }

    fn ask(&mut self, kind: u16, flags: u16, family: u8, attributes: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = 16 + 4 + attributes.len();
        let mut message = Vec::with_capacity(length);
        message.extend((length as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend([family, 0, 0, 0]);
        message.extend(attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Hands each message to `each` until the answer is complete: acknowledged, or a dump's end.
    fn answers(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let length = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, None, MsgFlags::empty())?.bytes;
            let mut rest = &buffer[..length];
            while let Some((header, after)) = rest.split_first_chunk::<16>() {
                let size = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
                let Some(body) = size.checked_sub(16).and_then(|size| after.get(..size)) else { break };
                rest = after.get(body.len().next_multiple_of(4)..).unwrap_or_default();
                if sequence != self.sequence {
                    continue;
                }
                match (kind, body.first_chunk::<4>()) {
                    (DONE, _) => return Ok(()),
                    (ERROR, Some(code)) => {
                        return match i32::from_ne_bytes(*code) {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => each(kind, body.get(4..).unwrap_or_default()),
                }
            }
        }
    }
}

fn family(address: IpAddr) -> u8 {
    // AF_INET, AF_INET6.
    if address.is_ipv4() { 2 } else { 10 }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn write_tuple(kind: u16, protocol: u8, tuple: &FlowTuple) -> Vec<u8> {
    let first = if tuple.source.is_ipv4() { 1 } else { 3 };
    let addresses = [attribute(first, &octets(tuple.source)), attribute(first + 1, &octets(tuple.destination))];
    let ports = [
        attribute(1, &[protocol]),
        attribute(2, &tuple.source_port.to_be_bytes()),
        attribute(3, &tuple.destination_port.to_be_bytes()),
    ];
    nested(kind, &[nested(1, &addresses), nested(2, &ports)])
}

/// To one address and port exactly.
fn write_translation(kind: u16, address: IpAddr, port: u16) -> Vec<u8> {
    let (low, high) = if address.is_ipv4() { (1, 2) } else { (4, 5) };
    let ports = [attribute(1, &port.to_be_bytes()), attribute(2, &port.to_be_bytes())];
    nested(kind, &[attribute(low, &octets(address)), attribute(high, &octets(address)), nested(3, &ports)])
}

fn write_flow(zone: u16, flow: &Flow) -> Vec<u8> {
    let untranslated = flow.original.inverse();
    let mut status = CONFIRMED;
    if flow.replied {
        status |= SEEN_REPLY;
    }
    if flow.assured {
        status |= ASSURED;
    }
    let mut parts = vec![
        write_tuple(TUPLE_ORIGINAL, flow.protocol, &flow.original),
        // The kernel derives the translated one from what follows.
        write_tuple(TUPLE_REPLY, flow.protocol, &untranslated),
        attribute(STATUS, &status.to_be_bytes()),
        attribute(TIMEOUT, &flow.timeout_s.to_be_bytes()),
        attribute(MARK, &flow.mark.to_be_bytes()),
        attribute(ZONE, &zone.to_be_bytes()),
    ];
    let (real, reply) = (untranslated, flow.reply);
    if (reply.destination, reply.destination_port) != (real.destination, real.destination_port) {
        parts.push(write_translation(NAT_SOURCE, reply.destination, reply.destination_port));
    }
    if (reply.source, reply.source_port) != (real.source, real.source_port) {
        parts.push(write_translation(NAT_DESTINATION, reply.source, reply.source_port));
    }
    if let Some(tcp) = &flow.tcp {
        let info = [
            attribute(1, &[tcp.state]),
            attribute(2, &[tcp.original_scale]),
            attribute(3, &[tcp.reply_scale]),
            // Flags, and which of them are meant.
            attribute(4, &[tcp.original_flags | BE_LIBERAL, u8::MAX]),
            attribute(5, &[tcp.reply_flags | BE_LIBERAL, u8::MAX]),
        ];
        parts.push(nested(PROTOCOL_INFO, &[nested(1, &info)]));
    }
    parts.concat()
}

/// Kind and value of each attribute; ends where they make no sense any more.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, after) = self.0.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]])).checked_sub(4)?;
        let value = after.get(..length)?;
        self.0 = after.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[2], head[3]]) & !NESTED, value))
    }
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn number<const N: usize>(bytes: &[u8], kind: u16) -> Option<[u8; N]> {
    find(bytes, kind)?.try_into().ok()
}

fn read_tuple(bytes: &[u8]) -> Option<(u8, FlowTuple)> {
    let (addresses, ports) = (find(bytes, 1)?, find(bytes, 2)?);
    let address = |v4: u16, v6: u16| match number::<4>(addresses, v4) {
        Some(octets) => Some(IpAddr::from(octets)),
        None => number::<16>(addresses, v6).map(IpAddr::from),
    };
    let port = |kind| number(ports, kind).map(u16::from_be_bytes);
    let [protocol] = number(ports, 1)?;
    let tuple = FlowTuple {
        source: address(1, 3)?,
        destination: address(2, 4)?,
        source_port: port(2)?,
        destination_port: port(3)?,
    };
    Some((protocol, tuple))
}

/// An entry with its zone; `None` for protocols that are not moved.
fn read_flow(place: FlowPlace, bytes: &[u8]) -> Option<(u16, Flow)> {
    let (protocol, original) = read_tuple(find(bytes, TUPLE_ORIGINAL)?)?;
    let (_, reply) = read_tuple(find(bytes, TUPLE_REPLY)?)?;
    if !matches!(protocol, TCP | UDP) {
        return None;
    }
    let word = |kind| number(bytes, kind).map(u32::from_be_bytes);
    let status = word(STATUS)?;
    let tcp = find(bytes, PROTOCOL_INFO).and_then(|info| find(info, 1)).and_then(|tcp| {
        let byte = |kind| number::<1>(tcp, kind).map_or(0, |[byte]| byte);
        let flags = |kind| number::<2>(tcp, kind).map_or(0, |[flags, _]| flags);
        let [state] = number(tcp, 1)?;
        Some(TcpFlow {
            state,
            original_scale: byte(2),
            reply_scale: byte(3),
            original_flags: flags(4),
            reply_flags: flags(5),
        })
    });
    let flow = Flow {
        place,
        protocol,
        original,
        reply,
        timeout_s: word(TIMEOUT)?,
        replied: status & SEEN_REPLY != 0,
        assured: status & ASSURED != 0,
        mark: word(MARK).unwrap_or_default(),
        tcp,
    };
    Some((number(bytes, ZONE).map_or(0, u16::from_be_bytes), flow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let tuple = |source: &str, destination: &str| FlowTuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 40_000,
            destination_port: 80,
        };
        for (source, destination) in [("10.9.0.1", "10.9.0.10"), ("fd09::1", "fd09::10")] {
            let original = tuple(source, destination);
            let tcp =
                TcpFlow { state: 3, original_scale: 7, reply_scale: 8, original_flags: BE_LIBERAL, reply_flags: 9 };
            let flow = Flow {
                place: FlowPlace::Network(5),
                protocol: TCP,
                original,
                reply: original.inverse(),
                timeout_s: 300,
                replied: true,
                assured: true,
                mark: 0,
                tcp: Some(tcp),
            };
            assert_eq!(read_flow(flow.place, &write_flow(6, &flow)), Some((6, flow)));
        }
        assert_eq!(read_flow(FlowPlace::Network(5), &[1, 2, 3]), None);
        assert_eq!(read_flow(FlowPlace::Network(5), &[0; 40]), None);
    }
}
