//! Backups as a user asks for them: what is refused and why, what a restored VM is, and what is told of damage.

use gantry_api::backup::BackupContent;
use gantry_api::rest::{
    AdoptBackupsQuery, BackupFilesQuery, Changed, DeleteBackupQuery, RepositoryCheckQuery, RestoreBackupRequest,
    WriteQuery,
};
use gantry_controller::{
    Caller,
    app::{backup, backup_adoption, managed, pool, repository, vm, volume},
};
use gantry_hostlink::fake::{Fault, When};
use gantry_types::{
    Backup, BackupPhase, Event, LostRange, OperationPhase, Problem, Repository, RepositoryPlace, Role, Secret,
    Severity, VmPhase, Volume, VolumePhase,
};
use serde_json::json;

use crate::storage::sent_pool;
use crate::world::{Controller, REPOSITORY, World, name, succeeded};

/// What there has to be: so many whole backups, with what is known of them, in the store and in the repository.
pub async fn expect(world: &World, count: usize, is_read: bool) {
    let backups = world.backups().await;
    assert_eq!(backups.len(), count);
    for backup in &backups {
        assert_eq!((backup.status.phase, &backup.status.operation), (BackupPhase::Ready, &None));
        assert_eq!(backup.status.verified_at.is_some(), is_read);
        assert!(backup.status.taken_at.is_some() && backup.status.machine.is_some(), "{backup:?}");
    }
    let kept = world.hosts.backups_in(REPOSITORY);
    assert_eq!(kept, backups.iter().map(|backup| backup.metadata.uuid).collect::<Vec<_>>());
}

fn admin() -> Caller {
    Caller::token("admin", Role::Admin)
}
fn now() -> WriteQuery {
    WriteQuery::default()
}
fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
    result.expect_err("must be refused").code().to_owned()
}
fn sent(short: &str, repository: &str) -> Backup {
    let spec = serde_json::from_value(json!({"vm": "web", "repository": repository})).expect("a spec");
    Backup::new(name(&format!("web-{short}")), spec)
}

async fn done<T>(world: &World, controller: &Controller, changed: Result<Changed<T>, Problem>) {
    let operation = changed.map_err(|problem| format!("{problem:?}")).expect("accepted").operation;
    let operation = operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    succeeded(&world.operation(operation.as_str()).await);
}

async fn a_backup() -> (World, Controller) {
    let world = World::new().await;
    let controller = world.controller().await;
    controller.import().await;
    controller.running("web").await;
    done(&world, &controller, backup::create(&controller.app, &admin(), sent("a", REPOSITORY), &now()).await).await;
    (world, controller)
}

#[tokio::test]
async fn what_can_not_be_backed_up_is_refused() {
    let (world, controller) = a_backup().await;
    let app = &*controller.app;
    let create = async |backup: Backup| backup::create(app, &admin(), backup, &now()).await;
    let viewer = Caller::token("v", Role::Viewer);
    assert_eq!(code(backup::create(app, &viewer, sent("b", REPOSITORY), &now()).await), "denied");
    let query = BackupFilesQuery { path: "/etc".to_owned(), offset: None };
    assert_eq!(code(backup::files(app, &viewer, "web-a", &query).await), "denied", "it is as secret as the disk");
    for bad in ["srv/backup", "/", "/srv/../etc", ""] {
        assert_eq!(code(create(sent("b", bad)).await), "invalid-backup", "{bad}");
    }
    assert_eq!(code(create(sent("a", REPOSITORY)).await), "already-exists");
    let other = Backup { spec: sent("a", "/srv/other").spec, ..sent("a", REPOSITORY) };
    assert_eq!(code(backup::put(app, &admin(), "web-a", other, &now()).await), "unchangeable");
    expect(&world, 1, false).await;
}

