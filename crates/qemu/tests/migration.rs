//! Moves of a guest that watches its own memory and disk, between real QEMUs on this machine: the whole
//! sequence, and its being given up, or losing the destination, at each step.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_qemu::migration::*;
use gantry_qemu::probe::{PostcopySupport, enable_unprivileged_userfaultfd, postcopy_support};
use gantry_qemu::qmp::command::{Cont, MigrateSetParameters, MirrorSync, Stop};
use support::pki::{PEER_DN, PEER_NAME, credentials, credentials_of};
use support::{DISK_NODE, TestVm, check_history, eventually, soon};
use tempfile::TempDir;
use tokio::time::Instant;

/// So slow that the copy of the memory lasts until something else ends it.
const CRAWL_BYTES_PER_S: u64 = 64 << 10;
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

fn scratch() -> TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("chmod");
    dir
}

async fn listen(to: &TestVm, tls: Option<PathBuf>, postcopy: bool) -> (MigrationDestination, Peer) {
    let destination = MigrationDestination::new(to.qmp.clone());
    let listening = destination
        .listen(&ListenOptions {
            host: "127.0.0.1".to_owned(),
            ports: 42_100..=42_199,
            disks: vec![DISK_NODE.to_owned()],
            tls: tls.clone().map(|creds_dir| ListenTls { creds_dir, source_dn: PEER_DN.to_owned() }),
            postcopy,
            late_activation: false,
        })
        .await
        .expect("listen");
    let peer = Peer {
        host: "127.0.0.1".to_owned(),
        nbd_port: listening.nbd_port,
        ram_port: listening.ram_port,
        tls: tls.map(|creds_dir| PeerTls { creds_dir, peer_name: PEER_NAME.to_owned() }),
    };
    (destination, peer)
}

fn source_of(from: &TestVm, peer: Peer) -> MigrationSource {
    let disk = MirrorDisk { node_name: DISK_NODE.to_owned(), export: DISK_NODE.to_owned(), sync: MirrorSync::Full };
    MigrationSource::new(from.qmp.clone(), vec![disk], peer)
}

/// The whole sequence. `run`: the guest was running before.
async fn move_guest(from: &TestVm, to: &TestVm, tls: Option<PathBuf>, postcopy: bool, run: bool) {
    let (destination, peer) = listen(to, tls, postcopy).await;
    let source = source_of(from, peer);
    source.start_mirror().await.expect("start mirror");
    source.wait_mirrored(Mirrored::AllBut(1 << 20), |_| {}, soon()).await.expect("most of the mirror");
    let tuning = RamTuning {
        max_bandwidth_bytes_per_s: postcopy.then_some(CRAWL_BYTES_PER_S),
        downtime_limit_ms: LEAST_DOWNTIME_MS,
        postcopy,
    };
    source.configure(&tuning).await.expect("configure");
    source.start_ram().await.expect("start");
    source.limit_downtime(RamTuning::default().downtime_limit_ms).await.expect("limit");
    let directive = |progress: &MigrationProgress| match progress.phase {
        MigrationPhase::Active if postcopy => Directive::SwitchToPostcopy,
        _ => Directive::Wait,
    };
    let reached = source.wait_pre_switchover(directive, soon()).await;
    reached.expect("pre-switchover");
    let copied = source.wait_mirrored(Mirrored::All, |_| {}, soon()).await.expect("mirror");
    assert!(copied.copied_bytes > 0);
    source.continue_switchover().await.expect_err("the mirror still runs");
    source.finish_mirror(soon()).await.expect("finish mirror");
    source.continue_switchover().await.expect("continue");
    let handed_over = source.wait_handed_over(soon()).await.expect("hand-over");
    let expected = if postcopy { HandedOver::PostcopyActive } else { HandedOver::Completed };
    assert_eq!(handed_over, expected);
    limit_post_copy(from, 0).await;
    assert_eq!(to.last_ack(), None, "the destination ran without having been told to");
    let refused = source.cancel(true, soon()).await.expect_err("too late");
    assert!(matches!(refused, MigrationError::HandedOver), "{refused}");
    destination.commit(run, soon()).await.expect("commit");
    destination.commit(run, soon()).await.expect("commit again");
    let end = source.wait_completed(|_| {}, SILENCE_LIMIT, soon()).await.expect("completed");
    assert!(end.downtime_ms.is_some() && end.ram_transferred_bytes > 0, "{end:?}");
    from.assert_no_leftovers().await;
    assert_ne!(from.status().await, "running");
}

