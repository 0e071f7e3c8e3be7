//! One operation each, ready to be run, with all that has to be there before.

use gantry_api::rest::{
    AttachRequest, CloneRequest, DeleteBackupQuery, MigrateRequest, MigrateVolumeRequest, RebootRequest,
    RecoverRequest, RestoreBackupRequest, RevertRequest, StopRequest, WriteQuery,
};
use gantry_controller::{
    Caller,
    app::{backup, cluster, host_work, image, pool, snapshot, vm, vm_clone, volume},
};
use gantry_types::{
    Backup, ByteSize, HostUpdate, MigrationPolicy, Name, Pool, PoolSpec, PostCopy, RecoveryPoint, RecoveryPointKind,
    Snapshot, Timestamp, VmPhase, Volume, VolumePhase,
};
use uuid::Uuid;

use crate::world::{Controller, REPOSITORY, World, name};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Start,
    Restart,
    Stop,
    Kill,
    Reboot,
    Pause,
    Resume,
    Delete,
    DeleteUnplaced,
    Migrate,
    MigratePaused,
    MigratePostCopy,
    MigrateInPool,
    /// Whose disk has a copy on the host that it is moved to.
    MigrateCopied,
    StartElsewhere,
    /// On the host that has a copy of its disk.
    StartOnCopy,
    /// Where it was, beside a copy of its disk.
    RestartBesideCopy,
    /// Of a stopped VM that has a snapshot.
    Relocate,
    /// Of a VM that runs, from its host's own pool to a shared one.
    DiskMigrate,
    /// Of a stopped VM that has a snapshot, from a shared pool to one of its host.
    DiskMigrateStopped,
    /// Of a VM that runs and has a snapshot.
    Clone,
    CloneStopped,
    /// Of a VM that has written since.
    CloneOfSnapshot,
    SnapshotCreate,
    SnapshotOfStopped,
    SnapshotDelete,
    Revert,
    RevertMemory,
    Recover,
    ImageImport,
    ImageDelete,
    PoolCreate,
    PoolDelete,
    VolumeCreate,
    VolumeDelete,
    VolumeAttach,
    VolumeDetach,
    VolumeGrow,
    VolumeMigrate,
    VolumeMigrateLoose,
    VolumeClone,
    VolumeFromImage,
    /// Mirrored, to a VM whose disk has a copy.
    VolumeAttachMirrored,
    /// From a VM that has copies of both.
    VolumeDetachMirrored,
    /// Where there is a copy of it.
    VolumeTakeOver,
    BackupCreate,
    BackupVerify,
    BackupDelete,
    /// Of a VM that is no more.
    BackupRestore,
    HostDrain,
    HostSleep,
    HostWake,
    HostReboot,
    ClusterUpdate,
}

impl Scenario {
    /// Its host is lost, and it starts on another one.
    pub fn leaves_its_host(self) -> bool {
        matches!(self, Self::StartElsewhere | Self::StartOnCopy)
    }

    /// Given up on the way, it leaves its VM without the copy of its disk.
    pub fn parts_copies(self) -> bool {
        matches!(self, Self::MigrateCopied | Self::VolumeAttachMirrored | Self::VolumeTakeOver)
    }

    fn is_of_mirrored_volumes(self) -> bool {
        matches!(self, Self::VolumeAttachMirrored | Self::VolumeDetachMirrored | Self::VolumeTakeOver)
    }

    pub const ALL: [Self; 54] = [
        Self::Start,
        Self::Restart,
        Self::Stop,
        Self::Kill,
        Self::Reboot,
        Self::Pause,
        Self::Resume,
        Self::Delete,
        Self::DeleteUnplaced,
        Self::Migrate,
        Self::MigratePaused,
        Self::MigratePostCopy,
        Self::MigrateInPool,
        Self::MigrateCopied,
        Self::StartElsewhere,
        Self::StartOnCopy,
        Self::RestartBesideCopy,
        Self::Relocate,
        Self::DiskMigrate,
        Self::DiskMigrateStopped,
        Self::Clone,
        Self::CloneStopped,
        Self::CloneOfSnapshot,
        Self::SnapshotCreate,
        Self::SnapshotOfStopped,
        Self::SnapshotDelete,
        Self::Revert,
        Self::RevertMemory,
        Self::Recover,
        Self::ImageImport,
        Self::ImageDelete,
        Self::PoolCreate,
        Self::PoolDelete,
        Self::VolumeCreate,
        Self::VolumeDelete,
        Self::VolumeAttach,
        Self::VolumeDetach,
        Self::VolumeGrow,
        Self::VolumeMigrate,
        Self::VolumeMigrateLoose,
        Self::VolumeClone,
        Self::VolumeFromImage,
        Self::VolumeAttachMirrored,
        Self::VolumeDetachMirrored,
        Self::VolumeTakeOver,
        Self::BackupCreate,
        Self::BackupVerify,
        Self::BackupDelete,
        Self::BackupRestore,
        Self::HostDrain,
        Self::HostSleep,
        Self::HostWake,
        Self::HostReboot,
        Self::ClusterUpdate,
    ];

