//! `bench api`: the controller alone, with as many objects as a large datacenter has.
//!
//! Durable creates are compared with one SQLite insert per transaction at the same durability and size, which is what a
//! controller without group commit could do at best.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_api::rest::{ListQuery, Page, WriteQuery};
use gantry_cli::client::Client;
use gantry_cli::context::Contexts;
use gantry_store::{Op, SqliteStore, Store, Txn};
use gantry_types::{ByteSize, PowerState, Resource, Vm, VmSpec};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Better, Figure, percentile};
use crate::{Cli, eventually};

/// VMs in the store while the API is measured.
pub const OBJECTS: u32 = 100_000;
const CLIENTS: u32 = 32;
const CREATES: u32 = 4_000;
const READS: u32 = 4_000;
const LISTS: u32 = 200;
const PAGE: u32 = 100;
/// Objects of one filling transaction: the store's limit is 128.
const FILL: u32 = 100;
const START_LIMIT: Duration = Duration::from_secs(120);

pub async fn api(objects: u32) -> Result<Vec<Figure>> {
    let base = tempfile::tempdir().context("no scratch directory")?;
    let cli = Cli::new(base.path())?;
    let data = base.path().join("controller");
    let port = free_port()?;
    let (data_text, listen) = (data.to_str().context("not UTF-8")?, format!("127.0.0.1:{port}"));
    let init = ["controller", "init", "--data", data_text, "--address", "127.0.0.1"];
    cli.run(&init).await?.ok()?;
    fill(&data, objects).await?;
    let controller = Controller::start(&cli, data_text, &listen)?;
    let client = client(&cli.config(), &listen)?;
    eventually("the controller answers", START_LIMIT, async || Ok(client.version().await?)).await?;
    let name = vm_name(objects / 2);
    eventually("all objects are there", START_LIMIT, async || Ok(client.get::<Vm>(&name).await?)).await?;

    let creates_per_s = creates(&client).await?;
    let peer_per_s = peer_inserts(base.path(), &stored_object(&client, &vm_name(0)).await?)?;
    let gets = timed(&client, READS, move |client, n| async move {
        let name = vm_name(n.wrapping_mul(7919) % objects);
        client.get::<Vm>(&name).await.map(drop).map_err(anyhow::Error::from)
    })
    .await?;
    let lists = timed(&client, LISTS, |client, _| async move {
        let query = ListQuery { limit: Some(PAGE), ..ListQuery::default() };
        let page: Page<Vm> = client.page(&query).await?;
        ensure!(page.items.len() == PAGE as usize, "a page has {} objects", page.items.len());
        Ok(())
    })
    .await?;
    let resident_mib = controller.resident_mib()?;
    let p99_ms = |times: &[Duration]| percentile(times, 99).as_secs_f64() * 1000.0;
    let ratio =
        Figure::against("api_durable_creates_per_s", creates_per_s, peer_per_s, Better::Higher, CREATES as usize);
    Ok(vec![
        ratio,
        Figure::alone("api_get_p99_ms", p99_ms(&gets), Better::Lower, gets.len()),
        Figure::alone("api_list_page_p99_ms", p99_ms(&lists), Better::Lower, lists.len()),
        Figure::alone("api_controller_resident_mib", resident_mib, Better::Lower, 1),
        Figure::alone("api_objects", f64::from(objects + CREATES), Better::Higher, 1),
    ])
}

/// A controller process, ended when dropped.
struct Controller(Child);

impl Controller {
    fn start(cli: &Cli, data: &str, listen: &str) -> Result<Self> {
        let child = Command::new(cli.program())
            .args(["controller", "run", "--data", data, "--listen", listen])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the controller")?;
        Ok(Self(child))
    }

    fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        kib.map(|kib: f64| kib / 1024.0).context("the controller is gone")
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
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

fn vm_name(number: u32) -> String {
    format!("vm-{number:06}")
}

/// A VM that needs no host.
fn vm(name: &str) -> Result<Vm> {
    let spec: VmSpec = serde_json::from_value(json!({
        "cpus": 2, "memory": ByteSize::gib(2), "disk": ByteSize::gib(20), "power": PowerState::Stopped,
    }))?;
    let mut vm = Vm::new(name.parse()?, spec);
    vm.metadata.labels.0 = [("app".to_owned(), "bench".to_owned())].into();
    Ok(vm)
}

/// Puts objects into the store of a controller that does not run.
async fn fill(data: &Path, objects: u32) -> Result<()> {
    let store = SqliteStore::open(data.join("store.db")).await.context("opening the store")?;
    for first in (0..objects).step_by(FILL as usize) {
        let mut txn = Txn::new();
        for number in first..objects.min(first + FILL) {
            let mut vm = vm(&vm_name(number))?;
            vm.metadata.uuid = uuid::Uuid::new_v4();
            txn = txn.then(Op::put(format!("/v1/{}/{}", Vm::KIND, vm.name()), serde_json::to_vec(&vm)?));
        }
        store.txn(txn).await.context("filling the store")?;
    }
    Ok(())
}

/// Concurrent creates through the API; each is durable when it is answered.
async fn creates(client: &Client) -> Result<f64> {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for worker in 0..CLIENTS {
        let client = client.clone();
        clients.spawn(async move {
            for number in 0..CREATES / CLIENTS {
                client.create(&vm(&format!("new-{worker}-{number}"))?, &WriteQuery::default()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(f64::from(CREATES) / started.elapsed().as_secs_f64())
}

/// What one object takes, as text.
async fn stored_object(client: &Client, name: &str) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&client.get::<Vm>(name).await?)?)
}

/// Single inserts into an empty table, WAL and synchronous=FULL.
fn peer_inserts(directory: &Path, object: &[u8]) -> Result<f64> {
    let database = rusqlite::Connection::open(directory.join("peer.db"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.execute_batch("CREATE TABLE objects (key TEXT PRIMARY KEY, value BLOB NOT NULL)")?;
    let mut insert = database.prepare("INSERT INTO objects VALUES (?1, ?2)")?;
    let started = Instant::now();
    for number in 0..CREATES {
        insert.execute((vm_name(number), object))?;
    }
    Ok(f64::from(CREATES) / started.elapsed().as_secs_f64())
}

/// Times of `count` calls, one after the other, as one client sees them.
async fn timed<F>(client: &Client, count: u32, call: impl Fn(Client, u32) -> F) -> Result<Vec<Duration>>
where
    F: Future<Output = Result<()>>,
{
    let mut times = Vec::new();
    for number in 0..count {
        let started = Instant::now();
        call(client.clone(), number).await?;
        times.push(started.elapsed());
    }
    Ok(times)
}