#[tokio::test]
async fn a_restored_vm_is_another_one_or_the_same_again() {
    let (world, controller) = a_backup().await;
    let app = &*controller.app;
    let before = world.vm("web").await.expect("a VM");
    let exists = backup::restore(app, &admin(), "web-a", &RestoreBackupRequest::default(), &now()).await;
    assert_eq!(code(exists), "already-exists");
    let as_copy = RestoreBackupRequest { name: Some(name("web2")), start: false, ..RestoreBackupRequest::default() };
    done(&world, &controller, backup::restore(app, &admin(), "web-a", &as_copy, &now()).await).await;
    let copy = world.vm("web2").await.expect("a VM");
    assert_eq!(copy.status.phase, VmPhase::Stopped);
    assert_eq!((&copy.status.host, &copy.spec.image), (&before.status.host, &None));
    assert_ne!(copy.metadata.uuid, before.metadata.uuid);
    assert_ne!(copy.status.nics[0].mac, before.status.nics[0].mac);
    assert_ne!(copy.status.nics[0].address, before.status.nics[0].address);

    done(&world, &controller, vm::delete(app, &admin(), "web", false, &now()).await).await;
    let again = backup::restore(app, &admin(), "web-a", &RestoreBackupRequest::default(), &now()).await;
    done(&world, &controller, again).await;
    let again = world.vm("web").await.expect("a VM");
    assert_eq!(again.status.phase, VmPhase::Running);
    assert_eq!(again.status.nics[0].mac, before.status.nics[0].mac);
    assert_eq!(again.status.nics[0].address, before.status.nics[0].address);
    world.check().await;
}

#[tokio::test]
async fn a_vm_that_is_restored_and_does_not_start_is_kept() {
    let (world, controller) = a_backup().await;
    let app = &*controller.app;
    world.hosts.inject(Fault::once("power", When::Before, Problem::permanent("no-memory", "there is no memory left")));
    let request = RestoreBackupRequest { name: Some(name("web2")), ..RestoreBackupRequest::default() };
    let changed = backup::restore(app, &admin(), "web-a", &request, &now()).await.expect("accepted");
    let operation = changed.operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    assert_eq!(world.operation(operation.as_str()).await.status.phase, OperationPhase::Failed);
    let copy = world.vm("web2").await.expect("its disk is there, so it stays");
    assert_eq!((copy.status.phase, copy.status.operation), (VmPhase::Failed, None));
    done(&world, &controller, vm::start(app, &admin(), "web2", &now()).await).await;
}

#[tokio::test]
async fn damage_is_found_told_and_not_restored() {
    let (world, controller) = a_backup().await;
    let app = &*controller.app;
    let uuid = world.backups().await[0].metadata.uuid;
    let lost = LostRange {
        disk: "disk".to_owned(),
        offset_bytes: 1 << 20,
        length_bytes: 256 << 10,
        why: "chunk ab is missing".to_owned(),
    };
    world.hosts.damage_backup(uuid, lost.clone());
    done(&world, &controller, backup::verify(app, &admin(), "web-a", &now()).await).await;
    let found = world.backups().await.remove(0);
    assert_eq!((found.status.phase, found.status.lost.clone()), (BackupPhase::Damaged, vec![lost]));
    let reason = found.status.reason.unwrap_or_default();
    assert!(reason.contains("262144 bytes at 1048576 of disk 'disk'"), "{reason}");
    let told: Vec<Event> = app.objects.list().await.expect("a store");
    let told = told.into_iter().find(|event| event.spec.reason == "BackupDamaged").expect("an event");
    assert_eq!(told.spec.severity, Severity::Warning);
    let request = RestoreBackupRequest { name: Some(name("web2")), ..RestoreBackupRequest::default() };
    assert_eq!(code(backup::restore(app, &admin(), "web-a", &request, &now()).await), "wrong-phase");
    let query = BackupFilesQuery { path: "/etc".to_owned(), offset: None };
    let content = backup::files(app, &admin(), "web-a", &query).await.expect("what is not lost can be read");
    assert!(matches!(content, BackupContent::Directory { .. }));
}

#[tokio::test]
async fn one_whose_repository_is_gone_can_be_forgotten() {
    let (world, controller) = a_backup().await;
    let app = &*controller.app;
    let gone = Problem::permanent("repository-missing", "it is no repository");
    world.hosts.inject(Fault { times: usize::MAX, ..Fault::once("delete_backup", When::Before, gone) });
    let query = DeleteBackupQuery::default();
    let operation = backup::delete(app, &admin(), "web-a", &query).await.expect("accepted").operation;
    controller.execute(&operation.expect("an operation").metadata.name).await;
    let left = world.backups().await.remove(0);
    assert_eq!(left.status.phase, BackupPhase::Deleting);
    assert!(left.status.reason.unwrap_or_default().contains("gantry backup delete web a"));
    let query = DeleteBackupQuery { force: true, ..query };
    done(&world, &controller, backup::delete(app, &admin(), "web-a", &query).await).await;
    assert!(world.backups().await.is_empty());
}

