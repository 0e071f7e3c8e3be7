//! A disk is copied while its guest writes: the copy is what the disk was at one instant.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gantry_qemu::disk_copy::{COPY_NODE, begin, finish, give_up};
use gantry_qemu::machine::{BackingImage, Disk, DiskFormat, Launch};
use gantry_qemu::qmp::command::{QueryJobs, QueryNamedBlockNodes};
use support::{DISK_NODE, Records, TestVm, hand_to_qemu};

const LIMIT: Duration = Duration::from_secs(60);

fn overlay(path: &Path, image: &Path) {
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).args([image, path]);
    assert!(create.status().expect("qemu-img").success());
    hand_to_qemu(path);
}

/// A guest on an overlay, which is what VMs have.
async fn counting_on_overlay(root: &Path) -> (TestVm, BackingImage) {
    let first = TestVm::counting(root, "image").await;
    first.quit().await;
    let image = first.dir.join("disk.qcow2");
    let dir = root.join("vm");
    std::fs::create_dir(&dir).expect("mkdir");
    hand_to_qemu(&dir);
    overlay(&dir.join("disk.qcow2"), &image);
    let mut config = TestVm::config(&dir, false);
    let backing = BackingImage { location: image.into(), format: DiskFormat::Qcow2 };
    config.disks[0].backing = Some(backing.clone());
    (TestVm::launch(config, &Launch::default(), Vec::new()).await, backing)
}

async fn assert_nothing_left(vm: &TestVm) {
    assert_eq!(vm.qmp.execute(QueryJobs {}).await.expect("jobs"), []);
    let nodes = vm.qmp.execute(QueryNamedBlockNodes { flat: true }).await.expect("nodes");
    assert!(!nodes.iter().any(|node| node.node_name.as_deref() == Some(COPY_NODE)));
}

#[tokio::test]
async fn a_copy_is_of_one_instant_and_the_guest_counts_on() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).expect("chmod");
    let (vm, image) = counting_on_overlay(scratch.path()).await;
    vm.counts_on().await;
    let (path, below) = (vm.dir.join("copy.qcow2"), image.location.to_string());
    let copy = Disk {
        node_name: COPY_NODE.to_owned(),
        location: path.clone().into(),
        format: DiskFormat::Qcow2,
        read_only: false,
        backing: Some(image.clone()),
        direct_io: false,
        boot_index: None,
    };
    overlay(&path, Path::new(&below));

    // One that somebody began and forgot is no obstacle, and one that is given up leaves nothing.
    begin(&vm.qmp, DISK_NODE, &copy).await.expect("begins");
    begin(&vm.qmp, DISK_NODE, &copy).await.expect("begins again");
    give_up(&vm.qmp).await.expect("given up");
    give_up(&vm.qmp).await.expect("given up twice");
    assert_nothing_left(&vm).await;

    overlay(&path, Path::new(&below));
    vm.counts_on().await;
    let before = vm.last_ack().expect("counts");
    begin(&vm.qmp, DISK_NODE, &copy).await.expect("begins");
    vm.counts_on().await;
    let after = vm.last_ack().expect("counts");
    finish(&vm.qmp, DISK_NODE, &copy, LIMIT).await.expect("copied");
    assert_nothing_left(&vm).await;
    vm.counts_on().await;

    let records = Records::read(&path);
    let last = records.last();
    assert!(before <= last && last <= after, "the copy ends at {last}, the guest was at {before} to {after}");
    let oldest = last.saturating_sub(1000).max(1);
    assert!((oldest..=last).all(|count| records.at(count) == Some(count)), "something before {last} is missing");
    vm.quit().await;
    support::check_history(&[&vm]);
}

#[tokio::test]
async fn a_copy_that_finds_no_place_is_an_error_and_harms_nobody() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).expect("chmod");
    let vm = TestVm::counting(scratch.path(), "vm").await;
    let small = vm.dir.join("small.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&small).arg("1M").status();
    assert!(made.expect("qemu-img").success());
    hand_to_qemu(&small);
    let copy = Disk {
        node_name: COPY_NODE.to_owned(),
        location: small.into(),
        format: DiskFormat::Qcow2,
        read_only: false,
        backing: None,
        direct_io: false,
        boot_index: None,
    };
    begin(&vm.qmp, DISK_NODE, &copy).await.expect_err("it is too small");
    assert_nothing_left(&vm).await;
    vm.counts_on().await;
}
