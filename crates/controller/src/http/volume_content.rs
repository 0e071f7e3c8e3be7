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
    let bytes = sent.content_length();
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    let mut response = (kind, Body::from_stream(sent.bytes_stream())).into_response();
    if let Some(bytes) = bytes {
        // Whoever gets less knows that it broke off.
        response.headers_mut().insert(header::CONTENT_LENGTH, bytes.into());
    }
    Ok(response)
}
