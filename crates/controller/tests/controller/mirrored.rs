//! VMs whose disks are mirrored between two hosts: the second copy is made by itself, and only a current one is ever started on.

use std::time::Duration;

use gantry_api::mirror::{ServeCopy, TakeCopy};
use gantry_api::rest::{MigrateRequest, StopRequest, WriteQuery};
use gantry_api::{AgentApi, MirrorApi};
use gantry_controller::{
    Caller,
    app::{cluster, snapshot, vm},
    loops::{cluster_keeper, failover, host_failure_detector, host_fencer, mirror_keeper, pool_keeper, stray_vms},
};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{
    ByteSize, DiskCopies, Event, HaPolicy, Host, Name, Operation, Pool, PoolHealth, Problem, Snapshot, Vm, VmPhase,
};
use serde_json::json;

use crate::world::{Controller, World, name};

fn query() -> WriteQuery {
    WriteQuery::default()
}

/// Three hosts with a mirrored pool, and a protected VM in it that runs.
pub struct Pair {
    pub world: World,
    pub controller: Controller,
    pub keeper: mirror_keeper::Memory,
    failover: failover::Memory,
}

impl Pair {
    pub async fn new() -> Self {
        let world = World::new().await;
        let controller = world.controller().await;
        *world.power.absent.lock().expect("unpoisoned") = true;
        cluster::ensure_main(&controller.app.objects, &*controller.app.clock).await.expect("made");
        controller.import().await;
        controller.mirrored_pool("pair").await;
        for _ in 0..2 {
            world.heartbeats(&controller).await;
            cluster_keeper::pass(&controller.app).await.expect("a store");
        }
        let operation = controller.create_in("web", Some("pair")).await;
        controller.execute(&operation).await;
        let mut pair =
            Self { world, controller, keeper: mirror_keeper::Memory::default(), failover: failover::Memory::default() };
        pair.protect().await;
        pair
    }

    async fn protect(&mut self) {
        self.world.reports(&self.controller).await;
        let mut sent = self.web().await;
        sent.spec.ha.policy = HaPolicy::Restart;
        vm::put(&self.controller.app, &Caller::controller(), "web", sent, &query()).await.expect("at any time");
        gantry_controller::loops::protection_distributor::pass(&self.controller.app).await;
        self.world.reports(&self.controller).await;
        assert!(self.web().await.status.is_guarded());
    }

    pub async fn web(&self) -> Vm {
        self.world.vm("web").await.expect("a VM")
    }

    pub async fn copies(&self) -> DiskCopies {
        self.web().await.status.copies.expect("its disk is mirrored")
    }

    pub async fn host(&self) -> Name {
        self.web().await.status.host.expect("it is somewhere")
    }

    /// The keeper looks, and hosts report what has become of it.
    pub async fn look(&mut self) {
        self.world.reports(&self.controller).await;
        mirror_keeper::pass(&self.controller.app, &mut self.keeper).await;
    }

    pub async fn peer(&mut self) -> Name {
        for _ in 0..10 {
            self.look().await;
            if let Some(peer) = self.copies().await.other(&self.host().await) {
                return peer.clone();
            }
            self.world.clock.advance(Duration::from_secs(6));
        }
        panic!("no second copy is made: {:?}", self.web().await.status);
    }

    pub async fn migrate(&self, to: &Name) {
        let request = MigrateRequest { to: Some(to.clone()), ..MigrateRequest::default() };
        let moved = vm::migrate(&self.controller.app, &Caller::controller(), "web", &request, &query()).await;
        self.controller.execute(&moved.expect("accepted").operation.expect("an operation").metadata.name).await;
        self.world.hosts.settle();
        self.world.reports(&self.controller).await;
    }

    pub async fn write(&self) {
        self.world.hosts.guest_writes(&self.host().await, self.web().await.metadata.uuid);
    }

    /// How often the guest has written to the disk that it has now.
    pub async fn written(&self) -> u64 {
        self.world.hosts.disk_on(&self.host().await, self.web().await.metadata.uuid).expect("a disk").0
    }

    pub async fn lose(&mut self, host: &Name) {
        self.world.hosts.cut(host);
        for _ in 0..4 {
            self.world.clock.advance(Duration::from_secs(5));
            self.world.heartbeats(&self.controller).await;
            host_failure_detector::pass(&self.controller.app, Duration::ZERO).await.expect("a store");
        }
    }

