//! From a [`MachineConfig`] to QEMU's argument vector.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use gantry_types::DiskLocation;
use serde_json::{Value, json};

use super::volume::{add_slots, add_volume};
use super::{Accelerator, Arch, BackingImage, Disk, Firmware, MachineConfig, Nic, SLOTS};
use crate::ErrorClass;

/// `sun_path` of a Unix socket address, less its terminating zero.
const SOCKET_PATH_LIMIT_BYTES: usize = 107;
const NODE_NAME_LIMIT_BYTES: usize = 31;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MachineError {
    #[error("socket path {} is longer than {SOCKET_PATH_LIMIT_BYTES} bytes: use a shorter state directory", path.display())]
    SocketPathTooLong { path: PathBuf },
    #[error("path {} is not UTF-8, which QEMU's JSON options require", path.display())]
    PathNotUtf8 { path: PathBuf },
    #[error("{what} {value:?} contains characters that are not allowed there")]
    Characters { what: &'static str, value: String },
    #[error("disk node name {node_name:?} is used twice")]
    DuplicateNode { node_name: String },
    #[error("volume {id:?} can't have slot {slot}: there are {SLOTS}, each for one volume")]
    VolumeSlot { id: String, slot: u8 },
    #[error("the machine has {nics} network ports but {taps} taps were opened for it")]
    TapCount { nics: usize, taps: usize },
    #[error("{what} must be at least 1")]
    Zero { what: &'static str },
}

impl MachineError {
    pub(super) fn not_utf8(location: &DiskLocation) -> Self {
        Self::PathNotUtf8 { path: location.to_string().into() }
    }

    pub fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

/// What is only known when the process is about to be started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// The value of `-sandbox`, from [`crate::probe::probe_sandbox`]; `None` where it doesn't work.
    pub sandbox: Option<&'static str>,
    /// One descriptor for each network port, in order; they must be inherited under these numbers.
    pub tap_fds: Vec<RawFd>,
}

impl MachineConfig {
    /// The arguments after the program's name.
    pub fn argv(&self, launch: &Launch) -> Result<Vec<OsString>, MachineError> {
        self.check(launch)?;
        let mut args = Args(Vec::new());
        self.base(&mut args, launch)?;
        self.firmware(&mut args)?;
        self.channels(&mut args);
        for disk in &self.disks {
            add_disk(&mut args, disk)?;
        }
        for (index, (nic, fd)) in self.nics.iter().zip(&launch.tap_fds).enumerate() {
            add_nic(&mut args, index, nic, *fd);
        }
        add_slots(&mut args, self.arch);
        for volume in &self.volumes {
            add_volume(&mut args, self.arch, volume)?;
        }
        if self.screen {
            self.add_screen(&mut args);
        }
        if self.watchdog {
            // Last, so that all other devices keep their places on the bus.
            args.json("-device", json!({"driver": "i6300esb", "id": "watchdog"}));
            args.pair("-action", "watchdog=pause");
        }
        if let Some(boot) = &self.kernel {
            args.pair("-kernel", &boot.kernel);
            if let Some(initrd) = &boot.initrd {
                args.pair("-initrd", initrd);
            }
            args.pair("-append", &boot.cmdline);
        }
        if self.incoming {
            args.pair("-incoming", "defer");
        }
        if self.incoming || self.start_paused {
            args.flag("-S");
        }
        Ok(args.0)
    }

    fn check(&self, launch: &Launch) -> Result<(), MachineError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        check_word("CPU model", &self.cpu_model, plain)?;
        check_word("UUID", &self.uuid, |c| c.is_ascii_hexdigit() || c == '-')?;
        if let Some(machine_type) = &self.machine_type {
            check_word("machine type", machine_type, plain)?;
        }
        if self.cpus == 0 {
            return Err(MachineError::Zero { what: "cpus" });
        }
        if self.memory_mib == 0 {
            return Err(MachineError::Zero { what: "memory" });
        }
        let mut nodes = HashSet::new();
        for disk in &self.disks {
            check_word("disk node name", &disk.node_name, plain)?;
            let starts_well = disk.node_name.starts_with(|c: char| c.is_ascii_alphabetic());
            if !starts_well || disk.node_name.len() > NODE_NAME_LIMIT_BYTES {
                return Err(MachineError::Characters { what: "disk node name", value: disk.node_name.clone() });
            }
            if !nodes.insert(&disk.node_name) {
                return Err(MachineError::DuplicateNode { node_name: disk.node_name.clone() });
            }
        }
        let mut slots = HashSet::new();
        for volume in &self.volumes {
            for (what, text) in [("volume id", &volume.id), ("volume place", &volume.place)] {
                check_word(what, text, |c| c.is_ascii_alphanumeric())?;
            }
            check_word("volume serial", &volume.serial, plain)?;
            if !nodes.insert(&volume.id) || volume.slot >= SLOTS || !slots.insert(volume.slot) {
                return Err(MachineError::VolumeSlot { id: volume.id.clone(), slot: volume.slot });
            }
        }
        for nic in &self.nics {
            check_word("MAC address", &nic.mac, |c| c.is_ascii_hexdigit() || c == ':')?;
        }
        if self.nics.len() != launch.tap_fds.len() {
            return Err(MachineError::TapCount { nics: self.nics.len(), taps: launch.tap_fds.len() });
        }
        let sockets = &self.sockets;
        for path in [sockets.qmp(), sockets.guest_agent(), sockets.console(), sockets.vnc()] {
            if path.as_os_str().len() > SOCKET_PATH_LIMIT_BYTES {
                return Err(MachineError::SocketPathTooLong { path });
            }
        }
        self.check_no_nul()
    }

    /// An argument vector ends at a zero byte: refuse one instead of cutting a value short.
    fn check_no_nul(&self) -> Result<(), MachineError> {
        let boot = self.kernel.iter().flat_map(|boot| [Some(&boot.kernel), boot.initrd.as_ref()]);
        for path in boot.flatten().map(PathBuf::as_path).chain([self.sockets.0.as_path()]) {
            check_word("path", &path.to_string_lossy(), |c| c != '\0')?;
        }
        let disks = self.disks.iter().map(|disk| &disk.location);
        let images = self.disks.iter().filter_map(|disk| disk.backing.as_ref()).map(|backing| &backing.location);
        for location in disks.chain(images).chain(self.volumes.iter().map(|volume| &volume.location)) {
            check_word("path", &location.to_string(), |c| c != '\0')?;
        }
        check_word("name", &self.name, |c| c != '\0')?;
        match &self.kernel {
            Some(boot) if boot.cmdline.contains('\0') => {
                Err(MachineError::Characters { what: "kernel command line", value: boot.cmdline.clone() })
            }
            _ => Ok(()),
        }
    }

    fn base(&self, args: &mut Args, launch: &Launch) -> Result<(), MachineError> {
        args.pair("-name", format!("guest={},debug-threads=on", double_commas(&self.name)));
        args.pair("-uuid", &self.uuid);
        args.flag("-nodefaults");
        args.flag("-no-user-config");
        args.pair("-display", "none");
        args.pair("-msg", "timestamp=on");
        if let Some(sandbox) = launch.sandbox {
            args.pair("-sandbox", sandbox);
        }
        let mut machine = self.machine_type.clone().unwrap_or_else(|| self.arch.default_machine_type().to_owned());
        if matches!(self.firmware, Firmware::Uefi { .. }) {
            machine.push_str(",pflash0=firmware-code,pflash1=firmware-vars");
        }
        args.pair("-machine", machine);
        args.pair(
            "-accel",
            match self.accelerator {
                Accelerator::Kvm => "kvm",
                // One virtual CPU gains nothing from its own translation thread.
                Accelerator::Tcg if self.cpus == 1 => "tcg,thread=single",
                Accelerator::Tcg => "tcg,thread=multi",
            },
        );
        args.pair("-cpu", &self.cpu_model);
        args.pair("-smp", format!("cpus={0},sockets=1,cores={0},threads=1", self.cpus));
        args.pair("-m", format!("{}K", self.ram_kib()));
        args.pair("-rtc", "base=utc");
        args.pair("-boot", "strict=on");
        Ok(())
    }

    fn firmware(&self, args: &mut Args) -> Result<(), MachineError> {
        let Firmware::Uefi { code, vars } = &self.firmware else {
            return Ok(());
        };
        for (node, path, read_only) in [("firmware-code", code, true), ("firmware-vars", vars, false)] {
            args.json(
                "-blockdev",
                json!({"driver": "raw", "node-name": node, "read-only": read_only,
                       "file": {"driver": "file", "filename": utf8(path)?, "read-only": read_only}}),
            );
        }
        Ok(())
    }

    fn channels(&self, args: &mut Args) {
        let socket = |id: &str, path: &Path| {
            let mut option = OsString::from(format!("socket,id={id},server=on,wait=off,path="));
            option.push(double_commas_os(path.as_os_str()));
            option
        };
        args.pair("-chardev", socket("qmp", &self.sockets.qmp()));
        args.pair("-mon", "chardev=qmp,mode=control");
        let mut console = socket("console", &self.sockets.console());
        console.push(",logappend=on,logfile=");
        console.push(double_commas_os(self.console_log.as_os_str()));
        args.pair("-chardev", console);
        args.pair("-serial", "chardev:console");
        args.pair("-chardev", socket("agent", &self.sockets.guest_agent()));
        args.json("-device", json!({"driver": "virtio-serial-pci", "id": "ports"}));
        args.json(
            "-device",
            json!({"driver": "virtserialport", "bus": "ports.0", "chardev": "agent",
                   "id": "agent-port", "name": "org.qemu.guest_agent.0"}),
        );
        args.json("-object", json!({"qom-type": "rng-builtin", "id": "entropy"}));
        args.json("-device", json!({"driver": "virtio-rng-pci", "id": "rng", "rng": "entropy"}));
        if self.pvpanic {
            args.json("-device", json!({"driver": "pvpanic-pci", "id": "panic"}));
            args.pair("-action", "panic=pause");
        }
    }
}

impl MachineConfig {
    /// Behind all other devices, so that these keep their places on the bus.
    fn add_screen(&self, args: &mut Args) {
        let mut server = OsString::from("unix:");
        server.push(double_commas_os(self.sockets.vnc().as_os_str()));
        args.pair("-vnc", server);
        let card = match self.arch {
            // It has no legacy VGA; guests bring a driver for this one.
            Arch::Aarch64 => "virtio-gpu-pci",
            Arch::X86_64 | Arch::Ppc64 | Arch::Sparc64 => "VGA",
        };
        args.json("-device", json!({"driver": card, "id": "screen"}));
        args.json("-device", json!({"driver": "qemu-xhci", "id": "usb"}));
        args.json("-device", json!({"driver": "usb-kbd", "id": "keyboard", "bus": "usb.0"}));
        // A tablet says where the pointer is; a mouse only how it moved, which a viewer can't follow.
        args.json("-device", json!({"driver": "usb-tablet", "id": "pointer", "bus": "usb.0"}));
    }
}

fn disk_node(disk: &Disk) -> Result<Value, MachineError> {
    let mut node = json!({
        "driver": disk.format.driver(),
        "node-name": disk.node_name,
        "read-only": disk.read_only,
        "cache": {"direct": disk.direct_io},
        "discard": "unmap",
        "file": file_node(&disk.location, disk.read_only, disk.direct_io)?,
    });
    if !disk.read_only {
        node["detect-zeroes"] = json!("unmap");
    }
    if disk.format == super::DiskFormat::Qcow2 {
        node["backing"] = match &disk.backing {
            None => Value::Null,
            Some(image) if is_apart(image) => json!(image_name(&disk.node_name)),
            Some(image) => image_node(disk, image)?,
        };
    }
    Ok(node)
}

/// What the image below a disk is called, if it is a node apart.
pub(crate) fn image_name(disk: &str) -> String {
    format!("image-{disk}")
}

/// Whether an image is a node apart from the disk's. QEMU takes the name in a disk's header besides the options that it is
/// given for what is below, unless these have a file name (block.c, `bdrv_open_backing_file`); other drivers than `file` know
/// of none, and refuse both together.
fn is_apart(image: &BackingImage) -> bool {
    !matches!(image.location, DiskLocation::File(_))
}

fn image_node(disk: &Disk, image: &BackingImage) -> Result<Value, MachineError> {
    let mut node = json!({"driver": image.format.driver(), "read-only": true, "cache": {"direct": disk.direct_io},
        "file": file_node(&image.location, true, disk.direct_io)?});
    if image.format == super::DiskFormat::Qcow2 {
        node["backing"] = Value::Null;
    }
    Ok(node)
}

fn file_node(location: &DiskLocation, read_only: bool, direct_io: bool) -> Result<Value, MachineError> {
    let mut file = location.node().ok_or_else(|| MachineError::not_utf8(location))?;
    file["read-only"] = json!(read_only);
    (file["cache"], file["discard"]) = (json!({"direct": direct_io}), json!("unmap"));
    Ok(file)
}

/// The disk as QEMU opens it, with its image before it if that is a node apart.
pub(crate) fn disk_nodes(disk: &Disk) -> Result<Vec<Value>, MachineError> {
    let mut nodes = Vec::new();
    if let Some(image) = disk.backing.as_ref().filter(|image| is_apart(image)) {
        let mut node = image_node(disk, image)?;
        node["node-name"] = json!(image_name(&disk.node_name));
        nodes.push(node);
    }
    nodes.push(disk_node(disk)?);
    Ok(nodes)
}

fn add_disk(args: &mut Args, disk: &Disk) -> Result<(), MachineError> {
    for node in disk_nodes(disk)? {
        args.json("-blockdev", node);
    }
    let mut device = json!({
        "driver": "virtio-blk-pci",
        "id": format!("disk-{}", disk.node_name),
        "drive": disk.node_name,
    });
    if !disk.read_only {
        // A full pool stops the guest until there is room again; a read error is the guest's to handle.
        device["werror"] = json!("stop");
        device["rerror"] = json!("report");
    }
    if let Some(index) = disk.boot_index {
        device["bootindex"] = json!(index);
    }
    args.json("-device", device);
    Ok(())
}

fn add_nic(args: &mut Args, index: usize, nic: &Nic, fd: RawFd) {
    args.json("-netdev", json!({"type": "tap", "id": format!("net{index}"), "fd": fd.to_string()}));
    let mut device = json!({
        "driver": "virtio-net-pci",
        "id": format!("nic{index}"),
        "netdev": format!("net{index}"),
        "mac": nic.mac,
        "romfile": "",
    });
    if let Some(mtu) = nic.mtu {
        device["host_mtu"] = json!(mtu);
    }
    args.json("-device", device);
}

pub(super) struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }
    fn pair(&mut self, option: &str, value: impl AsRef<OsStr>) {
        self.0.push(option.into());
        self.0.push(value.as_ref().to_owned());
    }
    pub(super) fn json(&mut self, option: &str, value: Value) {
        self.pair(option, value.to_string());
    }
}

fn check_word(what: &'static str, value: &str, allowed: impl Fn(char) -> bool) -> Result<(), MachineError> {
    if !value.is_empty() && value.chars().all(allowed) {
        return Ok(());
    }
    Err(MachineError::Characters { what, value: value.to_owned() })
}

pub(crate) fn utf8(path: &Path) -> Result<&str, MachineError> {
    path.to_str().ok_or_else(|| MachineError::PathNotUtf8 { path: path.to_owned() })
}

/// QEMU's key=value parser ends a value at a comma unless the comma is doubled.
fn double_commas(text: &str) -> String {
    text.replace(',', ",,")
}

fn double_commas_os(text: &OsStr) -> OsString {
    let doubled =
        text.as_bytes().iter().flat_map(|&byte| std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 })).collect();
    OsString::from_vec(doubled)
}

#[cfg(test)]
#[path = "argv_tests.rs"]
mod tests;
