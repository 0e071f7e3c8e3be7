//! Disks that go from one pool to another: with all states, over the image that is there, or not at all.

mod disks;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use disks::{Bench, MIB, guest_bytes};
use gantry_storage::{AlongFiles, DirPool, DiskFile, DiskSpec, Sha256Digest, StorageError};
use uuid::Uuid;

const DISK: Uuid = Uuid::from_u128(7);
const VM_UID: u32 = 200_001;

/// Two hosts' pools with the same image in each.
struct Sites {
    directory: tempfile::TempDir,
    source: DirPool,
    destination: DirPool,
    image: Sha256Digest,
}

impl Sites {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let image = bench.import(&bench.disk_as("qcow2", &[])).await.unwrap().sha256;
        let pool = async |name: &str| {
            let pool = DirPool::open(&directory.path().join(name)).unwrap();
            let open = || tokio::fs::File::open(bench.store.image_path(image));
            pool.ensure_image(image, 100 * MIB, open).await.unwrap();
            pool
        };
        let (source, destination) = (pool("source").await, pool("destination").await);
        Self { directory, source, destination, image }
    }

    fn spec(&self) -> DiskSpec {
        DiskSpec { disk: DISK, size_bytes: 16 * MIB, image: Some(self.image), owner_uid: Some(VM_UID) }
    }

    /// Sent and staged; what fails is the receiving end's.
    async fn bytes(&self, along: &AlongFiles) -> Vec<u8> {
        let mut bytes = Vec::new();
        let disk = DiskFile::open(&self.source.disk_path(DISK)).unwrap();
        disk.send(along, &mut bytes).await.unwrap();
        bytes
    }
}

fn write(disk: &Path, value: u8, offset: u64) {
    let command = format!("write -P {value} {offset} 64k");
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", &command]).arg(disk).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_disk_arrives_with_all_its_states_over_the_image_that_is_there() {
    let sites = Sites::new().await;
    sites.source.create_disk(&sites.spec()).await.unwrap();
    let path = sites.source.disk_path(DISK);
    write(&path, 1, 3 * MIB);
    sites.source.create_disk_snapshot(DISK, "before").await.unwrap();
    write(&path, 2, 3 * MIB);
    write(&path, 3, 15 * MIB);
    let (now, taken) = (guest_bytes(&path), fs::metadata(&path).unwrap().blocks() * 512);

    let along: AlongFiles = [("record".to_owned(), b"{}".to_vec()), ("vars".to_owned(), vec![0xff; 70_000])].into();
    let bytes = sites.bytes(&along).await;
    assert!(bytes.len() as u64 <= taken + 128 * 1024, "{} bytes were sent of {taken}", bytes.len());
    let mut arrived = sites.destination.stage_disk().await.unwrap();
    let mut heard = 0;
    let came = arrived.fill(&mut bytes.as_slice(), |received| heard = received).await.unwrap();
    assert_eq!(came, along);
    assert!(heard > 0 && heard <= taken);
    // The source's image is gone from where the disk's header says it is.
    drop(fs::remove_dir_all(sites.directory.path().join("source")));
    let found = sites.destination.adopt_disk(&sites.spec(), arrived).await.unwrap();
    assert_eq!((found.image, found.size_bytes), (Some(sites.image), 16 * MIB));

    let there = sites.destination.disk_path(DISK);
    assert!(guest_bytes(&there) == now, "the guest would read something else");
    assert_eq!(fs::metadata(&there).unwrap().uid(), VM_UID);
    disks::qemu_img(&["check", "-q", there.to_str().unwrap()]);
    sites.destination.apply_disk_snapshot(DISK, "before").await.unwrap();
    assert_eq!(guest_bytes(&there)[3 * MIB as usize], 1);
}

