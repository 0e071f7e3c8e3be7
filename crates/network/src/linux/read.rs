//! The kernel's state from the tools' JSON, reduced to what Gantry owns and sets.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::command::{Tool, Tools};
use super::{router, setting};
use crate::error::{NetworkError, Result};
use crate::guard;
use crate::mac::{EthernetAddress, MacAddress};
use crate::model::inner_name;
use crate::names::{self, Role};
use crate::observed::{BridgeOptions, Guard, Link, LinkKind, Observed, PortFlags, VxlanOptions};
use crate::plane::{PortCounters, PortRef};
use crate::ruleset::{self, Family, Ruleset};

pub async fn observe(tools: &Tools) -> Result<Observed> {
    let (links, fdb, neighbours, ruleset, groups, steering) = tokio::try_join!(
        tools.query::<Vec<LinkRow>>(Tool::Ip, &["-d", "-j", "link", "show"], "list interfaces"),
        tools.query::<Vec<FdbRow>>(Tool::Bridge, &["-j", "fdb", "show"], "list forwarding entries"),
        tools.query::<Vec<NeighbourRow>>(
            Tool::Ip,
            &["-j", "neigh", "show", "nud", "permanent"],
            "list permanent neighbours"
        ),
        ruleset(tools),
        groups(tools),
        tools.query::<Value>(Tool::Nft, &["-j", "list", "ruleset", "bridge"], "list the ways of frames"),
    )?;
    let mut state = Observed { routers: router::observe(tools).await?, ..Observed::default() };
    for row in links {
        if let (Some(role), name) = (names::role(&row.ifname), row.ifname.clone()) {
            let mut link = row.into_link(role);
            if let LinkKind::Leg { router } = &mut link.kind {
                // A leg into a namespace that is not the router's any more belongs to nobody.
                let inner = inner_name(&name);
                let owner = state.routers.iter().find(|(key, inside)| {
                    inside.legs.contains_key(&inner) && (name.starts_with("gq") || name[2..] == key[1..])
                });
                *router = owner.map(|(key, _)| key.clone()).unwrap_or_default();
            }
            state.links.insert(name, link);
        }
    }
    for row in fdb {
        row.add_to(&mut state);
    }
    for row in neighbours {
        if let (Some(Role::Bridge), Ok(mac)) = (names::role(&row.dev), row.lladdr.parse()) {
            state.neighbours.insert((row.dev, row.dst), mac);
        }
    }
    add_guards(&mut state, &ruleset);
    state.groups = groups;
    state.steering = ruleset::read::ruleset(Family::Bridge, &steering);
    // Nobody asks while there are none.
    state.filters_bridges = !state.groups.is_empty() && setting::filters_bridges(tools.namespace.as_deref())?;
    Ok(state)
}

/// The security groups, without a look at anything else: to list what a family has, nft reads everything first, also the
/// guards of every port.
pub async fn groups_alone(tools: &Tools) -> Result<Ruleset> {
    let args = ["-j", "list", "table", Family::Inet.word(), ruleset::TABLE];
    let output = tools.run(Tool::Nft, &args, b"", "list security groups").await?;
    // Without the table that is refused, and there are none.
    let listing = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() { Ok(ruleset::read::ruleset(Family::Inet, &listing)) } else { groups(tools).await }
}

async fn groups(tools: &Tools) -> Result<Ruleset> {
    let listing = tools.query(Tool::Nft, &["-j", "list", "ruleset", "inet"], "list security groups").await?;
    Ok(ruleset::read::ruleset(Family::Inet, &listing))
}

/// The whole netdev ruleset: asking for one table fails when it does not exist.
async fn ruleset(tools: &Tools) -> Result<Value> {
    tools.query(Tool::Nft, &["-j", "list", "ruleset", "netdev"], "list guards").await
}

