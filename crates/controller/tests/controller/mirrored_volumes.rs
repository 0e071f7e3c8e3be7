//! Volumes whose content is mirrored between two hosts, together with the disk of the VM that has them.

use std::time::Duration;

use gantry_api::rest::{AttachRequest, Changed, MigrateRequest, MigrateVolumeRequest};
use gantry_controller::app::{host, vm, volume};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{ByteSize, DiskCopies, Name, PoolSpec, Problem, Vm, Volume, VolumePhase};
use serde_json::{Value, json};

use crate::{
    mirrored::Pair,
    storage::{admin, now, refusal},
    world::{HOSTS, name, succeeded},
};

async fn done<T>(pair: &Pair, changed: Result<Changed<T>, Problem>) {
    let operation = changed.map_err(|problem| format!("{problem:?}")).expect("accepted").operation;
    let operation = operation.expect("an operation").metadata.name;
    pair.controller.execute(&operation).await;
    succeeded(&pair.world.operation(operation.as_str()).await);
}

async fn create(pair: &Pair, volume_name: &str, spec: Value) {
    let sent = Volume::new(name(volume_name), serde_json::from_value(spec).expect("a spec"));
    done(pair, volume::create(&pair.controller.app, &admin(), sent, &now()).await).await;
}

async fn attach(pair: &Pair) -> Result<Changed<Volume>, Problem> {
    volume::attach(&pair.controller.app, &admin(), "data", &AttachRequest { vm: name("web") }, &now()).await
}

async fn detach(pair: &Pair) {
    done(pair, volume::detach(&pair.controller.app, &admin(), "data", &now()).await).await;
    pair.world.reports(&pair.controller).await;
}

/// A protected VM with a disk and a volume, both with copies on the host that is named.
async fn with_data() -> (Pair, Name) {
    let mut pair = Pair::new().await;
    create(&pair, "data", json!({"pool": "pair", "size": "1GiB"})).await;
    done(&pair, attach(&pair).await).await;
    let peer = pair.peer().await;
    (pair, peer)
}

async fn data(pair: &Pair) -> Volume {
    pair.world.volume("data").await.expect("a volume")
}

fn has(pair: &Pair, host: &Name, volume: &Volume) -> bool {
    pair.world.hosts.volumes_on(host).contains_key(&volume.metadata.uuid)
}

/// The keeper has looked for what is left.
async fn clear(pair: &mut Pair) {
    for _ in 0..3 {
        pair.world.clock.advance(Duration::from_secs(10));
        pair.look().await;
    }
}

#[tokio::test]
async fn a_volume_is_made_where_its_vm_is_and_both_get_copies_on_one_host() {
    let mut pair = Pair::new().await;
    let former = pair.peer().await;
    create(&pair, "data", json!({"pool": "pair", "size": "1GiB"})).await;
    let made = data(&pair).await;
    assert_eq!((made.status.phase, &made.status.copies), (VolumePhase::Ready, &None));
    assert!(HOSTS.map(name).iter().all(|host| !has(&pair, host, &made)), "nobody needs it yet");

    let (host, before) = (pair.host().await, pair.copies().await);
    done(&pair, attach(&pair).await).await;
    assert!(has(&pair, &host, &made));
    let alone = pair.copies().await;
    assert_eq!(alone.current, std::slice::from_ref(&host), "no other host has the volume");
    assert!(alone.generation > before.generation);
    let peer = pair.peer().await;
    assert_eq!(peer, former);
    for disk in [pair.web().await.metadata.uuid, made.metadata.uuid] {
        pair.write().await;
        assert_eq!(pair.world.hosts.copy_on(&peer, disk), Some(pair.written().await));
    }
    pair.world.check().await;
}

#[tokio::test]
async fn both_start_again_where_their_copies_are_and_the_former_host_keeps_nothing() {
    let (mut pair, peer) = with_data().await;
    let (host, volume) = (pair.host().await, data(&pair).await);
    pair.write().await;
    pair.lose(&host).await;
    pair.world.hosts.lease_ends(&host);
    pair.fail_over().await;
    let web = pair.web().await;
    assert_eq!(web.status.host.as_ref(), Some(&peer), "{:?}", web.status);
    assert_eq!(pair.written().await, 1);
    let attached = pair.world.hosts.attached_on(&peer, web.metadata.uuid);
    assert_eq!(attached.iter().map(|one| one.uuid).collect::<Vec<_>>(), [volume.metadata.uuid]);
    assert!(has(&pair, &peer, &volume) && has(&pair, &host, &volume), "the lost host still has what it had");

    pair.mend(&host).await;
    clear(&mut pair).await;
    assert!(!has(&pair, &host, &volume), "others have it by now");
    assert!(has(&pair, &peer, &volume));
    pair.peer().await;
    pair.world.check().await;
}

