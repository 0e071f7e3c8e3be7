//! Where a VM goes: a pure function over a snapshot, and the reasons why each other host was not chosen.
//!
//! It knows no clock, no random numbers and no I/O. Hard constraints come first; among the hosts that fulfil them the
//! one with the most free memory wins, and the name breaks ties, so the same snapshot always gives the same answer.

mod explain;
mod request;

use std::collections::BTreeMap;

use gantry_types::{ByteSize, Host, HostState, Name, Vm};

pub use explain::{Placement, Reason, Refusal};
pub use request::{Likeness, Request};

/// Kept free on every host for itself and for what QEMU needs besides the guest's memory.
pub const MEMORY_RESERVE: ByteSize = ByteSize::mib(256);

/// Chooses a host.
///
/// Memory counts as given out to every VM that has the host in `status.host` or `status.moving_to`, running or not,
/// so that a stopped VM can always be started where its disk is. `request.vm` itself is not counted.
///
/// # Errors
/// If no host fulfils all constraints: every host with its reason, by name.
pub fn place<'a>(
    hosts: impl IntoIterator<Item = &'a Host>,
    vms: impl IntoIterator<Item = &'a Vm>,
    request: &Request,
) -> Result<Placement, Refusal> {
    let given_out = memory_given_out(vms, request);
    let mut fitting = Vec::new();
    let mut refused = BTreeMap::new();
    for host in hosts {
        let used = given_out.get(&host.metadata.name).copied().unwrap_or_default();
        match free_memory(host, used, request) {
            Ok(free) => fitting.push((free, host.metadata.name.clone())),
            Err(reason) => {
                refused.insert(host.metadata.name.clone(), reason);
            }
        }
    }
    // Most free memory first; among equals the lowest name.
    fitting.sort_by(|(a_free, a_name), (b_free, b_name)| b_free.cmp(a_free).then_with(|| a_name.cmp(b_name)));
    let mut fitting = fitting.into_iter();
    let Some((free_memory, host)) = fitting.next() else {
        return Err(Refusal { refused });
    };
    refused.extend(fitting.map(|(free, name)| (name, Reason::LessFreeMemory { free })));
    Ok(Placement { host, free_memory, refused })
}

fn memory_given_out<'a>(vms: impl IntoIterator<Item = &'a Vm>, request: &Request) -> BTreeMap<Name, u64> {
    let mut given_out: BTreeMap<Name, u64> = BTreeMap::new();
    for vm in vms.into_iter().filter(|vm| vm.metadata.uuid != request.vm) {
        for host in [&vm.status.host, &vm.status.moving_to].into_iter().flatten() {
            let sum = given_out.entry(host.clone()).or_default();
            *sum = sum.saturating_add(vm.spec.memory.bytes());
        }
    }
    given_out
}

/// What the host has to offer, before the VM takes its share.
fn free_memory(host: &Host, used_bytes: u64, request: &Request) -> Result<ByteSize, Reason> {
    let name = &host.metadata.name;
    if request.only.as_ref().is_some_and(|only| only != name) {
        return Err(Reason::NotTheOneAskedFor);
    }
    if request.except.as_ref() == Some(name) {
        return Err(Reason::Excluded);
    }
    match host.status.state {
        HostState::Ready => {}
        HostState::Joining => return Err(Reason::Joining),
        HostState::Lost => return Err(Reason::Lost),
        HostState::Sleeping | HostState::Waking => return Err(Reason::Asleep),
    }
    if host.spec.cordoned && !request.despite_cordon {
        return Err(Reason::Cordoned);
    }
    let inventory = host.status.inventory.as_ref().ok_or(Reason::Joining)?;
    if !inventory.guest_archs.contains(&request.arch) {
        return Err(Reason::CannotRun { arch: request.arch });
    }
    if let Some(likeness) = &request.like {
        likeness.check(inventory)?;
    }
    let usable = inventory.memory.bytes().saturating_sub(MEMORY_RESERVE.bytes());
    let free = usable.saturating_sub(used_bytes);
    if request.memory.bytes() > free {
        return Err(Reason::TooLittleMemory { needed: request.memory, free: ByteSize(free) });
    }
    let pool = inventory.pools.iter().map(|pool| pool.free).max().unwrap_or_default();
    if request.disk_space > pool {
        return Err(Reason::TooLittleDisk { needed: request.disk_space, free: pool });
    }
    Ok(ByteSize(free))
}
