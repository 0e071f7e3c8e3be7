//! The web UI: embedded files for everyone, and the headers that keep its pages to themselves.
//!
//! The files hold nothing secret; what they show comes through the API. Whatever is no file and no part of the API is
//! one of the UI's own paths: a browser gets the page, which knows what to show there.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use gantry_webui::Asset;

use super::request::no_such_path;

/// Nothing from elsewhere, nothing inline, in nobody's frame. Screens of guests are drawn from `blob:` and `data:`.
const PAGE_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
     font-src 'self'; connect-src 'self'; worker-src 'self'; manifest-src 'self'; object-src 'none'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// What is no page loads nothing.
const API_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// Kept, but asked for anew each time.
const ASK_AGAIN: &str = "no-cache";

/// Answers whatever no route of the API does.
pub async fn serve(request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let is_api = path == "/v1" || path.starts_with("/v1/");
    if is_api || !matches!(*request.method(), Method::GET | Method::HEAD) {
        return no_such_path(request).await.into_response();
    }
    let headers = request.headers();
    let encodings = text(headers, header::ACCEPT_ENCODING);
    if let Some(asset) = gantry_webui::asset(path.trim_start_matches('/'), encodings) {
        return answer(asset, headers);
    }
    // A file that is missing is not a page, or an outdated page would take it for its script.
    if !text(headers, header::ACCEPT).contains("text/html") || path.starts_with("/assets/") {
        return no_such_path(request).await.into_response();
    }
    match gantry_webui::index(encodings) {
        Some(page) => answer(page, headers),
        None => page(gantry_webui::PLACEHOLDER.into()),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn page(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, ASK_AGAIN),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
    ];
    (headers, body).into_response()
}

fn answer(asset: Asset, headers: &HeaderMap) -> Response {
    let is_known = text(headers, header::IF_NONE_MATCH).split(',').any(|known| known.trim() == asset.etag);
    let mut response =
        if is_known { StatusCode::NOT_MODIFIED.into_response() } else { page(Body::from(asset.content.into_owned())) };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    let caching = if asset.is_immutable { FOR_EVER } else { ASK_AGAIN };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    if let Ok(etag) = HeaderValue::try_from(asset.etag) {
        headers.insert(header::ETAG, etag);
    }
    if let Some(encoding) = asset.encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    response
}

/// For every answer: what it may be taken for, who may frame it, and that nothing of the API is kept anywhere.
pub async fn guard(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    for (name, value) in [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_SECURITY_POLICY, API_POLICY)] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
