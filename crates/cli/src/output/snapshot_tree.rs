//! A VM's snapshots as the tree that they are.

use std::collections::BTreeSet;

use gantry_types::{Name, Snapshot, Timestamp};

use super::{Table, age};

/// Each snapshot below the one it grew from, siblings by age; `here` is what the disk grew from.
pub fn snapshot_tree(snapshots: &[Snapshot], here: Option<&Name>, now: Timestamp) -> String {
    if snapshots.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let mut table = Table::new(&["SNAPSHOT", "PHASE", "MEMORY", "PAUSE", "AGE", "HERE", "DESCRIPTION"]);
    let names: BTreeSet<_> = snapshots.iter().map(|snapshot| &snapshot.metadata.name).collect();
    // One whose parent was not selected begins a tree of its own.
    let parent = |snapshot: &Snapshot| snapshot.status.parent.clone().filter(|parent| names.contains(parent));
    let mut ordered: Vec<_> = snapshots.iter().collect();
    ordered.sort_by_key(|snapshot| (snapshot.status.taken_at, snapshot.metadata.created_at));
    let mut pending: Vec<_> = ordered.iter().rev().filter(|one| parent(one).is_none()).map(|one| (0, *one)).collect();
    while let Some((depth, snapshot)) = pending.pop() {
        let status = &snapshot.status;
        table.row(vec![
            format!("{:1$}{2}", "", 2 * depth, snapshot.short_name()),
            super::api_name(&status.phase),
            status.memory_size.map_or_else(|| "-".to_owned(), |size| size.approximate()),
            status.pause_ms.map_or_else(|| "-".to_owned(), |pause_ms| format!("{pause_ms} ms")),
            age(status.taken_at.or(snapshot.metadata.created_at), now),
            if here == Some(&snapshot.metadata.name) { "here" } else { "" }.to_owned(),
            snapshot.spec.description.clone().unwrap_or_default(),
        ]);
        let grown = ordered.iter().rev().filter(|one| parent(one).as_ref() == Some(&snapshot.metadata.name));
        pending.extend(grown.map(|one| (depth + 1, *one)));
    }
    table.render(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_types::SnapshotSpec;

    #[test]
    fn the_tree_is_shown_from_its_roots() {
        let one = |name: &str, parent: Option<&str>, second: i64| {
            let spec = SnapshotSpec {
                vm: "web".parse().unwrap(),
                memory: false,
                quiesce: false,
                description: None,
                scheduled: false,
            };
            let mut snapshot = Snapshot::new(format!("web-{name}").parse().unwrap(), spec);
            snapshot.status.parent = parent.map(|parent| format!("web-{parent}").parse().unwrap());
            snapshot.status.taken_at = Some(Timestamp::from_unix_ms(second * 1000));
            snapshot
        };
        let all = [one("c", Some("a"), 3), one("a", None, 1), one("b", Some("a"), 2), one("d", Some("b"), 4)];
        let here = "web-d".parse().unwrap();
        let text = snapshot_tree(&all, Some(&here), Timestamp::from_unix_ms(5000));
        let names: Vec<_> = text.lines().skip(1).map(|line| line.split("  creating").next().unwrap_or(line)).collect();
        let names: Vec<_> = names.iter().map(|line| line.trim_end().to_owned()).collect();
        assert_eq!(names, ["a", "  b", "    d", "  c"]);
        assert!(text.lines().nth(3).unwrap().contains("here"), "{text}");
        assert_eq!(snapshot_tree(&[], None, Timestamp::UNIX_EPOCH), "no snapshots\n");
    }
}