#[tokio::test]
async fn a_disk_goes_to_another_pool_of_its_host_with_all_its_states() {
    let sites = Sites::new().await;
    sites.source.create_disk(&sites.spec()).await.unwrap();
    let path = sites.source.disk_path(DISK);
    write(&path, 1, 3 * MIB);
    sites.source.create_disk_snapshot(DISK, "before").await.unwrap();
    write(&path, 2, 3 * MIB);
    let (now, taken) = (guest_bytes(&path), fs::metadata(&path).unwrap().blocks() * 512);
    let mut staged = sites.destination.stage_disk().await.unwrap();
    let mut heard = 0;
    staged.copy_of(&DiskFile::open(&path).unwrap(), |copied| heard = copied).await.unwrap();
    assert!(heard > 0 && heard <= taken, "{heard} of {taken}");
    let found = sites.destination.adopt_disk(&sites.spec(), staged).await.unwrap();
    assert!(found.allocated_bytes <= taken + 64 * 1024, "holes stay holes: {found:?} of {taken}");
    sites.source.delete_disk(DISK).await.unwrap();
    drop(fs::remove_dir_all(sites.directory.path().join("source")));
    let there = sites.destination.disk_path(DISK);
    assert!(guest_bytes(&there) == now, "the guest would read something else");
    sites.destination.apply_disk_snapshot(DISK, "before").await.unwrap();
    assert_eq!(guest_bytes(&there)[3 * MIB as usize], 1);
}

#[tokio::test]
async fn what_breaks_off_or_is_something_else_is_refused_and_leaves_nothing() {
    let sites = Sites::new().await;
    sites.source.create_disk(&sites.spec()).await.unwrap();
    write(&sites.source.disk_path(DISK), 1, MIB);
    let whole = sites.bytes(&AlongFiles::new()).await;
    let mut many = whole.clone();
    many[14..18].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut huge = whole.clone();
    huge[26..30].copy_from_slice(&u32::MAX.to_be_bytes());
    let cases = [
        (whole[..whole.len() - 1].to_vec(), ErrorKind::UnexpectedEof),
        (whole[..200_000].to_vec(), ErrorKind::UnexpectedEof),
        (Vec::new(), ErrorKind::UnexpectedEof),
        (b"QFI\xfb and no more than a header".to_vec(), ErrorKind::InvalidData),
        (many, ErrorKind::InvalidData),
        (huge, ErrorKind::InvalidData),
    ];
    for (bytes, kind) in cases {
        let mut staged = sites.destination.stage_disk().await.unwrap();
        assert_eq!(staged.fill(&mut bytes.as_slice(), |_| {}).await.unwrap_err().kind(), kind);
    }
    let other_sizes = DiskSpec { size_bytes: 32 * MIB, ..sites.spec() };
    let without_image = DiskSpec { image: None, ..sites.spec() };
    for spec in [other_sizes, without_image] {
        let mut staged = sites.destination.stage_disk().await.unwrap();
        staged.fill(&mut whole.as_slice(), |_| {}).await.unwrap();
        let error = sites.destination.adopt_disk(&spec, staged).await.unwrap_err();
        assert!(matches!(error, StorageError::DiskConflict { .. }), "{error}");
    }
    assert_eq!(sites.destination.disk(DISK).await.unwrap(), None);
    let staged = fs::read_dir(sites.destination.path().join("images/.staging")).unwrap().count();
    assert_eq!(staged, 0);
}

/// A guest that has taken over its QEMU can write whatever it likes into the header.
#[tokio::test]
async fn a_disk_whose_content_is_elsewhere_is_not_taken() {
    let sites = Sites::new().await;
    let path = sites.source.disk_path(DISK);
    let raw = sites.directory.path().join("data.raw");
    let options = format!("data_file={}", raw.display());
    disks::qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, path.to_str().unwrap(), "16M"]);
    let bytes = sites.bytes(&AlongFiles::new()).await;
    let mut staged = sites.destination.stage_disk().await.unwrap();
    staged.fill(&mut bytes.as_slice(), |_| {}).await.unwrap();
    let spec = DiskSpec { image: None, ..sites.spec() };
    let error = sites.destination.adopt_disk(&spec, staged).await.unwrap_err();
    assert!(matches!(error, StorageError::DiskConflict { .. }), "{error}");
}