    /// A world in which the operation is written down and not begun.
    pub async fn prepare(self) -> (World, Name) {
        let world = World::new().await;
        let controller = world.controller().await;
        let operation = self.ask(&world, &controller).await;
        let operation = match operation {
            Some(operation) => operation,
            None => self.ask_host(&world, &controller).await,
        };
        (world, operation)
    }

    /// Work on host-1, where the VM is.
    async fn ask_host(self, world: &World, controller: &Controller) -> Name {
        let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
        world.heartbeats(controller).await;
        if self == Self::HostSleep {
            world.prove_wake(controller, "host-1").await;
        }
        if self == Self::HostWake {
            world.prove_wake(controller, "host-2").await;
            let sleeps = host_work::sleep(app, caller, "host-2", query).await.expect("sleeps").operation;
            world.drive(controller, &sleeps.expect("an operation").metadata.name).await;
        }
        let operation = match self {
            Self::HostDrain => host_work::drain(app, caller, "host-1", query).await.expect("accepted").operation,
            Self::HostSleep => host_work::sleep(app, caller, "host-1", query).await.expect("accepted").operation,
            Self::HostWake => host_work::wake(app, caller, "host-2", query).await.expect("accepted").operation,
            Self::HostReboot => host_work::reboot(app, caller, "host-1", query).await.expect("accepted").operation,
            _ => {
                cluster::ensure_main(&app.objects, &*app.clock).await.expect("made");
                let update = cluster::update(app, caller, "main", HostUpdate::Reboot, query);
                update.await.expect("accepted").operation
            }
        };
        operation.expect("an operation").metadata.name
    }

    /// Whether it starts other operations, or needs hosts that report.
    pub fn is_of_hosts(self) -> bool {
        use Scenario::{ClusterUpdate, HostDrain, HostReboot, HostSleep, HostWake};
        matches!(self, HostDrain | HostSleep | HostWake | HostReboot | ClusterUpdate)
    }

