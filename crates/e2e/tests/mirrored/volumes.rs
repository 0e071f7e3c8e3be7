//! A volume that is mirrored together with the disk of its VM: its guest writes durably to it while it comes, while the host of the
//! copies goes away and comes back, and until its own host loses its power. Then it goes on where the copies are, is detached, and is
//! attached on the other host.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::WriteQuery;
use gantry_e2e::lab::{BOOT_LIMIT, SETTLE_LIMIT, address, host_of};
use gantry_e2e::{Lab, Observer, Sentinel, VM, Workload, disk, eventually, workload_figure};
use gantry_types::{DiskCopies, Host, HostState, Vm, Volume, VolumePhase};

use crate::{number, with_pool};

/// The first, and one on the other host.
const BOOTS: usize = 2;

/// Each boot checks what the one before wrote to the volume, then writes to it from the beginning.
fn user_data(observers: &[SocketAddr]) -> String {
    let mut text = String::from("#cloud-config\nbootcmd:\n");
    let mut line = |command: &str| _ = writeln!(text, "  - {command}");
    line("B=$(cat /data/boots)");
    let told: Vec<String> = observers.iter().map(SocketAddr::to_string).collect();
    line(&format!("O=$(echo {} | cut -d' ' -f$B)", told.join(" ")));
    let wait = "while [ ! -b /dev/vdc ]; do usleep 50000; done";
    let check = "wl seqcheck /dev/vdc > /run/wl/seqcheck";
    line(&format!("({wait}; {check}; wl seq /dev/vdc $O 2000) > /run/volume.log 2>&1 &"));
    text
}

async fn vm(lab: &Lab) -> Result<Vm> {
    Ok(lab.client().get(VM).await?)
}
async fn volume(lab: &Lab) -> Result<Volume> {
    Ok(lab.client().get("data").await?)
}
async fn copies(lab: &Lab) -> Result<DiskCopies> {
    vm(lab).await?.status.copies.context("nothing of it is mirrored")
}

/// The host of the copies, once there are some.
async fn peer(lab: &Lab) -> Result<u8> {
    eventually("two hosts have its disk and its volume", SETTLE_LIMIT, async || {
        let host = format!("host-{}", host_of(&vm(lab).await?)?).parse()?;
        number(copies(lab).await?.other(&host).context("there is one copy")?)
    })
    .await
}

async fn host_is(lab: &Lab, host: u8, state: HostState) -> Result<()> {
    eventually(&format!("host-{host} is {state:?}"), SETTLE_LIMIT, async || {
        let host: Host = lab.client().get(&format!("host-{host}")).await?;
        ensure!(host.status.state == state && host.status.fence.is_none(), "{:?}", host.status);
        Ok(())
    })
    .await
}

