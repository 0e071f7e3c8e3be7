//! Commands that the network delivers when their callers have given them up long ago: they do nothing to what was decided since.

use gantry_api::rest::{MigrateRequest, RebootRequest, RevertRequest, StopRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{snapshot, vm},
};
use gantry_hostlink::fake::{Fault, Sent, When};
use gantry_types::{Name, OperationPhase, PowerState, Problem, Snapshot, Vm, VmPhase};
use serde_json::json;

use crate::world::{Controller, World, name};

/// What a person does with the VM.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Start,
    Stop,
    Pause,
    Resume,
    Reset,
    MoveTo(&'static str),
    Snapshot,
    Revert,
}

async fn web(world: &World) -> Vm {
    world.vm("web").await.expect("a VM")
}

/// Carries it out; how it ended.
async fn carry_out(world: &World, controller: &Controller, deed: Deed) -> OperationPhase {
    let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
    let changed = match deed {
        Deed::Start => vm::start(app, caller, "web", query).await,
        Deed::Stop => vm::stop(app, caller, "web", StopRequest { grace_s: 0, force: true }, query).await,
        Deed::Pause => vm::pause(app, caller, "web", query).await,
        Deed::Resume => vm::resume(app, caller, "web", query).await,
        Deed::Reset => vm::reboot(app, caller, "web", RebootRequest { force: true }, query).await,
        Deed::MoveTo(host) => {
            let request = MigrateRequest { to: Some(name(host)), ..MigrateRequest::default() };
            vm::migrate(app, caller, "web", &request, query).await
        }
        Deed::Snapshot | Deed::Revert => return carry_out_on_snapshot(world, controller, deed).await,
    };
    let operation = changed.expect("accepted").operation.expect("an operation").metadata.name;
    ended(world, controller, &operation).await
}

async fn carry_out_on_snapshot(world: &World, controller: &Controller, deed: Deed) -> OperationPhase {
    let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
    let changed = match deed {
        Deed::Snapshot => {
            let spec = serde_json::from_value(json!({"vm": "web", "memory": true})).expect("a spec");
            snapshot::create(app, caller, Snapshot::new(name("web-before"), spec), query).await
        }
        _ => snapshot::revert(app, caller, "web-before", RevertRequest::default(), query).await,
    };
    let operation = changed.expect("accepted").operation.expect("an operation").metadata.name;
    ended(world, controller, &operation).await
}

async fn ended(world: &World, controller: &Controller, operation: &Name) -> OperationPhase {
    controller.execute(operation).await;
    world.reports(controller).await;
    world.operation(operation.as_str()).await.status.phase
}

/// Each of them arrives once more, and changes nothing.
async fn arrive_late(world: &World, controller: &Controller, late: &[Sent]) {
    let before = (world.everything(), web(world).await.status);
    for sent in late {
        let answer = world.hosts.host(&sent.host).deliver(sent).await;
        assert!(answer.is_err(), "{sent:?} was taken: {answer:?}");
    }
    world.reports(controller).await;
    assert_eq!((world.everything(), web(world).await.status), before, "after {late:?}");
    world.check().await;
}

async fn a_running_vm() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    world.reports(&controller).await;
    (world, controller)
}

#[tokio::test]
async fn a_late_kill_of_an_undone_start_does_not_stop_what_was_started_since() {
    let (world, controller) = a_running_vm().await;
    assert_eq!(carry_out(&world, &controller, Deed::Stop).await, OperationPhase::Succeeded);
    // It starts, nobody hears of it, and it is undone.
    let broken = Problem::permanent("broken", "it is broken");
    world.hosts.inject(Fault::once("power", When::After, broken));
    assert_eq!(carry_out(&world, &controller, Deed::Start).await, OperationPhase::Failed);
    let given_up = world.hosts.sent();
    assert_eq!(carry_out(&world, &controller, Deed::Start).await, OperationPhase::Succeeded);
    let now = web(&world).await;
    assert_eq!((now.status.phase, now.status.epoch), (VmPhase::Running, 1));
    arrive_late(&world, &controller, &given_up).await;
    assert_eq!(web(&world).await.spec.power, PowerState::Running);
}

#[tokio::test]
async fn a_late_start_does_not_start_what_was_stopped_since() {
    let (world, controller) = a_running_vm().await;
    assert_eq!(carry_out(&world, &controller, Deed::Stop).await, OperationPhase::Succeeded);
    let sent = world.hosts.sent();
    let (stopped, started) = sent.split_last().expect("commands");
    assert!(!started.is_empty(), "{stopped:?}");
    arrive_late(&world, &controller, started).await;
    assert_eq!(web(&world).await.status.phase, VmPhase::Stopped);
}

#[tokio::test]
async fn nothing_that_was_sent_before_the_last_command_counts_any_more() {
    let (world, controller) = a_running_vm().await;
    use Deed::{MoveTo, Pause, Reset, Resume, Revert, Snapshot, Start, Stop};
    let on_two_hosts =
        [Pause, Resume, Reset, Stop, Start, MoveTo("host-3"), Pause, Resume, MoveTo("host-1"), Stop, Start];
    for deed in on_two_hosts.into_iter().chain([Snapshot, Revert, Pause, Stop, Start]) {
        assert_eq!(carry_out(&world, &controller, deed).await, OperationPhase::Succeeded, "{deed:?}");
        let sent = world.hosts.sent();
        let (last, late) = sent.split_last().expect("it began with a start");
        arrive_late(&world, &controller, late).await;
        // Where the VM is still, what was decided last is carried out again.
        let again = world.hosts.host(&last.host).deliver(last).await;
        assert_eq!(again.is_ok(), web(&world).await.status.host.as_ref() == Some(&last.host), "{deed:?}: {again:?}");
    }
}
