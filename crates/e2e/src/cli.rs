//! The real `gantry` binary, run as a person would, with a configuration of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// No command of the tests takes longer, unless the product hangs.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ran {
    pub line: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output of a command that must have succeeded.
    pub fn ok(self) -> Result<String> {
        self.expect_code(0).map(|ran| ran.stdout)
    }

    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code != code {
            let Self { line, code: got, stdout, stderr } = self;
            bail!("`gantry {line}` ended with {got}, not {code}\nstdout: {stdout}\nstderr: {stderr}");
        }
        Ok(self)
    }

    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let line = self.line.clone();
        let text = self.ok()?;
        serde_json::from_str(&text).with_context(|| format!("`gantry {line}` printed: {text}"))
    }
}

/// One user's view: the binary, and the directories that keep labs and contexts apart.
#[derive(Debug, Clone)]
pub struct Cli {
    program: PathBuf,
    base: PathBuf,
}

impl Cli {
    /// Labs and contexts live under `base`.
    pub fn new(base: &Path) -> Result<Self> {
        Ok(Self { program: program()?, base: base.to_owned() })
    }

    pub fn config(&self) -> PathBuf {
        self.base.join("config.toml")
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The environment of every command, for those that are not run by [`Self::run`].
    pub fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [("GANTRY_LAB_DIR", self.base.clone()), ("GANTRY_CONFIG", self.config()), ("GANTRY_BIN", self.program.clone())]
    }

    pub async fn run<S: AsRef<str>>(&self, arguments: &[S]) -> Result<Ran> {
        self.run_with_input(arguments, "").await
    }

    pub async fn run_with_input<S: AsRef<str>>(&self, arguments: &[S], input: &str) -> Result<Ran> {
        let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let line = words.join(" ");
        let mut command = Command::new(&self.program);
        command
            .args(&words)
            .envs(self.environment())
            .env_remove("GANTRY_CONTEXT")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let ended = async {
            let mut child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
            if let Some(mut stdin) = child.stdin.take() {
                // A command that does not read its input may be gone already.
                stdin.write_all(input.as_bytes()).await.ok();
            }
            child.wait_with_output().await.context("waiting for the command")
        };
        let ended = timeout(COMMAND_LIMIT, ended)
            .await
            .with_context(|| format!("`gantry {line}` hangs: no end after {} s", COMMAND_LIMIT.as_secs()))??;
        Ok(Ran {
            line,
            code: ended.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
        })
    }
}

/// The directory of the cargo profile that this program was built with.
pub fn profile_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running executable")?;
    let directory = own.parent().context("the running executable has no directory")?;
    let tests = directory.file_name().is_some_and(|name| name == "deps");
    let profile = if tests { directory.parent().unwrap_or(directory) } else { directory };
    Ok(profile.to_owned())
}

/// `GANTRY_BIN`, or the binary that was built beside this program.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GANTRY_BIN") {
        return Ok(path.into());
    }
    let path = profile_directory()?.join("gantry");
    if !path.is_file() {
        bail!("{} does not exist; build it: cargo build -p gantry", path.display());
    }
    Ok(path)
}
