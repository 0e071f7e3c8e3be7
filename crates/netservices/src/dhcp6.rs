//! DHCPv6 (RFC 8415), stateful, for ports whose addresses are fixed.
//!
//! A client is known by the link-local address it sends from, which the guard before its tap ties to its MAC; what it
//! says of itself (its DUID) is only returned. It gets all IPv6 addresses of its port in its first association and nothing
//! in others, no temporary addresses and no prefixes.

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::v6::{DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode};
use dhcproto::{Decodable, Decoder, Encodable, Name};
use gantry_types::MacAddress;

use crate::table::{Port, PortTable, Subnet};
use crate::{LEASE_S, REBINDING_S, RENEWAL_S};

pub const SERVER_PORT: u16 = 547;
/// All_DHCP_Relay_Agents_and_Servers.
pub const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// The answer to a datagram from `source`, to be sent back there; `None` if it is not to be answered.
pub fn answer(datagram: &[u8], source: Ipv6Addr, table: &PortTable) -> Option<Vec<u8>> {
    if !source.is_unicast_link_local() {
        return None;
    }
    let port = table.by_address(source.into())?;
    let request = Message::decode(&mut Decoder::new(&sifted(datagram)?)).ok()?;
    let (addresses, subnet) = leases_of(port, table)?;
    let asked = Asked::read(request.opts());
    let server = server_id(table.network.services_mac);
    use MessageType as M;
    // RFC 8415, 16: which messages must, and which must not, name their server.
    match request.msg_type() {
        M::Request | M::Renew | M::Release | M::Decline if asked.server != Some(&server) => return None,
        M::Solicit | M::Confirm | M::Rebind if asked.server.is_some() => return None,
        M::InformationRequest if asked.server.is_some_and(|named| *named != server) || asked.has_associations() => {
            return None;
        }
        M::InformationRequest => {}
        _ if asked.client.is_none() => return None,
        _ => {}
    }
    let kind = match request.msg_type() {
        M::Solicit if !asked.rapid => M::Advertise,
        M::Solicit | M::Request | M::Renew | M::Rebind | M::Confirm | M::Release | M::Decline => M::Reply,
        M::InformationRequest => M::Reply,
        _ => return None,
    };
    let mut reply = Message::new_with_id(kind, request.xid());
    let options = reply.opts_mut();
    options.insert(DhcpOption::ServerId(server));
    if let Some(client) = asked.client {
        options.insert(DhcpOption::ClientId(client.clone()));
    }
    match request.msg_type() {
        M::Confirm => options.insert(confirmation(&asked, subnet)?),
        M::Release | M::Decline => options.insert(status(Status::Success, "addresses are kept for this port")),
        M::InformationRequest => add_settings(options, table, subnet),
        _ => {
            if request.msg_type() == M::Solicit && asked.rapid {
                options.insert(DhcpOption::RapidCommit);
            }
            add_associations(options, &asked, &addresses);
            add_settings(options, table, subnet);
        }
    }
    reply.to_vec().ok()
}

/// The message with only those options that are read here, cut to what is read of them: decoders have been found to
/// trust lengths in options that nobody asked them to look at. Relayed messages have no place on a guest's own segment.
fn sifted(datagram: &[u8]) -> Option<Vec<u8>> {
    let (header, options) = datagram.split_at_checked(4)?;
    let is_relayed = matches!(MessageType::from(header[0]), MessageType::RelayForw | MessageType::RelayRepl);
    let mut kept = header.to_vec();
    for (code, body) in Options(options) {
        let body = match (OptionCode::from(code), body.len()) {
            // DUIDs have at most 130 octets (RFC 8415, 11.1).
            (OptionCode::ClientId | OptionCode::ServerId, 3..=130) => body.to_vec(),
            (OptionCode::RapidCommit, 0) => Vec::new(),
            (OptionCode::IATA, 4..) => body[..4].to_vec(),
            (OptionCode::IAPD, 12..) => body[..12].to_vec(),
            (OptionCode::IANA, 12..) => {
                let mut association = body[..12].to_vec();
                let is_lease =
                    |(code, body): &(u16, &[u8])| OptionCode::from(*code) == OptionCode::IAAddr && body.len() >= 24;
                Options(&body[12..])
                    .filter(is_lease)
                    .for_each(|(code, lease)| push(&mut association, code, &lease[..24]));
                association
            }
            _ => continue,
        };
        push(&mut kept, code, &body);
    }
    (!is_relayed).then_some(kept)
}

fn push(message: &mut Vec<u8>, code: u16, body: &[u8]) {
    message.extend(code.to_be_bytes());
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
}

/// Code and body of each option; ends where they make no sense any more.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let (body, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]])))?;
        self.0 = after;
        Some((u16::from_be_bytes([head[0], head[1]]), body))
    }
}

struct Asked<'a> {
    client: Option<&'a Vec<u8>>,
    server: Option<&'a Vec<u8>>,
    rapid: bool,
    associations: Vec<&'a IANA>,
    /// Of kinds that are never granted: what to say of each.
    refused: Vec<DhcpOption>,
}

