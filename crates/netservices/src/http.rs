//! The HTTP connections of the metadata service.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::metadata;
use crate::serve::Shared;

const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Enough for a slow guest to read all there is.
const CONNECTION_LIMIT: Duration = Duration::from_secs(120);

/// Serves one connection to its end.
pub(crate) async fn serve(stream: TcpStream, caller: IpAddr, shared: Arc<Shared>) {
    let respond = service_fn(|request| {
        let response = respond(request, caller, &shared);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(16 << 10);
    let connection = builder.serve_connection(TokioIo::new(stream), respond);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIMIT, connection).await {
        tracing::debug!(%caller, %error, "a metadata connection ended early");
    }
}

fn respond(request: Request<Incoming>, caller: IpAddr, shared: &Shared) -> Response<Full<Bytes>> {
    let (parts, _body) = request.into_parts();
    let table = shared.table();
    let mut tokens = shared.tokens.lock().unwrap_or_else(PoisonError::into_inner);
    let port = table.by_address(caller);
    metadata::answer(&parts, port, &table, &mut tokens, Instant::now()).map(|body| Full::new(Bytes::from(body)))
}
