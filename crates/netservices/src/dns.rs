//! DNS (RFC 1035): the network's own names, answered here, and whom to ask about all others.
//!
//! `web-1.lan.internal`, and `web-1` alone, are the VMs of network `lan`; their addresses resolve back. What is in the
//! network's domain or in the reverse zones of its subnets is never asked elsewhere.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::table::PortTable;

pub const PORT: u16 = 53;
/// Of names of VMs: short, so that a deleted VM's name is soon forgotten.
const TTL_S: u32 = 30;
/// What passes every path without fragments (DNS flag day 2020).
const UDP_LIMIT_BYTES: u16 = 1232;

/// What to do about a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Answer(Vec<u8>),
    /// It is about other names: pass it on, and refuse with [`failure`] if that fails.
    Forward,
    /// Not a query.
    Drop,
}

/// How a query came, which bounds the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Answers from the table. Anybody in the network may ask.
pub fn answer(query: &[u8], transport: Transport, table: &PortTable) -> Outcome {
    let Ok(request) = Message::from_vec(query) else { return malformed(query) };
    if request.metadata.message_type != MessageType::Query {
        return Outcome::Drop;
    }
    let [question] = request.queries.as_slice() else { return respond(&request, ResponseCode::FormErr, transport) };
    if request.metadata.op_code != OpCode::Query {
        return respond(&request, ResponseCode::NotImp, transport);
    }
    if request.version() > 0 {
        return respond(&request, ResponseCode::BADVERS, transport);
    }
    if question.query_class() != DNSClass::IN {
        return respond(&request, ResponseCode::Refused, transport);
    }
    let Some(found) = find(question, table) else { return Outcome::Forward };
    let mut reply = reply_to(&request);
    reply.metadata.authoritative = true;
    match found {
        Found::Records(records) if !records.is_empty() => {
            reply.add_answers(records);
        }
        other => {
            if matches!(other, Found::Nothing) {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
            reply.add_authorities(authority(table));
        }
    }
    encode(&reply, &request, transport)
}

/// The answer for a query that could not be forwarded.
pub fn failure(query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let request = Message::from_vec(query).ok()?;
    match respond(&request, ResponseCode::ServFail, transport) {
        Outcome::Answer(bytes) => Some(bytes),
        _ => None,
    }
}

enum Found {
    /// The name exists; it may have nothing of the type asked for.
    Records(Vec<Record>),
    Nothing,
}

/// `None` if the name is none of ours.
fn find(question: &Query, table: &PortTable) -> Option<Found> {
    let name = question.name();
    let zone = zone(table)?;
    if let Some(address) = reverse(name) {
        table.subnet_of(address)?;
        let Some(label) = table.name_of_address(address) else { return Some(Found::Nothing) };
        let target = Name::from_ascii(format!("{label}.{zone}")).ok()?;
        let record = Record::from_rdata(name.clone(), TTL_S, RData::PTR(PTR(target)));
        let wanted = matches!(question.query_type(), RecordType::PTR | RecordType::ANY);
        return Some(Found::Records(if wanted { vec![record] } else { Vec::new() }));
    }
    let alone = name.num_labels() == 1 && !name.is_wildcard();
    if !alone && !zone.zone_of(name) {
        return None;
    }
    if name.eq_ignore_root(&zone) {
        let wanted = matches!(question.query_type(), RecordType::SOA | RecordType::ANY);
        return Some(Found::Records(if wanted { authority(table) } else { Vec::new() }));
    }
    if !alone && name.num_labels() != zone.num_labels() + 1 {
        return Some(Found::Nothing);
    }
    let label = name.iter().next().and_then(|label| std::str::from_utf8(label).ok())?;
    let Some(addresses) = table.addresses_of_name(label) else { return Some(Found::Nothing) };
    let record = |address: &IpAddr| match (address, question.query_type()) {
        (IpAddr::V4(v4), RecordType::A | RecordType::ANY) => Some(RData::A(A(*v4))),
        (IpAddr::V6(v6), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(*v6))),
        _ => None,
    };
    let records = addresses.iter().filter_map(record).map(|data| Record::from_rdata(name.clone(), TTL_S, data));
    Some(Found::Records(records.collect()))
}

fn zone(table: &PortTable) -> Option<Name> {
    Name::from_ascii(format!("{}.", table.network.domain)).ok()
}

/// The whole address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// The zone's SOA: with it, that a name does not exist is remembered (RFC 2308).
fn authority(table: &PortTable) -> Vec<Record> {
    let Some(zone) = zone(table) else { return Vec::new() };
    let Ok(server) = Name::from_ascii(format!("ns.{zone}")) else { return Vec::new() };
    let Ok(mailbox) = Name::from_ascii(format!("nobody.{zone}")) else { return Vec::new() };
    let soa = SOA::new(server, mailbox, 1, 3600, 600, 86_400, TTL_S);
    vec![Record::from_rdata(zone, TTL_S, RData::SOA(soa))]
}

fn reply_to(request: &Message) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.metadata.recursion_available = true;
    reply.add_queries(request.queries.iter().take(1).cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT_BYTES);
        reply.set_edns(edns);
    }
    reply
}

fn respond(request: &Message, code: ResponseCode, transport: Transport) -> Outcome {
    let mut reply = reply_to(request);
    reply.metadata.response_code = code;
    encode(&reply, request, transport)
}

