//! Exports of disks, and bitmaps of what is written.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// A bitmap of a node.
#[derive(Debug, Clone, Serialize)]
pub struct DirtyBitmap {
    pub node: String,
    pub name: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct DirtyBitmapAdd {
    pub node: String,
    pub name: String,
    pub persistent: bool,
}
command!(DirtyBitmapAdd, "block-dirty-bitmap-add", Nothing);

/// The bitmap `target` of a node notes what these note, besides; they can be other nodes'.
#[derive(Debug, Clone, Serialize)]
pub struct DirtyBitmapMerge {
    pub node: String,
    pub target: String,
    pub bitmaps: Vec<DirtyBitmap>,
}
command!(DirtyBitmapMerge, "block-dirty-bitmap-merge", Nothing);

/// It notes nothing as yet.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct DirtyBitmapClear(pub DirtyBitmap);
command!(DirtyBitmapClear, "block-dirty-bitmap-clear", Nothing);

#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct DirtyBitmapRemove(pub DirtyBitmap);
command!(DirtyBitmapRemove, "block-dirty-bitmap-remove", Nothing);

plain_command!(QueryBlockExports, "query-block-exports", Vec<BlockExportInfo>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockExportInfo {
    pub id: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct BlockExportDel {
    pub id: String,
    /// `hard` ends connections.
    pub mode: String,
}
command!(BlockExportDel, "block-export-del", Nothing);
