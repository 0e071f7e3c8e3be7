//! A protected VM whose host lives and answers, and loses what the VM needs: first the way to the NFS server that has its disk,
//! then the link of its network. Each time it is told of, and it runs again on the other host with every write that was
//! acknowledged; never do two of it answer.

#[path = "../../storage/tests/nfs_server/mod.rs"]
mod nfs_server;

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Result, ensure};
use gantry_e2e::lab::{SETTLE_LIMIT, host_of};
use gantry_e2e::{Lab, Lan, Sentinel, Story, VM, eventually};
use gantry_types::{Event, Host, HostState, NicSpec, Pool, PoolHealth};
use nfs_server::{NfsServer, WELL};

/// The first, and one after each loss.
const BOOTS: usize = 3;

/// Closes a host's way to the NFS server, or opens it again. Nothing else of the host is concerned.
async fn reaches_server(lab: &Lab, host: u8, server: Ipv4Addr, reaches: bool) -> Result<()> {
    let ports = "111, 2049, 20048";
    let rules = match reaches {
        true => "delete table inet away".to_owned(),
        false => format!(
            "add table inet away; add chain inet away out {{ type filter hook output priority 0; }}; \
             add rule inet away out ip daddr {server} tcp dport {{ {ports} }} drop"
        ),
    };
    let host = format!("host-{host}");
    lab.gantry(&["lab", "exec", &host, "--", "nft", &rules]).await?.ok().map(drop)
}

async fn until_told(lab: &Lab, reason: &str, of: &str) -> Result<()> {
    eventually(&format!("the event {reason}"), SETTLE_LIMIT, async || {
        let told: Vec<Event> = lab.client().list(None).await?;
        let is_it = |event: &&Event| event.spec.reason == reason && event.spec.message.contains(of);
        let found = told.iter().find(is_it);
        ensure!(found.is_some(), "nothing says {reason} and '{of}'");
        Ok(())
    })
    .await
}

/// The host was never shut out: it answers, and leads its VMs.
async fn is_well(lab: &Lab, host: u8) -> Result<()> {
    let host: Host = lab.client().get(&format!("host-{host}")).await?;
    ensure!(host.status.state == HostState::Ready && host.status.fence.is_none(), "{:?}", host.status);
    ensure!(host.status.fences_lifted == 0, "it was shut out: {:?}", host.status);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_leaves_a_host_that_lives_and_lacks_what_it_needs() -> Result<()> {
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let export = place.path().join("export");
    std::fs::create_dir(&export)?;
    let lab = Lab::up(2).await?;
    let lan = Lan::of(&lab).await?;
    lan.network(&lab).await?;
    let layout = lab.room().layout();
    let (namespace, address) = (layout.controller_namespace(), layout.controller_address());
    let server = NfsServer::start_in(Some(&namespace), &address.to_string(), &export, WELL);
    let create = ["pool", "create", "nas", "--type", "nfs", "--url", &server.url(), "--alarm", "100"];
    lab.gantry(&create).await?.ok()?;
    eventually("the pool is looked at", SETTLE_LIMIT, async || {
        let pool: Pool = lab.client().get("nas").await?;
        ensure!(pool.status.health == PoolHealth::Healthy, "{:?}", pool.status);
        Ok(())
    })
    .await?;
    let (pool, office) = ("nas".parse()?, "office".parse()?);
    let mut story = Story::begin_with(lab, BOOTS, |spec| {
        spec.pool = Some(pool);
        spec.nics.push(NicSpec::new(office));
    })
    .await?;
    let first = story.settled().await?;
    let sentinel = Sentinel::watch(story.vm().await?.metadata.uuid);

    pool_is_lost(&mut story, first, address).await?;
    let second = story.settled().await?;
    ensure!(second != first, "it is on host-{second} again");
    link_is_lost(&mut story, second, &lan).await?;
    ensure!(story.settled().await? == first);

    sentinel.finish()?;
    story.lab.passed();
    Ok(())
}

/// It is told of for as long as that is all that is wished for; then the VM leaves.
async fn pool_is_lost(story: &mut Story, host: u8, server: Ipv4Addr) -> Result<()> {
    story.lab.gantry(&["vm", "set", VM, "--on-pool-loss", "alarm", "--ha-loss", "10"]).await?.ok()?;
    reaches_server(&story.lab, host, server, false).await?;
    let lost = Instant::now();
    let why = format!("fails on host 'host-{host}', and that is only told of: pool 'nas' is ");
    until_told(&story.lab, "VmUnhealthy", &why).await?;
    let told = story.vm().await?;
    ensure!(host_of(&told)? == host && told.status.ha.unhealthy.is_some(), "{:?}", told.status);

    story.lab.gantry(&["vm", "set", VM, "--on-pool-loss", "restart-elsewhere"]).await?.ok()?;
    let vm = story.runs_again("the loss of its pool", lost).await?;
    ensure!(host_of(&vm)? != host && vm.status.failovers.len() == 1, "{:?}", vm.status);
    for reason in ["VmStranded", "VmDisplaced", "VmRunsAgain"] {
        until_told(&story.lab, reason, VM).await?;
    }
    is_well(&story.lab, host).await?;

    // What comes back to the disk leaves it alone.
    reaches_server(&story.lab, host, server, true).await?;
    eventually("the host has the pool again", SETTLE_LIMIT, async || {
        let host: Host = story.lab.client().get(&format!("host-{host}")).await?;
        let lost = host.status.inventory.as_ref().map(|inventory| inventory.lost_pools.len());
        ensure!(lost == Some(0), "{lost:?}");
        Ok(())
    })
    .await?;
    let kept = story.lab.runs_in_one_place(VM).await?;
    ensure!(kept.status.host == vm.status.host && kept.status.epoch == vm.status.epoch, "{:?}", kept.status);
    Ok(())
}

/// The cable of the LAN only: the host is managed by another one.
async fn link_is_lost(story: &mut Story, host: u8, lan: &Lan) -> Result<()> {
    story.lab.gantry(&["vm", "set", VM, "--on-network-loss", "restart-elsewhere"]).await?.ok()?;
    lan.set_plugged(host, false)?;
    let lost = Instant::now();
    let vm = story.runs_again("the loss of its link", lost).await?;
    ensure!(host_of(&vm)? != host && vm.status.failovers.len() == 2, "{:?}", vm.status);
    until_told(&story.lab, "VmStranded", "interface 'lan0' of its host has no link").await?;
    is_well(&story.lab, host).await?;
    lan.set_plugged(host, true)
}
