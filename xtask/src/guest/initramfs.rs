//! Writes a tree as a compressed initramfs: the kernel's "newc" cpio format (Linux Documentation,
//! driver-api/early-userspace/buffer-format), everything owned by root and dated at the epoch, so that equal
//! inputs give equal bytes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::tree::{Node, Tree};
use crate::process;

pub fn write(tree: &Tree, path: &Path) -> Result<()> {
    let plain = path.with_extension("cpio");
    fs::write(&plain, cpio(tree)).with_context(|| format!("cannot write {}", plain.display()))?;
    process::output(process::command("zstd").args(["-q", "-19", "-T0", "-f", "-o"]).arg(path).arg(&plain))?;
    fs::remove_file(&plain).with_context(|| format!("cannot remove {}", plain.display()))
}

fn cpio(tree: &Tree) -> Vec<u8> {
    let mut archive = Vec::new();
    for (number, (path, node)) in tree.iter().enumerate() {
        let (mode, body): (u32, &[u8]) = match node {
            Node::Directory => (0o040_755, &[]),
            Node::File { bytes, executable: true } => (0o100_755, bytes),
            Node::File { bytes, executable: false } => (0o100_644, bytes),
            Node::Link { target } => (0o120_777, target.as_bytes()),
        };
        entry(&mut archive, number + 1, mode, path, body);
    }
    entry(&mut archive, 0, 0, "TRAILER!!!", &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, inode: usize, mode: u32, path: &str, body: &[u8]) {
    let links = 1;
    // magic, then 13 fields of eight hexadecimal digits: ino mode uid gid nlink mtime filesize devmajor devminor
    // rdevmajor rdevminor namesize check
    let header = format!(
        "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        0,
        0,
        0,
        body.len(),
        0,
        0,
        0,
        0,
        path.len() + 1,
        0
    );
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(body);
    pad(archive);
}

/// Names and bodies end on four-byte boundaries; headers are a multiple of four with the two NUL-less bytes of the
/// name that follows, so padding counts from the start of the archive.
fn pad(archive: &mut Vec<u8>) {
    while !archive.len().is_multiple_of(4) {
        archive.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_is_last() {
        let mut tree = Tree::new();
        tree.insert("init".into(), Node::File { bytes: b"abc".to_vec(), executable: true });
        tree.insert("d".into(), Node::Directory);
        let archive = cpio(&tree);
        assert_eq!(archive.len() % 4, 0);
        // "d": 110 + 2 bytes of name; the file's header follows at once.
        assert_eq!(&archive[112..118], b"070701");
        let mode = std::str::from_utf8(&archive[112 + 14..112 + 22]).unwrap();
        assert_eq!(u32::from_str_radix(mode, 16).unwrap(), 0o100_755);
        // 110 + "init\0" = 115, padded to 116, then the body.
        assert_eq!(&archive[112 + 116..112 + 119], b"abc");
        assert!(archive.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
