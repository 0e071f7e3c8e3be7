//! Fetches an image's content from a URL, within limits.
//!
//! The content goes to `<to>.part` and is renamed when it is complete and on disk. The server is not trusted: neither
//! its lengths nor its speed.

use std::{path::Path, time::Duration};

use futures::StreamExt;
use gantry_types::Problem;
use tokio::io::AsyncWriteExt;

const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Between two pieces of content.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;

/// An HTTP client for the outside world; it carries none of the controller's identity.
pub struct Fetcher {
    http: reqwest::Client,
    max_bytes: u64,
}

impl Fetcher {
    pub fn new(max_bytes: u64) -> Result<Self, Problem> {
        // An error says that one is installed already.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Problem::permanent("fetch-unavailable", format!("URLs can't be fetched: {error}")))?;
        Ok(Self { http, max_bytes })
    }

    /// # Errors
    /// `fetch-failed`: transient if the server or the way to it may be well again, else permanent.
    pub async fn fetch(
        &self,
        url: &str,
        to: &Path,
        progress: &(dyn Fn(&str, u64, u64) + Send + Sync),
    ) -> Result<(), Problem> {
        let failed = |error: reqwest::Error| failed(url, &error);
        let response = self.http.get(url).send().await.and_then(|r| r.error_for_status()).map_err(failed)?;
        let total = response.content_length().unwrap_or(0);
        if total > self.max_bytes {
            return Err(self.too_large(url));
        }
        let part = to.with_extension("part");
        let disk = |error: std::io::Error| disk_problem(&part, &error);
        let mut file = tokio::fs::File::create(&part).await.map_err(disk)?;
        let (mut content, mut done) = (response.bytes_stream(), 0u64);
        while let Some(chunk) = content.next().await {
            let chunk = chunk.map_err(failed)?;
            done += chunk.len() as u64;
            if done > self.max_bytes {
                return Err(self.too_large(url));
            }
            file.write_all(&chunk).await.map_err(disk)?;
            progress("fetching", done, total);
        }
        file.sync_all().await.map_err(disk)?;
        tokio::fs::rename(&part, to).await.map_err(disk)
    }

    fn too_large(&self, url: &str) -> Problem {
        Problem::permanent(
            "fetch-failed",
            format!("{url} has more than the {} bytes that an image may have", self.max_bytes),
        )
        .remedy("use a smaller image, or one in a sparse format such as qcow2")
    }
}

fn disk_problem(path: &Path, error: &std::io::Error) -> Problem {
    let detail = format!("writing {} failed: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Problem::permanent("disk-full", detail).remedy("free space in the controller's data directory")
        }
        _ => Problem::transient("disk-error", detail),
    }
}

fn failed(url: &str, error: &reqwest::Error) -> Problem {
    let mut detail = format!("fetching {url} failed: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        detail = format!("{detail}: {inner}");
        cause = inner.source();
    }
    let hopeless = error.is_builder()
        || error.is_redirect()
        || error.status().is_some_and(|status| status.is_client_error() && status.as_u16() != 429);
    if hopeless {
        return Problem::permanent("fetch-failed", detail).remedy("check the URL with: curl -fLO URL");
    }
    Problem::transient("fetch-failed", detail).remedy("check the server, and the controller's way to it: curl -fLO URL")
}
