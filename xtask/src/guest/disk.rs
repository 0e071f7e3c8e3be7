//! The bootable disk: MBR, GRUB in the gap behind it, one ext4 partition. Written without loop devices or root.
//!
//!     sector 0      boot.img (446 bytes of code) + partition table
//!     sector 1..    core.img: loads /boot/vmlinuz and /boot/initramfs.zst of the first partition at once
//!     1 MiB..       ext4, label gantry-guest: /boot, and what the guest keeps across reboots (its /data)
//!
//! GRUB's boot sector looks for core.img in the next sector and core.img's first sector for the rest right behind
//! it, when both are left as they come; so embedding is plain copying, as long as it fits before the partition.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::tree;
use crate::process;

const SECTOR_BYTES: u64 = 512;
const PARTITION_START_BYTES: u64 = 1 << 20;
const DISK_BYTES: u64 = 256 << 20;
const BOOT_CODE_BYTES: usize = 446;

/// The disk's kernel command line.
///
/// * `quiet`: the emulated serial port is slow.
/// * `tsc=nowatchdog`: a starved emulator makes the clock watchdog condemn a good clock.
/// * `cryptomgr.notests`, `no_timer_check`, `random.trust_cpu=on`: boot-time self-checks cost most under emulation.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet tsc=nowatchdog no_timer_check cryptomgr.notests random.trust_cpu=on";

/// ext4 as both GRUB 2.06 and the guest's kernel read it.
const EXT4_FEATURES: &str = "none,has_journal,extent,filetype,dir_index,sparse_super,large_file,uninit_bg";

pub fn write(unpacked: &Path, kernel: &Path, initramfs: &Path, build: &Path, disk: &Path) -> Result<()> {
    let raw = build.join("guest.raw");
    let partition = build.join("partition.ext4");
    filesystem(kernel, initramfs, build, &partition)?;
    let core = core_image(unpacked, build)?;
    let room_bytes = (PARTITION_START_BYTES - SECTOR_BYTES) as usize;
    if core.len() > room_bytes {
        bail!("GRUB's core image has {} bytes, the gap before the partition {room_bytes}", core.len());
    }
    let boot = unpacked.join("usr/lib/grub/i386-pc/boot.img");
    let boot_code = fs::read(&boot).with_context(|| format!("cannot read {}", boot.display()))?;

    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&raw)
        .with_context(|| format!("cannot write {}", raw.display()))?;
    file.write_all(&boot_sector(&boot_code)?)?;
    file.write_all(&core)?;
    file.set_len(DISK_BYTES)?;
    file.seek(SeekFrom::Start(PARTITION_START_BYTES))?;
    file.write_all(&fs::read(&partition)?)?;
    drop(file);
    process::output(process::command("qemu-img").args(["convert", "-O", "qcow2"]).arg(&raw).arg(disk))?;
    for scratch in [raw, partition] {
        fs::remove_file(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    Ok(())
}

fn filesystem(kernel: &Path, initramfs: &Path, build: &Path, partition: &Path) -> Result<()> {
    let content = build.join("partition");
    if content.exists() {
        fs::remove_dir_all(&content).with_context(|| format!("cannot clear {}", content.display()))?;
    }
    let boot = content.join("boot");
    fs::create_dir_all(&boot).with_context(|| format!("cannot create {}", boot.display()))?;
    fs::copy(kernel, boot.join("vmlinuz")).context("cannot copy the kernel")?;
    fs::copy(initramfs, boot.join("initramfs.zst")).context("cannot copy the initramfs")?;
    if partition.exists() {
        fs::remove_file(partition).with_context(|| format!("cannot remove {}", partition.display()))?;
    }
    let size_kib = (DISK_BYTES - PARTITION_START_BYTES) / 1024;
    process::output(
        process::command("mke2fs")
            .args(["-q", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "gantry-guest", "-O", EXT4_FEATURES])
            .args(["-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", "-d"])
            .arg(&content)
            .arg(partition)
            .arg(format!("{size_kib}k")),
    )?;
    Ok(())
}

/// GRUB with just what reads one file system and starts Linux, and its configuration built in.
fn core_image(unpacked: &Path, build: &Path) -> Result<Vec<u8>> {
    let configuration = build.join("grub.cfg");
    let core = build.join("core.img");
    fs::write(&configuration, format!("linux /boot/vmlinuz {COMMAND_LINE}\ninitrd /boot/initramfs.zst\nboot\n"))
        .with_context(|| format!("cannot write {}", configuration.display()))?;
    process::output(
        tree::loader(unpacked)
            .arg(unpacked.join("usr/bin/grub-mkimage"))
            .args(["-O", "i386-pc", "-p", "(,msdos1)/boot", "-d"])
            .arg(unpacked.join("usr/lib/grub/i386-pc"))
            .arg("-c")
            .arg(&configuration)
            .arg("-o")
            .arg(&core)
            .args(["biosdisk", "part_msdos", "ext2", "linux", "boot"]),
    )?;
    fs::read(&core).with_context(|| format!("cannot read {}", core.display()))
}

/// The boot code with a partition table of one active Linux partition.
fn boot_sector(boot_code: &[u8]) -> Result<[u8; SECTOR_BYTES as usize]> {
    let Some(code) = boot_code.get(..BOOT_CODE_BYTES) else {
        bail!("GRUB's boot image has {} bytes, less than the {BOOT_CODE_BYTES} of a boot sector", boot_code.len());
    };
    let mut sector = [0; SECTOR_BYTES as usize];
    sector[..BOOT_CODE_BYTES].copy_from_slice(code);
    let entry = &mut sector[BOOT_CODE_BYTES..BOOT_CODE_BYTES + 16];
    entry[0] = 0x80;
    // Cylinder, head and sector in their "beyond what fits" spelling: everything reads the linear numbers.
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = 0x83;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    let start = (PARTITION_START_BYTES / SECTOR_BYTES) as u32;
    let sectors = ((DISK_BYTES - PARTITION_START_BYTES) / SECTOR_BYTES) as u32;
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_keeps_the_code_and_names_one_active_partition() {
        let sector = boot_sector(&[7; 512]).unwrap();
        assert!(sector[..446].iter().all(|byte| *byte == 7));
        assert_eq!(sector[446], 0x80);
        assert_eq!(u32::from_le_bytes(sector[454..458].try_into().unwrap()), 2048);
        assert_eq!(u32::from_le_bytes(sector[458..462].try_into().unwrap()), (255 << 20) / 512);
        assert_eq!(sector[462..510], [0; 48]);
        assert_eq!(sector[510..], [0x55, 0xaa]);
        assert!(boot_sector(&[0; 100]).is_err());
    }
}
