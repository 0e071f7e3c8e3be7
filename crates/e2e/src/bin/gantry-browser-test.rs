//! The web UI in a real browser: `web/tests/browser/lab.mjs` drives Debian's chromium against a lab, `scale.mjs` beside it
//! against a datacenter that is only made up. Run by `cargo xtask test`; exits with 1 if a test failed.
//!
//! The lab, its password and the controller's process are given to the tests here; what is asserted stands there. They
//! leave pictures of every page in `target/web-screenshots`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_e2e::{Lab, guest_image};
use tokio::process::Command;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> Result<()> {
    ensure!(web().join("node_modules").is_dir(), "the web UI's packages are not installed: cargo xtask web");
    node("scale.mjs", &[]).await?;
    let lab = Lab::up(2).await?;
    let password_file = lab.room().record().directory.join("web-password");
    let password =
        fs::read_to_string(&password_file).with_context(|| format!("cannot read {}", password_file.display()))?;
    let controller = lab.room().look().controller_pid.context("there is no controller")?;
    let image = guest_image()?;
    let image = image.to_str().context("the guest image's path is not UTF-8")?;
    let environment = [
        ("GANTRY_URL", lab.room().layout().controller_url()),
        ("GANTRY_PASSWORD", password.trim().to_owned()),
        ("GANTRY_IMAGE", image.to_owned()),
        ("GANTRY_CONTROLLER_PID", controller.to_string()),
    ];
    node("lab.mjs", &environment).await?;
    lab.passed();
    Ok(())
}

async fn node(script: &str, environment: &[(&str, String)]) -> Result<()> {
    let mut tests = Command::new("node");
    tests.arg(format!("tests/browser/{script}")).current_dir(web()).kill_on_drop(true);
    tests.envs(environment.iter().map(|(name, value)| (name, value)));
    let ended = timeout(LIMIT, tests.status()).await.with_context(|| format!("{script} does not end"))??;
    ensure!(ended.success(), "tests of {script} failed: {ended}");
    Ok(())
}

fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web")
}
