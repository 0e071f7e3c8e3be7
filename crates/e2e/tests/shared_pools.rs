//! VMs whose disks are in a pool that several hosts reach: moved without their disks, started on another host, taken back
//! by nobody. The guest writes durably all the while, and nothing that was acknowledged is lost.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::{SETTLE_LIMIT, host_of};
use gantry_e2e::{Lab, Observer, Workload, disk, eventually, qemus};
use gantry_types::{MigrationPolicy, Name, PostCopy, Vm, VmPhase};
use serde_json::Value;

const VM: &str = "web";

async fn vm(lab: &Lab) -> Result<Vm> {
    Ok(lab.client().get(VM).await?)
}

fn file(pool: &Path, vm: &Vm, kind: &str) -> PathBuf {
    pool.join(format!("disks/{}.{kind}", vm.metadata.uuid))
}

/// Whose the disk is, by what is written beside it.
fn lease(pool: &Path, vm: &Vm) -> Result<(String, u64)> {
    let lease: Value = serde_json::from_slice(&std::fs::read(file(pool, vm, "lease"))?)?;
    Ok((lease["host"].as_str().unwrap_or_default().to_owned(), lease["epoch"].as_u64().unwrap_or_default()))
}

/// The disk is one user's, and the host's and epoch that the controller knows.
fn check_owner(pool: &Path, vm: &Vm) -> Result<()> {
    let recorded = (vm.status.host.as_ref().map(Name::to_string).unwrap_or_default(), vm.status.epoch);
    ensure!(lease(pool, vm)? == recorded, "{:?} is leased, {recorded:?} recorded", lease(pool, vm)?);
    let mode = std::fs::metadata(file(pool, vm, "qcow2"))?.mode() & 0o777;
    ensure!(mode == 0o600, "others may open it: {mode:o}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_in_a_shared_pool_moves_without_its_disk_and_starts_wherever_the_disk_is_reached() -> Result<()> {
    let lab = Lab::up(2).await?;
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
    let nas = place.path().join("nas");
    lab.shared_pool("nas", &nas, "host-1,host-2").await?;

    lab.import_guest().await?;
    let (observer, on_volume) = (Observer::listen(lab.outside())?, Observer::listen(lab.outside())?);
    let workload = Workload {
        writes_to: Some(observer.address()),
        volume_writes_to: Some(on_volume.address()),
        ..Workload::default()
    };
    let mut sent = lab.guest(VM, &workload)?;
    sent.spec.pool = Some("nas".parse()?);
    let created = lab.client().create(&sent, &WriteQuery::default()).await?;
    lab.follow(&created).await?;
    let first = lab.serving(VM).await?;
    check_owner(&nas, &first)?;
    lab.gantry(&["volume", "create", "data", "--size", "64MiB", "--pool", "nas"]).await?.ok()?;
    lab.gantry(&["volume", "attach", "data", VM]).await?.ok()?;
    lab.gantry(&["snapshot", "create", VM, "before"]).await?.ok()?;
    observer.goes_on(100).await?;
    on_volume.goes_on(100).await?;

    // There and back; snapshot and volume come along, and no byte of a disk is sent.
    let there = 3 - host_of(&first)?;
    for (to, post_copy) in [(there, PostCopy::Never), (3 - there, PostCopy::Always)] {
        let policy = MigrationPolicy { post_copy, ..MigrationPolicy::default() };
        let moving = lab.migrate(VM, to, policy).await?;
        lab.follow(&moving).await?;
        let moved = lab.runs_in_one_place(VM).await?;
        ensure!(host_of(&moved)? == to);
        let figures = moved.status.last_migration.clone().unwrap_or_default();
        ensure!(figures.disk_bytes == 0, "{figures:?}");
        check_owner(&nas, &moved)?;
        observer.goes_on(100).await?;
        on_volume.goes_on(100).await?;
    }
    lab.gantry(&["snapshot", "delete", VM, "before"]).await?.ok()?;

    // A move that is given up leaves it where it was.
    let moving = lab.migrate(VM, there, MigrationPolicy::default()).await?;
    lab.crash_agent(there)?;
    lab.resume().await?;
    let ended = lab.finished(&moving).await?;
    lab.all_hosts_ready().await?;
    let settled = lab.runs_in_one_place(VM).await?;
    println!("with the destination's agent killed the move was {:?}", ended.status.phase);
    // The source takes the disk back once it knows how the move ended, which it asks by itself.
    eventually("the disk is one user's again", SETTLE_LIMIT, async || check_owner(&nas, &settled)).await?;
    observer.goes_on(100).await?;

    // Its host is gone: another starts it.
    let lost = host_of(&settled)?;
    lab.gantry(&["volume", "detach", "data"]).await?.ok()?;
    lab.gantry(&["vm", "stop", VM, "--force"]).await?.ok()?;
    let acknowledged = observer.last();
    disk::check(&file(&nas, &settled, "qcow2"), acknowledged)?;
    lab.cable("unplug", lost).await?;
    eventually("its host is lost", SETTLE_LIMIT, async || {
        let lost = lab.gantry(&["host", "list"]).await?.ok()?.contains("lost");
        ensure!(lost, "it is not yet");
        Ok(())
    })
    .await?;
    lab.gantry(&["vm", "start", VM]).await?.ok()?;
    let restarted = lab.serving(VM).await?;
    ensure!(host_of(&restarted)? != lost && restarted.status.epoch > settled.status.epoch, "{:?}", restarted.status);
    check_owner(&nas, &restarted)?;

    // And what comes back finds that it is no longer its own.
    lab.cable("plug", lost).await?;
    lab.resume().await?;
    lab.all_hosts_ready().await?;
    let told = format!("what host 'host-{lost}' still had of VM");
    eventually("the host that came back has let it go", SETTLE_LIMIT, async || {
        let told = lab.gantry(&["event", "list"]).await?.ok()?.contains(&told);
        ensure!(told, "it has not yet");
        Ok(())
    })
    .await?;
    let kept = lab.runs_in_one_place(VM).await?;
    check_owner(&nas, &kept)?;
    lab.serving(VM).await?;

    lab.gantry(&["vm", "stop", VM, "--force"]).await?.ok()?;
    ensure!(vm(&lab).await?.status.phase == VmPhase::Stopped && qemus(kept.metadata.uuid).is_empty());
    disk::check(&file(&nas, &kept, "qcow2"), acknowledged)?;
    lab.gantry(&["vm", "delete", VM]).await?.ok()?;
    ensure!(!file(&nas, &kept, "qcow2").exists() && !file(&nas, &kept, "lease").exists());
    lab.gantry(&["volume", "delete", "data"]).await?.ok()?;
    lab.gantry(&["pool", "delete", "nas"]).await?.ok()?;
    lab.passed();
    Ok(())
}
