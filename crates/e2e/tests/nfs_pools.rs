//! A pool in an export that no host has mounted, under a guest that writes durably to its volume or to its own disk: nothing
//! that was acknowledged is lost while it comes, grows, moves between kinds of pools and hosts, while the server is away or full,
//! and when its host fails.

#[path = "../../storage/tests/nfs_server/mod.rs"]
mod nfs_server;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::{BOOT_LIMIT, SETTLE_LIMIT, host_of};
use gantry_e2e::{Lab, Observer, SmallFileSystem, Workload, disk, eventually, qemus};
use gantry_types::{MigrationPolicy, Name, Pool, PoolHealth, PostCopy, Vm, VmPhase, Volume, VolumePhase};
use nfs_server::{NfsServer, WELL};
use serde_json::Value;

const VM: &str = "web";

async fn until_health(lab: &Lab, health: PoolHealth) -> Result<()> {
    eventually("the pool's health", SETTLE_LIMIT, async || {
        let pool: Pool = lab.client().get("nas").await?;
        ensure!(pool.status.health == health, "{:?}", pool.status);
        Ok(())
    })
    .await
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
    let guest = lab.guest(VM, &workload)?;
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

    // With its VM, of which the controller may not have heard yet that it goes on, to the other host, to a directory there, and back.
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
    disk::check_whole(&file(&loose), acknowledged)?;
    lab.gantry(&["volume", "clone", "data", "copy", "--pool", "nas"]).await?.ok()?;
    disk::check_whole(&file(&lab.client().get::<Volume>("copy").await?), acknowledged)?;
    lab.gantry(&["vm", "delete", VM]).await?.ok()?;
    lab.gantry(&["volume", "delete", "copy", "data"]).await?.ok()?;
    lab.gantry(&["pool", "delete", "nas"]).await?.ok()?;
    ensure!(std::fs::read_dir(&export)?.count() == 0, "nothing is left of it");
    lab.passed();
    Ok(())
}

fn own_disk(export: &Path, vm: &Vm) -> PathBuf {
    export.join(format!("{}.qcow2", vm.metadata.uuid))
}

