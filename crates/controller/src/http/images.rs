//! Images over HTTP: the objects, their upload, and their content for hosts.

use std::{
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use axum::{
    Json,
    body::{Body as RawBody, BodyDataStream, Bytes, HttpBody},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use gantry_api::rest::{Changed, WriteQuery};
use gantry_hostlink::Refusal;
use gantry_types::{ByteSize, Image, Problem};
use tokio::{io::AsyncWriteExt, time::timeout};
use tokio_util::io::ReaderStream;

use super::{
    Shared,
    caller::{HostPeer, User},
    request::{Answer, Body, Path, QueryOf},
    upload_pieces::{self, Range},
};
use crate::{
    app::{App, image},
    image_library::PARTIAL,
};

pub async fn create(
    State(front): State<Shared>,
    User(caller): User,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Image>,
) -> Result<Response, Refusal> {
    let changed = image::create(&front.app, &caller, sent, &query).await?;
    Ok((StatusCode::CREATED, Json(changed)).into_response())
}

pub async fn put(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    Body(sent): Body<Image>,
) -> Answer<Changed<Image>> {
    Ok(Json(image::put(&front.app, &caller, &name, sent, &query).await?))
}

pub async fn delete(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
) -> Result<Response, Refusal> {
    let changed = image::delete(&front.app, &caller, &name, &query).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

/// Takes the content in, to disk, then starts the import. A broken upload leaves nothing and can be repeated, unless it
/// comes in pieces (`upload_pieces.rs`).
pub async fn upload(
    State(front): State<Shared>,
    User(caller): User,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<WriteQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    let waiting = image::expect_upload(&front.app, &caller, &name, &query)?;
    if query.dry_run {
        return Ok((StatusCode::ACCEPTED, Json(Changed { object: waiting, operation: None })).into_response());
    }
    if let Some(range) = Range::of(request.headers())? {
        let (parts, body) = request.into_parts();
        return upload_pieces::take(front, caller, waiting, range, parts.headers, body).await;
    }
    let path = image::upload_path(&front.app, waiting.metadata.uuid);
    // Two uploads at once each write their own file; the first to be complete is imported.
    let extension = format!("{PARTIAL}{}", front.app.clock.new_uuid().simple());
    let partial = Partial(path.with_extension(extension));
    receive(&front.app, request.into_body(), &partial.0).await?;
    tokio::fs::rename(&partial.0, &path).await.map_err(|error| storing(&path, &error))?;
    let changed = image::content_uploaded(&front.app, &caller, &name).await?;
    Ok((StatusCode::ACCEPTED, Json(changed)).into_response())
}

/// A file that is removed when the upload ends, however it ends: a lost connection just drops the request.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a broken upload could not be removed");
        }
    }
}

async fn receive(app: &App, body: RawBody, partial: &FilePath) -> Result<(), Problem> {
    // A length that was announced saves sending it all in vain.
    fits(app, body.size_hint().lower())?;
    if let Some(parent) = partial.parent() {
        tokio::fs::create_dir_all(parent).await.map_err(|error| storing(parent, &error))?;
    }
    let mut file = tokio::fs::File::create(partial).await.map_err(|error| storing(partial, &error))?;
    let mut chunks = chunks_of(app, body);
    while let Some(chunk) = chunks.next().await? {
        fits(app, chunks.received_bytes)?;
        file.write_all(&chunk).await.map_err(|error| storing(partial, &error))?;
    }
    file.sync_all().await.map_err(|error| storing(partial, &error))
}

/// A body as it arrives; one that stalls is given up.
pub(super) struct Chunks {
    stream: BodyDataStream,
    limit: Duration,
    received_bytes: u64,
}

pub(super) fn chunks_of(app: &App, body: RawBody) -> Chunks {
    Chunks { stream: body.into_data_stream(), limit: app.config.upload_idle_timeout, received_bytes: 0 }
}

impl Chunks {
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let (limit, received_bytes) = (self.limit, self.received_bytes);
        let stalled = || {
            let detail = format!("the upload brought nothing for {limit:?} after {received_bytes} bytes");
            Problem { status: 408, ..Problem::transient("upload-stalled", detail) }.remedy("send it again")
        };
        let Some(chunk) = timeout(limit, self.stream.next()).await.map_err(|_| stalled())? else { return Ok(None) };
        let chunk = chunk.map_err(|error| {
            Problem::transient("upload-broken", format!("the upload broke off after {received_bytes} bytes: {error}"))
                .remedy("send it again")
        })?;
        self.received_bytes += chunk.len() as u64;
        Ok(Some(chunk))
    }
}

pub(super) fn fits(app: &App, size_bytes: u64) -> Result<(), Problem> {
    let limit = app.config.max_image_bytes;
    if size_bytes <= limit {
        return Ok(());
    }
    let problem = Problem::invalid("image-too-large", format!("the content is larger than {}", ByteSize(limit)));
    Err(Problem { status: 413, ..problem })
}

pub(super) fn storing(path: &FilePath, error: &std::io::Error) -> Problem {
    Problem::permanent("storage-failed", format!("the controller could not store {}: {error}", path.display()))
        .remedy("check the free space and the permissions of the controller's data directory")
}

/// An image's content, for a host to put into its cache.
pub async fn content(
    State(front): State<Shared>,
    _host: HostPeer,
    Path(digest): Path<String>,
) -> Result<Response, Refusal> {
    // The digest becomes a file name.
    if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Problem::invalid("invalid-digest", "an image's digest has 64 hex digits").into());
    }
    let path = front.app.images.path(&digest);
    let file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Problem::not_found("image content", &digest).into());
        }
        Err(error) => return Err(storing(&path, &error).into()),
    };
    let length = file.metadata().await.map_err(|error| storing(&path, &error))?.len();
    let body = RawBody::from_stream(ReaderStream::with_capacity(file, 256 << 10));
    Ok(([(header::CONTENT_LENGTH, length)], body).into_response())
}
