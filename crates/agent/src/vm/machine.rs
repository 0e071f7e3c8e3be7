//! A VM's QEMU: started from the record, or taken over from an agent that is gone.
//!
//! Before QEMU starts: the disk and the seed belong to the VM's user, the taps exist with their guards. QEMU itself gets
//! descriptors for the taps and needs no privilege.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gantry_api::agent::Assignment;
use gantry_qemu::machine::{
    Accelerator, BackingImage, Disk, DiskFormat, Firmware as QemuFirmware, Launch, MachineConfig, Nic, SocketsDir,
    find_uefi,
};
use gantry_qemu::probe::direct_io_works;
use gantry_qemu::process::{Identity, QemuProcess, SpawnSpec, log_tail, open_tap};
use gantry_qemu::qmp::{EventStream, Qmp};
use gantry_storage::{Claiming, DiskHold, Seed, SeedNic};
use gantry_types::{DiskLocation, Display, Firmware, Problem};
use ipnet::IpNet;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::console::ConsoleLine;
use super::guest::GuestLine;
use super::{Shared, console, disk, guest, metrics, volumes};
use crate::host::Host;
use crate::images::digest;
use crate::inventory::{accelerator_name, qemu_arch, supplementary_gids};
use crate::problem::problem;
use crate::records::{ProcessRecord, Record, blocking};
use crate::storage::pool_problem;
use crate::vm_files;

pub(crate) const DISK_NODE: &str = "disk0";
const MONITOR_LIMIT: Duration = Duration::from_secs(20);
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// A running QEMU and what hangs on it; dropping it leaves QEMU alone.
pub(crate) struct Machine {
    pub process: Arc<QemuProcess>,
    pub qmp: Qmp,
    pub events: EventStream,
    /// False once the monitor connection has ended.
    pub monitored: bool,
    /// A connection that ended is first thought to be QEMU's end, until then.
    pub exit_expected_until: Option<Instant>,
    pub accelerator: String,
    pub guest: GuestLine,
    /// Of a disk in a pool: no other host gets it meanwhile.
    pub disk_hold: Option<DiskHold>,
    /// What QEMU calls the VM's own disk.
    pub disk_node: String,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// Files of one VM. Only in `run_dir` and `tls` can its user make any.
pub(crate) struct Files {
    pub run_dir: PathBuf,
    pub log: PathBuf,
    pub console_log: PathBuf,
    pub uefi_variables: PathBuf,
    pub tls: PathBuf,
    pub seed: PathBuf,
}

pub(crate) fn files(host: &Host, vm: Uuid) -> Files {
    let at = |name| host.records.vm_dir(vm).join(name);
    Files {
        run_dir: host.records.run_dir(vm),
        log: at("qemu.log"),
        console_log: at("console.log"),
        uefi_variables: at("uefi-vars.fd"),
        tls: at("tls"),
        seed: at("seed.img"),
    }
}

fn named(record: &Record) -> String {
    format!("VM '{}'", record.assignment.name)
}

/// Makes the VM's directory, disk and seed; with everything there already nothing changes. The record, which is on disk
/// already, says afterwards that there is a disk.
pub(crate) async fn prepare_files(host: &Host, record: &mut Record) -> Result<(), Problem> {
    if record.is_receiving() && !record.assignment.disk.travels() {
        disk::open_to_arriving(host, record).await?;
    } else {
        disk::make(host, record).await?;
    }
    let assignment = &record.assignment;
    let files = files(host, assignment.uuid);
    let uid = record.owner_uid;
    let content = seed_of(assignment).build().map_err(|error| {
        Problem::invalid("invalid-seed", format!("{}: {}", named(record), crate::problem::chain(&error)))
            .remedy("change the VM's name, networks or user data as the message says")
    })?;
    let vars = match assignment.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => Some(uefi(record)?.1),
    };
    let what = named(record);
    blocking(move || {
        vm_files::make_socket_dir(&files.run_dir, uid).map_err(|error| file_problem(&what, &files.run_dir, &error))?;
        Seed::write(&content, &files.seed, Some(uid)).map_err(|error| problem("seed-not-written", &what, &error))?;
        if let Some(template) = vars {
            let path = files.uefi_variables;
            vm_files::copy_once(&template, &path, uid).map_err(|error| file_problem(&what, &path, &error))?;
        }
        Ok(())
    })
    .await
}

