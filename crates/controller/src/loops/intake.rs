//! Heartbeats: what hosts tell becomes status.
//!
//! A host may have moved to other addresses, but not to another host's: those are told of and not taken over.
//! Everything goes to the overlay; the store is written only when something durable changed. A heartbeat that comes
//! out of order, also one of an agent that has been restarted since, is ignored, and a failing store only means that the next heartbeat does it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gantry_api::{
    agent::VmObservation,
    heartbeat::{Heartbeat, HeartbeatReply},
    storage::PoolAssignment,
};
use gantry_types::{ByteSize, Host, HostState, Inventory, Name, Pool, PoolPhase, Problem, Resource, Severity, Vm};

use super::{observed_vm::settle, stranded};
use crate::{
    app::{App, fence, host::address_owner, pool},
    history::{Measured, Subject},
    model::HostReport,
    objects::Change,
};

/// Changes of a pool's free space smaller than this are not worth a write each second.
const POOL_GRAIN: ByteSize = ByteSize::mib(256);

/// Takes in a heartbeat from the host that the peer's certificate names.
///
/// # Errors
/// `unknown-host` (denied) if there is no such host: it was deleted.
pub async fn heartbeat(app: &App, host: &Name, beat: Heartbeat) -> Result<HeartbeatReply, Problem> {
    let Some(known) = app.model.get::<Host>(host.as_str()) else {
        return Err(Problem::denied("unknown-host", format!("host '{host}' is not part of this datacenter"))
            .remedy("join it again: gantry host join URL TOKEN"));
    };
    if let Some(generation) = beat.lease.as_ref().and_then(|report| report.acknowledged) {
        fence::acknowledged(app, host, generation).await?;
    }
    let known = app.model.get::<Host>(host.as_str()).unwrap_or(known);
    let lease = beat.lease.as_ref().map(|report| app.leases.grant(app, &known, report));
    let interval_ms = app.config.heartbeat_interval.as_millis() as u64;
    let may_leave = stranded::may_leave(app, host, &beat.vms);
    let reply = HeartbeatReply { interval_ms, pools: pools_of(app, host), lease, may_leave };
    if !remember(app, host, &beat) {
        return Ok(reply);
    }
    if is_from_before_sleep(app, host, &beat) {
        return Ok(reply);
    }
    note_host(app, host, &beat).await?;
    // What a host that is shut out has stopped is told by its fence.
    let is_settled = |vm: &Vm| known.status.fence.is_some() && vm.status.is_guarded();
    for vm in vms_of(app, host).into_iter().filter(|vm| !is_settled(vm)) {
        let observation = beat.vms.iter().find(|observation| observation.uuid == vm.metadata.uuid);
        let uuid = vm.metadata.uuid;
        let is_trusted =
            || app.model.overlay(|overlay| overlay.is_trusted(host.as_str(), uuid, beat.agent_instance, beat.sequence));
        if let Err(problem) = note_vm(app, host, &vm, observation, is_trusted).await {
            tracing::debug!(vm = vm.name(), %problem, "the next heartbeat settles this VM");
        }
    }
    if strays(app, host, &beat) {
        app.wakeups.stray_vms.notify_one();
    }
    Ok(reply)
}

/// Whether it was under way when its host was switched off: it must not wake it.
fn is_from_before_sleep(app: &App, host: &Name, beat: &Heartbeat) -> bool {
    let shown = app.model.get::<Host>(host.as_str());
    shown.is_some_and(|host| fell_asleep_with(&host, beat))
}

fn fell_asleep_with(host: &Host, beat: &Heartbeat) -> bool {
    host.status.asleep.as_ref().is_some_and(|asleep| asleep.agent_instance == Some(beat.agent_instance))
}

/// False if it is an old one.
fn remember(app: &App, host: &Name, beat: &Heartbeat) -> bool {
    let (now, elapsed) = (app.clock.now(), app.clock.elapsed());
    let mut concerns_networks = false;
    let is_new = app.model.overlay_mut(|overlay| {
        if overlay.is_late(host.as_str(), beat.agent_instance, beat.sequence) {
            return false;
        }
        if let Some(traffic) = &beat.traffic {
            overlay.counters.reported(host.as_str(), traffic.clone(), elapsed);
        }
        let report = HostReport {
            agent_instance: beat.agent_instance,
            sequence: beat.sequence,
            last_seen: now,
            last_seen_elapsed: elapsed,
            metrics: beat.metrics,
            networks_generation: beat.networks_generation,
            members: beat.members.clone(),
            idle_routers: beat.idle_routers.clone(),
            pools: beat.pools.clone(),
            lease: beat.lease.as_ref().map(|report| report.lease.clone()),
            vms: beat.vms.iter().map(|observation| (observation.uuid, observation.clone())).collect(),
        };
        let before = overlay.hosts.get(host.as_str());
        concerns_networks = before
            .is_none_or(|before| (&before.members, &before.idle_routers) != (&report.members, &report.idle_routers));
        overlay.reported(host.as_str(), report);
        true
    });
    if concerns_networks {
        app.wakeups.networks.notify_one();
    }
    if is_new {
        app.history.record(now, measured(host, beat));
    }
    is_new
}

