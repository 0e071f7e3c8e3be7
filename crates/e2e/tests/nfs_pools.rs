//! A pool in an export that no host has mounted, under a guest that writes durably to its volume: nothing that was
//! acknowledged is lost while it comes, grows, moves between kinds of pools and hosts, and while the server is away or full.

#[path = "../../storage/tests/nfs_server/mod.rs"]
mod nfs_server;

use std::path::Path;

use anyhow::{Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::{SETTLE_LIMIT, host_of};
use gantry_e2e::{Lab, Observer, SmallFileSystem, Workload, disk, eventually};
use gantry_types::{MigrationPolicy, Pool, PoolHealth, Vm, VmPhase, Volume, VolumePhase};
use nfs_server::{NfsServer, WELL};

const VM: &str = "web";

async fn until_health(lab: &Lab, health: PoolHealth) -> Result<()> {
    eventually("the pool's health", SETTLE_LIMIT, async || {
        let pool: Pool = lab.client().get("nas").await?;
        ensure!(pool.status.health == health, "{:?}", pool.status);
        Ok(())
    })
    .await
}

/// Everything that was acknowledged is in the file.
fn check(file: &Path, acknowledged: u64) -> Result<()> {
    let report = disk::read_whole(file)?;
    println!("{}: {report:?}, {acknowledged} were acknowledged", file.display());
    ensure!(report.bad == 0 && report.last >= acknowledged, "writes were lost: {report:?} of {acknowledged}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_in_an_export_serves_its_guest_whatever_happens_to_the_server() -> Result<()> {
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let export = place.path().join("export");
    // Before the lab, whose programs see the mounts of their start.
    let small = SmallFileSystem::mount(export.clone(), "192m")?;
    let lab = Lab::up(2).await?;
    let layout = lab.room().layout();
    let (namespace, address) = (layout.controller_namespace(), layout.controller_address().to_string());
    let mut server = NfsServer::start_in(Some(&namespace), &address, &export, WELL);
    let url = server.url();

    let wrong = format!("nfs://{address}/srv/nothing");
    let refused = lab.gantry(&["pool", "create", "nas", "--type", "nfs", "--url", &wrong]).await?.expect_code(1)?;
    ensure!(refused.stderr.contains("does not export it"), "{}", refused.stderr);
    lab.gantry(&["pool", "create", "nas", "--type", "nfs", "--url", &url]).await?.ok()?;
    let nas: Pool = lab.client().get("nas").await?;
    ensure!(nas.spec.hosts.len() == 2 && nas.is_shared(), "all hosts reach it: {:?}", nas.spec);
    until_health(&lab, PoolHealth::Healthy).await?;

    lab.import_guest().await?;
    let observer = Observer::listen(lab.outside())?;
    let workload = Workload { volume_writes_to: Some(observer.address()), ..Workload::default() };
    let mut guest = lab.guest(VM, &workload)?;
    guest.spec.pool = Some("nas".parse()?);
    let refused = lab.client().create(&guest, &WriteQuery::default()).await.err();
    let said = refused.iter().flat_map(|problem| &problem.fields).any(|wrong| wrong.message.contains("volumes only"));
    ensure!(said, "{refused:?}");
    guest.spec.pool = None;
    let created = lab.client().create(&guest, &WriteQuery::default()).await?;
    lab.follow(&created).await?;
    lab.serving(VM).await?;
    lab.gantry(&["volume", "create", "data", "--size", "64MiB", "--pool", "nas"]).await?.ok()?;
    lab.gantry(&["volume", "attach", "data", VM]).await?.ok()?;
    observer.goes_on(100).await?;
    lab.gantry(&["volume", "set", "data", "--size", "96MiB"]).await?.ok()?;

    // The server dies: the guest's writes wait, the guest does not, and its host's agent still rules it.
    server.kill();
    until_health(&lab, PoolHealth::Unreachable).await?;
    let alive: Vm = lab.serving(VM).await?;
    ensure!(alive.status.phase == VmPhase::Running, "{:?}", alive.status);
    lab.crash_agent(host_of(&alive)?)?;
    lab.resume().await?;
    server.resume(WELL);
    observer.goes_on(100).await?;
    until_health(&lab, PoolHealth::Healthy).await?;

    // A full server makes the guest wait; room lets it go on.
    small.fill()?;
    eventually("the guest waits for room", SETTLE_LIMIT, async || {
        let vm: Vm = lab.client().get(VM).await?;
        let reason = vm.status.reason.clone().unwrap_or_default();
        ensure!(vm.status.phase == VmPhase::Paused && reason.contains("when its pool has room"), "{:?}", vm.status);
        Ok(())
    })
    .await?;
    small.make_room()?;
    observer.goes_on(100).await?;
    // A VM that the controller takes for paused is moved as such.
    eventually("the controller has heard that it goes on", SETTLE_LIMIT, async || {
        let vm: Vm = lab.client().get(VM).await?;
        ensure!(vm.status.phase == VmPhase::Running, "{:?}", vm.status);
        Ok(())
    })
    .await?;

    // With its VM to the other host, to a directory there, and back.
    let there = 3 - host_of(&alive)?;
    let moved = lab.migrate(VM, there, MigrationPolicy::default()).await?;
    lab.follow(&moved).await?;
    observer.goes_on(100).await?;
    for to in [&*format!("local-host-{there}"), "nas"] {
        lab.gantry(&["volume", "migrate", "data", "--to", to]).await?.ok()?;
        observer.goes_on(100).await?;
    }
    lab.runs_in_one_place(VM).await?;

    // The guest lets it go; what it was told is durable is there.
    lab.gantry(&["volume", "detach", "data"]).await?.ok()?;
    let acknowledged = observer.last();
    let loose: Volume = lab.client().get("data").await?;
    ensure!(loose.status.phase == VolumePhase::Ready && loose.status.vm.is_none(), "{loose:?}");
    let file = |volume: &Volume| export.join(format!("{}.qcow2", volume.metadata.uuid));
    check(&file(&loose), acknowledged)?;
    lab.gantry(&["volume", "clone", "data", "copy", "--pool", "nas"]).await?.ok()?;
    check(&file(&lab.client().get::<Volume>("copy").await?), acknowledged)?;
    lab.gantry(&["vm", "delete", VM]).await?.ok()?;
    lab.gantry(&["volume", "delete", "copy", "data"]).await?.ok()?;
    lab.gantry(&["pool", "delete", "nas"]).await?.ok()?;
    ensure!(std::fs::read_dir(&export)?.count() == 0, "nothing is left of it");
    lab.passed();
    Ok(())
}
