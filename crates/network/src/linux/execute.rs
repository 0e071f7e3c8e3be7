//! Changes as batch lines and nft transactions.

use super::command::{Tool, Tools, refused};
use super::{router, setting};
use crate::error::Result;
use crate::guard;
use crate::mac::{EthernetAddress, MacAddress};
use crate::model::inner_name;
use crate::observed::{BridgeOptions, LinkKind, PortFlags};
use crate::plan::Change;
use crate::ruleset::{self, Family};

/// One change in the language of its tool.
struct Step<'a> {
    /// Absent for what takes more than one child: a router, the kernel setting that lets groups see bridged packets.
    tool: Option<Tool>,
    lines: Vec<String>,
    change: &'a Change,
}

/// Makes the changes in order; consecutive ones of one tool share a child.
pub async fn make(tools: &Tools, changes: &[Change]) -> Result<()> {
    let steps = changes.iter().map(step).collect::<Vec<_>>();
    let may_share = |step: &Step<'_>| matches!(step.tool, Some(Tool::Ip | Tool::Bridge));
    for group in steps.chunk_by(|a, b| a.tool == b.tool && may_share(a)) {
        run(tools, group).await?;
    }
    Ok(())
}

/// Makes forwarding entry and port flag changes in a single child: the fast path inside a guest's blackout.
pub async fn flip(tools: &Tools, changes: &[Change]) -> Result<()> {
    let steps = changes.iter().map(|change| match change {
        Change::SetPortFlags { name, flags } => {
            Step { tool: Some(Tool::Bridge), lines: vec![format!("link set dev {name} {}", flag_words(flags))], change }
        }
        change => step(change),
    });
    run(tools, &steps.collect::<Vec<_>>()).await
}

async fn run(tools: &Tools, group: &[Step<'_>]) -> Result<()> {
    let Some(first) = group.first() else { return Ok(()) };
    let Some(tool) = first.tool else {
        return match first.change {
            Change::AddRouter { router } => router::add(tools, router).await,
            Change::SetRouter { router, from, to } => router::set(tools, router, from, to).await,
            Change::RemoveRouter { router } => router::remove(tools, router).await,
            Change::AddLink { name, kind: LinkKind::Leg { router }, mtu } => add_leg(tools, name, router, *mtu).await,
            _ => setting::filter_bridges(tools.namespace.as_deref()),
        };
    };
    let mut input = String::new();
    let mut origin = Vec::new();
    for step in group {
        for line in &step.lines {
            input.push_str(line);
            input.push('\n');
            origin.push(step.change);
        }
    }
    let args = if tool == Tool::Nft { ["-j", "-f", "-"].as_slice() } else { ["-batch", "-"].as_slice() };
    let output = tools.run(tool, args, input.as_bytes(), &first.change.to_string()).await?;
    if output.status.success() {
        return Ok(());
    }
    let change = failed_line(&output.stderr).and_then(|line| origin.get(line)).copied().unwrap_or(first.change);
    Err(refused(tool, change.to_string(), &output))
}

/// `ip` and `bridge` end a failed batch with "Command failed -:<line>".
fn failed_line(stderr: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().find_map(|l| l.trim().strip_prefix("Command failed -:"))?;
    line.parse::<usize>().ok()?.checked_sub(1)
}

fn step(change: &Change) -> Step<'_> {
    let ip = |line: String| (Some(Tool::Ip), vec![line]);
    let bridge = |line: String| (Some(Tool::Bridge), vec![line]);
    let nft = |transaction: serde_json::Value| (Some(Tool::Nft), vec![transaction.to_string()]);
    let (tool, lines) = match change {
        Change::DetachLink { name } => ip(format!("link set dev {name} down nomaster")),
        Change::DeleteLink { name } => ip(format!("link del dev {name}")),
        Change::AddLink { kind: LinkKind::Leg { .. }, .. }
        | Change::AddRouter { .. }
        | Change::SetRouter { .. }
        | Change::RemoveRouter { .. } => (None, Vec::new()),
        Change::AddLink { name, kind, mtu } => (Some(Tool::Ip), add_link(name, kind, *mtu)),
        Change::SetBridgeOptions { name, options } => {
            ip(format!("link set dev {name} address {} type bridge {}", options.address, bridge_words(*options)))
        }
        Change::SetMtu { name, mtu } => ip(format!("link set dev {name} mtu {mtu}")),
        Change::StopAddressGeneration { name } => ip(format!("link set dev {name} addrgenmode none")),
        Change::SetMaster { name, master } => ip(format!("link set dev {name} master {master}")),
        Change::SetPortFlags { name, flags } => {
            ip(format!("link set dev {name} type bridge_slave {}", flag_words(flags)))
        }
        Change::SetUp { name } => ip(format!("link set dev {name} up")),
        Change::SetNeighbour { device, address, mac } => {
            ip(format!("neigh replace {address} lladdr {mac} dev {device} nud permanent"))
        }
        Change::RemoveNeighbour { device, address } => ip(format!("neigh del {address} dev {device}")),
        Change::SetVtep { device, mac, vtep } => {
            bridge(format!("fdb replace {mac} dev {device} dst {vtep} self permanent"))
        }
        Change::AddDefaultVtep { device, vtep } => {
            bridge(format!("fdb append {} dev {device} dst {vtep} self permanent", MacAddress::ZERO))
        }
        Change::RemoveVtep { device, mac, vtep } => bridge(format!("fdb del {mac} dev {device} dst {vtep} self")),
        // Sticky: where a bridge learns (a LAN), not even a liar's frame moves it.
        Change::SetBridgeEntry { mac, port, .. } => {
            bridge(format!("fdb replace {mac} dev {port} master static sticky"))
        }
        Change::RemoveBridgeEntry { mac, port, .. } => bridge(format!("fdb del {mac} dev {port} master")),
        Change::RemoveGuards { devices } => nft(guard::transaction(|_| false, devices, [])),
        Change::FilterBridges => (None, Vec::new()),
        Change::SetGroups { from, to } => nft(ruleset::change::transaction(Family::Inet, from, to)),
        Change::SetSteering { from, to } => nft(ruleset::change::transaction(Family::Bridge, from, to)),
        Change::SetGuards { guards, replacing } => {
            nft(guard::transaction(|chain| replacing.contains(chain), &[], guards))
        }
    };
    Step { tool, lines, change }
}

