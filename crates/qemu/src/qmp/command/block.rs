//! Disks: their figures, mirrors and exports.

use serde::{Deserialize, Serialize};

use super::{Command, DirtyBitmap, DirtyBitmapAdd, DirtyBitmapMerge, Nothing};

plain_command!(QueryBlockstats, "query-blockstats", Vec<BlockStats>);
plain_command!(QueryBlockJobs, "query-block-jobs", Vec<BlockJobInfo>);
plain_command!(NbdServerStop, "nbd-server-stop", Nothing);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockStats {
    #[serde(rename = "node-name", default)]
    pub node_name: Option<String>,
    #[serde(default)]
    pub qdev: Option<String>,
    pub stats: BlockDeviceStats,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockDeviceStats {
    pub rd_bytes: u64,
    pub wr_bytes: u64,
    pub rd_operations: u64,
    pub wr_operations: u64,
}

/// A background block job; `len` and `offset` are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockJobInfo {
    #[serde(rename = "device")]
    pub id: String,
    pub len: u64,
    pub offset: u64,
    pub ready: bool,
    pub status: String,
    #[serde(default)]
    pub error: Option<String>,
}

/// The disks of the machine's devices.
#[derive(Debug, Clone, Default, Serialize)]
pub struct QueryBlock {}
command!(QueryBlock, "query-block", Vec<BlockDeviceInfo>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockDeviceInfo {
    #[serde(default)]
    pub io_status: Option<IoStatus>,
}

/// Whether a device's requests wait because one has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoStatus {
    Ok,
    Failed,
    /// What is below it has no space left.
    Nospace,
}

/// All block nodes, without their children.
#[derive(Debug, Clone, Serialize)]
pub struct QueryNamedBlockNodes {
    pub flat: bool,
}
command!(QueryNamedBlockNodes, "query-named-block-nodes", Vec<BlockNodeInfo>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockNodeInfo {
    #[serde(rename = "node-name", default)]
    pub node_name: Option<String>,
    /// What it is made of, as QEMU writes it down.
    pub file: String,
    pub image: NodeImageInfo,
    #[serde(rename = "dirty-bitmaps", default)]
    pub dirty_bitmaps: Vec<DirtyBitmapInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DirtyBitmapInfo {
    #[serde(default)]
    pub name: String,
    /// It notes what is written.
    #[serde(default)]
    pub recording: bool,
    /// So many bytes were written, in whole grains.
    #[serde(default)]
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeImageInfo {
    /// What a guest sees of it, in bytes.
    #[serde(rename = "virtual-size")]
    pub virtual_size: u64,
}

/// A TCP address in QMP's form: the port is text there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InetAddress {
    pub host: String,
    pub port: String,
}

/// `blockdev-add` of a remote NBD export.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum BlockdevAdd {
    #[serde(rename_all = "kebab-case")]
    Nbd {
        node_name: String,
        server: SocketAddress,
        export: String,
        /// Seconds to keep trying to connect.
        open_timeout: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        tls_creds: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tls_hostname: Option<String>,
    },
}
command!(BlockdevAdd, "blockdev-add", Nothing);

/// `SocketAddress` of the schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SocketAddress {
    Inet(InetAddress),
}

/// `SocketAddressLegacy` of the schema, which `nbd-server-start` takes.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum SocketAddressLegacy {
    Inet(InetAddress),
    Unix(UnixAddress),
}

