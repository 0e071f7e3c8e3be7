//! From what a host is told and the VMs that run there to its groups, with everybody's weight.
//!
//! At each level the parent's part is divided among its children as if all of them wanted everything: first what each has
//! reserved, then the rest by shares, nobody above its limit. Those parts are the weights. So a reservation holds while
//! everybody is busy, shares decide the rest, and what one does not use the kernel gives to the others.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use gantry_types::{HostPool, HostResources, Name, ResourceWishes};
use uuid::Uuid;

use crate::{Group, Limits};

/// What QEMU may need besides the guest's memory, its largest cache of translated code included; a pool's memory limit
/// never takes a VM that which it was started with.
const QEMU_BYTES: u64 = 1280 << 20;
/// The sum of the weights of the children of one parent.
const WEIGHTS: f64 = 10_000.0;

/// What the host has to divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Logical processors.
    pub cpus: u32,
    pub memory_bytes: u64,
}

/// A VM that runs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub vm: Uuid,
    pub pid: u32,
    /// Virtual processors.
    pub cpus: u32,
    pub memory_bytes: u64,
    pub wishes: ResourceWishes,
}

/// A pool or a VM, as the child of a pool or of the host.
struct Node {
    name: String,
    cpu: Claim,
    memory: Claim,
    memory_limit: Option<u64>,
    pid: Option<u32>,
    children: Vec<Node>,
}

/// On what is divided: percent of a processor, or bytes.
#[derive(Debug, Clone, Copy)]
struct Claim {
    shares: u32,
    reserved: f64,
    limit: Option<f64>,
}

/// The host's groups, outer ones first, the first being the scope itself; and where each VM's group is.
pub fn tree(
    resources: &HostResources,
    members: &[Member],
    capacity: Capacity,
) -> (Vec<Group>, BTreeMap<Uuid, PathBuf>) {
    let pools: BTreeMap<&Name, &HostPool> = resources.pools.iter().map(|pool| (&pool.name, pool)).collect();
    let wishes = |member: &Member| resources.vms.get(&member.vm).unwrap_or(&member.wishes).clone();
    let mut placed: Vec<(Option<Name>, Node)> = members
        .iter()
        .map(|member| {
            let wishes = wishes(member);
            // A pool that this host has not heard of yet does not hold the VM up.
            (wishes.resource_pool.clone().filter(|pool| pools.contains_key(pool)), vm_node(member, &wishes))
        })
        .collect();
    let children = level(None, &pools, &mut placed, 0);
    // QEMU has work of its own besides.
    let threads: u32 = members.iter().map(|member| member.cpus + 1).sum();
    let started_with: u64 = members.iter().map(|member| member.memory_bytes + QEMU_BYTES).sum();
    let whole = Limits {
        // As much as they would have in no group.
        cpu_weight: (100 * threads).clamp(100, 25_600),
        // Nothing inside is protected by more than what is around it.
        memory_protected_bytes: started_with.min(capacity.memory_bytes),
        ..Limits::default()
    };
    let mut groups = vec![Group { path: PathBuf::new(), limits: whole, pid: None }];
    let mut places = BTreeMap::new();
    let room = (100.0 * f64::from(capacity.cpus), capacity.memory_bytes as f64);
    lay_out(&children, Path::new(""), room, None, &mut groups);
    for group in groups.iter().filter(|group| group.pid.is_some()) {
        if let Some(member) = members.iter().find(|member| group.pid == Some(member.pid)) {
            places.insert(member.vm, group.path.clone());
        }
    }
    (groups, places)
}

/// The group's own name, below those of its pools.
fn group_of(vm: Uuid) -> String {
    format!("vm-{vm}")
}

fn vm_node(member: &Member, wishes: &ResourceWishes) -> Node {
    Node {
        name: group_of(member.vm),
        cpu: Claim {
            shares: wishes.cpu_shares,
            reserved: f64::from(wishes.cpu_reservation_percent),
            limit: wishes.cpu_limit_percent.map(f64::from),
        },
        memory: Claim {
            shares: wishes.memory_shares,
            reserved: wishes.memory_reservation.bytes() as f64,
            limit: Some((member.memory_bytes + QEMU_BYTES) as f64),
        },
        memory_limit: None,
        pid: Some(member.pid),
        children: Vec::new(),
    }
}

