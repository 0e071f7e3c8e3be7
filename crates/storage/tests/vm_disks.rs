//! VMs' own disks: what every kind of pool must do with them, as one suite; and what an NFS server does instead of locks.

mod disks;
mod nfs_server;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use disks::{Bench, MIB, noise};
use gantry_storage::{
    Claim, Claiming, DirDisks, DirPool, DiskSpec, NbdClient, NfsDisks, NfsPool, PoolDriver, SERVED_EXPORT, ServeMode,
    Sha256Digest, StorageError, VmDisks, container_bytes,
};
use gantry_types::{DiskLocation, ErrorClass};
use nfs_server::{ADDRESS, NfsServer, WELL, alone};
use serde_json::{Value, json};
use uuid::Uuid;

const DISK: Uuid = Uuid::from_u128(7);
const OTHER: Uuid = Uuid::from_u128(8);
const UID: u32 = 200_001;

fn claim(host: &str, epoch: u64) -> Claim {
    Claim { host: host.parse().unwrap(), epoch }
}

/// An image, and a pool as hosts see it at their epochs.
struct Place {
    bench: Bench,
    image: Sha256Digest,
    directory: tempfile::TempDir,
    export: Option<(NfsServer, PathBuf)>,
    mirrored: bool,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let bench = Bench::new();
        let image = bench.import(&bench.disk_as("qcow2", &[])).await.unwrap().sha256;
        Self { bench, image, directory, export: None, mirrored: false }
    }

    async fn exported() -> Self {
        alone();
        let mut place = Self::new().await;
        let export = place.directory.path().join("export");
        fs::create_dir(&export).unwrap();
        place.export = Some((NfsServer::start(ADDRESS, &export, WELL), export));
        place.pool("host-1").open().await.unwrap();
        place
    }

    fn own(&self, host: &str) -> DirPool {
        DirPool::open(&self.directory.path().join(host)).unwrap()
    }

    fn pool(&self, host: &str) -> NfsPool {
        let (server, _) = self.export.as_ref().unwrap();
        NfsPool::new(server.url().parse().unwrap(), Uuid::from_u128(1), self.own(host))
    }

    fn at(&self, host: &str, epoch: u64) -> Arc<dyn VmDisks> {
        match &self.export {
            Some(_) => Arc::new(NfsDisks::new(self.pool(host), claim(host, epoch))),
            None if self.mirrored => Arc::new(DirDisks::mirrored(self.own("shared"), claim(host, epoch))),
            None => Arc::new(DirDisks::new(self.own("shared"), claim(host, epoch))),
        }
    }

    fn image_file(&self) -> PathBuf {
        self.bench.store.image_path(self.image)
    }

    fn spec(&self, disk: Uuid) -> DiskSpec {
        DiskSpec { disk, size_bytes: 16 * MIB, image: Some(self.image), owner_uid: Some(UID) }
    }
}

/// The disk over its image, as the VM's QEMU is told of it.
async fn node(pool: &dyn VmDisks, disk: Uuid) -> Value {
    let file = pool.location(disk).await.unwrap().node();
    let image = pool.disk(disk).await.unwrap().unwrap().image;
    let below = match image {
        Some(image) => {
            let image = pool.image_location(image).await.unwrap().unwrap();
            let mut below = json!({"driver": "qcow2", "read-only": true, "backing": null});
            // Where an image in an export is, only the disk's header can tell a program without nodes of its own.
            if let DiskLocation::File(_) = image {
                below["file"] = json!(image.node());
            }
            below
        }
        None => Value::Null,
    };
    json!({"driver": "qcow2", "backing": below, "file": file})
}

/// Reads and writes as the VM's QEMU would.
async fn on(pool: &dyn VmDisks, disk: Uuid, commands: &[&str]) {
    let mut program = Command::new("qemu-io");
    commands.iter().for_each(|command| _ = program.args(["-c", command]));
    let output = program.arg(format!("json:{}", node(pool, disk).await)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("fail"), "{commands:?}: {output:?}");
}

/// What the image has at 3 MiB and a sector: the second sample of the bench.
fn image_byte() -> u8 {
    noise(2, 1)[0]
}