#[tokio::test]
async fn a_volume_that_is_detached_keeps_its_copy_and_is_attached_where_that_is() {
    let (mut pair, peer) = with_data().await;
    let host = pair.host().await;
    detach(&pair).await;
    let loose = data(&pair).await;
    let copies = loose.status.copies.clone().expect("it is mirrored");
    assert_eq!(copies.current, [host.clone(), peer.clone()]);
    assert_eq!(pair.copies().await, copies, "its VM has what it had");

    let third = HOSTS.map(name).into_iter().find(|other| *other != host && *other != peer).expect("a third host");
    pair.migrate(&third).await;
    let refused = refusal(attach(&pair).await);
    assert_eq!(refused.code(), "pool-not-reached");
    assert!(refused.detail.contains(host.as_str()) && refused.detail.contains(peer.as_str()), "{refused:?}");

    pair.migrate(&peer).await;
    done(&pair, attach(&pair).await).await;
    assert!(has(&pair, &peer, &loose));
    let now = pair.copies().await;
    assert_eq!(now.current, std::slice::from_ref(&peer));
    assert!(now.generation > copies.generation);
    assert_eq!(data(&pair).await.status.copies, None, "its VM says it for both");
    clear(&mut pair).await;
    assert!(!has(&pair, &host, &loose) && has(&pair, &peer, &loose));
    pair.peer().await;
    pair.world.check().await;
}

#[tokio::test]
async fn a_copy_that_lacks_a_write_is_not_kept_with_a_volume_that_is_detached() {
    let (mut pair, peer) = with_data().await;
    let host = pair.host().await;
    pair.world.hosts.cut(&peer);
    pair.write().await;
    pair.look().await;
    pair.write().await;
    detach(&pair).await;
    let copies = data(&pair).await.status.copies.expect("it is mirrored");
    assert_eq!(copies.current, [host]);
    pair.world.hosts.mend(&peer);
    pair.world.check().await;
}

#[tokio::test]
async fn a_vm_that_is_deleted_leaves_its_volume_and_that_its_copy() {
    let (pair, peer) = with_data().await;
    let (host, copies) = (pair.host().await, pair.copies().await);
    let app = &pair.controller.app;
    let stop = gantry_api::rest::StopRequest { grace_s: 0, force: true };
    done(&pair, vm::stop(app, &admin(), "web", stop, &now()).await).await;
    done(&pair, vm::delete(app, &admin(), "web", false, &now()).await).await;
    let left = data(&pair).await;
    assert_eq!(left.status.phase, VolumePhase::Ready);
    assert_eq!(left.status.copies, Some(copies));
    pair.world.reports(&pair.controller).await;
    assert!(has(&pair, &host, &left) && pair.world.hosts.copy_on(&peer, left.metadata.uuid).is_some());

    done(&pair, volume::delete(app, &admin(), "data", &now()).await).await;
    assert!(!has(&pair, &host, &left));
    assert_eq!(pair.world.hosts.copy_on(&peer, left.metadata.uuid), None);
}

#[tokio::test]
async fn a_host_that_had_a_volume_before_it_was_deleted_keeps_nothing() {
    let (mut pair, peer) = with_data().await;
    let (host, had) = (pair.host().await, data(&pair).await);
    pair.lose(&host).await;
    pair.world.hosts.lease_ends(&host);
    pair.fail_over().await;
    assert_eq!(pair.host().await, peer);
    detach(&pair).await;
    done(&pair, volume::delete(&pair.controller.app, &admin(), "data", &now()).await).await;
    pair.mend(&host).await;
    assert!(has(&pair, &host, &had), "nobody could tell it");
    clear(&mut pair).await;
    assert!(!has(&pair, &host, &had));
    pair.world.check().await;
}

#[tokio::test]
async fn what_a_mirrored_volume_is_not_for_is_refused_with_the_reason() {
    let (pair, peer) = with_data().await;
    let app = &pair.controller.app;
    let request = MigrateRequest { to: Some(peer), ..MigrateRequest::default() };
    let moved = vm::migrate(app, &admin(), "web", &request, &now()).await;
    assert_eq!(refusal(moved).code(), "vm-has-volumes");
    let fast = gantry_types::Pool::new(name("fast"), PoolSpec::dir("/srv/fast", pair.host().await));
    done(&pair, gantry_controller::app::pool::create(app, &admin(), fast, &now()).await).await;
    let moved = volume::migrate(app, &admin(), "data", &MigrateVolumeRequest { to: name("fast") }, &now()).await;
    assert_eq!(refusal(moved).code(), "volume-mirrored");
    let mut larger = data(&pair).await;
    larger.spec.size = ByteSize::gib(2);
    let grown = volume::put(app, &admin(), "data", larger, &now()).await;
    assert_eq!(refusal(grown).code(), "volume-mirrored");
    pair.world.check().await;
}

