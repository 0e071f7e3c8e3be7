//! Routers' namespaces: making them, reading them, setting them up.
//!
//! A router's namespace is named as the host's own, or `gantry`, with the router's key after a hyphen, so that several
//! hosts on one machine do not meet.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::announce::announce;
use super::command::{Tool, Tools, refused};
use super::tap::inside;
use crate::error::{ErrorClass, NetworkError, Result};
use crate::mac::{EthernetAddress, MacAddress};
use crate::names;
use crate::router::{Leg, RouterState};
use crate::ruleset::{self, Family};

const FORWARDING: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
/// Neither do routers check where packets come from, whose way back may be another, nor wait before they use an address,
/// nor send guests the shorter way: what a load balancer gives to a member of the same network must pass here.
const MORE: [(&str, &str); 5] = [
    ("/proc/sys/net/ipv4/conf/all/rp_filter", "0"),
    ("/proc/sys/net/ipv4/conf/default/rp_filter", "0"),
    ("/proc/sys/net/ipv4/conf/all/send_redirects", "0"),
    ("/proc/sys/net/ipv4/conf/default/send_redirects", "0"),
    ("/proc/sys/net/ipv6/conf/default/accept_dad", "0"),
];

/// Of a connection whose VM has moved, only one direction passes here: there is no window to judge it by. It exists once
/// connections are tracked.
const LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
/// How long a connection without packets is remembered: as long as it must be (RFC 5382, requirement 5). The host that
/// translates it can't let its address go before.
const REMEMBERED: (&str, &str) = ("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", "7440");

/// The tools in a router's namespace.
fn tools_of(tools: &Tools, router: &str) -> Tools {
    Tools { namespace: Some(name(tools, router)), routers: tools.routers.clone() }
}

/// The full name of a router's namespace.
pub fn name(tools: &Tools, router: &str) -> String {
    format!("{}-{router}", tools.routers)
}

