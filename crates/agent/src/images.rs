//! The images in this host's pool, fetched from the controller as they are needed.
//!
//! The pool verifies every byte against the digest and lets one fetch serve all who wait for the same image.

use std::io;
use std::path::PathBuf;

use futures::TryStreamExt;
use gantry_api::{agent::ImageRef, paths};
use gantry_storage::{DirPool, Sha256Digest, StorageError, VmDisks};
use gantry_types::Problem;
use tokio_util::io::StreamReader;

use crate::problem::{chain, problem};

pub(crate) struct Images {
    pool: DirPool,
    http: reqwest::Client,
    controller_url: String,
}

impl Images {
    /// `http` shows this host's identity to the controller.
    pub fn new(pool: DirPool, http: reqwest::Client, controller_url: &str) -> Self {
        Self { pool, http, controller_url: controller_url.trim_end_matches('/').to_owned() }
    }

    pub async fn ensure(&self, image: &ImageRef) -> Result<(), Problem> {
        let digest = digest(&image.digest)?;
        let url = format!("{}{}", self.controller_url, paths::agent_image(&image.digest));
        let open = || async {
            let response = self.http.get(url).send().await.map_err(|error| io::Error::other(chain(&error)))?;
            let status = response.status();
            if !status.is_success() {
                return Err(io::Error::other(format!("the controller answered {status}")));
            }
            let body = response.bytes_stream().map_err(|error| io::Error::other(chain(&error)));
            Ok(StreamReader::new(Box::pin(body)))
        };
        let ensured = self.pool.ensure_image(digest, image.file_size, open).await;
        ensured.map_err(|error| problem("image-not-fetched", &format!("image {}", image.digest), &error))?;
        Ok(())
    }

    /// Where it is in this host's pool.
    pub async fn file(&self, image: &ImageRef) -> Result<PathBuf, Problem> {
        let digest = digest(&image.digest)?;
        let failed = |error| problem("image-not-fetched", &format!("image {}", image.digest), &error);
        let here = self.pool.image(digest).await.map_err(failed)?;
        Ok(here.ok_or(StorageError::ImageMissing { image: digest }).map_err(failed)?.path)
    }

    /// Makes the image present beside the disks of another pool, by way of this host's.
    pub async fn ensure_in(&self, pool: &dyn VmDisks, image: &ImageRef) -> Result<(), Problem> {
        let digest = digest(&image.digest)?;
        let failed = |error| problem("image-not-fetched", &format!("image {}", image.digest), &error);
        if pool.image_location(digest).await.map_err(failed)?.is_some() {
            return Ok(());
        }
        self.ensure(image).await?;
        let path = self.file(image).await?;
        pool.add_image(digest, &path).await.map_err(failed)
    }

    pub async fn remove(&self, image: &str) -> Result<(), Problem> {
        let removed = self.pool.remove_image(digest(image)?).await;
        removed.map_err(|error| problem("image-not-removed", &format!("image {image}"), &error))
    }
}

pub(crate) fn digest(text: &str) -> Result<Sha256Digest, Problem> {
    text.parse().map_err(|error: gantry_storage::DigestError| {
        Problem::invalid("invalid-digest", error.to_string())
            .remedy("give the SHA-256 of the image: 64 digits 0-9, a-f")
    })
}
