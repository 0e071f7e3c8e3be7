//! `bench api`: the controller alone, with as many objects as a large datacenter has.
//!
//! Durable creates are compared with one SQLite insert per transaction at the same durability and size, which is what a
//! controller without group commit could do at best.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use gantry_api::rest::{ListQuery, Page, WriteQuery};
use gantry_cli::client::Client;
use gantry_types::Vm;
use tokio::task::JoinSet;

use super::filled::{Filled, vm, vm_name};
use super::{Better, Figure, percentile};

/// VMs in the store while the API is measured.
pub const OBJECTS: u32 = 100_000;
const CLIENTS: u32 = 32;
const CREATES: u32 = 4_000;
const READS: u32 = 4_000;
const LISTS: u32 = 200;
const PAGE: u32 = 100;

pub async fn api(objects: u32) -> Result<Vec<Figure>> {
    let controller = Filled::start(objects, 0).await?;
    let client = &controller.client;
    let creates_per_s = creates(client).await?;
    let peer_per_s = peer_inserts(controller.base.path(), &stored_object(client, &vm_name(0)).await?)?;
    let gets = timed(client, READS, move |client, n| async move {
        let name = vm_name(n.wrapping_mul(7919) % objects);
        client.get::<Vm>(&name).await.map(drop).map_err(anyhow::Error::from)
    })
    .await?;
    let lists = timed(client, LISTS, |client, _| async move {
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
