//! Volumes of a guest that writes durably to one of them while it comes, grows, moves between pools and goes: nothing that
//! was acknowledged is lost on the way, whoever dies.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::SETTLE_LIMIT;
use gantry_e2e::{Lab, Observer, SmallFileSystem, Workload, disk, eventually};
use gantry_types::{Event, Pool, PoolHealth, Vm, VmPhase, Volume, VolumePhase};

const VM: &str = "web";

async fn volume(lab: &Lab) -> Result<Volume> {
    Ok(lab.client().get("data").await?)
}

fn file(pool: &Path, volume: &Volume) -> PathBuf {
    pool.join(format!("disks/{}.qcow2", volume.metadata.uuid))
}

async fn reasons(lab: &Lab) -> Result<Vec<String>> {
    let events: Vec<Event> = lab.client().list(None).await?;
    Ok(events.into_iter().map(|event| event.spec.reason).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_comes_grows_moves_and_goes_while_its_guest_writes_and_programs_die() -> Result<()> {
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
    let at = |name: &str| place.path().join(name);
    // Before the lab, whose programs see the mounts of their start.
    let small = SmallFileSystem::mount(at("fast"), "192m")?;
    let lab = Lab::up(1).await?;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();

    // What is wrong with a directory is said, and no pool is left.
    let create = |name: &'static str, path: PathBuf| {
        let path = text(path);
        let lab = &lab;
        async move { lab.gantry(&["pool", "create", name, "--type", "dir", "--path", &path, "--host", "host-1"]).await }
    };
    let missing = create("fast", at("not/there")).await?.expect_code(1)?;
    ensure!(missing.stderr.contains("mount its file system"), "{}", missing.stderr);
    ensure!(!lab.client().list::<Pool>(None).await?.iter().any(|pool| pool.metadata.name.as_str() == "fast"));
    create("fast", at("fast")).await?.ok()?;
    create("slow", at("slow")).await?.ok()?;
    eventually("every pool is watched, the host's own, too", SETTLE_LIMIT, async || {
        let pools: Vec<Pool> = lab.client().list(None).await?;
        // The machine that runs this may be rather full.
        let fine = [PoolHealth::Healthy, PoolHealth::NearlyFull];
        ensure!(pools.iter().filter(|pool| fine.contains(&pool.status.health)).count() == 3, "{pools:?}");
        Ok(())
    })
    .await?;

    lab.import_guest().await?;
    let observer = Observer::listen(lab.outside())?;
    let workload = Workload { volume_writes_to: Some(observer.address()), ..Workload::default() };
    let created = lab.client().create(&lab.guest(VM, &workload)?, &WriteQuery::default()).await?;
    lab.follow(&created).await?;
    lab.serving(VM).await?;
    lab.gantry(&["volume", "create", "data", "--size", "64MiB", "--pool", "fast"]).await?.ok()?;
    lab.gantry(&["volume", "attach", "data", VM]).await?.ok()?;
    observer.goes_on(100).await?;
    lab.gantry(&["volume", "delete", "data"]).await?.expect_code(4)?;
    lab.gantry(&["volume", "set", "data", "--size", "96MiB", "--iops", "2000"]).await?.ok()?;

    // A full pool makes the guest wait, also through a restart of the agent; room lets it go on.
    small.fill()?;
    eventually("the guest waits for room", SETTLE_LIMIT, async || {
        let vm: Vm = lab.client().get(VM).await?;
        let reason = vm.status.reason.clone().unwrap_or_default();
        ensure!(vm.status.phase == VmPhase::Paused && reason.contains("when its pool has room"), "{:?}", vm.status);
        let told = reasons(&lab).await?;
        ensure!(told.iter().any(|reason| reason == "PoolFull"), "{told:?}");
        Ok(())
    })
    .await?;
    lab.crash_agent(1)?;
    lab.resume().await?;
    small.make_room()?;
    observer.goes_on(100).await?;
    eventually("it is told that it went on", SETTLE_LIMIT, async || {
        let told = reasons(&lab).await?;
        ensure!(told.iter().any(|reason| reason == "VmResumed"), "{told:?}");
        Ok(())
    })
    .await?;

    // To the other pool and back, with whoever dies on the way.
    lab.gantry(&["volume", "migrate", "data", "--to", "slow"]).await?.ok()?;
    observer.goes_on(100).await?;
    let moved = volume(&lab).await?;
    ensure!(moved.spec.pool.as_str() == "slow" && moved.status.phase == VolumePhase::Attached, "{moved:?}");
    ensure!(!file(&at("fast"), &moved).exists(), "its old copy is gone");
    lab.gantry(&["volume", "migrate", "data", "--to", "fast", "--no-wait"]).await?.ok()?;
    lab.crash_agent(1)?;
    lab.crash_controller()?;
    lab.resume().await?;
    let settled = eventually("the move is over", SETTLE_LIMIT, async || {
        let now = volume(&lab).await?;
        ensure!(now.status.operation.is_none(), "{:?} is at work", now.status.operation);
        Ok(now)
    })
    .await?;
    ensure!(settled.spec.pool.as_str() == "fast", "it went on by itself: {settled:?}");
    observer.goes_on(100).await?;
    lab.runs_in_one_place(VM).await?;

    // The guest lets it go; what it was told is durable is there.
    lab.gantry(&["volume", "detach", "data"]).await?.ok()?;
    let acknowledged = observer.last();
    let loose = volume(&lab).await?;
    ensure!(loose.status.phase == VolumePhase::Ready && loose.status.vm.is_none(), "{loose:?}");
    disk::check_whole(&file(&at("fast"), &loose), acknowledged)?;
    lab.gantry(&["volume", "migrate", "data", "--to", "slow"]).await?.ok()?;
    disk::check_whole(&file(&at("slow"), &loose), acknowledged)?;
    lab.gantry(&["volume", "clone", "data", "copy", "--pool", "fast"]).await?.ok()?;
    let copy: Volume = lab.client().get("copy").await?;
    disk::check_whole(&file(&at("fast"), &copy), acknowledged)?;
    lab.gantry(&["volume", "delete", "copy"]).await?.ok()?;

    // As a file for others and back: what was acknowledged is in it.
    let exported = at("data.vmdk");
    let name = text(exported.clone());
    lab.gantry(&["volume", "export", "data", &name]).await?.ok()?;
    lab.gantry(&["volume", "import", "back", &name, "--pool", "fast"]).await?.ok()?;
    let back: Volume = lab.client().get("back").await?;
    ensure!(back.spec.size == loose.spec.size && back.status.phase == VolumePhase::Ready, "{back:?}");
    disk::check_whole(&file(&at("fast"), &back), acknowledged)?;
    ensure!(lab.client().list::<gantry_types::Image>(None).await?.len() == 1, "no image is left of the import");
    std::fs::write(at("noise"), b"no disk")?;
    lab.gantry(&["volume", "import", "noise", &text(at("noise")), "--pool", "fast"]).await?.expect_code(1)?;
    ensure!(lab.client().list::<gantry_types::Image>(None).await?.len() == 1, "nor of one that failed");
    lab.gantry(&["volume", "delete", "back"]).await?.ok()?;

    // A pool whose file system went away is told of; the volume is there again with it.
    std::fs::rename(at("slow"), at("away"))?;
    eventually("the pool is missing", SETTLE_LIMIT, async || {
        let pool: Pool = lab.client().get("slow").await?;
        ensure!(pool.status.health == PoolHealth::Missing, "{pool:?}");
        Ok(())
    })
    .await?;
    std::fs::rename(at("away"), at("slow"))?;
    let events: Vec<Event> = lab.client().list(None).await?;
    events.iter().find(|event| event.spec.reason == "PoolBroken").context("it was told of")?;
    lab.gantry(&["pool", "delete", "slow"]).await?.expect_code(4)?;
    lab.gantry(&["vm", "delete", VM]).await?.ok()?;
    lab.gantry(&["volume", "delete", "data"]).await?.ok()?;
    ensure!(!file(&at("slow"), &loose).exists());
    lab.gantry(&["pool", "delete", "slow", "fast"]).await?.ok()?;
    lab.passed();
    Ok(())
}