async fn names(pool: &dyn VmDisks, disk: Uuid) -> Vec<String> {
    let found = pool.disk_snapshots(disk).await.unwrap();
    found.into_iter().map(|snapshot| snapshot.name).collect()
}

/// Disks are made over images, keep states, are claimed and go.
async fn conforms(place: &Place) {
    let pool = place.at("host-1", 3);
    let failed = pool.create_disk(&place.spec(DISK)).await.unwrap_err();
    assert!(matches!(failed, StorageError::ImageMissing { .. }), "{failed}");
    assert_eq!(pool.image_location(place.image).await.unwrap(), None);
    for _ in 0..2 {
        pool.add_image(place.image, &place.image_file()).await.unwrap();
    }
    assert!(pool.image_location(place.image).await.unwrap().is_some());
    assert!(!pool.has_disk(DISK).await.unwrap());
    assert_eq!(pool.disk(DISK).await.unwrap(), None);
    let missing = pool.claim_disk(DISK, Claiming::Keep).await.unwrap_err();
    assert!(matches!(missing, StorageError::DiskMissing { .. }), "{missing}");
    for _ in 0..2 {
        let made = pool.create_disk(&place.spec(DISK)).await.unwrap();
        assert_eq!((made.size_bytes, made.image), (16 * MIB, Some(place.image)));
        assert!(made.allocated_bytes < MIB, "it is thin: {made:?}");
    }
    let larger = DiskSpec { size_bytes: 32 * MIB, ..place.spec(DISK) };
    assert_eq!(pool.create_disk(&larger).await.unwrap_err().class(), ErrorClass::Conflict);
    let small = DiskSpec { size_bytes: MIB, ..place.spec(OTHER) };
    assert_eq!(pool.create_disk(&small).await.unwrap_err().class(), ErrorClass::Invalid);
    assert!(pool.has_disk(DISK).await.unwrap() && pool.space().await.unwrap().free.bytes() > 0);

    assert_eq!(pool.lease(DISK).await.unwrap(), None);
    let first = pool.claim_disk(DISK, Claiming::Keep).await.unwrap();
    assert_eq!((first.lease.host.as_str(), first.lease.epoch, first.lease.generation), ("host-1", 3, 1));
    drop(first);
    drop(pool.claim_disk(DISK, Claiming::Start).await.unwrap());
    for (host, epoch) in [("host-2", 3), ("host-2", 2), ("host-1", 2)] {
        for claiming in [Claiming::Keep, Claiming::Start, Claiming::Arrived] {
            let refused = place.at(host, epoch).claim_disk(DISK, claiming).await.unwrap_err();
            assert!(matches!(refused, StorageError::DiskElsewhere { epoch: 3, .. }), "{refused}");
        }
    }

    // The image is below it, what is written is its own, and states are kept inside.
    let image_byte = format!("read -P {} 3146240 1", image_byte());
    on(&*pool, DISK, &[&image_byte, "write -P 7 5M 64k"]).await;
    for _ in 0..2 {
        pool.create_disk_snapshot(DISK, "s-1").await.unwrap();
    }
    assert_eq!(names(&*pool, DISK).await, ["s-1"]);
    on(&*pool, DISK, &["write -P 8 5M 64k", "write -P 9 15M 64k"]).await;
    let gone = pool.apply_disk_snapshot(DISK, "s-2").await.unwrap_err();
    assert!(matches!(gone, StorageError::SnapshotMissing { .. }), "{gone}");

    // A copy has what it has now, or had, and the same image below.
    for (state, value) in [(None, 8), (Some("s-1"), 7)] {
        let copy = pool.stage_copy(DISK, UID).await.unwrap();
        pool.fill_copy(DISK, &copy, state).await.unwrap();
        let bytes = copy.to_send().unwrap().allocated_bytes().unwrap();
        assert!(bytes < 2 * MIB, "the rest of the image is not in it: {bytes}");
        pool.adopt_disk(&place.spec(OTHER), copy).await.unwrap();
        drop(pool.claim_disk(OTHER, Claiming::Keep).await.unwrap());
        assert_eq!(names(&*pool, OTHER).await, Vec::<String>::new());
        on(&*pool, OTHER, &[&image_byte, &format!("read -P {value} 5M 64k")]).await;
        pool.delete_disk(OTHER).await.unwrap();
    }

    // Sent as it is, with all states in it.
    let mut staged = pool.stage_disk().await.unwrap();
    staged.copy_of(&pool.read_disk(DISK).await.unwrap(), |_| {}).await.unwrap();
    pool.adopt_disk(&place.spec(OTHER), staged).await.unwrap();
    drop(pool.claim_disk(OTHER, Claiming::Keep).await.unwrap());
    on(&*pool, OTHER, &[&image_byte, "read -P 8 5M 64k", "read -P 9 15M 64k"]).await;
    pool.apply_disk_snapshot(OTHER, "s-1").await.unwrap();
    on(&*pool, OTHER, &[&image_byte, "read -P 7 5M 64k", "read -P 0 15M 64k"]).await;
    pool.delete_disk(OTHER).await.unwrap();

    pool.apply_disk_snapshot(DISK, "s-1").await.unwrap();
    on(&*pool, DISK, &["read -P 7 5M 64k", "read -P 0 15M 64k"]).await;
    for _ in 0..2 {
        pool.delete_disk_snapshot(DISK, "s-1").await.unwrap();
    }
    assert_eq!(names(&*pool, DISK).await, Vec::<String>::new());
    served(&*pool, place.directory.path()).await;

    // Another host gets it with a higher epoch, and the former comes too late with whatever it does.
    let taken = place.at("host-2", 4);
    let lease = taken.claim_disk(DISK, Claiming::Keep).await.unwrap().lease.clone();
    assert_eq!((lease.host.as_str(), lease.epoch), ("host-2", 4));
    assert_eq!(pool.lease(DISK).await.unwrap(), Some(lease));
    let late = pool.claim_disk(DISK, Claiming::Keep).await.unwrap_err();
    assert!(matches!(late, StorageError::DiskElsewhere { epoch: 4, .. }), "{late}");
    on(&*taken, DISK, &["read -P 7 5M 64k", "write -P 5 5M 64k"]).await;

    assert_eq!(taken.remove_image(place.image).await.unwrap_err().class(), ErrorClass::Conflict);
    for _ in 0..2 {
        taken.delete_disk(DISK).await.unwrap();
        taken.remove_image(place.image).await.unwrap();
    }
    assert_eq!(taken.lease(DISK).await.unwrap(), None);
    assert!(!taken.has_disk(DISK).await.unwrap() && taken.image_location(place.image).await.unwrap().is_none());
}

