//! A QEMU started by hand: same image, same arguments, same user rights as the product's.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_qemu::machine::{
    Accelerator, Arch, BackingImage, Disk, DiskFormat, Firmware, Launch, MachineConfig, Nic, SocketsDir, find_binary,
};
use gantry_qemu::probe::{direct_io_works, probe_sandbox};
use gantry_qemu::process::{Identity, QemuProcess, SpawnSpec, open_tap};
use gantry_qemu::qmp::Qmp;
use gantry_storage::{Seed, SeedNic};
use gantry_types::{MacAddress, Vm};
use serde_json::json;
use tokio::time::Instant;

use super::Namespace;

/// No entry in the user database has this id.
pub const OWNER: u32 = 47_214;
pub const DISK_NODE: &str = "disk0";
pub const TAP: &str = "tap0";
const MTU: u16 = 1450;

/// The machine to imitate.
#[derive(Debug, Clone)]
pub struct Like {
    pub uuid: String,
    pub accelerator: Accelerator,
    pub cpus: u32,
    pub memory_mib: u64,
    pub image: PathBuf,
    pub disk_bytes: u64,
    pub mac: MacAddress,
    pub address: IpAddr,
    pub prefix_length: u8,
    pub user_data: String,
}

impl Like {
    /// The same machine as `vm`, at another address.
    pub fn vm(vm: &Vm, image: &Path, address: IpAddr, user_data: String) -> Result<Self> {
        let nic = vm.status.nics.first().context("the VM to imitate has no network card")?;
        let kvm = vm.status.accelerator.as_deref() == Some("kvm");
        Ok(Self {
            uuid: vm.metadata.uuid.to_string(),
            accelerator: if kvm { Accelerator::Kvm } else { Accelerator::Tcg },
            cpus: vm.spec.cpus,
            memory_mib: vm.spec.memory.as_mib(),
            image: image.to_owned(),
            disk_bytes: vm.status.disk.context("the VM to imitate has no disk")?.bytes(),
            mac: nic.mac,
            address,
            prefix_length: 24,
            user_data,
        })
    }
}

/// A running QEMU; killed when dropped.
pub struct PeerMachine {
    pub directory: PathBuf,
    pub process: QemuProcess,
    pub qmp: Qmp,
}

impl Drop for PeerMachine {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill() {
            eprintln!("{error}");
        }
    }
}

/// Everything that is there before QEMU starts.
pub struct Prepared {
    directory: PathBuf,
    binary: PathBuf,
    config: MachineConfig,
    sandbox: Option<&'static str>,
}

impl Prepared {
    /// For those who can only be given a program: the same QEMU, which opens its tap by name.
    pub fn script(&self) -> Result<String> {
        let argv = self.config.argv(&Launch { sandbox: self.sandbox, tap_fds: vec![0] })?;
        let tap = json!({"type": "tap", "id": "net0", "ifname": TAP, "script": "no", "downscript": "no"}).to_string();
        let mut script = format!("#!/bin/sh\nexec '{}'", self.binary.display());
        let mut is_network = false;
        for word in &argv {
            let word = word.to_str().context("an argument is not UTF-8")?;
            ensure!(!word.contains('\''), "an argument has a quote: {word}");
            let shown = if is_network { &tap } else { word };
            is_network = word == "-netdev";
            script.push_str(&format!(" '{shown}'"));
        }
        Ok(script + "\n")
    }
}

