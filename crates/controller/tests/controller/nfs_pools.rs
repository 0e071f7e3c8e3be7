//! Pools in NFS exports as a user asks for them: whose they are, where they may not be, and what they take.

use gantry_api::rest::{Changed, MigrateRequest};
use gantry_controller::app::{pool, vm};
use gantry_types::{Pool, PoolSpec, Problem};
use serde_json::json;

use crate::storage::{admin, done, now, sent_pool};
use crate::world::{Controller, World, name};

fn sent(pool: &str, url: &str) -> Pool {
    Pool::new(name(pool), PoolSpec::nfs(url, Vec::new()))
}

async fn create(controller: &Controller, pool: Pool) -> Result<Changed<Pool>, Problem> {
    pool::create(&controller.app, &admin(), pool, &now()).await
}

fn wrong<T: std::fmt::Debug>(result: Result<T, Problem>) -> (String, String) {
    let problem = result.expect_err("must be refused");
    let first = problem.fields.first().expect("a field");
    (first.field.clone(), first.message.clone())
}

/// A VM on host-1, and a pool in an export.
async fn an_export() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    done(&world, &controller, create(&controller, sent("nas", "nfs://nas/srv/x")).await).await;
    (world, controller)
}

#[tokio::test]
async fn it_is_for_all_hosts_and_one_place_wherever_it_is_seen_from() {
    let (_world, controller) = an_export().await;
    let app = &*controller.app;
    let made: Pool = app.objects.get("nas").await.expect("a pool");
    assert_eq!(made.spec.hosts, ["host-1", "host-2", "host-3"].map(name));
    for (url, field) in [("nfs://nas", "spec.url"), ("nfs://nas/srv/x", "spec.url"), ("nfs://nas/srv/x/y", "spec.url")]
    {
        assert_eq!(wrong(create(&controller, sent("other", url)).await).0, field, "{url}");
    }
    let mut of_one = sent("other", "nfs://nas/srv");
    of_one.spec.hosts = vec![name("host-1")];
    assert_eq!(wrong(create(&controller, of_one).await).0, "spec.url");
    create(&controller, sent("beside", "nfs://nas/srv/xy")).await.expect("accepted");
    create(&controller, sent_pool("local", "/srv/x")).await.expect("accepted");

    // Sent again as it was sent first, it is as it is; what is fixed stays.
    let again = pool::put(app, &admin(), "nas", sent("nas", "nfs://nas/srv/x"), &now()).await.expect("unchanged");
    assert_eq!(again.object.spec, made.spec);
    let moved = pool::put(app, &admin(), "nas", sent("nas", "nfs://nas2/srv/x"), &now()).await;
    assert_eq!(wrong(moved).0, "spec.url");
}

#[tokio::test]
async fn it_takes_vms_own_disks() {
    let (world, controller) = an_export().await;
    let app = &*controller.app;
    let spec = json!({"cpus": 1, "memory": "64MiB", "disk": "1GiB", "power": "stopped", "pool": "nas"});
    let vm = gantry_types::Vm::new(name("db"), serde_json::from_value(spec).expect("a spec"));
    vm::create(app, &admin(), vm, &now()).await.expect("accepted");
    let to = MigrateRequest { pool: Some(name("nas")), ..MigrateRequest::default() };
    done(&world, &controller, vm::migrate(app, &admin(), "web", &to, &now()).await).await;
    for vm in ["db", "web"] {
        let vm: gantry_types::Vm = app.objects.get(vm).await.expect("a VM");
        assert_eq!(vm.spec.pool, Some(name("nas")));
    }
}
