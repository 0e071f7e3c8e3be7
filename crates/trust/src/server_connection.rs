//! One connection of a [`crate::Server`]: handshake, identification, HTTP until it closes.
//!
//! A failure here ends this connection only, and is logged at debug level: strangers must not be
//! able to fill the log.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::server::{ClientAuth, ServerLimits};
use crate::strangers::StrangerPlace;
use crate::{PeerIdentity, PeerKey, TrustError};

/// The address a request came from, as a request extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteAddress(pub SocketAddr);

const KEEPALIVE_IDLE_S: u32 = 10;
const KEEPALIVE_INTERVAL_S: u32 = 10;
const KEEPALIVE_PROBES: u32 = 3;
const HEADER_SIZE_MAX_BYTES: u32 = 64 * 1024;
/// Requests at once on one HTTP/2 connection. Few, because connections and not requests are counted.
const HTTP2_STREAMS: u32 = 32;
/// An HTTP/2 peer that is gone is noticed by a ping that stays unanswered this long.
const HTTP2_PING: Duration = Duration::from_secs(20);

pub(crate) struct Connection {
    pub(crate) router: Router,
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) client_auth: Arc<ClientAuth>,
    pub(crate) limits: ServerLimits,
    pub(crate) remote: SocketAddr,
    pub(crate) shutdown: CancellationToken,
}

pub(crate) async fn serve_connection(connection: Connection, stream: Slotted<TcpStream>) {
    let remote = connection.remote;
    if let Err(error) = set_socket_options(&stream.io) {
        tracing::debug!(%remote, %error, "socket options refused; connection closed");
        return;
    }
    let handshake = connection.acceptor.accept(stream);
    let limit = connection.limits.handshake_timeout;
    let mut stream = tokio::select! {
        () = connection.shutdown.cancelled() => return,
        result = tokio::time::timeout(limit, handshake) => match result {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%remote, %error, "TLS handshake refused");
                return;
            }
            Err(_) => {
                tracing::debug!(%remote, "TLS handshake took too long");
                return;
            }
        },
    };
    match identify(&stream, &connection.client_auth) {
        Ok(peer) => {
            if peer.is_some() {
                stream.get_mut().0.stranger = None;
            }
            serve_http(connection, stream, peer).await;
        }
        Err(error) => tracing::warn!(%remote, %error, "connection closed"),
    }
}

/// The peer's identity, if it showed a certificate; the chain was verified in the handshake.
fn identify(
    stream: &TlsStream<Slotted<TcpStream>>,
    client_auth: &ClientAuth,
) -> Result<Option<(PeerIdentity, PeerKey)>, TrustError> {
    let (_, session) = stream.get_ref();
    let Some(leaf) = session.peer_certificates().and_then(<[_]>::first) else {
        return Ok(None);
    };
    let peer = PeerIdentity::from_certificate(leaf)?;
    if !client_auth.roles().contains(&peer.role()) {
        return Err(TrustError::peer(format!("{peer} has no business on this port")));
    }
    Ok(Some((peer, PeerKey::from_certificate(leaf)?)))
}

async fn serve_http(
    connection: Connection,
    stream: TlsStream<Slotted<TcpStream>>,
    peer: Option<(PeerIdentity, PeerKey)>,
) {
    let remote = connection.remote;
    let (peer, key) = peer.unzip();
    let service = connection.router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        if let Some(key) = key {
            request.extensions_mut().insert(key);
        }
        request.extensions_mut().insert(RemoteAddress(remote));
        request
    });
    let service = TowerToHyperService::new(service);
    let result = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let http = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(HEADER_SIZE_MAX_BYTES)
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(HTTP2_PING)
            .serve_connection(TokioIo::new(stream), service);
        let mut http = pin!(http);
        tokio::select! {
            result = http.as_mut() => result,
            () = connection.shutdown.cancelled() => {
                http.as_mut().graceful_shutdown();
                http.await
            }
        }
    } else {
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(connection.limits.header_timeout)
            .max_buf_size(HEADER_SIZE_MAX_BYTES as usize)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut http = pin!(http);
        tokio::select! {
            result = http.as_mut() => result,
            () = connection.shutdown.cancelled() => {
                http.as_mut().graceful_shutdown();
                http.await
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%remote, %error, "connection ended early");
    }
}

/// Keepalive finds peers that lost power: without it, their connections stay open for ever.
fn set_socket_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(())
}

/// A socket that gives its slot back when it is closed, also after an upgrade moved it away.
pub(crate) struct Slotted<S> {
    io: S,
    _slot: OwnedSemaphorePermit,
    /// Until the peer has shown a certificate.
    stranger: Option<StrangerPlace>,
}

impl<S> Slotted<S> {
    pub(crate) fn new(io: S, slot: OwnedSemaphorePermit) -> Self {
        Self { io, _slot: slot, stranger: None }
    }

    pub(crate) fn of_stranger(self, stranger: StrangerPlace) -> Self {
        Self { stranger: Some(stranger), ..self }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Slotted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Slotted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
