//! What is plugged in and taken out while a machine runs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Command, Nothing};

/// A throttle group's limits, reads and writes together; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ThrottleLimits {
    pub iops_total: u64,
    pub bps_total: u64,
}

/// `object-add` of an object that is described as on the command line.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct ObjectAddAny(pub Value);
command!(ObjectAddAny, "object-add", Nothing);

/// `blockdev-add` of a graph that is described as on the command line.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct BlockdevAddNode(pub Value);
command!(BlockdevAddNode, "blockdev-add", Nothing);

/// A device, as on the command line.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct DeviceAdd(pub Value);
command!(DeviceAdd, "device_add", Nothing);

/// Asks the guest to let a device go; it is there until it does.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceDel {
    pub id: String,
}
command!(DeviceDel, "device_del", Nothing);

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockResize {
    pub node_name: String,
    /// In bytes.
    pub size: u64,
}
command!(BlockResize, "block_resize", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct QomList {
    pub path: String,
}
command!(QomList, "qom-list", Vec<QomProperty>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct QomProperty {
    pub name: String,
}

/// `qom-set` of a throttle group's limits.
#[derive(Debug, Clone, Serialize)]
pub struct QomSetLimits {
    pub path: String,
    pub property: String,
    pub value: ThrottleLimits,
}
command!(QomSetLimits, "qom-set", Nothing);
