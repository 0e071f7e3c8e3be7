//! Whether the cluster keeps its promise to survive the loss of some hosts.
//!
//! For every set of that many hosts: the protected VMs on them must find memory on the others. They are put there largest
//! first, each on the host with the most room (first-fit decreasing's sibling): if that works the promise holds. It may be
//! refused where a cleverer packing exists, never the other way round.

use std::collections::BTreeMap;

use gantry_types::Name;

/// Sets of lost hosts that are looked at one by one; beyond that, those with the most protected memory.
const SETS_MAX: usize = 4_000;

/// A host that is there.
#[derive(Debug, Clone)]
pub struct Room {
    pub host: Name,
    /// What VMs may use.
    pub memory_bytes: u64,
    /// Given out to VMs that are not protected; they stay where they are.
    pub unprotected_bytes: u64,
    pub protected: Vec<Need>,
}

/// A protected VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub vm: Name,
    pub memory_bytes: u64,
}

/// The promise does not hold: if these hosts were lost, this VM would find no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    pub lost: Vec<Name>,
    pub vm: Name,
    pub missing_bytes: u64,
}

/// # Errors
/// The first set of hosts whose loss would leave a protected VM without room.
pub fn check(rooms: &[Room], tolerate: usize) -> Result<(), Shortfall> {
    // Of a host that is lost nothing more is asked: so fewer lost hosts are covered by more.
    let tolerate = tolerate.min(rooms.len());
    if tolerate == 0 {
        return Ok(());
    }
    for lost in sets(rooms, tolerate) {
        survive(rooms, &lost)?;
    }
    Ok(())
}

fn survive(rooms: &[Room], lost: &[usize]) -> Result<(), Shortfall> {
    let mut free: BTreeMap<&Name, u64> = BTreeMap::new();
    let mut homeless: Vec<&Need> = Vec::new();
    for (index, room) in rooms.iter().enumerate() {
        if lost.contains(&index) {
            homeless.extend(&room.protected);
        } else {
            let protected: u64 = room.protected.iter().map(|need| need.memory_bytes).sum();
            free.insert(&room.host, room.memory_bytes.saturating_sub(room.unprotected_bytes.saturating_add(protected)));
        }
    }
    homeless.sort_by(|a, b| b.memory_bytes.cmp(&a.memory_bytes).then_with(|| a.vm.cmp(&b.vm)));
    for need in homeless {
        let most = free.iter_mut().max_by_key(|(_, free)| **free);
        match most {
            Some((_, free)) if *free >= need.memory_bytes => *free -= need.memory_bytes,
            most => {
                return Err(Shortfall {
                    lost: lost.iter().map(|index| rooms[*index].host.clone()).collect(),
                    vm: need.vm.clone(),
                    missing_bytes: need.memory_bytes - most.map_or(0, |(_, free)| *free),
                });
            }
        }
    }
    Ok(())
}

/// Every set of `size` hosts, or, if they are too many, only sets of the hosts that carry the most.
fn sets(rooms: &[Room], size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rooms.len()).collect();
    let weight = |room: &Room| room.protected.iter().map(|need| need.memory_bytes).sum::<u64>();
    order.sort_by_key(|index| std::cmp::Reverse(weight(&rooms[*index])));
    let mut width = order.len();
    while width > size && combinations(width, size) > SETS_MAX {
        width -= 1;
    }
    let mut found = Vec::new();
    choose(&order[..width], size, &mut Vec::new(), &mut found);
    found
}

fn combinations(n: usize, k: usize) -> usize {
    (0..k).fold(1_usize, |product, i| product.saturating_mul(n - i) / (i + 1))
}

fn choose(from: &[usize], size: usize, chosen: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
    if chosen.len() == size {
        found.push(chosen.clone());
        return;
    }
    for (at, index) in from.iter().enumerate() {
        if from.len() - at < size - chosen.len() {
            return;
        }
        chosen.push(*index);
        choose(&from[at + 1..], size, chosen, found);
        chosen.pop();
    }
}
