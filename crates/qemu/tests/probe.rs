//! Probes on this very machine.

use std::path::PathBuf;

use gantry_qemu::machine::{Accelerator, Arch, find_binary};
use gantry_qemu::probe::*;

fn binary() -> PathBuf {
    find_binary(Arch::X86_64).expect("run: apt-get install qemu-system-x86 qemu-utils")
}

#[tokio::test]
async fn the_boot_probe_boots_under_tcg_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let limit = std::time::Duration::from_secs(60);
    let probe = boots_under(&binary(), Accelerator::Tcg, dir.path(), limit).await;
    assert_eq!(probe.expect("probe"), BootProbe::Boots);
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);
}

/// Whatever this machine's KVM does, the probe answers, and never yes without the device.
#[tokio::test]
async fn the_boot_probe_of_kvm_ends() {
    let dir = tempfile::tempdir().expect("tempdir");
    let probe = boots_under(&binary(), Accelerator::Kvm, dir.path(), KVM_BOOT_LIMIT).await;
    let probe = probe.expect("probe");
    if !std::path::Path::new("/dev/kvm").exists() {
        assert!(!probe.boots());
    }
    if let BootProbe::DoesNot { reason } = probe {
        assert!(!reason.is_empty());
    }
}

#[tokio::test]
async fn a_machine_that_never_boots_is_given_up() {
    let dir = tempfile::tempdir().expect("tempdir");
    let limit = std::time::Duration::from_millis(1);
    let probe = boots_under(&binary(), Accelerator::Tcg, dir.path(), limit).await;
    assert!(!probe.expect("probe").boots());
}

#[tokio::test]
async fn what_is_installed() {
    let found = installed().await.expect("probe");
    let x86 = found.iter().find(|qemu| qemu.arch == Arch::X86_64).expect("x86_64");
    assert!(x86.version.major >= 7, "{x86:?}");
    assert!(x86.machine_type.starts_with("pc-q35-"), "{x86:?}");
    let features = guest_cpu_features(&x86.binary, Arch::X86_64, Accelerator::Tcg, "max").await;
    assert!(features.expect("features").contains("sse2"));
}

#[tokio::test]
async fn the_sandbox_level_works() {
    let level = probe_sandbox(&binary()).await.expect("probe");
    assert!(level.is_some_and(|level| level.starts_with("on,")), "{level:?}");
}