    async fn ask(self, world: &World, controller: &Controller) -> Option<Name> {
        let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
        if self == Self::ImageImport {
            image::create(app, caller, gantry_types::Image::new(name("tiny"), Default::default()), query)
                .await
                .expect("made");
            let changed = image::content_uploaded(app, caller, "tiny").await.expect("uploaded");
            return Some(changed.operation.expect("an operation").metadata.name);
        }
        controller.import().await;
        if self == Self::ImageDelete {
            let changed = image::delete(app, caller, "tiny", query).await.expect("deleted");
            return Some(changed.operation.expect("an operation").metadata.name);
        }
        if self == Self::DeleteUnplaced {
            let spec = serde_json::json!({"cpus": 1, "memory": "64MiB", "disk": "1GiB", "power": "stopped"});
            let sent = gantry_types::Vm::new(name("web"), serde_json::from_value(spec).expect("a spec"));
            vm::create(app, caller, sent, query).await.expect("made");
            let changed = vm::delete(app, caller, "web", false, query).await.expect("deleted");
            return Some(changed.operation.expect("an operation").metadata.name);
        }
        let started = match self {
            Self::MigrateInPool | Self::StartElsewhere | Self::DiskMigrateStopped => {
                controller.shared_pool("nas").await;
                controller.create_in("web", Some("nas")).await
            }
            _ if self.is_of_mirrored_volumes()
                || matches!(self, Self::MigrateCopied | Self::StartOnCopy | Self::RestartBesideCopy) =>
            {
                controller.mirrored_pool("pair").await;
                controller.create_in("web", Some("pair")).await
            }
            Self::DiskMigrate => {
                controller.shared_pool("nas").await;
                controller.create("web").await
            }
            _ => controller.create("web").await,
        };
        if self == Self::Start {
            return Some(started);
        }
        controller.execute(&started).await;
        if self.is_of_hosts() {
            return None;
        }
        let starts_on_copy = matches!(self, Self::StartOnCopy | Self::RestartBesideCopy);
        if starts_on_copy || self == Self::MigrateCopied || self.is_of_mirrored_volumes() {
            world.copied(controller, "web").await;
        }
        let stop = StopRequest { grace_s: 0, force: true };
        if starts_on_copy || matches!(self, Self::Restart | Self::SnapshotOfStopped | Self::StartElsewhere) {
            let changed = vm::stop(app, caller, "web", stop, query).await.expect("stops");
            controller.execute(&changed.operation.expect("an operation").metadata.name).await;
        }
        if matches!(self, Self::Resume | Self::MigratePaused) {
            let changed = vm::pause(app, caller, "web", query).await.expect("pauses");
            controller.execute(&changed.operation.expect("an operation").metadata.name).await;
        }
        if self.leaves_its_host() {
            world.lose(controller, "host-1").await;
        }
        if self.is_of_storage() {
            return Some(self.ask_of_storage(world, controller).await);
        }
        if self.expected_backups().is_some() {
            return Some(self.ask_of_backup(world, controller).await);
        }
        if self.expected_disk_pool().is_some() {
            return Some(self.ask_of_disk_move(world, controller).await);
        }
        if self.expected_disk().is_some() {
            return Some(self.ask_of_disk(world, controller).await);
        }
        let policy = MigrationPolicy { post_copy: PostCopy::Always, ..MigrationPolicy::default() };
        let policy = (self == Self::MigratePostCopy).then_some(policy);
        let migrate = MigrateRequest { to: Some(name("host-3")), policy, ..MigrateRequest::default() };
        let changed = match self {
            Self::Restart | Self::StartElsewhere | Self::StartOnCopy | Self::RestartBesideCopy => {
                vm::start(app, caller, "web", query).await
            }
            Self::Stop => vm::stop(app, caller, "web", StopRequest::default(), query).await,
            Self::Kill => vm::stop(app, caller, "web", stop, query).await,
            Self::Reboot => vm::reboot(app, caller, "web", RebootRequest::default(), query).await,
            Self::Pause => vm::pause(app, caller, "web", query).await,
            Self::Resume => vm::resume(app, caller, "web", query).await,
            Self::Delete => vm::delete(app, caller, "web", false, query).await,
            Self::Migrate | Self::MigratePaused | Self::MigratePostCopy | Self::MigrateInPool | Self::MigrateCopied => {
                vm::migrate(app, caller, "web", &migrate, query).await
            }
            _ => unreachable!("done above"),
        };
        Some(changed.expect("accepted").operation.expect("an operation").metadata.name)
    }

    pub fn is_of_storage(self) -> bool {
        self.expected_storage().is_some()
    }