async fn served(pool: &dyn VmDisks, directory: &Path) {
    let sockets = directory.join("sockets");
    fs::create_dir(&sockets).unwrap();
    std::os::unix::fs::chown(&sockets, Some(UID), Some(UID)).unwrap();
    let socket = sockets.join("disk.sock");
    for mode in [ServeMode::Writable, ServeMode::ReadOnly] {
        let server = pool.serve_disk(DISK, &socket, mode).await.unwrap();
        let stream = tokio::net::UnixStream::connect(server.socket()).await.unwrap();
        let mut client = NbdClient::connect(stream, SERVED_EXPORT, None).await.unwrap();
        let mut read = [0; 1024];
        client.read(5 * MIB, &mut read).await.unwrap();
        assert_eq!(read, [7; 1024]);
        client.read(3 * MIB + 512, &mut read).await.unwrap();
        assert_eq!(read[0], image_byte());
        if mode == ServeMode::Writable {
            client.write(6 * MIB, &[6; 4096]).await.unwrap();
            client.flush().await.unwrap();
        }
        drop(client);
        server.end().await;
    }
    on(pool, DISK, &["read -P 6 6M 4k"]).await;
}

#[tokio::test]
async fn disks_in_a_directory_conform() {
    conforms(&Place::new().await).await;
}

