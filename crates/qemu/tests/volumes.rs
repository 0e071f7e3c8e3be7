//! Volumes against a real QEMU: plugged in, changed and taken out, each again and again.

#[path = "../../storage/tests/nfs_server/mod.rs"]
mod nfs_server;
mod support;

use std::path::Path;

use gantry_qemu::machine::{Arch, Disk, DiskFormat, Volume};
use gantry_qemu::qmp::command::{QueryBlockstats, QueryNamedBlockNodes, SystemReset, ThrottleLimits};
use gantry_qemu::volume::{VolumeError, plug, unplug};
use gantry_qemu::volume_move::{Movable, VolumeMove, advance, finish, give_up, is_under_way, settle};
use gantry_types::DiskLocation;
use nfs_server::{ADDRESS, NfsServer, WELL, alone};
use support::{DISK_NODE, Records, TestVm};
use tokio::time::{Duration, Instant, sleep};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_volume_comes_grows_and_goes_and_each_can_be_repeated() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).expect("chmod");
    let vm = TestVm::counting(scratch.path(), "vm").await;
    let path = scratch.path().join("data.qcow2");
    let made =
        std::process::Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("8M").status();
    assert!(made.expect("qemu-img").success());
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    let mut volume = Volume {
        id: "0123456789abcdef".to_owned(),
        place: "01234567".to_owned(),
        serial: "data".to_owned(),
        slot: 7,
        location: DiskLocation::File(path),
        direct_io: false,
        discard: true,
        limits: ThrottleLimits { iops_total: 100, bps_total: 0 },
    };
    for _ in 0..2 {
        plug(&vm.qmp, Arch::X86_64, &volume, 8 * MIB).await.expect("plugged");
    }
    volume.limits = ThrottleLimits { iops_total: 0, bps_total: MIB };
    for size in [16 * MIB, 8 * MIB] {
        plug(&vm.qmp, Arch::X86_64, &volume, size).await.expect("changed");
    }
    let nodes = vm.qmp.execute(QueryNamedBlockNodes { flat: true }).await.expect("nodes");
    let top = nodes.iter().find(|node| node.node_name.as_deref() == Some("v-0123456789abcdef")).expect("the filter");
    assert_eq!(top.image.virtual_size, 16 * MIB, "it never shrinks");

    // The guest knows nothing of it and does not let it go; a reset does.
    for _ in 0..2 {
        assert!(matches!(unplug(&vm.qmp, &volume).await, Err(VolumeError::InUse)));
    }
    vm.qmp.execute(SystemReset {}).await.expect("reset");
    for _ in 0..2 {
        unplug(&vm.qmp, &volume).await.expect("gone");
    }
    let nodes = vm.qmp.execute(QueryNamedBlockNodes { flat: true }).await.expect("nodes");
    assert!(!nodes.iter().any(|node| node.node_name.as_deref().is_some_and(|name| name.contains("0123456789"))));
    plug(&vm.qmp, Arch::X86_64, &volume, 8 * MIB).await.expect("plugged again");
}

fn qemu(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

async fn until_pending<M: Movable>(vm: &TestVm, from: &M, to: &M) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while advance(&vm.qmp, from, to).await.expect("goes on") != VolumeMove::Pending {
        assert!(Instant::now() < deadline, "it does not catch up");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The same volume in this place, where everybody may open it.
fn at(directory: &Path, place: &str) -> Volume {
    let path = directory.join(format!("{place}.qcow2"));
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", path.to_str().expect("text"), "8M"]);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    Volume {
        id: "0123456789abcdef".to_owned(),
        place: place.to_owned(),
        serial: "data".to_owned(),
        slot: 0,
        location: DiskLocation::File(path),
        direct_io: false,
        discard: true,
        limits: ThrottleLimits::default(),
    }
}

fn scratch() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).expect("chmod");
    scratch
}

#[tokio::test]
async fn a_volume_moves_there_and_back_and_an_interrupted_decision_is_kept() {
    let scratch = scratch();
    moves_there_and_back(scratch.path(), &at(scratch.path(), "one"), &at(scratch.path(), "other")).await;
}

#[tokio::test]
async fn a_volume_moves_to_an_export_and_back_and_an_interrupted_decision_is_kept() {
    alone();
    let scratch = scratch();
    let export = scratch.path().join("export");
    std::fs::create_dir(&export).expect("mkdir");
    let server = NfsServer::start(ADDRESS, &export, WELL);
    let exported = Volume {
        location: DiskLocation::Nfs {
            export: server.url().parse().expect("a URL"),
            file: "other.qcow2".to_owned(),
            user: None,
        },
        direct_io: true,
        ..at(&export, "other")
    };
    moves_there_and_back(scratch.path(), &at(scratch.path(), "one"), &exported).await;
}

