//! Copies of other hosts' disks: served, settled, taken and dropped, each again and again; and what is stale is never taken.

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../qemu/tests/support/pki.rs"]
mod pki;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_storage::{Copies, CopyMark, CopyServer, CopyState, CopyTls, DirPool, DiskSpec, ServeCopy, StorageError};
use pki::{PEER_DN, PEER_NAME, credentials_of};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB;
const DISK: Uuid = Uuid::from_u128(7);
const UID: u32 = 200_001;

fn hand_to_qemu(path: &Path) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(UID), Some(UID)).unwrap();
    }
}

struct Bench {
    directory: tempfile::TempDir,
    pool: DirPool,
    copies: Copies,
    ports: std::ops::RangeInclusive<u16>,
}

impl Bench {
    fn new(first_port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let pool = DirPool::open(&directory.path().join("pool")).unwrap();
        let copies = Copies::of(pool.clone()).unwrap();
        Self { directory, pool, copies, ports: first_port..=first_port + 3 }
    }

    fn plain(&self) -> ServeCopy {
        ServeCopy { address: "127.0.0.1".parse().unwrap(), ports: self.ports.clone(), tls: None, uid: UID }
    }

    async fn serve(&self, fresh: bool) -> CopyServer {
        self.copies.serve(DISK, SIZE, &self.plain(), fresh).await.unwrap()
    }

    async fn mark(&self) -> Option<(u64, CopyState)> {
        self.copies.find(DISK).await.unwrap().map(|CopyMark { generation, state, .. }| (generation, state))
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join(format!("pool/copies/{DISK}.img"))
    }

    /// A copy that is whole at this generation.
    async fn whole(&self, generation: u64) {
        let server = self.serve(true).await;
        assert!(io(server.port(), &["write -P 7 1M 64k", "flush"], None));
        self.copies.settle(DISK, generation, server.serving()).await.unwrap();
        server.end().await;
    }

    /// What `take` says about the copy that it refuses; nothing has changed.
    async fn refused(&self, from: u64) -> String {
        let before = (self.mark().await, self.file().exists());
        let refused = self.copies.take(DISK, from, from + 1).await.unwrap_err();
        assert!(matches!(refused, StorageError::CopyStale { .. }), "{refused}");
        assert_eq!((self.mark().await, self.file().exists()), before);
        assert!(!self.pool.disk_path(DISK).exists());
        refused.to_string()
    }
}