async fn there_and_on(tls: bool, postcopy: bool) {
    let scratch = scratch();
    let root = scratch.path();
    let tls = tls.then(|| credentials(root, "pki"));
    let a = TestVm::counting(root, "a").await;
    a.counts_on().await;
    let b = TestVm::incoming(root, "b").await;
    move_guest(&a, &b, tls.clone(), postcopy, true).await;
    b.counts_on().await;
    a.quit().await;
    // On, from a machine that itself arrived by migration.
    let c = TestVm::incoming(root, "c").await;
    move_guest(&b, &c, tls, postcopy, true).await;
    c.counts_on().await;
    b.quit().await;
    c.quit().await;
    check_history(&[&a, &b, &c]);
}

#[tokio::test]
async fn precopy_with_tls() {
    there_and_on(true, false).await;
}

#[tokio::test]
async fn precopy_without_tls() {
    there_and_on(false, false).await;
}

#[tokio::test]
async fn postcopy_with_tls_and_without() {
    let scratch = scratch();
    let probe = TestVm::incoming(scratch.path(), "probe").await;
    if postcopy_support(probe.qmp.version()) == PostcopySupport::NeedsSysctl {
        enable_unprivileged_userfaultfd().expect("run the tests as root, or set vm.unprivileged_userfaultfd=1");
    }
    there_and_on(true, true).await;
    there_and_on(false, true).await;
}

/// The connection breaks while the guest runs at the destination and most of its memory is still at the source.
async fn interrupted_twice(tls: bool) {
    let scratch = scratch();
    let root = scratch.path();
    let tls = tls.then(|| credentials(root, "pki"));
    let a = TestVm::counting(root, "a").await;
    a.counts_on().await;
    let b = TestVm::incoming(root, "b").await;
    let (destination, peer) = listen(&b, tls, true).await;
    let source = source_of(&a, peer);
    advance(&source, Step::CopyingMemory, true).await;
    // QEMU looks at it when post-copy begins.
    limit_post_copy(&a, 4096).await;
    source.wait_pre_switchover(|_| Directive::SwitchToPostcopy, soon()).await.expect("pre-switchover");
    source.finish_mirror(soon()).await.expect("finish mirror");
    assert_eq!(destination.listen_again("127.0.0.1", 42_100..=42_199).await.expect("answer"), None);
    source.continue_switchover().await.expect("continue");
    assert_eq!(source.wait_handed_over(soon()).await.expect("hand-over"), HandedOver::PostcopyActive);
    destination.commit(true, soon()).await.expect("commit");
    for attempt in 0..2 {
        source.interrupt().await.expect("interrupt");
        let paused = source.wait_completed(|_| {}, SILENCE_LIMIT, soon()).await.expect_err("interrupted");
        let phase = MigrationPhase::PostcopyPaused;
        assert!(matches!(&paused, MigrationError::Ram { phase: found, .. } if *found == phase), "{paused}");
        let listening = async || destination.listen_again("127.0.0.1", 42_100..=42_199).await.expect("listen again");
        eventually("the destination's pause", listening).await;
        // A port that nobody came to is replaced.
        let port = listening().await.expect("still interrupted");
        if attempt == 0 {
            let nowhere = source.resume(1, Instant::now() + Duration::from_secs(1)).await.expect_err("nobody there");
            assert!(matches!(nowhere, MigrationError::Timeout { .. }), "{nowhere}");
        }
        source.resume(port, soon()).await.expect("resume");
        eventually("its going on", async || {
            let progress = source.progress().await.expect("progress");
            assert_ne!(progress.phase, MigrationPhase::Failed, "{progress:?}");
            (progress.phase == MigrationPhase::PostcopyActive).then_some(())
        })
        .await;
    }
    limit_post_copy(&a, 0).await;
    source.wait_completed(|_| {}, SILENCE_LIMIT, soon()).await.expect("completed");
    b.counts_on().await;
    a.quit().await;
    b.quit().await;
    check_history(&[&a, &b]);
}