/// Where a host has the volume as its own, and where it has a copy of it.
fn places(place: &Path, host: u8, volume: &Volume) -> (PathBuf, PathBuf) {
    let (pool, uuid) = (place.join(format!("host-{host}/pair")), volume.metadata.uuid);
    (pool.join(format!("disks/{uuid}.qcow2")), pool.join(format!("copies/{uuid}.img")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_outlives_either_host_with_the_disk_of_its_vm() -> Result<()> {
    let (lab, place) = with_pool().await?;
    lab.import_guest().await?;
    let observers = (0..BOOTS).map(|_| Observer::listen(lab.outside())).collect::<Result<Vec<_>>>()?;
    let addresses: Vec<SocketAddr> = observers.iter().map(Observer::address).collect();
    let mut sent = lab.guest(VM, &Workload::default())?;
    (sent.spec.pool, sent.spec.user_data) = (Some("pair".parse()?), Some(user_data(&addresses)));
    lab.follow(&lab.client().create(&sent, &WriteQuery::default()).await?).await?;
    lab.gantry(&["vm", "set", VM, "--ha", "restart"]).await?.ok()?;
    let sentinel = Sentinel::watch(vm(&lab).await?.metadata.uuid);
    lab.serving(VM).await?;
    peer(&lab).await?;
    let alone_before = copies(&lab).await?.generation;
    lab.gantry(&["volume", "create", "data", "--size", "64MiB", "--pool", "pair"]).await?.ok()?;
    lab.gantry(&["volume", "attach", "data", VM]).await?.ok()?;
    observers[0].goes_on(100).await?;
    let (host, other) = (host_of(&vm(&lab).await?)?, peer(&lab).await?);
    ensure!(copies(&lab).await?.generation > alone_before, "it came to copies that did not have it");
    observers[0].goes_on(100).await?;
    lab.gantry(&["volume", "set", "data", "--size", "96MiB"]).await?.expect_code(4)?;

    // The cables of the host that has the copies: the guest goes on alone, and that host gets what it lacks when it is back.
    let before = copies(&lab).await?;
    lab.cable("cut", other).await?;
    eventually("only its own host is current", SETTLE_LIMIT, async || {
        let now = copies(&lab).await?;
        ensure!(now.current.len() == 1 && now.generation > before.generation, "{now:?}");
        Ok(())
    })
    .await?;
    observers[0].goes_on(100).await?;
    lab.cable("mend", other).await?;
    host_is(&lab, other, HostState::Ready).await?;
    ensure!(peer(&lab).await? != host);
    observers[0].goes_on(100).await?;

    it_starts_with_its_volume_where_the_copies_are(&lab, &observers, place.path()).await?;
    it_is_detached_and_attached_on_the_other_host(&lab, &observers[1], place.path()).await?;
    sentinel.finish()?;
    lab.passed();
    Ok(())
}

async fn it_starts_with_its_volume_where_the_copies_are(lab: &Lab, observers: &[Observer], place: &Path) -> Result<()> {
    let (host, other) = (host_of(&vm(lab).await?)?, peer(lab).await?);
    eventually("it is guarded", SETTLE_LIMIT, async || {
        ensure!(vm(lab).await?.status.is_guarded(), "not yet");
        Ok(())
    })
    .await?;
    lab.cable("unplug", host).await?;
    eventually("it writes again", BOOT_LIMIT, async || {
        ensure!(observers[1].count() > 0, "the next boot has written nothing yet");
        Ok(())
    })
    .await?;
    let now = lab.serving(VM).await?;
    ensure!(host_of(&now)? == other, "it runs where its copies were: {:?}", now.status);
    let (acknowledged, address) = (observers[0].last(), address(&now)?);
    let last = eventually("it has checked its volume", SETTLE_LIMIT, async || workload_figure(address, "last")).await?;
    println!("{acknowledged} were acknowledged, the next boot found {last}");
    ensure!(last >= acknowledged && workload_figure(address, "bad")? == 0, "writes were lost");
    lab.runs_in_one_place(VM).await?;
    lab.cable("plug", host).await?;
    lab.resume().await?;
    host_is(lab, host, HostState::Ready).await?;
    let data = volume(lab).await?;
    eventually("what its former host had is gone", SETTLE_LIMIT, async || {
        let (own, _) = places(place, host, &data);
        ensure!(!own.exists(), "{} is there", own.display());
        Ok(())
    })
    .await?;
    peer(lab).await?;
    observers[1].goes_on(100).await
}

async fn it_is_detached_and_attached_on_the_other_host(lab: &Lab, observer: &Observer, place: &Path) -> Result<()> {
    let (host, other) = (host_of(&vm(lab).await?)?, peer(lab).await?);
    lab.gantry(&["volume", "detach", "data"]).await?.ok()?;
    let (acknowledged, loose) = (observer.last(), volume(lab).await?);
    let copies = loose.status.copies.clone().context("it is mirrored")?;
    ensure!(copies.current.len() == 2 && loose.status.phase == VolumePhase::Ready, "{loose:?}");
    let ((own, _), (_, copy)) = (places(place, host, &loose), places(place, other, &loose));
    disk::check_whole(&own, acknowledged)?;
    // Its server still has it open.
    let copied = place.join("copied.qcow2");
    std::fs::copy(&copy, &copied)?;
    disk::check_whole(&copied, acknowledged)?;

    lab.gantry(&["vm", "migrate", VM, "--to", &format!("host-{other}")]).await?.ok()?;
    lab.gantry(&["volume", "attach", "data", VM]).await?.ok()?;
    ensure!(places(place, other, &loose).0.exists(), "its copy has become the volume");
    peer(lab).await?;
    lab.gantry(&["volume", "detach", "data"]).await?.ok()?;
    disk::check_whole(&places(place, other, &loose).0, acknowledged)?;
    lab.gantry(&["volume", "delete", "data"]).await?.ok()?;
    for number in 1..=3 {
        let (own, copy) = places(place, number, &loose);
        eventually("nothing is left of it", SETTLE_LIMIT, async || {
            ensure!(!own.exists() && !copy.exists(), "something of it is left on host-{number}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
