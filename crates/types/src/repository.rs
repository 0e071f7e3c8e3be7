//! `repository`: where backups are kept, by a name.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, Secret, resource::resource};

resource!(
    /// Where backups are kept: a directory that hosts reach, or a bucket of a server that speaks S3; encrypted, if it has a
    /// passphrase.
    Repository, "repository", "repositories", RepositorySpec, RepositoryStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositorySpec {
    /// Fixed once it is made, but for the keys.
    pub place: RepositoryPlace,
    /// All that is kept there is encrypted with a key that this opens (Argon2id, AES-256-GCM); 12 to 1024 bytes. Whoever loses it
    /// has lost the backups. Only ever written: it is not shown again, and kept if it is left out. A repository is encrypted
    /// from its beginning, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RepositoryPlace {
    Directory(RepositoryDirectory),
    S3(S3Bucket),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryDirectory {
    /// An absolute path on each host that makes backups there. It is made if only its last part is missing.
    pub path: String,
}

/// A bucket, or a part of one, of Amazon S3 or of a server that speaks it. It has to know conditional writes (`If-None-Match: *`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Bucket {
    /// It has to be there.
    pub bucket: String,
    /// What the names of all objects begin with; the whole bucket if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The server, `https://` or `http://`, reached from the hosts; Amazon's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default = "region")]
    pub region: String,
    pub access_key_id: String,
    /// Only ever written: it is not shown again, and kept if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
}

fn region() -> String {
    "us-east-1".to_owned()
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RepositoryStatus {
    /// There is a passphrase.
    pub encrypted: bool,
}

const PATH_BYTES_MAX: usize = 1024;
const PREFIX_BYTES_MAX: usize = 512;
const PASSPHRASE_BYTES: std::ops::RangeInclusive<usize> = 12..=1024;

impl RepositorySpec {
    /// All that is wrong with it by itself, by field.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut wrong = match &self.place {
            RepositoryPlace::Directory(directory) => directory_mistake(&directory.path)
                .map(|message| vec![("spec.place.directory.path".to_owned(), message)])
                .unwrap_or_default(),
            RepositoryPlace::S3(bucket) => bucket.mistakes(),
        };
        let length = self.passphrase.as_ref().map(|passphrase| passphrase.reveal().len());
        if let Some(length) = length.filter(|length| !PASSPHRASE_BYTES.contains(length)) {
            let message = format!("has {length} bytes, use {} to {}", PASSPHRASE_BYTES.start(), PASSPHRASE_BYTES.end());
            wrong.push(("spec.passphrase".to_owned(), message));
        }
        wrong
    }

    /// Takes what nobody is shown.
    pub fn drop_secrets(&mut self) {
        self.passphrase = None;
        if let RepositoryPlace::S3(bucket) = &mut self.place {
            bucket.secret_access_key = None;
        }
    }
}

impl RepositoryPlace {
    /// The same with nothing but where it is.
    pub fn without_keys(&self) -> Self {
        let mut place = self.clone();
        if let Self::S3(bucket) = &mut place {
            bucket.access_key_id.clear();
            bucket.secret_access_key = None;
        }
        place
    }
}

/// For people.
impl std::fmt::Display for RepositoryPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(directory) => f.pad(&directory.path),
            Self::S3(S3Bucket { bucket, prefix, endpoint, .. }) => {
                let server = endpoint.as_deref().map_or("s3:/", |endpoint| endpoint.trim_end_matches('/'));
                let slash = if prefix.is_empty() { "" } else { "/" };
                f.pad(&format!("{server}/{bucket}{slash}{prefix}"))
            }
        }
    }
}

