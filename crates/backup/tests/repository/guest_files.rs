//! Files of guests, out of file systems that `mke2fs` makes.

use std::path::Path;
use std::process::Command;

use gantry_backup::guest_files::{Found, GuestFilesError, look_up};
use gantry_backup::{DiskReader, Repository, RepositoryError};
use uuid::Uuid;

use crate::support::{in_memory, write_backup};

/// An ext4 of 8 MiB with a few files.
fn file_system(directory: &Path) -> Vec<u8> {
    let (content, image) = (directory.join("content"), directory.join("ext4"));
    std::fs::create_dir_all(content.join("etc/deep")).unwrap();
    std::fs::write(content.join("etc/hostname"), "web\n").unwrap();
    std::fs::write(content.join("etc/large"), vec![7; 5 << 20]).unwrap();
    std::os::unix::fs::symlink("hostname", content.join("etc/alias")).unwrap();
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&content).arg(&image).arg("16M").status();
    assert!(made.unwrap().success());
    std::fs::read(image).unwrap()
}

async fn disk(repository: &Repository, content: &[u8]) -> DiskReader {
    let backup = Uuid::new_v4();
    write_backup(repository, backup, content).await.unwrap();
    DiskReader::new(repository, repository.manifest(backup).await.unwrap().disk("disk").unwrap())
}

/// A disk with one partition of this type at 1 MiB.
fn partitioned(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[446 + 4] = kind;
    disk[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(content);
    disk
}

/// The same with a GPT.
fn gpt(content: &[u8]) -> Vec<u8> {
    let mut disk = partitioned(0xee, content);
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[512 + 72..512 + 80].copy_from_slice(&2_u64.to_le_bytes());
    disk[512 + 80..512 + 84].copy_from_slice(&128_u32.to_le_bytes());
    disk[512 + 84..512 + 88].copy_from_slice(&128_u32.to_le_bytes());
    disk[1024..1040].fill(1);
    disk[1024 + 32..1024 + 40].copy_from_slice(&2048_u64.to_le_bytes());
    disk
}

#[tokio::test]
async fn files_are_found_in_bare_file_systems_and_in_partitions() {
    let (directory, repository) = (tempfile::tempdir().unwrap(), in_memory().await);
    let ext4 = file_system(directory.path());
    for content in [ext4.clone(), partitioned(0x83, &ext4), gpt(&ext4)] {
        let content = &disk(&repository, &content).await;
        let look = async |path: &str, offset| look_up(content.clone(), path, offset).await;
        for path in ["/etc/hostname", "/etc/alias"] {
            let found = look(path, 0).await.unwrap();
            assert_eq!(found, Found::File { size_bytes: 4, part: b"web\n".to_vec() });
        }
        let Found::File { size_bytes, part } = look("/etc/large", 4 << 20).await.unwrap() else { panic!("no file") };
        assert_eq!((size_bytes, part), (5 << 20, vec![7; 1 << 20]));
        let entries = ["alias", "deep/", "hostname", "large"].map(str::to_owned).to_vec();
        assert_eq!(look("/etc", 0).await.unwrap(), Found::Directory { entries });
        let missing = look("/etc/shadow", 0).await.unwrap_err();
        assert!(matches!(missing, RepositoryError::GuestFiles(GuestFilesError::NotFound { .. })), "{missing}");
        let wrong = look("etc", 0).await.unwrap_err();
        assert!(matches!(wrong, RepositoryError::GuestFiles(GuestFilesError::NotAPath { .. })), "{wrong}");
    }
}

#[tokio::test]
async fn what_can_not_be_read_is_named() {
    let repository = in_memory().await;
    let mut xfs = vec![0; 1 << 20];
    xfs[..4].copy_from_slice(b"XFSB");
    let content = disk(&repository, &partitioned(0x83, &xfs)).await;
    let refused = look_up(content, "/etc/hostname", 0).await.unwrap_err().to_string();
    assert!(refused.contains("XFS in partition 1"), "{refused}");
    let content = disk(&repository, &[1; 4096]).await;
    let refused = look_up(content, "/etc/hostname", 0).await.unwrap_err();
    assert!(matches!(refused, RepositoryError::GuestFiles(GuestFilesError::NoFileSystem { .. })), "{refused}");
}
