//! The NoCloud seed: a small FAT disk labelled `cidata` that cloud-init reads at boot.
//!
//! The same input gives the same bytes, so writing a seed again changes nothing. User data passes
//! through as given; only its size is bounded.

use std::fs::Permissions;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use gantry_types::ErrorClass;
use serde::Serialize;

use crate::error::StorageError;
use crate::network_config::{self, SeedNic};
use crate::staging::sync_dir;

/// Holds the largest user data with room to spare.
const DISK_BYTES: usize = 1 << 20;
const SECTOR_BYTES: u16 = 512;
const LABEL: [u8; 11] = *b"cidata     ";
/// Fixed: nothing tells seeds apart by it, and it must not depend on the clock.
const VOLUME_ID: u32 = 0x6761_6e74;
/// Read by the VM's QEMU only: user data holds secrets.
const SEED_FILE_MODE: u32 = 0o600;
pub(crate) const MAX_USER_DATA_BYTES: usize = 256 << 10;
const MAX_NICS: usize = 64;

/// What a guest learns from its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// A guest sets itself up anew when this changes.
    pub instance_id: String,
    /// A DNS name (RFC 1123), at most 253 characters.
    pub hostname: String,
    /// In guest order, `eth0` first.
    pub nics: Vec<SeedNic>,
    /// Passed on verbatim; empty `#cloud-config` if absent. At most 256 KiB.
    pub user_data: Option<Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("{0:?} can't be a hostname: use letters, digits and hyphens, labels of 1 to 63 characters, 253 in all")]
    Hostname(String),
    #[error("{0:?} can't be an instance id: use 1 to 128 letters, digits, '-', '_' or '.'")]
    InstanceId(String),
    #[error(
        "user data have {found_bytes} bytes, at most {limit_bytes} are possible: fetch the rest from inside the guest"
    )]
    UserDataTooLarge { found_bytes: usize, limit_bytes: usize },
    #[error("{0} network interfaces are more than a seed can describe (64)")]
    TooManyNics(usize),
    #[error("the seed's texts can't be written as YAML")]
    Yaml(#[source] serde_norway::Error),
    #[error("the seed's file system can't be made")]
    FileSystem(#[source] io::Error),
}

impl SeedError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Hostname(_) | Self::InstanceId(_) | Self::UserDataTooLarge { .. } | Self::TooManyNics(_) => {
                ErrorClass::Invalid
            }
            Self::Yaml(_) | Self::FileSystem(_) => ErrorClass::Permanent,
        }
    }
}

#[derive(Serialize)]
struct MetaData<'a> {
    #[serde(rename = "instance-id")]
    instance_id: &'a str,
    #[serde(rename = "local-hostname")]
    local_hostname: &'a str,
}

/// A seed's three files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedTexts {
    pub meta_data: String,
    pub user_data: Vec<u8>,
    pub network_config: String,
}

impl Seed {
    /// The files of the seed disk, for whoever hands them out in another way.
    pub fn texts(&self) -> Result<SeedTexts, SeedError> {
        self.validate()?;
        let meta_data = MetaData { instance_id: &self.instance_id, local_hostname: &self.hostname };
        Ok(SeedTexts {
            meta_data: serde_norway::to_string(&meta_data).map_err(SeedError::Yaml)?,
            user_data: self.user_data.clone().unwrap_or_else(|| b"#cloud-config\n".to_vec()),
            network_config: network_config::render(&self.nics).map_err(SeedError::Yaml)?,
        })
    }

    /// The bytes of the seed disk.
    pub fn build(&self) -> Result<Vec<u8>, SeedError> {
        let texts = self.texts()?;
        let files: [(&str, &[u8]); 3] = [
            ("meta-data", texts.meta_data.as_bytes()),
            ("user-data", texts.user_data.as_slice()),
            ("network-config", texts.network_config.as_bytes()),
        ];
        make_disk(&files).map_err(SeedError::FileSystem)
    }

    fn validate(&self) -> Result<(), SeedError> {
        if !is_hostname(&self.hostname) {
            return Err(SeedError::Hostname(self.hostname.chars().take(300).collect()));
        }
        let id_character = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=128).contains(&self.instance_id.len()) || !self.instance_id.chars().all(id_character) {
            return Err(SeedError::InstanceId(self.instance_id.chars().take(300).collect()));
        }
        let found_bytes = self.user_data.as_ref().map_or(0, Vec::len);
        if found_bytes > MAX_USER_DATA_BYTES {
            return Err(SeedError::UserDataTooLarge { found_bytes, limit_bytes: MAX_USER_DATA_BYTES });
        }
        if self.nics.len() > MAX_NICS {
            return Err(SeedError::TooManyNics(self.nics.len()));
        }
        Ok(())
    }

    /// Writes a built seed to `path` in one step, for the VM's uid. Blocks; a seed is 1 MiB.
    pub fn write(disk: &[u8], path: &Path, owner_uid: Option<u32>) -> Result<(), StorageError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let write = || {
            let mut file = tempfile::Builder::new().prefix(".seed-").tempfile_in(directory)?;
            file.write_all(disk)?;
            file.as_file().set_permissions(Permissions::from_mode(SEED_FILE_MODE))?;
            if let Some(owner) = owner_uid {
                fchown(file.as_file(), Some(owner), Some(owner))?;
            }
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            sync_dir(directory)
        };
        write().map_err(StorageError::io("writing seed", path))
    }
}

fn is_hostname(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// A clock that stands still at the first moment FAT knows.
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

static EPOCH: Epoch = Epoch;

fn make_disk(files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let mut disk = vec![0; DISK_BYTES];
    let format = FormatVolumeOptions::new()
        .fat_type(FatType::Fat12)
        .bytes_per_sector(SECTOR_BYTES)
        .bytes_per_cluster(u32::from(SECTOR_BYTES))
        .total_sectors((DISK_BYTES / usize::from(SECTOR_BYTES)) as u32)
        .volume_id(VOLUME_ID)
        .volume_label(LABEL);
    fatfs::format_volume(Cursor::new(disk.as_mut_slice()), format)?;
    let file_system = FileSystem::new(Cursor::new(disk.as_mut_slice()), FsOptions::new().time_provider(&EPOCH))?;
    for (name, content) in files {
        let mut file = file_system.root_dir().create_file(name)?;
        file.write_all(content)?;
        file.flush()?;
    }
    file_system.unmount()?;
    Ok(disk)
}