    /// Shuts out who is to be shut out, and starts again what can be.
    pub async fn fail_over(&mut self) {
        let app = &self.controller.app;
        for _ in 0..4 {
            self.world.clock.advance(Duration::from_secs(10));
            self.world.heartbeats(&self.controller).await;
            host_fencer::pass(app).await.expect("a store");
            for host in app.model.list::<Host>() {
                if let Some(fence) = host.status.fence.clone().filter(|fence| fence.proof.is_none()) {
                    host_fencer::store(app, &host, &fence).await;
                    host_fencer::switch_off(app, &host, &fence).await;
                }
            }
            failover::pass(app, &mut self.failover).await.expect("a store");
            for operation in app.model.list::<Operation>() {
                if !operation.status.phase.is_finished() {
                    self.controller.execute(&operation.metadata.name).await;
                }
            }
        }
    }

    pub async fn mend(&mut self, host: &Name) {
        self.world.hosts.mend(host);
        for _ in 0..4 {
            self.world.heartbeats(&self.controller).await;
            host_failure_detector::pass(&self.controller.app, Duration::ZERO).await.expect("a store");
            host_fencer::pass(&self.controller.app).await.expect("a store");
            stray_vms::pass(&self.controller.app).await;
        }
    }
}

#[tokio::test]
async fn a_second_copy_is_made_by_itself_and_gets_every_write() {
    let mut pair = Pair::new().await;
    pair.write().await;
    let peer = pair.peer().await;
    let (host, uuid) = (pair.host().await, pair.web().await.metadata.uuid);
    assert_ne!(peer, host);
    pair.write().await;
    assert_eq!(pair.world.hosts.copy_on(&peer, uuid), Some(2));
    // Another controller finds it so.
    let before = pair.copies().await;
    pair.controller = pair.world.controller().await;
    pair.keeper = mirror_keeper::Memory::default();
    for _ in 0..3 {
        pair.look().await;
    }
    assert_eq!(pair.copies().await, before);
    pair.world.check().await;
}

#[tokio::test]
async fn it_starts_again_where_its_copy_is_with_all_that_was_written() {
    let mut pair = Pair::new().await;
    let peer = pair.peer().await;
    let host = pair.host().await;
    for _ in 0..3 {
        pair.write().await;
    }
    let former = pair.copies().await;
    pair.lose(&host).await;
    pair.look().await;
    assert_eq!(pair.copies().await, former, "a host that does not answer is not made current alone");
    pair.world.hosts.lease_ends(&host);
    pair.fail_over().await;
    let web = pair.web().await;
    assert_eq!((web.status.host.as_ref(), web.status.phase), (Some(&peer), VmPhase::Running), "{:?}", web.status);
    assert_eq!(pair.written().await, 3);
    assert_eq!(pair.copies().await, former.alone(peer.clone()));

    // Its former host has nothing of it any more when it is back, and may keep the next copy.
    pair.write().await;
    pair.mend(&host).await;
    assert!(pair.world.hosts.vms_on(&host).is_empty());
    let next = pair.peer().await;
    assert_eq!(pair.world.hosts.copy_on(&next, web.metadata.uuid), Some(4));
    pair.world.check().await;
}

