//! What is really on a VM's disk, read by other programs once no QEMU has it open.
//!
//! The guest writes its numbered blocks into a file on its ext4 partition. `qemu-img` takes the partition out of the
//! overlay, `e2fsck` replays its journal (on the copy), `debugfs` takes the file out, and the blocks are checked here with
//! the arithmetic of `guest/wl.c`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::guest::SEQUENCE_FILE;

/// Where the test guest's partition begins; see `xtask/src/guest/disk.rs`.
const PARTITION_START_BYTES: u64 = 32 << 20;
const BLOCK_BYTES: usize = 4096;
const MAGIC: u64 = 0x5153_5952_544e_4147;

/// What the numbered blocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceReport {
    /// The highest number found.
    pub last: u64,
    /// Blocks that should hold one of the newest numbers and do not.
    pub bad: u64,
}

/// Reads the sequence file of the guest whose disk is `disk` and makes sure that everything up to `acknowledged` is
/// there.
pub fn check(disk: &Path, acknowledged: u64) -> Result<SequenceReport> {
    let report = read(disk)?;
    ensure!(report.bad == 0, "{} blocks on {} are not what was acknowledged: {report:?}", report.bad, disk.display());
    ensure!(
        report.last >= acknowledged,
        "writes were lost: {acknowledged} was acknowledged, {} is the last on {}",
        report.last,
        disk.display()
    );
    Ok(report)
}

/// Reads the sequence file of a guest's disk that nobody has open.
pub fn read(disk: &Path) -> Result<SequenceReport> {
    let scratch = tempfile::tempdir().context("no scratch directory")?;
    let partition = scratch.path().join("partition.ext4");
    let mut overlay = serde_json::json!({"driver": "qcow2", "file": {"driver": "file", "filename": disk}});
    if let Some(image) = exported_image(disk)? {
        overlay["backing"] = serde_json::json!({"driver": "qcow2", "file": {"driver": "file", "filename": image}});
    }
    let source = serde_json::json!({"driver": "raw", "offset": PARTITION_START_BYTES, "file": overlay});
    run(Command::new("qemu-img").args(["convert", "-O", "raw", &format!("json:{source}")]).arg(&partition), 0)?;
    // 1: errors were corrected, such as a journal to replay.
    run(Command::new("e2fsck").args(["-f", "-y"]).arg(&partition), 1)?;
    let file = scratch.path().join("sequence");
    let dump = format!("dump {SEQUENCE_FILE} {}", file.display());
    run(Command::new("debugfs").args(["-R", &dump]).arg(&partition), 0)?;
    let bytes = fs::read(&file).with_context(|| format!("{} holds no {SEQUENCE_FILE}", disk.display()))?;
    ensure!(bytes.len() >= BLOCK_BYTES, "the guest's sequence file on {} is empty", disk.display());
    Ok(judge(&bytes))
}

/// The image of a disk in an export, which its header names by a URL: it is beside the disk.
fn exported_image(disk: &Path) -> Result<Option<PathBuf>> {
    let told = Command::new("qemu-img").args(["info", "--output=json", "-f", "qcow2"]).arg(disk).output()?;
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).context("qemu-img info")?;
    let name = told["backing-filename"].as_str().filter(|name| name.starts_with("nfs://"));
    Ok(name.and_then(|name| name.rsplit('/').next()).map(|name| disk.with_file_name(name)))
}

/// Reads the numbered blocks of a volume that nobody has open; they fill it from its beginning to its size at first.
pub fn read_whole(volume: &Path) -> Result<SequenceReport> {
    let scratch = tempfile::tempdir().context("no scratch directory")?;
    let raw = scratch.path().join("volume.raw");
    run(Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(volume).arg(&raw), 0)?;
    Ok(judge(&fs::read(&raw).with_context(|| format!("cannot read {}", raw.display()))?))
}

/// Everything that the guest was told is durable is on a volume that nobody has open.
pub fn check_whole(volume: &Path, acknowledged: u64) -> Result<()> {
    let report = read_whole(volume)?;
    println!("{}: {report:?}, {acknowledged} were acknowledged", volume.display());
    ensure!(report.bad == 0 && report.last >= acknowledged, "writes were lost: {report:?} of {acknowledged}");
    Ok(())
}

fn judge(bytes: &[u8]) -> SequenceReport {
    let blocks = bytes.as_chunks::<BLOCK_BYTES>().0;
    let count = blocks.len() as u64;
    let numbers: Vec<u64> = (0..).zip(blocks).map(|(place, block)| number_of(place, block, count)).collect();
    let last = numbers.iter().copied().max().unwrap_or(0);
    let due = |place: u64| if last < place + 1 { 0 } else { last - (last - (place + 1)) % count };
    let bad = (0..).zip(&numbers).filter(|(place, number)| due(*place) != **number).count();
    SequenceReport { last, bad: bad as u64 }
}

/// The number that the block at `place` holds; 0 if it is not a whole block that belongs there.
fn number_of(place: u64, block: &[u8; BLOCK_BYTES], count: u64) -> u64 {
    let (words, _) = block.as_chunks::<8>();
    let word = |index: usize| u64::from_le_bytes(words[index]);
    let number = word(1);
    let belongs = word(0) == MAGIC && number > 0 && (number - 1) % count == place;
    let whole = belongs && (2..words.len()).all(|index| word(index) == mix(number, index as u64));
    if whole { number } else { 0 }
}

fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b);
    for _ in 0..2 {
        x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    x ^ (x >> 32)
}

fn run(command: &mut Command, highest_good_code: i32) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if output.status.code().is_none_or(|code| code > highest_good_code) {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64) -> Vec<u8> {
        let words = (0..512).map(|index| match index {
            0 => MAGIC,
            1 => number,
            _ => mix(number, index),
        });
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn file(numbers: [u64; 4]) -> Vec<u8> {
        let blocks = numbers.into_iter().map(|number| if number == 0 { vec![0; BLOCK_BYTES] } else { block(number) });
        blocks.flatten().collect()
    }

    #[test]
    fn a_sequence_is_whole_before_and_after_it_wraps_and_a_lost_block_shows() {
        assert_eq!(judge(&file([1, 2, 0, 0])), SequenceReport { last: 2, bad: 0 });
        assert_eq!(judge(&file([5, 6, 3, 4])), SequenceReport { last: 6, bad: 0 });
        assert_eq!(judge(&file([5, 2, 7, 4])), SequenceReport { last: 7, bad: 1 }, "6 was lost, 2 is still there");
        let mut torn = file([1, 2, 3, 4]);
        torn[BLOCK_BYTES + 100] ^= 1;
        assert_eq!(judge(&torn), SequenceReport { last: 4, bad: 1 });
    }
}