async fn moves_there_and_back(scratch: &Path, one: &Volume, other: &Volume) {
    let vm = TestVm::counting(scratch, "vm").await;
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 7 1M 2M", &one.location.to_string()]);
    plug(&vm.qmp, Arch::X86_64, one, 8 * MIB).await.expect("plugged");
    let uses = async |volume: &Volume| {
        let nodes = vm.qmp.execute(QueryNamedBlockNodes { flat: true }).await.expect("nodes");
        let names: Vec<_> = nodes.into_iter().filter_map(|node| node.node_name).collect();
        assert!(names.contains(&volume.format_node()), "{names:?}");
        assert_eq!(names.iter().filter(|name| name.starts_with("vf-")).count(), 1, "{names:?}");
    };

    // Given up at the last moment, it stays where it was.
    until_pending(&vm, one, other).await;
    for _ in 0..2 {
        give_up(&vm.qmp, one, other).await.expect("given up");
    }
    uses(one).await;
    // Interrupted at the last moment, what is noted decides.
    until_pending(&vm, one, other).await;
    settle(&vm.qmp, one).await.expect("settled");
    uses(one).await;
    until_pending(&vm, one, other).await;
    settle(&vm.qmp, other).await.expect("settled");
    uses(other).await;
    settle(&vm.qmp, other).await.expect("nothing to settle");
    // And back, which closes what the first move had opened.
    until_pending(&vm, other, one).await;
    for _ in 0..2 {
        finish(&vm.qmp, other, one).await.expect("finished");
    }
    uses(one).await;
    vm.qmp.execute(SystemReset {}).await.expect("reset");
    for volume in [one, other] {
        let read = ["-f", "qcow2", "-U", "-r", "-c", "read -P 7 1M 2M", &volume.location.to_string()];
        let seen = qemu("qemu-io", &read);
        assert!(!seen.contains("fail"), "{}: {seen}", volume.place);
    }
}

#[tokio::test]
async fn a_machines_own_disk_moves_under_its_writes_and_an_interrupted_decision_is_kept() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).expect("chmod");
    let vm = TestVm::counting(scratch.path(), "vm").await;
    let at = |node_name: &str, path: std::path::PathBuf| Disk {
        node_name: node_name.to_owned(),
        location: path.into(),
        format: DiskFormat::Qcow2,
        read_only: false,
        backing: None,
        direct_io: false,
        boot_index: None,
    };
    let make = |place: &str| {
        let path = scratch.path().join(format!("{place}.qcow2"));
        qemu("qemu-img", &["create", "-q", "-f", "qcow2", path.to_str().expect("text"), "16M"]);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
        path
    };
    let one = at(DISK_NODE, vm.dir.join("disk.qcow2"));
    let other = at(&format!("{DISK_NODE}-other"), make("other"));
    let back = at(&format!("{DISK_NODE}-one"), make("one"));
    let uses = async |disk: &Disk| {
        assert!(!is_under_way(&vm.qmp, disk).await.expect("jobs"));
        let nodes = vm.qmp.execute(QueryNamedBlockNodes { flat: true }).await.expect("nodes");
        let names: Vec<_> = nodes.into_iter().filter_map(|node| node.node_name).collect();
        let own: Vec<_> = names.iter().filter(|name| name.starts_with(DISK_NODE)).collect();
        assert_eq!(own, [&disk.node_name], "{names:?}");
        let all = vm.qmp.execute(QueryBlockstats {}).await.expect("statistics");
        let device = all.iter().find(|one| one.qdev.as_deref().is_some_and(|qdev| Disk::is_device(qdev, DISK_NODE)));
        assert_eq!(device.and_then(|one| one.node_name.as_deref()), Some(&*disk.node_name));
    };
    vm.counts_on().await;

    // Given up at the last moment, it stays where it was.
    until_pending(&vm, &one, &other).await;
    for _ in 0..2 {
        give_up(&vm.qmp, &one, &other).await.expect("given up");
    }
    uses(&one).await;
    vm.counts_on().await;
    // Interrupted at the last moment, what is noted decides.
    until_pending(&vm, &one, &other).await;
    settle(&vm.qmp, &one).await.expect("settled");
    uses(&one).await;
    until_pending(&vm, &one, &other).await;
    settle(&vm.qmp, &other).await.expect("settled");
    uses(&other).await;
    vm.counts_on().await;
    // A move to another place than the one that is under way is refused.
    advance(&vm.qmp, &other, &back).await.expect("begun");
    let elsewhere = at(&format!("{DISK_NODE}-third"), make("third"));
    assert!(matches!(advance(&vm.qmp, &other, &elsewhere).await, Err(VolumeError::Move { .. })));
    until_pending(&vm, &other, &back).await;
    for _ in 0..2 {
        finish(&vm.qmp, &other, &back).await.expect("finished");
    }
    uses(&back).await;
    vm.counts_on().await;
    let acknowledged = vm.last_ack().expect("acknowledgements");
    vm.quit().await;
    assert!(
        Records::read(std::path::Path::new(&back.location.to_string())).last() >= acknowledged,
        "what was acknowledged is in the place it moved to last"
    );
}
