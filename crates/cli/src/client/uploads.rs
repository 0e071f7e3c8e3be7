//! Sending an image's content.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::StreamExt;
use gantry_api::rest::Changed;
use gantry_hostlink::answer;
use gantry_types::{Image, Problem};
use reqwest::{Method, header::CONTENT_LENGTH};
use tokio_util::io::ReaderStream;

use super::Client;

const CHUNK_BYTES: usize = 256 << 10;

impl Client {
    /// Streams `file` as the content of the image `name`; `sent_bytes` follows how much has left.
    pub async fn upload_image(
        &self,
        name: &str,
        file: &Path,
        sent_bytes: Arc<AtomicU64>,
    ) -> Result<Changed<Image>, Problem> {
        let unreadable = |error: std::io::Error| {
            Problem::invalid("unreadable-file", format!("'{}' could not be read: {error}", file.display()))
                .remedy("check the path and its permissions")
        };
        let source = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let metadata = source.metadata().await.map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Problem::invalid("unreadable-file", format!("'{}' is not a file", file.display())));
        }
        let stream = ReaderStream::with_capacity(source, CHUNK_BYTES).map(move |chunk| {
            if let Ok(bytes) = &chunk {
                sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            chunk
        });
        let path = format!("{}/content", super::object_path::<Image>(name)?);
        let request = self
            .request(Method::PUT, &path)
            .header(CONTENT_LENGTH, metadata.len())
            .body(reqwest::Body::wrap_stream(stream));
        answer(&self.peer, request).await
    }
}