    /// A pool on the VM's host, a volume in it, the VM that has it: as much of this as the operation needs.
    async fn ask_of_storage(self, world: &World, controller: &Controller) -> Name {
        let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
        let sent = Pool::new(name("fast"), PoolSpec::dir("/srv/fast", name("host-1")));
        let made = pool::create(app, caller, sent, query).await.expect("accepted").operation;
        let made = made.expect("an operation").metadata.name;
        if self == Self::PoolCreate {
            return made;
        }
        controller.execute(&made).await;
        if self == Self::PoolDelete {
            let deleted = pool::delete(app, caller, "fast", query).await.expect("accepted").operation;
            return deleted.expect("an operation").metadata.name;
        }
        let image = (self == Self::VolumeFromImage).then_some("tiny");
        let pool = if self.is_of_mirrored_volumes() { "pair" } else { "fast" };
        let spec = serde_json::json!({"pool": pool, "size": "1GiB", "image": image});
        let sent = Volume::new(name("data"), serde_json::from_value(spec).expect("a spec"));
        let made = volume::create(app, caller, sent, query).await.expect("accepted").operation;
        let made = made.expect("an operation").metadata.name;
        if matches!(self, Self::VolumeCreate | Self::VolumeFromImage) {
            return made;
        }
        controller.execute(&made).await;
        let changed = match self {
            Self::VolumeDelete => volume::delete(app, caller, "data", query).await,
            Self::VolumeMigrateLoose => {
                self.another_pool(controller).await;
                volume::migrate(app, caller, "data", &MigrateVolumeRequest { to: name("slow") }, query).await
            }
            Self::VolumeClone => {
                let spec = serde_json::json!({"pool": "fast", "size": "1GiB", "clone_of": "data"});
                let sent = Volume::new(name("copy"), serde_json::from_value(spec).expect("a spec"));
                volume::create(app, caller, sent, query).await
            }
            _ => volume::attach(app, caller, "data", &AttachRequest { vm: name("web") }, query).await,
        };
        let changed = changed.expect("accepted").operation.expect("an operation").metadata.name;
        if matches!(self, Self::VolumeDelete | Self::VolumeAttach | Self::VolumeMigrateLoose | Self::VolumeClone)
            || self == Self::VolumeAttachMirrored
        {
            return changed;
        }
        controller.execute(&changed).await;
        if self.is_of_mirrored_volumes() {
            world.copied(controller, "web").await;
            let detached = volume::detach(app, caller, "data", query).await.expect("accepted").operation;
            let detached = detached.expect("an operation").metadata.name;
            if self == Self::VolumeDetachMirrored {
                return detached;
            }
            controller.execute(&detached).await;
            let request = MigrateRequest { to: Some(name("host-3")), ..MigrateRequest::default() };
            let moved = vm::migrate(app, caller, "web", &request, query).await.expect("accepted").operation;
            controller.execute(&moved.expect("an operation").metadata.name).await;
            world.hosts.settle();
            world.reports(controller).await;
            let taken = volume::attach(app, caller, "data", &AttachRequest { vm: name("web") }, query).await;
            return taken.expect("accepted").operation.expect("an operation").metadata.name;
        }
        let changed = if self == Self::VolumeDetach {
            volume::detach(app, caller, "data", query).await
        } else if self == Self::VolumeMigrate {
            self.another_pool(controller).await;
            volume::migrate(app, caller, "data", &MigrateVolumeRequest { to: name("slow") }, query).await
        } else {
            let mut larger: Volume = app.objects.get("data").await.expect("a volume");
            larger.spec.size = ByteSize::gib(2);
            volume::put(app, caller, "data", larger, query).await
        };
        changed.expect("accepted").operation.expect("an operation").metadata.name
    }

    async fn another_pool(self, controller: &Controller) {
        let sent = Pool::new(name("slow"), PoolSpec::dir("/srv/slow", name("host-1")));
        let made = pool::create(&controller.app, &Caller::controller(), sent, &WriteQuery::default()).await;
        controller.execute(&made.expect("accepted").operation.expect("an operation").metadata.name).await;
    }

    /// After success: whether the pool is there, and the volume's phase and size.
    pub fn expected_storage(self) -> Option<(bool, Option<(VolumePhase, ByteSize)>)> {
        let volume = |phase, gib| Some((true, Some((phase, ByteSize::gib(gib)))));
        match self {
            Self::PoolCreate => Some((true, None)),
            Self::PoolDelete => Some((false, None)),
            Self::VolumeDelete => Some((true, None)),
            Self::VolumeMigrateLoose | Self::VolumeClone => volume(VolumePhase::Ready, 1),
            Self::VolumeMigrate => volume(VolumePhase::Attached, 1),
            Self::VolumeCreate | Self::VolumeFromImage | Self::VolumeDetach => volume(VolumePhase::Ready, 1),
            Self::VolumeDetachMirrored => volume(VolumePhase::Ready, 1),
            Self::VolumeAttach | Self::VolumeAttachMirrored | Self::VolumeTakeOver => volume(VolumePhase::Attached, 1),
            Self::VolumeGrow => volume(VolumePhase::Attached, 2),
            _ => None,
        }
    }

