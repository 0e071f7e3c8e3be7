//! Resource pools: nothing is promised twice, what is named stays, hosts are told their parts, and the kept snapshot of a
//! cluster is what one made from nothing would be.

use gantry_api::rest::WriteQuery;
use gantry_controller::{
    Caller,
    app::{managed, vm},
    loops::resource_distributor,
};
use gantry_types::{ByteSize, Name, Problem, ResourcePool, Vm, VmMetrics};
use serde_json::{Value, json};

use crate::world::{Controller, World, name, succeeded};

fn caller() -> Caller {
    Caller::controller()
}
fn now() -> WriteQuery {
    WriteQuery::default()
}
fn pool(text: &str, spec: Value) -> ResourcePool {
    ResourcePool::new(name(text), serde_json::from_value(spec).expect("a spec"))
}
async fn make(controller: &Controller, text: &str, spec: Value) -> Result<ResourcePool, Problem> {
    Ok(managed::create(&controller.app, &caller(), pool(text, spec), &now()).await?.object)
}
async fn put(controller: &Controller, text: &str, spec: Value) -> Result<ResourcePool, Problem> {
    Ok(managed::put(&controller.app, &caller(), text, pool(text, spec), &now()).await?.object)
}

fn vm_spec(resources: Value, memory: &str) -> Value {
    json!({"cpus": 2, "memory": memory, "disk": "1GiB", "power": "stopped", "resources": resources})
}
async fn make_vm(controller: &Controller, text: &str, resources: Value, memory: &str) -> Result<Vm, Problem> {
    let sent = Vm::new(name(text), serde_json::from_value(vm_spec(resources, memory)).expect("a spec"));
    Ok(vm::create(&controller.app, &caller(), sent, &now()).await?.object)
}

fn fields<T: std::fmt::Debug>(result: Result<T, Problem>) -> Vec<String> {
    result.expect_err("must be refused").fields.into_iter().map(|field| field.field).collect()
}

#[tokio::test]
async fn nothing_is_promised_twice() {
    let world = World::new().await;
    let controller = world.controller().await;
    // Three hosts of 4 processors and 4 GiB: 1200 %.
    let reserve = |cpu: u32| json!({"cpu": {"reservation_percent": cpu}, "memory": {"reservation": "1GiB"}});
    assert_eq!(fields(make(&controller, "all", reserve(1201)).await), ["spec.cpu.reservation_percent"]);
    make(&controller, "gold", reserve(800)).await.expect("fits");
    assert_eq!(fields(make(&controller, "rest", reserve(401)).await), ["spec.cpu.reservation_percent"]);
    let inside = |cpu: u32, memory: &str| json!({"parent": "gold", "cpu": {"reservation_percent": cpu}, "memory": {"reservation": memory}});
    assert_eq!(fields(make(&controller, "web", inside(801, "0")).await), ["spec.cpu.reservation_percent"]);
    assert_eq!(fields(make(&controller, "web", inside(0, "2GiB")).await), ["spec.memory.reservation"]);
    make(&controller, "web", inside(300, "512MiB")).await.expect("fits");
    assert_eq!(fields(make(&controller, "lost", json!({"parent": "none-such"})).await), ["spec.parent"]);
    assert_eq!(fields(make(&controller, "self", json!({"parent": "self"})).await), ["spec.parent"]);

    // VMs take from what is reserved.
    let asks = |cpu: u32| json!({"resource_pool": "web", "cpu_reservation_percent": cpu});
    assert_eq!(
        fields(make_vm(&controller, "a", json!({"resource_pool": "silver"}), "64MiB").await),
        ["spec.resources.resource_pool"]
    );
    make_vm(&controller, "a", asks(200), "64MiB").await.expect("fits");
    assert_eq!(fields(make_vm(&controller, "b", asks(101), "64MiB").await), ["spec.resources.cpu_reservation_percent"]);
    make_vm(&controller, "b", asks(100), "64MiB").await.expect("fits");
    // Nor can the pool have less than was taken.
    assert_eq!(fields(put(&controller, "web", inside(299, "512MiB")).await), ["spec.cpu.reservation_percent"]);
    assert_eq!(fields(put(&controller, "gold", reserve(299)).await), ["spec.cpu.reservation_percent"]);
    assert_eq!(
        fields(put(&controller, "web", json!({"cpu": {"reservation_percent": 300}})).await),
        ["spec.parent"],
        "where it is does not change"
    );
    world.check().await;
}

