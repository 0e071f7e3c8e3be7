//! Pools in exports of a real NFS server: what all pools must do, and what these do besides when something is wrong.

mod conformance;
mod nfs_server;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use conformance::{MIB, OWNER, conforms, copies, on, spec};
use gantry_storage::{DirPool, MarkedDir, NfsPool, PoolDriver, StorageError};
use gantry_types::{ErrorClass, PoolHealth};
use nfs_server::{ADDRESS, Exported, NfsServer, WELL, alone};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use uuid::Uuid;

/// A network namespace with a server, and the places of a host.
struct Site {
    server: NfsServer,
    host: tempfile::TempDir,
    export: PathBuf,
    // Last: it is exported until the server is gone.
    _place: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self::exporting(|_| {})
    }

    /// `prepare` is given the directory that will be exported.
    fn exporting(prepare: impl FnOnce(&Path)) -> Self {
        alone();
        let [place, host] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        fs::set_permissions(host.path(), Permissions::from_mode(0o755)).unwrap();
        let export = place.path().join("export");
        fs::create_dir(&export).unwrap();
        prepare(&export);
        Self { server: NfsServer::start(ADDRESS, &export, WELL), host, export, _place: place }
    }

    fn pool(&self, pool: u128) -> NfsPool {
        let scratch = DirPool::open(&self.host.path().join("own")).unwrap();
        NfsPool::new(self.server.url().parse().unwrap(), Uuid::from_u128(pool), scratch)
    }

    fn file(&self, volume: Uuid) -> PathBuf {
        self.export.join(format!("{volume}.qcow2"))
    }

    async fn directory(&self, name: &str) -> MarkedDir {
        let directory = MarkedDir::new(self.host.path().join(name), Uuid::from_u128(9));
        directory.open().await.unwrap();
        directory
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.export).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[tokio::test]
async fn exports_conform() {
    let site = Site::new();
    conforms(&site.pool(1), &site.pool(1), &site.pool(2), |volume| site.file(volume)).await;
    assert_eq!(site.names(), ["gantry-pool.json"], "nothing unfinished is left");
}

#[tokio::test]
async fn what_is_in_an_export_goes_to_a_directory() {
    let site = Site::new();
    let (pool, directory) = (site.pool(1), site.directory("fast").await);
    pool.open().await.unwrap();
    copies(&pool, &directory).await;
}

#[tokio::test]
async fn what_is_in_a_directory_goes_to_an_export() {
    let site = Site::new();
    let (pool, directory) = (site.pool(1), site.directory("fast").await);
    pool.open().await.unwrap();
    copies(&directory, &pool).await;
}

async fn health(pool: &NfsPool) -> (PoolHealth, String) {
    let found = pool.examine().await;
    (found.health, found.reason.unwrap_or_default())
}