/// They are never larger than they were made, whatever is done to them: their copies are not either.
#[tokio::test]
async fn disks_that_can_have_copies_conform() {
    let place = Place { mirrored: true, ..Place::new().await };
    conforms(&place).await;
    let pool = made(&place).await;
    let length = 1024 * MIB + 2 * 16 * MIB;
    assert_eq!(container_bytes(16 * MIB), length);
    let DiskLocation::Mirrored { file, size, id } = pool.location(DISK).await.unwrap() else { panic!("mirrored") };
    assert_eq!((size, id.as_str()), (length, "000000000007"));
    on(&*pool, DISK, &["write -P 7 5M 64k"]).await;
    pool.create_disk_snapshot(DISK, "s-1").await.unwrap();
    on(&*pool, DISK, &["write -P 8 0 16M"]).await;
    // Interrupted before it had its length.
    fs::File::options().write(true).open(&file).unwrap().set_len(64 * MIB).unwrap();
    for _ in 0..2 {
        pool.create_disk(&place.spec(DISK)).await.unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), length);
    }
    fs::File::options().write(true).open(&file).unwrap().set_len(length + MIB).unwrap();
    pool.create_disk(&place.spec(DISK)).await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), length + MIB, "it never shrinks");
    on(&*pool, DISK, &["read -P 8 0 16M"]).await;
    assert!(matches!(pool.location(OTHER).await.unwrap(), DiskLocation::Mirrored { size: 0, .. }), "none is there");
}

#[tokio::test]
async fn disks_in_an_export_conform() {
    let place = Place::exported().await;
    conforms(&place).await;
    let (_, export) = place.export.as_ref().unwrap();
    let left: Vec<_> = fs::read_dir(export).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["gantry-pool.json"]);
    for host in ["host-1", "host-2"] {
        let staged = fs::read_dir(place.directory.path().join(host).join("images/.staging")).unwrap().count();
        assert_eq!(staged, 0, "nothing unfinished is left on {host}");
    }
}

/// A disk goes from a directory to an export and back with all that is in it, and over the image that is there.
#[tokio::test]
async fn a_stopped_disk_goes_between_kinds_of_pools() {
    let place = Place::exported().await;
    let (nfs, dir) = (place.at("host-1", 1), DirDisks::new(place.own("shared"), claim("host-1", 1)));
    let spec = place.spec(DISK);
    for pool in [&*nfs as &dyn VmDisks, &dir] {
        pool.add_image(place.image, &place.image_file()).await.unwrap();
    }
    dir.create_disk(&spec).await.unwrap();
    on(&dir, DISK, &["write -P 7 5M 64k"]).await;
    dir.create_disk_snapshot(DISK, "s-1").await.unwrap();
    on(&dir, DISK, &["write -P 8 5M 64k"]).await;
    for (from, to) in [(&dir as &dyn VmDisks, &*nfs), (&*nfs, &dir)] {
        let mut staged = to.stage_disk().await.unwrap();
        staged.copy_of(&from.read_disk(DISK).await.unwrap(), |_| {}).await.unwrap();
        let found = to.adopt_disk(&spec, staged).await.unwrap();
        assert_eq!(found.image, Some(place.image));
        drop(to.claim_disk(DISK, Claiming::Start).await.unwrap());
        from.delete_disk(DISK).await.unwrap();
        on(to, DISK, &[&format!("read -P {} 3146240 1", image_byte()), "read -P 8 5M 64k"]).await;
        assert_eq!(names(to, DISK).await, ["s-1"]);
    }
    dir.apply_disk_snapshot(DISK, "s-1").await.unwrap();
    on(&dir, DISK, &["read -P 7 5M 64k"]).await;
}

/// A program that has a disk open, as a host's QEMU.
struct Qemu {
    child: Child,
    ask: ChildStdin,
    answers: Box<dyn Iterator<Item = String>>,
}

