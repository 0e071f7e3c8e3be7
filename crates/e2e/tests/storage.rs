//! Going back and forth in time with a guest that writes durably: nothing that was acknowledged is lost on the way.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::{SETTLE_LIMIT, address, host_of};
use gantry_e2e::{Lab, Observer, Workload, disk, eventually, http_get, qemus};
use gantry_types::{Event, Name, RecoveryPointKind, RecoveryPolicy, Snapshot, SnapshotPhase, Vm, Volume};

const VM: &str = "web";
/// Memory of a small guest that was saved takes more than this.
const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// The highest number that was acknowledged after this moment.
fn acknowledged_since(observer: &Observer, moment: Instant) -> u64 {
    let arrivals = observer.report().arrivals;
    arrivals.iter().filter(|(_, _, at)| *at > moment).map(|(number, _, _)| *number).max().unwrap_or(0)
}

async fn vm(lab: &Lab) -> Result<Vm> {
    Ok(lab.client().get(VM).await?)
}

fn allocated_bytes(lab: &Lab, vm: &Vm) -> Result<u64> {
    let path = lab.disk(host_of(vm)?, vm.metadata.uuid);
    Ok(std::fs::metadata(&path).with_context(|| format!("no {}", path.display()))?.blocks() * 512)
}

async fn first_answer(vm: &Vm) -> Result<()> {
    let address = address(vm)?;
    eventually("the guest serves", SETTLE_LIMIT, async || {
        http_get(address, "/", Duration::from_millis(300)).context("no HTTP answer").map(drop)
    })
    .await
}

/// A lab of one host with a guest that writes numbered blocks; good states are kept soon.
async fn a_writing_guest(observer: &Observer, workload: Workload, lab: &Lab) -> Result<Vm> {
    lab.import_guest().await?;
    let workload = Workload { writes_to: Some(observer.address()), ..workload };
    let mut sent = lab.guest(VM, &workload)?;
    sent.spec.recovery = RecoveryPolicy { keep: 2, after_s: 10, every_s: 86_400 };
    let created = lab.client().create(&sent, &WriteQuery::default()).await?;
    lab.follow(&created).await?;
    let vm = lab.serving(VM).await?;
    observer.goes_on(100).await?;
    Ok(vm)
}

/// A volume that the guest writes to as well; its file.
async fn a_volume(lab: &Lab, observer: &Observer) -> Result<PathBuf> {
    lab.gantry(&["volume", "create", "data", "--size", "64MiB", "--pool", "local-host-1"]).await?.ok()?;
    lab.gantry(&["volume", "attach", "data", VM]).await?.ok()?;
    observer.goes_on(100).await?;
    let volume: Volume = lab.client().get("data").await?;
    Ok(lab.disk(1, volume.metadata.uuid))
}

