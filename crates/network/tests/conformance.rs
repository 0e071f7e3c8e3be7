//! What every data plane must do, run against the fake and against the kernel.

mod support;

use gantry_network::{DataPlane, ErrorClass, FakeDataPlane, HostNetworks, LinuxDataPlane, PortRef, bridge_name};
use support::{Namespace, VNI, mac, network, port, remote, vtep};

async fn conform(plane: &dyn DataPlane) {
    let external = vec![vtep(9)];
    let desired = network(1, vec![port(11, true), port(12, false)], vec![remote(12, 2), remote(13, 3)], external);
    let (eleven, twelve) = (port_ref(11), port_ref(12));

    // The first apply makes everything, the second finds nothing to do.
    assert!(!plane.apply(&desired).await.unwrap().changes.is_empty());
    assert_eq!(plane.apply(&desired).await.unwrap().changes, Vec::<String>::new());
    let seen = plane.observe().await.unwrap();
    assert!(seen.has_port(&eleven) && seen.is_active(&eleven));
    assert!(seen.has_port(&twelve) && !seen.is_active(&twelve));
    assert_eq!(seen.vtep_of(VNI, mac(12)), Some(vtep(2)));

    // A port moves here and away again.
    plane.activate_port(&twelve).await.unwrap();
    plane.activate_port(&twelve).await.unwrap();
    assert!(plane.observe().await.unwrap().is_active(&twelve));
    plane.deactivate_port(&twelve, vtep(3)).await.unwrap();
    let seen = plane.observe().await.unwrap();
    assert!(!seen.is_active(&twelve) && seen.has_port(&twelve));
    assert_eq!(seen.vtep_of(VNI, mac(12)), Some(vtep(3)));
    // The description still says host 2, and wins.
    assert_eq!(plane.apply(&desired).await.unwrap().changes.len(), 1);

    // One port more, without touching the others.
    assert!(!plane.ensure_port(&desired.networks[0], &port(14, true)).await.unwrap().changes.is_empty());
    assert!(plane.ensure_port(&desired.networks[0], &port(14, true)).await.unwrap().changes.is_empty());
    let seen = plane.observe().await.unwrap();
    assert!(seen.is_active(&port_ref(14)) && seen.is_active(&eleven) && seen.has_port(&twelve));

    // A tap opens where it exists, and once the first guest is gone, again.
    drop(plane.open_tap(&eleven).unwrap());
    drop(plane.open_tap(&eleven).unwrap());
    let error = plane.open_tap(&port_ref(99)).unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");

    // Counters exist for ports that exist.
    plane.port_counters(&eleven).await.unwrap();
    let error = plane.port_counters(&port_ref(99)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");

    // Removal is complete and repeatable.
    assert!(!plane.remove_port(&port_ref(14)).await.unwrap().changes.is_empty());
    assert!(plane.remove_port(&port_ref(14)).await.unwrap().changes.is_empty());
    let seen = plane.observe().await.unwrap();
    assert!(!seen.links.contains_key(&port_ref(14).tap()) && !seen.guards.contains_key(&port_ref(14).tap()));
    let error = plane.activate_port(&port_ref(14)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");
    assert!(error.to_string().contains(&port_ref(14).tap()), "{error}");

    // A port's owner, addresses and MTU change in place or by remaking; the result is stable.
    let mut changed = desired.clone();
    changed.networks[0].mtu = 1400;
    changed.networks[0].local[0].owner_uid += 1000;
    changed.networks[0].local[0].addresses.push("fd00::11".parse().unwrap());
    changed.networks[0].external_vteps.push(vtep(8));
    assert!(!plane.apply(&changed).await.unwrap().changes.is_empty());
    assert!(plane.apply(&changed).await.unwrap().changes.is_empty());

    // A second network beside the first; an invalid description changes nothing.
    let mut two = changed.clone();
    two.networks.push(gantry_network::HostNetwork {
        vni: VNI + 1,
        name: "second".to_owned(),
        local: vec![port(21, true)],
        ..changed.networks[0].clone()
    });
    plane.apply(&two).await.unwrap();
    assert!(plane.apply(&two).await.unwrap().changes.is_empty());
    let before = plane.observe().await.unwrap();
    let mut clash = two.clone();
    clash.networks[1].vni = VNI;
    assert_eq!(plane.apply(&clash).await.unwrap_err().class(), ErrorClass::Invalid);
    assert_eq!(plane.observe().await.unwrap(), before);

    // Nothing desired, nothing left.
    plane.apply(&HostNetworks::default()).await.unwrap();
    let seen = plane.observe().await.unwrap();
    assert_eq!(seen, gantry_network::Observed::default());
    let error = plane.check_underlay(&desired.networks[0]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
}

fn port_ref(last: u8) -> PortRef {
    let port = port(last, true);
    PortRef { vni: VNI, id: port.id, mac: port.mac, bridged: false }
}

#[tokio::test]
async fn fake_conforms() {
    conform(&FakeDataPlane::new()).await;
}

#[tokio::test]
async fn linux_conforms() {
    let host = Namespace::new("host");
    let plane = LinuxDataPlane::in_namespace(&host.name);
    conform(&plane).await;
    assert!(plane.changes_total() > 0);
}

#[tokio::test]
async fn the_fake_fails_on_demand_and_shows_tampering() {
    let plane = FakeDataPlane::new();
    let desired = network(1, vec![port(11, true)], vec![], vec![]);
    plane.fail_with(Some("netlink is out of buffers"));
    assert_eq!(plane.apply(&desired).await.unwrap_err().class(), ErrorClass::Transient);
    plane.fail_with(None);
    plane.apply(&desired).await.unwrap();
    plane.tamper(|state| state.bridge_fdb.clear());
    assert_eq!(plane.apply(&desired).await.unwrap().changes.len(), 1);
    assert!(plane.observe().await.unwrap().links.contains_key(&bridge_name(VNI)));
}

#[tokio::test]
async fn the_underlay_must_be_large_enough() {
    let plane = FakeDataPlane::new();
    let wanted = network(1, vec![], vec![], vec![]);
    plane.set_underlay(vtep(1), "eth0", 1499);
    let error = plane.check_underlay(&wanted.networks[0]).await.unwrap_err().to_string();
    assert!(error.contains("at least 1500") && error.contains("eth0") && error.contains("to 1449"), "{error}");
    plane.set_underlay(vtep(1), "eth0", 1500);
    assert_eq!(plane.check_underlay(&wanted.networks[0]).await.unwrap().mtu, 1500);
}