async fn limit_post_copy(vm: &TestVm, bytes_per_s: u64) {
    let limit = MigrateSetParameters { max_postcopy_bandwidth: Some(bytes_per_s), ..MigrateSetParameters::default() };
    vm.qmp.execute(limit).await.expect("limit");
}

#[tokio::test]
async fn an_interrupted_postcopy_goes_on() {
    let scratch = scratch();
    let probe = TestVm::incoming(scratch.path(), "probe").await;
    if postcopy_support(probe.qmp.version()) == PostcopySupport::NeedsSysctl {
        enable_unprivileged_userfaultfd().expect("run the tests as root, or set vm.unprivileged_userfaultfd=1");
    }
    interrupted_twice(false).await;
    interrupted_twice(true).await;
}

#[tokio::test]
async fn a_paused_guest_arrives_paused() {
    let scratch = scratch();
    let a = TestVm::counting(scratch.path(), "a").await;
    a.counts_on().await;
    a.qmp.execute(Stop {}).await.expect("stop");
    let b = TestVm::incoming(scratch.path(), "b").await;
    move_guest(&a, &b, None, false, false).await;
    assert_eq!(b.status().await, "paused");
    assert_eq!(b.last_ack(), None);
    b.qmp.execute(Cont {}).await.expect("cont");
    b.counts_on().await;
    b.quit().await;
    check_history(&[&a, &b]);
}

#[tokio::test]
async fn a_stranger_is_refused() {
    let scratch = scratch();
    let root = scratch.path();
    let a = TestVm::counting(root, "a").await;
    a.counts_on().await;
    let b = TestVm::incoming(root, "b").await;
    let (_destination, mut peer) = listen(&b, Some(credentials(root, "theirs")), false).await;
    peer.tls = Some(PeerTls { creds_dir: credentials(root, "ours"), peer_name: PEER_NAME.to_owned() });
    let source = source_of(&a, peer.clone());
    let error = source.start_mirror().await.expect_err("not our authority");
    assert!(matches!(error, MigrationError::Qmp(_)), "{error}");
    source.cancel(true, soon()).await.expect("cancel");
    // And without any certificate.
    peer.tls = None;
    let source = source_of(&a, peer.clone());
    source.start_mirror().await.expect_err("no certificate");
    source.cancel(true, soon()).await.expect("cancel");
    // The other stream.
    peer.nbd_port = None;
    let source = source_of(&a, peer);
    source.configure(&RamTuning::default()).await.expect("configure");
    source.start_ram().await.expect("start");
    assert_memory_is_refused(&source).await;
    source.cancel(true, soon()).await.expect("cancel");
    a.counts_on().await;
    a.assert_no_leftovers().await;
}

/// Under TLS 1.3 (RFC 8446, 4.4.4) a client sends before it learns that its certificate was refused, so a small guest
/// may be at the switchover by then. It is never handed over.
async fn assert_memory_is_refused(source: &MigrationSource) {
    let handed_over = async {
        source.wait_pre_switchover(|_| Directive::Wait, soon()).await?;
        source.continue_switchover().await?;
        source.wait_handed_over(soon()).await
    };
    let failed = handed_over.await;
    assert!(matches!(failed, Err(MigrationError::Ram { .. } | MigrationError::Qmp(_))), "{failed:?}");
}