/// On its disk and on its volume.
async fn goes_on(own: &Observer, volume: &Observer) -> Result<()> {
    own.goes_on(100).await?;
    volume.goes_on(100).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_goes_back_with_its_memory_while_programs_die_and_gives_the_space_back() -> Result<()> {
    let lab = Lab::up(1).await?;
    let (observer, beside) = (Observer::listen(lab.outside())?, Observer::listen(lab.outside())?);
    let workload = Workload { volume_writes_to: Some(beside.address()), ..Workload::default() };
    let guest = a_writing_guest(&observer, workload, &lab).await?;
    let data = a_volume(&lab, &beside).await?;

    lab.gantry(&["snapshot", "create", VM, "before-upgrade", "--memory", "--description", "as it was"]).await?.ok()?;
    goes_on(&observer, &beside).await?;
    let first = [observer.last(), beside.last()];
    lab.gantry(&["snapshot", "create", VM, "quiet", "--quiesce"]).await?.ok()?;
    goes_on(&observer, &beside).await?;
    let last = [observer.last(), beside.last()];
    let (with_memory, quiet): (Snapshot, Snapshot) =
        (lab.client().get("web-before-upgrade").await?, lab.client().get("web-quiet").await?);
    let memory_size = with_memory.status.memory_size.context("its memory was kept")?;
    ensure!(memory_size.bytes() > MEMORY_BYTES_MIN, "its memory takes {memory_size}");
    ensure!(quiet.status.parent.as_ref() == Some(&with_memory.metadata.name), "{quiet:?}");
    for one in [&with_memory, &quiet] {
        let of: Vec<_> = one.status.volumes.iter().map(Name::as_str).collect();
        ensure!(of == ["data"], "it is of {of:?}");
    }
    let held = lab.gantry(&["volume", "detach", "data"]).await?.expect_code(4)?;
    ensure!(held.stderr.contains("gantry snapshot delete web before-upgrade quiet"), "{}", held.stderr);

    let pid = qemu_pid(&guest)?;
    lab.gantry(&["snapshot", "revert", VM, "before-upgrade"]).await?.ok()?;
    let reverted = Instant::now();
    first_answer(&guest).await?;
    println!("revert with memory: first HTTP answer {} ms after the command's end", reverted.elapsed().as_millis());
    ensure!(qemu_pid(&guest)? == pid, "the same QEMU goes on: it was not started anew");
    goes_on(&observer, &beside).await?;

    // Whoever dies while one is taken: it is there afterwards, or it is not, and the guest goes on.
    lab.gantry(&["snapshot", "create", VM, "interrupted", "--memory", "--no-wait"]).await?.ok()?;
    lab.crash_agent(1)?;
    lab.crash_controller()?;
    lab.resume().await?;
    let snapshots = eventually("the operation is over", SETTLE_LIMIT, async || {
        let now = vm(&lab).await?;
        ensure!(now.status.operation.is_none(), "{:?} is at work", now.status.operation);
        Ok(lab.client().list::<Snapshot>(None).await?)
    })
    .await?;
    ensure!(snapshots.iter().all(|one| one.status.phase == SnapshotPhase::Ready), "{snapshots:?}");
    lab.runs_in_one_place(VM).await?;
    goes_on(&observer, &beside).await?;

    // Out of the middle of the tree, while it runs.
    let before = allocated_bytes(&lab, &guest)?;
    lab.gantry(&["snapshot", "delete", VM, "before-upgrade"]).await?.ok()?;
    let after = allocated_bytes(&lab, &guest)?;
    ensure!(after + MEMORY_BYTES_MIN < before, "the disk takes {before} bytes before and {after} after");
    let quiet: Snapshot = lab.client().get("web-quiet").await?;
    ensure!(quiet.status.parent.is_none(), "{quiet:?}");
    observer.goes_on(50).await?;

    let own = lab.stopped_disk(VM).await?;
    let acknowledged = acknowledged_since(&observer, reverted);
    let report = disk::check(&own, acknowledged)?;
    ensure!(report.last >= acknowledged, "{report:?}");
    let (report, acknowledged) = (disk::read_whole(&data)?, acknowledged_since(&beside, reverted));
    ensure!(report.bad == 0 && report.last >= acknowledged, "{report:?}, {acknowledged} were acknowledged");

    // A stopped one has a state, too, and goes back to the one that was quiesced.
    lab.gantry(&["snapshot", "create", VM, "off"]).await?.ok()?;
    lab.gantry(&["snapshot", "revert", VM, "quiet"]).await?.ok()?;
    // Both are of the moment that it was taken in.
    for (report, (first, last)) in [disk::read(&own)?, disk::read_whole(&data)?].iter().zip(first.iter().zip(last)) {
        let is_of_then = report.bad == 0 && (*first..=last).contains(&report.last);
        ensure!(is_of_then, "{report:?} is not between {first} and {last}");
    }
    let listed = lab.gantry(&["snapshot", "list", VM]).await?.ok()?;
    ensure!(listed.lines().any(|line| line.starts_with("quiet") && line.contains("here")), "{listed}");
    let moved = lab.gantry(&["vm", "migrate", VM]).await?;
    ensure!(moved.code != 0, "a stopped VM does not move");
    lab.gantry(&["vm", "start", VM]).await?.ok()?;
    first_answer(&vm(&lab).await?).await?;
    lab.gantry(&["vm", "delete", VM]).await?.ok()?;
    ensure!(lab.client().list::<Snapshot>(None).await?.is_empty(), "they went with their VM");
    let left = std::process::Command::new("qemu-img").args(["snapshot", "-l"]).arg(&data).output()?;
    ensure!(left.status.success() && left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
    lab.passed();
    Ok(())
}

/// The QEMU process that has the VM.
fn qemu_pid(vm: &Vm) -> Result<u32> {
    let all = qemus(vm.metadata.uuid);
    ensure!(all.len() == 1, "{} QEMUs have it", all.len());
    Ok(all[0].pid)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_guest_is_brought_back_and_the_recovery_taken_back() -> Result<()> {
    let lab = Lab::up(1).await?;
    let observer = Observer::listen(lab.outside())?;
    a_writing_guest(&observer, Workload::default(), &lab).await?;
    let early = lab.gantry(&["vm", "recover", VM, "--undo"]).await?.expect_code(4)?;
    ensure!(early.stderr.contains("nothing that was replaced"), "{}", early.stderr);
    let good = eventually("a good state is kept", SETTLE_LIMIT, async || {
        let acknowledged = observer.last();
        let points = vm(&lab).await?.status.recovery_points;
        let point = points.first().cloned().context("no point yet")?;
        ensure!(point.kind == RecoveryPointKind::Good, "{point:?}");
        Ok((point, acknowledged))
    })
    .await?;
    observer.goes_on(200).await?;
    let acknowledged = observer.last();

    lab.gantry(&["vm", "recover", VM]).await?.ok()?;
    let recovered = lab.serving(VM).await?;
    let kinds: Vec<_> = recovered.status.recovery_points.iter().map(|point| point.kind).collect();
    ensure!(kinds.contains(&RecoveryPointKind::Replaced), "{kinds:?}");
    let report = disk::check(&lab.stopped_disk(VM).await?, 1)?;
    ensure!(report.last < acknowledged, "the disk is as it was: {report:?}, though {acknowledged} was written");
    println!("recovered to {} at number {}; {} when it was seen to be kept", good.0.name, report.last, good.1);

    // The controller and the agent die while the replaced state comes back: it comes back all the same.
    lab.gantry(&["vm", "recover", VM, "--undo", "--no-wait"]).await?.ok()?;
    lab.crash_agent(1)?;
    lab.crash_controller()?;
    lab.resume().await?;
    lab.serving(VM).await?;
    let report = disk::check(&lab.stopped_disk(VM).await?, acknowledged)?;
    println!("undone: {} of {acknowledged} acknowledged", report.last);
    let name: Name = VM.parse()?;
    let events: Vec<Event> = lab.client().list(None).await?;
    let told = events.iter().filter(|event| event.spec.regarding.name == name && event.spec.reason == "VmRecovered");
    ensure!(told.count() == 2, "each recovery is told of once");
    lab.passed();
    Ok(())
}
