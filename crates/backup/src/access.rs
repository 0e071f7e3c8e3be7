//! Where a repository is, and what opens it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_types::{RepositoryPlace, S3Bucket, Secret};
use object_store::aws::AmazonS3Builder;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use crate::error::RepositoryError;
use crate::repository::Repository;

/// A server that is away for as long is told of, before whoever asked gives up waiting; operations try again.
const RETRY_FOR: Duration = Duration::from_secs(15);
const RETRIES: usize = 8;
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// Strongly consistent, and with conditional writes (`If-None-Match: *`).
fn store_of(place: &S3Bucket) -> Result<Arc<dyn ObjectStore>, RepositoryError> {
    // The client takes the process's; who was first has installed the same.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let options = ClientOptions::new().with_timeout(REQUEST_LIMIT).with_allow_http(true);
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&place.bucket)
        .with_region(&place.region)
        .with_access_key_id(&place.access_key_id)
        .with_secret_access_key(place.secret_access_key.as_ref().map(Secret::reveal).unwrap_or_default())
        .with_client_options(options)
        .with_retry(retry);
    if let Some(endpoint) = &place.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let bucket = builder.build().map_err(RepositoryError::store("open"))?;
    Ok(match place.prefix.is_empty() {
        true => Arc::new(bucket),
        false => Arc::new(PrefixStore::new(bucket, place.prefix.as_str())),
    })
}

impl Repository {
    /// The repository there. With `make` a place where nothing is yet becomes one: encrypted, if there is a passphrase.
    ///
    /// # Errors
    /// [`RepositoryError::NotARepository`], [`RepositoryError::PassphraseWrong`], [`RepositoryError::PassphraseMissing`],
    /// [`RepositoryError::NotEncrypted`]; as of the place.
    pub async fn open(
        place: &RepositoryPlace,
        passphrase: Option<&Secret>,
        make: bool,
    ) -> Result<Self, RepositoryError> {
        match place {
            RepositoryPlace::Directory(directory) => {
                Self::open_directory(Path::new(&directory.path), passphrase, make).await
            }
            RepositoryPlace::S3(bucket) => {
                let clock = Arc::new(SystemTime::now);
                Self::open_store(store_of(bucket)?, &place.to_string(), passphrase, make, clock).await
            }
        }
    }
}
