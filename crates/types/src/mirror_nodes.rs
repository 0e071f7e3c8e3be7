//! A mirrored disk as QEMU opens it: a quorum of two over the disk's own file and its copy on another host.
//!
//! ```text
//!  format ── mirror-ID, quorum, both have to write ─┬─ mirror-ID-own, raw of a fixed size ── file
//!                                                   └─ mirror-ID-peer, NBD; or mirror-ID-none while there is no peer
//! ```
//! A write is done when both have it, so the copy has all that was ever acknowledged. Without a peer the second is a
//! stand-in, which takes every write and can't be read. What is read comes from the own file, and from the peer only if that fails.

use serde_json::{Value, json};

/// The names of one disk's nodes, of at most 31 characters as QEMU wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorNodes<'a> {
    id: &'a str,
}

impl<'a> MirrorNodes<'a> {
    /// Those of the disk with this id: letters and digits, at most 12.
    pub fn of(id: &'a str) -> Self {
        Self { id }
    }
    /// What the disk's format stands on.
    pub fn top(self) -> String {
        format!("mirror-{}", self.id)
    }
    /// The disk's own file.
    pub fn own(self) -> String {
        format!("mirror-{}-own", self.id)
    }
    /// The copy on another host.
    pub fn peer(self) -> String {
        format!("mirror-{}-peer", self.id)
    }
    /// What takes the peer's place while there is none.
    pub fn none(self) -> String {
        format!("mirror-{}-none", self.id)
    }

    /// The disk without a peer. The file's node has a size of its own, because a file would grow with what is written behind its
    /// end, and the copy can't: both have no space left there.
    pub fn alone(self, file: &str, size: u64) -> Value {
        json!({
            "driver": "quorum", "node-name": self.top(), "vote-threshold": 2, "read-pattern": "fifo",
            "children": [
                {"driver": "raw", "node-name": self.own(), "size": size, "file": {"driver": "file", "filename": file}},
                self.stand_in(size),
            ],
        })
    }

    /// It has nothing to read, and says so by an error: zeros would be taken for the disk's content if the own file fails.
    pub fn stand_in(self, size: u64) -> Value {
        json!({
            "driver": "blkdebug", "node-name": self.none(),
            "inject-error": [{"event": "none", "iotype": "read", "errno": EIO, "once": false}],
            "image": {"driver": "null-co", "size": size, "read-zeroes": true},
        })
    }
}

const EIO: i32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_short_as_qemu_wants_them() {
        let nodes = MirrorNodes::of("0123456789ab");
        for name in [nodes.top(), nodes.own(), nodes.peer(), nodes.none()] {
            assert!(name.len() <= 31, "{name}");
        }
        let alone = nodes.alone("/disks/a.img", 512);
        assert_eq!(alone["children"][0]["file"]["filename"], "/disks/a.img");
        assert_eq!((&alone["children"][0]["size"], &alone["children"][1]["image"]["size"]), (&json!(512), &json!(512)));
    }
}
