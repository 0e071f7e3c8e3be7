//! DHCPv4 (RFC 2131, options RFC 2132, classless routes RFC 3442), for ports whose addresses are fixed.
//!
//! A DISCOVER is offered the port's address; a REQUEST for it is acknowledged, and for any other refused, so that a guest
//! that comes with an old address asks anew. RELEASE and DECLINE change nothing. Relays are not served: every guest is on
//! the network's own segment.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use gantry_types::MacAddress;
use ipnet::{IpNet, Ipv4Net};

use crate::table::{Port, PortTable, Subnet};
use crate::{LEASE_S, REBINDING_S, RENEWAL_S, SERVICES_V4};

pub const SERVER_PORT: u16 = 67;
pub const CLIENT_PORT: u16 = 68;

/// A reply and the address to send it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub message: Vec<u8>,
    /// Either the port's own address, whose MAC is known beforehand, or the limited broadcast address.
    pub to: Ipv4Addr,
}

/// The answer to one datagram; `None` if it is none of ours or not to be answered.
pub fn answer(datagram: &[u8], table: &PortTable) -> Option<Reply> {
    let request = Message::decode(&mut Decoder::new(&sifted(datagram)?)).ok()?;
    let is_ours = request.opcode() == Opcode::BootRequest
        && request.htype() == HType::Eth
        && request.hlen() == 6
        && request.giaddr().is_unspecified();
    if !is_ours {
        return None;
    }
    let mac = MacAddress(request.chaddr().try_into().ok()?);
    let port = table.by_mac(mac)?;
    let (address, subnet, prefix) = lease_of(port, table)?;
    let message = match request.opts().msg_type()? {
        MessageType::Discover => grant(&request, MessageType::Offer, port, address, table, subnet, prefix),
        MessageType::Request => match is_granted(&request, address)? {
            true => grant(&request, MessageType::Ack, port, address, table, subnet, prefix),
            false => return Some(Reply { message: encode(&refusal(&request))?, to: Ipv4Addr::BROADCAST }),
        },
        MessageType::Inform if request.ciaddr() == address => {
            let mut reply = grant(&request, MessageType::Ack, port, address, table, subnet, prefix);
            reply.set_yiaddr(Ipv4Addr::UNSPECIFIED);
            for timer in [OptionCode::AddressLeaseTime, OptionCode::Renewal, OptionCode::Rebinding] {
                reply.opts_mut().remove(timer);
            }
            reply
        }
        _ => return None,
    };
    // A client that has no address yet takes a broadcast if it says so (RFC 2131, 4.1).
    let has_address = request.ciaddr() == address;
    let to = if !has_address && request.flags().broadcast() { Ipv4Addr::BROADCAST } else { address };
    Some(Reply { message: encode(&message)?, to })
}

/// The fixed part and the magic cookie (RFC 2131, 2).
const HEADER_BYTES: usize = 240;
const PAD: u8 = 0;
const END: u8 = 255;

/// The datagram with only those options that are read here, each once and of a length it may have: decoders have been
/// found to trust lengths in options that nobody asked them to look at.
fn sifted(datagram: &[u8]) -> Option<Vec<u8>> {
    let mut kept = datagram.get(..HEADER_BYTES)?.to_vec();
    let mut rest = &datagram[HEADER_BYTES..];
    let mut seen = Vec::new();
    while let [code, after @ ..] = rest {
        match *code {
            PAD => rest = after,
            END => break,
            code => {
                let length = usize::from(*after.first()?);
                let body = after.get(1..=length)?;
                let fits = match OptionCode::from(code) {
                    OptionCode::MessageType => length == 1,
                    OptionCode::RequestedIpAddress | OptionCode::ServerIdentifier => length == 4,
                    OptionCode::ClientIdentifier => length >= 2,
                    _ => false,
                };
                if fits && !seen.contains(&code) {
                    seen.push(code);
                    kept.extend([code, length as u8]);
                    kept.extend(body);
                }
                rest = &after[1 + length..];
            }
        }
    }
    kept.push(END);
    Some(kept)
}

fn lease_of<'a>(port: &Port, table: &'a PortTable) -> Option<(Ipv4Addr, &'a Subnet, Ipv4Net)> {
    port.addresses.iter().find_map(|address| {
        let IpAddr::V4(v4) = address else { return None };
        let subnet = table.subnet_of(*address).filter(|subnet| subnet.dhcp)?;
        let IpNet::V4(prefix) = subnet.cidr else { return None };
        Some((*v4, subnet, prefix))
    })
}

