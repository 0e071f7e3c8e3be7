//! An image's content in pieces, each where the one before ended: an upload that breaks off goes on from there.
//!
//! ```text
//!   GET upload ──▶ offset ──▶ PUT content, Content-Range: bytes OFFSET-LAST/TOTAL ──▶ offset … ──▶ all there: import
//! ```
//! What has arrived stays, also over a restart of the controller, until the image gets its content or is deleted. One
//! piece at a time; a piece that breaks off counts as far as it came. With the last one the SHA-256 of the whole may be
//! sent (`Repr-Digest`, RFC 9530); content that has another is thrown away.

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::{Path as FilePath, PathBuf},
    sync::{Mutex, PoisonError},
};

use axum::{
    Json,
    body::Body as RawBody,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use gantry_api::rest::{UploadState, WriteQuery};
use gantry_hostlink::Refusal;
use gantry_types::{Image, Problem};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::{
    Front, Shared,
    caller::User,
    images::{chunks_of, fits, storing},
    request::{Answer, Path},
};
use crate::app::{App, Caller, image};

const DIGEST_HEADER: &str = "repr-digest";

/// Images that a piece is arriving for.
#[derive(Default)]
pub struct Arriving(Mutex<HashSet<Uuid>>);

struct Place<'a>(&'a Arriving, Uuid);

impl Arriving {
    fn enter(&self, image: &Image) -> Result<Place<'_>, Problem> {
        let uuid = image.metadata.uuid;
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid) {
            return Ok(Place(self, uuid));
        }
        let detail = format!("another piece of the content of image '{}' is arriving", image.metadata.name);
        Err(Problem::conflict("upload-busy", detail).remedy("wait until it has arrived, then ask where to go on"))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// `Content-Range: bytes 0-99/1000` (RFC 9110, 14.4); the total must be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u64,
    last: u64,
    total: u64,
}

impl Range {
    /// `None` if the request brings the whole content at once.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
        let parsed = value.to_str().ok().and_then(Self::parse);
        let invalid = || {
            Problem::invalid("invalid-range", "the Content-Range is not valid")
                .remedy("write it as: bytes FIRST-LAST/TOTAL, for example bytes 0-1048575/5000000")
        };
        parsed.map(Some).ok_or_else(invalid)
    }

    fn parse(text: &str) -> Option<Self> {
        let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let range = Self { first: first.parse().ok()?, last: last.parse().ok()?, total: total.parse().ok()? };
        (range.first <= range.last && range.last < range.total).then_some(range)
    }

    fn len(self) -> u64 {
        self.last - self.first + 1
    }
}

fn pieces_path(app: &App, image: &Image) -> PathBuf {
    image::pieces_path(app, image.metadata.uuid)
}

async fn offset_of(path: &FilePath) -> Result<u64, Problem> {
    match tokio::fs::metadata(path).await {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(storing(path, &error)),
    }
}

/// Where the next piece begins.
pub async fn state(State(front): State<Shared>, User(caller): User, Path(name): Path<String>) -> Answer<UploadState> {
    let image = image::expect_upload(&front.app, &caller, &name, &WriteQuery::default())?;
    Ok(Json(UploadState { offset: offset_of(&pieces_path(&front.app, &image)).await? }))
}

/// Throws away what has arrived.
pub async fn discard(State(front): State<Shared>, User(caller): User, Path(name): Path<String>) -> Answer<UploadState> {
    let image = image::expect_upload(&front.app, &caller, &name, &WriteQuery::default())?;
    let _alone = front.arriving.enter(&image)?;
    remove(&pieces_path(&front.app, &image)).await?;
    Ok(Json(UploadState { offset: 0 }))
}

async fn remove(path: &FilePath) -> Result<(), Problem> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(storing(path, &error)),
        _ => Ok(()),
    }
}

