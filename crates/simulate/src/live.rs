//! What-if over a captured datacenter: hosts that are lost, taken away or added; another policy.

use gantry_placement::{HostFacts, Request, Settings, Snapshot, VmFacts, Weights, drain, place_batch};
use gantry_types::{Host, Name, Pool, Vm};
use serde::{Deserialize, Serialize};

/// A datacenter at one moment, as its API tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    pub hosts: Vec<Host>,
    pub vms: Vec<Vm>,
    #[serde(default)]
    pub pools: Vec<Pool>,
}

/// What is changed in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Fail at once: their VMs start anew elsewhere.
    pub lost: Vec<Name>,
    /// Are emptied and taken away.
    pub removed: Vec<Name>,
    /// So many more hosts like the largest one.
    pub added: u32,
    /// Another score.
    pub weights: Option<Weights>,
}

/// Why a what-if can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChange {
    #[error("host '{0}' is not in the capture")]
    NoSuchHost(Name),
    #[error("there is no host that has reported its inventory, so none can be added like it")]
    NothingToCopy,
}

/// What would happen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// VMs of lost hosts, and where they would start again.
    pub restarted: Vec<Seat>,
    /// VMs of removed hosts, and where they would move.
    pub moved: Vec<Seat>,
    /// VMs without a place.
    pub homeless: Vec<Homeless>,
    /// Before and after, by name; hosts that go have no `after`, hosts that come no `before`.
    pub hosts: Vec<HostChange>,
    /// Whether the VMs of one more host, the one with most memory given out, would find places on the others.
    pub survives_one_more: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seat {
    pub vm: Name,
    pub from: Name,
    pub to: Name,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Homeless {
    pub vm: Name,
    pub from: Name,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostChange {
    pub host: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Fill>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Fill>,
}

/// How full a host is, 0–1 of its memory without the host's own reserve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fill {
    pub vms: usize,
    pub memory: f64,
}

/// Plays the changes through: first the losses, then the removals, with the added hosts there from the beginning.
///
/// # Errors
/// If a host is named that is not there.
pub fn what_if(capture: &Capture, changes: &Changes) -> Result<Outcome, BadChange> {
    let weights = changes.weights.clone().unwrap_or(Settings::default().weights);
    let settings = Settings { weights, ..Settings::default() };
    let before = Snapshot::of(settings, &capture.hosts, &capture.vms, &capture.pools);
    for host in changes.lost.iter().chain(&changes.removed) {
        before.host(host).ok_or_else(|| BadChange::NoSuchHost(host.clone()))?;
    }
    let mut now = before.clone();
    for facts in added(capture, changes.added)? {
        now.put_host(facts);
    }
    let mut outcome =
        Outcome { restarted: vec![], moved: vec![], homeless: vec![], hosts: vec![], survives_one_more: false };
    lose(&mut now, &changes.lost, &mut outcome);
    for host in &changes.removed {
        remove(&mut now, host, &mut outcome);
    }
    outcome.hosts = compare(&before, &now);
    outcome.survives_one_more = survives_one_more(&now);
    Ok(outcome)
}

fn added(capture: &Capture, count: u32) -> Result<Vec<HostFacts>, BadChange> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let memory = |host: &&Host| host.status.inventory.as_ref().map(|inventory| inventory.memory);
    let model = capture.hosts.iter().filter(|host| memory(host).is_some()).max_by_key(memory);
    let model = HostFacts::from(model.ok_or(BadChange::NothingToCopy)?);
    let taken = |name: &Name| capture.hosts.iter().any(|host| host.metadata.name == *name);
    let names = (1..).filter_map(|number| format!("added-{number}").parse::<Name>().ok()).filter(|name| !taken(name));
    let host = |name| HostFacts {
        name,
        state: gantry_types::HostState::Ready,
        cordoned: false,
        cpu_used: 0.0,
        failure_domain: Default::default(),
        ..model.clone()
    };
    Ok(names.take(count as usize).map(host).collect())
}

fn lose(now: &mut Snapshot, lost: &[Name], outcome: &mut Outcome) {
    let mut victims: Vec<VmFacts> = Vec::new();
    for host in lost {
        victims.extend(now.vms_on(host).into_iter().filter(|vm| vm.host.as_ref() == Some(host)).cloned());
    }
    for host in lost {
        now.remove_host(host);
    }
    let requests: Vec<Request> = victims.iter().map(|vm| vm.request.clone()).collect();
    for (vm, (_, answer)) in victims.into_iter().zip(place_batch(now, &requests)) {
        let Some(from) = vm.host.clone() else { continue };
        match answer {
            Ok(placement) => {
                outcome.restarted.push(Seat { vm: vm.name.clone(), from, to: placement.host.clone() });
                now.put_vm(VmFacts { host: Some(placement.host), moving_to: None, ..vm });
            }
            Err(refusal) => {
                outcome.homeless.push(Homeless { vm: vm.name, from, reason: refusal.to_string() });
            }
        }
    }
}

fn remove(now: &mut Snapshot, host: &Name, outcome: &mut Outcome) {
    let plan = drain::plan(now, host);
    for planned in plan.moves {
        if let Some(vm) = now.vm(planned.vm).cloned() {
            now.put_vm(VmFacts { host: Some(planned.to.clone()), moving_to: None, ..vm });
        }
        outcome.moved.push(Seat { vm: planned.name, from: planned.from, to: planned.to });
    }
    let left = plan.obstacles.into_iter().map(|obstacle| (obstacle.name, obstacle.reason));
    let resting = plan.resting.into_iter().map(|vm| (vm, "it does not run, and its disk is on the host".to_owned()));
    for (vm, reason) in left.chain(resting) {
        outcome.homeless.push(Homeless { vm, from: host.clone(), reason });
    }
    now.remove_host(host);
}

fn compare(before: &Snapshot, after: &Snapshot) -> Vec<HostChange> {
    let mut names = before.host_names();
    names.extend(after.host_names());
    names.sort();
    names.dedup();
    let change = |host: Name| HostChange { before: fill(before, &host), after: fill(after, &host), host };
    names.into_iter().map(change).collect()
}

fn fill(snapshot: &Snapshot, host: &Name) -> Option<Fill> {
    let facts = snapshot.host(host)?;
    let vms = snapshot.vms_on(host);
    let given: u64 = vms.iter().map(|vm| vm.request.memory.bytes()).sum();
    Some(Fill { vms: vms.len(), memory: given as f64 / (facts.memory.bytes() as f64).max(1.0) })
}

/// The VMs of the host with most memory given out, tried on all others.
fn survives_one_more(snapshot: &Snapshot) -> bool {
    let names = snapshot.host_names();
    let largest = names.iter().max_by_key(|name| {
        let given: u64 = snapshot.vms_on(name).iter().map(|vm| vm.request.memory.bytes()).sum();
        (given, std::cmp::Reverse((*name).clone()))
    });
    let Some(largest) = largest else { return false };
    let mut without = snapshot.clone();
    let victims: Vec<Request> = without.vms_on(largest).iter().map(|vm| vm.request.clone()).collect();
    without.remove_host(largest);
    place_batch(&without, &victims).iter().all(|(_, answer)| answer.is_ok())
}
