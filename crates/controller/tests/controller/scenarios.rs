//! One operation each, ready to be run, with all that has to be there before.

use gantry_api::rest::{MigrateRequest, RebootRequest, StopRequest, WriteQuery};
use gantry_controller::{
    Caller,
    app::{image, vm},
};
use gantry_types::{MigrationPolicy, Name, PostCopy, VmPhase};

use crate::world::{Controller, World, name};

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
    ImageImport,
    ImageDelete,
}

impl Scenario {
    pub const ALL: [Self; 14] = [
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
        Self::ImageImport,
        Self::ImageDelete,
    ];

    /// A world in which the operation is written down and not begun.
    pub async fn prepare(self) -> (World, Name) {
        let world = World::new().await;
        let controller = world.controller().await;
        let operation = self.ask(&controller).await;
        (world, operation)
    }

    async fn ask(self, controller: &Controller) -> Name {
        let (app, caller, query) = (&controller.app, &Caller::controller(), &WriteQuery::default());
        if self == Self::ImageImport {
            image::create(app, caller, gantry_types::Image::new(name("tiny"), Default::default()), query)
                .await
                .expect("made");
            let changed = image::content_uploaded(app, caller, "tiny").await.expect("uploaded");
            return changed.operation.expect("an operation").metadata.name;
        }
        controller.import().await;
        if self == Self::ImageDelete {
            let changed = image::delete(app, caller, "tiny", query).await.expect("deleted");
            return changed.operation.expect("an operation").metadata.name;
        }
        if self == Self::DeleteUnplaced {
            let spec = serde_json::json!({"cpus": 1, "memory": "64MiB", "disk": "1GiB", "power": "stopped"});
            let sent = gantry_types::Vm::new(name("web"), serde_json::from_value(spec).expect("a spec"));
            vm::create(app, caller, sent, query).await.expect("made");
            let changed = vm::delete(app, caller, "web", false, query).await.expect("deleted");
            return changed.operation.expect("an operation").metadata.name;
        }
        let started = controller.create("web").await;
        if self == Self::Start {
            return started;
        }
        controller.execute(&started).await;
        let stop = StopRequest { grace_s: 0, force: true };
        if self == Self::Restart {
            let changed = vm::stop(app, caller, "web", stop, query).await.expect("stops");
            controller.execute(&changed.operation.expect("an operation").metadata.name).await;
        }
        if matches!(self, Self::Resume | Self::MigratePaused) {
            let changed = vm::pause(app, caller, "web", query).await.expect("pauses");
            controller.execute(&changed.operation.expect("an operation").metadata.name).await;
        }
        let policy = MigrationPolicy { post_copy: PostCopy::Always, ..MigrationPolicy::default() };
        let policy = (self == Self::MigratePostCopy).then_some(policy);
        let migrate = MigrateRequest { to: Some(name("host-3")), policy };
        let changed = match self {
            Self::Restart => vm::start(app, caller, "web", query).await,
            Self::Stop => vm::stop(app, caller, "web", StopRequest::default(), query).await,
            Self::Kill => vm::stop(app, caller, "web", stop, query).await,
            Self::Reboot => vm::reboot(app, caller, "web", RebootRequest::default(), query).await,
            Self::Pause => vm::pause(app, caller, "web", query).await,
            Self::Resume => vm::resume(app, caller, "web", query).await,
            Self::Delete => vm::delete(app, caller, "web", false, query).await,
            Self::Migrate | Self::MigratePaused | Self::MigratePostCopy => {
                vm::migrate(app, caller, "web", &migrate, query).await
            }
            Self::Start | Self::DeleteUnplaced | Self::ImageImport | Self::ImageDelete => unreachable!("done above"),
        };
        changed.expect("accepted").operation.expect("an operation").metadata.name
    }

    pub fn is_migration(self) -> bool {
        matches!(self, Self::Migrate | Self::MigratePaused | Self::MigratePostCopy)
    }

    /// The VM's phase and host after success; no VM if `None`.
    pub fn expected(self) -> Option<(VmPhase, Option<&'static str>)> {
        match self {
            Self::Start | Self::Restart | Self::Reboot | Self::Resume => Some((VmPhase::Running, Some("host-1"))),
            Self::Stop | Self::Kill => Some((VmPhase::Stopped, Some("host-1"))),
            Self::Pause => Some((VmPhase::Paused, Some("host-1"))),
            Self::Migrate | Self::MigratePostCopy => Some((VmPhase::Running, Some("host-3"))),
            Self::MigratePaused => Some((VmPhase::Paused, Some("host-3"))),
            Self::Delete | Self::DeleteUnplaced | Self::ImageImport | Self::ImageDelete => None,
        }
    }
}
