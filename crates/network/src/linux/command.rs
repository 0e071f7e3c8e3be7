//! Running `ip`, `bridge` and `nft` with argument vectors, in the right namespace, for a bounded time.

use std::io::ErrorKind;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::own_namespace;
use crate::error::{ErrorClass, NetworkError, Result};

/// Netlink answers in microseconds, but a host under memory pressure may take long to start a process.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Ip,
    Bridge,
    Nft,
}

impl Tool {
    pub fn program(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Bridge => "bridge",
            Self::Nft => "nft",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Ip | Self::Bridge => "iproute2",
            Self::Nft => "nftables",
        }
    }
}

/// The tools, bound to a namespace.
pub struct Tools {
    pub namespace: Option<String>,
    /// What the names of routers' namespaces begin with.
    pub routers: String,
}

impl Tools {
    /// Of the host in a named network namespace, by default in this process's.
    pub fn of(host: Option<&str>) -> Self {
        let namespace = host.map(str::to_owned);
        let routers = namespace.clone().or_else(own_namespace).unwrap_or_else(|| "gantry".to_owned());
        Self { namespace, routers }
    }

    /// Runs a tool, gives it `input`, and returns its output whatever its exit status.
    pub async fn run(&self, tool: Tool, args: &[&str], input: &[u8], attempt: &str) -> Result<Output> {
        let mut command = self.command(tool);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Messages are matched in English.
        command.env("LC_ALL", "C");
        let mut child = command.spawn().map_err(|source| match source.kind() {
            ErrorKind::NotFound => NetworkError::ProgramMissing { program: tool.program(), package: tool.package() },
            _ => NetworkError::Spawn { program: tool.program().into(), source },
        })?;
        let mut stdin = child.stdin.take();
        let feed = async {
            if let Some(stdin) = &mut stdin {
                // A tool that stops at a bad line closes its input; its exit status and message tell more.
                if let Err(error) = stdin.write_all(input).await {
                    tracing::debug!(tool = tool.program(), %error, "the tool closed its input early");
                }
            }
            drop(stdin);
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        match tokio::time::timeout(LIMIT, both).await {
            Ok(output) => output.map_err(|source| NetworkError::Spawn { program: tool.program().into(), source }),
            Err(_) => Err(NetworkError::TimedOut {
                program: tool.program(),
                attempt: attempt.to_owned(),
                limit_ms: LIMIT.as_millis() as u64,
            }),
        }
    }

    /// Runs a tool that reads and returns what it printed as JSON.
    pub async fn query<T: serde::de::DeserializeOwned>(&self, tool: Tool, args: &[&str], attempt: &str) -> Result<T> {
        let output = self.run(tool, args, b"", attempt).await?;
        if !output.status.success() {
            return Err(refused(tool, attempt.to_owned(), &output));
        }
        let text = if output.stdout.trim_ascii().is_empty() { b"[]" } else { &output.stdout[..] };
        serde_json::from_slice(text).map_err(|source| NetworkError::Unreadable {
            program: tool.program(),
            attempt: attempt.to_owned(),
            source,
        })
    }

    fn command(&self, tool: Tool) -> Command {
        match (&self.namespace, tool) {
            (None, _) => Command::new(tool.program()),
            (Some(name), Tool::Ip | Tool::Bridge) => {
                let mut command = Command::new(tool.program());
                command.args(["-n", name]);
                command
            }
            // nft has no such option.
            (Some(name), Tool::Nft) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "nft"]);
                command
            }
        }
    }
}

/// The error for a tool that ended with a failure, with the remedy its message suggests.
pub fn refused(tool: Tool, attempt: String, output: &Output) -> NetworkError {
    let message = String::from_utf8_lossy(&output.stderr);
    let told = message.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("Command failed"));
    let reason = told.collect::<Vec<_>>().join("; ");
    if tool == Tool::Nft && reason.contains("exec of \"nft\" failed") {
        return NetworkError::ProgramMissing { program: tool.program(), package: tool.package() };
    }
    let has = |text: &str| reason.contains(text);
    let (class, remedy) = if has("not permitted") || has("Permission denied") {
        (ErrorClass::Denied, "run as root or with CAP_NET_ADMIN".to_owned())
    } else if has("Unknown device type") || has("not supported") {
        let remedy = "the kernel lacks a feature: it needs bridge, vxlan, tun and nf_tables with netdev chains \
                      (modprobe them), Linux 5.18 or newer";
        (ErrorClass::Permanent, remedy.to_owned())
    } else if has("/dev/net/tun") {
        (ErrorClass::Permanent, "load the tun module (modprobe tun)".to_owned())
    } else if has("Cannot find device") || has("No such device") {
        (ErrorClass::NotFound, "apply the host's networks, then repeat".to_owned())
    } else if has("Cannot open network namespace") {
        (ErrorClass::NotFound, "create the network namespace, then repeat".to_owned())
    } else if has("busy") {
        (ErrorClass::Transient, "stop what uses the interface, or repeat later".to_owned())
    } else {
        (ErrorClass::Permanent, format!("check the interface with '{}' and repeat", tool.program()))
    };
    let reason = if reason.is_empty() { format!("'{}' ended with {}", tool.program(), output.status) } else { reason };
    NetworkError::Refused { attempt, reason, remedy, class }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn told(tool: Tool, stderr: &str) -> NetworkError {
        let output = Output { status: ExitStatus::from_raw(256), stdout: Vec::new(), stderr: stderr.into() };
        refused(tool, "create interface 'gx7'".to_owned(), &output)
    }

    #[test]
    fn refusals_carry_class_reason_and_remedy() {
        for (stderr, class, part) in [
            ("RTNETLINK answers: Operation not permitted\nCommand failed -:3\n", ErrorClass::Denied, "CAP_NET_ADMIN"),
            ("Error: Unknown device type.\nCommand failed -:1\n", ErrorClass::Permanent, "the kernel lacks"),
            ("open: /dev/net/tun: No such file or directory\n", ErrorClass::Permanent, "modprobe tun"),
            ("Cannot find device \"gt1\"\n", ErrorClass::NotFound, "apply the host's networks"),
            ("ioctl(TUNSETIFF): Device or resource busy\n", ErrorClass::Transient, "repeat later"),
            ("", ErrorClass::Permanent, "ended with"),
        ] {
            let error = told(Tool::Ip, stderr);
            assert_eq!(error.class(), class, "{error}");
            let text = error.to_string();
            assert!(text.starts_with("could not create interface 'gx7': ") && text.contains(part), "{text}");
            assert!(!text.contains("Command failed"), "{text}");
        }
    }

    #[test]
    fn a_missing_nft_inside_a_namespace_is_recognised() {
        let error = told(Tool::Nft, "exec of \"nft\" failed: No such file or directory\n");
        assert!(error.to_string().contains("install the package 'nftables'"), "{error}");
    }

    #[tokio::test]
    async fn input_larger_than_a_pipe_reaches_the_tool() {
        let tools = Tools { namespace: None, routers: String::new() };
        let empty_lines = vec![b'\n'; 1 << 20];
        let output = tools.run(Tool::Ip, &["-batch", "-"], &empty_lines, "read empty lines").await.unwrap();
        assert!(output.status.success());
    }
}