/// Reads and writes as the other host's QEMU would; whether it was all done.
fn io(port: u16, commands: &[&str], credentials: Option<&Path>) -> bool {
    let mut program = Command::new("qemu-io");
    let mut node = serde_json::json!({
        "driver": "nbd", "export": "disk",
        "server": {"type": "inet", "host": "127.0.0.1", "port": port.to_string()},
    });
    if let Some(directory) = credentials {
        let object = format!("tls-creds-x509,id=tls,endpoint=client,dir={}", directory.display());
        program.args(["--object", &object]);
        (node["tls-creds"], node["tls-hostname"]) = ("tls".into(), PEER_NAME.into());
    }
    commands.iter().for_each(|command| _ = program.args(["-c", command]));
    let node = serde_json::json!({"driver": "raw", "file": node});
    let output = program.arg(format!("json:{node}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    output.status.success() && !said.contains("fail")
}

#[tokio::test]
async fn a_copy_is_brought_up_to_date_settled_and_becomes_the_disk() {
    let bench = Bench::new(42_340);
    assert_eq!(bench.mark().await, None);
    for generation in [1, 2] {
        let server = bench.serve(generation == 1).await;
        assert_eq!(bench.mark().await, Some((generation - 1, CopyState::Behind)), "before anybody can write");
        assert!(io(server.port(), &["write -P 7 1M 64k", "flush"], None));
        assert!(!io(server.port(), &["write 8M 64k"], None), "it does not grow");
        for _ in 0..2 {
            bench.copies.settle(DISK, generation, server.serving()).await.unwrap();
        }
        assert_eq!(bench.mark().await, Some((generation, CopyState::Whole)));
        let busy = bench.copies.take(DISK, generation, 9).await.unwrap_err();
        assert!(matches!(busy, StorageError::DiskBusy { .. }), "{busy}");
        let busy = bench.copies.serve(DISK, SIZE, &bench.plain(), true).await.unwrap_err();
        assert!(matches!(busy, StorageError::DiskBusy { .. }), "{busy}");
        assert_eq!(bench.mark().await, Some((generation, CopyState::Whole)), "refused, nothing has changed");
        server.end().await;
    }
    let last = bench.copies.find(DISK).await.unwrap().unwrap().serving.unwrap();
    for _ in 0..2 {
        bench.copies.take(DISK, 2, 5).await.unwrap();
        assert_eq!(bench.mark().await, Some((5, CopyState::Taken)));
    }
    assert!(!bench.file().exists());
    let disk = fs::read(bench.pool.disk_path(DISK)).unwrap();
    assert!(disk.len() as u64 == SIZE && disk[MIB as usize..][..64 << 10].iter().all(|byte| *byte == 7));

    // Taken, it is no copy any more: not to serve, not to settle, and not to take for something else.
    let taken = bench.copies.serve(DISK, SIZE, &bench.plain(), true).await.unwrap_err();
    assert!(matches!(taken, StorageError::CopyStale { .. }), "{taken}");
    assert!(bench.copies.settle(DISK, 6, last).await.is_err() && bench.copies.take(DISK, 5, 6).await.is_err());
    for _ in 0..2 {
        bench.copies.drop_copy(DISK).await.unwrap();
    }
    assert_eq!(bench.mark().await, None);
    assert!(bench.pool.disk_path(DISK).exists(), "the disk stays");
}

#[tokio::test]
async fn what_is_stale_is_not_taken() {
    let bench = Bench::new(42_350);
    assert!(bench.refused(1).await.contains("no copy"));
    bench.whole(3).await;
    for from in [2, 4] {
        let said = bench.refused(from).await;
        assert!(said.contains("whole at generation 3") && said.contains(&format!("generation {from}")), "{said}");
    }
    bench.serve(false).await.end().await;
    assert!(bench.refused(3).await.contains("behind generation 3"));
    // Another length is another disk.
    let other = bench.copies.serve(DISK, 2 * SIZE, &bench.plain(), false).await.unwrap_err();
    assert!(matches!(other, StorageError::CopyStale { .. }), "{other}");
    let server = bench.copies.serve(DISK, 2 * SIZE, &bench.plain(), true).await.unwrap();
    assert!(io(server.port(), &["read -P 0 0 16M"], None), "a fresh one is empty");
    server.end().await;
    assert_eq!(fs::metadata(bench.file()).unwrap().blocks(), 0);
    assert!(bench.refused(3).await.contains("behind generation 0"));
    bench.copies.drop_copy(DISK).await.unwrap();
    let missing = bench.copies.serve(DISK, SIZE, &bench.plain(), false).await.unwrap_err();
    assert!(matches!(missing, StorageError::CopyStale { .. }), "{missing}");
}

#[tokio::test]
async fn what_was_brought_up_to_date_before_it_was_served_anew_is_not_settled() {
    let bench = Bench::new(42_347);
    let former = bench.serve(true).await;
    let serving = former.serving();
    assert!(io(former.port(), &["write -P 7 1M 64k", "flush"], None));
    former.end().await;
    // Asked for long ago, heard now: it is empty again.
    let server = bench.serve(true).await;
    let late = bench.copies.settle(DISK, 1, serving).await.unwrap_err();
    assert!(matches!(late, StorageError::CopyStale { .. }), "{late}");
    assert_eq!(bench.mark().await, Some((0, CopyState::Behind)));
    bench.copies.settle(DISK, 1, server.serving()).await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn what_this_host_had_goes_when_others_have_it_since() {
    let bench = Bench::new(42_345);
    let spec = DiskSpec { disk: DISK, size_bytes: SIZE, image: None, owner_uid: None };
    bench.pool.create_disk(&spec).await.unwrap();
    let in_the_way = bench.copies.serve(DISK, SIZE, &bench.plain(), true).await.unwrap_err();
    assert!(matches!(in_the_way, StorageError::DiskConflict { .. }), "{in_the_way}");
    for _ in 0..2 {
        bench.copies.drop_left(DISK, 2).await.unwrap();
        assert!(!bench.pool.disk_path(DISK).exists());
    }
    bench.whole(3).await;
    bench.copies.take(DISK, 3, 4).await.unwrap();
    // Said before it was taken, heard afterwards.
    let late = bench.copies.drop_left(DISK, 3).await.unwrap_err();
    assert!(matches!(late, StorageError::CopyStale { .. }) && bench.pool.disk_path(DISK).exists(), "{late}");
    bench.copies.drop_left(DISK, 5).await.unwrap();
    assert!(!bench.pool.disk_path(DISK).exists());
    assert_eq!(bench.mark().await, None);
    bench.serve(true).await.end().await;
}

#[tokio::test]
async fn what_was_interrupted_is_finished_and_no_disk_is_replaced() {
    let bench = Bench::new(42_360);
    bench.whole(3).await;
    let spec = DiskSpec { disk: DISK, size_bytes: SIZE, image: None, owner_uid: None };
    bench.pool.create_disk(&spec).await.unwrap();
    let conflict = bench.copies.take(DISK, 3, 4).await.unwrap_err();
    assert!(matches!(conflict, StorageError::DiskConflict { .. }), "{conflict}");
    assert_eq!(bench.mark().await, Some((3, CopyState::Whole)));
    bench.pool.delete_disk(DISK).await.unwrap();

    // Noted, but not yet there.
    let mark = bench.file().with_extension("json");
    fs::write(&mark, serde_json::to_vec(&CopyMark { generation: 4, state: CopyState::Taken, serving: None }).unwrap())
        .unwrap();
    let other = bench.copies.take(DISK, 3, 5).await.unwrap_err();
    assert!(matches!(other, StorageError::CopyStale { .. }), "{other}");
    assert!(bench.file().exists());
    for _ in 0..2 {
        bench.copies.take(DISK, 3, 4).await.unwrap();
        assert!(!bench.file().exists() && bench.pool.disk_path(DISK).exists());
    }
    fs::write(&mark, b"{\"gener").unwrap();
    let damaged = bench.copies.find(DISK).await.unwrap_err();
    assert!(matches!(damaged, StorageError::CopyMarkDamaged { .. }), "{damaged}");
}

#[tokio::test]
async fn only_the_host_that_is_expected_is_let_in() {
    let bench = Bench::new(42_370);
    let expected = [("own", PEER_NAME), ("other", "host-c")];
    let [own, other] = &credentials_of(bench.directory.path(), &expected)[..] else { panic!("two") };
    let tls = CopyTls { creds_dir: own.clone(), authorized: PEER_DN.to_owned() };
    let serve = ServeCopy { tls: Some(tls), ..bench.plain() };
    let server = bench.copies.serve(DISK, SIZE, &serve, true).await.unwrap();
    assert!(io(server.port(), &["write -P 7 1M 64k", "flush"], Some(own)));
    assert!(!io(server.port(), &["read 1M 64k"], Some(other)), "another host of the same authority");
    assert!(!io(server.port(), &["read 1M 64k"], None), "in the clear");
    server.end().await;
}

#[tokio::test]
async fn the_next_free_port_is_taken_and_none_is_an_error() {
    let bench = Bench::new(42_380);
    let mut listeners = Vec::new();
    let ports: Vec<u16> = bench.ports.clone().collect();
    for (taken, port) in ports.iter().enumerate() {
        let mut server = bench.serve(true).await;
        assert_eq!((usize::from(server.port() - ports[0]), server.has_ended()), (taken, false));
        server.end().await;
        listeners.push(std::net::TcpListener::bind(("127.0.0.1", *port)).unwrap());
    }
    let full = bench.copies.serve(DISK, SIZE, &bench.plain(), true).await.unwrap_err();
    assert!(matches!(full, StorageError::NoFreePort { .. }), "{full}");
}

/// This test once more, as a program that serves a copy until it is killed.
const KEEPER: &str = "COPIES_TEST_KEEPER";

#[tokio::test]
async fn a_server_ends_with_the_process_that_started_it() {
    if std::env::var_os(KEEPER).is_some() {
        let bench = Bench::new(42_390);
        let _server = bench.serve(true).await;
        println!("SERVES {}", bench.directory.path().display());
        std::future::pending::<()>().await;
    }
    let own = std::env::current_exe().unwrap();
    let name = "a_server_ends_with_the_process_that_started_it";
    let mut keeper = tokio::process::Command::new(own)
        .args([name, "--exact", "--nocapture"])
        .env(KEEPER, "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(keeper.stdout.take().unwrap()));
    let directory = loop {
        let line = lines.next_line().await.unwrap().expect("it serves");
        if let Some((_, directory)) = line.split_once("SERVES ") {
            break PathBuf::from(directory);
        }
    };
    let pool = DirPool::open(&directory.join("pool")).unwrap();
    let copies = Copies::of(pool).unwrap();
    let served = copies.drop_copy(DISK).await.unwrap_err();
    assert!(matches!(served, StorageError::DiskBusy { .. }), "{served}");
    keeper.kill().await.unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while let Err(error) = copies.drop_copy(DISK).await {
        assert!(matches!(error, StorageError::DiskBusy { .. }), "{error}");
        assert!(tokio::time::Instant::now() < deadline, "the server goes on");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    fs::remove_dir_all(&directory).unwrap();
}
