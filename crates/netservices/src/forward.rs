//! Passing DNS queries on to other resolvers, from the host's own network.
//!
//! Each query goes out from a port of its own under an id of its own; an answer is taken only if it is from whom was asked
//! and to what was asked (RFC 5452). Resolvers are asked one after the other. Nothing is kept: the resolvers do that.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dns::{self, Transport};

/// For one resolver; stub resolvers give up after five seconds.
const LIMIT: Duration = Duration::from_secs(2);
const HOST_RESOLVERS: &str = "/etc/resolv.conf";

/// The answer of the first resolver that gives one. `resolvers` empty: the host's own.
pub(crate) async fn forward(query: &[u8], transport: Transport, resolvers: &[IpAddr]) -> Option<Vec<u8>> {
    let own;
    let resolvers = match resolvers {
        [] => {
            own = host_resolvers().await;
            own.as_slice()
        }
        given => given,
    };
    for resolver in resolvers {
        match timeout(LIMIT, ask(query, transport, SocketAddr::new(*resolver, dns::PORT))).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "a resolver can't be asked"),
            Err(_) => tracing::debug!(%resolver, "a resolver does not answer"),
        }
    }
    None
}

async fn host_resolvers() -> Vec<IpAddr> {
    let text = tokio::fs::read_to_string(HOST_RESOLVERS).await.unwrap_or_default();
    name_servers(&text)
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(address).collect()
}

async fn ask(query: &[u8], transport: Transport, resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let mut sent = query.to_vec();
    let Some(id) = query.first_chunk::<2>() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let own_id = rand::random::<[u8; 2]>();
    sent[..2].copy_from_slice(&own_id);
    let mut answer = match transport {
        Transport::Udp => ask_udp(&sent, resolver).await?,
        Transport::Tcp => ask_tcp(&sent, resolver).await?,
    };
    answer[..2].copy_from_slice(id);
    Ok(answer)
}

async fn ask_udp(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // From here on only this resolver is heard.
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], query) {
            return Ok(buffer[..length].to_vec());
        }
    }
}

async fn ask_tcp(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, query).await?;
    let answer = read_message(&mut stream).await?;
    if answers(&answer, query) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn answers(answer: &[u8], query: &[u8]) -> bool {
    let (Ok(answer), Ok(query)) = (Message::from_vec(answer), Message::from_vec(query)) else { return false };
    let is_response = answer.metadata.message_type == MessageType::Response;
    is_response && answer.metadata.id == query.metadata.id && answer.queries == query.queries
}

/// A message with its length before it (RFC 1035, 4.2.2).
pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [length.to_be_bytes().as_slice(), message].concat();
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};

    fn query(name: &str) -> Message {
        let mut message = Message::new(5, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    #[test]
    fn the_hosts_resolvers_are_read() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.1\n nameserver  2001:db8::1\nnameserver x\n";
        assert_eq!(name_servers(text), ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
    }

    #[test]
    fn only_a_response_to_the_question_is_an_answer() {
        let asked = query("example.org.").to_vec().unwrap();
        let response = |name: &str, id: u16| {
            let mut message = query(name).into_response();
            message.metadata.id = id;
            message.to_vec().unwrap()
        };
        assert!(answers(&response("example.org.", 5), &asked));
        assert!(!answers(&response("example.org.", 6), &asked));
        assert!(!answers(&response("example.net.", 5), &asked));
        assert!(!answers(&asked, &asked));
        assert!(!answers(b"", &asked));
    }

    #[tokio::test]
    async fn a_silent_resolver_is_passed_over_and_a_forged_answer_ignored() {
        let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = resolver.local_addr().unwrap();
        let asked = query("example.org.").to_vec().unwrap();
        let serve = async {
            let mut buffer = [0; 512];
            let (length, client) = resolver.recv_from(&mut buffer).await.unwrap();
            let received = Message::from_vec(&buffer[..length]).unwrap();
            let mut forged = received.clone().into_response();
            forged.metadata.id ^= 1;
            resolver.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
            resolver.send_to(&received.into_response().to_vec().unwrap(), client).await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&asked, Transport::Udp, address), serve);
        let answer = Message::from_vec(&answer.unwrap()).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.message_type), (5, MessageType::Response));
    }
}
