//! A volume as a file, passed on from a host that reaches its pool.

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use gantry_api::rest::ExportQuery;
use gantry_hostlink::Refusal;

use super::{
    Shared,
    caller::User,
    request::{Path, QueryOf},
};
use crate::app::volume_content;

pub async fn export(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<ExportQuery>,
) -> Result<Response, Refusal> {
    let (host, request) = volume_content::export(&front.app, &caller, &name, query.format).await?;
    let sent = front.agents.client(&host).export(&request).await?;
    let mut headers = vec![(header::CONTENT_TYPE, "application/octet-stream".to_owned())];
    // Whoever gets less knows that it broke off.
    headers.extend(sent.content_length().map(|bytes| (header::CONTENT_LENGTH, bytes.to_string())));
    let headers: axum::http::HeaderMap =
        headers.into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect();
    Ok((headers, Body::from_stream(sent.bytes_stream())).into_response())
}
