//! Where a repository is, and what opens it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::aws::AmazonS3Builder;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use crate::error::RepositoryError;
use crate::repository::Repository;

/// A server that is away for as long is told of, before whoever asked gives up waiting; operations try again.
const RETRY_FOR: Duration = Duration::from_secs(15);
const RETRIES: usize = 8;
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    pub place: Place,
    /// Of an encrypted repository.
    pub passphrase: Option<Passphrase>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Directory(PathBuf),
    Bucket(Bucket),
}

/// Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(pub String);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// A part of a bucket of a server that speaks S3, with conditional writes (`If-None-Match: *`).
#[derive(Clone, PartialEq, Eq)]
pub struct Bucket {
    pub bucket: String,
    /// What the names of its objects begin with; the whole bucket if empty.
    pub prefix: String,
    /// `http://` or `https://`; Amazon's if absent.
    pub endpoint: Option<String>,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, prefix, endpoint, .. } = self;
        match endpoint {
            Some(endpoint) => write!(f, "{}/{bucket}/{prefix}", endpoint.trim_end_matches('/')),
            None => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl Bucket {
    fn store(&self) -> Result<Arc<dyn ObjectStore>, RepositoryError> {
        // The client takes the process's; who was first has installed the same.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let options = ClientOptions::new().with_timeout(REQUEST_LIMIT).with_allow_http(true);
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_access_key_id(&self.access_key_id)
            .with_secret_access_key(&self.secret_access_key)
            .with_client_options(options)
            .with_retry(retry);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let bucket = builder.build().map_err(RepositoryError::store("open"))?;
        Ok(match self.prefix.is_empty() {
            true => Arc::new(bucket),
            false => Arc::new(PrefixStore::new(bucket, self.prefix.as_str())),
        })
    }
}

impl Repository {
    /// The repository there. With `make` a place where nothing is yet becomes one: encrypted, if there is a passphrase.
    ///
    /// # Errors
    /// [`RepositoryError::NotARepository`], [`RepositoryError::PassphraseWrong`], [`RepositoryError::PassphraseMissing`],
    /// [`RepositoryError::NotEncrypted`]; as of the place.
    pub async fn open(access: &Access, make: bool) -> Result<Self, RepositoryError> {
        let passphrase = access.passphrase.as_ref();
        match &access.place {
            Place::Directory(directory) => Self::open_directory(directory, passphrase, make).await,
            Place::Bucket(bucket) => {
                let clock = Arc::new(SystemTime::now);
                Self::open_store(bucket.store()?, &bucket.to_string(), passphrase, make, clock).await
            }
        }
    }
}