#[tokio::test]
async fn a_copy_is_what_the_guest_sees_now_and_nothing_besides() {
    let sites = Sites::new().await;
    for image in [Some(sites.image), None] {
        let spec = DiskSpec { image, ..sites.spec() };
        sites.source.create_disk(&spec).await.unwrap();
        let path = sites.source.disk_path(DISK);
        write(&path, 1, 3 * MIB);
        sites.source.create_disk_snapshot(DISK, "before").await.unwrap();
        write(&path, 2, 3 * MIB);
        // Zeros of the guest's own, where the image has something.
        let zeros = Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -z 0 64k"]).arg(&path).output().unwrap();
        assert!(zeros.status.success());

        let copy = sites.source.stage_copy(DISK).await.unwrap();
        sites.source.fill_copy(DISK, &copy, None).await.unwrap();
        let mut bytes = Vec::new();
        copy.to_send().unwrap().send(&AlongFiles::new(), &mut bytes).await.unwrap();
        let place = copy.path();
        drop(copy);
        assert!(!place.exists());
        let mut arrived = sites.destination.stage_disk().await.unwrap();
        arrived.fill(&mut bytes.as_slice(), |_| {}).await.unwrap();
        let clone = DiskSpec { disk: Uuid::new_v4(), ..spec };
        let found = sites.destination.adopt_disk(&clone, arrived).await.unwrap();
        assert!(guest_bytes(&found.path) == guest_bytes(&path), "the guest would read something else");
        assert_eq!(found.image, image);
        assert!(sites.destination.disk_snapshots(clone.disk).await.unwrap().is_empty());
        // The rest of the image is not in it.
        assert!(found.allocated_bytes < 2 * MIB, "{} bytes", found.allocated_bytes);
        sites.source.delete_disk(DISK).await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_of_a_snapshot_is_what_the_disk_held_then_while_it_is_written_on() {
    let sites = Sites::new().await;
    for image in [Some(sites.image), None] {
        sites.source.create_disk(&DiskSpec { image, ..sites.spec() }).await.unwrap();
        let path = sites.source.disk_path(DISK);
        write(&path, 1, 3 * MIB);
        let then = guest_bytes(&path);
        sites.source.create_disk_snapshot(DISK, "before").await.unwrap();

        // Has it open as a QEMU would, and has written more than it has told.
        // It says what it has done at once only to a terminal, or if it is made to.
        let mut writer = Command::new("stdbuf")
            .args(["-oL", "qemu-io", "-f", "qcow2"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut orders, mut said) = (writer.stdin.take().unwrap(), BufReader::new(writer.stdout.take().unwrap()));
        for order in ["write -P 2 3M 64k", "write -P 3 5M 64k"] {
            writeln!(orders, "{order}").unwrap();
            let done = said.by_ref().lines().map(Result::unwrap).find(|line| line.contains("wrote"));
            assert!(done.is_some(), "{order}: it has ended");
        }

        let copy = sites.source.stage_copy(DISK).await.unwrap();
        let now = sites.source.fill_copy(DISK, &copy, None).await.unwrap_err();
        assert!(matches!(now, StorageError::DiskBusy { .. }), "{now}");
        sites.source.fill_copy(DISK, &copy, Some("before")).await.unwrap();
        assert!(guest_bytes(&copy.path()) == then, "the guest would read something else");
        assert!(sites.source.fill_copy(DISK, &copy, Some("gone")).await.is_err());
        drop(orders);
        assert!(writer.wait().unwrap().success());
        sites.source.delete_disk(DISK).await.unwrap();
    }
}
