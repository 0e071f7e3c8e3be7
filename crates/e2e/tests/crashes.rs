//! Agents, the controller and whole hosts that die outside of moves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::address;
use gantry_e2e::{EchoClient, Lab, Observer, Workload, disk, eventually, qemus, workload_figure};
use gantry_types::{Host, HostState, OperationPhase, Vm, VmPhase};

const LOST_LIMIT: Duration = Duration::from_secs(15);
const ECHO_PORT: u16 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn agent_and_controller_crash_during_create_and_delete() -> Result<()> {
    let lab = Lab::up(1).await?;
    lab.import_guest().await?;
    for (number, victim) in ["agent", "controller", "both"].into_iter().enumerate() {
        let name = format!("vm-{number}");
        let started = Instant::now();
        let step = |what: &str| eprintln!("{victim}: {what} after {:?}", started.elapsed());
        let vm = lab.guest(&name, &Workload::default())?;
        let created = lab.client().create(&vm, &WriteQuery::default()).await?;
        crash(&lab, victim)?;
        lab.resume().await?;
        step("resumed");
        let ended = lab.finished(&created).await?;
        step("created");
        ensure!(ended.status.phase == OperationPhase::Succeeded, "create, {victim}: {:?}", ended.status);
        let vm = lab.serving(&name).await?;
        ensure!(qemus(vm.metadata.uuid).len() == 1);
        step("serving");

        let deleted = lab.client().delete::<Vm>(&name, &WriteQuery::default()).await?;
        crash(&lab, victim)?;
        lab.resume().await?;
        step("resumed again");
        lab.finished(&deleted).await?;
        step("deleted");
        lab.gantry(&["wait", "vm", &name, "--for", "deleted", "--timeout", "60s"]).await?.ok()?;
        ensure!(qemus(vm.metadata.uuid).is_empty(), "delete, {victim}: its QEMU is left");
        ensure!(!lab.disk(1, vm.metadata.uuid).exists(), "delete, {victim}: its disk is left");
    }
    lab.passed();
    Ok(())
}

fn crash(lab: &Lab, victim: &str) -> Result<()> {
    if victim != "controller" {
        lab.crash_agent(1)?;
    }
    if victim != "agent" {
        lab.crash_controller()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_outlive_agent_and_controller_and_come_back_after_a_power_loss() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let writes = Observer::listen(lab.outside())?;
    let workload = Workload { writes_to: Some(writes.address()), ..Workload::default() };
    let vm = lab.run_vm("steady", Some(2), &workload).await?;
    let (uuid, address) = (vm.metadata.uuid, address(&vm)?);
    let pid = qemus(uuid).first().context("it has no QEMU")?.pid;

    let echo = EchoClient::connect(address, ECHO_PORT)?;
    lab.crash_agent(2)?;
    lab.crash_controller()?;
    lab.resume().await?;
    lab.all_hosts_ready().await?;
    lab.runs_in_one_place("steady").await?;
    ensure!(qemus(uuid).first().map(|sight| sight.pid) == Some(pid), "the guest was started again");
    let echo = echo.finish().context("a client outside noticed the crash of agent and controller")?;
    ensure!(echo.exchanged > 10, "{echo:?}");
    // The adopted VM can be handled like any other.
    lab.gantry(&["vm", "pause", "steady"]).await?.ok()?;
    lab.gantry(&["vm", "resume", "steady"]).await?.ok()?;

    lab.cable("unplug", 2).await?;
    let acknowledged = writes.last();
    ensure!(acknowledged > 100, "it hardly wrote: {acknowledged}");
    ensure!(qemus(uuid).is_empty(), "a QEMU survived the power loss");
    eventually("the host is lost and its VM unknown", LOST_LIMIT, async || {
        let host: Host = lab.client().get("host-2").await?;
        let vm: Vm = lab.client().get("steady").await?;
        ensure!(host.status.state == HostState::Lost, "the host is {:?}", host.status.state);
        ensure!(vm.status.phase == VmPhase::Unknown, "the VM is {}", vm.status.phase);
        Ok(())
    })
    .await?;
    lab.cable("plug", 2).await?;
    lab.all_hosts_ready().await?;
    lab.serving("steady").await?;
    // The guest itself looked at its disk while it booted.
    let last = eventually("the guest has checked its disk", LOST_LIMIT * 4, async || workload_figure(address, "last"));
    let last = last.await?;
    ensure!(last >= acknowledged, "{acknowledged} was acknowledged, the guest found {last}");
    ensure!(workload_figure(address, "bad")? == 0, "the guest found damaged blocks");
    let disk = lab.stopped_disk("steady").await?;
    disk::check(&disk, acknowledged)?;
    lab.passed();
    Ok(())
}