#[tokio::test]
async fn it_goes_on_alone_only_when_that_is_written_down_and_a_stale_copy_is_never_started() {
    let mut pair = Pair::new().await;
    let peer = pair.peer().await;
    let (host, uuid) = (pair.host().await, pair.web().await.metadata.uuid);
    let paired = pair.copies().await;
    pair.world.hosts.cut(&peer);
    pair.write().await;
    assert_eq!(pair.written().await, 0, "a write that the peer has not got is not done");
    assert!(pair.world.hosts.executing(uuid).is_empty(), "its guest stands still with it");
    // The word gets lost once.
    pair.world.hosts.inject(Fault::once("go_alone", When::Before, Problem::transient("lost", "nobody hears it")));
    pair.look().await;
    assert_eq!(pair.copies().await, paired.alone(host.clone()), "recorded before anybody acts on it");
    assert!(pair.world.hosts.executing(uuid).is_empty());
    pair.look().await;
    assert_eq!(pair.world.hosts.executing(uuid), std::slice::from_ref(&host));
    pair.write().await;
    assert_eq!(pair.written().await, 1);

    // Its host dies, and the one that kept the copy is back: that lacks a write.
    pair.lose(&host).await;
    pair.mend(&peer).await;
    pair.fail_over().await;
    let web = pair.web().await;
    assert_eq!(web.status.host, Some(host.clone()));
    assert!(pair.world.hosts.vms_on(&peer).is_empty());
    assert_eq!(pair.world.host(host.as_str()).await.status.fence, None, "nobody gains by shutting it out");
    let pool = pair.world.pools().await.into_iter().find(|pool| pool.metadata.name == name("pair")).expect("a pool");
    let assignment = serde_json::from_value(json!({
        "uuid": pool.metadata.uuid, "name": "pair", "type": "mirrored", "path": "/srv/pair",
    }));
    let generation = pair.copies().await.generation;
    let take = TakeCopy { pool: assignment.expect("a pool"), disk: uuid, from: generation, generation: generation + 1 };
    let refused = pair.world.hosts.host(&peer).take_copy(&take).await.map_err(|problem| problem.code().to_owned());
    assert_eq!(refused, Err("copy-stale".to_owned()));

    // It goes on where it was, with everything.
    pair.mend(&host).await;
    pair.fail_over().await;
    assert_eq!((pair.web().await.status.phase, pair.written().await), (VmPhase::Running, 1));
    pair.peer().await;
    pair.world.check().await;
}

#[tokio::test]
async fn a_copy_that_is_served_anew_before_it_is_settled_is_not_taken_for_current() {
    let mut pair = Pair::new().await;
    let (host, web) = (pair.host().await, pair.web().await);
    let lost = Problem::transient("lost", "nobody hears it");
    pair.world.hosts.inject(Fault { times: 2, ..Fault::once("settle_copy", When::Before, lost) });
    let peer = loop {
        pair.look().await;
        let seen = pair.world.hosts.host(&host).observe().await.expect("it answers");
        let told = seen.into_iter().find(|seen| seen.uuid == web.metadata.uuid).and_then(|seen| seen.copies);
        if let Some(peer) = told.and_then(|told| told.peer) {
            break peer;
        }
        pair.world.clock.advance(Duration::from_secs(6));
    };
    pair.write().await;
    // A request that was made long ago: the copy is empty from here on.
    let pool = pair.world.pools().await.into_iter().find(|pool| pool.metadata.name == name("pair")).expect("a pool");
    let late: ServeCopy = serde_json::from_value(json!({
        "pool": {"uuid": pool.metadata.uuid, "name": "pair", "type": "mirrored", "path": "/srv/pair"},
        "disk": web.metadata.uuid, "size": "1GiB", "source": host,
    }))
    .expect("a request");
    pair.world.hosts.host(&peer).serve_copy(&late).await.expect("it is served");
    let peer = pair.peer().await;
    assert_eq!(pair.world.hosts.copy_on(&peer, web.metadata.uuid), Some(1), "it has what was written");
    pair.world.check().await;
}

#[tokio::test]
async fn a_peer_that_was_away_gets_what_was_written_since() {
    let mut pair = Pair::new().await;
    let peer = pair.peer().await;
    let uuid = pair.web().await.metadata.uuid;
    pair.world.hosts.cut(&peer);
    pair.write().await;
    pair.look().await;
    pair.write().await;
    pair.world.hosts.mend(&peer);
    assert_eq!(pair.peer().await, peer, "it has most of it already");
    assert_eq!(pair.world.hosts.copy_on(&peer, uuid), Some(pair.written().await));
    pair.world.check().await;
}

