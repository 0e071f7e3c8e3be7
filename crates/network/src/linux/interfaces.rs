//! The host's own interfaces: which carries the underlay, and which a bridged network can have.

use std::net::IpAddr;

use gantry_types::HostLinks;
use serde::Deserialize;

use super::command::{Tool, Tools};
use crate::error::Result;
use crate::names;
use crate::underlay::UnderlayReport;

/// A host with more has them from something that makes them by the dozen, for itself.
const LIMIT: usize = 64;
const LOOPBACK: &str = "lo";

#[derive(Deserialize)]
struct Row {
    ifname: String,
    mtu: u32,
    #[serde(default)]
    flags: Vec<String>,
    master: Option<String>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    local: Option<IpAddr>,
    scope: String,
}

impl Row {
    /// What it is used for otherwise: its addresses, or the bridge that it is in.
    fn used(&self) -> Option<String> {
        let address = self.addr_info.iter().find(|address| address.scope != "link").and_then(|address| address.local);
        let address = address.map(|address| format!("it has the address {address}"));
        address.or_else(|| self.master.as_ref().map(|master| format!("it is in '{master}'")))
    }

    /// Not made for networks by us, nor the loopback.
    fn is_hosts_own(&self) -> bool {
        self.ifname != LOOPBACK && names::role(&self.ifname).is_none()
    }

    /// It should have a link and has none. One that is free and down is brought up by whoever uses it first.
    fn lacks_link(&self) -> bool {
        let is = |wanted: &str| self.flags.iter().any(|flag| flag == wanted);
        !is("LOWER_UP") && (is("UP") || self.used().is_some())
    }

    fn has(&self, wanted: IpAddr) -> bool {
        self.addr_info.iter().any(|address| address.local == Some(wanted))
    }
}

async fn rows(tools: &Tools) -> Result<Vec<Row>> {
    tools.query(Tool::Ip, &["-j", "addr", "show"], "list addresses").await
}

/// An interface by its name, with its MTU and what it is used for otherwise.
pub async fn named(tools: &Tools, name: &str) -> Result<Option<(u32, Option<String>)>> {
    let row = rows(tools).await?.into_iter().find(|row| row.ifname == name);
    Ok(row.map(|row| (row.mtu, row.used())))
}

/// The interface that carries an address, with its MTU.
pub async fn with(tools: &Tools, address: IpAddr) -> Result<Option<UnderlayReport>> {
    let row = rows(tools).await?.into_iter().find(|row| row.has(address));
    Ok(row.map(|row| UnderlayReport { interface: row.ifname, mtu: row.mtu }))
}

/// See [`crate::DataPlane::links`].
pub async fn links(tools: &Tools, underlay: IpAddr) -> Result<HostLinks> {
    let rows = rows(tools).await?;
    let carrier = rows.iter().find(|row| row.has(underlay));
    let free = rows.iter().filter(|row| row.is_hosts_own() && row.used().is_none()).take(LIMIT);
    let unlinked = rows.iter().filter(|row| row.is_hosts_own() && row.lacks_link()).take(LIMIT);
    Ok(HostLinks {
        underlay_mtu: carrier.map(|row| row.mtu),
        underlay: carrier.map(|row| row.ifname.clone()),
        interfaces: free.map(|row| (row.ifname.clone(), row.mtu)).collect(),
        without_link: unlinked.map(|row| row.ifname.clone()).collect(),
    })
}
