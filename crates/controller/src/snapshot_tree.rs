//! The tree that a VM's snapshots form. Pure.
//!
//! Each snapshot names the one it grew from; the VM names the one its disk grew from. Inside the disk every snapshot
//! stands alone, so taking one out moves no data.

use gantry_types::{Name, Snapshot};

/// Takes `gone` out of the tree of `all` of the VM's snapshots: those whose parent changes, with the new one. `here` is
/// what the VM's disk grew from.
pub fn take_out(gone: &Snapshot, all: Vec<Snapshot>, here: &mut Option<Name>) -> Vec<Snapshot> {
    let name = Some(&gone.metadata.name);
    if here.as_ref() == name {
        here.clone_from(&gone.status.parent);
    }
    let grown = all.into_iter().filter(|child| child.status.parent.as_ref() == name);
    grown
        .map(|mut child| {
            child.status.parent.clone_from(&gone.status.parent);
            child
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gantry_types::{Resource, SnapshotSpec};
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Take,
        /// To one of those that there are, by its place among them.
        Revert(usize),
        Delete(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Take),
            2 => (0usize..64).prop_map(Step::Revert),
            2 => (0usize..64).prop_map(Step::Delete),
        ];
        proptest::collection::vec(step, 1..60)
    }

    fn snapshot(number: usize, parent: Option<Name>) -> Snapshot {
        let spec = SnapshotSpec {
            vm: "web".parse().unwrap(),
            memory: false,
            quiesce: false,
            description: None,
            scheduled: false,
        };
        let mut snapshot = Snapshot::new(format!("web-s{number}").parse().unwrap(), spec);
        snapshot.status.parent = parent;
        snapshot
    }

    /// From a snapshot up to the root, as the tree says.
    fn ancestry(tree: &BTreeMap<Name, Snapshot>, from: Option<&Name>) -> Vec<Name> {
        let mut line = Vec::new();
        let mut at = from;
        while let Some(name) = at {
            line.push(name.clone());
            assert!(line.len() <= tree.len(), "a cycle: {line:?}");
            at = tree[name].status.parent.as_ref();
        }
        line
    }

    proptest! {
        /// The model knows of each state the whole line of snapshots it came through; deleting one strikes it out.
        #[test]
        fn everything_keeps_its_line_of_descent(steps in steps()) {
            let mut tree: BTreeMap<Name, Snapshot> = BTreeMap::new();
            let mut here: Option<Name> = None;
            let mut model: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
            let mut model_here: Vec<Name> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let chosen = |at: usize| model.keys().nth(at % model.len().max(1)).cloned();
                match step {
                    Step::Take => {
                        let new = snapshot(number, here.clone());
                        let name = new.metadata.name.clone();
                        model_here.insert(0, name.clone());
                        model.insert(name.clone(), model_here.clone());
                        here = Some(name.clone());
                        tree.insert(name, new);
                    }
                    Step::Revert(at) => if let Some(name) = chosen(at) {
                        model_here = model[&name].clone();
                        here = Some(name);
                    },
                    Step::Delete(at) => if let Some(name) = chosen(at) {
                        let gone = tree.remove(&name).unwrap();
                        let all: Vec<_> = tree.values().cloned().collect();
                        for child in take_out(&gone, all, &mut here) {
                            tree.insert(child.metadata.name.clone(), child);
                        }
                        model.remove(&name);
                        model.values_mut().chain([&mut model_here]).for_each(|line| line.retain(|other| *other != name));
                    },
                }
                prop_assert_eq!(ancestry(&tree, here.as_ref()), model_here.clone());
                for (name, line) in &model {
                    prop_assert_eq!(&ancestry(&tree, Some(name)), line, "{}", tree[name].name());
                }
            }
        }
    }
}
