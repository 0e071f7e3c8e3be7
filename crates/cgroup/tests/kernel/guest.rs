//! The same tests on a kernel that has version 2 and nothing else: that of the test guest (`cargo xtask guest`), with this
//! very program as the only thing in its initramfs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const INIT: &str = "\
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo \"controllers: $(cat /sys/fs/cgroup/cgroup.controllers)\"
/tests --test-threads=1 --nocapture --skip version_2
echo \"tests ended with $?\"
poweroff -f
";
const APPLETS: [&str; 8] = ["sh", "cat", "mount", "poweroff", "sleep", "taskset", "mkdir", "ls"];

#[test]
fn the_same_holds_on_a_kernel_with_version_2_only() {
    let own = std::env::current_exe().expect("this program");
    let target = own.ancestors().nth(3).expect("the build's target directory");
    let (kernel, busybox) = (target.join("guest/vmlinuz"), target.join("guest-build/unpacked/bin/busybox"));
    for needed in [&kernel, &busybox] {
        assert!(needed.is_file(), "{} is not there: cargo xtask guest", needed.display());
    }
    let directory = tempfile::tempdir().expect("a directory");
    let initramfs = directory.path().join("initramfs");
    fs::write(&initramfs, archive(&own, &busybox)).expect("written");
    let arguments = "-accel tcg -cpu max -smp 2 -m 512 -nographic -no-reboot -append";
    let mut qemu = Command::new("timeout");
    qemu.args(["240", "qemu-system-x86_64"]).args(arguments.split(' ')).arg("console=ttyS0 quiet panic=-1");
    let output = qemu.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initramfs).output().expect("QEMU");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("cgroup v2 (cpu, memory) conforms"), "{said}");
    assert!(said.contains("tests ended with 0"), "{said}");
}

/// This program, the libraries it needs, and a shell, as the kernel unpacks it (Linux: driver-api/early-userspace/
/// buffer-format).
fn archive(own: &Path, busybox: &Path) -> Vec<u8> {
    const PROGRAM: u32 = 0o100_755;
    let mut archive = Archive(Vec::new());
    for directory in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.add(directory, 0o040_755, &[]);
    }
    archive.add("init", PROGRAM, INIT.as_bytes());
    archive.add("bin/busybox", PROGRAM, &fs::read(busybox).expect("busybox"));
    for applet in APPLETS {
        archive.add(&format!("bin/{applet}"), 0o120_777, b"busybox");
    }
    archive.add("tests", PROGRAM, &fs::read(own).expect("this program"));
    let mut made = Vec::new();
    for library in libraries(own) {
        for directory in library.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let name = directory.to_string_lossy().trim_start_matches('/').to_owned();
            if !name.is_empty() && !made.contains(&name) {
                archive.add(&name, 0o040_755, &[]);
                made.push(name);
            }
        }
        let content = fs::read(&library).expect("a library");
        let mode = 0o100_000 | (fs::metadata(&library).expect("a library").permissions().mode() & 0o777);
        archive.add(library.to_string_lossy().trim_start_matches('/'), mode, &content);
    }
    archive.add("dev/console", 0o020_600, &[]);
    archive.add("TRAILER!!!", 0, &[]);
    archive.0
}

/// As the loader names them (ldd(1)).
fn libraries(program: &Path) -> Vec<PathBuf> {
    let told = Command::new("ldd").arg(program).output().expect("ldd (libc-bin)");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    told.lines().filter_map(path).collect()
}

struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, path: &str, mode: u32, body: &[u8]) {
        let inode = self.0.len() as u32 + 1;
        // The console is the only device: character, 5, 1.
        let (major, minor) = if path == "dev/console" { (5, 1) } else { (0, 0) };
        let (size, name) = (body.len(), path.len() + 1);
        let fields = [inode, mode, 0, 0, 1, 0, size as u32, 0, 0, major, minor, name as u32, 0];
        self.0.extend_from_slice(b"070701");
        for field in fields {
            self.0.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.0.extend_from_slice(path.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(body);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.0.len().next_multiple_of(4);
        self.0.resize(length, 0);
    }
}
