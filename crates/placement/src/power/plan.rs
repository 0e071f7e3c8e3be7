//! The decision, step by step: starts, demand, relief, consolidation, sleep.

use std::collections::BTreeSet;

use gantry_types::HostState;

use super::{HostStep, Outlook, Plan, Settings, consolidate::Consolidation};
use crate::{Request, Snapshot, batch::take, place::place_on};

/// Proposes what to wake, move and put to sleep.
pub fn propose(snapshot: &Snapshot, settings: &Settings, outlook: &Outlook) -> Plan {
    let mut work = Consolidation::new(snapshot, settings, outlook);
    wake_for_starts(&mut work);
    wake_for_demand(&mut work);
    work.relieve();
    if work.plan.wake.is_empty() {
        work.empty_hosts();
        sleep(&mut work);
    } else {
        work.plan.left.push("hosts are being woken, so none is emptied or put to sleep".to_owned());
    }
    work.plan
}

/// A start that fits on no host that is awake gets a sleeping one that it fits on.
fn wake_for_starts(work: &mut Consolidation<'_>) {
    for start in &work.outlook.starts {
        let awake = Request { may_wake: false, ..start.clone() };
        let asleep = Request { may_wake: true, ..start.clone() };
        let found =
            place_on(work.snapshot, &work.ledger, &awake).or_else(|_| place_on(work.snapshot, &work.ledger, &asleep));
        match found {
            Ok((host, placement)) => {
                if placement.asleep {
                    work.wake(host, "a VM that is to start fits on no host that is awake".to_owned());
                }
                take(work.snapshot, &mut work.ledger, host, start);
            }
            Err(refusal) => work.plan.left.push(format!("no host, asleep or awake, can take a start: {refusal}")),
        }
    }
}

/// Wakes hosts until those that are awake are expected to hold what comes, with the spare.
fn wake_for_demand(work: &mut Consolidation<'_>) {
    let factor = work.outlook.demand_factor.max(1.0);
    loop {
        let rows = work.ledger.rows.iter().filter(|row| row.in_service() && !row.asleep);
        let (mut demand, mut capacity, mut free_memory) = (0.0, 0.0, 0);
        for row in rows {
            demand += row.demand;
            capacity += row.cpu_capacity;
            free_memory += row.memory_free();
        }
        let reason = if demand * factor > capacity * work.settings.relief_fill {
            format!(
                "{:.0} % of the awake hosts' processors will be wanted, {:.0} % are the limit",
                100.0 * demand * factor / capacity.max(1.0),
                100.0 * work.settings.relief_fill
            )
        } else if free_memory < work.ledger.failover_needed {
            "the awake hosts could not take the VMs of the failed hosts that were promised for".to_owned()
        } else {
            return;
        };
        let Some(host) = work.best_sleeper() else {
            work.plan.left.push(format!("no host is left to wake, though {reason}"));
            return;
        };
        work.wake(host, reason);
    }
}

/// Puts empty hosts to sleep, the least efficient first, as far as spare and failover allow.
fn sleep(work: &mut Consolidation<'_>) {
    let receivers: BTreeSet<u32> =
        work.plan.moves.iter().filter_map(|planned| work.snapshot.index(&planned.to)).collect();
    let mut empty: Vec<u32> = (0..work.ledger.rows.len() as u32)
        .filter(|host| {
            // As it is now, not as it will be once the moves are done.
            let (row, now) = (&work.ledger.rows[*host as usize], &work.snapshot.ledger.rows[*host as usize]);
            row.in_service() && !row.asleep && row.state == HostState::Ready && now.vms == 0 && row.vms == 0
        })
        .filter(|host| !receivers.contains(host))
        .collect();
    empty.sort_by(|a, b| work.efficiency(*a).total_cmp(&work.efficiency(*b)).then_with(|| b.cmp(a)));
    let spare = work.settings.spare_hosts as usize;
    while empty.len() > spare {
        let host = empty.remove(0);
        let facts = &work.snapshot.entry(host).facts;
        let name = facts.name.clone();
        if !facts.wake_proven {
            work.plan.left.push(format!("{name} is empty, but it was never proved that it can be woken"));
            continue;
        }
        let held_s = work.held_s(host);
        if held_s > 0 {
            work.plan.left.push(format!("{name} is empty, but woke lately: it may sleep in {held_s} s"));
            continue;
        }
        if !work.failover_holds_without(host) {
            work.plan.left.push(format!("{name} is empty, but kept awake for the failover that was promised"));
            continue;
        }
        work.put_to_sleep(host);
        work.plan.sleep.push(HostStep { host: name, reason: "it is empty and not needed as a spare".to_owned() });
    }
}