fn add_guards(state: &mut Observed, ruleset: &Value) {
    for item in ruleset["nftables"].as_array().into_iter().flatten() {
        if let Some(chain) = item.get("chain").filter(|c| c["table"] == guard::TABLE) {
            let name = chain["name"].as_str().unwrap_or_default().to_owned();
            // A chain without a hook guards nothing, whatever its rules.
            let drops_by_default = chain["policy"] == "drop" && chain["hook"] == guard::hook_of(&name);
            state.guards.insert(name, Guard { drops_by_default, rules: Vec::new() });
        }
        if let Some(rule) = item.get("rule").filter(|r| r["table"] == guard::TABLE) {
            let mut kept = serde_json::Map::new();
            for key in ["comment", "expr"] {
                if let Some(value) = rule.get(key) {
                    kept.insert(key.to_owned(), value.clone());
                }
            }
            let chain = rule["chain"].as_str().unwrap_or_default();
            if let Some(guard) = state.guards.get_mut(chain) {
                guard.rules.push(Value::Object(kept));
            }
        }
    }
    for guard in state.guards.values_mut() {
        *guard = guard::canonical(std::mem::take(guard));
    }
}

#[derive(Deserialize)]
struct LinkRow {
    ifname: String,
    flags: Vec<String>,
    mtu: u32,
    /// What a device stands on.
    link: Option<String>,
    /// Absent on devices without Ethernet addresses.
    address: Option<String>,
    master: Option<String>,
    /// Absent where the kernel has no IPv6.
    inet6_addr_gen_mode: Option<String>,
    #[serde(default)]
    linkinfo: LinkInfo,
}

#[derive(Default, Deserialize)]
struct LinkInfo {
    #[serde(default)]
    info_kind: String,
    #[serde(default)]
    info_data: Value,
    info_slave_data: Option<SlaveRow>,
}

/// The flags of a bridge port; other kinds of master print other fields.
#[derive(Deserialize)]
struct SlaveRow {
    learning: Option<bool>,
    flood: Option<bool>,
    mcast_flood: Option<bool>,
    bcast_flood: Option<bool>,
    neigh_suppress: Option<bool>,
    locked: Option<bool>,
}

impl LinkRow {
    fn into_link(self, role: Role) -> Link {
        let data = &self.linkinfo.info_data;
        let number = |key: &str| data[key].as_u64().unwrap_or_default();
        let address = |key: &str| data[key].as_str().and_then(|a| a.parse::<IpAddr>().ok());
        let kind = match (role, self.linkinfo.info_kind.as_str()) {
            (Role::Bridge, "bridge") => LinkKind::Bridge(BridgeOptions {
                address: self.address.and_then(|a| MacAddress::read(&a)).unwrap_or(MacAddress::ZERO),
                multicast_snooping: number("mcast_snooping") != 0,
                spanning_tree: number("stp_state") != 0,
            }),
            (Role::Vxlan, "vxlan") => LinkKind::Vxlan(VxlanOptions {
                vni: number("id") as u32,
                local: address("local").or_else(|| address("local6")),
                udp_port: number("port") as u16,
                learning: data["learning"].as_bool().unwrap_or_default(),
                proxy: data["proxy"].as_bool().unwrap_or_default(),
            }),
            (Role::Vxlan, "macvlan") if data["mode"] == "passthru" => {
                LinkKind::Uplink { interface: self.link.unwrap_or_default() }
            }
            (Role::Leg, "veth") => LinkKind::Leg { router: String::new() },
            (Role::Tap, "tun") if data["type"] == "tap" => LinkKind::Tap { owner_uid: owner_uid(&data["user"]) },
            (_, "") => LinkKind::Foreign("physical interface".to_owned()),
            (_, kind) => LinkKind::Foreign(kind.to_owned()),
        };
        Link {
            kind,
            mtu: self.mtu,
            up: self.flags.iter().any(|f| f == "UP"),
            generates_address: self.inet6_addr_gen_mode.is_some_and(|mode| mode != "none"),
            port: self.master.as_ref().and(self.linkinfo.info_slave_data).map(|p| PortFlags {
                learning: p.learning.unwrap_or_default(),
                flood: p.flood.unwrap_or_default(),
                multicast_flood: p.mcast_flood.unwrap_or_default(),
                broadcast_flood: p.bcast_flood.unwrap_or_default(),
                neighbour_suppression: p.neigh_suppress.unwrap_or_default(),
                locked: p.locked.unwrap_or_default(),
            }),
            master: self.master,
        }
    }
}

