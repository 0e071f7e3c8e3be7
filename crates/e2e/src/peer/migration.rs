//! A move by a minimal QMP script, with disk and memory over TLS, as an expert would write it down.
//!
//! ```text
//!   client  10.250.0.254  (bridge) ──┬── source       10.250.0.1 (bridge, tap) QEMU
//!                                    └── destination  10.250.0.2 (bridge, tap) QEMU
//! ```
//! There is no commit protocol, no liveness check and no undo in it: this is the least that moves a guest.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_qemu::qmp::command::*;
use gantry_qemu::qmp::{Event, EventStream, Qmp};

use super::machine::{DISK_NODE, OWNER, TAP};
use super::start::{first_answer, passable};
use super::{Like, Namespace, PeerMachine, pki};
use crate::guest::Workload;
use crate::observer::Observer;
use crate::{disk, eventually};

const LIMIT: Duration = Duration::from_secs(120);
const TLS: &str = "tls0";
const NBD_PORT: &str = "10809";
const RAM_PORT: &str = "4444";
/// The same for both sides of the comparison.
pub const WARM_UP: Duration = Duration::from_secs(3);
/// How long after the move the outside still looks for its gap.
pub const AFTERMATH: Duration = Duration::from_secs(2);

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 0, 254));
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 0, 1));
const DESTINATION: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 0, 2));
pub const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 250, 0, 10));

/// Figures of one move.
#[derive(Debug, Clone, Copy)]
pub struct PeerMigration {
    /// From the destination's start to the end of the source's QEMU.
    pub total: Duration,
    /// The longest silence of the guest's ticks, seen from outside.
    pub blackout: Duration,
    pub acknowledged: u64,
}

/// The three places and their cables.
struct Rack {
    client: Namespace,
    source: Namespace,
    destination: Namespace,
}

impl Rack {
    fn build() -> Result<Self> {
        let rack =
            Self { client: Namespace::create()?, source: Namespace::create()?, destination: Namespace::create()? };
        for (place, address) in [(&rack.client, CLIENT), (&rack.source, SOURCE), (&rack.destination, DESTINATION)] {
            place.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
            place.ip(&["address", "add", &format!("{address}/24"), "dev", "br0"])?;
            place.ip(&["link", "set", "br0", "up"])?;
        }
        for (place, port) in [(&rack.source, "p1"), (&rack.destination, "p2")] {
            let (here, there) = (rack.client.name(), place.name());
            rack.client.ip(&["link", "add", port, "type", "veth", "peer", "name", "up0", "netns", there])?;
            rack.client.ip(&["link", "set", port, "master", "br0", "up"])?;
            place.ip(&["link", "set", "up0", "master", "br0", "up"]).with_context(|| format!("cabling {here}"))?;
        }
        Ok(rack)
    }
}

/// Boots a guest, lets it write, and moves it once.
pub async fn migrate_by_hand(like: &Like, dirty: Option<(u32, u32)>) -> Result<PeerMigration> {
    let scratch = tempfile::tempdir().context("no scratch directory")?;
    passable(scratch.path())?;
    let rack = Rack::build()?;
    let tls = scratch.path().join("tls");
    pki::write(&tls, OWNER)?;
    let listen = || rack.client.enter(move || Observer::listen(CLIENT))?.join().ok().context("no observer")?;
    let (writes, ticks) = (listen()?, listen()?);
    let workload =
        Workload { writes_to: Some(writes.address()), ticks_to: Some(ticks.address()), dirty, ..Workload::default() };
    let like = Like { user_data: workload.user_data(), address: GUEST, ..like.clone() };

    let prepared = PeerMachine::prepare(&like, &scratch.path().join("source"), &rack.source, false).await?;
    rack.source.ip(&["link", "set", TAP, "master", "br0"])?;
    let source = PeerMachine::start(prepared, &rack.source).await?;
    let answered = rack.client.enter(move || first_answer(GUEST))?;
    tokio::task::spawn_blocking(move || answered.join()).await?.ok().context("the client panicked")??;
    under_load(&writes, &ticks).await?;

    let started = Instant::now();
    let prepared = PeerMachine::prepare(&like, &scratch.path().join("destination"), &rack.destination, true).await?;
    rack.destination.ip(&["link", "set", TAP, "master", "br0"])?;
    let destination = PeerMachine::start(prepared, &rack.destination).await?;
    let tls_dir = tls.to_str().context("the scratch directory is not UTF-8")?;
    script(&source.qmp, &destination.qmp, tls_dir).await?;
    source.qmp.execute(Quit {}).await?;
    source.process.wait_exit().await?;
    let ended = Instant::now();

    tokio::time::sleep(AFTERMATH).await;
    let blackout = ticks.report().longest_gap(started, Instant::now());
    let before = writes.count();
    eventually("the moved guest writes on", LIMIT, async || {
        ensure!(writes.count() > before, "no acknowledgement since the move");
        Ok(())
    })
    .await?;
    let acknowledged = writes.last();
    destination.qmp.execute(Quit {}).await?;
    destination.process.wait_exit().await?;
    disk::check(&destination.disk(), acknowledged)?;
    Ok(PeerMigration { total: ended - started, blackout, acknowledged })
}

