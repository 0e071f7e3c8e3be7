//! The data plane of a Linux host, through `ip`, `bridge` and `nft`.
//!
//! It works in one network namespace: the process's own, or a named one. Each call reads the kernel. Only of what it was
//! last made to be it keeps a memory: a change of security groups alone then reads and writes groups alone, which on a
//! host with hundreds of ports is a small part of the whole. Every change goes through a batch on a child's standard input, one child for consecutive changes
//! of one tool; nothing passes through a shell.

mod announce;
mod capture;
pub(crate) mod command;
pub(crate) mod conntrack;
mod counters;
mod execute;
mod interfaces;
mod read;
pub(crate) mod router;
pub mod services;
mod setting;
mod tap;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use gantry_types::HostLinks;
use tokio::sync::{Mutex, mpsc};

use self::command::Tools;
use crate::desired::{HostNetwork, HostNetworks, LocalPort, Validate};
use crate::error::{NetworkError, Result};
use crate::observed::Observed;
use crate::plan::{Change, Scope, plan};
use crate::plane::{Applied, CaptureLimits, DataPlane, PortCounters, PortRef, Traffic};
use crate::target;
use crate::underlay::{self, UnderlayReport};

/// See the module.
pub struct LinuxDataPlane {
    tools: Tools,
    /// What the host was last made to be as a whole, if nothing of it has been changed here since. Held while converging:
    /// two calls at once would each undo or repeat the other's steps.
    made: Mutex<Option<Observed>>,
    changes_total: AtomicU64,
}

impl LinuxDataPlane {
    /// The data plane of the network namespace this process runs in.
    pub fn current() -> Self {
        Self::new(None)
    }

    /// The data plane of a named network namespace (`ip netns`).
    pub fn in_namespace(name: &str) -> Self {
        Self::new(Some(name.to_owned()))
    }

    fn new(namespace: Option<String>) -> Self {
        Self { tools: Tools::of(namespace.as_deref()), made: Mutex::new(None), changes_total: AtomicU64::new(0) }
    }

    /// How many changes this plane has made to the kernel so far.
    pub fn changes_total(&self) -> u64 {
        self.changes_total.load(Ordering::Relaxed)
    }

    /// Names what is wanted of the host as a whole.
    async fn become_all(&self, desired: Observed) -> Result<Applied> {
        let mut made = self.made.lock().await;
        // Forgotten until all is done.
        let actual = match made.take() {
            Some(before) if differ_in_groups_only(&before, &desired) => {
                Observed { groups: read::groups_alone(&self.tools).await?, ..before }
            }
            _ => read::observe(&self.tools).await?,
        };
        let applied = self.make(&plan(&actual, &desired, Scope::Everything)?).await?;
        *made = Some(desired);
        Ok(applied)
    }

    async fn make(&self, changes: &[Change]) -> Result<Applied> {
        execute::make(&self.tools, changes).await?;
        self.changes_total.fetch_add(changes.len() as u64, Ordering::Relaxed);
        for change in changes {
            tracing::debug!(namespace = self.tools.namespace, %change, "data plane changed");
        }
        Ok(Applied { changes: changes.iter().map(ToString::to_string).collect() })
    }

    async fn flip(&self, port: &PortRef, changes: &[Change]) -> Result<()> {
        let mut made = self.made.lock().await;
        *made = None;
        match execute::flip(&self.tools, changes).await {
            Ok(()) => {
                self.changes_total.fetch_add(changes.len() as u64, Ordering::Relaxed);
                Ok(())
            }
            // Only a failure pays for the look at what is missing.
            Err(error) => match read::observe(&self.tools).await {
                Ok(actual) if !actual.has_port(port) => {
                    Err(NetworkError::NoInterface { name: port.tap(), needed_for: format!("port {}", port.id) })
                }
                _ => Err(error),
            },
        }
    }
}

fn differ_in_groups_only(one: &Observed, other: &Observed) -> bool {
    one.groups != other.groups && Observed { groups: other.groups.clone(), ..one.clone() } == *other
}

/// The name of the namespace that this process is in, if it has one.
fn own_namespace() -> Option<String> {
    let inode = |path: &std::path::Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let own = inode(std::path::Path::new("/proc/self/ns/net"))?;
    let named = std::fs::read_dir("/run/netns").ok()?.flatten();
    { named }.find(|entry| inode(&entry.path()) == Some(own))?.file_name().into_string().ok()
}

#[async_trait]
impl DataPlane for LinuxDataPlane {
    async fn apply(&self, desired: &HostNetworks) -> Result<Applied> {
        desired.validate()?;
        self.become_all(target::host(desired)).await
    }

    async fn ensure_port(&self, network: &HostNetwork, port: &LocalPort) -> Result<Applied> {
        let desired = target::one_port(network, port);
        desired.validate()?;
        let mut made = self.made.lock().await;
        *made = None;
        let actual = read::observe(&self.tools).await?;
        self.make(&plan(&actual, &target::host(&desired), Scope::Named)?).await
    }

    async fn activate_port(&self, port: &PortRef) -> Result<()> {
        self.flip(port, &target::activation(port)).await
    }

    async fn deactivate_port(&self, port: &PortRef, new_vtep: IpAddr) -> Result<()> {
        self.flip(port, &target::deactivation(port, new_vtep)).await
    }

    async fn remove_port(&self, port: &PortRef) -> Result<Applied> {
        let mut made = self.made.lock().await;
        // What was made can be taken away without a look, as what is not there any more shows itself.
        if let Some(remembered) = made.take()
            && let Ok(applied) = self.make(&target::removal(&remembered, port)?).await
            && !applied.changes.is_empty()
        {
            return Ok(applied);
        }
        let actual = read::observe(&self.tools).await?;
        self.make(&target::removal(&actual, port)?).await
    }

    fn open_tap(&self, port: &PortRef) -> Result<OwnedFd> {
        tap::open(self.tools.namespace.as_deref(), &port.tap())
    }

    fn capture(&self, port: &PortRef, limits: CaptureLimits) -> Result<mpsc::Receiver<Vec<u8>>> {
        capture::start(self.tools.namespace.as_deref(), &port.tap(), limits)
    }

    async fn observe(&self) -> Result<Observed> {
        read::observe(&self.tools).await
    }

    async fn port_counters(&self, port: &PortRef) -> Result<PortCounters> {
        read::port_counters(&self.tools, port).await
    }

    async fn traffic(&self) -> Result<Traffic> {
        counters::read(&self.tools).await
    }

    async fn check_underlay(&self, network: &HostNetwork) -> Result<UnderlayReport> {
        if let Some(interface) = &network.interface {
            return underlay::check_uplink(network, interface, interfaces::named(&self.tools, interface).await?);
        }
        underlay::check(network, interfaces::with(&self.tools, network.underlay_address).await?)
    }

    async fn links(&self, underlay: IpAddr) -> Result<HostLinks> {
        interfaces::links(&self.tools, underlay).await
    }
}
