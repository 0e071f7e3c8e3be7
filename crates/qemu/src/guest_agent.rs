//! The QEMU guest agent (QGA) in the guest, over its virtio-serial socket.
//!
//! The channel is a dumb byte pipe that outlives connections: it may hold the rest of an answer to someone
//! who stopped waiting, and nobody may be listening in the guest. So each connection begins with
//! `guest-sync-delimited`, which throws old bytes away on both ends, and each call has a deadline.
//!
//! Failure behaviour: after any error but a refusal ([`GuestAgentError::Refused`]) the connection's state is
//! unknown and the next call synchronizes anew. A guest without an agent, or one that hangs, shows as
//! [`GuestAgentError::Silent`]. One call at a time: the agent itself works that way.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Duration, Instant, timeout_at};

use crate::ErrorClass;

/// The agent puts this byte, which is not valid UTF-8, before the answer to `guest-sync-delimited`.
const DELIMITER: u8 = 0xff;
/// The guest is not trusted: an answer may not take up more memory than this. The agent's own limit for
/// the output of a command is 16 MiB.
const ANSWER_LIMIT_BYTES: u64 = 32 << 20;
const EXEC_STATUS: &str = "guest-exec-status";
const EXEC_POLL: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum GuestAgentError {
    #[error("cannot reach the guest agent's socket {}: is the QEMU process running?", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the guest agent did not answer `{command}` in time: it may not be installed or started in the guest, or the guest hangs"
    )]
    Silent { command: &'static str },
    #[error("the guest agent refused `{command}`: {desc}")]
    Refused { command: &'static str, desc: String },
    #[error("the guest agent's answer to `{command}` cannot be understood: {reason}")]
    Answer { command: &'static str, reason: String },
    #[error("the connection to the guest agent broke during `{command}`")]
    Broken {
        command: &'static str,
        #[source]
        source: std::io::Error,
    },
}

impl GuestAgentError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Connect { source, .. } => crate::class_of_io(source),
            Self::Silent { .. } | Self::Broken { .. } => ErrorClass::Transient,
            Self::Refused { .. } => ErrorClass::Conflict,
            Self::Answer { .. } => ErrorClass::Permanent,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShutdownMode {
    Powerdown,
    Halt,
    Reboot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// `None` if a signal ended the program.
    pub exit_code: Option<i64>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The agent cut the output short.
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GuestInterface {
    pub name: String,
    #[serde(rename = "hardware-address", default)]
    pub mac: Option<String>,
    #[serde(rename = "ip-addresses", default)]
    pub addresses: Vec<GuestAddress>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GuestAddress {
    #[serde(rename = "ip-address")]
    pub address: String,
    #[serde(rename = "prefix")]
    pub prefix_length: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct HostName {
    host_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct OsInfo {
    pretty_name: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct ExecStarted {
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ExecStatus {
    exited: bool,
    exitcode: Option<i64>,
    out_data: Option<String>,
    err_data: Option<String>,
    #[serde(default)]
    out_truncated: bool,
    #[serde(default)]
    err_truncated: bool,
}

#[derive(Debug)]
pub struct GuestAgent {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    next_sync_id: u32,
    /// Nothing is under way on the channel, so that the next line answers the next command.
    synchronized: bool,
}

impl GuestAgent {
    /// Opens the socket, which succeeds with QEMU alone: whether the guest answers shows the first call.
    pub async fn connect(path: &Path) -> Result<Self, GuestAgentError> {
        let stream = crate::connect_socket(path)
            .await
            .map_err(|source| GuestAgentError::Connect { path: path.to_owned(), source })?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            reader: BufReader::new(reader),
            writer,
            // Differs between connections, so that no old answer is taken for ours.
            next_sync_id: std::process::id() ^ subsecond_nanos(),
            synchronized: false,
        })
    }

    pub async fn ping(&mut self, deadline: Instant) -> Result<(), GuestAgentError> {
        self.call::<Value>("guest-ping", json!({}), deadline).await?;
        Ok(())
    }

    /// The guest's wall clock, in nanoseconds since the Unix epoch. It stands still while the guest does.
    pub async fn time_ns(&mut self, deadline: Instant) -> Result<i64, GuestAgentError> {
        self.call("guest-get-time", json!({}), deadline).await
    }

    /// What the guest calls itself.
    pub async fn host_name(&mut self, deadline: Instant) -> Result<String, GuestAgentError> {
        let answer: HostName = self.call("guest-get-host-name", json!({}), deadline).await?;
        Ok(answer.host_name)
    }

    /// The operating system's name and version, for people.
    pub async fn os_name(&mut self, deadline: Instant) -> Result<String, GuestAgentError> {
        let command = "guest-get-osinfo";
        let answer: OsInfo = self.call(command, json!({}), deadline).await?;
        answer
            .pretty_name
            .or(answer.name)
            .ok_or_else(|| GuestAgentError::Answer { command, reason: "it names no system".to_owned() })
    }

    /// Runs a program in the guest, without a shell: what came of it, or nothing if it has not ended within `limit`; then it
    /// goes on in the guest. Each answer of the agent may take `patience`, and is told to `heard`.
    pub async fn exec(
        &mut self,
        path: &str,
        args: &[&str],
        limit: Duration,
        patience: Duration,
        mut heard: impl FnMut(),
    ) -> Result<Option<ExecOutcome>, GuestAgentError> {
        let deadline = Instant::now() + limit;
        let program = self.exec_start(path, args, Instant::now() + patience).await?;
        loop {
            let outcome = self.exec_outcome(program, Instant::now() + patience).await?;
            heard();
            if outcome.is_some() || Instant::now() >= deadline {
                return Ok(outcome);
            }
            tokio::time::sleep(EXEC_POLL).await;
        }
    }

    async fn exec_start(&mut self, path: &str, args: &[&str], deadline: Instant) -> Result<i64, GuestAgentError> {
        let request = json!({"path": path, "arg": args, "capture-output": true});
        let started: ExecStarted = self.call("guest-exec", request, deadline).await?;
        Ok(started.pid)
    }

    /// What came of a program that was started; nothing while it runs. The agent tells it once.
    async fn exec_outcome(&mut self, pid: i64, deadline: Instant) -> Result<Option<ExecOutcome>, GuestAgentError> {
        let status: ExecStatus = self.call(EXEC_STATUS, json!({"pid": pid}), deadline).await?;
        if !status.exited {
            return Ok(None);
        }
        let decode = |text: Option<String>| {
            BASE64
                .decode(text.unwrap_or_default())
                .map_err(|error| GuestAgentError::Answer { command: EXEC_STATUS, reason: error.to_string() })
        };
        Ok(Some(ExecOutcome {
            exit_code: status.exitcode,
            stdout: decode(status.out_data)?,
            stderr: decode(status.err_data)?,
            truncated: status.out_truncated || status.err_truncated,
        }))
    }

    /// Sets the guest's wall clock, in nanoseconds since the Unix epoch.
    pub async fn set_time_ns(&mut self, time_ns: i64, deadline: Instant) -> Result<(), GuestAgentError> {
        self.call::<Value>("guest-set-time", json!({"time": time_ns}), deadline).await?;
        Ok(())
    }

    /// Writes out and freezes all file systems; how many. Until [`Self::thaw`] the guest's writes wait, and the agent
    /// does little else.
    pub async fn freeze(&mut self, deadline: Instant) -> Result<u64, GuestAgentError> {
        self.call("guest-fsfreeze-freeze", json!({}), deadline).await
    }

    /// Lets the guest write again; how many file systems were frozen.
    pub async fn thaw(&mut self, deadline: Instant) -> Result<u64, GuestAgentError> {
        self.call("guest-fsfreeze-thaw", json!({}), deadline).await
    }

    /// Whether file systems are frozen for a snapshot.
    pub async fn is_frozen(&mut self, deadline: Instant) -> Result<bool, GuestAgentError> {
        let status: String = self.call("guest-fsfreeze-status", json!({}), deadline).await?;
        Ok(status == "frozen")
    }

    pub async fn network_interfaces(&mut self, deadline: Instant) -> Result<Vec<GuestInterface>, GuestAgentError> {
        self.call("guest-network-get-interfaces", json!({}), deadline).await
    }

    /// Asks the guest to shut down. The agent does not answer when it works; whoever asks watches QEMU.
    pub async fn shutdown(&mut self, mode: ShutdownMode, deadline: Instant) -> Result<(), GuestAgentError> {
        self.synchronize(deadline).await?;
        self.synchronized = false;
        self.send("guest-shutdown", json!({"mode": mode}), deadline).await
    }

    async fn call<T: DeserializeOwned>(
        &mut self,
        command: &'static str,
        arguments: Value,
        deadline: Instant,
    ) -> Result<T, GuestAgentError> {
        self.synchronize(deadline).await?;
        // Until the answer is here, whoever drops this future leaves the channel in disorder.
        self.synchronized = false;
        self.send(command, arguments, deadline).await?;
        let line = self.line(command, deadline).await?;
        let answer = parse(command, &line)?;
        self.synchronized = true;
        if let Some(error) = answer.get("error") {
            let desc = error["desc"].as_str().unwrap_or("no reason given");
            return Err(GuestAgentError::Refused { command, desc: desc.to_owned() });
        }
        serde_json::from_value(answer["return"].clone())
            .map_err(|error| GuestAgentError::Answer { command, reason: error.to_string() })
    }

    async fn synchronize(&mut self, deadline: Instant) -> Result<(), GuestAgentError> {
        if self.synchronized {
            return Ok(());
        }
        let command = "guest-sync-delimited";
        self.next_sync_id = self.next_sync_id.wrapping_add(1);
        let id = self.next_sync_id;
        // The delimiter in front makes the agent's parser drop half a command of an earlier client.
        self.write(command, &[DELIMITER], deadline).await?;
        self.send(command, json!({"id": id}), deadline).await?;
        loop {
            let line = self.line(command, deadline).await?;
            // The rest of an earlier answer may stand before the delimiter, with a delimiter of its own.
            let Some(start) = line.iter().rposition(|&byte| byte == DELIMITER) else {
                continue;
            };
            // Anything else is the answer to an earlier client's synchronization.
            if parse(command, &line[start + 1..]).is_ok_and(|answer| answer["return"] == json!(id)) {
                self.synchronized = true;
                return Ok(());
            }
        }
    }

    async fn send(
        &mut self,
        command: &'static str,
        arguments: Value,
        deadline: Instant,
    ) -> Result<(), GuestAgentError> {
        let mut message = json!({"execute": command});
        if arguments.as_object().is_some_and(|a| !a.is_empty()) {
            message["arguments"] = arguments;
        }
        let line = format!("{message}\n");
        self.write(command, line.as_bytes(), deadline).await
    }

    async fn write(&mut self, command: &'static str, bytes: &[u8], deadline: Instant) -> Result<(), GuestAgentError> {
        timeout_at(deadline, self.writer.write_all(bytes))
            .await
            .map_err(|_| GuestAgentError::Silent { command })?
            .map_err(|source| GuestAgentError::Broken { command, source })
    }

    async fn line(&mut self, command: &'static str, deadline: Instant) -> Result<Vec<u8>, GuestAgentError> {
        let mut line = Vec::new();
        let mut limited = (&mut self.reader).take(ANSWER_LIMIT_BYTES);
        timeout_at(deadline, limited.read_until(b'\n', &mut line))
            .await
            .map_err(|_| GuestAgentError::Silent { command })?
            .map_err(|source| GuestAgentError::Broken { command, source })?;
        match line.last() {
            Some(b'\n') => Ok(line),
            Some(_) if line.len() as u64 >= ANSWER_LIMIT_BYTES => Err(GuestAgentError::Answer {
                command,
                reason: format!("it is longer than {ANSWER_LIMIT_BYTES} bytes"),
            }),
            _ => Err(GuestAgentError::Broken { command, source: std::io::ErrorKind::UnexpectedEof.into() }),
        }
    }
}

fn parse(command: &'static str, line: &[u8]) -> Result<Value, GuestAgentError> {
    serde_json::from_slice(line).map_err(|error| GuestAgentError::Answer { command, reason: error.to_string() })
}

fn subsecond_nanos() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.subsec_nanos())
}
