//! The bridge port of a network's services, and the namespace behind it.
//!
//! ```text
//!   gb<vni> ── gs<vni> ══ eth0 in a namespace without a name: the services' addresses, a route to each subnet,
//!                          a permanent neighbour for each local port
//! ```
//! The namespace is held by this process alone: when it ends, however it ends, the kernel removes the namespace and both
//! ends of the pair. So there is nothing to take up and nothing to find again after a crash.
//!
//! `gs<vni>` and the vxlan device are isolated bridge ports: no frame passes between them, so that only guests of this
//! host reach the services, and an address outside can't pretend to be one of theirs. What the bridge answers about the
//! services' addresses is in [`crate::target`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use gantry_types::HostNetwork;
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use super::command::{Tool, Tools, refused};
use crate::desired::{IPV6_MINIMUM_MTU_BYTES, NetworkDevices};
use crate::error::{NetworkError, Result};
use crate::mac::MacAddress;
use crate::names;

/// The device inside the namespace.
pub const DEVICE: &str = "eth0";

/// What the services reach, besides answering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    pub subnets: BTreeSet<IpNet>,
    /// The ports of this host. Their answers go to these MACs and nowhere else.
    pub neighbours: BTreeMap<IpAddr, MacAddress>,
}

/// The services' own addresses.
#[derive(Clone, Copy, Debug)]
pub struct ServicesAddresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub link_local: Ipv6Addr,
}

/// The namespace behind a services' port. It lives as long as somebody holds it.
#[derive(Clone)]
pub struct ServicesNamespace(Arc<File>);

impl ServicesNamespace {
    /// Runs `work` on a thread inside the namespace; sockets that it opens stay there.
    pub async fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
        let namespace = self.0.clone();
        blocking(move || inside(&namespace, work)).await
    }
}

/// See the module. Dropping it removes the port, once no socket in its namespace is open any more.
pub struct ServicesPort {
    tools: Tools,
    device: String,
    bridge: String,
    vxlan: String,
    mtu: u32,
    addresses: ServicesAddresses,
    namespace: Arc<File>,
    reach: Reach,
}

