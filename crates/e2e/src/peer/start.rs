//! Bare QEMU, from exec to the first HTTP answer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::machine::TAP;
use super::{Like, Namespace, PeerMachine};
use crate::guest::http_get;

const LIMIT: Duration = Duration::from_secs(120);
const TRY_LIMIT: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(5);

/// Starts the machine once and returns how long it took to answer.
pub async fn bare_start(like: &Like, outside: IpAddr) -> Result<Duration> {
    let directory = tempfile::tempdir().context("no scratch directory")?;
    let namespace = Namespace::create()?;
    passable(directory.path())?;
    let prepared = PeerMachine::prepare(like, &directory.path().join("vm"), &namespace, false).await?;
    namespace.ip(&["address", "add", &format!("{outside}/{}", like.prefix_length), "dev", TAP])?;
    namespace.ask_neighbours_often(TAP)?;
    let started = Instant::now();
    let machine = PeerMachine::start(prepared, &namespace).await?;
    let address = like.address;
    let answered = namespace.enter(move || first_answer(address))?;
    let answered = tokio::task::spawn_blocking(move || answered.join()).await?;
    let answered = answered.ok().context("the client panicked")??;
    drop(machine);
    Ok(answered - started)
}

/// When the guest answers for the first time.
pub fn first_answer(address: IpAddr) -> Result<Instant> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match http_get(address, "/", TRY_LIMIT) {
            Ok(_) => return Ok(Instant::now()),
            Err(error) if Instant::now() >= deadline => return Err(error).context("the guest never answered"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Lets the machine's own user through.
pub fn passable(directory: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(directory, permissions).with_context(|| format!("cannot open {}", directory.display()))
}