#[tokio::test]
async fn a_volume_begins_as_a_disk_in_a_backup() {
    let (world, controller) = a_backup().await;
    let app = &*controller.app;
    done(&world, &controller, pool::create(app, &admin(), sent_pool("fast", "/srv/fast"), &now()).await).await;
    let wanted = |name: &str, size: &str, from: &str, disk: &str| -> Volume {
        let spec = json!({"pool": "fast", "size": size, "backup": {"name": from, "disk": disk}});
        Volume::new(name.parse().expect("a name"), serde_json::from_value(spec).expect("a spec"))
    };
    for (wrong, field) in [
        (wanted("again", "1MiB", "web-b", "disk"), "spec.backup.name"),
        (wanted("again", "1MiB", "web-a", "data"), "spec.backup.disk"),
    ] {
        let refused = volume::create(app, &admin(), wrong, &now()).await.expect_err("must be refused");
        assert_eq!((refused.code(), refused.fields[0].field.as_str()), ("invalid-volume", field));
    }
    let mut both = wanted("again", "1MiB", "web-a", "disk");
    both.spec.image = Some(name("tiny"));
    assert_eq!(code(volume::create(app, &admin(), both, &now()).await), "invalid-volume");

    let good = wanted("again", "1MiB", "web-a", "disk");
    done(&world, &controller, volume::create(app, &admin(), good.clone(), &now()).await).await;
    let made: Volume = app.objects.get("again").await.expect("a volume");
    assert_eq!((made.status.phase, made.status.operation), (VolumePhase::Ready, None));
    assert!(world.hosts.calls().iter().any(|call| call.name == "restore_volume"));

    // What turns out to be lost leaves no volume.
    let lost = LostRange { disk: "disk".to_owned(), offset_bytes: 0, length_bytes: 1, why: "rot".to_owned() };
    world.hosts.damage_backup(world.backups().await[0].metadata.uuid, lost);
    let unlucky = Volume { metadata: wanted("b", "1MiB", "web-a", "disk").metadata, ..good };
    let changed = volume::create(app, &admin(), unlucky, &now()).await;
    let operation = changed.expect("accepted").operation.expect("an operation").metadata.name;
    controller.execute(&operation).await;
    assert_eq!(world.operation(operation.as_str()).await.status.phase, OperationPhase::Failed);
    assert!(app.objects.find::<Volume>("b").await.expect("read").is_none());
}

