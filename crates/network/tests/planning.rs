//! Properties of planning: whatever is there and whatever is wanted, the plan leads from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use gantry_network::observed::{BridgeOptions, Guard, Link, LinkKind, Observed, PortFlags, VxlanOptions};
use gantry_network::plan::{Change, Scope, plan};
use gantry_network::{
    HostNetwork, HostNetworks, LocalPort, MacAddress, PortRef, RemotePort, Validate, model, names, target, vxlan_name,
};
use proptest::prelude::*;
use uuid::Uuid;

/// A network in few distinct values, so that two of them often share objects and differ in details.
#[derive(Clone, Debug)]
struct Sketch {
    /// Local MAC to owner, active, addresses.
    ports: BTreeMap<u8, (u32, bool, u8)>,
    /// Remote MAC to VTEP.
    remote: BTreeMap<u8, u8>,
    external: BTreeSet<u8>,
    mtu: u32,
    own: u8,
}

fn hosts() -> impl Strategy<Value = HostNetworks> {
    let ports = prop::collection::btree_map(0u8..4, (0u32..2, any::<bool>(), 0u8..3), 0..4);
    let remote = prop::collection::btree_map(0u8..6, 0u8..3, 0..5);
    let external = prop::collection::btree_set(0u8..3, 0..3);
    let sketch = (ports, remote, external, 1400u32..1402, 1u8..3)
        .prop_map(|(ports, remote, external, mtu, own)| Sketch { ports, remote, external, mtu, own });
    prop::collection::btree_map(1u32..4, sketch, 0..3).prop_map(|networks| HostNetworks {
        generation: 1,
        networks: networks.into_iter().map(|(vni, sketch)| draw(vni, &sketch)).collect(),
        ..HostNetworks::default()
    })
}

fn draw(vni: u32, sketch: &Sketch) -> HostNetwork {
    let vtep = |last: &u8| IpAddr::from([10, 77, 0, 100 + last]);
    let mac = |last: u8| MacAddress([0x52, 0x54, 0, 0, vni as u8, last]);
    let address = |last: u8| IpAddr::from([10, vni as u8, 0, last]);
    let ports = sketch.ports.iter().map(|(last, (owner, active, addresses))| {
        let id = Uuid::from_u128(u128::from(vni) << 8 | u128::from(*last));
        let addresses = (0..*addresses).map(|n| address(10 * (1 + last) + n)).collect();
        let mut port = LocalPort::new(id, mac(*last), addresses, 64_000 + owner, *active);
        // Of every third port, unknown groups: it is closed.
        port.groups.extend((last % 3 == 0).then_some(Uuid::from_u128(9)));
        port
    });
    let remote = sketch
        .remote
        .iter()
        .map(|(last, host)| RemotePort::new(mac(*last), vec![address(10 * (1 + last))], vtep(host)));
    let own = IpAddr::from([10, 77, 0, sketch.own]);
    HostNetwork {
        local: ports.collect(),
        remote: remote.collect(),
        external_vteps: sketch.external.iter().map(vtep).collect(),
        ..HostNetwork::new(Uuid::from_u128(vni.into()), format!("network {vni}"), vni, sketch.mtu, own)
    }
}

/// What a person or a crash may have done to a state.
#[derive(Clone, Debug)]
enum Damage {
    DeleteLink(prop::sample::Index),
    Detach(prop::sample::Index),
    LoseGuards,
    ForgetEntries,
    StrangeVtep(u8),
    ChangeGuard(prop::sample::Index),
    ChangeFlags(prop::sample::Index),
    ChangeKind(prop::sample::Index),
    LeftoverGuard(u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Damage::DeleteLink),
        index().prop_map(Damage::Detach),
        Just(Damage::LoseGuards),
        Just(Damage::ForgetEntries),
        (0u8..4).prop_map(Damage::StrangeVtep),
        index().prop_map(Damage::ChangeGuard),
        index().prop_map(Damage::ChangeFlags),
        index().prop_map(Damage::ChangeKind),
        any::<u8>().prop_map(Damage::LeftoverGuard),
    ]
}

fn wreck(state: &mut Observed, damage: &Damage) {
    let names = state.links.keys().cloned().collect::<Vec<_>>();
    let pick = |index: &prop::sample::Index| (!names.is_empty()).then(|| names[index.index(names.len())].clone());
    match damage {
        Damage::DeleteLink(index) => {
            if let Some(name) = pick(index) {
                model::apply(state, &Change::DeleteLink { name }).unwrap();
            }
        }
        Damage::Detach(index) => {
            if let Some(name) = pick(index) {
                model::apply(state, &Change::DetachLink { name }).unwrap();
            }
        }
        Damage::LoseGuards => state.guards.clear(),
        Damage::ForgetEntries => {
            state.bridge_fdb.clear();
            state.neighbours.clear();
        }
        Damage::StrangeVtep(last) => {
            let strange = IpAddr::from([10, 77, 9, *last]);
            state.vxlan_fdb.values_mut().for_each(|vteps| {
                vteps.insert(strange);
            });
            if state.links.contains_key(&vxlan_name(1)) {
                let stray = MacAddress([2, 0, 0, 0, 0, *last]);
                state.vxlan_fdb.insert((vxlan_name(1), stray), [strange].into());
            }
        }
        Damage::ChangeGuard(index) => {
            if let Some(guard) = pick(index).and_then(|name| state.guards.get_mut(&name)) {
                *guard = Guard::default();
            }
        }
        Damage::ChangeFlags(index) => {
            if let Some(port) = pick(index).and_then(|name| state.links.get_mut(&name)).and_then(|l| l.port.as_mut()) {
                *port = PortFlags { locked: !port.locked, learning: !port.learning, ..*port };
            }
        }
        Damage::ChangeKind(index) => {
            if let Some(link) = pick(index).and_then(|name| state.links.get_mut(&name)) {
                link.kind = changed(&link.kind);
                link.generates_address = true;
            }
        }
        Damage::LeftoverGuard(last) => {
            let name = names::tap_name(Uuid::from_u128((*last).into()));
            state.guards.insert(name, Guard::default());
        }
    }
}

