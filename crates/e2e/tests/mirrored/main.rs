//! One protected VM whose disk is mirrored between two hosts: the host of its copy goes away and comes back, its QEMU is killed, it
//! moves to another host and its host is emptied, then that loses its power. An outside observer finds every write that was acknowledged, and never hears two of it.

mod volumes;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gantry_e2e::lab::{SETTLE_LIMIT, host_of};
use gantry_e2e::{Lab, Sentinel, Story, VM, eventually, qemus};
use gantry_types::{DiskCopies, Event, HostState, Name};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Boots of the guest: the first, one after its QEMU was killed, one on the other host.
const BOOTS: usize = 3;

fn number(host: &Name) -> Result<u8> {
    host.as_str().strip_prefix("host-").context("a host of the lab")?.parse().context("its number")
}

async fn copies(story: &Story) -> Result<DiskCopies> {
    story.vm().await?.status.copies.context("its disk is not mirrored")
}

/// The host of the second copy, once there is one.
async fn peer(story: &Story) -> Result<u8> {
    eventually("two hosts have its disk", SETTLE_LIMIT, async || {
        let host: Name = format!("host-{}", host_of(&story.vm().await?)?).parse()?;
        number(copies(story).await?.other(&host).context("there is one copy")?)
    })
    .await
}

/// The guest goes on writing, and is told that it is durable.
async fn writes_on(story: &Story, what: &str) -> Result<()> {
    let before = story.observer().count();
    eventually(what, SETTLE_LIMIT, async || {
        let now = story.observer().count();
        ensure!(now > before + 100, "{} writes since", now - before);
        Ok(())
    })
    .await
}

async fn begin() -> Result<(Story, tempfile::TempDir)> {
    let (lab, place) = with_pool().await?;
    Ok((Story::begin(lab, "pair", BOOTS).await?, place))
}