/// One lease, of the host and epoch that the controller knows, whose user has the disk alone.
fn check_owner(export: &Path, vm: &Vm) -> Result<()> {
    let prefix = format!("{}.lease-", vm.metadata.uuid);
    let names = std::fs::read_dir(export)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_lease = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    let leases: Vec<_> = names.iter().filter(is_lease).collect();
    ensure!(leases.len() == 1, "{leases:?}");
    let lease: Value = serde_json::from_slice(&std::fs::read(leases[0])?)?;
    let host = vm.status.host.as_ref().map(Name::as_str);
    ensure!(lease["host"].as_str() == host && lease["epoch"] == vm.status.epoch, "{lease} of {:?}", vm.status);
    let disk = std::fs::metadata(own_disk(export, vm))?;
    let has = (u64::from(disk.uid()), u64::from(disk.gid()), disk.mode() & 0o777);
    let user = lease["user"].as_u64().unwrap_or_default();
    ensure!(has == (user, user, 0o600), "the disk is {has:?}'s, the lease is {lease}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_in_an_export_keeps_what_it_was_told_is_durable_wherever_it_runs() -> Result<()> {
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let export = place.path().join("export");
    std::fs::create_dir(&export)?;
    let lab = Lab::up(3).await?;
    let layout = lab.room().layout();
    let (namespace, address) = (layout.controller_namespace(), layout.controller_address().to_string());
    let mut server = NfsServer::start_in(Some(&namespace), &address, &export, WELL);
    let create = ["pool", "create", "nas", "--type", "nfs", "--url", &server.url(), "--alarm", "100"];
    lab.gantry(&create).await?.ok()?;
    until_health(&lab, PoolHealth::Healthy).await?;
    lab.import_guest().await?;
    let observer = Observer::listen(lab.outside())?;
    let workload = Workload { writes_to: Some(observer.address()), ..Workload::default() };
    let mut sent = lab.guest(VM, &workload)?;
    sent.spec.pool = Some("nas".parse()?);
    lab.follow(&lab.client().create(&sent, &WriteQuery::default()).await?).await?;
    let first = lab.serving(VM).await?;
    check_owner(&export, &first)?;
    observer.goes_on(100).await?;

    // To another host and on, without its disk.
    for post_copy in [PostCopy::Never, PostCopy::Always] {
        let there = host_of(&lab.serving(VM).await?)? % 3 + 1;
        let policy = MigrationPolicy { post_copy, ..MigrationPolicy::default() };
        lab.follow(&lab.migrate(VM, there, policy).await?).await?;
        let moved = lab.runs_in_one_place(VM).await?;
        let figures = moved.status.last_migration.clone().unwrap_or_default();
        ensure!(host_of(&moved)? == there && figures.disk_bytes == 0, "{figures:?}");
        check_owner(&export, &moved)?;
        observer.goes_on(100).await?;
    }

    // The server dies, and the agent of the host meanwhile.
    let host = host_of(&lab.serving(VM).await?)?;
    server.kill();
    until_health(&lab, PoolHealth::Unreachable).await?;
    lab.crash_agent(host)?;
    lab.resume().await?;
    server.resume(WELL);
    observer.goes_on(100).await?;
    until_health(&lab, PoolHealth::Healthy).await?;
    lab.all_hosts_ready().await?;

    // To the host's own pool, while it writes, and back.
    let own = format!("local-host-{host}");
    for (to, is_there) in [(own.as_str(), false), ("nas", true)] {
        lab.gantry(&["volume", "migrate", "web-root", "--to", to]).await?.ok()?;
        observer.goes_on(100).await?;
        let moved: Vm = lab.client().get(VM).await?;
        ensure!(own_disk(&export, &moved).exists() == is_there, "it is in {to}");
        if is_there {
            check_owner(&export, &moved)?;
        }
    }
    states_and_clones(&lab).await?;

    // Its host is cut off: it is started elsewhere from the same disk, and what comes back leaves it alone.
    lab.gantry(&["vm", "set", VM, "--ha", "restart"]).await?.ok()?;
    let before = eventually("it is guarded", SETTLE_LIMIT, async || {
        let vm: Vm = lab.client().get(VM).await?;
        ensure!(vm.status.is_guarded(), "{:?}", vm.status);
        Ok(vm)
    })
    .await?;
    let lost = host_of(&before)?;
    lab.cable("cut", lost).await?;
    eventually("it is started elsewhere", BOOT_LIMIT, async || {
        let vm: Vm = lab.client().get(VM).await?;
        ensure!(vm.status.epoch > before.status.epoch && host_of(&vm)? != lost, "{:?}", vm.status);
        Ok(())
    })
    .await?;
    let restarted = lab.serving(VM).await?;
    let acknowledged = observer.last();
    check_owner(&export, &restarted)?;
    lab.cable("mend", lost).await?;
    lab.all_hosts_ready().await?;
    let kept = lab.runs_in_one_place(VM).await?;
    ensure!(kept.status.host == restarted.status.host && kept.status.epoch == restarted.status.epoch);
    check_owner(&export, &kept)?;
    ensure!(observer.report().doubled.is_empty(), "it ran twice");

    lab.gantry(&["vm", "stop", VM, "--force"]).await?.ok()?;
    ensure!(qemus(kept.metadata.uuid).is_empty());
    let report = disk::check(&own_disk(&export, &kept), acknowledged)?;
    println!("{report:?}, {acknowledged} were acknowledged");
    lab.gantry(&["vm", "delete", VM]).await?.ok()?;
    lab.gantry(&["pool", "delete", "nas"]).await?.ok()?;
    ensure!(std::fs::read_dir(&export)?.count() == 0, "nothing is left of it");
    lab.passed();
    Ok(())
}

/// Of a VM in the export: snapshots on and off, going back, clones of both, a move of its disk while it is stopped.
async fn states_and_clones(lab: &Lab) -> Result<()> {
    let mut sent = lab.guest("spare", &Workload::default())?;
    sent.spec.pool = Some("nas".parse()?);
    lab.follow(&lab.client().create(&sent, &WriteQuery::default()).await?).await?;
    let spare = lab.serving("spare").await?;
    let run = async |arguments: &[&str]| lab.gantry(arguments).await?.ok();
    run(&["snapshot", "create", "spare", "on", "--memory"]).await?;
    run(&["snapshot", "create", "spare", "disk"]).await?;
    run(&["snapshot", "revert", "spare", "on"]).await?;
    lab.serving("spare").await?;
    run(&["vm", "clone", "spare", "copy"]).await?;
    lab.serving("copy").await?;
    run(&["vm", "stop", "spare", "--force"]).await?;
    run(&["snapshot", "create", "spare", "off"]).await?;
    run(&["snapshot", "revert", "spare", "disk"]).await?;
    let own = format!("local-host-{}", host_of(&spare)?);
    for to in [own.as_str(), "nas"] {
        run(&["volume", "migrate", "spare-root", "--to", to]).await?;
    }
    let listed = run(&["snapshot", "list", "spare"]).await?;
    ensure!(["on", "disk", "off"].iter().all(|name| listed.contains(name)), "{listed}");
    run(&["snapshot", "delete", "spare", "off"]).await?;
    run(&["vm", "start", "spare"]).await?;
    lab.serving("spare").await?;
    run(&["vm", "delete", "copy"]).await?;
    run(&["vm", "delete", "spare"]).await?;
    Ok(())
}