/// What a VM's guest is told of itself, on its seed disk as by the metadata service.
pub(crate) fn seed_of(assignment: &Assignment) -> Seed {
    let nics = assignment.nics.iter().map(|nic| match nic.dhcp {
        true => SeedNic { mac: nic.mac, addresses: Vec::new(), gateways: Vec::new(), dns: Vec::new(), mtu: None },
        false => SeedNic {
            mac: nic.mac,
            addresses: nic
                .subnet_addresses()
                .filter_map(|(address, prefix)| IpNet::new(address, prefix).ok())
                .collect(),
            gateways: nic.gateway.into_iter().chain(nic.more_addresses.iter().filter_map(|a| a.gateway)).collect(),
            dns: nic.dns.clone(),
            mtu: Some(nic.mtu),
        },
    });
    Seed {
        instance_id: assignment.uuid.to_string(),
        hostname: assignment.name.to_string(),
        nics: nics.collect(),
        user_data: assignment.user_data.clone().map(String::into_bytes),
    }
}

pub(super) fn file_problem(what: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::transient("files-not-made", format!("{what}: cannot prepare {}: {error}", path.display()))
        .remedy("check the state directory's filesystem")
}

fn uefi(record: &Record) -> Result<(PathBuf, PathBuf), Problem> {
    find_uefi(qemu_arch(record.assignment.arch)).map_err(|error| problem("no-uefi", &named(record), &error))
}

/// What a new QEMU does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    Running,
    /// Nothing, until it is told to.
    Halted,
    /// Wait for a migration.
    Incoming,
}

/// Starts QEMU. On an error no process is left.
pub(crate) async fn launch(
    host: &Host,
    record: &Record,
    shared: &Arc<Shared>,
    begin: Begin,
) -> Result<Machine, Problem> {
    let what = named(record);
    disk::check(host, record).await?;
    let disk_hold = match begin {
        // It is still the source's.
        Begin::Incoming => None,
        Begin::Running | Begin::Halted => disk::claim(host, &record.assignment, Claiming::Start).await?,
    };
    let config = describe(host, record, begin).await?;
    let files = files(host, record.assignment.uuid);
    let taps: Result<Vec<_>, _> =
        record.assignment.nics.iter().map(|nic| open_tap(&gantry_network::tap_name(nic.port))).collect();
    let taps = taps.map_err(|error| problem("tap-not-opened", &what, &error))?;
    let binary = host.qemu.binary(record.assignment.arch)?;
    let launch = Launch { sandbox: binary.sandbox, tap_fds: taps.iter().map(AsRawFd::as_raw_fd).collect() };
    let argv = config.argv(&launch).map_err(|error| problem("machine-not-possible", &what, &error))?;
    // The tail of the log must be about this run.
    fs::remove_file(&files.log).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(file_problem(&what, &files.log, &error)),
    })?;
    vm_files::make_log(&files.console_log, record.owner_uid)
        .map_err(|error| file_problem(&what, &files.console_log, &error))?;
    let gate = match record.guarded {
        true => {
            host.lease.expect_held(&what)?;
            Some(host.lease.gate(record.assignment.uuid, &what)?)
        }
        false => None,
    };
    let process = QemuProcess::spawn(SpawnSpec {
        binary: binary.path.clone(),
        argv,
        identity: Some(Identity {
            uid: record.owner_uid,
            gid: record.owner_uid,
            supplementary_gids: supplementary_gids(config.accelerator),
        }),
        stderr_log: files.log.clone(),
        inherited: taps,
        gate,
    })
    .map_err(|error| problem("qemu-not-started", &what, &error))?;
    if record.guarded {
        host.lease.note_guarded(record.assignment.uuid, (process.pid(), process.start_time_ticks()));
    }

    let connected = connect(&process, &files.run_dir).await;
    let qmp = match connected {
        Ok(qmp) => qmp,
        Err(reason) => {
            end(&process).await?;
            let said = log_tail(&files.log);
            let detail = if said.is_empty() { reason } else { said };
            return Err(Problem::permanent("qemu-not-started", format!("{what}: QEMU did not start: {detail}"))
                .remedy(format!("see {}", files.log.display())));
        }
    };
    let accelerator = accelerator_name(config.accelerator).to_owned();
    let machine = assemble(host, record, shared, &files, process, qmp, accelerator);
    Ok(Machine { disk_hold, ..machine })
}

/// The monitor, or why there is none; an early end of the process ends the wait.
pub(super) async fn connect(process: &QemuProcess, run_dir: &Path) -> Result<Qmp, String> {
    let path = SocketsDir(run_dir.to_owned()).qmp();
    let deadline = Instant::now() + MONITOR_LIMIT;
    tokio::select! {
        connected = Qmp::connect(&path, deadline) => connected.map_err(|error| crate::problem::chain(&error)),
        _ = process.wait_exit() => Err("it ended at once".to_owned()),
    }
}