/// Three hosts with the pool `pair`, and where they have their parts of it.
async fn with_pool() -> Result<(Lab, tempfile::TempDir)> {
    let lab = Lab::up(3).await?;
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
    for host in 1..=3 {
        std::fs::create_dir(place.path().join(format!("host-{host}")))?;
    }
    let path = place.path().join("{host}/pair");
    let path = path.to_str().context("a path")?;
    lab.gantry(&["pool", "create", "pair", "--type", "mirrored", "--path", path]).await?.ok()?;
    Ok((lab, place))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_vm_outlives_either_of_its_hosts() -> Result<()> {
    let (mut story, place) = begin().await?;
    let host = story.settled().await?;
    let sentinel = Sentinel::watch(story.vm().await?.metadata.uuid);
    let other = peer(&story).await?;
    let explained = story.lab.gantry(&["ha", "explain", VM]).await?.ok()?;
    ensure!(explained.contains(&format!("it starts on host-{other} from pool pair")), "{explained}");

    copy_goes_away(&story, host, other).await?;
    server_is_killed(&story).await?;
    qemu_is_killed(&mut story, host).await?;
    moves_out_and_in(&story, host).await?;
    moves_to_its_copy(&story, place.path()).await?;
    its_host_is_drained(&story).await?;
    snapshot(&story).await?;
    host_dies(&mut story).await?;

    sentinel.finish()?;
    story.lab.passed();
    Ok(())
}

/// The cables of the host that has the copy: the guest goes on alone, and that host gets what it lacks when it is back.
async fn copy_goes_away(story: &Story, host: u8, other: u8) -> Result<()> {
    let before = copies(story).await?;
    story.lab.cable("cut", other).await?;
    eventually("only its own host is current", SETTLE_LIMIT, async || {
        let now = copies(story).await?;
        ensure!(
            now.current == [format!("host-{host}").parse::<Name>()?] && now.generation > before.generation,
            "{now:?}"
        );
        Ok(())
    })
    .await?;
    writes_on(story, "it writes alone").await?;
    story.lab.cable("mend", other).await?;
    story.host_is(other, HostState::Ready).await?;
    peer(story).await?;
    writes_on(story, "it writes to both").await?;
    let told: Vec<Event> = story.lab.client().list(None).await?;
    for reason in ["DiskCopied", "DiskCopyLost"] {
        ensure!(told.iter().any(|event| event.spec.reason == reason), "no event says {reason}");
    }
    Ok(())
}

/// The agent that serves the copy is killed, and with it what it served.
async fn server_is_killed(story: &Story) -> Result<()> {
    let (other, before) = (peer(story).await?, copies(story).await?);
    let agent = story.lab.room().look().hosts[usize::from(other) - 1].agent_pid.context("it has no agent")?;
    kill(Pid::from_raw(agent), Signal::SIGKILL)?;
    eventually("it is alone for a moment", SETTLE_LIMIT, async || {
        let now = copies(story).await?;
        ensure!(now.generation > before.generation, "{now:?}");
        Ok(())
    })
    .await?;
    story.lab.resume().await?;
    story.host_is(other, HostState::Ready).await?;
    peer(story).await?;
    writes_on(story, "it writes to both again").await
}

/// Its own host starts it again, alone at first.
async fn qemu_is_killed(story: &mut Story, host: u8) -> Result<()> {
    let (uuid, before) = (story.vm().await?.metadata.uuid, copies(story).await?);
    let pid = i32::try_from(qemus(uuid).first().context("it has no QEMU")?.pid)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let vm = story.runs_again("the end of its QEMU", Instant::now()).await?;
    ensure!(host_of(&vm)? == host && copies(story).await?.generation > before.generation, "{:?}", vm.status);
    peer(story).await.map(drop)
}

/// Its disk goes to its host's own pool and comes back while the guest writes.
async fn moves_out_and_in(story: &Story, host: u8) -> Result<()> {
    story.lab.gantry(&["volume", "migrate", "web-root", "--to", &format!("local-host-{host}")]).await?.ok()?;
    let own = story.vm().await?;
    ensure!(own.spec.pool.is_none() && own.status.copies.is_none(), "{:?}", own.status);
    writes_on(story, "it writes where no copy is").await?;
    story.lab.gantry(&["volume", "migrate", "web-root", "--to", "pair"]).await?.ok()?;
    peer(story).await?;
    writes_on(story, "it writes to both once it is back").await
}

/// It leaves nothing behind, and gets another copy.
async fn moves_to_its_copy(story: &Story, place: &Path) -> Result<()> {
    let (host, other) = (story.settled().await?, peer(story).await?);
    story.lab.gantry(&["vm", "migrate", VM, "--to", &format!("host-{other}")]).await?.ok()?;
    let vm = story.vm().await?;
    ensure!(host_of(&vm)? == other, "{:?}", vm.status);
    story.lab.runs_in_one_place(VM).await?;
    let left = place.join(format!("host-{host}/pair/disks")).read_dir()?.count();
    ensure!(left == 0, "{left} files of its disk are left on host-{host}");
    writes_on(story, "it writes where it has moved to").await?;
    ensure!(peer(story).await? != other);
    writes_on(story, "it writes to both there").await
}

async fn its_host_is_drained(story: &Story) -> Result<()> {
    let (host, _) = (story.settled().await?, peer(story).await?);
    let name = format!("host-{host}");
    story.lab.gantry(&["host", "drain", &name]).await?.ok()?;
    ensure!(host_of(&story.vm().await?)? != host, "it is still there");
    writes_on(story, "it writes where it was moved to").await?;
    story.lab.gantry(&["host", "undrain", &name]).await?.ok()?;
    peer(story).await?;
    writes_on(story, "it writes to both on its third host").await
}

/// What is in the disk is on both.
async fn snapshot(story: &Story) -> Result<()> {
    story.lab.gantry(&["snapshot", "create", VM, "before"]).await?.ok()?;
    writes_on(story, "it writes on after a snapshot").await
}

/// It starts where its copy is, with everything; its former host keeps the next copy.
async fn host_dies(story: &mut Story) -> Result<()> {
    let host = story.settled().await?;
    let other = peer(story).await?;
    story.lab.cable("unplug", host).await?;
    let vm = story.runs_again("a power loss", Instant::now()).await?;
    ensure!(host_of(&vm)? == other, "it runs where its copy was: {:?}", vm.status);
    story.lab.cable("plug", host).await?;
    story.lab.resume().await?;
    story.host_is(host, HostState::Ready).await?;
    peer(story).await?;
    let listed = story.lab.gantry(&["snapshot", "list", VM]).await?.ok()?;
    ensure!(listed.contains("before"), "{listed}");
    writes_on(story, "it writes to both where it is now").await
}