#[tokio::test]
async fn a_memory_limit_holds_for_all_vms_inside_and_what_is_used_stays() {
    let world = World::new().await;
    let controller = world.controller().await;
    make(&controller, "outer", json!({"memory": {"limit": "256MiB"}})).await.expect("made");
    make(&controller, "inner", json!({"parent": "outer"})).await.expect("made");
    let within = |pool: &str| json!({"resource_pool": pool});
    make_vm(&controller, "a", within("inner"), "160MiB").await.expect("fits");
    assert_eq!(fields(make_vm(&controller, "b", within("outer"), "128MiB").await), ["spec.memory"]);
    make_vm(&controller, "b", within("outer"), "64MiB").await.expect("fits");
    assert_eq!(fields(put(&controller, "outer", json!({"memory": {"limit": "200MiB"}})).await), ["spec.memory.limit"]);
    // Growing and moving in count as well.
    let mut grown = world.vm("b").await.expect("a VM");
    grown.spec.memory = ByteSize::mib(128);
    assert_eq!(fields(vm::put(&controller.app, &caller(), "b", grown, &now()).await), ["spec.memory"]);
    make_vm(&controller, "c", json!({}), "128MiB").await.expect("made");
    let mut moved = world.vm("c").await.expect("a VM");
    moved.spec.resources.resource_pool = Some(name("inner"));
    assert_eq!(fields(vm::put(&controller.app, &caller(), "c", moved, &now()).await), ["spec.memory"]);

    let refused = managed::delete::<ResourcePool>(&controller.app, &caller(), "outer", &now()).await;
    let detail = refused.expect_err("it is used").detail;
    assert!(detail.contains("VM 'b'") && detail.contains("resource-pool 'inner'"), "{detail}");
}

#[tokio::test]
async fn hosts_are_told_their_parts_and_go_on_with_them() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    make(&controller, "web", json!({"cpu": {"shares": 400, "limit_percent": 100}})).await.expect("made");
    for text in ["a", "b"] {
        let spec = json!({"cpus": 1, "memory": "256MiB", "image": "tiny", "resources": {"resource_pool": "web"}});
        let sent = Vm::new(name(text), serde_json::from_value(spec).expect("a spec"));
        let made = vm::create(&controller.app, &caller(), sent, &now()).await.expect("made");
        let operation = made.operation.expect("an operation").metadata.name;
        controller.execute(&operation).await;
        succeeded(&world.operation(operation.as_str()).await);
    }
    world.reports(&controller).await;
    let (a, b) = (world.vm("a").await.expect("a VM"), world.vm("b").await.expect("a VM"));
    let (on_a, on_b) = (a.status.host.clone().expect("a host"), b.status.host.clone().expect("a host"));
    assert_ne!(on_a, on_b, "they are spread");
    let use_cpu = |vm: &Vm, cpu_percent: f64| {
        let metrics = VmMetrics { cpu_percent, ..VmMetrics::default() };
        controller.app.model.overlay_mut(|overlay| overlay.vm_metrics.insert(vm.metadata.uuid, metrics));
    };
    let limit = |host: &Name| world.hosts.resources_on(host).pools.first().and_then(|pool| pool.cpu.limit_percent);
    use_cpu(&a, 60.0);
    use_cpu(&b, 20.0);
    resource_distributor::pass(&controller.app).await;
    assert_eq!((limit(&on_a), limit(&on_b)), (Some(75), Some(25)), "by what they use");
    // A tenth more or less is not worth a call; a turn is.
    use_cpu(&b, 21.0);
    resource_distributor::pass(&controller.app).await;
    assert_eq!((limit(&on_a), limit(&on_b)), (Some(75), Some(25)));
    use_cpu(&a, 20.0);
    use_cpu(&b, 60.0);
    resource_distributor::pass(&controller.app).await;
    assert_eq!((limit(&on_a), limit(&on_b)), (Some(25), Some(75)));
    let shown = controller.app.model.view::<ResourcePool>("web").expect("a pool").status;
    assert_eq!((shown.vms, shown.cpu_used_percent, shown.hosts.len()), (2, 80.0, 2));
    assert!(shown.hosts.iter().all(|part| part.enforced == "in memory"), "{shown:?}");
    // What a VM asks for is told while it runs.
    let mut changed = world.vm("a").await.expect("a VM");
    changed.spec.resources.cpu_shares = 900;
    vm::put(&controller.app, &caller(), "a", changed, &now()).await.expect("changed");
    resource_distributor::pass(&controller.app).await;
    assert_eq!(world.hosts.resources_on(&on_a).vms[&a.metadata.uuid].cpu_shares, 900);
}