impl Qemu {
    async fn open(pool: &dyn VmDisks) -> Self {
        let mut child = Command::new("qemu-io")
            .args(["-t", "none", &format!("json:{}", node(pool, DISK).await)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (ask, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let answers = answers.lines().map_while(Result::ok);
        let told = |line: &String| ["wrote", "read", "failed"].iter().any(|word| line.contains(word));
        let mut opened = Self { child, ask, answers: Box::new(answers.filter(told)) };
        // It answers once it has the disk: whatever is done to that disk afterwards happens to a QEMU that has it.
        assert!(opened.asks("read 5M 64k").contains("read 65536/65536"));
        opened
    }

    fn asks(&mut self, command: &str) -> String {
        writeln!(self.ask, "{command}").unwrap();
        self.answers.next().unwrap_or_default()
    }

    fn writes(&mut self, value: u8) -> bool {
        self.asks(&format!("write -f -P {value} 5M 64k")).contains("wrote")
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn made(place: &Place) -> Arc<dyn VmDisks> {
    let pool = place.at("host-1", 1);
    pool.add_image(place.image, &place.image_file()).await.unwrap();
    pool.create_disk(&place.spec(DISK)).await.unwrap();
    pool
}

#[tokio::test]
async fn a_host_that_has_lost_a_disk_is_shut_out_by_the_server() {
    let place = Place::exported().await;
    let first = made(&place).await;
    drop(first.claim_disk(DISK, Claiming::Start).await.unwrap());
    let mut former = Qemu::open(&*first).await;
    assert!(former.writes(1));
    // Its agent that comes back changes nothing.
    drop(first.claim_disk(DISK, Claiming::Keep).await.unwrap());
    drop(place.at("host-1", 2).claim_disk(DISK, Claiming::Keep).await.unwrap());
    assert!(former.writes(2));

    let second = place.at("host-2", 3);
    drop(second.claim_disk(DISK, Claiming::Keep).await.unwrap());
    assert!(!former.writes(3), "it has lost the disk and does not know");
    drop(second.claim_disk(DISK, Claiming::Start).await.unwrap());
    let mut now = Qemu::open(&*second).await;
    assert!(now.writes(4));
    // Whatever the host does that comes back, it is refused, and the other goes on.
    let back = place.at("host-1", 2);
    for refused in [
        back.claim_disk(DISK, Claiming::Keep).await.map(drop),
        back.claim_disk(DISK, Claiming::Start).await.map(drop),
        back.claim_disk(DISK, Claiming::Arrived).await.map(drop),
        back.create_disk_snapshot(DISK, "s-1").await,
        back.unshare_disk(DISK, UID).await,
        back.serve_disk(DISK, &place.directory.path().join("x.sock"), ServeMode::Writable).await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StorageError::DiskElsewhere { epoch: 3, .. }), "{refused}");
        assert!(now.writes(5) && !former.writes(6));
    }
    // A QEMU of the same host that was left behind is shut out by the next start.
    drop(second.claim_disk(DISK, Claiming::Start).await.unwrap());
    let mut again = Qemu::open(&*second).await;
    assert!(again.writes(7) && !now.writes(8) && again.writes(9));
    drop((former, now, again));
    on(&*second, DISK, &["read -P 9 5M 64k"]).await;
}

/// What a move does: two open it, one at a time may write in the end.
#[tokio::test]
async fn a_disk_goes_over_to_the_qemu_that_was_let_in() {
    let place = Place::exported().await;
    let source = made(&place).await;
    drop(source.claim_disk(DISK, Claiming::Start).await.unwrap());
    let mut leaving = Qemu::open(&*source).await;
    assert!(leaving.writes(1));
    let destination = place.at("host-2", 2);
    for gives_up in [true, false] {
        destination.share_disk(DISK, UID).await.unwrap();
        // The source's agent comes back in the middle.
        drop(source.claim_disk(DISK, Claiming::Keep).await.unwrap());
        let mut arriving = Qemu::open(&*destination).await;
        assert!(leaving.writes(2));
        if gives_up {
            source.unshare_disk(DISK, UID).await.unwrap();
            assert!(leaving.writes(3) && !arriving.writes(4));
            continue;
        }
        for _ in 0..2 {
            drop(destination.claim_disk(DISK, Claiming::Arrived).await.unwrap());
            destination.unshare_disk(DISK, UID).await.unwrap();
            assert!(arriving.writes(5) && !leaving.writes(6));
        }
        drop(destination.claim_disk(DISK, Claiming::Keep).await.unwrap());
        assert!(arriving.writes(7), "an agent that comes back leaves it what it has");
    }
    let refused = source.claim_disk(DISK, Claiming::Keep).await.unwrap_err();
    assert!(matches!(refused, StorageError::DiskElsewhere { epoch: 2, .. }), "{refused}");
}

#[tokio::test]
async fn of_hosts_that_claim_a_disk_at_once_one_gets_it() {
    let place = Place::exported().await;
    made(&place).await;
    for epoch in 2..6 {
        let hosts: Vec<_> = (1..5).map(|host| place.at(&format!("host-{host}"), epoch)).collect();
        let [a, b, c, d] = &hosts[..] else { panic!("four hosts") };
        let (a, b, c, d) = tokio::join!(
            a.claim_disk(DISK, Claiming::Start),
            b.claim_disk(DISK, Claiming::Start),
            c.claim_disk(DISK, Claiming::Start),
            d.claim_disk(DISK, Claiming::Start),
        );
        let claimed = [a, b, c, d];
        let winners: Vec<_> = claimed.iter().flatten().map(|hold| hold.lease.clone()).collect();
        assert_eq!(winners.len(), 1, "epoch {epoch}: {claimed:?}");
        assert_eq!(hosts[0].lease(DISK).await.unwrap(), Some(winners[0].clone()));
        for lost in claimed.iter().filter_map(|claimed| claimed.as_ref().err()) {
            let told = matches!(lost, StorageError::DiskElsewhere { .. } | StorageError::DiskInUse { .. });
            assert!(told, "{lost}");
        }
        let winner = hosts.iter().zip(&claimed).find(|(_, claimed)| claimed.is_ok()).unwrap().0;
        assert!(Qemu::open(&**winner).await.writes(1), "and has the disk");
    }
}

#[tokio::test]
async fn a_damaged_lease_is_nobodys_and_one_without_its_disk_goes() {
    let place = Place::exported().await;
    let pool = made(&place).await;
    drop(pool.claim_disk(DISK, Claiming::Keep).await.unwrap());
    let (_, export) = place.export.as_ref().unwrap();
    fs::write(export.join(format!("{DISK}.lease-2")), b"{\"host\": ").unwrap();
    let refused = pool.claim_disk(DISK, Claiming::Keep).await.unwrap_err();
    assert!(matches!(refused, StorageError::LeaseDamaged { .. }), "{refused}");
    fs::remove_file(export.join(format!("{DISK}.lease-2"))).unwrap();
    drop(pool.claim_disk(DISK, Claiming::Keep).await.unwrap());
    let location = pool.location(DISK).await.unwrap();
    assert!(matches!(location, DiskLocation::Nfs { user: Some(_), .. }), "{location:?}");

    fs::remove_file(export.join(format!("{DISK}.qcow2"))).unwrap();
    place.pool("host-1").examine().await;
    assert_eq!(pool.lease(DISK).await.unwrap(), None);
}

/// A copy that becomes the disk names its image where the host that it came from had that.
#[tokio::test]
async fn a_disk_from_another_hosts_place_lies_over_the_image_of_this_one() {
    let place = Place { mirrored: true, ..Place::new().await };
    let pools = ["host-1", "host-2"].map(|host| DirDisks::mirrored(place.own(host), claim(host, 1)));
    let [there, here] = pools;
    for pool in [&there, &here] {
        pool.add_image(place.image, &place.image_file()).await.unwrap();
    }
    there.create_disk(&place.spec(DISK)).await.unwrap();
    on(&there, DISK, &["write -P 9 1M 64k", "flush"]).await;
    let [from, to] = ["host-1", "host-2"].map(|host| place.own(host).disk_path(DISK));
    fs::copy(&from, &to).unwrap();
    assert_eq!(here.disk(DISK).await.unwrap().unwrap().image, None, "it is not this pool's");
    for _ in 0..2 {
        let made = here.create_disk(&place.spec(DISK)).await.unwrap();
        assert_eq!(made.image, Some(place.image));
    }
    // Nothing of the other place is needed.
    fs::remove_dir_all(place.directory.path().join("host-1")).unwrap();
    let below = format!("read -P {} 3146240 1", image_byte());
    on(&here, DISK, &["read -P 9 1M 64k", &below]).await;
    here.create_disk_snapshot(DISK, "s-1").await.unwrap();
    assert_eq!(names(&here, DISK).await, ["s-1"]);

    // Another image is not taken for it.
    let other = DiskSpec { image: None, ..place.spec(DISK) };
    assert!(matches!(here.create_disk(&other).await, Err(StorageError::DiskConflict { .. })));
}
