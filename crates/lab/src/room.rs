//! The machine room of one lab: builds it, switches its parts off and on, takes it down.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use gantry_cgroup::{Cgroups, scope};
use serde::Serialize;

use crate::{
    LabRecord, cable,
    layout::{HOSTS_MAX, Layout},
    namespace, processes,
};

/// A lab that exists, or is being made.
#[derive(Debug, Clone)]
pub struct Room {
    record: LabRecord,
    layout: Layout,
}

/// What can be seen of a lab without asking its controller.
#[derive(Debug, Clone, Serialize)]
pub struct Sight {
    pub name: String,
    pub controller_url: String,
    pub controller_pid: Option<i32>,
    pub directory: PathBuf,
    pub hosts: Vec<HostSight>,
}

#[derive(Debug, Clone, Serialize)]
pub struct HostSight {
    pub name: String,
    pub address: String,
    pub namespace: String,
    pub agent_pid: Option<i32>,
    /// Whether its cable is in.
    pub cable: bool,
    /// Processes in its namespace, agent included.
    pub processes: usize,
}

const CONTROLLER_PORT_NAME: &str = "ctl";

impl Room {
    pub fn new(record: LabRecord) -> Self {
        let layout = Layout::new(record.index);
        Self { record, layout }
    }

    pub fn record(&self) -> &LabRecord {
        &self.record
    }
    pub fn layout(&self) -> Layout {
        self.layout
    }
    pub fn controller_directory(&self) -> PathBuf {
        self.record.directory.join("controller")
    }
    pub fn host_directory(&self, host: u8) -> PathBuf {
        self.record.directory.join(Layout::host_name(host))
    }
    pub fn log(&self, who: &str) -> PathBuf {
        self.record.directory.join("logs").join(format!("{who}.log"))
    }
    pub fn hosts(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.record.hosts
    }

    /// Number of the host called `name`.
    pub fn host_number(&self, name: &str) -> Result<u8> {
        self.hosts().find(|host| Layout::host_name(*host) == name).with_context(|| {
            format!("lab '{}' has no host '{name}', only host-1 to host-{}", self.record.name, self.record.hosts)
        })
    }

    /// Namespaces and cables; programs come after.
    pub fn build(&self) -> Result<()> {
        require_root()?;
        if !(1..=HOSTS_MAX).contains(&self.record.hosts) {
            bail!("a lab has 1 to {HOSTS_MAX} hosts, not {}", self.record.hosts);
        }
        let layout = self.layout;
        cable::build_switch(layout)?;
        let controller = layout.controller_namespace();
        cable::build_station(layout, &controller, CONTROLLER_PORT_NAME, layout.controller_address())?;
        for host in self.hosts() {
            let namespace = layout.host_namespace(host);
            cable::build_station(layout, &namespace, &Layout::switch_port(host), layout.host_address(host))?;
        }
        cable::build_operator(layout, self.record.hosts)
    }

    /// Where the controller's administrator is kept, in the form of a user's configuration.
    pub fn administrator_file(&self) -> PathBuf {
        self.record.directory.join("administrator.toml")
    }