#[tokio::test]
async fn one_that_is_stopped_and_started_begins_alone() {
    let mut pair = Pair::new().await;
    pair.peer().await;
    let (host, before) = (pair.host().await, pair.copies().await);
    let stop = StopRequest { grace_s: 0, force: true };
    let stopped = vm::stop(&pair.controller.app, &Caller::controller(), "web", stop, &query()).await.expect("accepted");
    pair.controller.execute(&stopped.operation.expect("an operation").metadata.name).await;
    pair.look().await;
    assert_eq!(pair.copies().await, before, "either may be started on while it is off");
    let started = vm::start(&pair.controller.app, &Caller::controller(), "web", &query()).await.expect("accepted");
    pair.controller.execute(&started.operation.expect("an operation").metadata.name).await;
    assert_eq!((pair.web().await.status.phase, pair.copies().await), (VmPhase::Running, before.alone(host)));
    pair.peer().await;
    pair.world.check().await;
}

#[tokio::test]
async fn a_deleted_vm_leaves_no_copy() {
    let mut pair = Pair::new().await;
    let peer = pair.peer().await;
    let uuid = pair.web().await.metadata.uuid;
    let stop = StopRequest { grace_s: 0, force: true };
    let stopped = vm::stop(&pair.controller.app, &Caller::controller(), "web", stop, &query()).await.expect("accepted");
    pair.controller.execute(&stopped.operation.expect("an operation").metadata.name).await;
    pair.look().await;
    assert!(pair.world.hosts.copy_on(&peer, uuid).is_some());
    let deleted =
        vm::delete(&pair.controller.app, &Caller::controller(), "web", false, &query()).await.expect("accepted");
    pair.controller.execute(&deleted.operation.expect("an operation").metadata.name).await;
    pair.world.clock.advance(Duration::from_secs(10));
    pair.look().await;
    assert_eq!(pair.world.hosts.copy_on(&peer, uuid), None);
}

#[tokio::test]
async fn that_there_is_a_second_copy_is_told() {
    let mut pair = Pair::new().await;
    pair.peer().await;
    let told = |event: &std::sync::Arc<Event>| event.spec.reason == "DiskCopied";
    assert!(pair.controller.app.model.list::<Event>().iter().any(told));
}

#[tokio::test]
async fn it_moves_with_its_disk_and_gets_another_copy() {
    let mut pair = Pair::new().await;
    let (peer, uuid) = (pair.peer().await, pair.web().await.metadata.uuid);
    // Where its copy is, and to where there is none.
    let hosts = crate::world::HOSTS.map(name);
    let host = pair.host().await;
    let third = hosts.iter().find(|other| **other != peer && **other != host);
    for to in [peer.clone(), third.expect("a third host").clone()] {
        pair.write().await;
        let (from, before, written) = (pair.host().await, pair.copies().await, pair.written().await);
        pair.migrate(&to).await;
        let web = pair.web().await;
        assert_eq!((web.status.host.as_ref(), web.status.phase), (Some(&to), VmPhase::Running), "{:?}", web.status);
        assert_eq!(pair.written().await, written);
        let copies = pair.copies().await;
        assert_eq!(copies.current, std::slice::from_ref(&to), "the copy that it had is not one any more");
        assert!(copies.generation > before.generation + 1, "nor is the disk that it left: {copies:?}");
        assert!(pair.world.hosts.vms_on(&from).is_empty());
        pair.write().await;
        let peer = pair.peer().await;
        assert_eq!(pair.world.hosts.copy_on(&peer, uuid), Some(written + 1));
    }
    // None is left where it is itself, and it starts again where its copy is.
    for _ in 0..3 {
        pair.world.clock.advance(Duration::from_secs(10));
        pair.look().await;
    }
    let (host, peer) = (pair.host().await, pair.peer().await);
    assert_eq!(pair.world.hosts.copy_on(&host, uuid), None);
    let written = pair.written().await;
    pair.lose(&host).await;
    pair.world.hosts.lease_ends(&host);
    pair.fail_over().await;
    assert_eq!((pair.host().await, pair.written().await), (peer, written));
    pair.world.check().await;
}

