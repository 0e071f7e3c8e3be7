//! What QEMU has of a mirrored disk, and the small changes of it that several steps make.

use serde_json::json;

use super::{Mirror, MirrorError};
use crate::machine::utf8;
use crate::qmp::command::{
    BlockNodeInfo, BlockdevAddNode, BlockdevChange, BlockdevDel, ChildChange, DirtyBitmap, DirtyBitmapAdd,
    DirtyBitmapInfo, DirtyBitmapMerge, DirtyBitmapRemove, JobInfo, QueryBlockGraph, QueryJobs, QueryNamedBlockNodes,
};
use crate::qmp::{Qmp, QmpError};

/// The top's: what the copy may not have.
pub(super) const CHANGES: &str = "mirror-changes";
/// The top's: what was written since the copying of the whole disk began. It becomes [`CHANGES`] when that is done.
pub(super) const BEGUN: &str = "mirror-begun";
/// The top's: what was written since changes were last forgotten.
pub(super) const LATELY: &str = "mirror-lately";
/// The source's: what is being copied now.
pub(super) const PASS: &str = "mirror-pass";

pub(super) fn bitmap(node: &str, name: &str) -> DirtyBitmap {
    DirtyBitmap { node: node.to_owned(), name: name.to_owned() }
}

pub(super) fn noting(node: &str, name: &str) -> DirtyBitmapAdd {
    DirtyBitmapAdd { node: node.to_owned(), name: name.to_owned(), persistent: false }
}

/// `into` notes besides what `from` notes.
pub(super) async fn merge(qmp: &Qmp, node: &str, into: &str, from: &str) -> Result<(), QmpError> {
    let (node, target, bitmaps) = (node.to_owned(), into.to_owned(), vec![bitmap(node, from)]);
    qmp.execute(DirtyBitmapMerge { node, target, bitmaps }).await.map(drop)
}

/// As it was at one look.
pub(super) struct State {
    nodes: Vec<BlockNodeInfo>,
    jobs: Vec<JobInfo>,
    /// The quorum's: what it calls each, and which node that is.
    children: Vec<(String, String)>,
    stand_in: String,
    peer: String,
}

impl State {
    pub(super) async fn look(qmp: &Qmp, mirror: &Mirror) -> Result<Self, MirrorError> {
        let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
        let jobs = qmp.execute(QueryJobs {}).await?;
        let graph = qmp.execute(QueryBlockGraph {}).await?;
        let top = mirror.nodes().top();
        let Some(top) = graph.nodes.iter().find(|node| node.name == top) else {
            return Err(MirrorError::NotMirrored { id: mirror.id.clone() });
        };
        let name_of = |id: u64| graph.nodes.iter().find(|node| node.id == id).map(|node| node.name.clone());
        let below = graph.edges.iter().filter(|edge| edge.parent == top.id);
        let children = below.filter_map(|edge| Some((edge.name.clone(), name_of(edge.child)?))).collect();
        let (stand_in, peer) = (mirror.nodes().none(), mirror.nodes().peer());
        Ok(Self { nodes, jobs, children, stand_in, peer })
    }

    pub(super) fn has_node(&self, name: &str) -> bool {
        self.nodes.iter().any(|node| node.node_name.as_deref() == Some(name))
    }
    /// What the quorum calls this child.
    pub(super) fn child(&self, node: &str) -> Option<&str> {
        self.children.iter().find(|(_, name)| name == node).map(|(child, _)| child.as_str())
    }
    pub(super) fn bitmap(&self, node: &str, name: &str) -> Option<&DirtyBitmapInfo> {
        let node = self.nodes.iter().find(|found| found.node_name.as_deref() == Some(node))?;
        node.dirty_bitmaps.iter().find(|bitmap| bitmap.name == name)
    }
    pub(super) fn job(&self, id: &str) -> Option<&JobInfo> {
        self.jobs.iter().find(|job| job.id == id)
    }
    /// With the stand-in beside it, the peer's vote is not needed for a write.
    pub(super) fn is_paired(&self) -> bool {
        self.child(&self.peer).is_some() && self.child(&self.stand_in).is_none()
    }

    /// The quorum does not have this child afterwards.
    pub(super) async fn take_out(&self, qmp: &Qmp, mirror: &Mirror, node: &str) -> Result<(), QmpError> {
        if let Some(child) = self.child(node) {
            let change = ChildChange::Child(child.to_owned());
            qmp.execute(BlockdevChange { parent: mirror.nodes().top(), change }).await?;
        }
        Ok(())
    }

    pub(super) async fn close(&self, qmp: &Qmp, node: &str) -> Result<(), QmpError> {
        if !self.has_node(node) {
            return Ok(());
        }
        match qmp.execute(BlockdevDel { node_name: node.to_owned() }).await {
            // One from the machine's start has gone with its place in the quorum.
            Err(QmpError::Refused { .. }) if !is_there(qmp, node).await? => Ok(()),
            closed => closed.map(drop),
        }
    }

    pub(super) async fn forget(&self, qmp: &Qmp, node: &str, name: &str) -> Result<(), QmpError> {
        if self.bitmap(node, name).is_some() {
            qmp.execute(DirtyBitmapRemove(bitmap(node, name))).await?;
        }
        Ok(())
    }
}

async fn is_there(qmp: &Qmp, node: &str) -> Result<bool, QmpError> {
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    Ok(nodes.iter().any(|found| found.node_name.as_deref() == Some(node)))
}

pub(super) async fn add_child(qmp: &Qmp, mirror: &Mirror, node: String) -> Result<(), QmpError> {
    qmp.execute(BlockdevChange { parent: mirror.nodes().top(), change: ChildChange::Node(node) }).await?;
    Ok(())
}

/// Opens the own file once more, to be read by passes: those of the node in use would put themselves before the guest's writes.
pub(super) async fn open_source(qmp: &Qmp, mirror: &Mirror) -> Result<(), MirrorError> {
    let node = json!({
        "driver": "raw", "node-name": mirror.source(), "size": mirror.size, "read-only": true, "force-share": true,
        "cache": {"direct": mirror.direct_io}, "file": {"driver": "file", "filename": utf8(&mirror.file)?},
    });
    qmp.execute(BlockdevAddNode(node)).await?;
    Ok(())
}