/// Takes a piece in; the last one starts the import. It goes on to where its body ends also if the request is dropped:
/// what is still on its way to the disk must not come behind the next piece.
pub async fn take(
    front: Shared,
    caller: Caller,
    image: Image,
    range: Range,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, Refusal> {
    let taking = tokio::spawn(async move { take_in(&front, &caller, &image, range, &headers, body).await });
    taking.await.map_err(|error| Problem::transient("upload-broken", format!("the upload ended: {error}")))?
}

async fn take_in(
    front: &Front,
    caller: &Caller,
    image: &Image,
    range: Range,
    headers: &HeaderMap,
    body: RawBody,
) -> Result<Response, Refusal> {
    let app = &front.app;
    fits(app, range.total)?;
    let wanted_digest = digest_of(headers)?;
    let _alone = front.arriving.enter(image)?;
    let path = pieces_path(app, image);
    let offset = offset_of(&path).await?;
    if range.first != offset {
        let detail =
            format!("the content of image '{}' goes on at byte {offset}, not {}", image.metadata.name, range.first);
        return Err(Problem::conflict("wrong-offset", detail)
            .remedy(format!("send the piece that begins at {offset}; see: GET /v1/images/NAME/upload"))
            .into());
    }
    append(app, &path, range, body).await?;
    let offset = offset + range.len();
    if offset < range.total {
        return Ok((StatusCode::ACCEPTED, Json(UploadState { offset })).into_response());
    }
    if let Some(wanted) = wanted_digest
        && digest(&path).await? != wanted
    {
        remove(&path).await?;
        return Err(Problem::invalid("checksum-mismatch", "the content has another SHA-256 than Repr-Digest says")
            .remedy("send it again from the beginning; it was damaged on the way, or the file was changed meanwhile")
            .into());
    }
    let complete = image::upload_path(app, image.metadata.uuid);
    tokio::fs::rename(&path, &complete).await.map_err(|error| storing(&complete, &error))?;
    let changed = image::content_uploaded(app, caller, image.metadata.name.as_str()).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

/// What came is on the disk, also when the rest does not come.
async fn append(app: &App, path: &FilePath, range: Range, body: RawBody) -> Result<(), Problem> {
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(|error| storing(parent, &error))?;
    }
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).await.map_err(|error| storing(path, &error))?;
    let mut chunks = chunks_of(app, body);
    let mut left = range.len();
    let arrived = loop {
        match chunks.next().await {
            Ok(Some(chunk)) if chunk.len() as u64 <= left => {
                left -= chunk.len() as u64;
                if let Err(error) = file.write_all(&chunk).await {
                    break Err(storing(path, &error));
                }
            }
            Ok(Some(_)) => break Err(Problem::invalid("invalid-range", "the piece is longer than its Content-Range")),
            Ok(None) if left == 0 => break Ok(()),
            Ok(None) => break Err(Problem::invalid("invalid-range", "the piece is shorter than its Content-Range")),
            Err(problem) => break Err(problem),
        }
    };
    file.sync_data().await.map_err(|error| storing(path, &error))?;
    arrived
}

/// The SHA-256 in `Repr-Digest: sha-256=:…:`, if there is one.
fn digest_of(headers: &HeaderMap) -> Result<Option<[u8; 32]>, Problem> {
    let Some(value) = headers.get(DIGEST_HEADER) else { return Ok(None) };
    let members = value.to_str().unwrap_or_default().split(',').map(str::trim);
    let encoded = members.filter_map(|member| member.strip_prefix("sha-256=:")?.strip_suffix(':')).next();
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded).ok()?.try_into().ok());
    let invalid = || {
        Problem::invalid("invalid-digest", "the Repr-Digest has no SHA-256 that can be read")
            .remedy("write it as: sha-256=:BASE64:")
    };
    decoded.map(Some).ok_or_else(invalid)
}

async fn digest(path: &FilePath) -> Result<[u8; 32], Problem> {
    let mut file = tokio::fs::File::open(path).await.map_err(|error| storing(path, &error))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).await.map_err(|error| storing(path, &error))? {
            0 => return Ok(hash.finalize().into()),
            count => {
                // A megabyte takes milliseconds: other tasks of this thread get their turn in between.
                hash.update(&buffer[..count]);
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        assert_eq!(Range::parse("bytes 0-99/1000"), Some(Range { first: 0, last: 99, total: 1000 }));
        assert_eq!(Range::parse("bytes 999-999/1000").map(Range::len), Some(1));
        for wrong in
            ["bytes 5-4/10", "bytes 0-10/10", "bytes 0-9/*", "bytes */10", "0-9/10", "bytes 0-9", "bytes -1-9/10"]
        {
            assert_eq!(Range::parse(wrong), None, "{wrong}");
        }
    }
}
