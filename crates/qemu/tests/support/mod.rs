//! Real QEMUs for the tests: a tiny guest that proves its own integrity, and certificates.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod pki;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gantry_qemu::machine::{
    Accelerator, Arch, Disk, DiskFormat, Firmware, Launch, MachineConfig, SocketsDir, find_binary,
};
use gantry_qemu::process::{Identity, QemuProcess, SpawnSpec, log_tail};
use gantry_qemu::qmp::Qmp;
use gantry_qemu::qmp::command::{QueryBlockJobs, QueryNamedBlockNodes, QueryStatus, Quit};
use tokio::time::Instant;

/// No entry in the user database has this id.
pub const TEST_UID: u32 = 47_113;
pub const DISK_NODE: &str = "root";
const FIRST_RECORD_SECTOR: u64 = 64;
const RECORD_SECTORS: u64 = 8192;

/// A boot sector that counts for ever. In each round it checks that the first word of each page between
/// 128 KiB and 512 KiB still holds the last count (else it prints `X` and halts), stores the new count
/// there, writes a disk sector full of it at 64 + count % 8192 through the BIOS, and then acknowledges:
/// eight hex digits and a newline on the serial port. So lost memory, lost writes, and a guest that ran
/// twice all show. Assembled by GNU as from:
///
/// ```text
///       ljmp $0,$1f                       incl %eax; movl %eax,%fs:0
///    1: cli; xorw %ax,%ax                 addw $0x100,%bx; cmpw $0x8000,%bx; jne 4b
///       movw %ax,%ds; %es; %ss            movl %eax,count; movw $0x1000,%di; movw $128,%cx; rep stosl
///       movw $0x7c00,%sp; sti; cld        andl $8191,%eax; addl $64,%eax; movl %eax,lba
///       movb %dl,drive                    movb drive,%dl; movw $packet,%si; movw $0x4300,%ax; int $0x13
///       xorl %eax,%eax; movw $0x2000,%bx  jc fail
///    2: movw %bx,%fs; movl %eax,%fs:0     movl count,%ebp; movw $8,%cx
///       addw $0x100,%bx                5: roll $4,%ebp; movw %bp,%ax; andb $15,%al; addb $'0',%al
///       cmpw $0x8000,%bx; jne 2b          cmpb $'9',%al; jbe 6f; addb $39,%al
/// next: movw $0x2000,%bx               6: call put; loop 5b; movb $10,%al; call put; jmp next
///    4: movw %bx,%fs; movl count,%eax  fail: movb $'X',%al; call put; 7: hlt; jmp 7b
///       cmpl %eax,%fs:0; jne fail      put: (wait for bit 5 of 0x3fd) outb %ah -> 0x3f8; ret
/// count: .long 0; packet: .byte 16,0; .word 1,0x1000,0; lba: .long 0,0; drive: .byte 0
/// ```
#[rustfmt::skip]
const BOOT_SECTOR: [u8; 194] = [
    0xea, 0x05, 0x7c, 0x00, 0x00, 0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00,
    0x7c, 0xfb, 0xfc, 0x88, 0x16, 0xcc, 0x7c, 0x66, 0x31, 0xc0, 0xbb, 0x00, 0x20, 0x8e, 0xe3, 0x64,
    0x66, 0xa3, 0x00, 0x00, 0x81, 0xc3, 0x00, 0x01, 0x81, 0xfb, 0x00, 0x80, 0x75, 0xef, 0xbb, 0x00,
    0x20, 0x8e, 0xe3, 0x66, 0xa1, 0xb8, 0x7c, 0x64, 0x66, 0x39, 0x06, 0x00, 0x00, 0x75, 0x5e, 0x66,
    0x40, 0x64, 0x66, 0xa3, 0x00, 0x00, 0x81, 0xc3, 0x00, 0x01, 0x81, 0xfb, 0x00, 0x80, 0x75, 0xe1,
    0x66, 0xa3, 0xb8, 0x7c, 0xbf, 0x00, 0x10, 0xb9, 0x80, 0x00, 0x66, 0xf3, 0xab, 0x66, 0x25, 0xff,
    0x1f, 0x00, 0x00, 0x66, 0x83, 0xc0, 0x40, 0x66, 0xa3, 0xc4, 0x7c, 0x8a, 0x16, 0xcc, 0x7c, 0xbe,
    0xbc, 0x7c, 0xb8, 0x00, 0x43, 0xcd, 0x13, 0x72, 0x24, 0x66, 0x8b, 0x2e, 0xb8, 0x7c, 0xb9, 0x08,
    0x00, 0x66, 0xc1, 0xc5, 0x04, 0x89, 0xe8, 0x24, 0x0f, 0x04, 0x30, 0x3c, 0x39, 0x76, 0x02, 0x04,
    0x27, 0xe8, 0x11, 0x00, 0xe2, 0xeb, 0xb0, 0x0a, 0xe8, 0x0a, 0x00, 0xeb, 0x91, 0xb0, 0x58, 0xe8,
    0x03, 0x00, 0xf4, 0xeb, 0xfd, 0x88, 0xc4, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0x88,
    0xe0, 0xba, 0xf8, 0x03, 0xee, 0xc3, 0x66, 0x90, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00,
    0x00, 0x10,
];
const DISK_BYTES: u64 = 16 << 20;

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Looks until `condition` gives something; the bound is only for a test that fails.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = soon();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("run");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Gives a file to the user QEMU runs as.
pub fn hand_to_qemu(path: &Path) {
    if is_root() {
        std::os::unix::fs::chown(path, Some(TEST_UID), Some(TEST_UID)).expect("chown");
    }
}

