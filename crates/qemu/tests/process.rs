//! Real QEMU processes: identity, adoption, end, and a tap that QEMU itself may not open.

mod support;

use gantry_qemu::machine::{Launch, Nic};
use gantry_qemu::process::{ProcessError, QemuProcess, open_tap};
use gantry_qemu::qmp::QmpError;
use gantry_qemu::qmp::command::{QueryStatus, Stop};
use support::{TEST_UID, TestVm, soon};

fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("chmod");
    dir
}

#[tokio::test]
async fn unprivileged_adoptable_and_gone_when_killed() {
    let scratch = scratch();
    let vm = TestVm::counting(scratch.path(), "vm").await;
    let (pid, start) = (vm.process.pid(), vm.process.start_time_ticks());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("line");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let uid = TEST_UID.to_string();
    assert_eq!(line("Uid:"), [uid.as_str(); 4].join(" "), "run the tests as root");
    assert_eq!(line("Gid:"), [uid.as_str(); 4].join(" "));
    assert_eq!(line("Groups:"), "");
    assert_eq!(line("CapEff:"), "0000000000000000");
    assert_eq!(line("Seccomp:"), "2");
    assert_eq!(nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid as i32))).expect("sid").as_raw(), pid as i32);

    vm.counts_on().await;
    let usage = vm.process.usage().expect("usage");
    assert!(usage.cpu_time_ms > 0 && usage.resident_bytes > 1 << 20, "{usage:?}");

    let adopted = QemuProcess::adopt(pid, start).expect("adopt");
    let stranger = QemuProcess::adopt(pid, start + 1).expect_err("another process");
    assert!(matches!(stranger, ProcessError::Gone { .. }), "{stranger}");
    assert!(!adopted.has_exited().expect("poll"));

    let mut events = vm.qmp.events();
    adopted.kill().expect("kill");
    adopted.kill().expect("kill again");
    let exit = adopted.wait_exit().await.expect("wait").expect("our child");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&exit), Some(9));
    assert_eq!(vm.process.wait_exit().await.expect("wait"), None, "reaped once");
    let gone = QemuProcess::adopt(pid, start).expect_err("gone");
    assert!(matches!(gone, ProcessError::Gone { .. }), "{gone}");

    // The lost connection reaches everyone.
    vm.qmp.closed().await;
    let error = events.wait_event("STOP", |_| true, soon()).await.expect_err("closed");
    assert!(matches!(error, QmpError::Closed { .. }), "{error}");
    let error = vm.qmp.execute(QueryStatus {}).await.expect_err("closed");
    assert!(matches!(error, QmpError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn commands_in_flight_and_events() {
    let scratch = scratch();
    let vm = TestVm::counting(scratch.path(), "vm").await;
    let many = (0..50).map(|_| vm.qmp.execute(QueryStatus {}));
    for answer in futures::future::join_all(many).await {
        assert_eq!(answer.expect("status").status, "running");
    }
    let mut events = vm.qmp.events();
    vm.qmp.execute(Stop {}).await.expect("stop");
    let event = events.wait_event("STOP", |_| true, soon()).await.expect("STOP");
    assert!(event.timestamp.seconds > 0);
}

#[tokio::test]
async fn qemu_uses_a_tap_it_could_not_open() {
    let scratch = scratch();
    // A network namespace of this thread alone: the tap goes with it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("run the tests as root");
    let missing = open_tap("tap-q0").expect_err("not there yet");
    assert!(matches!(missing, ProcessError::Tap { .. }), "{missing}");
    let made = std::process::Command::new("ip")
        .args(["tuntap", "add", "dev", "tap-q0", "mode", "tap", "user"])
        .arg(TEST_UID.to_string())
        .status();
    assert!(made.expect("run: apt-get install iproute2").success());
    let tap = open_tap("tap-q0").expect("tap");
    let dir = scratch.path().join("vm");
    std::fs::create_dir(&dir).expect("mkdir");
    support::hand_to_qemu(&dir);
    let mut config = TestVm::config(&dir, false);
    config.disks.clear();
    config.nics.push(Nic { mac: "52:54:00:00:00:11".to_owned(), mtu: Some(1450) });
    let launch = Launch { sandbox: None, tap_fds: vec![std::os::fd::AsRawFd::as_raw_fd(&tap)] };
    let vm = TestVm::launch(config, &launch, vec![tap]).await;
    assert_eq!(vm.status().await, "running");
}
