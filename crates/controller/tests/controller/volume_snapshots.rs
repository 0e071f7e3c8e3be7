//! A VM's snapshots are of its volumes, too.

use gantry_api::rest::{MigrateVolumeRequest, RecoverRequest, RevertRequest};
use gantry_controller::app::{pool, snapshot, vm, volume};
use gantry_types::{ByteSize, Snapshot, Volume};
use serde_json::json;

use crate::{
    storage::{a_volume, admin, attach, done, now, refusal, sent_pool},
    world::name,
};

#[tokio::test]
async fn snapshots_are_of_the_volumes_and_keep_them_where_they_are() {
    let (world, controller) = a_volume().await;
    let app = &*controller.app;
    let take = async |short: &str, memory: bool| {
        let spec = serde_json::from_value(json!({"vm": "web", "memory": memory})).expect("a spec");
        let sent = Snapshot::new(name(&format!("web-{short}")), spec);
        done(&world, &controller, snapshot::create(app, &admin(), sent, &now()).await).await;
        app.objects.get::<Snapshot>(&format!("web-{short}")).await.expect("a snapshot").status.volumes
    };
    let back = |memory: bool| RevertRequest { disk_only: !memory };
    assert_eq!(take("alone", true).await, []);
    attach(&world, &controller, "data").await;
    assert_eq!(take("both", true).await, [name("data")]);

    let refused = refusal(snapshot::revert(app, &admin(), "web-alone", back(true), &now()).await);
    assert!(refused.code() == "volumes-changed" && refused.detail.contains("has data now"), "{refused}");
    done(&world, &controller, pool::create(app, &admin(), sent_pool("slow", "/srv/slow"), &now()).await).await;
    let to = MigrateVolumeRequest { to: name("slow") };
    let mut larger: Volume = app.objects.get("data").await.expect("a volume");
    larger.spec.size = ByteSize::mib(8192);
    for refused in [
        volume::detach(app, &admin(), "data", &now()).await,
        volume::migrate(app, &admin(), "data", &to, &now()).await,
        volume::put(app, &admin(), "data", larger, &now()).await,
    ] {
        let refused = refusal(refused);
        assert!(refused.code() == "volume-in-snapshots" && refused.detail.ends_with("VM 'web': both"), "{refused}");
    }
    for (short, memory) in [("both", true), ("alone", false), ("both", false)] {
        let reverted = snapshot::revert(app, &admin(), &format!("web-{short}"), back(memory), &now()).await;
        done(&world, &controller, reverted).await;
    }
    let points = world.vm("web").await.expect("a VM").status.recovery_points;
    let of: Vec<_> = points.iter().map(|point| point.volumes.len()).collect();
    assert_eq!(of, [1, 0, 1], "what was replaced is of the volumes that were brought back: {points:?}");

    done(&world, &controller, snapshot::delete(app, &admin(), "web-both", &now()).await).await;
    done(&world, &controller, volume::detach(app, &admin(), "data", &now()).await).await;
    let undo = RecoverRequest { undo: true, ..RecoverRequest::default() };
    let operation = vm::recover(app, &admin(), "web", &undo, &now()).await.expect("accepted").operation;
    let operation = operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    let error = world.operation(operation.as_str()).await.status.error.expect("it fails");
    assert_eq!(error.code(), "volumes-changed");
    world.check().await;
}