    /// Makes the controller's data, with the context `context` in [`Self::administrator_file`]; nothing to do if that
    /// was done before. The file is written last: data without it belongs to an init that was interrupted, and nobody
    /// holds its token.
    pub fn init_controller(&self, context: &str) -> Result<()> {
        let (directory, administrator) = (self.controller_directory(), self.administrator_file());
        if administrator.exists() {
            return Ok(());
        }
        if directory.exists() {
            fs::remove_dir_all(&directory).with_context(|| format!("could not remove {}", directory.display()))?;
        }
        let output = self
            .controller_command(&processes::own_executable()?)
            .args(["controller", "init", "--name", context, "--address", &self.layout.controller_address().to_string()])
            .arg("--data")
            .arg(&directory)
            .env("GANTRY_CONFIG", &administrator)
            .output()
            .context("could not run the init command")?;
        if !output.status.success() {
            bail!("the controller could not be made: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Starts the controller unless it runs; returns its pid.
    pub fn start_controller(&self) -> Result<u32> {
        let directory = self.controller_directory();
        let (directory, socket) = (directory.to_string_lossy(), self.power_socket());
        let arguments = ["controller", "run", "--data", &directory, "--power-strip", &socket.to_string_lossy()];
        let namespace = self.layout.controller_namespace();
        if let Some(pid) = processes::running(&namespace, &arguments) {
            return Ok(pid.unsigned_abs());
        }
        processes::start(&namespace, &arguments, &self.log("controller"))
    }

    /// Starts a host's agent unless it runs; returns its pid. The host must have joined.
    pub fn start_agent(&self, host: u8) -> Result<u32> {
        let directory = self.host_directory(host);
        let arguments = ["agent", "run", "--state", &directory.to_string_lossy()];
        let namespace = self.layout.host_namespace(host);
        if let Some(pid) = processes::running(&namespace, &arguments) {
            return Ok(pid.unsigned_abs());
        }
        processes::start(&namespace, &arguments, &self.log(&Layout::host_name(host)))
    }

    /// Joins a host to the controller with `token`; nothing to do if it has joined already.
    pub fn join(&self, host: u8, token: &str) -> Result<()> {
        let directory = self.host_directory(host);
        let mut command = self.command(host, &processes::own_executable()?);
        let output = command
            .args(["host", "join", &self.layout.controller_url(), "--name", &Layout::host_name(host)])
            .args(["--agent-address", &self.layout.agent_address(host)])
            .args(["--underlay-address", &self.layout.host_address(host).to_string()])
            .arg("--state")
            .arg(&directory)
            // Not an argument, which every user of the machine could read.
            .env("GANTRY_JOIN_TOKEN", token)
            .output()
            .context("could not run the join command")?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            bail!("{} could not join: {}", Layout::host_name(host), message.trim());
        }
        Ok(())
    }

    /// `program` inside a host's namespace.
    pub fn command(&self, host: u8, program: &std::path::Path) -> Command {
        processes::in_namespace(&self.layout.host_namespace(host), program)
    }
    /// `program` inside the controller's namespace.
    pub fn controller_command(&self, program: &std::path::Path) -> Command {
        processes::in_namespace(&self.layout.controller_namespace(), program)
    }

    /// Power loss: nobody outside hears a goodbye, because the cable goes first. Returns how many processes died.
    pub fn unplug(&self, host: u8) -> Result<usize> {
        require_root()?;
        cable::set_plugged(self.layout, host, false)?;
        namespace::kill_all(&self.layout.host_namespace(host))
    }

    /// Power back: the links come up and the agent starts.
    pub fn plug(&self, host: u8) -> Result<u32> {
        require_root()?;
        self.build()?;
        self.power_on(host)
    }

    /// The same in a lab whose parts are all there; also from another namespace than the operator's.
    pub(crate) fn power_on(&self, host: u8) -> Result<u32> {
        cable::set_plugged(self.layout, host, true)?;
        self.start_agent(host)
    }

    pub fn cut(&self, host: u8) -> Result<()> {
        require_root()?;
        cable::set_plugged(self.layout, host, false)
    }
    pub fn mend(&self, host: u8) -> Result<()> {
        require_root()?;
        cable::set_plugged(self.layout, host, true)
    }

    pub fn look(&self) -> Sight {
        let layout = self.layout;
        let controller = self.controller_directory();
        let arguments = ["controller", "run", "--data", &controller.to_string_lossy()];
        let hosts = self.hosts().map(|host| {
            let (namespace, directory) = (layout.host_namespace(host), self.host_directory(host));
            let arguments = ["agent", "run", "--state", &directory.to_string_lossy()];
            HostSight {
                name: Layout::host_name(host),
                address: layout.host_address(host).to_string(),
                agent_pid: processes::running(&namespace, &arguments),
                cable: cable::is_plugged(layout, host),
                processes: namespace::processes(&namespace).len(),
                namespace,
            }
        });
        Sight {
            name: self.record.name.to_string(),
            controller_url: layout.controller_url(),
            controller_pid: processes::running(&layout.controller_namespace(), &arguments),
            directory: self.record.directory.clone(),
            hosts: hosts.collect(),
        }
    }

    /// Ends everything and removes it; the directory stays if the lab was made to be kept.
    pub fn down(&self) -> Result<()> {
        require_root()?;
        // Hosts first: a controller that goes last sees its hosts lost, which changes nothing any more.
        let mut namespaces = namespace::with_prefix(&self.layout.namespace_prefix());
        namespaces.sort_by_key(|name| *name == self.layout.switch_namespace());
        for namespace in namespaces {
            namespace::remove(&namespace)?;
        }
        cable::remove_operator(self.layout)?;
        for host in self.hosts() {
            let name = Layout::host_name(host).parse().context("a host's name")?;
            // Its agent would find them when it starts again; no agent of this lab will.
            Cgroups::find(&scope(&name, &self.host_directory(host))).apply(&[]);
        }
        if !self.record.keep {
            let directory = &self.record.directory;
            fs::remove_dir_all(directory).with_context(|| format!("could not remove {}", directory.display()))?;
        }
        Ok(())
    }
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("a lab makes network namespaces and needs root; run it as root or with sudo")
}