fn encode(reply: &Message, request: &Message, transport: Transport) -> Outcome {
    let limit = match transport {
        Transport::Udp => usize::from(request.max_payload().min(UDP_LIMIT_BYTES)),
        Transport::Tcp => usize::from(u16::MAX),
    };
    let whole = reply.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    whole.or_else(|| reply.truncate().to_vec().ok()).map_or(Outcome::Drop, Outcome::Answer)
}

/// A header is enough to say that the rest is not understood (RFC 1035, 4.1.1).
fn malformed(query: &[u8]) -> Outcome {
    let Some(header) = query.get(..12) else { return Outcome::Drop };
    let is_response = header[2] & 0x80 != 0;
    if is_response {
        return Outcome::Drop;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let reply = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    reply.to_vec().map_or(Outcome::Drop, Outcome::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::fixture::{addresses, table};
    use proptest::prelude::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask_of(table: &PortTable, message: &Message) -> Outcome {
        answer(&message.to_vec().unwrap(), Transport::Udp, table)
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        match ask_of(&table(), &query(name, kind)) {
            Outcome::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{name}: {other:?}"),
        }
    }

    fn data(message: &Message) -> Vec<String> {
        message.answers.iter().map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn names_resolve_with_and_without_the_domain_and_back() {
        for name in ["web-10.lan.internal.", "WEB-10.Lan.Internal.", "web-10."] {
            let reply = ask(name, RecordType::A);
            assert_eq!((data(&reply), reply.metadata.id), (vec!["10.9.0.10".to_owned()], 77), "{name}");
            assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
            assert_eq!(data(&ask(name, RecordType::AAAA)), ["fd09::10"]);
        }
        assert_eq!(data(&ask("db-1.lan.internal.", RecordType::A)), [addresses(20)[0].to_string()]);
        assert_eq!(data(&ask("20.0.9.10.in-addr.arpa.", RecordType::PTR)), ["db-1.lan.internal."]);
        let nibbles = format!("0.1.0.0.{}", "0.0.0.0.".repeat(5));
        let reverse_v6 = format!("{nibbles}0.0.0.0.9.0.d.f.ip6.arpa.");
        assert_eq!(data(&ask(&reverse_v6, RecordType::PTR)), ["web-10.lan.internal."]);
    }

    #[test]
    fn what_does_not_exist_is_said_so_and_not_asked_elsewhere() {
        for name in ["nobody.lan.internal.", "a.web-10.lan.internal.", "nobody.", "99.0.9.10.in-addr.arpa."] {
            let reply = ask(name, RecordType::A);
            assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NXDomain, 0), "{name}");
            assert_eq!(reply.authorities.len(), 1, "{name}");
        }
        let no_data = ask("web-10.lan.internal.", RecordType::MX);
        assert_eq!((no_data.metadata.response_code, no_data.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(data(&ask("lan.internal.", RecordType::SOA)).len(), 1);
    }

    #[test]
    fn other_names_are_forwarded_and_what_is_no_query_is_not() {
        for name in ["example.org.", "lan.internal.example.org.", "1.2.0.192.in-addr.arpa.", "."] {
            assert_eq!(ask_of(&table(), &query(name, RecordType::A)), Outcome::Forward, "{name}");
        }
        let mut response = query("example.org.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        assert_eq!(ask_of(&table(), &response), Outcome::Drop);
        let code = |message: &Message| match ask_of(&table(), message) {
            Outcome::Answer(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code,
            other => panic!("{other:?}"),
        };
        let mut update = query("example.org.", RecordType::A);
        update.metadata.op_code = OpCode::Update;
        assert_eq!(code(&update), ResponseCode::NotImp);
        let mut twice = query("example.org.", RecordType::A);
        twice.add_query(twice.queries[0].clone());
        assert_eq!(code(&twice), ResponseCode::FormErr);
        let failed = failure(&query("example.org.", RecordType::A).to_vec().unwrap(), Transport::Udp).unwrap();
        assert_eq!(Message::from_vec(&failed).unwrap().metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn an_answer_too_large_for_a_datagram_is_cut_and_whole_over_tcp() {
        let network = table().network;
        let many = (0..100).map(|i| IpAddr::from([10, 9, 0, i])).collect();
        let table = PortTable::new(network, vec![], [("many".to_owned(), many)]);
        let bytes = query("many.lan.internal.", RecordType::A).to_vec().unwrap();
        let read = |transport| match answer(&bytes, transport, &table) {
            Outcome::Answer(bytes) => (bytes.len(), Message::from_vec(&bytes).unwrap()),
            other => panic!("{other:?}"),
        };
        let (length, cut) = read(Transport::Udp);
        assert!(length <= 512 && cut.metadata.truncation && cut.answers.is_empty());
        let (_, whole) = read(Transport::Tcp);
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 100);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_survived(
            noise in prop::collection::vec(any::<u8>(), 0..300),
            at in 0usize..40,
        ) {
            let mut bytes = query("web-10.lan.internal.", RecordType::A).to_vec().unwrap();
            let at = at.min(bytes.len());
            bytes.splice(at..at, noise.iter().copied().take(8));
            for bytes in [&noise, &bytes] {
                if let Outcome::Answer(reply) = answer(bytes, Transport::Udp, &table()) {
                    prop_assert!(reply.len() <= 1232);
                    let reply = Message::from_vec(&reply).unwrap();
                    prop_assert_eq!(reply.metadata.message_type, MessageType::Response);
                    let id = reply.metadata.id.to_be_bytes();
                    prop_assert_eq!(&id, &bytes[..2]);
                }
                failure(bytes, Transport::Udp);
            }
        }
    }
}