fn add_link(name: &str, kind: &LinkKind, mtu: u32) -> Vec<String> {
    match kind {
        LinkKind::Bridge(options) => {
            let (address, words) = (options.address, bridge_words(*options));
            vec![format!("link add name {name} address {address} mtu {mtu} type bridge {words}")]
        }
        LinkKind::Vxlan(o) => {
            let local = o.local.map(|address| format!(" local {address}")).unwrap_or_default();
            let learning = if o.learning { "learning" } else { "nolearning" };
            let proxy = if o.proxy { "proxy" } else { "noproxy" };
            vec![format!(
                "link add name {name} mtu {mtu} type vxlan id {}{local} dstport {} {learning} {proxy}",
                o.vni, o.udp_port
            )]
        }
        LinkKind::Uplink { interface } => vec![
            format!("link set dev {interface} up"),
            format!("link add name {name} link {interface} mtu {mtu} type macvlan mode passthru"),
        ],
        LinkKind::Tap { owner_uid } => {
            vec![format!("tuntap add dev {name} mode tap user {owner_uid}"), format!("link set dev {name} mtu {mtu}")]
        }
        LinkKind::Leg { router } => unreachable!("'{name}' of router '{router}' is made by itself"),
        LinkKind::Foreign(kind) => unreachable!("no plan creates '{name}' of foreign kind '{kind}'"),
    }
}

/// Both ends at once, so that neither is ever without the other.
async fn add_leg(tools: &Tools, name: &str, router: &str, mtu: u32) -> Result<()> {
    let (inner, namespace, mtu) = (inner_name(name), router::name(tools, router), mtu.to_string());
    let attempt = format!("create interface '{name}'");
    let args = ["link", "add", "name", name, "mtu", &mtu, "type", "veth", "peer", "name", &inner, "mtu", &mtu];
    let args = [&args[..], &["netns", &namespace]].concat();
    let output = tools.run(Tool::Ip, &args, b"", &attempt).await?;
    if output.status.success() { Ok(()) } else { Err(refused(Tool::Ip, attempt, &output)) }
}

fn bridge_words(options: BridgeOptions) -> String {
    let bit = |on: bool| if on { 1 } else { 0 };
    format!("mcast_snooping {} stp_state {}", bit(options.multicast_snooping), bit(options.spanning_tree))
}

fn flag_words(flags: &PortFlags) -> String {
    let word = |on: bool| if on { "on" } else { "off" };
    format!(
        "learning {} flood {} mcast_flood {} bcast_flood {} neigh_suppress {} locked {}",
        word(flags.learning),
        word(flags.flood),
        word(flags.multicast_flood),
        word(flags.broadcast_flood),
        word(flags.neighbour_suppression),
        word(flags.locked),
    )
}