impl PeerMachine {
    /// Files and tap of a machine in `directory`.
    pub async fn prepare(like: &Like, directory: &Path, namespace: &Namespace, incoming: bool) -> Result<Prepared> {
        fs::create_dir_all(directory)?;
        let disk = directory.join("disk.qcow2");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([&like.image, &disk])
            .arg(like.disk_bytes.to_string())
            .status()
            .context("cannot run qemu-img")?;
        ensure!(made.success(), "qemu-img failed: {made}");
        let nic = SeedNic {
            mac: like.mac,
            addresses: vec![format!("{}/{}", like.address, like.prefix_length).parse()?],
            gateways: Vec::new(),
            dns: Vec::new(),
            mtu: Some(MTU.into()),
        };
        let seed = Seed {
            instance_id: like.uuid.clone(),
            hostname: "peer".to_owned(),
            nics: vec![nic],
            user_data: Some(like.user_data.clone().into_bytes()),
        };
        let seed_path = directory.join("seed.img");
        Seed::write(&seed.build()?, &seed_path, Some(OWNER))?;
        for path in [directory, disk.as_path()] {
            chown(path, Some(OWNER), Some(OWNER))?;
        }
        namespace.ip(&["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr", "user", &OWNER.to_string()])?;
        namespace.ip(&["link", "set", TAP, "mtu", &MTU.to_string(), "up"])?;
        let disks = vec![
            Disk {
                node_name: DISK_NODE.to_owned(),
                location: disk.into(),
                format: DiskFormat::Qcow2,
                read_only: false,
                backing: Some(BackingImage { location: like.image.clone().into(), format: DiskFormat::Qcow2 }),
                direct_io: direct_io_works(directory)?,
                boot_index: Some(0),
            },
            Disk {
                node_name: "seed0".to_owned(),
                location: seed_path.into(),
                format: DiskFormat::Raw,
                read_only: true,
                backing: None,
                direct_io: false,
                boot_index: None,
            },
        ];
        let kvm = like.accelerator == Accelerator::Kvm;
        let binary = find_binary(Arch::X86_64)?;
        let sandbox = probe_sandbox(&binary).await?;
        let config = MachineConfig {
            name: "peer".to_owned(),
            uuid: like.uuid.clone(),
            arch: Arch::X86_64,
            machine_type: None,
            accelerator: like.accelerator,
            cpu_model: if kvm { "host" } else { "max" }.to_owned(),
            cpus: like.cpus,
            memory_mib: like.memory_mib,
            firmware: Firmware::Bios,
            disks,
            nics: vec![Nic { mac: like.mac.to_string(), mtu: Some(MTU) }],
            kernel: None,
            sockets: SocketsDir(directory.to_owned()),
            console_log: directory.join("console.log"),
            incoming,
            start_paused: false,
            volumes: Vec::new(),
            screen: false,
            pvpanic: true,
            watchdog: false,
        };
        Ok(Prepared { directory: directory.to_owned(), binary, config, sandbox })
    }

    /// From here on it runs.
    pub async fn start(prepared: Prepared, namespace: &Namespace) -> Result<Self> {
        let Prepared { directory, binary, config, sandbox } = prepared;
        let runtime = tokio::runtime::Handle::current();
        let log = directory.join("qemu.log");
        let socket = config.sockets.qmp();
        let spawned = namespace.enter(move || -> Result<QemuProcess> {
            let _runtime = runtime.enter();
            let tap = open_tap(TAP)?;
            let argv = config.argv(&Launch { sandbox, tap_fds: vec![tap.as_raw_fd()] })?;
            let identity = Some(Identity { uid: OWNER, gid: OWNER, supplementary_gids: Vec::new() });
            Ok(QemuProcess::spawn(SpawnSpec {
                binary,
                argv,
                identity,
                stderr_log: log,
                inherited: vec![tap],
                gate: None,
            })?)
        })?;
        let process = spawned.join().ok().context("the spawning thread panicked")??;
        match Qmp::connect(&socket, Instant::now() + Duration::from_secs(20)).await {
            Ok(qmp) => Ok(Self { directory, process, qmp }),
            Err(error) => {
                process.kill()?;
                Err(error).context(gantry_qemu::process::log_tail(&directory.join("qemu.log")))
            }
        }
    }

    pub fn disk(&self) -> PathBuf {
        self.directory.join("disk.qcow2")
    }
}
