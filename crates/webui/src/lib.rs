//! The web UI's files, as they were in `web/dist` when this was compiled.
//!
//! `cargo xtask web` builds them there, each with a `.br` and a `.gz` beside it where that is smaller. A binary that was
//! built without them has [`PLACEHOLDER`] to show. Not here: HTTP headers and who may see what.

use std::borrow::Cow;

use rust_embed::{EmbeddedFile, RustEmbed};

/// What `/` shows where the web UI was not built.
pub const PLACEHOLDER: &str = include_str!("placeholder.html");

const INDEX: &str = "index.html";
/// Files below it carry a hash of their content in their names.
const HASHED: &str = "assets/";

#[derive(RustEmbed)]
#[folder = "../../web/dist"]
struct Dist;

/// One file as it is sent.
pub struct Asset {
    pub content: Cow<'static, [u8]>,
    pub content_type: &'static str,
    /// `br` or `gzip`; none if it is sent as it is.
    pub encoding: Option<&'static str>,
    /// Of what is sent: another encoding has another one.
    pub etag: String,
    /// Its name changes with its content, so it may be kept for ever.
    pub is_immutable: bool,
}

/// The file at `path` (without the leading slash), in the smallest form that `accept_encoding` (RFC 9110) allows.
pub fn asset(path: &str, accept_encoding: &str) -> Option<Asset> {
    // The compressed forms are no files of their own.
    if path.ends_with(".br") || path.ends_with(".gz") || path.starts_with('.') {
        return None;
    }
    let plain = Dist::get(path)?;
    let compressed = [("br", "br"), ("gzip", "gz")].into_iter().find_map(|(encoding, extension)| {
        let file = accepts(accept_encoding, encoding).then(|| Dist::get(&format!("{path}.{extension}")))??;
        Some((encoding, file))
    });
    let (encoding, file) = match compressed {
        Some((encoding, file)) => (Some(encoding), file),
        None => (None, plain),
    };
    let etag = etag(&file);
    Some(Asset {
        content: file.data,
        content_type: content_type(path),
        encoding,
        etag,
        is_immutable: path.starts_with(HASHED),
    })
}

/// The page that every path of the UI begins with; none if the UI was not built.
pub fn index(accept_encoding: &str) -> Option<Asset> {
    asset(INDEX, accept_encoding)
}

fn etag(file: &EmbeddedFile) -> String {
    let digits: String = file.metadata.sha256_hash().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// Whether an `Accept-Encoding` names this one and does not refuse it (`;q=0`).
fn accepts(accept_encoding: &str, encoding: &str) -> bool {
    accept_encoding.split(',').any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(encoding));
        let refused = parts.any(|part| {
            part.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok()).is_some_and(|weight| weight == 0.0)
        });
        named && !refused
    })
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_used_only_if_it_is_wanted() {
        assert!(accepts("gzip, deflate, br", "br"));
        assert!(accepts("br;q=0.5", "br"));
        assert!(!accepts("br;q=0, gzip", "br"));
        assert!(!accepts("", "gzip"));
        assert!(!accepts("brotli", "br"));
    }

    #[test]
    fn what_is_no_file_of_the_ui_is_not_served() {
        for path in ["", ".gitignore", "../Cargo.toml", "/etc/passwd", "index.html.br", "assets"] {
            assert!(asset(path, "br").is_none(), "{path}");
        }
    }

    #[test]
    fn types_are_told_by_the_extension() {
        assert_eq!(content_type("assets/index-a1b2.js"), "text/javascript; charset=utf-8");
        assert_eq!(content_type("favicon.svg"), "image/svg+xml");
        assert_eq!(content_type("LICENSE"), "application/octet-stream");
    }
}