/// Whether a REQUEST is for the port's address; `None` if the client has chosen another server (RFC 2131, 4.3.2).
fn is_granted(request: &Message, address: Ipv4Addr) -> Option<bool> {
    match request.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) if *server != SERVICES_V4 => return None,
        _ => {}
    }
    let wanted = match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(wanted)) => *wanted,
        _ => request.ciaddr(),
    };
    Some(wanted == address)
}

fn reply_to(request: &Message, kind: MessageType) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut reply = Message::new_with_id(request.xid(), none, none, none, none, request.chaddr());
    reply.set_opcode(Opcode::BootReply).set_flags(request.flags());
    reply.opts_mut().insert(DhcpOption::MessageType(kind));
    reply.opts_mut().insert(DhcpOption::ServerIdentifier(SERVICES_V4));
    // RFC 6842: clients tell replies apart by it.
    if let Some(id @ DhcpOption::ClientIdentifier(_)) = request.opts().get(OptionCode::ClientIdentifier) {
        reply.opts_mut().insert(id.clone());
    }
    reply
}

fn refusal(request: &Message) -> Message {
    let mut reply = reply_to(request, MessageType::Nak);
    reply.opts_mut().insert(DhcpOption::Message("this is not the address of this port".to_owned()));
    reply
}

fn grant(
    request: &Message,
    kind: MessageType,
    port: &Port,
    address: Ipv4Addr,
    table: &PortTable,
    subnet: &Subnet,
    prefix: Ipv4Net,
) -> Message {
    let mut reply = reply_to(request, kind);
    reply.set_yiaddr(address).set_siaddr(SERVICES_V4).set_ciaddr(request.ciaddr());
    let gateway = if let Some(IpAddr::V4(gateway)) = subnet.gateway { Some(gateway) } else { None };
    let options = reply.opts_mut();
    options.insert(DhcpOption::SubnetMask(prefix.netmask()));
    options.insert(DhcpOption::BroadcastAddr(prefix.broadcast()));
    options.insert(DhcpOption::AddressLeaseTime(LEASE_S));
    options.insert(DhcpOption::Renewal(RENEWAL_S));
    options.insert(DhcpOption::Rebinding(REBINDING_S));
    options.insert(DhcpOption::DomainNameServer(table.resolvers_v4(subnet)));
    options.insert(DhcpOption::DomainName(table.network.domain.clone()));
    options.insert(DhcpOption::Hostname(port.hostname.clone()));
    if let Ok(mtu) = u16::try_from(table.network.mtu) {
        options.insert(DhcpOption::InterfaceMtu(mtu));
    }
    if let Some(gateway) = gateway {
        options.insert(DhcpOption::Router(vec![gateway]));
    }
    // A client that takes this option ignores the router option, so the default route is in both. A router of 0.0.0.0
    // is "on this link".
    let services = (Ipv4Net::from(SERVICES_V4), Ipv4Addr::UNSPECIFIED);
    let default = gateway.map(|gateway| (Ipv4Net::default(), gateway));
    options.insert(DhcpOption::ClasslessStaticRoute([services].into_iter().chain(default).collect()));
    reply
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::fixture::{mac, table};
    use proptest::prelude::*;

    fn request(last: u8, kind: MessageType, options: Vec<DhcpOption>) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(7, none, none, none, none, &mac(last).0);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for option in options {
            message.opts_mut().insert(option);
        }
        message
    }

    fn asked(message: &Message) -> Option<(Message, Ipv4Addr)> {
        let reply = answer(&message.to_vec().unwrap(), &table())?;
        Some((Message::decode(&mut Decoder::new(&reply.message)).unwrap(), reply.to))
    }

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);

    #[test]
    fn a_port_is_offered_and_given_its_address_with_all_it_needs() {
        let (offer, to) = asked(&request(10, MessageType::Discover, vec![])).unwrap();
        assert_eq!((offer.yiaddr(), to, offer.opts().msg_type()), (OWN, OWN, Some(MessageType::Offer)));
        let selecting = vec![DhcpOption::RequestedIpAddress(OWN), DhcpOption::ServerIdentifier(SERVICES_V4)];
        let (ack, _) = asked(&request(10, MessageType::Request, selecting)).unwrap();
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        for expected in [
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            DhcpOption::Router(vec![Ipv4Addr::new(10, 9, 0, 1)]),
            DhcpOption::DomainNameServer(vec![SERVICES_V4]),
            DhcpOption::DomainName("lan.internal".to_owned()),
            DhcpOption::Hostname("web-10".to_owned()),
            DhcpOption::InterfaceMtu(1450),
            DhcpOption::AddressLeaseTime(LEASE_S),
            DhcpOption::ClasslessStaticRoute(vec![
                ("169.254.169.254/32".parse().unwrap(), Ipv4Addr::UNSPECIFIED),
                ("0.0.0.0/0".parse().unwrap(), Ipv4Addr::new(10, 9, 0, 1)),
            ]),
        ] {
            assert_eq!(ack.opts().get(OptionCode::from(&expected)), Some(&expected));
        }
    }

    #[test]
    fn a_foreign_address_is_refused_and_another_servers_client_left_alone() {
        let foreign = DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 9, 0, 11));
        let (nak, to) = asked(&request(10, MessageType::Request, vec![foreign.clone()])).unwrap();
        assert_eq!(
            (nak.opts().msg_type(), nak.yiaddr(), to),
            (Some(MessageType::Nak), Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)
        );
        let other = DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 9, 0, 2));
        assert_eq!(asked(&request(10, MessageType::Request, vec![foreign, other])), None);
    }

    #[test]
    fn a_renewal_goes_to_the_address_and_a_broadcast_only_to_whoever_needs_it() {
        let mut renewal = request(10, MessageType::Request, vec![]);
        renewal.set_ciaddr(OWN);
        renewal.set_flags(renewal.flags().set_broadcast());
        let (ack, to) = asked(&renewal).unwrap();
        assert_eq!((ack.opts().msg_type(), ack.ciaddr(), to), (Some(MessageType::Ack), OWN, OWN));
        let mut discover = request(10, MessageType::Discover, vec![]);
        discover.set_flags(discover.flags().set_broadcast());
        assert_eq!(asked(&discover).unwrap().1, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn information_is_given_without_a_lease() {
        let mut inform = request(10, MessageType::Inform, vec![]);
        assert_eq!(asked(&inform), None);
        inform.set_ciaddr(OWN);
        let (ack, _) = asked(&inform).unwrap();
        assert!(ack.yiaddr().is_unspecified() && ack.opts().get(OptionCode::AddressLeaseTime).is_none());
        assert!(ack.opts().get(OptionCode::DomainNameServer).is_some());
    }

    #[test]
    fn unknown_ports_relays_and_replies_are_not_answered() {
        assert_eq!(asked(&request(99, MessageType::Discover, vec![])), None);
        assert_eq!(asked(&request(10, MessageType::Release, vec![])), None);
        let mut relayed = request(10, MessageType::Discover, vec![]);
        relayed.set_giaddr(Ipv4Addr::new(10, 9, 0, 2));
        assert_eq!(asked(&relayed), None);
        let mut reply = request(10, MessageType::Discover, vec![]);
        reply.set_opcode(Opcode::BootReply);
        assert_eq!(asked(&reply), None);
        let mut static_only = table();
        static_only.network.subnets[0].dhcp = false;
        let discover = request(10, MessageType::Discover, vec![]).to_vec().unwrap();
        assert_eq!(answer(&discover, &static_only), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_survived_and_never_yield_another_ports_address(
            noise in prop::collection::vec(any::<u8>(), 0..400),
            options in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..9)), 0..6),
            kind in 1u8..9,
            last in prop::sample::select(vec![10u8, 11, 12]),
        ) {
            let mut datagram = request(last, MessageType::from(kind), vec![]).to_vec().unwrap();
            datagram.truncate(243);
            for (code, body) in options {
                datagram.extend([code, body.len() as u8]);
                datagram.extend(body);
            }
            datagram.extend(&noise);
            for bytes in [&noise, &datagram] {
                if let Some(reply) = answer(bytes, &table()) {
                    let message = Message::decode(&mut Decoder::new(&reply.message)).unwrap();
                    let asker = MacAddress(message.chaddr().try_into().unwrap());
                    let own = table().by_mac(asker).unwrap().addresses[0];
                    prop_assert!(message.yiaddr().is_unspecified() || IpAddr::V4(message.yiaddr()) == own);
                    prop_assert!(reply.to.is_broadcast() || IpAddr::V4(reply.to) == own);
                }
            }
        }
    }
}
