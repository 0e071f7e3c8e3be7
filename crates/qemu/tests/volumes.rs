//! Volumes against a real QEMU: plugged in, changed and taken out, each again and again.

mod support;

use gantry_qemu::machine::{Arch, Volume};
use gantry_qemu::qmp::command::{QueryNamedBlockNodes, SystemReset, ThrottleLimits};
use gantry_qemu::volume::{VolumeError, plug, unplug};
use support::TestVm;

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
        path,
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