#[tokio::test]
async fn backups_that_nobody_knows_any_more_are_taken_in_as_they_were() {
    let (world, controller) = a_backup().await;
    let app = &*controller.app;
    for short in ["b", "c"] {
        done(&world, &controller, backup::create(app, &admin(), sent(short, REPOSITORY), &now()).await).await;
    }
    let before = world.backups().await;
    let forget = DeleteBackupQuery { force: true, ..DeleteBackupQuery::default() };
    for short in ["a", "b", "c"] {
        done(&world, &controller, backup::delete(app, &admin(), &format!("web-{short}"), &forget).await).await;
    }
    // Somebody has called another one so since.
    done(&world, &controller, backup::create(app, &admin(), sent("b", REPOSITORY), &now()).await).await;

    let mut kept = vault(json!({"place": {"directory": {"path": REPOSITORY}}}));
    kept.metadata.name = name("kept");
    managed::create(app, &admin(), kept, &now()).await.expect("made");
    let adopt = async |after| {
        let query = AdoptBackupsQuery { host: None, after };
        backup_adoption::adopt(app, &admin(), "kept", &query).await.expect("a page")
    };
    let mut adopted = Vec::new();
    let mut after = None;
    loop {
        let page = adopt(after).await;
        adopted.extend(page.adopted);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(adopted.len(), 3, "{adopted:?}");
    for was in &before {
        let now =
            world.backups().await.into_iter().find(|now| now.metadata.uuid == was.metadata.uuid).expect("adopted");
        let same = now.metadata.name == was.metadata.name;
        assert!(same || was.short_name() == "b" && now.short_name().starts_with("b-"), "{now:?}");
        assert_eq!((&now.status.machine, &now.status.disks), (&was.status.machine, &was.status.disks));
        assert_eq!((now.status.phase, now.status.taken_at), (BackupPhase::Ready, was.status.taken_at));
        assert_eq!((now.spec.repository.as_str(), now.spec.scheduled), ("kept", false));
    }
    let again = adopt(None).await;
    assert_eq!((again.adopted.len(), again.known), (0, 2), "what is known stays as it is");
    let restore = RestoreBackupRequest { name: Some(name("again")), host: None, start: true };
    done(&world, &controller, backup::restore(app, &admin(), "web-a", &restore, &now()).await).await;
    assert_eq!(code(backup_adoption::adopt(app, &admin(), "none", &AdoptBackupsQuery::default()).await), "not-found");
    world.check().await;
}

fn vault(spec: serde_json::Value) -> Repository {
    Repository::new(name("vault"), serde_json::from_value(spec).expect("a spec"))
}

#[tokio::test]
async fn a_repository_has_a_name_keys_and_a_passphrase_that_nobody_sees_again() {
    let (world, controller) = a_backup().await;
    let app = &controller.app;
    assert_eq!(code(backup::create(app, &admin(), sent("b", "vault"), &now()).await), "invalid-backup");
    let s3 = |change: serde_json::Value| {
        let mut bucket = json!({"bucket": "backups", "access_key_id": "id", "secret_access_key": "the key"});
        bucket.as_object_mut().expect("one").extend(change.as_object().expect("one").clone());
        vault(json!({"place": {"s3": bucket}, "passphrase": "correct horse"}))
    };
    let keyless = managed::create(app, &admin(), s3(json!({"secret_access_key": null})), &now()).await;
    assert_eq!(code(keyless), "invalid-repository");
    let made = managed::create(app, &admin(), s3(json!({})), &now()).await.expect("made").object;
    let secrets = ["the key", "correct horse"];
    let hides = |repository: &Repository| {
        let shown = serde_json::to_string(repository).expect("JSON");
        assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
        assert!(repository.status.encrypted);
    };
    hides(&made);
    hides(&app.model.decorate(&*app.model.get::<Repository>("vault").expect("stored")));

    // What is left out stays; what it is does not change.
    let opened = repository::check(app, &admin(), "vault", &RepositoryCheckQuery::default()).await.expect("opened");
    assert_eq!(opened.backups, 0);
    let mut other = made.clone();
    let RepositoryPlace::S3(bucket) = &mut other.spec.place else { panic!("{other:?}") };
    bucket.access_key_id = "another".into();
    managed::put(app, &admin(), "vault", other.clone(), &now()).await.expect("changed");
    let again = repository::check(app, &admin(), "vault", &RepositoryCheckQuery::default()).await.expect("opened");
    assert_eq!(again, opened);
    let RepositoryPlace::S3(bucket) = &mut other.spec.place else { panic!("{other:?}") };
    (bucket.bucket, other.metadata.revision) = ("others".into(), 0);
    assert_eq!(code(managed::put(app, &admin(), "vault", other.clone(), &now()).await), "invalid-repository");
    let mut wrong = made;
    (wrong.spec.passphrase, wrong.metadata.revision) = (Some(Secret::new("incorrect horse")), 0);
    managed::put(app, &admin(), "vault", wrong.clone(), &now()).await.expect("changed");
    let shut = repository::check(app, &admin(), "vault", &RepositoryCheckQuery::default()).await;
    assert_eq!(code(shut), "repository-locked-up");
    wrong.spec.passphrase = Some(Secret::new("correct horse"));
    managed::put(app, &admin(), "vault", wrong, &now()).await.expect("changed");

    // Backups go there, and it stays while they are there.
    done(&world, &controller, backup::create(app, &admin(), sent("b", "vault"), &now()).await).await;
    assert_eq!(world.hosts.backups_in("s3://backups").len(), 1);
    assert_eq!(code(managed::delete::<Repository>(app, &admin(), "vault", &now()).await), "repository-in-use");
    done(&world, &controller, backup::verify(app, &admin(), "web-b", &now()).await).await;
    done(&world, &controller, backup::delete(app, &admin(), "web-b", &Default::default()).await).await;
    assert_eq!(world.hosts.backups_in("s3://backups").len(), 0);
    let mut vm = world.vm("web").await.expect("a VM");
    vm.spec.backups = Some(serde_json::from_value(json!({"repository": "vault", "daily": 1})).expect("one"));
    vm::put(app, &admin(), "web", vm.clone(), &now()).await.expect("changed");
    assert_eq!(code(managed::delete::<Repository>(app, &admin(), "vault", &now()).await), "repository-in-use");
    (vm.spec.backups, vm.metadata.revision) = (None, 0);
    vm::put(app, &admin(), "web", vm.clone(), &now()).await.expect("changed");
    hides(&managed::delete::<Repository>(app, &admin(), "vault", &now()).await.expect("forgotten").object);
    vm.spec.backups = Some(serde_json::from_value(json!({"repository": "vault", "daily": 1})).expect("one"));
    assert_eq!(code(vm::put(app, &admin(), "web", vm, &now()).await), "invalid-vm");
}
