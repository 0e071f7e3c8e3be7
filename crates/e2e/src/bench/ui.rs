//! `bench ui`: the web UI in a real browser. `web/tests/browser/measure.mjs` measures; what is promised stands here.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_api::access::SetPassword;
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use super::filled::Filled;
use super::{Better, Figure};

/// For each VM so many hosts, in thousandths: 25,000 hosts have 400,000 VMs.
const HOSTS_PER_1000_VMS: u32 = 62;
const LIMIT: Duration = Duration::from_secs(600);
/// Of the frames of an empty page. A frame or two in a hundred are the measurement's own.
const FRAMES_LEAST: f64 = 0.97;
const FIRST_PAINT_MS: f64 = 1000.0;

/// As the browser's script says it.
#[derive(Deserialize)]
struct Measured {
    name: String,
    product: f64,
    peer: Option<f64>,
    runs: usize,
}

pub async fn ui(objects: u32) -> Result<Vec<Figure>> {
    let hosts = (u64::from(objects) * u64::from(HOSTS_PER_1000_VMS) / 1000).try_into().unwrap_or(u32::MAX);
    let controller = Filled::start(objects, hosts).await?;
    let set = controller.client.set_password("admin", &SetPassword::default()).await?;
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web");
    ensure!(web.join("node_modules").is_dir(), "the web UI's packages are not installed: cargo xtask web");
    let mut script = Command::new("node");
    script.arg("tests/browser/measure.mjs").current_dir(web).stdout(Stdio::piped()).kill_on_drop(true);
    script.env("GANTRY_URL", &controller.url).env("GANTRY_PASSWORD", set.password.unwrap_or_default());
    let ended = timeout(LIMIT, script.spawn().context("cannot run node")?.wait_with_output());
    let ended = ended.await.context("the browser does not end")??;
    ensure!(ended.status.success(), "the browser's script failed: {}", ended.status);
    let text = String::from_utf8_lossy(&ended.stdout);
    let line = text.lines().last().context("the browser's script said nothing")?;
    let measured: Vec<Measured> = serde_json::from_str(line).context("the browser's figures are not readable")?;
    Ok(measured.into_iter().map(figure).collect())
}

fn figure(measured: Measured) -> Figure {
    let Measured { name, product, peer, runs } = measured;
    match peer {
        Some(peer) => Figure::against(&name, product, peer, Better::Higher, runs).promise(FRAMES_LEAST),
        None if name == "ui_first_paint_ms" => {
            Figure::alone(&name, product, Better::Lower, runs).promise(FIRST_PAINT_MS)
        }
        None => Figure::alone(&name, product, Better::Lower, runs),
    }
}