/// A QEMU in a directory of its own; killed when dropped.
pub struct TestVm {
    pub dir: PathBuf,
    pub process: QemuProcess,
    pub qmp: Qmp,
    log: PathBuf,
}

impl Drop for TestVm {
    fn drop(&mut self) {
        self.process.kill().expect("kill");
    }
}

impl TestVm {
    /// A counting guest.
    pub async fn counting(root: &Path, name: &str) -> Self {
        Self::counting_with(root, name, |_| {}).await
    }

    /// A counting guest in a machine that is changed before its start.
    pub async fn counting_with(root: &Path, name: &str, change: impl FnOnce(&mut MachineConfig)) -> Self {
        let dir = Self::directory(root, name);
        let raw = dir.join("boot.raw");
        let mut sector = [0u8; 512];
        sector[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(&raw, sector).expect("write");
        let file = std::fs::File::options().write(true).open(&raw).expect("open");
        file.set_len(DISK_BYTES).expect("set_len");
        let mut convert = Command::new("qemu-img");
        run(convert.args(["convert", "-q", "-O", "qcow2"]).args([raw, dir.join("disk.qcow2")]));
        hand_to_qemu(&dir.join("disk.qcow2"));
        let mut config = Self::config(&dir, false);
        change(&mut config);
        Self::launch(config, &Launch::default(), Vec::new()).await
    }

    /// An empty machine that waits for a guest.
    pub async fn incoming(root: &Path, name: &str) -> Self {
        let dir = Self::directory(root, name);
        let mut create = Command::new("qemu-img");
        run(create.args(["create", "-q", "-f", "qcow2"]).arg(dir.join("disk.qcow2")).arg(DISK_BYTES.to_string()));
        hand_to_qemu(&dir.join("disk.qcow2"));
        Self::launch(Self::config(&dir, true), &Launch::default(), Vec::new()).await
    }

    fn directory(root: &Path, name: &str) -> PathBuf {
        let dir = root.join(name);
        std::fs::create_dir(&dir).expect("mkdir");
        hand_to_qemu(&dir);
        dir
    }

    pub fn config(dir: &Path, incoming: bool) -> MachineConfig {
        MachineConfig {
            name: "test, with=comma".to_owned(),
            uuid: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".to_owned(),
            arch: Arch::X86_64,
            machine_type: None,
            accelerator: Accelerator::Tcg,
            cpu_model: "max".to_owned(),
            cpus: 1,
            memory_mib: 32,
            firmware: Firmware::Bios,
            disks: vec![Disk {
                node_name: DISK_NODE.to_owned(),
                location: dir.join("disk.qcow2").into(),
                format: DiskFormat::Qcow2,
                read_only: false,
                backing: None,
                direct_io: gantry_qemu::probe::direct_io_works(dir).expect("probe"),
                boot_index: Some(0),
            }],
            nics: Vec::new(),
            kernel: None,
            sockets: SocketsDir(dir.to_owned()),
            console_log: dir.join("console.log"),
            incoming,
            start_paused: false,
            volumes: Vec::new(),
            screen: false,
            pvpanic: true,
            watchdog: false,
        }
    }

    pub async fn launch(config: MachineConfig, launch: &Launch, inherited: Vec<std::os::fd::OwnedFd>) -> Self {
        let dir = config.sockets.0.clone();
        let binary = find_binary(config.arch).expect("run: apt-get install qemu-system-x86 qemu-utils");
        let sandbox = gantry_qemu::probe::probe_sandbox(&binary).await.expect("probe");
        let launch = Launch { sandbox, ..launch.clone() };
        let log = dir.join("qemu.log");
        let process = QemuProcess::spawn(SpawnSpec {
            argv: config.argv(&launch).expect("argv"),
            binary,
            identity: is_root().then(|| Identity { uid: TEST_UID, gid: TEST_UID, supplementary_gids: Vec::new() }),
            stderr_log: log.clone(),
            inherited,
            gate: None,
        })
        .expect("spawn");
        let socket = config.sockets.qmp();
        let qmp = tokio::select! {
            qmp = Qmp::connect(&socket, soon()) => qmp.expect("connect"),
            _ = process.wait_exit() => panic!("QEMU ended: {}", log_tail(&log)),
        };
        Self { dir, process, qmp, log }
    }

    pub async fn status(&self) -> String {
        self.qmp.execute(QueryStatus {}).await.expect("status").status
    }

    pub fn console(&self) -> String {
        std::fs::read_to_string(self.dir.join("console.log")).unwrap_or_default()
    }

    /// The highest count acknowledged so far.
    pub fn last_ack(&self) -> Option<u64> {
        let console = self.console();
        let complete = &console[..console.rfind('\n')?];
        u64::from_str_radix(complete.lines().last()?, 16).ok()
    }

    /// Waits until the guest has made more progress.
    pub async fn counts_on(&self) {
        let before = self.last_ack();
        eventually("progress of the guest", async || {
            assert!(!self.console().contains('X'), "the guest found its memory or disk damaged");
            (self.last_ack() > before.map(|count| count + 20)).then_some(())
        })
        .await;
    }

    pub async fn assert_no_leftovers(&self) {
        let jobs = self.qmp.execute(QueryBlockJobs {}).await.expect("jobs");
        assert_eq!(jobs, []);
        let nodes = self.qmp.execute(QueryNamedBlockNodes { flat: true }).await.expect("nodes");
        let names: Vec<_> = nodes.into_iter().filter_map(|node| node.node_name).collect();
        assert!(!names.iter().any(|name| name.starts_with("mirror")), "{names:?}");
    }

    pub fn qemu_log(&self) -> String {
        log_tail(&self.log)
    }

    pub async fn quit(&self) {
        self.qmp.execute(Quit {}).await.expect("quit");
        self.process.wait_exit().await.expect("wait");
    }
}

/// Checks one guest's way over several machines, in order, the last of which has ended: no count is missing
/// or doubled, and the last disk has every acknowledged record that was not overwritten since.
pub fn check_history(machines: &[&TestVm]) {
    let console: String = machines.iter().map(|vm| vm.console()).collect();
    let complete = &console[..console.rfind('\n').expect("acknowledgements")];
    let mut last = 0;
    for line in complete.lines() {
        let count = u64::from_str_radix(line, 16).unwrap_or_else(|_| panic!("guest said {line:?}"));
        assert_eq!(count, last + 1, "the guest's count must go on where it was");
        last = count;
    }
    let disk = Records::read(&machines.last().expect("a machine").dir.join("disk.qcow2"));
    // The guest may have been in the middle of the next round.
    let oldest = (last + 2).saturating_sub(RECORD_SECTORS).max(1);
    for count in oldest..=last {
        assert_eq!(disk.at(count), Some(count), "the acknowledged record {count} is not on the disk");
    }
}

/// What a counting guest has written to a disk.
pub struct Records(Vec<u8>);

impl Records {
    pub fn read(disk: &Path) -> Self {
        let raw = disk.with_extension("raw");
        run(Command::new("qemu-img").args(["convert", "-O", "raw"]).args([disk, &raw]));
        Self(std::fs::read(&raw).expect("read"))
    }

    /// The count in the place where this one is written; none if the sector is of several.
    pub fn at(&self, count: u64) -> Option<u64> {
        let sector = FIRST_RECORD_SECTOR + count % RECORD_SECTORS;
        let at = usize::try_from(sector * 512).expect("fits");
        let words = self.0[at..at + 512].as_chunks::<4>().0;
        let first = words[0];
        words.iter().all(|word| *word == first).then(|| u64::from(u32::from_le_bytes(first)))
    }

    /// The highest count on it.
    pub fn last(&self) -> u64 {
        (0..RECORD_SECTORS).filter_map(|place| self.at(place)).max().expect("records")
    }
}
