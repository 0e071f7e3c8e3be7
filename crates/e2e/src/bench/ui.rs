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

/// VMs in the store while the UI is measured; 25,000 hosts have them.
pub const UI_OBJECTS: u32 = 400_000;
const VMS_PER_HOST: u32 = 16;
/// One of them is searched for.
const OBJECTS_LEAST: u32 = 20_000;
const LIMIT: Duration = Duration::from_secs(600);
/// Of the frames of an empty page. A frame or two in a hundred are the measurement's own.
const FRAMES_LEAST: f64 = 0.97;
const FIRST_PAINT_MS: f64 = 1000.0;
/// Compressed, of the first page.
const JAVASCRIPT_KB: f64 = 150.0;

/// As the browser's script says it.
#[derive(Deserialize)]
struct Measured {
    name: String,
    product: f64,
    peer: Option<f64>,
    runs: usize,
}

pub async fn ui(objects: u32) -> Result<Vec<Figure>> {
    ensure!(objects >= OBJECTS_LEAST, "lists are measured with {OBJECTS_LEAST} objects or more");
    let controller = Filled::start(objects, objects / VMS_PER_HOST).await?;
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
    let alone = || Figure::alone(&name, product, Better::Lower, runs);
    match (name.as_str(), peer) {
        (name, Some(peer)) if name.ends_with("_long_frames") => {
            Figure::against(name, product, peer, Better::Lower, runs)
        }
        (name, Some(peer)) => Figure::against(name, product, peer, Better::Higher, runs).promise(FRAMES_LEAST),
        ("ui_first_paint_ms", None) => alone().promise(FIRST_PAINT_MS),
        ("ui_initial_javascript_kb", None) => alone().promise(JAVASCRIPT_KB),
        (_, None) => alone(),
    }
}
