//! What stands on what among block nodes, and changes of that.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

plain_command!(
    /// Its name says that it may change; it is the only one that tells children's names.
    QueryBlockGraph,
    "x-debug-query-block-graph",
    BlockGraph
);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockGraph {
    pub nodes: Vec<BlockGraphNode>,
    pub edges: Vec<BlockGraphEdge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockGraphNode {
    pub id: u64,
    #[serde(default)]
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockGraphEdge {
    pub parent: u64,
    pub child: u64,
    /// What the parent calls this child.
    pub name: String,
}

/// A quorum gets the child `node`, or loses the one that it calls `child`.
#[derive(Debug, Clone, Serialize)]
pub struct BlockdevChange {
    pub parent: String,
    #[serde(flatten)]
    pub change: ChildChange,
}
command!(BlockdevChange, "x-blockdev-change", Nothing);

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChildChange {
    Node(String),
    Child(String),
}
