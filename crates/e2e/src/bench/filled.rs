//! A controller alone, with as many objects in its store as a large datacenter has.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_cli::client::Client;
use gantry_cli::context::Contexts;
use gantry_store::{Op, SqliteStore, Store, Txn};
use gantry_types::{ByteSize, Host, PowerState, Resource, Vm, VmSpec};
use serde_json::json;
use tempfile::TempDir;

use crate::{Cli, eventually};

/// Objects of one filling transaction: the store's limit is 128.
const FILL: u32 = 100;
const START_LIMIT: Duration = Duration::from_secs(240);
/// Hosts of a rack.
const RACK: u32 = 20;

/// A controller process, ended when dropped, and its directory, which goes with it.
pub struct Filled {
    process: Child,
    pub base: TempDir,
    pub url: String,
    pub client: Client,
}

impl Filled {
    /// Fills a store with VMs that are stopped and hosts that sleep, and starts a controller on it.
    pub async fn start(vms: u32, hosts: u32) -> Result<Self> {
        let base = tempfile::tempdir().context("no scratch directory")?;
        let cli = Cli::new(base.path())?;
        let data = base.path().join("controller");
        let data_text = data.to_str().context("not UTF-8")?;
        cli.run(&["controller", "init", "--data", data_text, "--address", "127.0.0.1"]).await?.ok()?;
        let store = SqliteStore::open(data.join("store.db")).await.context("opening the store")?;
        fill(&store, vms, |number| vm(&vm_name(number))).await?;
        fill(&store, hosts, host).await?;
        drop(store);
        let listen = format!("127.0.0.1:{}", free_port()?);
        let process = Command::new(cli.program())
            .args(["controller", "run", "--data", data_text, "--listen", &listen])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the controller")?;
        let client = client(&cli.config(), &listen)?;
        let filled = Self { process, base, url: format!("https://{listen}"), client };
        eventually("the controller answers", START_LIMIT, async || Ok(filled.client.version().await?)).await?;
        if let Some(last) = vms.checked_sub(1) {
            let name = vm_name(last);
            eventually("all objects are there", START_LIMIT, async || Ok(filled.client.get::<Vm>(&name).await?))
                .await?;
        }
        Ok(filled)
    }

    pub fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        kib.map(|kib: f64| kib / 1024.0).context("the controller is gone")
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub fn vm_name(number: u32) -> String {
    format!("vm-{number:06}")
}

/// A VM that needs no host.
pub fn vm(name: &str) -> Result<Vm> {
    let spec: VmSpec = serde_json::from_value(json!({
        "cpus": 2, "memory": ByteSize::gib(2), "disk": ByteSize::gib(20), "power": PowerState::Stopped,
    }))?;
    let mut vm = Vm::new(name.parse()?, spec);
    vm.metadata.labels.0 = [("app".to_owned(), "bench".to_owned())].into();
    Ok(vm)
}

/// A host that nobody waits for.
fn host(number: u32) -> Result<Host> {
    Ok(serde_json::from_value(json!({
        "kind": Host::KIND,
        "metadata": {
            "name": format!("host-{number:05}"),
            "labels": { "rack": format!("rack-{:04}", number / RACK) },
        },
        "spec": {},
        "status": { "state": "sleeping", "agent_address": "", "underlay_address": "" },
    }))?)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port())
}

/// The context names the controller's ordinary port; this one has another.
fn client(config: &Path, listen: &str) -> Result<Client> {
    let contexts: Contexts = toml::from_str(&std::fs::read_to_string(config).context("init wrote no configuration")?)?;
    let (_, context) = contexts.choose(None)?;
    Ok(Client::new(&format!("https://{listen}"), &context.ca, &context.token)?)
}

/// Puts objects into the store of a controller that does not run.
async fn fill<T: Resource>(store: &SqliteStore, count: u32, made: impl Fn(u32) -> Result<T>) -> Result<()> {
    for first in (0..count).step_by(FILL as usize) {
        let mut txn = Txn::new();
        for number in first..count.min(first + FILL) {
            let mut object = made(number)?;
            object.metadata_mut().uuid = uuid::Uuid::new_v4();
            txn = txn.then(Op::put(format!("/v1/{}/{}", T::KIND, object.name()), serde_json::to_vec(&object)?));
        }
        store.txn(txn).await.context("filling the store")?;
    }
    Ok(())
}
