//! The snapshot of a cluster that is kept from decision to decision is, after whatever changes, what one made from nothing
//! would be.

use std::collections::BTreeMap;

use gantry_api::rest::WriteQuery;
use gantry_controller::{
    Caller,
    app::{cluster, policy},
    cluster_view::{Loads, fresh_snapshot, with_snapshot},
    objects::Change,
};
use gantry_placement::{Request, Snapshot, explain};
use gantry_types::{
    Cluster, ClusterSpec, HostMetrics, HostState, Image, Labels, Maintenance, Name, Policy, Vm, VmMetrics, VmPhase,
};
use proptest::prelude::*;
use serde_json::json;

use crate::world::{Controller, HOSTS, World, name};

const VMS: u8 = 5;

/// One change of something that a decision depends on.
#[derive(Debug, Clone)]
enum Happening {
    PutVm { vm: u8, at: Option<u8>, to: Option<u8>, phase: VmPhase, memory_mib: u64, labelled: bool },
    DeleteVm(u8),
    Host { host: u8, cordoned: bool, state: HostState, maintenance: bool, cluster: u8, cpus: u32 },
    Overcommit(u32),
    Schedule(bool),
    Use { vm: u8, host: u8, percent: u32 },
    Sample,
    ImageGrows(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let host = || 0..HOSTS.len() as u8;
    let phase = prop_oneof![Just(VmPhase::Running), Just(VmPhase::Stopped), Just(VmPhase::Migrating)];
    let state = prop_oneof![3 => Just(HostState::Ready), 1 => Just(HostState::Lost), 1 => Just(HostState::Sleeping)];
    prop_oneof![
        6 => (0..VMS, proptest::option::of(host()), proptest::option::of(host()), phase, 32u64..2048, any::<bool>())
            .prop_map(|(vm, at, to, phase, memory_mib, labelled)| {
                Happening::PutVm { vm, at, to, phase, memory_mib, labelled }
            }),
        1 => (0..VMS).prop_map(Happening::DeleteVm),
        3 => (host(), any::<bool>(), state, any::<bool>(), 0u8..2, 1u32..8).prop_map(
            |(host, cordoned, state, maintenance, cluster, cpus)| {
                Happening::Host { host, cordoned, state, maintenance, cluster, cpus }
            }
        ),
        1 => (1u32..4).prop_map(Happening::Overcommit),
        1 => any::<bool>().prop_map(Happening::Schedule),
        2 => (0..VMS, host(), 0u32..200).prop_map(|(vm, host, percent)| Happening::Use { vm, host, percent }),
        1 => Just(Happening::Sample),
        1 => (1u64..64).prop_map(Happening::ImageGrows),
    ]
}

async fn happen(controller: &Controller, happening: &Happening) {
    let app = &controller.app;
    let host_name = |host: &u8| name(HOSTS[usize::from(*host)]);
    let mut change = Change::new();
    match happening {
        Happening::PutVm { vm, at, to, phase, memory_mib, labelled } => {
            let text = format!("vm-{vm}");
            let spec = json!({"cpus": 1, "memory": format!("{memory_mib}MiB"), "image": "tiny", "placement":
                {"vms": [{"keep": "apart", "selector": "app=web", "strength": "should"}]}});
            let fresh = || Vm::new(name(&text), serde_json::from_value(spec.clone()).expect("a spec"));
            let known = app.objects.find::<Vm>(&text).await.expect("a store");
            let mut vm = known.clone().unwrap_or_else(fresh);
            vm.spec = fresh().spec;
            vm.metadata.labels =
                if *labelled { Labels([("app".into(), "web".into())].into()) } else { Labels::default() };
            vm.status.host = at.as_ref().map(host_name);
            vm.status.moving_to = to.as_ref().map(host_name);
            vm.status.phase = *phase;
            match known {
                Some(_) => drop(change.update(&vm).expect("writable")),
                None => {
                    vm.metadata.uuid = app.clock.new_uuid();
                    change.create(&vm).expect("writable");
                }
            }
        }
        Happening::DeleteVm(vm) => {
            let Some(vm) = app.objects.find::<Vm>(&format!("vm-{vm}")).await.expect("a store") else { return };
            change.delete(&vm);
        }
        Happening::Host { host, cordoned, state, maintenance, cluster, cpus } => {
            let mut host: gantry_types::Host = app.objects.get(HOSTS[usize::from(*host)]).await.expect("a host");
            host.spec.cordoned = *cordoned;
            host.spec.cluster = name(["main", "other"][usize::from(*cluster)]);
            host.status.state = *state;
            host.status.maintenance = if *maintenance { Maintenance::Drained } else { Maintenance::Off };
            host.status.inventory.as_mut().expect("an inventory").cpu.count = *cpus;
            change.update(&host).expect("writable");
        }
        Happening::Overcommit(ratio) => {
            let spec = ClusterSpec { cpu_overcommit: f64::from(*ratio), ..ClusterSpec::default() };
            let sent = Cluster::new(name("other"), spec);
            cluster::put(app, &Caller::controller(), "other", sent, &WriteQuery::default()).await.expect("changed");
            return;
        }
        Happening::Schedule(there) => {
            let (who, query) = (Caller::controller(), WriteQuery::default());
            if *there {
                let rule =
                    json!({"vms": "app=web", "hosts": "gantry.io/name=host-1", "from": "00:00", "until": "00:00"});
                let spec = serde_json::from_value(json!({"schedule": rule})).expect("a spec");
                policy::put(app, &who, "web", Policy::new(name("web"), spec), &query).await.expect("made");
            } else if app.model.get::<Policy>("web").is_some() {
                policy::delete(app, &who, "web", &query).await.expect("deleted");
            }
            return;
        }
        Happening::Use { vm, host, percent } => {
            let Some(vm) = app.model.get::<Vm>(&format!("vm-{vm}")) else { return };
            app.model.overlay_mut(|overlay| {
                let metrics = VmMetrics { cpu_percent: f64::from(*percent), ..VmMetrics::default() };
                overlay.vm_metrics.insert(vm.metadata.uuid, metrics);
                if let Some(report) = overlay.hosts.get_mut(HOSTS[usize::from(*host)]) {
                    report.metrics = HostMetrics { cpu_percent: f64::from(*percent) / 2.0, ..HostMetrics::default() };
                }
            });
            return;
        }
        Happening::Sample => {
            app.sample_demands();
            return;
        }
        Happening::ImageGrows(mib) => {
            let mut image: Image = app.objects.get("tiny").await.expect("an image");
            image.status.file_size = gantry_types::ByteSize::mib(*mib);
            change.update(&image).expect("writable");
        }
    }
    let revision = app.objects.commit(change).await.expect("a store");
    app.model.wait_for(revision).await;
}

/// Everything that can be asked of it.
fn told(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    for host in snapshot.host_names() {
        let vms: Vec<_> = snapshot.vms_on(&host).into_iter().map(|vm| vm.request.vm).collect();
        told.insert(format!("host {host}"), format!("{:?} with {vms:?}", snapshot.host(&host)));
    }
    for vm in snapshot.vms() {
        told.insert(format!("vm {}", vm.name), format!("{vm:?}"));
    }
    let asked = |labels: Labels, memory_mib: u64| {
        let spec = json!({"cpus": 2, "memory": format!("{memory_mib}MiB"), "disk": "1GiB"});
        let mut vm = Vm::new(name("asked"), serde_json::from_value(spec).expect("a spec"));
        vm.metadata.labels = labels;
        format!("{:?}", explain(snapshot, &Request::new(&vm)))
    };
    told.insert("a small one".to_owned(), asked(Labels::default(), 64));
    told.insert("one of the web".to_owned(), asked(Labels([("app".into(), "web".into())].into()), 64));
    told.insert("a large one".to_owned(), asked(Labels::default(), 3000));
    told
}

async fn agree(happenings: Vec<Happening>) -> Result<(), TestCaseError> {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    cluster::create(
        &controller.app,
        &Caller::controller(),
        Cluster::new(name("other"), ClusterSpec::default()),
        &WriteQuery::default(),
    )
    .await
    .expect("made");
    cluster::create(
        &controller.app,
        &Caller::controller(),
        Cluster::new(name("main"), ClusterSpec::default()),
        &WriteQuery::default(),
    )
    .await
    .expect("made");
    world.heartbeats(&controller).await;
    let clusters: [Name; 2] = ["main", "other"].map(name);
    for (number, happening) in happenings.iter().enumerate() {
        happen(&controller, happening).await;
        for cluster in &clusters {
            let kept = with_snapshot(&controller.app, cluster, Loads::Now, told);
            let fresh = told(&fresh_snapshot(&controller.app, cluster));
            prop_assert_eq!(kept, fresh, "{}, after change {}: {:?}", cluster, number, happening);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_kept_snapshot_is_what_a_fresh_one_would_be(happenings in proptest::collection::vec(happening(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(agree(happenings))?;
    }
}