/// `ip` prints a user's name where the uid has one. A tap for everybody matches no port's owner.
fn owner_uid(user: &Value) -> u32 {
    let named = |name: &str| nix::unistd::User::from_name(name).ok().flatten().map(|u| u.uid.as_raw());
    match user {
        Value::Number(uid) => uid.as_u64().and_then(|uid| u32::try_from(uid).ok()).unwrap_or(u32::MAX),
        Value::String(name) => named(name).or_else(|| name.parse().ok()).unwrap_or(u32::MAX),
        _ => u32::MAX,
    }
}

#[derive(Deserialize)]
struct FdbRow {
    mac: String,
    ifname: String,
    master: Option<String>,
    dst: Option<IpAddr>,
    #[serde(default)]
    state: String,
}

impl FdbRow {
    fn add_to(self, state: &mut Observed) {
        let (Some(role), Some(mac)) = (names::role(&self.ifname), MacAddress::read(&self.mac)) else { return };
        match (role, self.master, self.dst) {
            // A device's own address is "permanent"; entries set for others are "static".
            (Role::Vxlan | Role::Tap | Role::Leg, Some(bridge), None) if self.state == "static" => {
                state.bridge_fdb.insert((bridge, mac), self.ifname);
            }
            (Role::Vxlan, None, Some(vtep)) => {
                state.vxlan_fdb.entry((self.ifname, mac)).or_default().insert(vtep);
            }
            _ => {}
        }
    }
}

#[derive(Deserialize)]
struct NeighbourRow {
    dst: IpAddr,
    dev: String,
    #[serde(default)]
    lladdr: String,
}

pub async fn port_counters(tools: &Tools, port: &PortRef) -> Result<PortCounters> {
    #[derive(Deserialize)]
    struct Row {
        ifname: String,
        stats64: Stats,
    }
    #[derive(Deserialize)]
    struct Stats {
        rx: Direction,
        tx: Direction,
    }
    #[derive(Deserialize)]
    struct Direction {
        bytes: u64,
        packets: u64,
    }
    let tap = port.tap();
    let (rows, ruleset) = tokio::try_join!(
        tools.query::<Vec<Row>>(Tool::Ip, &["-s", "-j", "link", "show"], "read interface counters"),
        ruleset(tools),
    )?;
    let row = rows.into_iter().find(|r| r.ifname == tap);
    let Some(Row { stats64: stats, .. }) = row else {
        return Err(NetworkError::NoInterface { name: tap, needed_for: format!("counters of port {}", port.id) });
    };
    Ok(PortCounters {
        received_bytes: stats.rx.bytes,
        received_packets: stats.rx.packets,
        sent_bytes: stats.tx.bytes,
        sent_packets: stats.tx.packets,
        spoofed_packets: dropped_packets(&ruleset, &tap),
    })
}

fn dropped_packets(ruleset: &Value, chain: &str) -> u64 {
    let items = ruleset["nftables"].as_array().into_iter().flatten();
    let rules = items.filter_map(|i| i.get("rule")).filter(|r| r["table"] == guard::TABLE && r["chain"] == chain);
    let expressions = rules.filter_map(|r| r["expr"].as_array());
    let dropping = expressions.filter(|e| e.iter().any(|x| x.get("drop").is_some()));
    dropping.flatten().filter_map(|x| x["counter"]["packets"].as_u64()).sum()
}