fn assemble(
    host: &Host,
    record: &Record,
    shared: &Arc<Shared>,
    files: &Files,
    process: QemuProcess,
    qmp: Qmp,
    accelerator: String,
) -> Machine {
    shared.forget_run();
    let process = Arc::new(process);
    host.resources.joined(&record.assignment, &process);
    let sockets = SocketsDir(files.run_dir.clone());
    let (guest, guest_task) = guest::start(sockets.guest_agent(), shared.clone());
    let (line, console_task): (ConsoleLine, _) = console::start(&sockets, &files.console_log);
    shared.set_console(Some(line));
    let taps = record.assignment.nics.iter().map(|nic| gantry_network::tap_name(nic.port)).collect();
    let metrics_task = metrics::start(process.clone(), qmp.clone(), taps, shared.clone(), host.pools.rates.clone());
    let logs = vec![files.console_log.clone(), files.log.clone()];
    let logs_task = AbortOnDropHandle::new(tokio::spawn(vm_files::keep_short(logs)));
    Machine {
        process,
        events: qmp.events(),
        qmp,
        monitored: true,
        exit_expected_until: None,
        accelerator,
        guest,
        disk_hold: None,
        disk_node: DISK_NODE.to_owned(),
        _tasks: vec![guest_task, console_task, metrics_task, logs_task],
    }
}

/// What is left of a recorded process.
pub(crate) enum Adopted {
    Machine(Box<Machine>),
    /// It runs, but its monitor does not answer.
    Deaf(QemuProcess),
    Gone,
}

/// Takes over the recorded process, or one that was started just before the last agent could write it down.
pub(crate) async fn adopt(host: &Host, record: &Record, shared: &Arc<Shared>) -> Result<Adopted, Problem> {
    let what = named(record);
    let recorded = record.process.as_ref().filter(|process| process.boot_id == host.qemu.boot_id);
    let (process, accelerator) = match recorded {
        Some(recorded) => (
            QemuProcess::adopt(recorded.pid, recorded.start_time_ticks).ok().map(|process| (process, recorded)),
            recorded.accelerator.clone(),
        ),
        None => (None, String::new()),
    };
    let (process, accelerator, disk_node) = match process {
        Some((process, recorded)) => (process, accelerator, recorded.disk_node.clone()),
        None => match find_orphan(&host.records.run_dir(record.assignment.uuid))
            .map_err(|error| problem("process-not-adopted", &what, &error))?
        {
            Some(process) => (process, accelerator_name(accelerator_for(host, record)).to_owned(), None),
            None => return Ok(Adopted::Gone),
        },
    };
    let files = files(host, record.assignment.uuid);
    match connect(&process, &files.run_dir).await {
        Ok(qmp) => {
            let machine = assemble(host, record, shared, &files, process, qmp, accelerator);
            Ok(Adopted::Machine(Box::new(Machine { disk_node: disk_node.unwrap_or(machine.disk_node), ..machine })))
        }
        Err(_) if process.has_exited().unwrap_or(false) => Ok(Adopted::Gone),
        Err(reason) => {
            tracing::warn!(vm = what, pid = process.pid(), reason, "QEMU runs but its monitor does not answer");
            Ok(Adopted::Deaf(process))
        }
    }
}

