//! One protected VM: its application fails and it is started elsewhere; then one host after the other fails under it, each in
//! another way. Each time it runs again
//! elsewhere, or where it was; an outside observer finds every write that was acknowledged, and never hears two of it.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::{SETTLE_LIMIT, address, host_of};
use gantry_e2e::{Lab, Sentinel, Story, VM, eventually, http_get, qemus};
use gantry_types::{Event, FailureReaction, Host, HostState, Probe, ProbeCheck, ProbeKind, ProbeState, ProbeStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Boots of the guest, each with an observer of its own.
const BOOTS: usize = 6;

async fn begin() -> Result<(Story, tempfile::TempDir)> {
    let lab = Lab::up(3).await?;
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
    lab.shared_pool("nas", &place.path().join("nas"), "host-1,host-2,host-3").await?;
    Ok((Story::begin(lab, "nas", BOOTS).await?, place))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_vm_outlives_its_hosts_and_never_runs_twice() -> Result<()> {
    let (mut story, _place) = begin().await?;
    let first = story.settled().await?;
    let sentinel = Sentinel::watch(story.vm().await?.metadata.uuid);
    let explained = story.lab.gantry(&["ha", "explain", VM]).await?.ok()?;
    ensure!(explained.contains("http://:80/ succeeds, asked every 1 s; now passing"), "{explained}");

    application_fails(&mut story, first).await?;
    let host = story.settled().await?;
    cut(&mut story, host).await?;
    let host = story.settled().await?;
    frozen(&mut story, host).await?;
    let host = story.settled().await?;
    unplugged(&mut story, host).await?;
    let host = story.settled().await?;
    fenced_by_hand(&mut story, host).await?;

    sentinel.finish()?;
    story.lab.passed();
    Ok(())
}

/// It serves no more while its guest writes on: its host ends it, and it serves on another one.
async fn application_fails(story: &mut Story, host: u8) -> Result<()> {
    let before = story.vm().await?;
    let mut sent = before.clone();
    // Its status changes meanwhile; nobody else changes its spec.
    sent.metadata.revision = 0;
    sent.spec.ha.on_application_failure = FailureReaction::RestartElsewhere;
    let serves = Probe { period_s: 1, timeout_s: 5, ..Probe::new(ProbeKind::Liveness, "http://:80/".parse()?) };
    sent.spec.probes.push(serves);
    story.lab.client().update(&sent, &WriteQuery::default()).await?;
    eventually("it is known to serve", SETTLE_LIMIT, async || {
        let vm = story.vm().await?;
        let passes = |probe: &ProbeStatus| probe.kind == ProbeKind::Liveness && probe.state == ProbeState::Passing;
        ensure!(vm.status.probes.iter().any(passes), "{:?}", vm.status.probes);
        Ok(())
    })
    .await?;

    let mut breaks = Probe { period_s: 1, ..Probe::new(ProbeKind::Readiness, "exec:/bin/sh -c".parse()?) };
    if let ProbeCheck::Exec(exec) = &mut breaks.check {
        exec.command.push("test $(cat /data/boots) != 1 || killall httpd".to_owned());
    }
    sent.spec.probes.push(breaks);
    story.lab.client().update(&sent, &WriteQuery::default()).await?;
    let vm = story.runs_again("a failure of its application", Instant::now()).await?;
    ensure!(host_of(&vm)? != host && vm.status.failovers.len() == 1, "{:?}", vm.status);
    let told: Vec<Event> = story.lab.client().list(None).await?;
    let again = format!("it had failed on host 'host-{host}'");
    ensure!(told.iter().any(|event| event.spec.reason == "VmRunsAgain" && event.spec.message.contains(&again)));

    // What follows is about hosts.
    (sent.spec.ha, sent.spec.probes) = (before.spec.ha, before.spec.probes);
    story.lab.client().update(&sent, &WriteQuery::default()).await?;
    Ok(())
}

/// Management and data cable: it stops its VM itself, then the VM starts elsewhere.
async fn cut(story: &mut Story, host: u8) -> Result<()> {
    let uuid = story.vm().await?.metadata.uuid;
    let pid = qemus(uuid).first().context("it has no QEMU")?.pid;
    story.lab.cable("cut", host).await?;
    let cut = Instant::now();
    let vm = story.runs_again("a cut", cut).await?;
    ensure!(host_of(&vm)? != host && qemus(uuid).iter().all(|seen| seen.pid != pid), "{:?}", vm.status);
    story.lab.cable("mend", host).await?;
    story.host_is(host, HostState::Ready).await?;
    let told: Vec<Event> = story.lab.client().list(None).await?;
    for reason in ["HostFencing", "HostFenced", "VmDisplaced", "VmRunsAgain", "HostFenceLifted"] {
        ensure!(told.iter().any(|event| event.spec.reason == reason), "no event says {reason}");
    }
    let again = story.vm().await?;
    ensure!(again.status.host == vm.status.host && again.status.epoch == vm.status.epoch, "{:?}", again.status);
    Ok(())
}

/// Its agent stands still for longer than its lease: the warden stops the VM. The agent holds the disk's lock until it goes
/// on, so the VM starts when that is so.
async fn frozen(story: &mut Story, host: u8) -> Result<()> {
    let uuid = story.vm().await?.metadata.uuid;
    let agent = story.lab.room().look().hosts[usize::from(host) - 1].agent_pid.context("it has no agent")?;
    kill(Pid::from_raw(agent), Signal::SIGSTOP)?;
    let stopped = Instant::now();
    let displaced = eventually("its VM is stopped and to run again", SETTLE_LIMIT, async || {
        let vm = story.vm().await?;
        ensure!(vm.status.displaced.is_some() && qemus(uuid).is_empty(), "{:?}", vm.status);
        Ok(vm)
    });
    let displaced = displaced.await;
    kill(Pid::from_raw(agent), Signal::SIGCONT)?;
    ensure!(displaced?.status.epoch > 0);
    story.runs_again("a frozen agent", stopped).await?;
    story.host_is(host, HostState::Ready).await
}

/// Everything of the host ends at once.
async fn unplugged(story: &mut Story, host: u8) -> Result<()> {
    story.lab.cable("unplug", host).await?;
    let vm = story.runs_again("a power loss", Instant::now()).await?;
    ensure!(host_of(&vm)? != host, "{:?}", vm.status);
    story.lab.cable("plug", host).await?;
    story.lab.resume().await?;
    story.host_is(host, HostState::Ready).await?;
    http_get(address(&vm)?, "/", Duration::from_secs(5)).context("what came back disturbed it")?;
    Ok(())
}

/// An operator shuts the host out.
async fn fenced_by_hand(story: &mut Story, host: u8) -> Result<()> {
    let name = format!("host-{host}");
    story.lab.gantry(&["host", "fence", &name, "--why", "smoke"]).await?.ok()?;
    let vm = story.runs_again("a fence by hand", Instant::now()).await?;
    ensure!(host_of(&vm)? != host, "{:?}", vm.status);
    let fenced: Host = story.lab.client().get(&name).await?;
    ensure!(fenced.spec.cordoned, "{:?}", fenced.spec);
    let told: Vec<Event> = story.lab.client().list(None).await?;
    ensure!(told.iter().any(|event| event.spec.reason == "HostFencing" && event.spec.message.contains("smoke")));
    Ok(())
}
