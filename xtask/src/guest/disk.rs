//! The bootable disk: MBR, GRUB, kernel and initramfs as plain runs of sectors, one ext4 partition. Written without
//! loop devices or root.
//!
//!     sector 0      boot.img (446 bytes of code) + partition table
//!     sector 1..    core.img, with its configuration built in
//!     1 MiB..       kernel, then initramfs
//!     32 MiB..      ext4, label gantry-guest: what the guest keeps across reboots (its /data)
//!
//! GRUB's boot sector looks for core.img in the next sector and core.img's first sector for the rest right behind
//! it, when both are left as they come; so embedding is plain copying. Kernel and initramfs are named by sector
//! because GRUB reads a file of a filesystem 4 KiB at a time, which under emulation takes seconds.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::tree;
use crate::process;

const SECTOR_BYTES: u64 = 512;
const KERNEL_START_BYTES: u64 = 1 << 20;
const PARTITION_START_BYTES: u64 = 32 << 20;
const DISK_BYTES: u64 = 256 << 20;
const BOOT_CODE_BYTES: usize = 446;

/// The disk's kernel command line.
///
/// * `quiet`: the emulated serial port is slow.
/// * `tsc=nowatchdog`: a starved emulator makes the clock watchdog condemn a good clock.
/// * `cryptomgr.notests`, `no_timer_check`, `random.trust_cpu=on`: boot-time self-checks cost most under emulation.
const COMMAND_LINE: &str = "console=ttyS0 quiet tsc=nowatchdog no_timer_check cryptomgr.notests random.trust_cpu=on";

pub fn write(unpacked: &Path, kernel: &Path, initramfs: &Path, build: &Path, disk: &Path) -> Result<()> {
    let kernel = Run::read(kernel, KERNEL_START_BYTES)?;
    let initramfs = Run::read(initramfs, kernel.end_bytes())?;
    if initramfs.end_bytes() > PARTITION_START_BYTES {
        bail!(
            "kernel and initramfs end at byte {}, the partition begins at {PARTITION_START_BYTES}",
            initramfs.end_bytes()
        );
    }
    let core = Run { start_bytes: SECTOR_BYTES, content: core_image(unpacked, build, &kernel, &initramfs)? };
    if core.end_bytes() > KERNEL_START_BYTES {
        bail!("GRUB's core image ends at byte {}, the kernel begins at {KERNEL_START_BYTES}", core.end_bytes());
    }
    let boot = unpacked.join("usr/lib/grub/i386-pc/boot.img");
    let boot_code = fs::read(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let boot = Run { start_bytes: 0, content: boot_sector(&boot_code)?.to_vec() };
    let partition = Run { start_bytes: PARTITION_START_BYTES, content: filesystem(build)? };

    let raw = build.join("guest.raw");
    let failed = || format!("cannot write {}", raw.display());
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&raw).with_context(failed)?;
    for run in [boot, core, kernel, initramfs, partition] {
        file.seek(SeekFrom::Start(run.start_bytes)).with_context(failed)?;
        file.write_all(&run.content).with_context(failed)?;
    }
    file.set_len(DISK_BYTES).with_context(failed)?;
    drop(file);
    process::output(process::command("qemu-img").args(["convert", "-O", "qcow2"]).arg(&raw).arg(disk))?;
    fs::remove_file(&raw).with_context(|| format!("cannot remove {}", raw.display()))
}

/// Something at a fixed place of the disk.
struct Run {
    start_bytes: u64,
    content: Vec<u8>,
}

impl Run {
    fn read(path: &Path, start_bytes: u64) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { start_bytes, content })
    }

    fn end_bytes(&self) -> u64 {
        self.start_bytes + (self.content.len() as u64).next_multiple_of(SECTOR_BYTES)
    }

    /// GRUB's notation of a run of sectors on the boot disk. The zeros that fill up the last sector are what
    /// neither the kernel loader nor the initramfs unpacker minds.
    fn block_list(&self) -> String {
        format!("{}+{}", self.start_bytes / SECTOR_BYTES, (self.end_bytes() - self.start_bytes) / SECTOR_BYTES)
    }
}

/// An empty ext4 file system of the partition's size.
fn filesystem(build: &Path) -> Result<Vec<u8>> {
    let partition = build.join("partition.ext4");
    if partition.exists() {
        fs::remove_file(&partition).with_context(|| format!("cannot remove {}", partition.display()))?;
    }
    process::output(
        process::command("mke2fs")
            .args(["-q", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "gantry-guest", "-J", "size=4"])
            .args(["-E", "root_owner=0:0,lazy_itable_init=0"])
            .arg(&partition)
            .arg(format!("{}k", (DISK_BYTES - PARTITION_START_BYTES) / 1024)),
    )?;
    let content = fs::read(&partition).with_context(|| format!("cannot read {}", partition.display()))?;
    fs::remove_file(&partition).with_context(|| format!("cannot remove {}", partition.display()))?;
    Ok(content)
}

/// GRUB with just what reads the boot disk's sectors and starts Linux. By the 16-bit protocol, because with the
/// 32-bit one GRUB moves the loaded kernel byte by byte before it starts: a second under emulation.
fn core_image(unpacked: &Path, build: &Path, kernel: &Run, initramfs: &Run) -> Result<Vec<u8>> {
    let configuration = build.join("grub.cfg");
    let core = build.join("core.img");
    let text = format!("linux16 {} {COMMAND_LINE}\ninitrd16 {}\nboot\n", kernel.block_list(), initramfs.block_list());
    fs::write(&configuration, text).with_context(|| format!("cannot write {}", configuration.display()))?;
    process::output(
        tree::loader(unpacked)
            .arg(unpacked.join("usr/bin/grub-mkimage"))
            .args(["-O", "i386-pc", "-p", "()/boot", "-d"])
            .arg(unpacked.join("usr/lib/grub/i386-pc"))
            .arg("-c")
            .arg(&configuration)
            .arg("-o")
            .arg(&core)
            .args(["biosdisk", "linux16", "boot"]),
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
        assert_eq!(u32::from_le_bytes(sector[454..458].try_into().unwrap()), 65536);
        assert_eq!(u32::from_le_bytes(sector[458..462].try_into().unwrap()), (224 << 20) / 512);
        assert_eq!(sector[462..510], [0; 48]);
        assert_eq!(sector[510..], [0x55, 0xaa]);
        assert!(boot_sector(&[0; 100]).is_err());
    }
}
