//! What each change does to the kernel's state: the planner's forecast and the fake's kernel.
//!
//! It refuses what the kernel refuses (entries on devices that are not there, a second device of one name).

use std::collections::BTreeSet;

use crate::guard::device_of;
use crate::mac::{EthernetAddress, MacAddress};
use crate::names;
use crate::observed::{Link, LinkKind, Observed, PortFlags};
use crate::plan::Change;
use crate::router::{Leg, RouterState};

/// The flags a device gets when it joins a bridge.
const NEW_PORT: PortFlags = PortFlags {
    learning: true,
    flood: true,
    multicast_flood: true,
    broadcast_flood: true,
    neighbour_suppression: false,
    locked: false,
};

/// Makes one change, or says why the kernel would not.
pub fn apply(state: &mut Observed, change: &Change) -> Result<(), String> {
    match change {
        Change::DetachLink { name } => detach(state, name)?,
        Change::RemoveGuards { devices } => {
            for device in devices {
                state.guards.remove(device).ok_or_else(|| format!("no chain '{device}'"))?;
            }
        }
        Change::DeleteLink { name } => delete(state, name)?,
        Change::AddLink { name, kind, mtu } => {
            if let LinkKind::Leg { router } = kind {
                let inside = state.routers.get_mut(router).ok_or_else(|| format!("no router '{router}'"))?;
                let leg = Leg { mac: MacAddress::ZERO, mtu: *mtu, up: false, addresses: BTreeSet::new() };
                inside.legs.insert(inner_name(name), leg);
            }
            let link =
                Link { kind: kind.clone(), mtu: *mtu, up: false, generates_address: true, master: None, port: None };
            if state.links.insert(name.clone(), link).is_some() {
                return Err(format!("interface '{name}' exists"));
            }
        }
        Change::SetGuards { guards, replacing } => {
            for (device, guard) in guards {
                link(state, device_of(device))?;
                if state.guards.insert(device.clone(), guard.clone()).is_some() != replacing.contains(device) {
                    return Err(format!("chain '{device}' is not as expected"));
                }
            }
        }
        Change::AddRouter { router } => {
            if state.routers.insert(router.clone(), RouterState::default()).is_some() {
                return Err(format!("router '{router}' exists"));
            }
        }
        Change::SetRouter { router, from, to } => {
            if state.routers.get(router) != Some(&**from) {
                return Err(format!("router '{router}' is not as expected"));
            }
            if !to.legs.keys().all(|leg| from.legs.contains_key(leg)) {
                return Err(format!("router '{router}' has no such leg"));
            }
            state.routers.insert(router.clone(), (**to).clone());
        }
        Change::RemoveRouter { router } => {
            state.routers.remove(router).ok_or_else(|| format!("no router '{router}'"))?;
            let of_router = |link: &Link| link.kind == LinkKind::Leg { router: router.clone() };
            let legs: Vec<_> =
                state.links.iter().filter(|(_, link)| of_router(link)).map(|(name, _)| name.clone()).collect();
            for leg in legs {
                delete(state, &leg)?;
            }
        }
        Change::FilterBridges => state.filters_bridges = true,
        Change::SetGroups { from, to } => {
            if state.groups != **from {
                return Err("the security groups are not as expected".to_owned());
            }
            state.groups = (**to).clone();
            state.filters_bridges &= !to.is_empty();
        }
        Change::SetSteering { from, to } => {
            if state.steering != **from {
                return Err("the ways of frames are not as expected".to_owned());
            }
            state.steering = (**to).clone();
        }
        Change::SetBridgeOptions { name, options } => {
            let link = link(state, name)?;
            let LinkKind::Bridge(had) = link.kind else { return Err(format!("'{name}' is no bridge")) };
            link.kind = LinkKind::Bridge(*options);
            if had.address != options.address {
                state.neighbours.retain(|(device, _), _| device != name);
            }
        }
        Change::SetMtu { name, mtu } => link(state, name)?.mtu = *mtu,
        Change::StopAddressGeneration { name } => link(state, name)?.generates_address = false,
        Change::SetMaster { name, master } => {
            link(state, master)?;
            detach_entries(state, name);
            let link = link(state, name)?;
            link.master = Some(master.clone());
            link.port = Some(NEW_PORT);
        }
        Change::SetPortFlags { name, flags } => {
            let port = link(state, name)?.port.as_mut();
            *port.ok_or_else(|| format!("'{name}' is no bridge port"))? = *flags;
        }
        Change::SetUp { name } => link(state, name)?.up = true,
        Change::SetVtep { device, mac, vtep } => {
            link(state, device)?;
            state.vxlan_fdb.insert((device.clone(), *mac), [*vtep].into());
        }
        Change::AddDefaultVtep { device, vtep } => {
            link(state, device)?;
            state.vxlan_fdb.entry((device.clone(), MacAddress::ZERO)).or_default().insert(*vtep);
        }
        Change::SetBridgeEntry { bridge, mac, port } => {
            if link(state, port)?.master.as_ref() != Some(bridge) {
                return Err(format!("'{port}' is no port of '{bridge}'"));
            }
            state.bridge_fdb.insert((bridge.clone(), *mac), port.clone());
        }
        Change::SetNeighbour { device, address, mac } => {
            link(state, device)?;
            state.neighbours.insert((device.clone(), *address), *mac);
        }
        Change::RemoveBridgeEntry { bridge, mac, port } => {
            let key = (bridge.clone(), *mac);
            if state.bridge_fdb.get(&key) != Some(port) {
                return Err(format!("no entry {mac} on '{port}'"));
            }
            state.bridge_fdb.remove(&key);
        }
        Change::RemoveVtep { device, mac, vtep } => {
            let key = (device.clone(), *mac);
            let vteps = state.vxlan_fdb.get_mut(&key).filter(|v| v.contains(vtep));
            let vteps = vteps.ok_or_else(|| format!("no entry {mac} to {vtep} on '{device}'"))?;
            vteps.remove(vtep);
            if vteps.is_empty() {
                state.vxlan_fdb.remove(&key);
            }
        }
        Change::RemoveNeighbour { device, address } => {
            let removed = state.neighbours.remove(&(device.clone(), *address));
            removed.ok_or_else(|| format!("no neighbour {address} on '{device}'"))?;
        }
    }
    Ok(())
}

