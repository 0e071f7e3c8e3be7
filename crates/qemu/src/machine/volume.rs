//! Volumes: disks that come and go while the machine runs.
//!
//! ```text
//!  virtio-blk-pci vd-ID ── throttle filter v-ID ── qcow2 vf-ID-PLACE ── file, or NFS
//!      on slotN                 group vl-ID
//! ```
//! The filter stays when what is below it is replaced, so the device always knows its disk by one name, and limits can be
//! changed at any time. A machine has [`SLOTS`] places for volumes; on PCI Express each is a root port that is there from
//! the start, because none can be added later.

use gantry_types::DiskLocation;
use serde_json::{Value, json};

use super::Arch;
use super::argv::{Args, MachineError};
use crate::qmp::command::ThrottleLimits;

/// So many volumes a machine can have.
pub const SLOTS: u8 = 8;
/// Where the root ports sit on their bus: behind everything that is placed by itself.
const PORTS_AT: &str = "0x18";
const NODE_PREFIX: &str = "v-";
/// What virtio-blk tells the guest at most, in bytes.
const SERIAL_BYTES_MAX: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Tells volumes of a machine apart: letters and digits, at most 16.
    pub id: String,
    /// Tells the places apart where it can lie: letters and digits, at most 8.
    pub place: String,
    /// What the guest knows it by, as `/dev/disk/by-id/virtio-SERIAL`; cut to 20 bytes.
    pub serial: String,
    /// 0–7, of no other volume of the machine.
    pub slot: u8,
    /// A qcow2 without a backing image.
    pub location: DiskLocation,
    /// Bypass the host's page cache.
    pub direct_io: bool,
    /// Give back to the file system what the guest discards.
    pub discard: bool,
    pub limits: ThrottleLimits,
}

impl Volume {
    pub fn device(&self) -> String {
        format!("vd-{}", self.id)
    }
    /// The top of its block graph, which stays.
    pub fn node(&self) -> String {
        Self::node_named(&self.id)
    }
    /// That of the volume with this id.
    pub fn node_named(id: &str) -> String {
        format!("{NODE_PREFIX}{id}")
    }
    /// Whether a node is the top of a volume's graph.
    pub fn is_node(name: &str) -> bool {
        name.starts_with(NODE_PREFIX)
    }
    pub fn group(&self) -> String {
        format!("vl-{}", self.id)
    }
    /// What is below the filter, in this place.
    pub fn format_node(&self) -> String {
        format!("{}{}", self.format_prefix(), self.place)
    }
    pub(crate) fn format_prefix(&self) -> String {
        format!("vf-{}-", self.id)
    }

    pub(crate) fn group_json(&self) -> Value {
        json!({"qom-type": "throttle-group", "id": self.group(), "limits": self.limits})
    }

    pub(crate) fn node_json(&self) -> Result<Value, MachineError> {
        Ok(json!({
            "driver": "throttle", "node-name": self.node(), "throttle-group": self.group(),
            "cache": {"direct": self.direct_io}, "discard": self.discard_mode(), "file": self.format_json()?,
        }))
    }

    /// The volume in this place, without the filter.
    pub(crate) fn format_json(&self) -> Result<Value, MachineError> {
        let (discard, cache) = (self.discard_mode(), json!({"direct": self.direct_io}));
        let mut file = self.location.node().ok_or_else(|| MachineError::not_utf8(&self.location))?;
        (file["cache"], file["discard"]) = (cache.clone(), discard.into());
        Ok(json!({
            "driver": "qcow2", "node-name": self.format_node(), "backing": null,
            "cache": cache, "discard": discard, "detect-zeroes": if self.discard { "unmap" } else { "off" },
            "file": file,
        }))
    }

    fn discard_mode(&self) -> &'static str {
        if self.discard { "unmap" } else { "ignore" }
    }

    pub(crate) fn device_json(&self, arch: Arch) -> Value {
        let serial: String = self.serial.chars().take(SERIAL_BYTES_MAX).collect();
        let mut device = json!({
            "driver": "virtio-blk-pci", "id": self.device(), "drive": self.node(), "serial": serial,
            // A full pool stops the guest until there is room again; a read error is the guest's to handle.
            "werror": "stop", "rerror": "report",
        });
        if has_root_ports(arch) {
            device["bus"] = json!(format!("slot{}", self.slot));
        }
        device
    }
}

/// Whether the machine's bus is PCI Express. The others take devices at any time, or never.
fn has_root_ports(arch: Arch) -> bool {
    matches!(arch, Arch::X86_64 | Arch::Aarch64)
}

pub(super) fn add_slots(args: &mut Args, arch: Arch) {
    if !has_root_ports(arch) {
        return;
    }
    for slot in 0..SLOTS {
        let mut port = json!({
            "driver": "pcie-root-port", "id": format!("slot{slot}"), "chassis": slot + 1, "port": slot,
            "addr": format!("{PORTS_AT}.{slot}"),
        });
        if slot == 0 {
            port["multifunction"] = json!(true);
        }
        args.json("-device", port);
    }
}

pub(super) fn add_volume(args: &mut Args, arch: Arch, volume: &Volume) -> Result<(), MachineError> {
    args.json("-object", volume.group_json());
    args.json("-blockdev", volume.node_json()?);
    args.json("-device", volume.device_json(arch));
    Ok(())
}