/// A QEMU that has its sockets in `run_dir`: no other VM of any host on this kernel has the same directory. It runs as the
/// user of that directory: what another VM's QEMU calls itself is not believed.
pub(crate) fn find_orphan(run_dir: &Path) -> Result<Option<QemuProcess>, gantry_qemu::process::ProcessError> {
    let Some(needle) = run_dir.to_str() else { return Ok(None) };
    let needle = format!("path={needle}/qmp.sock");
    let Ok(owner_uid) = fs::symlink_metadata(run_dir).map(|found| found.uid()) else { return Ok(None) };
    let Ok(entries) = fs::read_dir("/proc") else { return Ok(None) };
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(command_line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let mut arguments = command_line.split(|byte| *byte == 0);
        let is_qemu = arguments.next().is_some_and(|program| String::from_utf8_lossy(program).contains("qemu-system-"));
        let is_owners = fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == owner_uid);
        if !is_qemu || !is_owners || !arguments.any(|argument| String::from_utf8_lossy(argument).ends_with(&needle)) {
            continue;
        }
        let Some(start_time_ticks) = start_time_ticks(pid) else { continue };
        match QemuProcess::adopt(pid, start_time_ticks) {
            Ok(process) => return Ok(Some(process)),
            Err(gantry_qemu::process::ProcessError::Gone { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)); the second field, the name, may contain anything.
pub(crate) fn start_time_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Kills QEMU and waits until it is gone.
pub(crate) async fn end(process: &QemuProcess) -> Result<(), Problem> {
    let failed = |error: &gantry_qemu::process::ProcessError| problem("qemu-not-ended", "ending QEMU", error);
    process.kill().map_err(|error| failed(&error))?;
    match timeout(EXIT_LIMIT, process.wait_exit()).await {
        Ok(ended) => ended.map(drop).map_err(|error| failed(&error)),
        Err(_) => {
            let detail = format!("QEMU process {} does not end; it waits for the kernel", process.pid());
            Err(Problem::transient("qemu-not-ended", detail).remedy("look for a hanging disk or filesystem"))
        }
    }
}

impl Machine {
    pub fn record(&self, host: &Host) -> ProcessRecord {
        ProcessRecord {
            pid: self.process.pid(),
            start_time_ticks: self.process.start_time_ticks(),
            boot_id: host.qemu.boot_id.clone(),
            accelerator: self.accelerator.clone(),
            disk_node: Some(self.disk_node.clone()).filter(|node| node != DISK_NODE),
        }
    }
}

fn accelerator_for(host: &Host, record: &Record) -> Accelerator {
    host.qemu.accelerator(record.assignment.arch)
}

/// Whether QEMU can go past the host's cache with what lies there.
pub(super) fn may_bypass_cache(location: &DiskLocation) -> bool {
    match location {
        DiskLocation::File(path) | DiskLocation::Mirrored { file: path, .. } => {
            path.parent().is_some_and(|directory| direct_io_works(directory).unwrap_or(false))
        }
        // No page of it is ever in this host's cache.
        DiskLocation::Nfs { .. } => true,
    }
}

/// The VM's disk, where it is assigned to be, as QEMU opens it.
pub(super) async fn disk_of(host: &Host, assignment: &Assignment) -> Result<Disk, Problem> {
    let what = format!("VM '{}'", assignment.name);
    let disks = disk::place(host, assignment).await?;
    let failed = |error| pool_problem("disk-missing", &what, &error);
    let location = disks.location(assignment.uuid).await.map_err(failed)?;
    let direct_io = match assignment.disk.pool {
        None => host.qemu.direct_io,
        Some(_) => may_bypass_cache(&location),
    };
    let backing = match &assignment.disk.image {
        Some(image) => {
            let stored = disks.image_location(digest(&image.digest)?).await;
            let stored = stored.map_err(|error| pool_problem("image-not-found", &what, &error))?;
            let location = stored.ok_or_else(|| {
                Problem::conflict("image-not-here", format!("{what}: its image is not in its disk's pool"))
                    .remedy("fetch the image first")
            })?;
            Some(BackingImage { location, format: DiskFormat::Qcow2 })
        }
        None => None,
    };
    Ok(Disk {
        node_name: DISK_NODE.to_owned(),
        location,
        format: DiskFormat::Qcow2,
        read_only: false,
        backing,
        direct_io,
        boot_index: Some(0),
    })
}

async fn describe(host: &Host, record: &Record, begin: Begin) -> Result<MachineConfig, Problem> {
    let assignment = &record.assignment;
    let files = files(host, assignment.uuid);
    let accelerator = accelerator_for(host, record);
    let default_cpu = match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "max",
    };
    let disk = disk_of(host, assignment).await?;
    let seed = Disk {
        node_name: "seed0".to_owned(),
        location: files.seed.into(),
        format: DiskFormat::Raw,
        read_only: true,
        backing: None,
        direct_io: false,
        boot_index: None,
    };
    let firmware = match assignment.firmware {
        Firmware::Bios => QemuFirmware::Bios,
        Firmware::Uefi => QemuFirmware::Uefi { code: uefi(record)?.0, vars: files.uefi_variables },
    };
    let nics = assignment.nics.iter().map(|nic| Nic { mac: nic.mac.to_string(), mtu: u16::try_from(nic.mtu).ok() });
    Ok(MachineConfig {
        name: assignment.name.to_string(),
        uuid: assignment.uuid.to_string(),
        arch: qemu_arch(assignment.arch),
        machine_type: Some(host.qemu.binary(assignment.arch)?.machine_type.clone()),
        accelerator,
        cpu_model: assignment.cpu_model.clone().unwrap_or_else(|| default_cpu.to_owned()),
        cpus: assignment.cpus,
        memory_mib: assignment.memory.as_mib(),
        firmware,
        disks: vec![disk, seed],
        volumes: volumes::prepare(host, record).await?,
        nics: nics.collect(),
        kernel: None,
        sockets: SocketsDir(files.run_dir),
        console_log: files.console_log,
        incoming: begin == Begin::Incoming,
        start_paused: begin == Begin::Halted,
        screen: assignment.display == Display::Vga,
        pvpanic: true,
        watchdog: assignment.ha.watchdog,
    })
}