#[tokio::test]
async fn a_loose_volume_grows_and_changes_its_pool_without_its_copy() {
    let (mut pair, _) = with_data().await;
    let (host, uuid) = (pair.host().await, data(&pair).await.metadata.uuid);
    detach(&pair).await;
    let before = data(&pair).await.status.copies.expect("it is mirrored");
    let mut larger = data(&pair).await;
    larger.spec.size = ByteSize::gib(2);
    done(&pair, volume::put(&pair.controller.app, &admin(), "data", larger, &now()).await).await;
    let grown = data(&pair).await;
    assert_eq!(grown.status.copies, Some(before.alone(host.clone())), "a copy is as long as its disk");
    assert_eq!(pair.world.hosts.volumes_on(&host).get(&uuid), Some(&ByteSize::gib(2)));

    let fast = gantry_types::Pool::new(name("fast"), PoolSpec::dir("/srv/fast", host.clone()));
    done(&pair, gantry_controller::app::pool::create(&pair.controller.app, &admin(), fast, &now()).await).await;
    for (to, copies) in [("fast", None), ("pair", Some(DiskCopies::first(host.clone())))] {
        let request = MigrateVolumeRequest { to: name(to) };
        done(&pair, volume::migrate(&pair.controller.app, &admin(), "data", &request, &now()).await).await;
        let moved = data(&pair).await;
        assert_eq!((moved.spec.pool.as_str(), moved.status.copies), (to, copies));
    }
    clear(&mut pair).await;
    assert_eq!(pair.world.hosts.volumes_on(&host).len(), 1);
    pair.world.check().await;
}

#[tokio::test]
async fn clones_and_images_lie_where_their_content_is_from() {
    let (pair, _) = with_data().await;
    let host = pair.host().await;
    detach(&pair).await;
    create(&pair, "twin", json!({"pool": "pair", "size": "1GiB", "clone_of": "data"})).await;
    create(&pair, "system", json!({"pool": "pair", "size": "1GiB", "image": "tiny"})).await;
    let twin = pair.world.volume("twin").await.expect("a volume");
    assert_eq!(twin.status.copies, Some(DiskCopies::first(host.clone())));
    assert!(has(&pair, &host, &twin));
    let system = pair.world.volume("system").await.expect("a volume");
    let owner = system.status.copies.as_ref().and_then(|copies| copies.owner()).expect("it was made").clone();
    assert!(has(&pair, &owner, &system));
}

#[tokio::test]
async fn a_host_with_the_only_copy_of_a_volume_is_not_given_up() {
    let mut pair = Pair::new().await;
    create(&pair, "system", json!({"pool": "pair", "size": "1GiB", "image": "tiny"})).await;
    let owner = pair.world.volume("system").await.expect("a volume").status.copies.expect("made").current[0].clone();
    let other = HOSTS.map(name).into_iter().find(|host| *host != owner).expect("another");
    if pair.host().await == owner {
        pair.migrate(&other).await;
    }
    pair.lose(&owner).await;
    let refused = refusal(host::delete(&pair.controller.app, &admin(), owner.as_str(), &now()).await);
    assert_eq!(refused.code(), "host-in-use");
    assert!(refused.detail.contains("system"), "{refused:?}");
}

#[tokio::test]
async fn a_mirrored_pool_outlives_a_host_that_is_given_up() {
    let (mut pair, peer) = with_data().await;
    let host = pair.host().await;
    let third = HOSTS.map(name).into_iter().find(|other| *other != host && *other != peer).expect("a third host");
    pair.lose(&third).await;
    host::delete(&pair.controller.app, &admin(), third.as_str(), &now()).await.expect("it has nothing");
    let pools = pair.world.pools().await;
    let left = pools.iter().find(|pool| pool.metadata.name == name("pair")).expect("VMs are in it");
    assert_eq!(left.spec.hosts.len(), 2);
    assert!(!left.spec.hosts.contains(&third));
}

#[tokio::test]
async fn word_that_is_lost_while_a_volume_comes_changes_nothing_for_others() {
    let mut pair = Pair::new().await;
    let peer = pair.peer().await;
    create(&pair, "data", json!({"pool": "pair", "size": "1GiB"})).await;
    let broken = Problem::permanent("broken", "it is broken");
    pair.world.hosts.inject(Fault::once("attach_volume", When::After, broken));
    let failed = attach(&pair).await.expect("accepted").operation.expect("an operation").metadata.name;
    pair.controller.execute(&failed).await;
    let loose = data(&pair).await;
    let host = pair.host().await;
    assert_eq!((loose.status.phase, &loose.status.vm), (VolumePhase::Ready, &None));
    assert_eq!(loose.status.copies.expect("made").current, std::slice::from_ref(&host));
    assert_eq!(pair.peer().await, peer, "the disk gets its copy again");
    let web: Vm = pair.web().await;
    assert!(pair.world.hosts.attached_on(&host, web.metadata.uuid).is_empty());
    done(&pair, attach(&pair).await).await;
    pair.peer().await;
    pair.world.check().await;
}
