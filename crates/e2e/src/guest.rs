//! The test guest from outside: its image, what it is told to do, and what it answers.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cli::profile_directory;

/// Name of the image that [`crate::Lab::import_guest`] makes.
pub const GUEST_IMAGE: &str = "guest";
/// Where the guest echoes what it is sent.
pub const ECHO_PORT: u16 = 7;
/// Where in the guest numbered blocks are written, relative to its data partition.
pub const SEQUENCE_FILE: &str = "/seq";

/// The bootable disk; built if it is not there.
pub fn guest_image() -> Result<PathBuf> {
    let profile = profile_directory()?;
    let path = profile.parent().context("the build has no target directory")?.join("guest/guest.qcow2");
    if !path.is_file() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let built = Command::new("cargo").args(["xtask", "guest"]).current_dir(root).status();
        if !built.context("cannot run cargo")?.success() {
            bail!("`cargo xtask guest` failed");
        }
    }
    Ok(path)
}

/// What a guest does from its first boot on. Numbered blocks stay on its disk across reboots but are written only
/// during the first run, so that what was acknowledged can still be compared after a power loss.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    /// Writes numbered blocks and acknowledges each to this observer.
    pub writes_to: Option<SocketAddr>,
    /// Writes numbered blocks to its first volume as soon as it has one, and acknowledges each to this observer.
    pub volume_writes_to: Option<SocketAddr>,
    /// Sends clock ticks to this observer.
    pub ticks_to: Option<SocketAddr>,
    /// Verifies and rewrites this much memory for ever.
    pub memory_check_mib: u32,
    /// Dirties this much memory at this rate in MiB/s.
    pub dirty: Option<(u32, u32)>,
}

impl Workload {
    /// cloud-init user-data in the subset that the test guest reads.
    pub fn user_data(&self) -> String {
        let mut text = String::from("#cloud-config\nbootcmd:\n");
        // Writing to a String can't fail.
        let mut line = |command: String| _ = writeln!(text, "  - {command}");
        line(format!("test -f /data{SEQUENCE_FILE} && wl seqcheck /data{SEQUENCE_FILE} > /run/wl/seqcheck"));
        line(format!("nc -ll -p {ECHO_PORT} -e cat > /dev/null 2>&1 &"));
        if self.memory_check_mib > 0 {
            line(format!("wl memcheck {} > /run/memcheck.log 2>&1 &", self.memory_check_mib));
        }
        if let Some((mib, mib_per_s)) = self.dirty {
            line(format!("wl dirty {mib} {mib_per_s} > /run/dirty.log 2>&1 &"));
        }
        if let Some(observer) = self.volume_writes_to {
            // Behind its own disk and its seed.
            let wait = "while [ ! -b /dev/vdc ]; do usleep 50000; done";
            line(format!("({wait}; wl seq /dev/vdc {observer} 2000) > /run/volume.log 2>&1 &"));
        }
        if let Some(observer) = self.ticks_to {
            line(format!("wl clock 5000 {observer} > /run/clock.log 2>&1 &"));
        }
        if let Some(observer) = self.writes_to {
            text.push_str("runcmd:\n");
            let mut line = |command: String| _ = writeln!(text, "  - {command}");
            line(format!("dd if=/dev/zero of=/data{SEQUENCE_FILE} bs=1048576 count=16"));
            line("sync".to_owned());
            line(format!("wl seq /data{SEQUENCE_FILE} {observer} 2000 > /run/seq.log 2>&1 &"));
        }
        text
    }
}

/// The body of a `GET` over a new connection.
pub fn http_get(address: IpAddr, path: &str, limit: Duration) -> io::Result<String> {
    let deadline = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, 80), limit)?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if !head.lines().next().is_some_and(|status| status.contains(" 200")) {
        return Err(io::Error::other(head.to_owned()));
    }
    Ok(body.to_owned())
}

/// The latest `name=` of a running workload, from the guest's own report.
pub fn workload_figure(address: IpAddr, name: &str) -> Result<u64> {
    let text = http_get(address, "/cgi-bin/wl", Duration::from_secs(5)).context("the guest does not answer")?;
    let value = text.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let value = value.with_context(|| format!("the guest reports no '{name}': {text}"))?;
    value.parse().with_context(|| format!("the guest reports {name}={value}"))
}