#[derive(Debug, Clone, Serialize)]
pub struct UnixAddress {
    pub path: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevDel {
    pub node_name: String,
}
command!(BlockdevDel, "blockdev-del", Nothing);

/// How much of a disk a mirror or a backup copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorSync {
    /// Everything, the backing image included.
    Full,
    /// Only what the top overlay holds; the destination's overlay has the same backing image.
    Top,
    /// Nothing but what is overwritten in the meantime: for a backup, which goes on until it is cancelled.
    None,
    /// What a bitmap notes: for a backup.
    Bitmap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorCopyMode {
    Background,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevMirror {
    pub job_id: String,
    pub device: String,
    pub target: String,
    pub sync: MirrorSync,
    pub copy_mode: MirrorCopyMode,
    /// Bytes a second; zero means no limit.
    pub speed: u64,
    /// The node below `device` that the target takes the place of; `device` itself without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// What the mirror's own node above `device` is called; made up by QEMU without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_node_name: Option<String>,
    /// Without it the job waits, its device's requests held back, until it is finalized.
    pub auto_finalize: bool,
    pub auto_dismiss: bool,
}
command!(BlockdevMirror, "blockdev-mirror", Nothing);

/// Copies a disk as it is when the command is answered, while its guest writes on.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevBackup {
    pub job_id: String,
    pub device: String,
    pub target: String,
    pub sync: MirrorSync,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub bitmap: Option<BackupBitmap>,
    pub auto_dismiss: bool,
}
command!(BlockdevBackup, "blockdev-backup", Nothing);

/// The bitmap of the copied node that says what is copied.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupBitmap {
    pub bitmap: String,
    pub bitmap_mode: BitmapMode,
}

/// What a copy does to its bitmap.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BitmapMode {
    Never,
}

#[derive(Debug, Clone, Serialize)]
pub struct BlockJobCancel {
    pub device: String,
    pub force: bool,
}
command!(BlockJobCancel, "block-job-cancel", Nothing);

plain_command!(QueryJobs, "query-jobs", Vec<JobInfo>);

/// Any background job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobInfo {
    pub id: String,
    pub status: String,
    pub current_progress: u64,
    pub total_progress: u64,
    #[serde(default)]
    pub error: Option<String>,
}

/// Keeps the machine's state in the node `vmstate` and the disks' in each of `devices`, under one name. The guest stands
/// still meanwhile, and so does the monitor.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotSave {
    pub job_id: String,
    pub tag: String,
    pub vmstate: String,
    pub devices: Vec<String>,
}
command!(SnapshotSave, "snapshot-save", Nothing);

/// The way back. The guest stays stopped.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotLoad {
    pub job_id: String,
    pub tag: String,
    pub vmstate: String,
    pub devices: Vec<String>,
}
command!(SnapshotLoad, "snapshot-load", Nothing);

/// Also deletes those of the disk alone. One that is not there is fine.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotDelete {
    pub job_id: String,
    pub tag: String,
    pub devices: Vec<String>,
}
command!(SnapshotDelete, "snapshot-delete", Nothing);

/// Several changes of disks at one instant, or none.
#[derive(Debug, Clone, Serialize)]
pub struct Transaction {
    pub actions: Vec<TransactionAction>,
}
command!(Transaction, "transaction", Nothing);

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum TransactionAction {
    BlockdevSnapshotInternalSync {
        device: String,
        name: String,
    },
    BlockdevBackup(BlockdevBackup),
    BlockDirtyBitmapAdd(DirtyBitmapAdd),
    /// It notes nothing any more.
    BlockDirtyBitmapDisable(DirtyBitmap),
    BlockDirtyBitmapMerge(DirtyBitmapMerge),
    BlockDirtyBitmapClear(DirtyBitmap),
    BlockDirtyBitmapRemove(DirtyBitmap),
}

/// Lets a job that is ready come to its end.
#[derive(Debug, Clone, Serialize)]
pub struct JobComplete {
    pub id: String,
}
command!(JobComplete, "job-complete", Nothing);

/// Makes the changes of a job that is pending.
#[derive(Debug, Clone, Serialize)]
pub struct JobFinalize {
    pub id: String,
}
command!(JobFinalize, "job-finalize", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct JobCancel {
    pub id: String,
}
command!(JobCancel, "job-cancel", Nothing);

#[derive(Debug, Clone, Serialize)]
pub struct JobDismiss {
    pub id: String,
}
command!(JobDismiss, "job-dismiss", Nothing);

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NbdServerStart {
    pub addr: SocketAddressLegacy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_creds: Option<String>,
    /// Without it, any certificate of the CA may connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_authz: Option<String>,
}
command!(NbdServerStart, "nbd-server-start", Nothing);

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum BlockExportAdd {
    #[serde(rename_all = "kebab-case")]
    Nbd {
        id: String,
        node_name: String,
        name: String,
        writable: bool,
        /// Of the node or one below it; they may not change meanwhile.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        bitmaps: Vec<String>,
    },
}
command!(BlockExportAdd, "block-export-add", Nothing);
