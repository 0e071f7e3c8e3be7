//! A virtual machine as QEMU needs to be told about it: pure data in, an argument vector out.
//!
//! Everything that comes from outside travels as a JSON value or as an argument of its own; the two
//! options that have neither form (`-name`, `-chardev`) get their commas doubled. So no name, path or
//! address can add an option of its own. Nothing here touches the system except [`locate`].
//!
//! The guest always has: a serial console on a socket (with a log file), a guest-agent port, a random
//! number source, and, if asked for, pvpanic, a screen and a watchdog. Disks and network ports appear in the order given.
//!
//! Failure behaviour: [`MachineConfig::argv`] refuses what cannot work (a socket path that is too long, a
//! CPU model that is not a plain word, a duplicate node name) before a process exists.

mod argv;
mod locate;
mod volume;

use std::path::PathBuf;

pub use argv::{Launch, MachineError};
pub(crate) use argv::{disk_nodes, image_name, utf8};
pub use locate::{LocateError, find_binary, find_uefi};
pub use volume::{SLOTS, Volume};

use gantry_types::DiskLocation;

/// The guest's instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    X86_64,
    Aarch64,
    Ppc64,
    Sparc64,
}

impl Arch {
    pub const ALL: [Self; 4] = [Self::X86_64, Self::Aarch64, Self::Ppc64, Self::Sparc64];

    /// QEMU's name of the architecture, also the suffix of its binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Ppc64 => "ppc64",
            Self::Sparc64 => "sparc64",
        }
    }

    /// The machine type used when none is pinned.
    pub fn default_machine_type(self) -> &'static str {
        match self {
            Self::X86_64 => "q35",
            Self::Aarch64 => "virt",
            Self::Ppc64 => "pseries",
            Self::Sparc64 => "sun4u",
        }
    }

    /// The architecture this program runs on, if QEMU guests of it are known here.
    pub fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            "powerpc64" => Some(Self::Ppc64),
            "sparc64" => Some(Self::Sparc64),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// The machine type's own default: SeaBIOS on x86-64, SLOF on ppc64, OpenBIOS on sparc64.
    Bios,
    /// UEFI: the read-only code and this machine's own writable copy of the variables, both raw.
    Uefi { code: PathBuf, vars: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    Qcow2,
    Raw,
}

impl DiskFormat {
    fn driver(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// The image below a qcow2 overlay. It is always named here: what an overlay's own header says is not
/// followed, so that a file from outside can never make QEMU open another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingImage {
    pub location: DiskLocation,
    pub format: DiskFormat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Name of the block node: NAME, or NAME-PLACE where it has moved to. At most 31 letters, digits, `-`, `_` or `.`, starting with a letter.
    pub node_name: String,
    pub location: DiskLocation,
    pub format: DiskFormat,
    pub read_only: bool,
    /// `None` for an image that stands alone. An overlay opened without its backing reads as zeros.
    pub backing: Option<BackingImage>,
    /// Bypass the host's page cache; false where the file system has no O_DIRECT (see
    /// [`crate::probe::direct_io_works`]).
    pub direct_io: bool,
    /// Place in the boot order, lowest first; `None`: never booted from.
    pub boot_index: Option<u32>,
}

impl Disk {
    /// Its name, wherever it lies.
    pub(crate) fn base_name(&self) -> &str {
        self.node_name.split_once('-').map_or(&self.node_name, |(name, _)| name)
    }

    /// The machine's own disk of this name among its devices, in what QEMU tells of each; wherever it lies.
    pub fn is_device(qdev: &str, name: &str) -> bool {
        let rest = qdev.strip_prefix("/machine/peripheral/disk-").and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// `aa:bb:cc:dd:ee:ff`
    pub mac: String,
    /// What the guest is told; `None` leaves it at 1500.
    pub mtu: Option<u16>,
}

/// Booting a kernel directly, without a boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBoot {
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub cmdline: String,
}

/// Where QEMU puts its sockets. The directory must belong to the process's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketsDir(pub PathBuf);

impl SocketsDir {
    pub fn qmp(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }
    pub fn guest_agent(&self) -> PathBuf {
        self.0.join("agent.sock")
    }
    pub fn console(&self) -> PathBuf {
        self.0.join("console.sock")
    }
    pub fn vnc(&self) -> PathBuf {
        self.0.join("vnc.sock")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// Shown in process lists; may be any text.
    pub name: String,
    /// In the usual form with hyphens.
    pub uuid: String,
    pub arch: Arch,
    /// A versioned type such as `pc-q35-7.2`; both ends of a migration need the same one. `None`: the
    /// installed QEMU's newest.
    pub machine_type: Option<String>,
    pub accelerator: Accelerator,
    /// E.g. `max`, `host`, `Skylake-Server`.
    pub cpu_model: String,
    pub cpus: u32,
    /// What the guest's owner asked for; under TCG the guest gets 8 KiB less, see [`Self::ram_kib`].
    pub memory_mib: u64,
    pub firmware: Firmware,
    pub disks: Vec<Disk>,
    pub volumes: Vec<Volume>,
    pub nics: Vec<Nic>,
    pub kernel: Option<KernelBoot>,
    pub sockets: SocketsDir,
    /// Everything the guest prints on its console is appended here. If it exists it must belong to the process's user.
    pub console_log: PathBuf,
    /// Wait for a migration (`-incoming defer`); implies `start_paused`.
    pub incoming: bool,
    /// Do not run until told to (`cont`).
    pub start_paused: bool,
    /// A graphics card, a USB keyboard and a USB tablet, shown by a VNC server on a socket.
    pub screen: bool,
    /// Report guest panics, and halt the guest when one happens instead of ending QEMU.
    pub pvpanic: bool,
    /// A watchdog timer (i6300esb). When the guest does not feed it in time the guest is halted and QEMU says so.
    pub watchdog: bool,
}

impl MachineConfig {
    /// RAM in KiB. QEMU before 2024 loses dirty pages of a TCG guest in migration whenever RAM is a whole
    /// multiple of 256 KiB (its aligned dirty-bitmap path does not reset the TLB), so 8 KiB are taken off.
    pub fn ram_kib(&self) -> u64 {
        match self.accelerator {
            Accelerator::Kvm => self.memory_mib * 1024,
            Accelerator::Tcg => (self.memory_mib * 1024).saturating_sub(8),
        }
    }
}