fn link<'a>(state: &'a mut Observed, name: &str) -> Result<&'a mut Link, String> {
    state.links.get_mut(name).ok_or_else(|| format!("no interface '{name}'"))
}

fn detach_entries(state: &mut Observed, name: &str) {
    state.bridge_fdb.retain(|_, port| port != name);
}

fn detach(state: &mut Observed, name: &str) -> Result<(), String> {
    detach_entries(state, name);
    // The kernel drops a device's neighbours when it goes down, the permanent ones too.
    state.neighbours.retain(|(device, _), _| device != name);
    let link = link(state, name)?;
    (link.master, link.port, link.up) = (None, None, false);
    Ok(())
}

/// The other end of a router's leg.
pub fn inner_name(leg: &str) -> String {
    match leg.strip_prefix("gq") {
        Some(vni) => format!("n{vni}"),
        None => names::INNER_EXTERNAL_LEG.to_owned(),
    }
}

fn delete(state: &mut Observed, name: &str) -> Result<(), String> {
    detach(state, name)?;
    if let Some(Link { kind: LinkKind::Leg { router }, .. }) = state.links.remove(name)
        && let Some(inside) = state.routers.get_mut(&router)
    {
        inside.legs.remove(&inner_name(name));
    }
    state.vxlan_fdb.retain(|(device, _), _| device != name);
    state.bridge_fdb.retain(|(bridge, _), _| bridge != name);
    for link in state.links.values_mut() {
        if link.master.as_deref() == Some(name) {
            (link.master, link.port) = (None, None);
        }
    }
    Ok(())
}