#[tokio::test]
async fn what_is_wrong_with_an_export_is_named_and_nothing_is_made_there() {
    let mut site = Site::new();
    let elsewhere = format!("nfs://{ADDRESS}/srv/nothing").parse().unwrap();
    let elsewhere = NfsPool::new(elsewhere, Uuid::from_u128(1), DirPool::open(&site.host.path().join("own")).unwrap());
    let Err(StorageError::PoolFault { health: PoolHealth::Missing, reason, .. }) = elsewhere.open().await else {
        panic!("nobody exports it")
    };
    assert!(reason.contains("does not export"), "{reason}");
    elsewhere.close().await.unwrap();

    let pool = site.pool(1);
    for (exported, wrong, remedy) in [
        (Exported { squashed: true, ..WELL }, PoolHealth::NotWritable, "no_root_squash"),
        (Exported { writable: false, ..WELL }, PoolHealth::ReadOnly, "read-only"),
    ] {
        site.server.kill();
        site.server.resume(exported);
        match pool.open().await {
            Err(StorageError::PoolFault { health, reason, .. }) => {
                assert!(health == wrong && reason.contains(remedy), "{health}: {reason}");
            }
            other => panic!("it must be refused: {other:?}"),
        }
        assert_eq!(site.names(), Vec::<String>::new());
    }
    site.server.kill();
    site.server.resume(WELL);
    pool.open().await.unwrap();
    pool.create(&spec(1, MIB)).await.unwrap();

    // A server that is away is waited for by whoever asks, and found again.
    site.server.kill();
    assert_eq!(health(&pool).await.0, PoolHealth::Unreachable);
    let error = pool.create(&spec(2, MIB)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    site.server.resume(Exported { writable: false, ..WELL });
    assert_eq!(health(&pool).await.0, PoolHealth::ReadOnly);
    site.server.kill();
    site.server.resume(WELL);
    assert_eq!(health(&pool).await, (PoolHealth::Healthy, String::new()));

    // Another directory under the same name.
    fs::rename(site.export.join("gantry-pool.json"), site.host.path().join("mark")).unwrap();
    assert_eq!(health(&pool).await.0, PoolHealth::Missing);
    assert!(pool.create(&spec(2, MIB)).await.is_err() && pool.delete(Uuid::from_u128(1)).await.is_err());
    assert_eq!(site.names().len(), 1);
}

#[tokio::test]
async fn a_full_export_is_told_and_what_crashed_work_left_there_goes() {
    let site = Site::exporting(|export| {
        mount(Some("tmpfs"), export, Some("tmpfs"), MsFlags::empty(), Some("size=8m,mode=755")).unwrap();
    });
    let pool = site.pool(1);
    pool.open().await.unwrap();
    let left = site.export.join(".gantry-left");
    fs::write(&left, b"half").unwrap();
    assert_eq!(health(&pool).await.0, PoolHealth::Healthy);
    assert!(left.exists(), "it may be at work");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    fs::File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(health(&pool).await.0, PoolHealth::Healthy);
    assert!(!left.exists());

    let free = pool.space().await.unwrap().free.bytes();
    fs::write(site.export.join("filler"), vec![1; usize::try_from(free).unwrap() - 4096]).unwrap();
    let found = pool.examine().await;
    assert!(found.health == PoolHealth::Full && found.space.unwrap().used_percent() >= 99, "{found:?}");
    assert!(matches!(pool.create(&spec(1, MIB)).await, Err(StorageError::NoSpace { .. })));
    fs::remove_file(site.export.join("filler")).unwrap();
    assert_eq!(health(&pool).await.0, PoolHealth::Healthy);
    assert_eq!(site.names(), ["gantry-pool.json"]);
    umount2(&site.export, MntFlags::MNT_DETACH).unwrap();
}

/// What replaces locks: a program that has a volume open can't write to it once that is somebody else's.
#[tokio::test]
async fn whoever_has_lost_a_volume_writes_no_more() {
    let site = Site::new();
    let (pool, volume) = (site.pool(1), Uuid::from_u128(1));
    pool.open().await.unwrap();
    pool.create(&spec(1, 4 * MIB)).await.unwrap();
    pool.give(volume, Some(OWNER)).await.unwrap();
    let mut node = pool.location(volume).node().unwrap();
    (node["user"], node["group"]) = (OWNER.into(), OWNER.into());
    let disk = format!("json:{}", serde_json::json!({"driver": "qcow2", "file": node}));
    let mut former = Command::new("qemu-io")
        .args(["-t", "none", &disk])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut ask, answers) = (former.stdin.take().unwrap(), BufReader::new(former.stdout.take().unwrap()));
    let mut answers =
        answers.lines().map(|line| line.unwrap()).filter(|line| line.contains("wrote") || line.contains("failed"));
    let mut write = |pattern: u8| {
        writeln!(ask, "write -f -P {pattern} 0 64k").unwrap();
        answers.next().expect("an answer")
    };
    assert!(write(7).contains("wrote"));
    pool.give(volume, Some(OWNER + 1)).await.unwrap();
    assert!(write(8).contains("failed"));
    pool.give(volume, None).await.unwrap();
    assert!(write(8).contains("failed"));
    drop(ask);
    former.wait().unwrap();
    on(&pool, volume, &["read -P 7 0 64k"]);
}