#[tokio::test]
async fn no_copy_is_made_while_it_moves() {
    let mut pair = Pair::new().await;
    let (peer, uuid) = (pair.peer().await, pair.web().await.metadata.uuid);
    let request = MigrateRequest { to: Some(peer.clone()), ..MigrateRequest::default() };
    let moving = vm::migrate(&pair.controller.app, &Caller::controller(), "web", &request, &query()).await;
    let moving = moving.expect("accepted").operation.expect("an operation").metadata.name;
    // It is parted; the word to send it fails, again and again.
    let lost = Problem::transient("lost", "nobody hears it");
    pair.world.hosts.inject(Fault { times: 4, ..Fault::once("send_migration", When::Before, lost) });
    let app = std::sync::Arc::clone(&pair.controller.app);
    let executing =
        tokio::spawn(async move { gantry_controller::operations::executor::execute(&app, moving.as_str()).await });
    let host = pair.host().await;
    while pair.copies().await.current.len() > 1 {
        tokio::task::yield_now().await;
    }
    for _ in 0..6 {
        pair.look().await;
        if pair.web().await.status.moving_to.is_none() {
            break;
        }
        let seen = pair.world.hosts.host(&host).observe().await.expect("it answers");
        let told = seen.iter().find(|seen| seen.uuid == uuid).and_then(|seen| seen.copies.clone());
        assert_eq!(told.and_then(|told| told.peer), None, "it was joined while it moves");
    }
    executing.await.expect("no panic").expect("a store");
    assert_eq!(pair.host().await, peer);
    pair.world.check().await;
}

#[tokio::test]
async fn a_disk_with_snapshots_does_not_leave_them_behind() {
    let mut pair = Pair::new().await;
    let peer = pair.peer().await;
    let app = &pair.controller.app;
    let spec = json!({"vm": "web"});
    let sent = Snapshot::new(name("web-before"), serde_json::from_value(spec).expect("a spec"));
    let made = snapshot::create(app, &Caller::controller(), sent, &query()).await.expect("accepted");
    pair.controller.execute(&made.operation.expect("an operation").metadata.name).await;
    let request = MigrateRequest { to: Some(peer), ..MigrateRequest::default() };
    let refused = vm::migrate(app, &Caller::controller(), "web", &request, &query()).await;
    assert_eq!(refused.expect_err("refused").code(), "vm-has-snapshots");
}

#[tokio::test]
async fn a_copy_that_is_stale_by_the_time_its_host_is_taken_is_not_started_on() {
    let mut pair = Pair::new().await;
    let (peer, host) = (pair.peer().await, pair.host().await);
    pair.write().await;
    pair.lose(&host).await;
    pair.world.hosts.lease_ends(&host);
    let app = std::sync::Arc::clone(&pair.controller.app);
    let placing = app.placement.lock().await;
    let (pair, started) = tokio::join!(
        async {
            pair.fail_over().await;
            pair
        },
        async {
            // The host with the copy is chosen; before it is taken, the other goes on alone.
            while !app.model.list::<Operation>().iter().any(|operation| operation.status.steps.iter().any(is_placing)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut web = app.objects.get::<gantry_types::Vm>("web").await.expect("a VM");
            web.status.copies = web.status.copies.map(|copies| copies.alone(host.clone()));
            let mut change = gantry_controller::objects::Change::new();
            change.update(&web).expect("writable");
            let revision = app.objects.commit(change).await.expect("a store");
            app.model.wait_for(revision).await;
            drop(placing);
        }
    );
    let () = started;
    assert_eq!(pair.host().await, host);
    assert!(pair.world.hosts.vms_on(&peer).is_empty());
    pair.world.check().await;
}

fn is_placing(step: &gantry_types::StepStatus) -> bool {
    step.name == "place" && step.attempts > 0
}

#[tokio::test]
async fn the_host_with_the_least_room_is_told_of_and_each_disk_counts_twice() {
    let pair = Pair::new().await;
    let app = &pair.controller.app;
    let look = async || {
        pair.world.reports(&pair.controller).await;
        pool_keeper::pass(app).await.expect("a store");
        app.model.view::<Pool>("pair").expect("a pool").status
    };
    let before = look().await.space.expect("measured");
    assert_eq!(before.capacity, ByteSize::gib(150), "of three hosts with 100 GiB each");
    let uuid = app.objects.get::<Pool>("pair").await.expect("a pool").metadata.uuid;
    pair.world.hosts.change_pool(&name("host-2"), uuid, None, Some(ByteSize::gib(10)));
    let status = look().await;
    assert_eq!(status.health, PoolHealth::NearlyFull);
    assert!(status.reason.expect("one").contains("its place on host 'host-2'"));
    assert_eq!(status.space.expect("measured").free, ByteSize::gib(105));
}
