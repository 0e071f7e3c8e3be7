//! Moves of a working guest: writing durably, dirtying memory, serving clients outside.

use std::time::Duration;

use anyhow::{Result, ensure};
use gantry_e2e::lab::{address, host_of};
use gantry_e2e::{EchoClient, Lab, Observer, Prober, Sentinel, Workload, disk, eventually, workload_figure};
use gantry_types::{MigrationMode, MigrationPolicy, OperationPhase, PostCopy, Vm};

const ECHO_PORT: u16 = 7;
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);

/// A VM whose guest writes, and everybody who watches it.
struct Watched {
    vm: Vm,
    writes: Observer,
    sentinel: Sentinel,
}

async fn watched(lab: &Lab, name: &str, workload: Workload) -> Result<Watched> {
    let writes = Observer::listen(lab.outside())?;
    let workload = Workload { writes_to: Some(writes.address()), ..workload };
    let vm = lab.run_vm(name, Some(1), &workload).await?;
    let sentinel = Sentinel::watch(vm.metadata.uuid);
    writes_on(&writes).await?;
    Ok(Watched { vm, writes, sentinel })
}

async fn writes_on(writes: &Observer) -> Result<()> {
    let before = writes.last();
    eventually("the guest writes on", PROGRESS_LIMIT, async || {
        ensure!(writes.last() > before + 50, "it acknowledged {} and then {}", before, writes.last());
        Ok(())
    })
    .await
}

/// Stops the VM and compares its disk with what was acknowledged.
async fn nothing_was_lost(lab: &Lab, watched: Watched) -> Result<()> {
    watched.sentinel.finish()?;
    let seen = watched.writes.report();
    ensure!(seen.doubled.is_empty(), "the guest ran twice: {:?} were acknowledged by two", seen.doubled);
    let disk = lab.stopped_disk(watched.vm.metadata.name.as_str()).await?;
    let found = disk::check(&disk, watched.writes.last())?;
    eprintln!("{} acknowledged, {} on the disk", watched.writes.last(), found.last);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_guest_moves_there_and_back_and_nobody_notices() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let watched = watched(&lab, "busy", Workload { memory_check_mib: 8, ..Workload::default() }).await?;
    let address = address(&watched.vm)?;
    let echo = EchoClient::connect(address, ECHO_PORT)?;
    let prober = Prober::start(address);
    for to in [2, 1, 2] {
        let moving = lab.migrate("busy", to, MigrationPolicy::default()).await?;
        let operation = lab.finished(&moving).await?;
        ensure!(operation.status.phase == OperationPhase::Succeeded, "{:?}", operation.status);
        let figures = operation.status.figures.as_ref().expect("a finished migration has figures");
        eprintln!("to host-{to}: {figures:?}");
        ensure!(figures.to == format!("host-{to}") && figures.memory_bytes > 0);
        let vm = lab.runs_in_one_place("busy").await?;
        ensure!(host_of(&vm)? == to);
        writes_on(&watched.writes).await?;
    }
    // Three moves may be over before so many were answered.
    eventually("its clients go on being served", PROGRESS_LIMIT, async || {
        ensure!(prober.answered() > 100, "{} requests were answered", prober.answered());
        Ok(())
    })
    .await?;
    let echo = echo.finish()?;
    let probes = prober.finish()?;
    eprintln!("{echo:?} {probes:?}");
    ensure!(echo.exchanged > 100, "the long-lived connection hardly worked: {echo:?}");
    ensure!(probes.answered > 100, "{probes:?}");
    let before = workload_figure(address, "passes")?;
    eventually("memory is verified after the last move", PROGRESS_LIMIT, async || {
        ensure!(workload_figure(address, "passes")? > before + 1);
        Ok(())
    })
    .await?;
    ensure!(workload_figure(address, "bad_pages")? == 0, "memory was damaged");
    nothing_was_lost(&lab, watched).await?;
    lab.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn post_copy_finishes_what_pre_copy_can_not_and_a_cancelled_move_leaves_all_as_it_was() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    // Dirties faster than the limited link carries.
    let workload = Workload { dirty: Some((24, 200)), memory_check_mib: 4, ..Workload::default() };
    let watched = watched(&lab, "restless", workload).await?;
    let address = address(&watched.vm)?;
    let endless = MigrationPolicy { post_copy: PostCopy::Never, max_downtime_ms: 20, bandwidth_mib_per_s: 8 };

    let moving = lab.migrate("restless", 2, endless).await?;
    let operation = moving.operation.as_ref().expect("a move is an operation").metadata.name.to_string();
    eventually("memory is on its way", PROGRESS_LIMIT, async || {
        let vm: Vm = lab.client().get("restless").await?;
        let phase = vm.status.migration.map(|progress| progress.phase);
        ensure!(phase.as_deref() == Some("memory"), "it is at {phase:?}");
        Ok(())
    })
    .await?;
    let busy = lab.gantry(&["vm", "migrate", "restless", "--to", "host-2"]).await?.expect_code(4)?;
    ensure!(busy.stderr.contains(&operation), "the refusal does not name the operation: {}", busy.stderr);
    lab.gantry(&["operation", "cancel", &operation]).await?.ok()?;
    let ended = lab.operation_end(&operation).await?;
    ensure!(ended.status.phase == OperationPhase::Cancelled, "{:?}", ended.status);
    let vm = lab.runs_in_one_place("restless").await?;
    ensure!(host_of(&vm)? == 1);
    ensure!(!lab.disk(2, vm.metadata.uuid).exists(), "the cancelled move left its disk on host-2");
    writes_on(&watched.writes).await?;

    // On an unlimited link a pass can be so short that a guest on a busy machine writes nothing during it, and pre-copy
    // has nothing left to give up.
    let always = MigrationPolicy { post_copy: PostCopy::Always, bandwidth_mib_per_s: 32, ..endless };
    let moving = lab.migrate("restless", 2, always).await?;
    let operation = lab.finished(&moving).await?;
    ensure!(operation.status.phase == OperationPhase::Succeeded, "{:?}", operation.status);
    let mode = operation.status.figures.as_ref().and_then(|figures| figures.mode);
    ensure!(mode == Some(MigrationMode::PostCopy), "it went by {mode:?}");
    let vm = lab.runs_in_one_place("restless").await?;
    ensure!(host_of(&vm)? == 2);
    writes_on(&watched.writes).await?;
    ensure!(workload_figure(address, "bad_pages")? == 0, "memory was damaged");
    nothing_was_lost(&lab, watched).await?;
    lab.passed();
    Ok(())
}