/// The host's own series and those of its VMs; the host's disk and network are its VMs'.
fn measured(host: &Name, beat: &Heartbeat) -> Vec<(Subject, Measured)> {
    let vms = beat.vms.iter().filter_map(|vm| Some((vm.uuid, vm.metrics?)));
    let mut measured: Vec<_> = vms
        .map(|(uuid, metrics)| {
            let values = Measured {
                cpu_percent: metrics.cpu_percent as f32,
                memory_bytes: metrics.resident_memory.bytes() as f32,
                disk_read_bytes_per_s: metrics.disk_read_bytes_per_s as f32,
                disk_write_bytes_per_s: metrics.disk_write_bytes_per_s as f32,
                net_rx_bytes_per_s: metrics.net_rx_bytes_per_s as f32,
                net_tx_bytes_per_s: metrics.net_tx_bytes_per_s as f32,
            };
            (Subject::Vm(uuid), values)
        })
        .collect();
    let sum = |value: fn(&Measured) -> f32| measured.iter().map(|(_, values)| value(values)).sum();
    let whole = Measured {
        cpu_percent: beat.metrics.cpu_percent as f32,
        memory_bytes: beat.metrics.memory_used.bytes() as f32,
        disk_read_bytes_per_s: sum(|values| values.disk_read_bytes_per_s),
        disk_write_bytes_per_s: sum(|values| values.disk_write_bytes_per_s),
        net_rx_bytes_per_s: sum(|values| values.net_rx_bytes_per_s),
        net_tx_bytes_per_s: sum(|values| values.net_tx_bytes_per_s),
    };
    measured.push((Subject::Host(host.to_string()), whole));
    measured
}

async fn note_host(app: &App, name: &Name, beat: &Heartbeat) -> Result<(), Problem> {
    let told = (beat.agent_address.as_str(), beat.underlay_address.as_str());
    let shown = app.model.get::<Host>(name.as_str());
    let has_moved = shown.as_ref().is_some_and(|host| addresses(host) != told);
    let may_move = !has_moved || may_have(app, name, told).await?;
    if shown.is_some_and(|host| !is_news(&host, beat, may_move)) {
        return Ok(());
    }
    app.objects
        .racing(|| async {
            let mut host: Host = app.objects.get(name.as_str()).await?;
            if !is_news(&host, beat, may_move) || fell_asleep_with(&host, beat) {
                return Ok(());
            }
            let mut change = Change::new();
            if may_move && addresses(&host) != told {
                let (agent, underlay) = addresses(&host);
                let message = format!(
                    "host '{name}' is now at {} and {} (underlay), before at {agent} and {underlay}",
                    told.0, told.1
                );
                change.event(&app.event(host.reference(), Severity::Warning, "HostMoved", message))?;
                told.0.clone_into(&mut host.status.agent_address);
                told.1.clone_into(&mut host.status.underlay_address);
            }
            if host.status.state != HostState::Ready {
                let message = format!("host '{name}' is ready");
                change.event(&app.event(host.reference(), Severity::Normal, "HostReady", message))?;
            }
            host.status.state = HostState::Ready;
            host.status.asleep = None;
            host.status.inventory = Some(beat.inventory.clone());
            host.status.members_generation = members_known(beat);
            host.status.fences_lifted = lifted_known(&host, beat);
            change.update(&host)?;
            app.commit(change).await?;
            app.wakeups.networks.notify_one();
            Ok(())
        })
        .await
}

fn addresses(host: &Host) -> (&str, &str) {
    (&host.status.agent_address, &host.status.underlay_address)
}

