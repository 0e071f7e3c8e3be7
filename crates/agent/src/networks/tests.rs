use super::join::network_of;
use super::*;
use gantry_network::FakeDataPlane;
use gantry_types::MacAddress;
use gantry_types::RemotePort;

const HERE: &str = "10.0.0.1";
const THERE: &str = "10.0.0.2";

fn nic() -> NicAssignment {
    NicAssignment {
        port: Uuid::from_u128(7),
        network: "lan".parse().unwrap(),
        vni: 100,
        mtu: 1400,
        mac: MacAddress::qemu([0, 0, 7]),
        address: "192.168.1.7".parse().unwrap(),
        prefix_length: 24,
        gateway: None,
        dns: Vec::new(),
        more_addresses: Vec::new(),
        dhcp: false,
        interface: None,
    }
}

fn plan(place: Place, remote: Vec<RemotePort>) -> HostNetwork {
    let mut desired = HostNetworks::default();
    if !remote.is_empty() {
        network_of(&mut desired, &nic(), HERE.parse().unwrap()).remote = remote;
    }
    let vms = [(Uuid::from_u128(1), VmPorts { nics: vec![nic()], owner_uid: 200_001, place })].into();
    let mut plan = merged(&desired, &vms, &BTreeMap::new(), HERE.parse().unwrap());
    assert_eq!(plan.networks.len(), 1);
    plan.networks.remove(0)
}

fn remote() -> RemotePort {
    RemotePort::new(nic().mac, vec![nic().address], THERE.parse().unwrap())
}

async fn networks(plane: &Arc<FakeDataPlane>, directory: &Path) -> Networks {
    Networks::open(plane.clone(), HERE.parse().unwrap(), directory).unwrap()
}

fn wanted(generation: u64, of: &[(u32, u32)]) -> HostNetworks {
    let mut desired = HostNetworks { generation, ..HostNetworks::default() };
    for (vni, mtu) in of {
        network_of(&mut desired, &NicAssignment { vni: *vni, mtu: *mtu, ..nic() }, HERE.parse().unwrap());
    }
    desired
}

#[tokio::test]
async fn a_network_too_large_for_the_underlay_is_refused_and_the_others_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Arc::new(FakeDataPlane::new());
    plane.set_underlay(HERE.parse().unwrap(), "eth1", 1500);
    let networks = networks(&plane, directory.path()).await;

    networks.apply(&wanted(1, &[(100, 1400)])).await.unwrap();
    let error = networks.apply(&wanted(2, &[(100, 1400), (200, 1500), (300, 1400)])).await.unwrap_err();
    assert_eq!(error.code(), "underlay-mtu-too-small");
    for part in ["MTU 1500", "at least 1550", "'eth1'", "has 1500", "to 1450"] {
        assert!(error.detail.contains(part), "{part}: {error}");
    }
    assert!(error.remedy.is_some());
    let bridges =
        async || plane.observe().await.unwrap().links.into_keys().filter(|name| name.starts_with("gb")).count();
    assert_eq!((networks.generation(), bridges().await), (1, 2));
    assert_eq!(networks.repair().await.unwrap(), Repair::default());

    // Nor does a VM bring it here.
    let large = NicAssignment { vni: 200, mtu: 1500, ..nic() };
    for place in [Place::Here, Place::Coming] {
        let error = networks.ensure(Uuid::from_u128(1), std::slice::from_ref(&large), 200_001, place).await;
        assert_eq!(error.unwrap_err().code(), "underlay-mtu-too-small");
    }
    assert_eq!(bridges().await, 2);

    // An underlay that has become smaller takes nothing away.
    plane.set_underlay(HERE.parse().unwrap(), "eth1", 1400);
    networks.apply(&wanted(3, &[(100, 1400), (300, 1400)])).await.unwrap();
    // It was repaired.
    plane.set_underlay(HERE.parse().unwrap(), "eth1", 9000);
    networks.apply(&wanted(4, &[(100, 1400), (200, 1500), (300, 1400)])).await.unwrap();
    assert_eq!((networks.generation(), bridges().await), (4, 3));
}

