//! The content of images on the controller: `<data>/images/<sha256>.qcow2`.
//!
//! The objects say which images there are; this only keeps their bytes. [`ImageLibrary`] is the seam: production runs
//! the storage crate's import pipeline ([`StoredImages`]), tests keep digests in memory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use gantry_storage::{ImageStore, ImportLimits, ImportOptions, ImportPhase, Sha256Digest, StorageError};
use gantry_types::{ErrorClass, ImageFormat, Problem};

use crate::{config::Config, fetch::Fetcher};

/// How the extension of an upload that is not complete yet begins.
pub const PARTIAL: &str = "part-";

/// Told how far an import is: message, bytes done, bytes in total (0 if unknown).
pub type ImportProgress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// What to make of a file that came from outside.
#[derive(Clone)]
pub struct ImportRequest {
    pub source: PathBuf,
    /// SHA-256 (hex) that the source must have.
    pub sha256: Option<String>,
    pub format: Option<ImageFormat>,
}

/// An image as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImportedImage {
    pub digest: String,
    pub virtual_size_bytes: u64,
    pub file_size_bytes: u64,
    pub source_format: ImageFormat,
}

#[async_trait]
pub trait ImageLibrary: Send + Sync {
    /// Fetches a URL's content into `to`, which appears complete or not at all.
    async fn fetch(&self, url: &str, to: &Path, progress: ImportProgress) -> Result<(), Problem>;
    /// Checks and converts; the source is hostile. Importing the same content again gives the same image.
    async fn import(&self, request: &ImportRequest, progress: ImportProgress) -> Result<ImportedImage, Problem>;
    /// Removes an image's content; nothing to remove is success.
    async fn remove(&self, digest: &str) -> Result<(), Problem>;
    /// Where the content is, for hosts to fetch it.
    fn path(&self, digest: &str) -> PathBuf;
}

/// Images in the data directory.
pub struct StoredImages {
    store: ImageStore,
    fetcher: Fetcher,
    max_bytes: u64,
}

impl StoredImages {
    /// Makes the directories if needed and removes what a crash left half-done.
    pub async fn open(config: &Config) -> Result<Self, Problem> {
        let uploads = config.uploads_dir();
        tokio::fs::create_dir_all(&uploads).await.map_err(|error| {
            Problem::permanent("disk-error", format!("making {} failed: {error}", uploads.display()))
                .remedy("check the data directory's permissions and space")
        })?;
        remove_partial(&uploads).await.map_err(|error| {
            Problem::permanent("disk-error", format!("clearing {} failed: {error}", uploads.display()))
                .remedy("check the data directory's permissions")
        })?;
        let store = ImageStore::open(&config.images_dir()).map_err(storage_problem)?;
        let swept = store.sweep().await.map_err(storage_problem)?;
        if swept > 0 {
            tracing::info!(swept, "removed what broken imports left");
        }
        Ok(Self { store, fetcher: Fetcher::new(config.max_image_bytes)?, max_bytes: config.max_image_bytes })
    }
}

/// Uploads that were under way when the controller ended.
async fn remove_partial(uploads: &Path) -> std::io::Result<()> {
    let mut entries = tokio::fs::read_dir(uploads).await?;
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension.to_string_lossy().starts_with(PARTIAL)) {
            tokio::fs::remove_file(&path).await?;
        }
    }
    Ok(())
}

#[async_trait]
impl ImageLibrary for StoredImages {
    async fn fetch(&self, url: &str, to: &Path, progress: ImportProgress) -> Result<(), Problem> {
        self.fetcher.fetch(url, to, &*progress).await
    }

    async fn import(&self, request: &ImportRequest, progress: ImportProgress) -> Result<ImportedImage, Problem> {
        let options = ImportOptions {
            expected_sha256: request.sha256.as_deref().map(parse_digest).transpose()?,
            declared_format: request.format,
            limits: ImportLimits {
                max_unpacked_bytes: self.max_bytes,
                max_output_bytes: self.max_bytes,
                ..ImportLimits::default()
            },
        };
        let size = tokio::fs::metadata(&request.source).await.map_or(0, |metadata| metadata.len());
        let told = move |at: gantry_storage::ImportProgress| {
            let message = match at.phase {
                ImportPhase::Reading => "reading",
                ImportPhase::Checking => "checking",
                ImportPhase::Converting => "converting",
                ImportPhase::Publishing => "storing",
            };
            progress(message, (size as f64 * f64::from(at.percent) / 100.0) as u64, size);
        };
        let info = self.store.import(&request.source, &options, told).await.map_err(storage_problem)?;
        Ok(ImportedImage {
            digest: info.sha256.to_string(),
            virtual_size_bytes: info.virtual_size_bytes,
            file_size_bytes: info.file_size_bytes,
            source_format: info.source_format,
        })
    }

    async fn remove(&self, digest: &str) -> Result<(), Problem> {
        self.store.remove(parse_digest(digest)?).await.map_err(storage_problem)
    }

    fn path(&self, digest: &str) -> PathBuf {
        match parse_digest(digest) {
            Ok(digest) => self.store.image_path(digest),
            // Names no file: digests are the only names in the store.
            Err(_) => self.store.path().join(".not-an-image"),
        }
    }
}

fn parse_digest(text: &str) -> Result<Sha256Digest, Problem> {
    text.parse().map_err(|error| Problem::invalid("invalid-digest", format!("{error}")))
}

/// A storage error as the API tells it, with its causes.
fn storage_problem(error: StorageError) -> Problem {
    let mut detail = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        detail = format!("{detail}: {inner}");
        cause = inner.source();
    }
    let remedy = match error.class() {
        ErrorClass::Invalid => "repair or convert the image (qemu-img convert), or tell its format and SHA-256 rightly",
        _ => "check the space and the permissions of the controller's data directory, then import the image again",
    };
    Problem::new(error.class(), "image-storage", detail).remedy(remedy)
}