fn changed(kind: &LinkKind) -> LinkKind {
    match kind {
        LinkKind::Bridge(o) => LinkKind::Bridge(BridgeOptions { spanning_tree: !o.spanning_tree, ..*o }),
        LinkKind::Vxlan(o) => LinkKind::Vxlan(VxlanOptions { proxy: !o.proxy, ..*o }),
        LinkKind::Tap { owner_uid } => LinkKind::Tap { owner_uid: owner_uid + 1 },
        LinkKind::Uplink { interface } => LinkKind::Uplink { interface: format!("{interface}0") },
        LinkKind::Leg { router } => LinkKind::Leg { router: format!("{router}0") },
        LinkKind::Foreign(kind) => LinkKind::Foreign(kind.clone()),
    }
}

/// Makes the plan's steps one by one on the model and checks after each that no guest escapes its guard.
fn carry_out(state: &mut Observed, changes: &[Change]) -> Result<(), TestCaseError> {
    let mut entered = BTreeSet::new();
    for change in changes {
        model::apply(state, change).map_err(|reason| TestCaseError::fail(format!("{change}: {reason}")))?;
        if let Change::SetMaster { name, .. } | Change::SetUp { name } = change {
            entered.insert(name.clone());
        }
        for (name, link) in &state.links {
            let on_bridge = matches!(link.kind, LinkKind::Tap { .. }) && link.master.is_some();
            let guarded = state.guards.contains_key(name);
            prop_assert!(!(on_bridge && entered.contains(name)) || guarded, "{name} is unguarded after: {change}");
        }
        if let Change::RemoveGuards { devices } = change {
            for device in devices {
                let off = state.links.get(device).is_none_or(|link: &Link| link.master.is_none() && !link.up);
                prop_assert!(off || !device.starts_with("gt"), "{device} lost its guard on the bridge");
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_plan_leads_from_anything_to_the_desired_state(
        before in hosts(), damages in prop::collection::vec(damage(), 0..4), wanted in hosts(),
    ) {
        wanted.validate().unwrap();
        let mut state = target::host(&before);
        damages.iter().for_each(|damage| wreck(&mut state, damage));
        let desired = target::host(&wanted);
        let changes = plan(&state, &desired, Scope::Everything).unwrap();
        carry_out(&mut state, &changes)?;
        prop_assert_eq!(&state, &desired);
        prop_assert!(plan(&state, &desired, Scope::Everything).unwrap().is_empty());
    }

    #[test]
    fn an_interrupted_plan_is_continued(before in hosts(), wanted in hosts(), stop in any::<prop::sample::Index>()) {
        let mut state = target::host(&before);
        let desired = target::host(&wanted);
        let changes = plan(&state, &desired, Scope::Everything).unwrap();
        carry_out(&mut state, &changes[..stop.index(changes.len() + 1)])?;
        let rest = plan(&state, &desired, Scope::Everything).unwrap();
        carry_out(&mut state, &rest)?;
        prop_assert_eq!(state, desired);
    }

    #[test]
    fn ensuring_a_port_leaves_the_rest_alone(before in hosts(), wanted in hosts()) {
        for network in &wanted.networks {
            for port in &network.local {
                let mut state = target::host(&before);
                let desired = target::host(&target::one_port(network, port));
                let changes = plan(&state, &desired, Scope::Named).unwrap();
                let untouched = state.links.clone();
                carry_out(&mut state, &changes)?;
                for (name, link) in &untouched {
                    let theirs = desired.links.contains_key(name);
                    prop_assert!(theirs || state.links.get(name) == Some(link), "{} was changed", name);
                }
                let reference = PortRef::new(network, port);
                prop_assert!(state.has_port(&reference));
                prop_assert_eq!(state.is_active(&reference), port.active);
                prop_assert!(plan(&state, &desired, Scope::Named).unwrap().is_empty());
            }
        }
    }

    #[test]
    fn a_flip_agrees_with_the_description(host in hosts()) {
        for network in &host.networks {
            for port in &network.local {
                let reference = PortRef::new(network, port);
                let mut state = target::host(&host);
                for change in target::activation(&reference) {
                    model::apply(&mut state, &change).unwrap();
                }
                let mut after = host.clone();
                let after_network = after.networks.iter_mut().find(|n| n.vni == network.vni).unwrap();
                after_network.local.iter_mut().find(|p| p.id == port.id).unwrap().active = true;
                // Only the vxlan entry that nothing leads to any more may be left over.
                let left = plan(&state, &target::host(&after), Scope::Everything).unwrap();
                prop_assert!(left.iter().all(|c| matches!(c, Change::RemoveVtep { .. })), "{left:?}");
            }
        }
    }

    #[test]
    fn descriptions_survive_the_wire(host in hosts()) {
        let text = serde_json::to_string(&host).unwrap();
        prop_assert_eq!(serde_json::from_str::<HostNetworks>(&text).unwrap(), host);
    }
}
