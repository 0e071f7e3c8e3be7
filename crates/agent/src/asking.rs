//! Asking a guest over its network, from where the services of that network are (169.254.169.254): security groups let it
//! through, and networks with the same addresses do not meet.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gantry_netservices::{SERVICES_V4, SERVICES_V6};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::host::Host;

/// More of a body is not read.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What a guest answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpAnswer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// 200 to 399.
    pub fn is_good(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

/// What is got once the connection stands.
pub(crate) struct Get<'a> {
    pub path: &'a str,
    pub with_body: bool,
}

/// Connects to an address of network `vni` and, if that is not enough, gets something there: the answer, or why there is
/// none within `limit`; nothing if nobody can be asked, because the network's services are not up.
pub(crate) async fn ask(
    host: &Host,
    vni: u32,
    address: SocketAddr,
    get: Option<Get<'_>>,
    limit: Duration,
) -> Option<Result<Option<HttpAnswer>, String>> {
    let answered = timeout(limit, async {
        let stream = match connect(host, vni, address).await? {
            Ok(stream) => stream,
            Err(reason) => return Some(Err(reason)),
        };
        let Some(Get { path, with_body }) = get else { return Some(Ok(None)) };
        Some(http_get(stream, address, path, with_body).await.map(Some))
    });
    let late = || Some(Err(format!("port {} did not answer within {} s", address.port(), limit.as_secs())));
    answered.await.unwrap_or_else(|_| late())
}

/// Waits for as long as the guest lets it.
async fn connect(host: &Host, vni: u32, address: SocketAddr) -> Option<Result<TcpStream, String>> {
    let namespace = host.services.of(vni)?;
    let socket = namespace.enter(move || socket_for(address.ip())).await.and_then(|socket| socket);
    match socket {
        Ok(socket) => Some(socket.connect(address).await.map_err(|error| refused(address, &error))),
        Err(error) => {
            tracing::debug!(%address, %error, "this guest can't be asked");
            None
        }
    }
}

fn socket_for(to: IpAddr) -> io::Result<TcpSocket> {
    let (socket, from) = match to {
        IpAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::V4(SERVICES_V4)),
        IpAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::V6(SERVICES_V6)),
    };
    socket.bind(SocketAddr::new(from, 0))?;
    Ok(socket)
}

fn refused(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("port {} refuses connections", address.port()),
        _ => format!("port {} can't be reached: {error}", address.port()),
    }
}

/// What is at `path`; the body only if it is wanted.
async fn http_get(stream: TcpStream, address: SocketAddr, path: &str, with_body: bool) -> Result<HttpAnswer, String> {
    let port = address.port();
    let failed = |error: hyper::Error| match error.is_parse() {
        true => format!("port {port} does not speak HTTP"),
        false => format!("port {port} ended the connection: {error}"),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It ends with this question.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path)
        .header("Host", address.to_string())
        .header("User-Agent", "gantry-health")
        .header("Accept", "*/*")
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("'{path}' can't be asked for: {error}"))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let (status, mut body) = (response.status().as_u16(), response.into_body());
    let mut read = Vec::new();
    while with_body && read.len() < BODY_BYTES_MAX {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame.map_err(failed)?.into_data() {
            read.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - read.len())]);
        }
    }
    Ok(HttpAnswer { status, body: read })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn asked(answer: &[u8]) -> Result<HttpAnswer, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            assert!(request.starts_with("get /healthz http/1.1\r\n") && request.contains("host: 127.0.0.1:"));
            stream.write_all(answer).await.unwrap();
        };
        let stream = TcpStream::connect(address).await.unwrap();
        tokio::join!(http_get(stream, address, "/healthz", true), serve).0
    }

    #[tokio::test]
    async fn only_a_good_status_is_good() {
        for (answer, good) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], true),
            (b"HTTP/1.0 302 Found\r\n\r\n", true),
            (b"HTTP/1.1 503 Busy\r\n\r\n", false),
        ] {
            assert_eq!(asked(answer).await.unwrap().is_good(), good);
        }
        for (answer, expected) in [(&b"SSH-2.0-OpenSSH_9\r\n"[..], "does not speak HTTP"), (b"HTTP/1.1", "ended")] {
            let refused = asked(answer).await.unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_as_it_was_meant_and_not_for_ever() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nal\r\n3\r\nive\r\n0\r\n\r\n";
        assert_eq!(asked(chunked).await.unwrap().body, b"alive");
        let long = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'x'; BODY_BYTES_MAX + 9]].concat();
        assert_eq!(asked(&long).await.unwrap().body.len(), BODY_BYTES_MAX);
    }
}