#[tokio::test]
async fn only_what_was_changed_behind_the_back_counts_as_tampering() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Arc::new(FakeDataPlane::new());
    plane.set_underlay(HERE.parse().unwrap(), "eth1", 1500);
    let networks = networks(&plane, directory.path()).await;
    let vm = Uuid::from_u128(1);
    networks.ensure(vm, &[nic()], 200_001, Place::Here).await.unwrap();
    assert!(!networks.repair().await.unwrap().was_tampered_with);
    let whole = plane.observe().await.unwrap();

    plane.tamper(|state| state.guards.clear());
    let repair = networks.repair().await.unwrap();
    assert!(repair.was_tampered_with && !repair.changes.is_empty());
    assert_eq!(plane.observe().await.unwrap(), whole);
    assert_eq!(networks.repair().await.unwrap(), Repair::default());

    // Its network goes with the last VM: that is tidying up.
    networks.remove(vm).await.unwrap();
    let repair = networks.repair().await.unwrap();
    assert!(!repair.was_tampered_with && !repair.changes.is_empty());
}

#[tokio::test]
async fn a_port_keeps_its_groups_until_it_is_told_others() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Arc::new(FakeDataPlane::new());
    plane.set_underlay(HERE.parse().unwrap(), "eth1", 1500);
    let networks = networks(&plane, directory.path()).await;
    networks.ensure(Uuid::from_u128(1), &[nic()], 200_001, Place::Here).await.unwrap();
    let filtered = async || !plane.observe().await.unwrap().groups.is_empty();
    assert!(!filtered().await);
    let mut desired = wanted(1, &[(100, 1400)]);
    let mut port = LocalPort::new(nic().port, nic().mac, vec![nic().address], 200_001, true);
    port.groups.push(Uuid::from_u128(9));
    desired.networks[0].local.push(port.clone());
    networks.apply(&desired).await.unwrap();
    assert!(filtered().await);
    // An older view of this host knows nothing of the port.
    networks.apply(&wanted(2, &[(100, 1400)])).await.unwrap();
    assert!(filtered().await);
    port.groups.clear();
    desired.networks[0].local = vec![port];
    networks.apply(&HostNetworks { generation: 3, ..desired }).await.unwrap();
    assert!(!filtered().await);
}

#[tokio::test]
async fn the_groups_of_a_guest_that_is_coming_are_in_force_before_it_gets_or_sends_a_frame() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Arc::new(FakeDataPlane::new());
    plane.set_underlay(HERE.parse().unwrap(), "eth1", 1500);
    let networks = networks(&plane, directory.path()).await;
    let vm = Uuid::from_u128(1);
    networks.ensure(vm, &[nic()], 200_001, Place::Coming).await.unwrap();
    let mut desired = wanted(1, &[(100, 1400)]);
    let mut port = LocalPort::new(nic().port, nic().mac, vec![nic().address], 200_001, false);
    port.groups.push(Uuid::from_u128(9));
    desired.networks[0].local.push(port);
    desired.networks[0].remote.push(remote());
    networks.apply(&desired).await.unwrap();

    let before = plane.observe().await.unwrap();
    let reference = port_ref(&nic());
    let goes_to = |state: &gantry_network::Observed| {
        state.bridge_fdb.get(&(reference.bridge(), reference.mac)).cloned().expect("an entry")
    };
    // Locked without an entry: what the guest would send goes nowhere, and what is for it to where it still runs.
    assert_eq!(goes_to(&before), reference.vxlan());
    assert!(before.links[&reference.tap()].port.is_some_and(|flags| flags.locked && !flags.broadcast_flood));
    assert!(before.groups.sets["in4"].elements.iter().any(|element| element.contains(&nic().address.to_string())));

    networks.activate(vm).await.unwrap();
    let after = plane.observe().await.unwrap();
    assert_eq!((goes_to(&after), &after.groups), (reference.tap(), &before.groups));
}

#[test]
fn a_guest_that_is_here_wins_over_a_stale_view_of_the_controller() {
    for stale in [vec![], vec![remote()]] {
        let network = plan(Place::Here, stale);
        assert!(network.local[0].active && network.remote.is_empty());
        assert_eq!(network.local[0].owner_uid, 200_001);
    }
}

#[test]
fn frames_for_a_guest_that_is_coming_or_has_left_go_elsewhere() {
    let coming = plan(Place::Coming, vec![remote()]);
    assert!(!coming.local[0].active);
    assert_eq!(coming.remote, vec![remote()]);
    let left = plan(Place::Left(THERE.parse().unwrap()), Vec::new());
    assert!(!left.local[0].active);
    assert_eq!(left.remote, vec![remote()]);
}
