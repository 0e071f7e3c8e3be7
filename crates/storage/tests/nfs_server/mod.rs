//! A real NFS server for tests: nfs-ganesha and rpcbind, in a mount namespace of their own and in the network namespace of
//! the thread that starts them, or in one that is named.
//!
//! It can be killed and started again, and what it exports can be changed. All of it ends with the value.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const READY_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
type Program = [&'static str; 2];
/// Numbers and versions.
const PORTMAPPER: Program = ["100000", "2"];
const SERVES: [Program; 2] = [["100005", "3"], ["100003", "3"]];
/// Where the servers keep what only one of a machine may have.
const OWN: [&str; 2] = ["/run", "/var/lib/nfs"];

/// How the directory is exported.
#[derive(Debug, Clone, Copy)]
pub struct Exported {
    pub writable: bool,
    /// Root there is nobody here.
    pub squashed: bool,
}

/// An address that a namespace gets by [`alone`].
pub const ADDRESS: &str = "10.77.0.9";

/// Gives this thread, and what it starts, a network namespace in which nobody else is.
pub fn alone() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
    // Not 127.0.0.1: the server does not take that for an address of this host.
    for arguments in [&["link", "set", "lo", "up"][..], &["addr", "add", &format!("{ADDRESS}/24"), "dev", "lo"]] {
        assert!(Command::new("ip").args(arguments).status().expect("ip").success(), "ip {arguments:?}");
    }
}

pub const WELL: Exported = Exported { writable: true, squashed: false };

pub struct NfsServer {
    address: String,
    directory: PathBuf,
    namespace: Option<String>,
    state: tempfile::TempDir,
    /// Holds the mount namespace.
    keeper: Child,
    rpcbind: Child,
    ganesha: Option<Child>,
}

impl NfsServer {
    /// Exports a directory at an address that this namespace has.
    pub fn start(address: &str, directory: &Path, exported: Exported) -> Self {
        Self::start_in(None, address, directory, exported)
    }

    pub fn start_in(namespace: Option<&str>, address: &str, directory: &Path, exported: Exported) -> Self {
        let namespace = namespace.map(str::to_owned);
        let mut keep = inside(namespace.as_deref(), "unshare");
        keep.args(["--mount", "--propagation", "private", "sleep", "infinity"]);
        let keeper = keep.spawn().expect("unshare");
        let state = tempfile::tempdir().expect("a directory");
        let mut server = Self {
            address: address.to_owned(),
            directory: directory.to_owned(),
            namespace,
            state,
            rpcbind: Command::new("true").spawn().expect("true"),
            keeper,
            ganesha: None,
        };
        server.rpcbind.wait().expect("true");
        // Until the keeper has its namespace, it is in that of this test.
        let own = fs::read_link("/proc/self/ns/mnt").expect("a namespace");
        let of_keeper = format!("/proc/{}/ns/mnt", server.keeper.id());
        until("a mount namespace", || fs::read_link(&of_keeper).is_ok_and(|other| other != own));
        until("its program", || {
            fs::read(format!("/proc/{}/comm", server.keeper.id())).is_ok_and(|name| name == b"sleep\n")
        });
        for place in OWN {
            server.must(&["mount", "-t", "tmpfs", "tmpfs", place]);
        }
        server.must(&["mkdir", "-p", "/run/rpcbind", "/run/ganesha", "/var/lib/nfs/ganesha"]);
        server.rpcbind = server.program(&["rpcbind", "-f", "-w"]).spawn().expect("run: apt-get install rpcbind");
        // Where the server makes itself known.
        until("portmapper", || server.answers(PORTMAPPER));
        server.resume(exported);
        server
    }

    pub fn url(&self) -> String {
        format!("nfs://{}{}", self.address, self.directory.display())
    }

    /// As a server that fails does: in the middle of whatever it does.
    pub fn kill(&mut self) {
        let Some(mut ganesha) = self.ganesha.take() else { return };
        ganesha.kill().expect("kill");
        ganesha.wait().expect("wait");
    }

    /// It is there again, or for the first time.
    pub fn resume(&mut self, exported: Exported) {
        let config = self.state.path().join("ganesha.conf");
        fs::write(&config, self.config(exported)).expect("its configuration");
        let log = self.state.path().join("ganesha.log");
        let (config, log_text) = (config.to_str().expect("text"), log.to_str().expect("text"));
        let mut ganesha = self.program(&["ganesha.nfsd", "-F", "-L", log_text, "-f", config, "-p", "/run/ganesha/pid"]);
        self.ganesha = Some(ganesha.spawn().expect("run: apt-get install nfs-ganesha nfs-ganesha-vfs"));
        let deadline = Instant::now() + READY_LIMIT;
        while !SERVES.iter().all(|program| self.answers(*program)) {
            let ended = self.ganesha.as_mut().is_some_and(|ganesha| ganesha.try_wait().is_ok_and(|end| end.is_some()));
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(!ended && Instant::now() < deadline, "the NFS server does not come up: {}", said());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn answers(&self, [number, version]: Program) -> bool {
        let asked = self.program(&["rpcinfo", "-t", &self.address, number, version]).status();
        asked.is_ok_and(|status| status.success())
    }

    fn config(&self, exported: Exported) -> String {
        let (address, directory) = (&self.address, self.directory.display());
        let access = if exported.writable { "RW" } else { "RO" };
        let squash = if exported.squashed { "Root_Squash" } else { "No_Root_Squash" };
        format!(
            "NFS_CORE_PARAM {{ Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; Bind_addr = {address}; \
             NFS_Port = 2049; MNT_Port = 20048; }}\n\
             EXPORT {{ Export_Id = 1; Path = \"{directory}\"; Pseudo = \"{directory}\"; Access_Type = {access}; \
             Squash = {squash}; SecType = sys; PrivilegedPort = false; Transports = TCP; Attr_Expiration_Time = 0; \
             FSAL {{ Name = VFS; }} }}\n\
             LOG {{ Default_Log_Level = EVENT; }}\n"
        )
    }

    /// A program in its namespaces.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = inside(self.namespace.as_deref(), "nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id())).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn must(&self, arguments: &[&str]) {
        let status = self.program(arguments).status().expect("nsenter");
        assert!(status.success(), "{arguments:?}: {status}");
    }
}

fn inside(namespace: Option<&str>, program: &str) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

fn until(what: &str, is_there: impl Fn() -> bool) {
    let deadline = Instant::now() + READY_LIMIT;
    while !is_there() {
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

impl Drop for NfsServer {
    fn drop(&mut self) {
        for child in self.ganesha.iter_mut().chain([&mut self.rpcbind, &mut self.keeper]) {
            // One that has ended already can't be killed, and need not.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
