//! A lab for one test: started by the real command line, unmistakably named, and taken down however the test ends.
//!
//! A lab whose test was killed is found by its directory's name, which holds the pid, and taken down by the next test.
//! A test that does not reach [`Lab::passed`] gets the ends of all logs printed.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gantry_api::rest::{Changed, MigrateRequest, WriteQuery};
use gantry_cli::client::Client;
use gantry_cli::context::Contexts;
use gantry_lab::{LabRecord, Room};
use gantry_types::{
    ByteSize, Host, HostState, MigrationPolicy, Name, NicSpec, Operation, OperationPhase, Pool, PoolHealth, Vm,
    VmPhase, VmSpec,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{Cli, Ran};
use crate::eventually;
use crate::guest::{GUEST_IMAGE, Workload, guest_image, http_get};
use crate::qemus::{executing, qemus};

/// Short, because paths of Unix sockets below it may have 107 bytes.
const BASE: &str = "/tmp/gantry-e2e";
/// Last octet of the first address that tests choose; the product hands out the lowest.
const FIRST_ADDRESS: u8 = 10;
const LOG_TAIL_LINES: usize = 40;
/// A guest boots in 5 to 10 s under emulation on a quiet machine.
pub const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// For operations that only wait for the product.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(90);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running lab.
pub struct Lab {
    name: String,
    base: PathBuf,
    cli: Cli,
    room: Room,
    client: Client,
    addresses: AtomicU8,
    passed: AtomicBool,
}

/// Runs `lab down` and removes the directory when dropped, also for a lab that never came up.
struct Remains<'a> {
    name: &'a str,
    base: &'a Path,
    cli: &'a Cli,
}

impl Remains<'_> {
    fn remove(&self) {
        let down = Command::new(self.cli.program())
            .args(["lab", "down", "--name", self.name])
            .envs(self.cli.environment())
            .output();
        match down {
            Ok(output) if output.status.success() => {
                fs::remove_dir_all(self.base).ok();
            }
            Ok(output) => eprintln!("lab down failed: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => eprintln!("lab down failed: {error}"),
        }
    }
}