impl ServicesPort {
    /// Makes it on the network's bridge, which must be there; `host` is the host's namespace, by default this process's.
    pub async fn make(host: Option<&str>, network: &HostNetwork, addresses: ServicesAddresses) -> Result<Self> {
        let namespace = blocking(|| {
            let make = || {
                unshare(CloneFlags::CLONE_NEWNET)?;
                File::open("/proc/thread-self/ns/net")
            };
            std::thread::scope(|scope| scope.spawn(make).join())
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let spawn = |source| NetworkError::Spawn { program: "a network namespace".into(), source };
        let port = Self {
            tools: Tools::of(host),
            device: names::services_name(network.vni),
            bridge: network.bridge(),
            vxlan: network.vxlan(),
            // The services need IPv6 also where the network has none.
            mtu: network.mtu.max(IPV6_MINIMUM_MTU_BYTES),
            addresses,
            namespace: Arc::new(namespace.await.map_err(spawn)?),
            reach: Reach::default(),
        };
        port.plug(names::services_mac(network.vni)).await?;
        Ok(port)
    }

    async fn plug(&self, mac: MacAddress) -> Result<()> {
        let Self { device, bridge, vxlan, mtu, .. } = self;
        let attempt = format!("make the services' port '{device}'");
        // One that a killed agent left may live a little longer than it.
        self.tools.run(Tool::Ip, &["link", "del", "dev", device], b"", &attempt).await?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        let lines = format!(
            "link add name {device} mtu {mtu} type veth peer name {DEVICE} address {mac} mtu {mtu} netns {path}\n\
             link set dev {device} addrgenmode none\n\
             link set dev {device} master {bridge}\n\
             link set dev {device} type bridge_slave learning off flood off mcast_flood on bcast_flood on isolated on\n\
             link set dev {vxlan} type bridge_slave isolated on\n\
             link set dev {device} up\n"
        );
        self.host_batch(Tool::Ip, &lines, &attempt).await?;
        let entry = format!("fdb replace {mac} dev {device} master static sticky\n");
        self.host_batch(Tool::Bridge, &entry, &attempt).await?;
        let ServicesAddresses { v4, v6, link_local } = self.addresses;
        let lines = format!(
            "link set dev lo up\n\
             link set dev {DEVICE} addrgenmode none\n\
             addr add {v4}/32 dev {DEVICE}\n\
             addr add {v6}/128 dev {DEVICE} nodad\n\
             addr add {link_local}/64 dev {DEVICE} nodad\n\
             link set dev {DEVICE} up\n"
        );
        self.inner_batch(lines, &attempt).await
    }

    /// Whether its outer end still is as it was made.
    pub async fn is_whole(&self) -> Result<bool> {
        let rows: Vec<Value> = self.tools.query(Tool::Ip, &["-d", "-j", "link", "show"], "list interfaces").await?;
        let find = |name: &str| rows.iter().find(|row| row["ifname"] == name);
        let is_isolated_port = |row: &Value| {
            row["master"] == self.bridge.as_str() && row["linkinfo"]["info_slave_data"]["isolated"] == true
        };
        let is_up = |row: &Value| row["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
        let own = find(&self.device).is_some_and(|row| is_isolated_port(row) && is_up(row) && row["mtu"] == self.mtu);
        Ok(own && find(&self.vxlan).is_some_and(is_isolated_port))
    }

    /// Makes routes and neighbours what `reach` says.
    pub async fn set_reach(&mut self, reach: Reach) -> Result<()> {
        let mut lines = String::new();
        let mut line = |words: String| lines.push_str(&(words + "\n"));
        for subnet in reach.subnets.difference(&self.reach.subnets) {
            let source = if subnet.addr().is_ipv4() { format!(" src {}", self.addresses.v4) } else { String::new() };
            line(format!("route replace {} dev {DEVICE}{source}", subnet.trunc()));
        }
        for (address, mac) in reach.neighbours.iter().filter(|(a, m)| self.reach.neighbours.get(*a) != Some(*m)) {
            line(format!("neigh replace {address} lladdr {mac} dev {DEVICE} nud permanent"));
        }
        for address in self.reach.neighbours.keys().filter(|address| !reach.neighbours.contains_key(*address)) {
            line(format!("neigh del {address} dev {DEVICE}"));
        }
        for subnet in self.reach.subnets.difference(&reach.subnets) {
            line(format!("route del {} dev {DEVICE}", subnet.trunc()));
        }
        if !lines.is_empty() {
            self.inner_batch(lines, &format!("set who '{}' serves", self.device)).await?;
        }
        self.reach = reach;
        Ok(())
    }

    /// Runs `work` in the namespace.
    pub async fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
        self.namespace().enter(work).await
    }

    pub fn namespace(&self) -> ServicesNamespace {
        ServicesNamespace(self.namespace.clone())
    }

    async fn host_batch(&self, tool: Tool, lines: &str, attempt: &str) -> Result<()> {
        let output = self.tools.run(tool, &["-batch", "-"], lines.as_bytes(), attempt).await?;
        if output.status.success() { Ok(()) } else { Err(refused(tool, attempt.to_owned(), &output)) }
    }

    async fn inner_batch(&self, lines: String, attempt: &str) -> Result<()> {
        let spawn = |source| NetworkError::Spawn { program: Tool::Ip.program().into(), source };
        let output = self.enter(move || ip_batch(&lines)).await.and_then(|output| output).map_err(spawn)?;
        if output.status.success() { Ok(()) } else { Err(refused(Tool::Ip, attempt.to_owned(), &output)) }
    }
}

/// A thread's children are in its namespaces.
fn ip_batch(lines: &str) -> std::io::Result<Output> {
    let mut command = Command::new(Tool::Ip.program());
    command.args(["-batch", "-"]).env("LC_ALL", "C");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(stdin) = &mut child.stdin {
        // A tool that stops at a bad line closes its input; its exit status and message tell more.
        if let Err(error) = stdin.write_all(lines.as_bytes()) {
            tracing::debug!(%error, "ip closed its input early");
        }
    }
    child.wait_with_output()
}

/// On a thread of its own: a namespace can't be left again for sure.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    let enter = || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    };
    std::thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
