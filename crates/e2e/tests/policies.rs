//! What clusters do by themselves, with real guests: resource pools enforced, imbalance evened out, a host drained under load, hosts that sleep
//! and wake, a rolling update whose controller is killed in the middle.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_e2e::lab::{address, host_of};
use gantry_e2e::{EchoClient, Lab, Observer, Workload, disk, eventually, qemus};
use gantry_types::{Host, HostState, Maintenance, Operation, OperationPhase, Policy, ResourcePool, Vm, VmPhase};

const ECHO_PORT: u16 = 7;
/// For what takes several moves or boots on a busy machine.
const LIMIT: Duration = Duration::from_secs(150);

fn busy() -> Workload {
    Workload { memory_check_mib: 4, ..Workload::default() }
}

async fn host(lab: &Lab, number: u8) -> Result<Host> {
    Ok(lab.client().get(&format!("host-{number}")).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn load_inside_guests_is_seen_and_evened_out() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    for name in ["busy-1", "busy-2"] {
        lab.run_vm(name, Some(1), &busy()).await?;
    }
    let explained = lab.gantry(&["vm", "explain", "busy-1"]).await?.ok()?;
    ensure!(
        explained.contains("host-1") && explained.contains("host-2") && explained.contains("memory"),
        "{explained}"
    );

    a_pool_holds_a_busy_guest_down(&lab).await?;

    let advise = ["policy", "set", "balance", "--mode", "advise", "--cluster", "main", "--interval", "2"];
    let advise = advise.into_iter().chain(["--comfortable", "15"]);
    lab.gantry(&advise.collect::<Vec<_>>()).await?.ok()?;
    eventually("a move is recommended, and nothing is moved", LIMIT, async || {
        let policy: Policy = lab.client().get("balance").await?;
        ensure!(!policy.status.recommendations.is_empty(), "it found: {}", policy.status.finding);
        Ok(())
    })
    .await?;
    let operations: Vec<Operation> = lab.client().list(None).await?;
    ensure!(operations.iter().all(|it| it.spec.requested_by != "policy/balance"), "it acted on its own advice");

    lab.gantry(&["policy", "set", "balance", "--mode", "automatic", "--cluster", "main"]).await?.ok()?;
    eventually("each host has one of them", LIMIT, async || {
        let (first, second): (Vm, Vm) = (lab.client().get("busy-1").await?, lab.client().get("busy-2").await?);
        ensure!(host_of(&first)? != host_of(&second)?, "both are on host-{}", host_of(&first)?);
        Ok(())
    })
    .await?;
    lab.gantry(&["policy", "set", "balance", "--mode", "off", "--cluster", "main"]).await?.ok()?;
    for name in ["busy-1", "busy-2"] {
        lab.runs_in_one_place(name).await?;
    }
    let events = lab.gantry(&["event", "list", "--for", "policy/balance"]).await?.ok()?;
    ensure!(events.contains("PolicyActed"), "{events}");
    let energy = lab.gantry(&["energy", "report", "--by", "vm"]).await?.ok()?;
    ensure!(energy.contains("busy-1") && (energy.contains("estimated") || energy.contains("measured")), "{energy}");
    lab.passed();
    Ok(())
}

/// Two guests that want all they can get; one of them in a pool that may have a fifth of a processor.
async fn a_pool_holds_a_busy_guest_down(lab: &Lab) -> Result<()> {
    lab.gantry(&["resource-pool", "set", "small", "--cpu-limit", "20"]).await?.ok()?;
    lab.gantry(&["vm", "set", "busy-2", "--resource-pool", "small"]).await?.ok()?;
    let used = async |name: &str| -> Result<f64> {
        let vm: Vm = lab.client().get(name).await?;
        vm.status.metrics.map(|metrics| metrics.cpu_percent).context("nothing is measured")
    };
    eventually("the pool's limit holds", LIMIT, async || {
        let pool: ResourcePool = lab.client().get("small").await?;
        let part = pool.status.hosts.first().context("no host has a part of it")?;
        ensure!(part.host.as_str() == "host-1" && part.cpu_limit_percent == Some(20), "{part:?}");
        if part.enforced.contains("cpu not at all") {
            return Ok(());
        }
        let (free, held) = (used("busy-1").await?, used("busy-2").await?);
        ensure!(held < 30.0 && held < free, "busy-2 uses {held:.0} %, busy-1 {free:.0} %; {}", part.enforced);
        Ok(())
    })
    .await?;
    lab.gantry(&["resource-pool", "delete", "small"]).await?.expect_code(4)?;
    lab.gantry(&["vm", "set", "busy-2", "--resource-pool", "none"]).await?.ok()?;
    lab.gantry(&["resource-pool", "delete", "small"]).await?.ok()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_drained_under_load_sleeps_and_is_woken_by_a_start() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let writes = Observer::listen(lab.outside())?;
    let workload = Workload { writes_to: Some(writes.address()), ..Workload::default() };
    let vm = lab.run_vm("writer", Some(1), &workload).await?;
    let echo = EchoClient::connect(address(&vm)?, ECHO_PORT)?;

    lab.gantry(&["host", "drain", "host-1"]).await?.ok()?;
    let moved = lab.runs_in_one_place("writer").await?;
    ensure!(host_of(&moved)? == 2, "the drained host still has it");
    ensure!(host(&lab, 1).await?.status.maintenance == Maintenance::Drained);
    let echo = echo.finish().context("a client outside noticed the drain")?;
    ensure!(echo.exchanged > 10, "{echo:?}");
    lab.gantry(&["host", "undrain", "host-1"]).await?.ok()?;

    lab.gantry(&["host", "sleep", "host-1"]).await?.expect_code(4)?;
    lab.gantry(&["host", "reboot", "host-1"]).await?.ok()?;
    lab.gantry(&["host", "sleep", "host-1"]).await?.ok()?;
    let sleeping = host(&lab, 1).await?;
    ensure!(sleeping.status.state == HostState::Sleeping && sleeping.status.wake_proof.is_some(), "{sleeping:?}");
    let sight = lab.room().look();
    ensure!(sight.hosts[0].processes == 0 && !sight.hosts[0].cable, "its power is on: {:?}", sight.hosts[0]);

    // The other host takes nothing, so the start has to wait for the one that sleeps.
    lab.gantry(&["host", "cordon", "host-2"]).await?.ok()?;
    let waiting = lab.guest("waiting", &Workload::default())?;
    let created = lab.client().create(&waiting, &Default::default()).await?;
    lab.follow(&created).await?;
    let started = lab.serving("waiting").await?;
    ensure!(host_of(&started)? == 1);
    let woken = host(&lab, 1).await?;
    ensure!(woken.status.state == HostState::Ready, "{woken:?}");
    ensure!(writes.report().doubled.is_empty());

    // A stopped VM goes with its disk: every write that was acknowledged is on it.
    lab.gantry(&["vm", "stop", "writer"]).await?.ok()?;
    lab.gantry(&["host", "drain", "host-2"]).await?.ok()?;
    let gone: Vm = lab.client().get("writer").await?;
    ensure!(host_of(&gone)? == 1 && gone.status.phase == VmPhase::Stopped, "{:?}", gone.status);
    disk::check(&lab.disk(1, gone.metadata.uuid), writes.last())?;
    lab.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_goes_on_after_the_controller_was_killed_in_the_middle() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let vm = lab.run_vm("steady", Some(1), &Workload::default()).await?;
    let echo = EchoClient::connect(address(&vm)?, ECHO_PORT)?;
    lab.gantry(&["cluster", "update", "main", "--reboot", "--no-wait"]).await?.ok()?;
    let update = async || -> Result<Operation> {
        let operations: Vec<Operation> = lab.client().list(None).await?;
        operations.into_iter().find(|it| it.spec.action.verb() == "cluster-update").context("no update")
    };
    // Wherever that is: the VM on its way, or the power already off.
    eventually("the first host is at work", LIMIT, async || {
        let first = host(&lab, 1).await?;
        ensure!(first.spec.cordoned || first.status.state != HostState::Ready, "{:?}", first.status.state);
        Ok(())
    })
    .await?;
    lab.crash_controller()?;
    lab.resume().await?;
    eventually("the update ends", LIMIT, async || {
        let update = update().await?;
        ensure!(update.status.phase.is_finished(), "it is {:?}", update.status);
        Ok(())
    })
    .await?;
    let update = update().await?;
    ensure!(update.status.phase == OperationPhase::Succeeded, "{:?}", update.status);
    for number in [1, 2] {
        let host = host(&lab, number).await?;
        ensure!(host.status.state == HostState::Ready && !host.spec.cordoned, "{host:?}");
        ensure!(host.status.wake_proof.is_some(), "host-{number} was not rebooted");
    }
    let vm = lab.runs_in_one_place("steady").await?;
    ensure!(qemus(vm.metadata.uuid).len() == 1);
    let echo = echo.finish().context("a client outside noticed the update")?;
    ensure!(echo.exchanged > 10, "{echo:?}");
    lab.passed();
    Ok(())
}
