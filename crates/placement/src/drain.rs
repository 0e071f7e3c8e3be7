//! Emptying a host.

use gantry_types::Name;
use serde::Serialize;
use uuid::Uuid;

use crate::{Move, Request, Snapshot, batch::Measure, batch::order, place::place_on};

/// How a host becomes empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In this order; each is possible once those before it are done.
    pub moves: Vec<Move>,
    /// VMs that run and can't leave.
    pub obstacles: Vec<Obstacle>,
    /// VMs that do not run; they can stay while the host is out of service.
    pub resting: Vec<Name>,
}

/// A VM that can't leave, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    pub vm: Uuid,
    pub name: Name,
    pub reason: String,
}

/// Finds a place for every running VM of the host, the hard ones first. A VM whose owner pinned it to the host is an
/// obstacle, as is one that fits nowhere; the others are moved all the same.
pub fn plan(snapshot: &Snapshot, host: &Name) -> Plan {
    let mut ledger = snapshot.ledger.clone();
    let mut plan = Plan { moves: Vec::new(), obstacles: Vec::new(), resting: Vec::new() };
    let (running, resting): (Vec<_>, Vec<_>) =
        snapshot.vms_on(host).into_iter().filter(|vm| vm.host.as_ref() == Some(host)).partition(|vm| vm.running);
    plan.resting = resting.iter().map(|vm| vm.name.clone()).collect();
    let requests: Vec<Request> = running.iter().map(|vm| snapshot.request_to_leave(vm)).collect();
    for at in order(snapshot, &requests, Measure::Scarcest) {
        let (vm, request) = (running[at], &requests[at]);
        let found = match &vm.obstacle {
            Some(obstacle) => Err(obstacle.clone()),
            None => place_on(snapshot, &ledger, request).map_err(|refusal| format!("no host can take it: {refusal}")),
        };
        match found {
            Ok((to, placement)) => {
                // It counts on both until it has moved; then only there.
                ledger.take(to, request);
                if let Some(from) = snapshot.index(host) {
                    ledger.give_back(from, request);
                }
                plan.moves.push(Move {
                    vm: request.vm,
                    name: vm.name.clone(),
                    from: host.clone(),
                    to: placement.host,
                    reason: format!("host {host} is being emptied"),
                });
            }
            Err(reason) => {
                plan.obstacles.push(Obstacle { vm: request.vm, name: vm.name.clone(), reason });
            }
        }
    }
    plan
}
