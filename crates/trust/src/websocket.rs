//! Websocket client over the same TLS settings as the HTTP client.
//!
//! Connecting, handshake and upgrade are bounded together; the open socket is not, its user is.

use axum::http::{HeaderMap, HeaderValue, Uri};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as ProtocolError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::http_client::CONNECT_TIMEOUT;
use crate::{ClientConfig, TrustError};

/// An open websocket to a verified peer.
pub type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

const MESSAGE_SIZE_MAX_BYTES: usize = 1024 * 1024;
const BODY_SHOWN_MAX_BYTES: usize = 2048;
const DEFAULT_PORT: u16 = 443;

impl ClientConfig {
    /// Opens a websocket. `url` is `https://…` or `wss://…`; `headers` (say, `Authorization`)
    /// are sent with the upgrade request.
    pub async fn websocket(&self, url: &str, headers: HeaderMap) -> Result<WebSocket, TrustError> {
        let limit_ms = CONNECT_TIMEOUT.as_millis() as u64 * 2;
        let limit = CONNECT_TIMEOUT * 2;
        timeout(limit, self.open_websocket(url, headers))
            .await
            .unwrap_or_else(|_| Err(TrustError::Timeout { what: format!("opening a websocket to {url}"), limit_ms }))
    }

    async fn open_websocket(&self, url: &str, headers: HeaderMap) -> Result<WebSocket, TrustError> {
        let (host, port, request) = upgrade_request(url, headers)?;
        let address = format!("{host}:{port}");
        let connect_failed = |source| TrustError::Connect { address: address.clone(), source };
        let bare_host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = TcpStream::connect((bare_host.as_str(), port)).await.map_err(connect_failed)?;
        stream.set_nodelay(true).map_err(connect_failed)?;
        let name = ServerName::try_from(bare_host).map_err(|_| invalid_url(url, "no valid host"))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(connect_failed)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_SIZE_MAX_BYTES))
            .max_frame_size(Some(MESSAGE_SIZE_MAX_BYTES));
        let (socket, _response) = tokio_tungstenite::client_async_with_config(request, stream, Some(config))
            .await
            .map_err(|error| upgrade_failed(url, error))?;
        Ok(socket)
    }
}

fn invalid_url(url: &str, reason: &str) -> TrustError {
    TrustError::Invalid { what: "websocket URL", value: url.chars().take(200).collect(), reason: reason.to_owned() }
}

fn upgrade_request(url: &str, headers: HeaderMap) -> Result<(String, u16, Request), TrustError> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("wss://"))
        .ok_or_else(|| invalid_url(url, "it must start with https:// or wss://"))?;
    let uri: Uri = format!("wss://{rest}").parse().map_err(|_| invalid_url(url, "it doesn't parse"))?;
    let host = uri.host().ok_or_else(|| invalid_url(url, "it names no host"))?;
    let (host, port) = (host.to_owned(), uri.port_u16().unwrap_or(DEFAULT_PORT));
    let mut request = uri.into_client_request().map_err(|error| invalid_url(url, &error.to_string()))?;
    let mut last_name = None;
    for (name, value) in headers {
        // HeaderMap yields a name once, followed by its further values without a name.
        last_name = name.or(last_name);
        if let Some(name) = last_name.clone() {
            let value: HeaderValue = value;
            request.headers_mut().append(name, value);
        }
    }
    Ok((host, port, request))
}

fn upgrade_failed(url: &str, error: ProtocolError) -> TrustError {
    match error {
        ProtocolError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let shown = &body[..body.len().min(BODY_SHOWN_MAX_BYTES)];
            TrustError::UpgradeRefused {
                url: url.to_owned(),
                status: response.status().as_u16(),
                body: String::from_utf8_lossy(shown).into_owned(),
            }
        }
        other => TrustError::WebSocket { url: url.to_owned(), source: Box::new(other) },
    }
}
