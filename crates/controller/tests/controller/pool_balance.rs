//! Balance between pools of one class.

use gantry_controller::{
    app::{policy, pool},
    loops::{policies, pool_keeper},
};
use gantry_types::{ByteSize, Policy, Pool, Resource};
use serde_json::json;

use crate::{
    storage::{a_volume, admin, attach, done, now, sent_pool},
    world::{name, succeeded},
};

#[tokio::test]
async fn volumes_leave_a_full_pool_for_another_of_its_class_and_then_stay() {
    let (world, controller) = a_volume().await;
    let app = &*controller.app;
    done(&world, &controller, pool::create(app, &admin(), sent_pool("wide", "/srv/wide"), &now()).await).await;
    attach(&world, &controller, "data").await;
    let uuid = world.volume("data").await.expect("a volume").metadata.uuid;
    world.hosts.fill_volume(&name("host-1"), uuid, ByteSize::gib(20));
    let fast = world.pools().await.into_iter().find(|pool| pool.name() == "fast").expect("a pool");
    world.hosts.change_pool(&name("host-1"), fast.metadata.uuid, None, Some(ByteSize::gib(10)));
    world.heartbeats(&controller).await;
    pool_keeper::pass(app).await.expect("a store");
    let spec = json!({"storage": {"mode": "automatic", "limit_percent": 80}});
    let sent = Policy::new(name("storage"), serde_json::from_value(spec).expect("a spec"));
    policy::create(app, &admin(), sent, &now()).await.expect("made");
    let look = async || {
        let stored = app.model.get::<Policy>("storage").expect("a policy");
        policies::pass(app, &stored).await.expect("a store");
        Policy::clone(&app.model.get::<Policy>("storage").expect("a policy")).status
    };

    // Nobody has said that the pools are of one class.
    assert!(look().await.recommendations.is_empty());
    for pool in ["fast", "wide"] {
        let mut labelled: Pool = app.objects.get(pool).await.expect("a pool");
        labelled.metadata.labels.0.insert("class".into(), "gold".into());
        pool::put(app, &admin(), pool, labelled, &now()).await.expect("labelled");
    }
    let found = look().await;
    let Some(recommended) = found.recommendations.first() else { panic!("{found:?}") };
    assert_eq!(recommended.id, "data-to-wide");
    assert!(recommended.reason.contains("pool fast is 90 % full"), "{recommended:?}");
    let operation = world.volume("data").await.expect("a volume").status.operation.expect("it moves");
    assert_eq!(world.operation(operation.as_str()).await.spec.requested_by, "policy/storage");
    assert!(look().await.recommendations.is_empty(), "one move in a pool at once");
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);
    assert_eq!(world.volume("data").await.expect("a volume").spec.pool, name("wide"));

    // Both pools are full now: what has just moved stays.
    let wide = world.pools().await.into_iter().find(|pool| pool.name() == "wide").expect("a pool");
    world.hosts.change_pool(&name("host-1"), wide.metadata.uuid, None, Some(ByteSize::gib(1)));
    world.hosts.change_pool(&name("host-1"), fast.metadata.uuid, None, None);
    world.heartbeats(&controller).await;
    let held = look().await;
    assert!(held.recommendations.is_empty() && held.finding.contains("pool wide is under pressure"), "{held:?}");
    world.clock.advance(std::time::Duration::from_secs(3700));
    assert_eq!(look().await.recommendations.len(), 1);
}
