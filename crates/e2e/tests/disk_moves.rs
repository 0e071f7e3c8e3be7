//! VMs' own disks that go from their host's pool to a shared one and back, while the guest writes durably and programs die:
//! nothing that was acknowledged is lost, and one disk is in use.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::{SETTLE_LIMIT, host_of};
use gantry_e2e::{Lab, Observer, Workload, disk, eventually, qemus};
use gantry_types::{Vm, VmPhase};

const VM: &str = "web";

async fn vm(lab: &Lab) -> Result<Vm> {
    Ok(lab.client().get(VM).await?)
}

/// No operation is at work on it any more.
async fn settled(lab: &Lab) -> Result<Vm> {
    eventually("the move is over", SETTLE_LIMIT, async || {
        let now = vm(lab).await?;
        ensure!(now.status.operation.is_none(), "{:?} is at work", now.status.operation);
        Ok(now)
    })
    .await
}

fn file(pool: &Path, vm: &Vm) -> PathBuf {
    pool.join(format!("disks/{}.qcow2", vm.metadata.uuid))
}

/// It has its disk in this pool, by its spec and on the storage, and nowhere else.
fn expect_disk(vm: &Vm, pool: Option<&str>, nas: &Path) -> Result<()> {
    ensure!(vm.spec.pool.as_ref().map(|pool| pool.as_str()) == pool, "{:?} is not {pool:?}", vm.spec.pool);
    ensure!(file(nas, vm).exists() == pool.is_some(), "{} is there or not", file(nas, vm).display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vms_own_disk_moves_while_its_guest_writes_and_programs_die() -> Result<()> {
    let lab = Lab::up(2).await?;
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
    let nas = place.path().join("nas");
    lab.shared_pool("nas", &nas, "host-1,host-2").await?;
    lab.import_guest().await?;
    let observer = Observer::listen(lab.outside())?;
    let workload = Workload { writes_to: Some(observer.address()), ..Workload::default() };
    let created = lab.client().create(&lab.guest(VM, &workload)?, &WriteQuery::default()).await?;
    lab.follow(&created).await?;
    let first = lab.serving(VM).await?;
    let host = host_of(&first)?;
    let own = format!("local-host-{host}");
    let processes = |vm: &Vm| qemus(vm.metadata.uuid).iter().map(|qemu| qemu.pid).collect::<Vec<_>>();
    let qemu = processes(&first);
    observer.goes_on(100).await?;

    // As it is typed; what is not there is said.
    lab.gantry(&["volume", "migrate", "web-root", "--to", "nowhere"]).await?.expect_code(7)?;
    lab.gantry(&["volume", "migrate", "other-root", "--to", "nas"]).await?.expect_code(3)?;
    lab.gantry(&["volume", "migrate", "web-root", "--to", "nas"]).await?.ok()?;
    observer.goes_on(100).await?;
    expect_disk(&vm(&lab).await?, Some("nas"), &nas)?;
    let again = lab.gantry(&["vm", "migrate", VM, "--pool", "nas"]).await?.ok()?;
    ensure!(again.contains("already"), "{again}");

    // Back, with whoever dies on the way.
    lab.gantry(&["vm", "migrate", VM, "--pool", &own, "--no-wait"]).await?.ok()?;
    lab.crash_agent(host)?;
    lab.crash_controller()?;
    lab.resume().await?;
    let back = settled(&lab).await?;
    expect_disk(&back, None, &nas)?;
    observer.goes_on(100).await?;
    ensure!(processes(&back) == qemu, "it is not the same QEMU any more");

    // Given up, it is where it was.
    lab.gantry(&["vm", "migrate", VM, "--pool", "nas", "--no-wait"]).await?.ok()?;
    if let Some(operation) = vm(&lab).await?.status.operation {
        lab.gantry(&["operation", "cancel", operation.as_str()]).await?.ok()?;
    }
    let given_up = settled(&lab).await?;
    let pool = given_up.spec.pool.as_ref().map(|pool| pool.as_str());
    println!("a cancelled move left the disk in {pool:?}");
    expect_disk(&given_up, pool, &nas)?;
    observer.goes_on(100).await?;

    // To the pool and to another host, in one command: the guest's memory is all that goes there.
    let there = format!("host-{}", 3 - host);
    lab.gantry(&["vm", "migrate", VM, "--to", &there, "--pool", "nas"]).await?.ok()?;
    let moved = lab.runs_in_one_place(VM).await?;
    ensure!(host_of(&moved)? == 3 - host);
    expect_disk(&moved, Some("nas"), &nas)?;
    ensure!(moved.status.last_migration.clone().unwrap_or_default().disk_bytes == 0);
    observer.goes_on(100).await?;
    // And from there to that host's own.
    lab.gantry(&["vm", "migrate", VM, "--pool", &format!("local-{there}")]).await?.ok()?;
    expect_disk(&vm(&lab).await?, None, &nas)?;
    observer.goes_on(100).await?;

    // A snapshot stays with it while it is stopped, and only then.
    lab.gantry(&["snapshot", "create", VM, "before"]).await?.ok()?;
    let refused = lab.gantry(&["vm", "migrate", VM, "--pool", "nas"]).await?.expect_code(4)?;
    ensure!(refused.stderr.contains("gantry vm stop web"), "{}", refused.stderr);
    lab.gantry(&["vm", "stop", VM, "--force"]).await?.ok()?;
    let acknowledged = observer.last();
    lab.gantry(&["vm", "migrate", VM, "--pool", "nas"]).await?.ok()?;
    let stopped = vm(&lab).await?;
    ensure!(stopped.status.phase == VmPhase::Stopped, "{:?}", stopped.status);
    expect_disk(&stopped, Some("nas"), &nas)?;
    disk::check(&file(&nas, &stopped), acknowledged)?;
    lab.gantry(&["snapshot", "revert", VM, "before"]).await?.ok()?;
    lab.gantry(&["vm", "start", VM]).await?.ok()?;
    lab.serving(VM).await?;

    lab.gantry(&["vm", "delete", VM]).await?.ok()?;
    ensure!(!file(&nas, &stopped).exists());
    lab.gantry(&["pool", "delete", "nas"]).await?.ok()?;
    lab.passed();
    Ok(())
}