    /// The guest writes once before the backup and once afterwards.
    async fn ask_of_backup(self, world: &World, controller: &Controller) -> Name {
        let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
        let uuid = world.vm("web").await.expect("a VM").metadata.uuid;
        let write = || world.hosts.guest_writes(&name("host-1"), uuid);
        write();
        let spec = serde_json::json!({"vm": "web", "repository": REPOSITORY});
        let sent = Backup::new(name("web-first"), serde_json::from_value(spec).expect("a spec"));
        let created = backup::create(app, caller, sent, query).await.expect("accepted").operation;
        let created = created.expect("an operation").metadata.name;
        if self == Self::BackupCreate {
            return created;
        }
        controller.execute(&created).await;
        write();
        if self == Self::BackupRestore {
            let deleted = vm::delete(app, caller, "web", false, query).await.expect("accepted").operation;
            controller.execute(&deleted.expect("an operation").metadata.name).await;
            let restored = backup::restore(app, caller, "web-first", &RestoreBackupRequest::default(), query).await;
            return restored.expect("accepted").operation.expect("an operation").metadata.name;
        }
        let changed = match self {
            Self::BackupVerify => backup::verify(app, caller, "web-first", query).await,
            _ => backup::delete(app, caller, "web-first", &DeleteBackupQuery::default()).await,
        };
        changed.expect("accepted").operation.expect("an operation").metadata.name
    }

    /// After success: how many backups there are, and whether one was read as a whole.
    pub fn expected_backups(self) -> Option<(usize, bool)> {
        match self {
            Self::BackupCreate | Self::BackupRestore => Some((1, false)),
            Self::BackupVerify => Some((1, true)),
            Self::BackupDelete => Some((0, false)),
            _ => None,
        }
    }

    /// The guest writes once before a state is kept and once afterwards.
    async fn ask_of_disk(self, world: &World, controller: &Controller) -> Name {
        let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
        let uuid = world.vm("web").await.expect("a VM").metadata.uuid;
        let write = || world.hosts.guest_writes(&name("host-1"), uuid);
        let spec = serde_json::json!({"vm": "web", "memory": self == Self::RevertMemory});
        let sent = Snapshot::new(name("web-before"), serde_json::from_value(spec).expect("a spec"));
        write();
        if self == Self::Recover {
            let at = Timestamp::from_unix_ms(1_700_000_000_000);
            let point = RecoveryPoint::new(Uuid::now_v7(), RecoveryPointKind::Good, at, None);
            world.hosts.keep_good(&name("host-1"), uuid, point);
            world.reports(controller).await;
            write();
            let changed = vm::recover(app, caller, "web", &RecoverRequest::default(), query).await;
            return changed.expect("accepted").operation.expect("an operation").metadata.name;
        }
        let changed = snapshot::create(app, caller, sent, query).await.expect("accepted");
        let created = changed.operation.expect("an operation").metadata.name;
        if matches!(self, Self::SnapshotCreate | Self::SnapshotOfStopped) {
            return created;
        }
        controller.execute(&created).await;
        write();
        if self.expected_clone().is_some() {
            let stopped = self == Self::CloneStopped;
            let snapshot = (self == Self::CloneOfSnapshot).then(|| name("web-before"));
            let request = CloneRequest { name: name("copy"), stopped, host: Some(name("host-2")), snapshot };
            let changed = vm_clone::clone(app, caller, "web", &request, query).await.expect("accepted");
            return changed.operation.expect("an operation").metadata.name;
        }
        if self == Self::Relocate {
            let stop = StopRequest { grace_s: 0, force: true };
            let stopped = vm::stop(app, caller, "web", stop, query).await.expect("stops");
            controller.execute(&stopped.operation.expect("an operation").metadata.name).await;
            let migrate = MigrateRequest { to: Some(name("host-3")), ..MigrateRequest::default() };
            let changed = vm::migrate(app, caller, "web", &migrate, query).await.expect("accepted");
            return changed.operation.expect("an operation").metadata.name;
        }
        let changed = match self {
            Self::SnapshotDelete => snapshot::delete(app, caller, "web-before", query).await,
            _ => snapshot::revert(app, caller, "web-before", RevertRequest::default(), query).await,
        };
        changed.expect("accepted").operation.expect("an operation").metadata.name
    }