/// Whether a host may be at the addresses that it tells. If not, there is an event, once for these addresses.
async fn may_have(app: &App, name: &Name, (agent, underlay): (&str, &str)) -> Result<bool, Problem> {
    let reason = if agent.parse::<SocketAddr>().is_err() || underlay.parse::<IpAddr>().is_err() {
        "they are no addresses".to_owned()
    } else if let Some(other) = address_owner(app, name, agent, underlay) {
        format!("host '{other}' has one of them")
    } else {
        return Ok(true);
    };
    let refused = (agent.to_owned(), underlay.to_owned());
    let before = app.model.overlay_mut(|overlay| overlay.refused_addresses.insert(name.to_string(), refused.clone()));
    if before.as_ref() != Some(&refused)
        && let Some(host) = app.model.get::<Host>(name.as_str())
    {
        // What it sends may be of any length.
        let shown = |text: &str| text.chars().filter(|c| !c.is_control()).take(64).collect::<String>();
        let message = format!(
            "host '{name}' says that it is at {} and {} (underlay), which is ignored, because {reason}; correct its \
             agent.toml and restart its agent",
            shown(agent),
            shown(underlay)
        );
        let mut change = Change::new();
        change.event(&app.event(host.reference(), Severity::Warning, "HostAddressRefused", message))?;
        app.commit(change).await?;
    }
    Ok(false)
}

fn is_news(host: &Host, beat: &Heartbeat, may_move: bool) -> bool {
    let status = &host.status;
    status.state != HostState::Ready
        || status.asleep.is_some()
        || status.members_generation != members_known(beat)
        || status.fences_lifted != lifted_known(host, beat)
        || (may_move && addresses(host) != (beat.agent_address.as_str(), beat.underlay_address.as_str()))
        || status.inventory.as_ref().is_none_or(|known| differs(known, &beat.inventory))
}

fn members_known(beat: &Heartbeat) -> u64 {
    beat.lease.as_ref().map_or(0, |report| report.members_generation)
}

/// A host that has joined anew may know of fences that its object does not.
fn lifted_known(host: &Host, beat: &Heartbeat) -> u64 {
    let told = beat.lease.as_ref().map_or(0, |report| report.lifted);
    let known = host.status.fences_lifted;
    if host.status.fence.is_some() { known } else { known.max(told) }
}

fn differs(known: &Inventory, told: &Inventory) -> bool {
    if known.pools.len() != told.pools.len() {
        return true;
    }
    let mut same_space = told.clone();
    for (pool, old) in same_space.pools.iter_mut().zip(&known.pools) {
        if pool.free.bytes().abs_diff(old.free.bytes()) < POOL_GRAIN.bytes() {
            pool.free = old.free;
        }
    }
    same_space != *known
}

/// The pools that it is to watch.
fn pools_of(app: &App, host: &Name) -> Vec<PoolAssignment> {
    app.model.read(|tables| {
        let its = |pool: &&Arc<Pool>| pool.is_at(host) && pool.status.phase == PoolPhase::Ready;
        tables.pools.values().filter(its).map(|pool| pool::assignment(pool)).collect()
    })
}

fn vms_of(app: &App, host: &Name) -> Vec<Arc<Vm>> {
    app.model.read(|tables| {
        let on_host = |vm: &Vm| vm.status.host.as_ref() == Some(host) && vm.status.operation.is_none();
        tables.vms.values().filter(|vm| on_host(vm)).map(Arc::clone).collect()
    })
}

async fn note_vm(
    app: &App,
    host: &Name,
    shown: &Vm,
    observation: Option<&VmObservation>,
    is_trusted: impl Fn() -> bool,
) -> Result<(), Problem> {
    if settle(shown, host, observation, is_trusted()).is_none() {
        return Ok(());
    }
    // Once: if somebody was faster, the next heartbeat looks again.
    let vm: Vm = app.objects.get(shown.name()).await?;
    if vm.status.operation.is_some() || vm.status.host.as_ref() != Some(host) || vm.metadata.uuid != shown.metadata.uuid
    {
        return Ok(());
    }
    // Asked after reading: an operation that has ended since has raised the bar before its end could be read.
    let Some(settled) = settle(&vm, host, observation, is_trusted()) else { return Ok(()) };
    let mut change = Change::new();
    change.update(&settled.vm)?;
    for (severity, reason, message) in settled.events {
        let mut event = app.event(vm.reference(), severity, reason, message);
        event.spec.host = Some(host.clone());
        change.event(&event)?;
    }
    app.commit(change).await?;
    Ok(())
}

fn strays(app: &App, host: &Name, beat: &Heartbeat) -> bool {
    app.model.read(|tables| {
        super::stray_vms::find(tables, host, &beat.vms).next().is_some()
            || super::stray_vms::find_unknown(tables, host, &beat.vms).next().is_some()
    })
}