impl<'a> Asked<'a> {
    fn read(options: &'a DhcpOptions) -> Self {
        let mut asked =
            Self { client: None, server: None, rapid: false, associations: Vec::new(), refused: Vec::new() };
        for option in options.iter() {
            match option {
                DhcpOption::ClientId(id) => asked.client = Some(id),
                DhcpOption::ServerId(id) => asked.server = Some(id),
                DhcpOption::RapidCommit => asked.rapid = true,
                DhcpOption::IANA(association) => asked.associations.push(association),
                DhcpOption::IATA(association) => {
                    let mut refused = association.clone();
                    refused.opts = only(status(Status::NoAddrsAvail, "there are no temporary addresses"));
                    asked.refused.push(DhcpOption::IATA(refused));
                }
                DhcpOption::IAPD(association) => {
                    let mut refused = association.clone();
                    refused.opts = only(status(Status::NoPrefixAvail, "there are no prefixes"));
                    asked.refused.push(DhcpOption::IAPD(refused));
                }
                _ => {}
            }
        }
        asked
    }

    fn has_associations(&self) -> bool {
        !self.associations.is_empty() || !self.refused.is_empty()
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.associations.iter().flat_map(|association| addresses_in(association))
    }
}

fn addresses_in(association: &IANA) -> impl Iterator<Item = Ipv6Addr> {
    association.opts.iter().filter_map(|o| if let DhcpOption::IAAddr(a) = o { Some(a.addr) } else { None })
}

fn leases_of<'a>(port: &Port, table: &'a PortTable) -> Option<(Vec<Ipv6Addr>, &'a Subnet)> {
    let served = |address: &IpAddr| match address {
        IpAddr::V6(v6) => table.subnet_of(*address).filter(|subnet| subnet.dhcp).map(|subnet| (*v6, subnet)),
        IpAddr::V4(_) => None,
    };
    let leases = port.addresses.iter().filter_map(served).collect::<Vec<_>>();
    let subnet = leases.first()?.1;
    Some((leases.into_iter().map(|(address, _)| address).collect(), subnet))
}

/// DUID-LL (RFC 8415, 11.4): the same for the network's services on every host, so that a VM that has moved meets the
/// server it knows.
fn server_id(mac: MacAddress) -> Vec<u8> {
    [&[0, 3, 0, 1], mac.0.as_slice()].concat()
}

fn status(status: Status, message: &str) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode { status, msg: message.to_owned() })
}

fn only(option: DhcpOption) -> DhcpOptions {
    let mut options = DhcpOptions::new();
    options.insert(option);
    options
}

/// RFC 8415, 18.3.3: whether what the client has fits the link; without addresses there is no answer.
fn confirmation(asked: &Asked<'_>, subnet: &Subnet) -> Option<DhcpOption> {
    let mut any = false;
    let fits = asked.addresses().inspect(|_| any = true).all(|address| subnet.cidr.contains(&IpAddr::V6(address)));
    let answer = match fits {
        true => status(Status::Success, "the addresses fit this network"),
        false => status(Status::NotOnLink, "not an address of this network"),
    };
    any.then_some(answer)
}

fn add_associations(options: &mut DhcpOptions, asked: &Asked<'_>, addresses: &[Ipv6Addr]) {
    for (index, association) in asked.associations.iter().enumerate() {
        let mut granted = IANA { id: association.id, t1: RENEWAL_S, t2: REBINDING_S, opts: DhcpOptions::new() };
        if index == 0 {
            addresses.iter().for_each(|address| granted.opts.insert(lease(*address, LEASE_S)));
        } else {
            granted.opts.insert(status(Status::NoAddrsAvail, "the port's addresses are in its first association"));
        }
        // What the client still holds and is not its own ends now (RFC 8415, 18.3.4).
        for stale in addresses_in(association).filter(|held| index > 0 || !addresses.contains(held)) {
            granted.opts.insert(lease(stale, 0));
        }
        options.insert(DhcpOption::IANA(granted));
    }
    asked.refused.iter().for_each(|refused| options.insert(refused.clone()));
}

fn lease(addr: Ipv6Addr, seconds: u32) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr { addr, preferred_life: seconds, valid_life: seconds, opts: DhcpOptions::new() })
}

