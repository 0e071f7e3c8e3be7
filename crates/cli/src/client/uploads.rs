//! Sending an image's content. A connection that breaks does not cost what has arrived: the rest follows.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use gantry_api::rest::{Changed, UploadState};
use gantry_hostlink::answer;
use gantry_types::{Image, Problem};
use reqwest::{
    Method,
    header::{CONTENT_LENGTH, CONTENT_RANGE},
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio_util::io::ReaderStream;

use super::Client;

const CHUNK_BYTES: usize = 256 << 10;
/// Connections in a row that may break without bringing anything.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);

impl Client {
    /// Streams `file` as the content of the image `name`; `sent_bytes` follows how much has left.
    pub async fn upload_image(
        &self,
        name: &str,
        file: &Path,
        sent_bytes: Arc<AtomicU64>,
    ) -> Result<Changed<Image>, Problem> {
        let size = size_of(file).await?;
        let path = super::object_path::<Image>(name)?;
        if size == 0 {
            return answer(&self.peer, self.request(Method::PUT, &format!("{path}/content"))).await;
        }
        let (mut attempts, mut reached) = (0, 0);
        loop {
            let offset = self.offset(&path, size).await;
            let sent = match offset {
                Ok(offset) => {
                    attempts = if offset > reached { 0 } else { attempts };
                    reached = offset;
                    self.send_from(&path, file, offset, size, &sent_bytes).await
                }
                Err(problem) => Err(problem),
            };
            attempts += 1;
            match sent {
                Err(problem) if problem.is_transient() && attempts < ATTEMPTS => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    /// Where to go on. What can't be the beginning of this file is thrown away.
    async fn offset(&self, path: &str, size: u64) -> Result<u64, Problem> {
        let at = format!("{path}/upload");
        let state: UploadState = answer(&self.peer, self.quick(Method::GET, &at)).await?;
        if state.offset < size {
            return Ok(state.offset);
        }
        let state: UploadState = answer(&self.peer, self.quick(Method::DELETE, &at)).await?;
        Ok(state.offset)
    }

    async fn send_from(
        &self,
        path: &str,
        file: &Path,
        offset: u64,
        size: u64,
        sent_bytes: &Arc<AtomicU64>,
    ) -> Result<Changed<Image>, Problem> {
        let mut source = tokio::fs::File::open(file).await.map_err(|error| unreadable(file, &error))?;
        source.seek(SeekFrom::Start(offset)).await.map_err(|error| unreadable(file, &error))?;
        sent_bytes.store(offset, Ordering::Relaxed);
        let sent_bytes = Arc::clone(sent_bytes);
        let stream = ReaderStream::with_capacity(source.take(size - offset), CHUNK_BYTES).map(move |chunk| {
            if let Ok(bytes) = &chunk {
                sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            chunk
        });
        let mut request = self
            .request(Method::PUT, &format!("{path}/content"))
            .header(CONTENT_LENGTH, size - offset)
            .header(CONTENT_RANGE, format!("bytes {offset}-{}/{size}", size - 1));
        if offset > 0 {
            // What has arrived may be of another file, or of this one before it was changed.
            request = request.header("repr-digest", digest_of(file).await?);
        }
        answer(&self.peer, request.body(reqwest::Body::wrap_stream(stream))).await
    }
}

fn unreadable(file: &Path, error: &std::io::Error) -> Problem {
    Problem::invalid("unreadable-file", format!("'{}' could not be read: {error}", file.display()))
        .remedy("check the path and its permissions")
}

async fn size_of(file: &Path) -> Result<u64, Problem> {
    let metadata = tokio::fs::metadata(file).await.map_err(|error| unreadable(file, &error))?;
    if !metadata.is_file() {
        return Err(Problem::invalid("unreadable-file", format!("'{}' is not a file", file.display())));
    }
    Ok(metadata.len())
}

/// As `Repr-Digest` has it (RFC 9530).
async fn digest_of(file: &Path) -> Result<String, Problem> {
    let mut source = tokio::fs::File::open(file).await.map_err(|error| unreadable(file, &error))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match source.read(&mut buffer).await.map_err(|error| unreadable(file, &error))? {
            0 => return Ok(format!("sha-256=:{}:", STANDARD.encode(hash.finalize()))),
            count => hash.update(&buffer[..count]),
        }
    }
}
