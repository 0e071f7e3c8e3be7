//! Disk images for the tests: made with `qemu-img`, compared by what a guest would read.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_storage::{ImageInfo, ImageStore, ImportOptions, StorageError};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

/// A directory with a store in it and room for image files.
pub struct Bench {
    pub directory: TempDir,
    pub store: ImageStore,
}

impl Bench {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A raw disk of 8 MiB with a boot signature and data near its start, middle and end.
    pub fn raw_disk(&self) -> PathBuf {
        let path = self.file("disk.raw");
        let file = File::create(&path).unwrap();
        file.set_len(8 * MIB).unwrap();
        file.write_all_at(&[0x55, 0xaa], 510).unwrap();
        for (offset, seed) in [(4096, 1_u32), (3 * MIB + 512, 2), (8 * MIB - 100_000, 3)] {
            file.write_all_at(&noise(seed, 100_000), offset).unwrap();
        }
        path
    }

    /// [`Self::raw_disk`] in another format; `options` as `qemu-img -o` takes them.
    pub fn disk_as(&self, format: &str, options: &[&str]) -> PathBuf {
        let raw = self.raw_disk();
        let path = self.file(&format!("disk-{}.{format}", options.join("-").replace(['=', '/'], "-")));
        let mut arguments = vec!["convert", "-f", "raw", "-O", format];
        for option in options {
            arguments.extend(["-o", option]);
        }
        arguments.extend([raw.to_str().unwrap(), path.to_str().unwrap()]);
        qemu_img(&arguments);
        path
    }

    pub async fn import(&self, path: &Path) -> Result<ImageInfo, StorageError> {
        self.import_with(path, &ImportOptions::default()).await
    }

    pub async fn import_with(&self, path: &Path, options: &ImportOptions) -> Result<ImageInfo, StorageError> {
        self.store.import(path, options, |_| {}).await
    }

    /// Nothing staged and nothing stored: what every failure must leave.
    pub fn assert_empty(&self) {
        let staged = fs::read_dir(self.store.path().join(".staging")).unwrap().count();
        let entries = fs::read_dir(self.store.path()).unwrap().count();
        assert_eq!((staged, entries), (0, 1), "an import that failed left something behind");
    }
}

/// Bytes that don't compress and differ by seed.
pub fn noise(seed: u32, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

pub fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The bytes a guest sees in a qcow2.
pub fn guest_bytes(image: &Path) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().unwrap();
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", image.to_str().unwrap(), raw.path().to_str().unwrap()]);
    fs::read(raw.path()).unwrap()
}

/// Compresses a file with the named program, as a person would.
pub fn compress(program: &str, path: &Path) -> PathBuf {
    let packed = path.with_extension(program);
    let output = Command::new(program).arg("-c").arg(path).output().unwrap();
    assert!(output.status.success());
    fs::write(&packed, output.stdout).unwrap();
    packed
}

/// Changes some bytes of a file in place.
pub fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

pub fn cut(path: &Path, length_bytes: u64) {
    File::options().write(true).open(path).unwrap().set_len(length_bytes).unwrap();
}

/// The whole chain of messages, as the edge prints it.
pub fn chain(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