pub async fn observe(tools: &Tools) -> Result<BTreeMap<String, RouterState>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(found) };
    let prefix = format!("{}-", tools.routers);
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names {
        if let Some(router) = name.strip_prefix(&prefix).filter(|key| names::is_router_key(key)) {
            let inside = tools_of(tools, router);
            match read(&inside).await {
                Ok(state) => drop(found.insert(router.to_owned(), state)),
                // A file that is no namespace any more; making the router anew replaces it.
                Err(error) if error.class() == ErrorClass::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Row {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    mtu: u32,
    address: Option<String>,
    #[serde(default)]
    addr_info: Vec<AddressRow>,
}

#[derive(Deserialize)]
struct AddressRow {
    local: Option<IpAddr>,
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
struct RouteRow {
    gateway: Option<IpAddr>,
}

async fn read(inside: &Tools) -> Result<RouterState> {
    let (links, v4, v6, listing) = tokio::try_join!(
        inside.query::<Vec<Row>>(Tool::Ip, &["-j", "addr", "show"], "list a router's addresses"),
        inside.query::<Vec<RouteRow>>(Tool::Ip, &["-j", "-4", "route", "show", "default"], "list a router's routes"),
        inside.query::<Vec<RouteRow>>(Tool::Ip, &["-j", "-6", "route", "show", "default"], "list a router's routes"),
        inside.query::<Value>(Tool::Nft, &["-j", "list", "ruleset", "inet"], "list a router's translations"),
    )?;
    let mut state = RouterState { nat: ruleset::read::ruleset(Family::Inet, &listing), ..RouterState::default() };
    for row in links.into_iter().filter(|row| row.ifname != "lo") {
        let global = row.addr_info.iter().filter(|address| address.scope != "link");
        let addresses = global.filter_map(|address| IpNet::new(address.local?, address.prefixlen).ok()).collect();
        let leg = Leg {
            mac: row.address.and_then(|mac| MacAddress::read(&mac)).unwrap_or(MacAddress::ZERO),
            mtu: row.mtu,
            up: row.flags.iter().any(|flag| flag == "UP"),
            addresses,
        };
        state.legs.insert(row.ifname, leg);
    }
    state.gateways = v4.into_iter().chain(v6).filter_map(|row| row.gateway).collect();
    let is_on = |path: &str| fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
    let needed = FORWARDING.into_iter().chain((!state.nat.is_empty()).then_some(LIBERAL));
    state.forwards = super::tap::inside(inside.namespace.as_deref(), move || Ok({ needed }.all(is_on)))?;
    Ok(state)
}

pub async fn add(tools: &Tools, router: &str) -> Result<()> {
    let name = name(tools, router);
    let plain = Tools { namespace: None, routers: tools.routers.clone() };
    let attempt = format!("create the network namespace '{name}'");
    // What is left of a namespace that is gone only stands in the way.
    let _gone = plain.run(Tool::Ip, &["netns", "delete", &name], b"", &attempt).await?;
    let output = plain.run(Tool::Ip, &["netns", "add", &name], b"", &attempt).await?;
    if output.status.success() { Ok(()) } else { Err(refused(Tool::Ip, attempt, &output)) }
}

pub async fn remove(tools: &Tools, router: &str) -> Result<()> {
    let name = name(tools, router);
    let plain = Tools { namespace: None, routers: tools.routers.clone() };
    let attempt = format!("delete the network namespace '{name}'");
    let output = plain.run(Tool::Ip, &["netns", "delete", &name], b"", &attempt).await?;
    if output.status.success() { Ok(()) } else { Err(refused(Tool::Ip, attempt, &output)) }
}

/// Every line can be repeated; only what differs is written.
pub async fn set(tools: &Tools, router: &str, from: &RouterState, to: &RouterState) -> Result<()> {
    let router_tools = tools_of(tools, router);
    let attempt = format!("set up router '{router}'");
    if from.forwards != to.forwards || from.legs.is_empty() {
        write_settings(&router_tools, FORWARDING.iter().map(|path| (*path, "1")).chain(MORE))?;
    }
    let lines = lines(from, to).join("\n");
    if !lines.is_empty() {
        let output = router_tools.run(Tool::Ip, &["-batch", "-"], lines.as_bytes(), &attempt).await?;
        if !output.status.success() {
            return Err(refused(Tool::Ip, attempt, &output));
        }
    }
    if from.nat != to.nat {
        let text = ruleset::change::transaction(Family::Inet, &from.nat, &to.nat).to_string();
        let output = router_tools.run(Tool::Nft, &["-j", "-f", "-"], text.as_bytes(), &attempt).await?;
        if !output.status.success() {
            return Err(refused(Tool::Nft, attempt, &output));
        }
    }
    if !to.nat.is_empty() && (from.nat.is_empty() || from.forwards != to.forwards) {
        write_settings(&router_tools, [(LIBERAL, "1"), REMEMBERED])?;
    }
    announce_new(&router_tools, from, to)
}

fn write_settings<'a>(router: &Tools, settings: impl IntoIterator<Item = (&'a str, &'a str)> + Send) -> Result<()> {
    inside(router.namespace.as_deref(), || {
        for (path, value) in settings {
            fs::write(path, value).map_err(|error| NetworkError::Refused {
                attempt: format!("set {path} to {value} in the namespace of a router"),
                reason: error.to_string(),
                remedy: "run as root, where /proc/sys can be written".to_owned(),
                class: ErrorClass::Permanent,
            })?;
        }
        Ok(())
    })
}

/// What is new outside was perhaps on another host before.
fn announce_new(inside: &Tools, from: &RouterState, to: &RouterState) -> Result<()> {
    let Some(leg) = to.legs.get(names::INNER_EXTERNAL_LEG) else { return Ok(()) };
    let had = from.legs.get(names::INNER_EXTERNAL_LEG).map(|leg| &leg.addresses);
    let is_new = |address: &&IpNet| had.is_none_or(|had| !had.contains(*address));
    let new: Vec<IpAddr> = leg.addresses.iter().filter(is_new).map(IpNet::addr).collect();
    if new.is_empty() {
        return Ok(());
    }
    // To somebody who is not the announcer; who that is does not matter.
    let gateway = to.gateways.iter().find_map(|gateway| if let IpAddr::V4(v4) = gateway { Some(*v4) } else { None });
    let to = gateway.unwrap_or(std::net::Ipv4Addr::BROADCAST);
    announce(inside.namespace.as_deref(), names::INNER_EXTERNAL_LEG, leg.mac, &new, to)
}

fn lines(from: &RouterState, to: &RouterState) -> Vec<String> {
    let mut lines = vec!["link set dev lo up".to_owned()];
    for (name, leg) in &to.legs {
        let had = from.legs.get(name);
        if had == Some(leg) {
            continue;
        }
        lines.push(format!("link set dev {name} address {} mtu {} up", leg.mac, leg.mtu));
        for address in had.iter().flat_map(|had| &had.addresses).filter(|address| !leg.addresses.contains(*address)) {
            lines.push(format!("addr del {address} dev {name}"));
        }
        for address in &leg.addresses {
            let at_once = if address.addr().is_ipv6() { " nodad" } else { "" };
            lines.push(format!("addr replace {address} dev {name}{at_once}"));
        }
    }
    for gateway in from.gateways.difference(&to.gateways) {
        lines.push(format!("route del default via {gateway}"));
    }
    // A leg that was down has lost its routes.
    for gateway in &to.gateways {
        lines.push(format!("route replace default via {gateway} dev {}", names::INNER_EXTERNAL_LEG));
    }
    lines
}
