//! `bench storage`: what keeping a state costs the guest, and how soon one that is gone back to serves.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_types::{RecoveryPolicy, Snapshot, Vm};

use super::{Better, Figure, median};
use crate::lab::{SETTLE_LIMIT, address};
use crate::peer::ask_neighbours_often;
use crate::{Lab, Observer, Workload, eventually, http_get};

const VM: &str = "bench";
/// From the command to the first answer of a guest that went back with its memory.
const REVERT_LIMIT_MS: f64 = 1000.0;
const LOOK: Duration = Duration::from_millis(5);

/// Pauses as the guest's clock ticks show them outside, and moments of first answers.
#[derive(Default)]
struct Measured {
    disk_pauses: Vec<Duration>,
    quiesced_pauses: Vec<Duration>,
    memory_pauses: Vec<Duration>,
    reverts: Vec<Duration>,
    recoveries: Vec<Duration>,
}

pub async fn storage(runs: usize) -> Result<Vec<Figure>> {
    let lab = Lab::up(1).await?;
    lab.import_guest().await?;
    ask_neighbours_often(&lab.room().layout().operator_vxlan())?;
    let ticks = Observer::listen(lab.outside())?;
    let workload = Workload { ticks_to: Some(ticks.address()), ..Workload::default() };
    let mut sent = lab.guest(VM, &workload)?;
    sent.spec.recovery = RecoveryPolicy { after_s: 10, ..RecoveryPolicy::default() };
    let created = lab.client().create(&sent, &WriteQuery::default()).await?;
    lab.follow(&created).await?;
    let vm = lab.serving(VM).await?;

    let mut measured = Measured::default();
    for run in 1..=runs {
        let kinds: [(&[&str], &mut Vec<Duration>); 3] = [
            (&[], &mut measured.disk_pauses),
            (&["--quiesce"], &mut measured.quiesced_pauses),
            (&["--memory"], &mut measured.memory_pauses),
        ];
        for (at, (flags, pauses)) in kinds.into_iter().enumerate() {
            pauses.push(take(&lab, &ticks, &format!("r{run}-{at}"), flags).await?);
        }
        measured.reverts.push(revert(&lab, &vm, &format!("r{run}-2")).await?);
        for at in 0..3 {
            lab.gantry(&["snapshot", "delete", VM, &format!("r{run}-{at}")]).await?.ok()?;
        }
        measured.recoveries.push(recover(&lab, &vm).await?);
        let last = |values: &[Duration]| values.last().copied().unwrap_or_default();
        eprintln!(
            "storage {run}: pause disk {:?}, quiesced {:?}, memory {:?}; revert {:?}, recover {:?}",
            last(&measured.disk_pauses),
            last(&measured.quiesced_pauses),
            last(&measured.memory_pauses),
            last(&measured.reverts),
            last(&measured.recoveries)
        );
    }
    lab.passed();
    let alone = |name: &str, values: &[Duration]| {
        Figure::alone(name, median(values).as_secs_f64() * 1000.0, Better::Lower, values.len())
    };
    Ok(vec![
        alone("snapshot_disk_pause_ms", &measured.disk_pauses),
        alone("snapshot_quiesced_pause_ms", &measured.quiesced_pauses),
        alone("snapshot_memory_pause_ms", &measured.memory_pauses),
        alone("revert_memory_first_http_answer_ms", &measured.reverts).promise(REVERT_LIMIT_MS),
        alone("recover_first_http_answer_ms", &measured.recoveries),
    ])
}

/// The longest silence of the guest's clock while the snapshot was taken.
async fn take(lab: &Lab, ticks: &Observer, name: &str, flags: &[&str]) -> Result<Duration> {
    let begun = Instant::now();
    let command: Vec<&str> = ["snapshot", "create", VM, name].iter().chain(flags).copied().collect();
    lab.gantry(&command).await?.ok()?;
    let ended = Instant::now();
    let ticked = ticks.count();
    eventually("the guest's clock ticks again", SETTLE_LIMIT, async || {
        ensure!(ticks.count() > ticked + 10, "it stands still");
        Ok(())
    })
    .await?;
    let snapshot: Snapshot = lab.client().get(&format!("{VM}-{name}")).await?;
    snapshot.status.taken_at.context("it was not taken")?;
    Ok(ticks.report().longest_gap(begun, ended))
}

/// From the command to the first answer that is from before.
async fn revert(lab: &Lab, vm: &Vm, name: &str) -> Result<Duration> {
    let address = address(vm)?;
    let before = uptime(address)?;
    let begun = Instant::now();
    let answered = tokio::task::spawn_blocking(move || first_answer_from_before(address, before));
    lab.gantry(&["snapshot", "revert", VM, name]).await?.ok()?;
    Ok(answered.await?? - begun)
}

async fn recover(lab: &Lab, vm: &Vm) -> Result<Duration> {
    eventually("a good state is kept", SETTLE_LIMIT, async || {
        let now: Vm = lab.client().get(VM).await?;
        ensure!(!now.status.recovery_points.is_empty(), "none yet");
        Ok(())
    })
    .await?;
    let address = address(vm)?;
    let before = uptime(address)?;
    let begun = Instant::now();
    let answered = tokio::task::spawn_blocking(move || first_answer_from_before(address, before));
    lab.gantry(&["vm", "recover", VM]).await?.ok()?;
    let answered = answered.await??;
    lab.serving(VM).await?;
    Ok(answered - begun)
}

fn first_answer_from_before(address: IpAddr, before: f64) -> Result<Instant> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        if uptime(address).is_ok_and(|now| now < before) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < deadline, "the guest did not answer from before in time");
        std::thread::sleep(LOOK);
    }
}

/// How long the guest has been up, as it says itself.
fn uptime(address: IpAddr) -> Result<f64> {
    let text = http_get(address, "/cgi-bin/who", Duration::from_millis(250))?;
    let up = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("up="));
    up.with_context(|| format!("the guest does not say how long it is up: {text}"))?.parse().context("up=")
}