impl S3Bucket {
    fn mistakes(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut refuse = |field: &str, message: String| wrong.push((format!("spec.place.s3.{field}"), message));
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
        if !(3..=63).contains(&self.bucket.len()) || !self.bucket.chars().all(is_name) {
            refuse("bucket", format!("'{}' is no bucket's name: 3 to 63 of a-z, 0-9, '.' and '-'", self.bucket));
        }
        let is_part =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.chars().any(char::is_control);
        let is_prefix = self.prefix.is_empty() || self.prefix.split('/').all(is_part);
        if !is_prefix || self.prefix.len() > PREFIX_BYTES_MAX {
            refuse("prefix", format!("'{}' is no path without '/' at its ends, '.' and '..'", self.prefix));
        }
        let is_server = |endpoint: &String| {
            let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            host.is_some_and(|host| {
                let host = host.trim_end_matches('/');
                !host.is_empty()
                    && host.bytes().all(|byte| byte.is_ascii_graphic())
                    && !host.contains(['/', '@', '?', '#'])
            })
        };
        if let Some(endpoint) = self.endpoint.as_ref().filter(|endpoint| !is_server(endpoint)) {
            refuse("endpoint", format!("'{endpoint}' is no http:// or https:// with a host, and a port if need be"));
        }
        let is_plain =
            |text: &str| !text.is_empty() && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_plain(&self.region) {
            refuse("region", "is no region's name".to_owned());
        }
        if !is_plain(&self.access_key_id) {
            refuse("access_key_id", "is no key's id".to_owned());
        }
        if self.secret_access_key.as_ref().is_some_and(|key| key.reveal().is_empty() || key.reveal().len() > 1024) {
            refuse("secret_access_key", "has no, or more than 1024 bytes".to_owned());
        }
        wrong
    }
}

/// Where a backup is kept, as it names it: a directory on its host, or a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryReference {
    Directory(String),
    Named(Name),
}

impl std::str::FromStr for RepositoryReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return directory_mistake(text).map_or_else(|| Ok(Self::Directory(text.to_owned())), Err);
        }
        let name = text.parse().map(Self::Named);
        name.map_err(|_| format!("'{text}' is neither an absolute path of a directory nor the name of a repository"))
    }
}

/// Why this can't be a repository's directory.
fn directory_mistake(path: &str) -> Option<String> {
    let is_plain = path.starts_with('/') && !path.split('/').any(|part| part == ".." || part == ".");
    let is_good = is_plain && path.len() <= PATH_BYTES_MAX && !path.chars().any(char::is_control) && path != "/";
    (!is_good).then(|| format!("'{path}' is no absolute path of a directory without '.' and '..'"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(spec: serde_json::Value) -> Vec<String> {
        let spec: RepositorySpec = serde_json::from_value(spec).unwrap();
        spec.mistakes().into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn what_is_wrong_is_said_by_field() {
        let s3 = |change: serde_json::Value| {
            let mut bucket = json!({"bucket": "backups", "access_key_id": "id", "secret_access_key": "key"});
            bucket.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            json!({"place": {"s3": bucket}})
        };
        assert_eq!(wrong(json!({"place": {"directory": {"path": "/srv/backup"}}})), [""; 0]);
        assert_eq!(wrong(json!({"place": {"directory": {"path": "backup"}}})), ["spec.place.directory.path"]);
        assert_eq!(wrong(s3(json!({"prefix": "a/b", "endpoint": "https://s3.example:9000/"}))), [""; 0]);
        for (field, bad) in [
            ("bucket", "No"),
            ("bucket", "ab"),
            ("prefix", "/a"),
            ("prefix", "a/../b"),
            ("endpoint", "s3.example"),
            ("endpoint", "https://user@s3.example"),
            ("endpoint", "https://s3.example/path"),
            ("region", ""),
            ("access_key_id", "with space"),
            ("secret_access_key", ""),
        ] {
            assert_eq!(wrong(s3(json!({field: bad}))), [format!("spec.place.s3.{field}")], "{bad}");
        }
        let short = json!({"place": {"directory": {"path": "/srv/backup"}}, "passphrase": "short"});
        assert_eq!(wrong(short.clone()), ["spec.passphrase"]);
        let shown = format!("{:?}", serde_json::from_value::<RepositorySpec>(short).unwrap());
        assert!(!shown.contains("short"), "{shown}");
    }

    #[test]
    fn a_backup_names_a_directory_or_a_repository() {
        let reference = |text: &str| text.parse::<RepositoryReference>();
        assert_eq!(reference("/srv/backup").unwrap(), RepositoryReference::Directory("/srv/backup".into()));
        assert_eq!(reference("vault").unwrap(), RepositoryReference::Named("vault".parse().unwrap()));
        assert!(reference("/").is_err() && reference("/a/../b").is_err());
        assert!(reference("Not a name").unwrap_err().contains("neither"));
    }
}