/// Waits until a guest writes and ticks, and lets it do so for a while.
pub async fn under_load(writes: &Observer, ticks: &Observer) -> Result<()> {
    eventually("the guest writes and ticks", LIMIT, async || {
        ensure!(writes.count() > 20 && ticks.count() > 20, "{} writes, {} ticks", writes.count(), ticks.count());
        Ok(())
    })
    .await?;
    // A measured load, not a wait for something.
    tokio::time::sleep(WARM_UP).await;
    Ok(())
}

async fn script(source: &Qmp, destination: &Qmp, tls_dir: &str) -> Result<()> {
    for (qmp, endpoint) in [(source, TlsEndpoint::Client), (destination, TlsEndpoint::Server)] {
        let (id, dir) = (TLS.to_owned(), tls_dir.to_owned());
        qmp.execute(ObjectAdd::TlsCredsX509 { id, dir, endpoint, verify_peer: true }).await?;
    }
    let host = DESTINATION.to_string();
    let nbd = InetAddress { host: host.clone(), port: NBD_PORT.to_owned() };
    destination
        .execute(NbdServerStart {
            addr: SocketAddressLegacy::Inet(nbd.clone()),
            tls_creds: Some(TLS.to_owned()),
            tls_authz: None,
        })
        .await?;
    destination
        .execute(BlockExportAdd::Nbd {
            id: "export0".to_owned(),
            node_name: DISK_NODE.to_owned(),
            name: DISK_NODE.to_owned(),
            writable: true,
            bitmaps: Vec::new(),
        })
        .await?;
    source
        .execute(BlockdevAdd::Nbd {
            node_name: "nbd0".to_owned(),
            server: SocketAddress::Inet(nbd),
            export: DISK_NODE.to_owned(),
            open_timeout: 3,
            tls_creds: Some(TLS.to_owned()),
            tls_hostname: Some(pki::PEER_NAME.to_owned()),
        })
        .await?;
    let mut events = source.events();
    source
        .execute(BlockdevMirror {
            job_id: "mirror0".to_owned(),
            device: DISK_NODE.to_owned(),
            target: "nbd0".to_owned(),
            sync: MirrorSync::Top,
            copy_mode: MirrorCopyMode::Background,
            speed: 0,
            replaces: None,
            filter_node_name: None,
            auto_finalize: true,
            auto_dismiss: false,
        })
        .await?;
    wait(&mut events, "BLOCK_JOB_READY", |_| true).await?;

    let capabilities = |names: &[&str]| MigrateSetCapabilities {
        capabilities: names
            .iter()
            .map(|name| MigrationCapability { capability: (*name).to_owned(), state: true })
            .collect(),
    };
    source.execute(capabilities(&["events", "return-path", "pause-before-switchover"])).await?;
    destination.execute(capabilities(&["events", "return-path"])).await?;
    let announce = MigrateSetParameters {
        announce_initial: Some(10),
        announce_max: Some(300),
        announce_rounds: Some(8),
        announce_step: Some(50),
        tls_creds: Some(TLS.to_owned()),
        ..MigrateSetParameters::default()
    };
    destination.execute(announce.clone()).await?;
    source
        .execute(MigrateSetParameters {
            max_bandwidth: Some(0),
            downtime_limit: Some(300),
            tls_hostname: Some(pki::PEER_NAME.to_owned()),
            ..announce
        })
        .await?;
    let uri = format!("tcp:{host}:{RAM_PORT}");
    destination.execute(MigrateIncoming { uri: uri.clone() }).await?;
    let mut resumed = destination.events();
    source.execute(Migrate { uri, resume: None }).await?;
    wait(&mut events, "MIGRATION", |event| event.data["status"] == "pre-switchover").await?;
    source.execute(BlockJobCancel { device: "mirror0".to_owned(), force: false }).await?;
    wait(&mut events, "BLOCK_JOB_COMPLETED", |_| true).await?;
    source.execute(JobDismiss { id: "mirror0".to_owned() }).await?;
    source.execute(BlockdevDel { node_name: "nbd0".to_owned() }).await?;
    source.execute(MigrateContinue { state: ContinueFrom::PreSwitchover }).await?;
    wait(&mut events, "MIGRATION", |event| event.data["status"] == "completed").await?;
    destination.execute(NbdServerStop {}).await?;
    destination.execute(Cont {}).await?;
    wait(&mut resumed, "RESUME", |_| true).await
}

async fn wait(events: &mut EventStream, name: &str, mut wanted: impl FnMut(&Event) -> bool) -> Result<()> {
    let seen = async {
        loop {
            let event = events.next().await?;
            if event.name == name && wanted(&event) {
                return Ok(());
            }
            ensure!(event.name != "BLOCK_JOB_ERROR", "the mirror failed: {}", event.data);
            ensure!(event.data["status"] != "failed", "the migration failed");
        }
    };
    tokio::time::timeout(LIMIT, seen).await.with_context(|| format!("QEMU never reported {name}"))?
}