fn add_settings(options: &mut DhcpOptions, table: &PortTable, subnet: &Subnet) {
    options.insert(DhcpOption::DomainNameServers(table.resolvers_v6(subnet)));
    if let Ok(domain) = Name::from_ascii(format!("{}.", table.network.domain)) {
        options.insert(DhcpOption::DomainSearchList(vec![domain]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::fixture::{mac, table};
    use crate::table::link_local;
    use proptest::prelude::*;

    fn own() -> Ipv6Addr {
        "fd09::10".parse().unwrap()
    }

    fn association(id: u32, held: &[Ipv6Addr]) -> DhcpOption {
        let mut opts = DhcpOptions::new();
        held.iter().for_each(|address| opts.insert(lease(*address, 9)));
        DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts })
    }

    fn message(kind: MessageType, options: Vec<DhcpOption>) -> Message {
        let mut message = Message::new_with_id(kind, [1, 2, 3]);
        message.opts_mut().insert(DhcpOption::ClientId(vec![0, 4, 9]));
        options.into_iter().for_each(|option| message.opts_mut().insert(option));
        message
    }

    fn ask(last: u8, message: &Message) -> Option<Message> {
        let reply = answer(&message.to_vec().unwrap(), link_local(mac(last)), &table())?;
        Some(Message::decode(&mut Decoder::new(&reply)).unwrap())
    }

    fn ours() -> DhcpOption {
        DhcpOption::ServerId(server_id(table().network.services_mac))
    }

    fn leases(reply: &Message) -> Vec<(Ipv6Addr, u32)> {
        let Some(DhcpOption::IANA(association)) = reply.opts().get(OptionCode::IANA) else { return Vec::new() };
        let lease = |o: &DhcpOption| if let DhcpOption::IAAddr(a) = o { Some((a.addr, a.valid_life)) } else { None };
        association.opts.iter().filter_map(lease).collect()
    }

    #[test]
    fn a_port_is_advertised_and_given_its_addresses() {
        let advertised = ask(10, &message(MessageType::Solicit, vec![association(1, &[])])).unwrap();
        assert_eq!((advertised.msg_type(), leases(&advertised)), (MessageType::Advertise, vec![(own(), LEASE_S)]));
        let rapid = message(MessageType::Solicit, vec![association(1, &[]), DhcpOption::RapidCommit]);
        assert_eq!(ask(10, &rapid).unwrap().msg_type(), MessageType::Reply);

        let reply = ask(10, &message(MessageType::Request, vec![association(1, &[own()]), ours()])).unwrap();
        assert_eq!(leases(&reply), [(own(), LEASE_S)]);
        assert_eq!(reply.opts().get(OptionCode::ClientId), Some(&DhcpOption::ClientId(vec![0, 4, 9])));
        let resolvers = DhcpOption::DomainNameServers(vec![crate::SERVICES_V6]);
        assert_eq!(reply.opts().get(OptionCode::DomainNameServers), Some(&resolvers));
    }

    #[test]
    fn a_held_address_that_is_not_the_ports_ends() {
        let foreign: Ipv6Addr = "fd09::11".parse().unwrap();
        let reply = ask(10, &message(MessageType::Renew, vec![association(1, &[foreign]), ours()])).unwrap();
        let mut leases = leases(&reply);
        leases.sort();
        assert_eq!(leases, [(own(), LEASE_S), (foreign, 0)]);
    }

    #[test]
    fn what_is_confirmed_is_whether_it_fits_the_link() {
        let confirm = |held: &str| message(MessageType::Confirm, vec![association(1, &[held.parse().unwrap()])]);
        for (held, expected) in [("fd09::10", Status::Success), ("fd10::1", Status::NotOnLink)] {
            let reply = ask(10, &confirm(held)).unwrap();
            let Some(DhcpOption::StatusCode(code)) = reply.opts().get(OptionCode::StatusCode) else { panic!("{held}") };
            assert_eq!(code.status, expected);
        }
        assert_eq!(ask(10, &message(MessageType::Confirm, vec![])), None);
    }

    #[test]
    fn strangers_and_other_servers_clients_are_not_answered() {
        let solicit = message(MessageType::Solicit, vec![association(1, &[])]);
        assert_eq!(ask(99, &solicit), None);
        let bytes = solicit.to_vec().unwrap();
        assert_eq!(answer(&bytes, own(), &table()), None, "not from its link-local address");
        let other = DhcpOption::ServerId(vec![0, 3, 0, 1, 1, 2, 3, 4, 5, 6]);
        assert_eq!(ask(10, &message(MessageType::Request, vec![association(1, &[]), other])), None);
        let information = message(MessageType::InformationRequest, vec![]);
        assert!(ask(10, &information).unwrap().opts().get(OptionCode::DomainNameServers).is_some());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_survived_and_never_yield_another_ports_address(
            noise in prop::collection::vec(any::<u8>(), 0..300),
            options in prop::collection::vec((0u16..70, prop::collection::vec(any::<u8>(), 0..30)), 0..6),
            kind in 0u8..14,
            cut in 0usize..120,
        ) {
            let mut datagram = message(MessageType::Solicit, vec![association(1, &[own()])]).to_vec().unwrap();
            datagram[0] = kind;
            datagram.truncate(cut.max(4));
            for (code, body) in options {
                datagram.extend(code.to_be_bytes());
                datagram.extend((body.len() as u16).to_be_bytes());
                datagram.extend(body);
            }
            datagram.extend(&noise);
            for bytes in [&noise, &datagram] {
                if let Some(reply) = answer(bytes, link_local(mac(10)), &table()) {
                    let reply = Message::decode(&mut Decoder::new(&reply)).unwrap();
                    for (address, valid_s) in leases(&reply) {
                        prop_assert!(address == own() || valid_s == 0);
                    }
                }
            }
        }
    }
}
