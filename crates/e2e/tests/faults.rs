//! One participant of a move breaks at one moment of it. Afterwards the VM runs in exactly one place, with all that was
//! acknowledged on the disk it uses, and the operation has come to an end.
//!
//! The default run takes one case of each kind; `GANTRY_E2E_ALL=1` takes every fault at every moment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_e2e::fault::{Fault, Moment, Move};
use gantry_e2e::{Lab, Observer, Sentinel, Workload, disk, eventually, executing};
use gantry_types::{MigrationPolicy, Vm, VmPhase};

/// How long a participant stays broken: longer than the controller needs to call a host lost.
const OUTAGE: Duration = Duration::from_secs(6);
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);

async fn cases(sample: &[(Fault, Moment)], faults: &[Fault]) -> Result<()> {
    let all = std::env::var_os("GANTRY_E2E_ALL").is_some();
    let every = faults.iter().flat_map(|fault| Moment::ALL.map(|moment| (*fault, moment)));
    let cases: Vec<_> = if all { every.collect() } else { sample.to_vec() };
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let mut failures = Vec::new();
    for (number, (fault, moment)) in cases.into_iter().enumerate() {
        eprintln!("--- {fault:?} at {moment:?}");
        if let Err(error) = case(&lab, &format!("vm-{number}"), fault, moment).await {
            eprintln!("{fault:?} at {moment:?}: {error:#}");
            failures.push(format!("{fault:?} at {moment:?}: {error:#}"));
            // What a failed case left must not fail the next one.
            lab.resume().await?;
        }
    }
    ensure!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
    lab.passed();
    Ok(())
}

async fn case(lab: &Lab, name: &str, fault: Fault, moment: Moment) -> Result<()> {
    lab.all_hosts_ready().await?;
    let writes = Observer::listen(lab.outside())?;
    let workload = Workload { writes_to: Some(writes.address()), dirty: Some((8, 4)), ..Workload::default() };
    let vm = lab.run_vm(name, Some(1), &workload).await?;
    let sentinel = Sentinel::watch(vm.metadata.uuid);
    eventually("the guest writes", PROGRESS_LIMIT, async || {
        ensure!(writes.last() > 100);
        Ok(())
    })
    .await?;

    // Slow enough for each moment to last.
    let policy = MigrationPolicy { bandwidth_mib_per_s: 24, ..MigrationPolicy::default() };
    let changed = lab.migrate(name, 2, policy).await?;
    let operation = changed.operation.as_ref().context("a move is an operation")?;
    let moving = Move::new(&vm, 2, operation)?;
    ensure!(moving.reaches(lab, moment).await?, "the move ended before {moment:?}");
    moving.strike(lab, fault).await?;
    // The outage itself, not a wait for something.
    tokio::time::sleep(OUTAGE).await;
    moving.repair(lab, fault).await?;
    lab.all_hosts_ready().await?;

    let ended = lab.operation_end(&moving.operation).await?;
    if fault.may_end_the_guest() {
        start_if_failed(lab, name).await?;
    }
    let vm = lab.runs_in_one_place(name).await?;
    sentinel.finish()?;
    let seen = writes.report();
    ensure!(seen.doubled.is_empty(), "the guest ran twice: {:?} were acknowledged by two", seen.doubled);
    let disk = lab.stopped_disk(name).await?;
    let found = disk::check(&disk, writes.last())?;
    eprintln!(
        "{fault:?} at {moment:?}: the move {:?}, the VM is on {:?}, {} acknowledged, {} found",
        ended.status.phase,
        vm.status.host,
        writes.last(),
        found.last
    );
    lab.gantry(&["vm", "delete", name]).await?.ok()?;
    for host in [1, 2] {
        let left = lab.disk(host, vm.metadata.uuid);
        // A host that was away when the VM left it is tidied up when it is back and has been heard.
        eventually("no disk of the VM is left", PROGRESS_LIMIT, async || {
            ensure!(!left.exists(), "{} is left", left.display());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// A VM whose QEMU has died is called failed, and starts again from its disk.
async fn start_if_failed(lab: &Lab, name: &str) -> Result<()> {
    let phase = eventually("the VM runs or has failed", PROGRESS_LIMIT, async || {
        let vm: Vm = lab.client().get(name).await?;
        let settled = matches!(vm.status.phase, VmPhase::Running | VmPhase::Failed) && vm.status.operation.is_none();
        ensure!(settled, "it is {} with operation {:?}", vm.status.phase, vm.status.operation);
        let executing = !executing(vm.metadata.uuid, Duration::from_millis(500)).is_empty();
        ensure!(executing == (vm.status.phase == VmPhase::Running), "it is shown as {}", vm.status.phase);
        Ok(vm.status.phase)
    })
    .await?;
    if phase == VmPhase::Failed {
        lab.gantry(&["vm", "start", name]).await?.ok()?;
        lab.serving(name).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn qemus_that_crash_during_a_move_lose_nothing_durable() -> Result<()> {
    use Fault::{DestinationQemuCrash, SourceQemuCrash};
    let sample = [
        (SourceQemuCrash, Moment::Memory),
        (DestinationQemuCrash, Moment::Memory),
        (DestinationQemuCrash, Moment::HandedOver),
    ];
    cases(&sample, &[SourceQemuCrash, DestinationQemuCrash]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_crash_during_a_move_lose_nothing() -> Result<()> {
    use Fault::{DestinationAgentCrash, SourceAgentCrash};
    let sample = [
        (SourceAgentCrash, Moment::Memory),
        (SourceAgentCrash, Moment::HandedOver),
        (DestinationAgentCrash, Moment::Memory),
        (DestinationAgentCrash, Moment::Decided),
    ];
    cases(&sample, &[SourceAgentCrash, DestinationAgentCrash]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_crashes_or_a_cable_that_is_cut_during_a_move_loses_nothing() -> Result<()> {
    use Fault::{ControllerCrash, DestinationCableCut, SourceCableCut};
    let sample = [
        (ControllerCrash, Moment::Memory),
        (ControllerCrash, Moment::Decided),
        (DestinationCableCut, Moment::Memory),
        (SourceCableCut, Moment::HandedOver),
    ];
    cases(&sample, &[ControllerCrash, DestinationCableCut, SourceCableCut]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_lose_power_during_a_move_lose_nothing() -> Result<()> {
    use Fault::{DestinationPowerLoss, SourcePowerLoss};
    let sample = [
        (DestinationPowerLoss, Moment::Memory),
        (DestinationPowerLoss, Moment::Decided),
        (SourcePowerLoss, Moment::Memory),
        (SourcePowerLoss, Moment::HandedOver),
    ];
    cases(&sample, &[DestinationPowerLoss, SourcePowerLoss]).await
}
