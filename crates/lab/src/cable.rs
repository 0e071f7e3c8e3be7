//! Cables: veth pairs between the switch and everything else, and the operator's own VXLAN endpoint.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::{
    layout::{Layout, UNDERLAY_MTU, VXLAN_PORT},
    namespace::{create, has_link, ip, run},
};

/// The host's own end of its cable, the same name on every host.
const UPLINK: &str = "up0";
const BRIDGE: &str = "br0";

/// The switch with nothing plugged in.
pub fn build_switch(layout: Layout) -> Result<()> {
    let switch = layout.switch_namespace();
    create(&switch)?;
    if !has_link(&switch, BRIDGE) {
        ip(&["-n", &switch, "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"])?;
    }
    ip(&["-n", &switch, "link", "set", BRIDGE, "mtu", &UNDERLAY_MTU.to_string(), "up"]).map(drop)
}

/// A namespace with `address`, cabled to `port` of the switch.
pub fn build_station(layout: Layout, namespace: &str, port: &str, address: Ipv4Addr) -> Result<()> {
    let (switch, mtu) = (layout.switch_namespace(), UNDERLAY_MTU.to_string());
    create(namespace)?;
    if !has_link(namespace, UPLINK) {
        ip(&[
            "link", "add", UPLINK, "netns", namespace, "mtu", &mtu, "type", "veth", "peer", "name", port, "netns",
            &switch, "mtu", &mtu,
        ])?;
    }
    ip(&["-n", &switch, "link", "set", port, "master", BRIDGE, "up"])?;
    ip(&["-n", namespace, "address", "replace", &format!("{address}/24"), "dev", UPLINK])?;
    ip(&["-n", namespace, "link", "set", UPLINK, "up"]).map(drop)
}

/// The operator's cable and, inside the network `default`, an address of an outside client. Its VXLAN device learns
/// as a top-of-rack switch does; `hosts` are where it floods to.
pub fn build_operator(layout: Layout, hosts: u8) -> Result<()> {
    let (switch, mtu) = (layout.switch_namespace(), UNDERLAY_MTU.to_string());
    let (link, vxlan) = (layout.operator_link(), layout.operator_vxlan());
    if ip(&["link", "show", "dev", &link]).is_err() {
        ip(&["link", "add", &link, "mtu", &mtu, "type", "veth", "peer", "name", "op", "netns", &switch, "mtu", &mtu])?;
    }
    ip(&["-n", &switch, "link", "set", "op", "master", BRIDGE, "up"])?;
    let operator = layout.operator_address().to_string();
    ip(&["address", "replace", &format!("{operator}/24"), "dev", &link])?;
    ip(&["link", "set", &link, "up"])?;
    if ip(&["link", "show", "dev", &vxlan]).is_err() {
        let (vni, port) = (layout.default_vni().to_string(), VXLAN_PORT.to_string());
        ip(&[
            "link", "add", &vxlan, "mtu", "1450", "type", "vxlan", "id", &vni, "local", &operator, "dev", &link,
            "dstport", &port,
        ])?;
    }
    ip(&["address", "replace", &format!("{}/24", layout.operator_inner_address()), "dev", &vxlan])?;
    ip(&["link", "set", &vxlan, "up"])?;
    for host in 1..=hosts {
        let vtep = layout.host_address(host).to_string();
        // Appending what is there already is refused, which is as good.
        let known = run("bridge", &["fdb", "show", "dev", &vxlan])?;
        if !known.contains(&format!("00:00:00:00:00:00 dst {vtep} ")) {
            run("bridge", &["fdb", "append", "00:00:00:00:00:00", "dev", &vxlan, "dst", &vtep, "self", "permanent"])?;
        }
    }
    Ok(())
}

pub fn remove_operator(layout: Layout) -> Result<()> {
    let exists = |link: &str| ip(&["link", "show", "dev", link]).is_ok();
    for link in [layout.operator_vxlan(), layout.operator_link()] {
        if !exists(&link) {
            continue;
        }
        // The kernel removes the cable by itself some time after the switch's namespace has gone.
        match ip(&["link", "delete", "dev", &link]) {
            Err(error) if exists(&link) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Takes the switch's end of a host's cable down or up.
pub fn set_plugged(layout: Layout, host: u8, plugged: bool) -> Result<()> {
    let (switch, port) = (layout.switch_namespace(), Layout::switch_port(host));
    ip(&["-n", &switch, "link", "set", "dev", &port, if plugged { "up" } else { "down" }]).map(drop)
}

/// Whether the switch's end of a host's cable is up.
pub fn is_plugged(layout: Layout, host: u8) -> bool {
    let (switch, port) = (layout.switch_namespace(), Layout::switch_port(host));
    ip(&["-n", &switch, "-o", "link", "show", "dev", &port])
        .is_ok_and(|text| text.contains(",UP") || text.contains("<UP"))
}