/// The pools and VMs right below `parent`; pools without VMs here are left out.
fn level(
    parent: Option<&Name>,
    pools: &BTreeMap<&Name, &HostPool>,
    placed: &mut Vec<(Option<Name>, Node)>,
    depth: usize,
) -> Vec<Node> {
    let mut nodes = Vec::new();
    // A circle can't be stored; a host is not brought down by one all the same.
    if depth <= gantry_types::MAX_POOL_DEPTH {
        for pool in pools.values().filter(|pool| pool.parent.as_ref() == parent) {
            let children = level(Some(&pool.name), pools, placed, depth + 1);
            if !children.is_empty() {
                nodes.push(pool_node(pool, children));
            }
        }
    }
    let (own, others): (Vec<_>, Vec<_>) = placed.drain(..).partition(|(pool, _)| pool.as_ref() == parent);
    *placed = others;
    nodes.extend(own.into_iter().map(|(_, node)| node));
    nodes
}

fn pool_node(pool: &HostPool, children: Vec<Node>) -> Node {
    let reserved = |of: fn(&Node) -> f64| children.iter().map(of).sum::<f64>();
    let started_with: f64 = children.iter().filter_map(|child| child.memory.limit).sum();
    let limit = pool.memory.limit.map(|limit| (limit.bytes() as f64).max(started_with));
    Node {
        name: format!("pool-{}", pool.name),
        cpu: Claim {
            shares: pool.cpu.shares,
            reserved: f64::from(pool.cpu.reservation_percent).max(reserved(|child| child.cpu.reserved)),
            limit: pool.cpu.limit_percent.map(f64::from),
        },
        memory: Claim {
            shares: pool.memory.shares,
            reserved: (pool.memory.reservation.bytes() as f64).max(reserved(|child| child.memory.reserved)),
            limit: Some(started_with),
        },
        memory_limit: limit.map(|limit| limit as u64),
        pid: None,
        children,
    }
}

fn lay_out(nodes: &[Node], at: &Path, room: (f64, f64), cpu_limit: Option<u32>, groups: &mut Vec<Group>) {
    let cpu = divide(room.0, &nodes.iter().map(|node| node.cpu).collect::<Vec<_>>());
    let memory = divide(room.1, &nodes.iter().map(|node| node.memory).collect::<Vec<_>>());
    let total: f64 = cpu.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    for ((node, cpu), memory) in nodes.iter().zip(cpu).zip(memory) {
        let path = at.join(&node.name);
        // Never above the one around it: version 1 refuses that.
        let own = node.cpu.limit.map(|limit| (limit as u32).max(1));
        let limit = [own, cpu_limit].into_iter().flatten().min();
        let limits = Limits {
            cpu_weight: ((cpu / total * WEIGHTS).round() as u32).clamp(1, 10_000),
            cpu_limit_percent: own.and(limit),
            memory_limit_bytes: node.memory_limit,
            memory_protected_bytes: memory as u64,
        };
        groups.push(Group { path: path.clone(), limits, pid: node.pid });
        lay_out(&node.children, &path, (cpu, memory), limit, groups);
    }
}

/// Everybody's part of `room` if all want everything.
fn divide(room: f64, claims: &[Claim]) -> Vec<f64> {
    let most = |claim: &Claim| claim.limit.unwrap_or(f64::INFINITY);
    let reserved: f64 = claims.iter().map(|claim| claim.reserved.min(most(claim))).sum();
    // More promised than there is: everybody gets the same part of what was promised.
    let scale = if reserved > room { room / reserved } else { 1.0 };
    let mut parts: Vec<f64> = claims.iter().map(|claim| claim.reserved.min(most(claim)) * scale).collect();
    let mut left = (room - parts.iter().sum::<f64>()).max(0.0);
    // Who reaches its limit leaves the rest to the others.
    let mut open: Vec<usize> = (0..claims.len()).filter(|at| parts[*at] < most(&claims[*at])).collect();
    while left > room * 1e-9 && !open.is_empty() {
        let shares: f64 = open.iter().map(|at| f64::from(claims[*at].shares)).sum();
        let round = left;
        for at in &open {
            let part = (round * f64::from(claims[*at].shares) / shares).min(most(&claims[*at]) - parts[*at]);
            parts[*at] += part;
            left -= part;
        }
        let before = open.len();
        open.retain(|at| parts[*at] < most(&claims[*at]) * (1.0 - 1e-12));
        if open.len() == before {
            break;
        }
    }
    parts
}

#[cfg(test)]
mod tests;