#[tokio::test]
async fn another_host_of_the_same_authority_is_refused() {
    let scratch = scratch();
    let root = scratch.path();
    let holders = [("theirs", PEER_NAME), ("other", "host-c")];
    let [theirs, other] = credentials_of(root, &holders).try_into().expect("two");
    let a = TestVm::counting(root, "a").await;
    a.counts_on().await;
    let b = TestVm::incoming(root, "b").await;
    let (_destination, right) = listen(&b, Some(theirs), false).await;
    let mut peer = right.clone();
    peer.tls = Some(PeerTls { creds_dir: other, peer_name: PEER_NAME.to_owned() });
    let source = source_of(&a, peer.clone());
    let error = source.start_mirror().await.expect_err("not the host that was announced");
    assert!(matches!(error, MigrationError::Qmp(_)), "{error}");
    source.cancel(true, soon()).await.expect("cancel");
    // The other stream.
    peer.nbd_port = None;
    let source = source_of(&a, peer);
    source.configure(&RamTuning::default()).await.expect("configure");
    source.start_ram().await.expect("start");
    assert_memory_is_refused(&source).await;
    source.cancel(true, soon()).await.expect("cancel");
    let refusals = b.qemu_log().matches("host-c").count();
    assert!(refusals > 0, "it was refused for its name: {}", b.qemu_log());
    a.counts_on().await;
    // The destination still waits for the right one, on both streams.
    let source = source_of(&a, right);
    advance(&source, Step::PreSwitchover, false).await;
    source.cancel(true, soon()).await.expect("cancel");
    a.counts_on().await;
    a.assert_no_leftovers().await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Step {
    MirrorStarted,
    MirrorReady,
    CopyingMemory,
    PreSwitchover,
    MirrorFinished,
}

const STEPS: [Step; 5] =
    [Step::MirrorStarted, Step::MirrorReady, Step::CopyingMemory, Step::PreSwitchover, Step::MirrorFinished];

async fn advance(source: &MigrationSource, to: Step, postcopy: bool) {
    source.start_mirror().await.expect("start mirror");
    if to >= Step::MirrorReady {
        source.wait_mirrored(Mirrored::All, |_| {}, soon()).await.expect("mirror");
    }
    if to >= Step::CopyingMemory {
        let crawl = to == Step::CopyingMemory || postcopy;
        let tuning = RamTuning {
            max_bandwidth_bytes_per_s: crawl.then_some(CRAWL_BYTES_PER_S),
            postcopy,
            ..RamTuning::default()
        };
        source.configure(&tuning).await.expect("configure");
        source.start_ram().await.expect("start");
        eventually("copying of memory", async || {
            let progress = source.progress().await.expect("progress");
            (progress.phase != MigrationPhase::Setup).then_some(())
        })
        .await;
    }
    if to >= Step::PreSwitchover {
        let directive = if postcopy { Directive::SwitchToPostcopy } else { Directive::Wait };
        let reached = source.wait_pre_switchover(|_| directive, soon()).await;
        reached.expect("pre-switchover");
    }
    if to >= Step::MirrorFinished {
        source.finish_mirror(soon()).await.expect("finish mirror");
    }
}

/// At each step `harm` is done to the destination; the move is cancelled; the guest goes on; at the end it
/// moves, undamaged.
async fn every_step(root: &Path, postcopy: bool, harm: impl Fn(&TestVm)) {
    let a = TestVm::counting(root, "a").await;
    for step in STEPS {
        a.counts_on().await;
        let b = TestVm::incoming(root, &format!("{step:?}")).await;
        let (_destination, peer) = listen(&b, None, postcopy).await;
        let source = source_of(&a, peer);
        advance(&source, step, postcopy).await;
        harm(&b);
        if let Err(error) = source.cancel(true, soon()).await {
            panic!("{step:?}: {error:?}: {}", a.qemu_log());
        }
        source.cancel(true, soon()).await.expect("cancel again");
        assert_eq!(a.status().await, "running", "{step:?}");
        a.assert_no_leftovers().await;
        assert_eq!(b.last_ack(), None, "{step:?}: the destination ran");
    }
    a.counts_on().await;
    let b = TestVm::incoming(root, "b").await;
    move_guest(&a, &b, None, false, true).await;
    b.counts_on().await;
    b.quit().await;
    check_history(&[&a, &b]);
}

#[tokio::test]
async fn cancel_at_every_step() {
    every_step(scratch().path(), false, |_| {}).await;
}

#[tokio::test]
async fn cancel_at_every_step_of_postcopy() {
    let scratch = scratch();
    let probe = TestVm::incoming(scratch.path(), "probe").await;
    if postcopy_support(probe.qmp.version()) == PostcopySupport::NeedsSysctl {
        enable_unprivileged_userfaultfd().expect("run the tests as root, or set vm.unprivileged_userfaultfd=1");
    }
    every_step(scratch.path(), true, |_| {}).await;
}

#[tokio::test]
async fn the_destination_dies_at_every_step() {
    every_step(scratch().path(), false, |destination| {
        destination.process.kill().expect("kill");
    })
    .await;
}

#[tokio::test]
async fn the_destination_falls_silent_at_every_step() {
    every_step(scratch().path(), false, |destination| {
        // As a network that swallows everything: the sockets stay open, nobody answers.
        let pid = i32::try_from(destination.process.pid()).expect("pid");
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("stop");
    })
    .await;
}

/// Between `continue_switchover` and the hand-over.
#[tokio::test]
async fn the_destination_dies_within_the_switchover() {
    let scratch = scratch();
    let a = TestVm::counting(scratch.path(), "a").await;
    a.counts_on().await;
    let b = TestVm::incoming(scratch.path(), "b").await;
    let (_destination, peer) = listen(&b, None, false).await;
    let source = source_of(&a, peer);
    advance(&source, Step::MirrorFinished, false).await;
    b.process.kill().expect("kill");
    b.process.wait_exit().await.expect("wait");
    source.continue_switchover().await.expect("continue");
    let error = source.wait_handed_over(soon()).await.expect_err("nobody there");
    assert!(matches!(error, MigrationError::Ram { .. }), "{error}");
    source.cancel(true, soon()).await.expect("cancel");
    a.counts_on().await;
    a.assert_no_leftovers().await;
    a.quit().await;
    check_history(&[&a]);
}

#[tokio::test]
async fn a_dead_destination_is_noticed_while_waiting() {
    let scratch = scratch();
    let a = TestVm::counting(scratch.path(), "a").await;
    a.counts_on().await;
    let b = TestVm::incoming(scratch.path(), "b").await;
    let (_destination, peer) = listen(&b, None, false).await;
    let source = source_of(&a, peer.clone());
    advance(&source, Step::CopyingMemory, false).await;
    b.process.kill().expect("kill");
    let error = source.wait_pre_switchover(|_| Directive::Wait, soon()).await;
    assert!(matches!(error, Err(MigrationError::Ram { .. } | MigrationError::Mirror { .. })), "{error:?}");
    source.cancel(true, soon()).await.expect("cancel");
    let error = source.start_mirror().await.expect_err("nobody listens");
    assert!(matches!(error, MigrationError::Unreachable { .. }), "{error}");
    a.counts_on().await;
}

#[tokio::test]
async fn a_blocker_is_named() {
    let scratch = scratch();
    let a = TestVm::counting(scratch.path(), "a").await;
    let b = TestVm::incoming(scratch.path(), "b").await;
    let (_destination, peer) = listen(&b, None, false).await;
    let source = source_of(&a, peer);
    a.counts_on().await;
    advance(&source, Step::CopyingMemory, false).await;
    // A second one while the first is under way.
    let error = source.start_ram().await.expect_err("already under way");
    let MigrationError::Qmp(error) = error else { panic!("{error}") };
    assert!(error.refusal().is_some_and(|desc| !desc.is_empty()), "{error}");
    assert_eq!(error.class(), gantry_qemu::ErrorClass::Conflict);
    source.cancel(true, soon()).await.expect("cancel");
}