impl Lab {
    /// A lab with `hosts` hosts, all ready.
    pub async fn up(hosts: u8) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        remove_abandoned();
        let (base, name) = (PathBuf::from(format!("{BASE}/{pid}-{number}")), format!("e2e-{pid}-{number}"));
        fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
        let cli = Cli::new(&base)?;
        let up = cli.run(&["lab", "up", "--name", &name, "--hosts", &hosts.to_string()]).await.and_then(Ran::ok);
        let lab = up.and_then(|_| Self::open(&name, &base, &cli));
        lab.inspect_err(|_| {
            print_logs(&base.join(&name));
            Remains { name: &name, base: &base, cli: &cli }.remove();
        })
    }

    fn open(name: &str, base: &Path, cli: &Cli) -> Result<Self> {
        let directory = base.join(name);
        let text = fs::read(directory.join("lab.json")).context("the lab wrote no lab.json")?;
        let mut record: LabRecord = serde_json::from_slice(&text).context("lab.json is not readable")?;
        record.directory = directory;
        Ok(Self {
            name: name.to_owned(),
            base: base.to_owned(),
            cli: cli.clone(),
            room: Room::new(record),
            client: client(&cli.config())?,
            addresses: AtomicU8::new(FIRST_ADDRESS),
            passed: AtomicBool::new(false),
        })
    }

    /// Says that nothing needs to be explained.
    pub fn passed(&self) {
        self.passed.store(true, Ordering::Relaxed);
    }

    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn cli(&self) -> &Cli {
        &self.cli
    }
    pub fn client(&self) -> &Client {
        &self.client
    }
    pub fn room(&self) -> &Room {
        &self.room
    }
    /// Where clients outside stand inside the network `default`.
    pub fn outside(&self) -> IpAddr {
        self.room.layout().operator_inner_address().into()
    }
    /// Runs `gantry ARGUMENTS`.
    pub async fn gantry<S: AsRef<str>>(&self, arguments: &[S]) -> Result<Ran> {
        self.cli.run(arguments).await
    }
    /// `gantry lab VERB HOST`
    pub async fn cable(&self, verb: &str, host: u8) -> Result<()> {
        let host = format!("host-{host}");
        self.gantry(&["lab", verb, &host, "--name", &self.name]).await?.ok().map(drop)
    }
    /// Starts whatever of the lab does not run.
    pub async fn resume(&self) -> Result<()> {
        self.gantry(&["lab", "up", "--name", &self.name]).await?.ok().map(drop)
    }

    /// Ends one program of the lab at once, as a crash does. What it started lives on.
    pub fn crash_agent(&self, host: u8) -> Result<()> {
        let sight = self.room.look();
        let sight = sight.hosts.get(usize::from(host) - 1).context("the lab has no such host")?;
        crash(sight.agent_pid.with_context(|| format!("{} has no agent to kill", sight.name))?)
    }
    pub fn crash_controller(&self) -> Result<()> {
        crash(self.room.look().controller_pid.context("there is no controller to kill")?)
    }

    /// A pool in a directory that these hosts share, once it is watched.
    pub async fn shared_pool(&self, name: &str, directory: &Path, hosts: &str) -> Result<()> {
        let path = directory.to_str().context("the directory is not UTF-8")?;
        self.gantry(&["pool", "create", name, "--type", "dir", "--path", path, "--host", hosts]).await?.ok()?;
        eventually("the pool is looked at", SETTLE_LIMIT, async || {
            let pool: Pool = self.client().get(name).await?;
            // The machine that runs this may be rather full.
            ensure!(matches!(pool.status.health, PoolHealth::Healthy | PoolHealth::NearlyFull), "{pool:?}");
            Ok(())
        })
        .await
    }

    /// The test guest as image [`GUEST_IMAGE`].
    pub async fn import_guest(&self) -> Result<()> {
        let image = guest_image()?;
        let path = image.to_str().context("the guest image's path is not UTF-8")?;
        self.gantry(&["image", "import", GUEST_IMAGE, path]).await?.ok().map(drop)
    }

    /// A small VM of the test guest. Its address is one that no earlier VM of this lab had: a client outside remembers
    /// for up to half a minute whose an address was.
    pub fn guest(&self, name: &str, workload: &Workload) -> Result<Vm> {
        let mut spec = guest_spec(workload)?;
        let [a, b, c, _] = self.room.layout().operator_inner_address().octets();
        let last = self.addresses.fetch_add(1, Ordering::Relaxed);
        for nic in &mut spec.nics {
            nic.address = Some(Ipv4Addr::new(a, b, c, last).into());
        }
        Ok(Vm::new(name.parse()?, spec))
    }

    /// Creates a VM of the test guest and waits until it serves HTTP.
    pub async fn run_vm(&self, name: &str, host: Option<u8>, workload: &Workload) -> Result<Vm> {
        let vm = self.guest(name, workload)?;
        // Placement is free; a host is chosen by closing the others for the moment.
        let others: Vec<u8> = self.room.hosts().filter(|other| host.is_some_and(|host| host != *other)).collect();
        for other in &others {
            self.gantry(&["host", "cordon", &format!("host-{other}")]).await?.ok()?;
        }
        let created = self.client.create(&vm, &WriteQuery::default()).await?;
        let started = self.follow(&created).await;
        for other in &others {
            self.gantry(&["host", "uncordon", &format!("host-{other}")]).await?.ok()?;
        }
        started?;
        self.serving(name).await
    }

    /// Waits until the VM runs, its guest agent has answered and it serves HTTP.
    pub async fn serving(&self, name: &str) -> Result<Vm> {
        eventually(&format!("VM {name} serves"), BOOT_LIMIT, async || {
            let vm: Vm = self.client.get(name).await?;
            ensure!(
                vm.status.phase == VmPhase::Running && vm.status.ready,
                "it is {}, ready {}",
                vm.status.phase,
                vm.status.ready
            );
            http_get(address(&vm)?, "/", Duration::from_secs(2)).context("no HTTP answer")?;
            Ok(vm)
        })
        .await
    }

    /// The operation of a change, once it is finished, whatever its end.
    pub async fn finished<T>(&self, changed: &Changed<T>) -> Result<Operation> {
        let operation = changed.operation.as_ref().context("the change started no operation")?;
        self.operation_end(operation.metadata.name.as_str()).await
    }

    pub async fn operation_end(&self, name: &str) -> Result<Operation> {
        eventually(&format!("operation {name} ends"), BOOT_LIMIT, async || {
            let operation: Operation = self.client.get(name).await?;
            ensure!(operation.status.phase.is_finished(), "it is {:?}", operation.status);
            Ok(operation)
        })
        .await
    }

    /// The operation of a change must succeed; a change that needed none has.
    pub async fn follow<T>(&self, changed: &Changed<T>) -> Result<()> {
        if changed.operation.is_none() {
            return Ok(());
        }
        let operation = self.finished(changed).await?;
        ensure!(operation.status.phase == OperationPhase::Succeeded, "it did not succeed: {:?}", operation.status);
        Ok(())
    }

    /// Asks for a move; returns its operation.
    pub async fn migrate(&self, vm: &str, to: u8, policy: MigrationPolicy) -> Result<Changed<Vm>> {
        let to: Name = format!("host-{to}").parse()?;
        Ok(self
            .client
            .migrate(vm, &MigrateRequest { to: Some(to), policy: Some(policy), ..MigrateRequest::default() })
            .await?)
    }

    pub async fn all_hosts_ready(&self) -> Result<()> {
        eventually("all hosts are ready", SETTLE_LIMIT, async || {
            let hosts: Vec<Host> = self.client.list(None).await?;
            let waiting = hosts.iter().find(|host| host.status.state != HostState::Ready);
            waiting.map_or(Ok(()), |host| bail!("{} is {:?}", host.metadata.name, host.status.state))
        })
        .await
    }

    /// Waits until the VM is settled, and makes sure that exactly one QEMU has it, on its recorded host, and executes it.
    pub async fn runs_in_one_place(&self, name: &str) -> Result<Vm> {
        eventually(&format!("VM {name} runs in exactly one place"), SETTLE_LIMIT, async || {
            let vm: Vm = self.client.get(name).await?;
            let status = &vm.status;
            ensure!(
                status.phase == VmPhase::Running && status.operation.is_none(),
                "it is {} with operation {:?}, reason {:?}",
                status.phase,
                status.operation,
                status.reason
            );
            let everywhere = qemus(vm.metadata.uuid);
            ensure!(everywhere.len() == 1, "{} QEMUs have it: {everywhere:?}", everywhere.len());
            let host = host_of(&vm)?;
            ensure!(self.is_on(host, everywhere[0].namespace), "it is recorded on host-{host}, its QEMU is elsewhere");
            let busy = executing(vm.metadata.uuid, Duration::from_millis(500));
            ensure!(busy.len() == 1, "nobody executes it");
            Ok(vm)
        })
        .await
    }

    pub(crate) fn is_on(&self, host: u8, namespace: u64) -> bool {
        let path = format!("/run/netns/{}", self.room.layout().host_namespace(host));
        fs::metadata(path).is_ok_and(|found| found.ino() == namespace)
    }

    /// Cuts the VM off and returns its disk, which nobody has open then.
    pub async fn stopped_disk(&self, name: &str) -> Result<PathBuf> {
        self.gantry(&["vm", "stop", name, "--force"]).await?.ok()?;
        let vm: Vm = self.client.get(name).await?;
        let uuid = vm.metadata.uuid;
        let left = qemus(uuid);
        ensure!(left.is_empty(), "VM {name} is stopped and still has QEMUs: {left:?}");
        Ok(self.disk(host_of(&vm)?, uuid))
    }

    /// Where a host's pool keeps a VM's disk.
    pub fn disk(&self, host: u8, vm: uuid::Uuid) -> PathBuf {
        self.room.host_directory(host).join(format!("pool/disks/{vm}.qcow2"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.passed.load(Ordering::Relaxed) {
            print_logs(&self.base.join(&self.name));
        }
        Remains { name: &self.name, base: &self.base, cli: &self.cli }.remove();
    }
}

/// The one address of a VM's first network card.
pub fn address(vm: &Vm) -> Result<IpAddr> {
    Ok(vm.status.nics.first().with_context(|| format!("VM {} has no address", vm.metadata.name))?.address)
}

/// Number of the host a VM is on.
pub fn host_of(vm: &Vm) -> Result<u8> {
    let host = vm.status.host.as_ref().with_context(|| format!("VM {} has no host", vm.metadata.name))?;
    let number = host.as_str().strip_prefix("host-").and_then(|number| number.parse().ok());
    number.with_context(|| format!("host {host} is not one of a lab"))
}

fn guest_spec(workload: &Workload) -> Result<VmSpec> {
    Ok(VmSpec {
        image: Some(GUEST_IMAGE.parse()?),
        nics: vec![NicSpec::new("default".parse()?)],
        user_data: Some(workload.user_data()),
        ..VmSpec::new(1, ByteSize::mib(128))
    })
}

fn client(config: &Path) -> Result<Client> {
    let text = fs::read_to_string(config).with_context(|| format!("the lab wrote no {}", config.display()))?;
    let contexts: Contexts = toml::from_str(&text).context("the configuration is not readable")?;
    Ok(contexts.client(None)?)
}

/// Ends a process at once, as a crash does.
pub(crate) fn crash(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("cannot kill {pid}"))
}

/// Labs of tests that were killed.
fn remove_abandoned() {
    let Ok(entries) = fs::read_dir(BASE) else { return };
    for entry in entries.flatten() {
        let directory = entry.file_name().to_string_lossy().into_owned();
        let owner = directory.split_once('-').and_then(|(pid, _)| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            && let Ok(cli) = Cli::new(&entry.path())
        {
            let name = format!("e2e-{directory}");
            Remains { name: &name, base: &entry.path(), cli: &cli }.remove();
        }
    }
}

fn print_logs(lab: &Path) {
    let mut logs = BTreeMap::new();
    collect_logs(lab, 0, &mut logs);
    for (path, text) in logs {
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- {}", path.display());
        for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
            eprintln!("{line}");
        }
    }
}

fn collect_logs(directory: &Path, depth: u32, logs: &mut BTreeMap<PathBuf, String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && depth < 4 {
            collect_logs(&path, depth + 1, logs);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            logs.insert(path, text);
        }
    }
}