    /// The guest writes once.
    async fn ask_of_disk_move(self, world: &World, controller: &Controller) -> Name {
        let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
        let uuid = world.vm("web").await.expect("a VM").metadata.uuid;
        world.hosts.guest_writes(&name("host-1"), uuid);
        if self == Self::DiskMigrateStopped {
            let spec = serde_json::json!({"vm": "web"});
            let sent = Snapshot::new(name("web-before"), serde_json::from_value(spec).expect("a spec"));
            let created = snapshot::create(app, caller, sent, query).await.expect("accepted").operation;
            controller.execute(&created.expect("an operation").metadata.name).await;
            let stop = StopRequest { grace_s: 0, force: true };
            let stopped = vm::stop(app, caller, "web", stop, query).await.expect("stops").operation;
            controller.execute(&stopped.expect("an operation").metadata.name).await;
            self.another_pool(controller).await;
        }
        let request = MigrateRequest { pool: self.expected_disk_pool().map(name), ..MigrateRequest::default() };
        let changed = vm::migrate(app, caller, "web", &request, query).await.expect("accepted");
        changed.operation.expect("an operation").metadata.name
    }

    /// After success: the pool that the VM's own disk is in.
    pub fn expected_disk_pool(self) -> Option<&'static str> {
        match self {
            Self::DiskMigrate => Some("nas"),
            Self::DiskMigrateStopped => Some("slow"),
            _ => None,
        }
    }

    /// After success: what the guest wrote, and how many states the disk keeps.
    pub fn expected_disk(self) -> Option<(u64, usize)> {
        match self {
            Self::SnapshotCreate | Self::SnapshotOfStopped | Self::DiskMigrateStopped => Some((1, 1)),
            Self::DiskMigrate => Some((1, 0)),
            Self::SnapshotDelete => Some((2, 0)),
            Self::Relocate | Self::Clone | Self::CloneStopped | Self::CloneOfSnapshot => Some((2, 1)),
            // What was replaced is kept, too.
            Self::Revert | Self::RevertMemory | Self::Recover => Some((1, 2)),
            Self::BackupRestore => Some((1, 0)),
            _ => None,
        }
    }

    /// After success, of the clone: whether it runs, and what is on its disk.
    pub fn expected_clone(self) -> Option<(bool, u64)> {
        match self {
            Self::Clone => Some((true, 2)),
            Self::CloneStopped => Some((false, 2)),
            Self::CloneOfSnapshot => Some((true, 1)),
            _ => None,
        }
    }

    pub fn is_migration(self) -> bool {
        matches!(
            self,
            Self::Migrate | Self::MigratePaused | Self::MigratePostCopy | Self::MigrateInPool | Self::MigrateCopied
        )
    }

    /// The VM's phase and host after success; no VM if `None`.
    pub fn expected(self) -> Option<(VmPhase, Option<&'static str>)> {
        match self {
            Self::Start
            | Self::Restart
            | Self::Reboot
            | Self::Resume
            | Self::DiskMigrate
            | Self::Clone
            | Self::CloneStopped
            | Self::CloneOfSnapshot
            | Self::SnapshotCreate
            | Self::SnapshotDelete
            | Self::Revert
            | Self::RevertMemory
            | Self::Recover => Some((VmPhase::Running, Some("host-1"))),
            _ if self.expected_backups().is_some() => Some((VmPhase::Running, Some("host-1"))),
            Self::VolumeTakeOver => Some((VmPhase::Running, Some("host-3"))),
            _ if self.is_of_storage() => Some((VmPhase::Running, Some("host-1"))),
            Self::Stop | Self::Kill | Self::SnapshotOfStopped | Self::DiskMigrateStopped => {
                Some((VmPhase::Stopped, Some("host-1")))
            }
            Self::Pause => Some((VmPhase::Paused, Some("host-1"))),
            Self::Migrate | Self::MigratePostCopy | Self::MigrateInPool | Self::MigrateCopied => {
                Some((VmPhase::Running, Some("host-3")))
            }
            Self::StartElsewhere => Some((VmPhase::Running, Some("host-2"))),
            // Of equal hosts the last keeps the copy.
            Self::StartOnCopy => Some((VmPhase::Running, Some("host-3"))),
            Self::RestartBesideCopy => Some((VmPhase::Running, Some("host-1"))),
            Self::MigratePaused => Some((VmPhase::Paused, Some("host-3"))),
            Self::Relocate => Some((VmPhase::Stopped, Some("host-3"))),
            Self::HostDrain | Self::HostSleep | Self::HostReboot => Some((VmPhase::Running, Some("host-2"))),
            // It came back when host-2 was updated.
            Self::HostWake | Self::ClusterUpdate => Some((VmPhase::Running, Some("host-1"))),
            _ => None,
        }
    }
}
