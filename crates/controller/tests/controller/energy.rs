//! The energy account: estimated by curves or measured by counters, shared among VMs, kept across restarts, and nothing
//! made up for time in which nobody looked.

use std::time::Duration;

use gantry_api::energy::{EnergyQuery, EnergyReport};
use gantry_controller::{Caller, energy::report};
use gantry_types::{EnergySource, Host, HostState, Name, VmMetrics};

use crate::world::{Controller, World};

fn asked(controller: &Controller, by: &str) -> EnergyReport {
    let query = EnergyQuery { by: Some(by.to_owned()), since: None, limit: None };
    report(&controller.app, &Caller::controller(), &query).expect("a report")
}

/// Wh as joules.
fn joules(report: &EnergyReport, row: &str) -> f64 {
    report.rows.iter().find(|found| found.name == row).map_or(0.0, |found| (found.energy_wh * 36_000.0).round() / 10.0)
}

fn pass(world: &World, controller: &Controller, seconds: u64) {
    world.clock.advance(Duration::from_secs(seconds));
    controller.app.energy.account(&controller.app);
}

fn counter(controller: &Controller, host: &Name, joules: Option<f64>) {
    controller.app.model.overlay_mut(|overlay| {
        overlay.hosts.get_mut(host.as_str()).expect("it reported").metrics.energy_joules = joules;
    });
}

#[tokio::test]
async fn what_hosts_draw_is_shared_and_kept() {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("a").await;
    world.reports(&controller).await;
    let vm = world.vm("a").await.expect("a VM");
    let host = vm.status.host.clone().expect("a host");
    let use_cpu = |cpu_percent: f64| {
        let metrics = VmMetrics { cpu_percent, ..VmMetrics::default() };
        controller.app.model.overlay_mut(|overlay| overlay.vm_metrics.insert(vm.metadata.uuid, metrics));
    };
    use_cpu(0.0);
    pass(&world, &controller, 5);
    assert_eq!(asked(&controller, "host").total_wh, 0.0, "the first look has nothing to compare with");
    // Three idle hosts of which nobody knows a curve: 93.7 W each.
    pass(&world, &controller, 10);
    let hosts = asked(&controller, "host");
    assert_eq!((hosts.rows.len(), joules(&hosts, host.as_str())), (3, 937.0));
    assert!(hosts.rows.iter().all(|row| row.source == EnergySource::Estimated && row.accounted_s == 10.0));
    assert_eq!(joules(&asked(&controller, "vm"), "a"), 937.0, "it alone keeps its host awake");
    assert!((hosts.of_no_vm_wh * 3600.0 - 2.0 * 937.0).abs() < 0.1, "two hosts have no VMs");

    let query = EnergyQuery { limit: Some(1), ..EnergyQuery::default() };
    let first = report(&controller.app, &Caller::controller(), &query).expect("a report");
    assert_eq!((&first.rows[..], first.rows_total, first.total_wh), (&hosts.rows[..1], 3, hosts.total_wh));

    // A host that counts is believed.
    counter(&controller, &host, Some(100.0));
    pass(&world, &controller, 10);
    counter(&controller, &host, Some(600.0));
    pass(&world, &controller, 10);
    let row = asked(&controller, "host").rows.into_iter().find(|row| row.name == host.as_str()).expect("a row");
    assert_eq!(row.source, EnergySource::Mixed);
    assert_eq!(joules(&asked(&controller, "host"), host.as_str()), 937.0 + 937.0 + 500.0);

    // Another agent's counter began elsewhere, and nothing is known of a long gap.
    world.power.restart_agent(&host);
    world.heartbeats(&controller).await;
    counter(&controller, &host, Some(5.0));
    pass(&world, &controller, 10);
    let before = joules(&asked(&controller, "host"), host.as_str());
    assert_eq!(before, 937.0 + 937.0 + 500.0 + 937.0);
    pass(&world, &controller, 600);
    assert_eq!(joules(&asked(&controller, "host"), host.as_str()), before);

    // Killed after a write, the account goes on where it was.
    controller.app.energy.sync();
    drop(controller);
    let controller = world.controller().await;
    assert_eq!(joules(&asked(&controller, "host"), host.as_str()), before);
    assert_eq!(joules(&asked(&controller, "label=app"), ""), joules(&asked(&controller, "vm"), "a"));

    // The next hour, and the report over both; a host that sleeps draws nothing.
    world.reports(&controller).await;
    controller.app.energy.account(&controller.app);
    world.clock.advance(Duration::from_secs(3600));
    controller.app.energy.account(&controller.app);
    let mut asleep: Host = world.host(host.as_str()).await;
    asleep.status.state = HostState::Sleeping;
    let mut change = gantry_controller::objects::Change::new();
    change.update(&asleep).expect("writable");
    let revision = controller.app.objects.commit(change).await.expect("a store");
    controller.app.model.wait_for(revision).await;
    pass(&world, &controller, 10);
    let hosts = asked(&controller, "host");
    assert_eq!(joules(&hosts, host.as_str()), before);
    let others = hosts.rows.iter().filter(|row| row.name != host.as_str());
    assert!(others.clone().count() == 2 && others.clone().all(|row| row.accounted_s == 50.0), "{hosts:?}");
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused() {
    let world = World::new().await;
    let controller = world.controller().await;
    for by in ["label=", "rack", ""] {
        let query = EnergyQuery { by: Some(by.to_owned()), since: None, limit: None };
        let refused = report(&controller.app, &Caller::controller(), &query).expect_err("must be refused");
        assert_eq!(refused.fields[0].field, "by");
    }
    let mut host = world.host("host-1").await;
    host.spec.watts = vec![100, 90];
    assert!(host.spec.validate().is_err());
    host.spec.watts = (1..=11).map(|at| 50 + at * 10).collect();
    assert_eq!(host.spec.validate().map(|()| host.spec.curve().expect("a curve")[10]), Ok(160.0));
}
