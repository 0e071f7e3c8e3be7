//! The content of images on the controller: `<data>/images/<sha256>.qcow2`.
//!
//! The objects say which images there are; this only keeps their bytes. [`ImageLibrary`] is the seam: production runs
//! the storage crate's import pipeline, tests keep digests in memory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use gantry_types::{ImageFormat, Problem};

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
