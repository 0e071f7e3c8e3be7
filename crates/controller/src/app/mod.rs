//! What the controller can be asked: one file per resource. No HTTP here; every front end calls these functions.
//!
//! Each mutating function checks the caller, validates, fills in defaults, checks references, and writes object,
//! operation and event in one transaction. It returns after the read model shows the change, so that whoever reads
//! next sees it. With `dry_run` it does everything but write.

pub mod alarm;
pub mod backup;
pub mod backup_adoption;
mod caller;
pub mod cluster;
pub(crate) mod copies;
pub mod event;
pub mod explain;
pub mod exposition;
pub mod fence;
pub mod ha_explain;
pub mod host;
pub mod host_work;
pub mod image;
mod listing;
mod load_balancer;
pub mod managed;
pub mod network;
pub mod operation;
pub mod overview;
mod own_address;
pub mod policy;
pub mod pool;
pub mod port;
pub mod receiver;
pub mod repository;
pub(crate) mod resource_pool;
pub mod router;
pub mod search;
mod security_group;
pub mod snapshot;
mod subnet;
pub mod token;
pub mod user;
pub mod vm;
pub mod vm_clone;
pub mod vm_disk;
pub(crate) mod vm_references;
mod vm_update;
pub mod volume;
pub mod volume_content;
mod volume_place;
mod wrongs;

use std::sync::Arc;

pub use caller::Caller;
use gantry_api::rest::WriteQuery;
use gantry_store::SharedStore;
use gantry_types::{Event, EventSpec, Metadata, Name, ObjectRef, Problem, Resource, Severity, Vm};
pub use listing::{Filter, list};
use tokio::sync::{Mutex, Notify, RwLock};

use crate::{
    access::Access,
    audit::AuditLog,
    clock::Clock,
    cluster_view::{ClusterViews, Demands},
    config::Config,
    energy::EnergyBook,
    history::History,
    image_library::ImageLibrary,
    leases::{Leases, moment},
    links::HostLinks,
    loops::{network_distributor::Distributor, resource_distributor::ResourceDistributor},
    model::{Kind, ModelFeed, ReadModel},
    objects::{CHANGED_MEANWHILE, Change, Objects},
    power::PowerDrivers,
    settings::directory_problem,
};
use overview::Overviews;

/// Everything a function of the controller needs. There is one per process.
pub struct App {
    pub config: Config,
    pub objects: Objects,
    pub model: Arc<ReadModel>,
    pub links: Arc<dyn HostLinks>,
    pub images: Arc<dyn ImageLibrary>,
    pub power: Arc<dyn PowerDrivers>,
    pub clock: Arc<dyn Clock>,
    pub access: Access,
    pub leases: Leases,
    pub history: History,
    pub(crate) overviews: Overviews,
    pub audit: AuditLog,
    pub energy: EnergyBook,
    pub wakeups: Wakeups,
    /// What VMs have used lately.
    pub(crate) demands: Demands,
    pub(crate) views: ClusterViews,
    pub(crate) distributor: Distributor,
    pub(crate) resources: ResourceDistributor,
    /// Held from looking at the hosts' room until the model shows what was placed, so that room is given out once.
    pub placement: Mutex<()>,
    /// Held for reading while an object that names images, networks or clusters is created, for writing while one that
    /// may be named is deleted.
    pub(crate) references: RwLock<()>,
}

/// Loops wait on these to be run before their time.
#[derive(Default)]
pub struct Wakeups {
    pub networks: Notify,
    pub policies: Notify,
    pub stray_vms: Notify,
    pub protection: Notify,
    pub fences: Notify,
    pub failover: Notify,
    pub resources: Notify,
    pub alarms: Notify,
    pub notices: Notify,
}

impl App {
    /// Reads the whole state; the feed must then be run for as long as the app is used.
    pub async fn open(
        config: Config,
        store: SharedStore,
        links: Arc<dyn HostLinks>,
        images: Arc<dyn ImageLibrary>,
        power: Arc<dyn PowerDrivers>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, ModelFeed), Problem> {
        let (model, feed) = ModelFeed::start(Arc::clone(&store)).await?;
        let access = Access::new(config.sessions);
        let audit = AuditLog::open(&config.audit_dir(), config.audit)
            .map_err(|error| directory_problem(&config.audit_dir(), &error))?;
        let energy = EnergyBook::open(&config.energy_dir(), clock.now())
            .map_err(|error| directory_problem(&config.energy_dir(), &error))?;
        let leases = model.read(|tables| Leases::open(tables, config.timing, moment(&*clock)));
        let app = Arc::new(Self {
            config,
            objects: Objects::new(store),
            model,
            links,
            images,
            power,
            clock,
            access,
            leases,
            history: History::default(),
            overviews: Overviews::default(),
            audit,
            energy,
            wakeups: Wakeups::default(),
            demands: Demands::default(),
            views: ClusterViews::default(),
            distributor: Distributor::default(),
            resources: ResourceDistributor::default(),
            placement: Mutex::default(),
            references: RwLock::default(),
        });
        Ok((app, feed))
    }

    /// An event about an object, to be written in the transaction of the change it tells of.
    pub fn event(&self, regarding: ObjectRef, severity: Severity, reason: &str, message: impl Into<String>) -> Event {
        // Version 7 uuids: names of events sort by time.
        let name = fresh_name(self.clock.new_uuid().simple().to_string());
        let mut event = Event::new(
            name,
            EventSpec {
                regarding,
                severity,
                reason: reason.into(),
                message: message.into(),
                host: None,
                operation: None,
            },
        );
        self.stamp(&mut event.metadata);
        event
    }

    /// An operation on this object has ended: reports made before that can't contradict its result.
    pub(crate) fn settled(&self, target: &ObjectRef) {
        let vm = self.model.get::<Vm>(target.name.as_str());
        if let Some(vm) = vm.filter(|vm| vm.metadata.uuid == target.uuid)
            && let Some(host) = &vm.status.host
        {
            self.model.overlay_mut(|overlay| overlay.settled(vm.metadata.uuid, host.as_str()));
        }
    }

    /// Takes in what every VM uses now, for the forecast; the policies' loop does it every few seconds.
    pub fn sample_demands(&self) {
        self.demands.sample(self);
    }

    /// Gives a new object its uuid and time.
    pub(crate) fn stamp(&self, metadata: &mut Metadata) {
        metadata.uuid = self.clock.new_uuid();
        metadata.created_at = Some(self.clock.now());
        metadata.revision = 0;
    }

    /// Writes, and waits until the model shows it.
    pub(crate) async fn commit(&self, change: Change) -> Result<u64, Problem> {
        let revision = self.objects.commit(change).await?;
        self.model.wait_for(revision).await;
        Ok(revision)
    }
}

/// Hex digits of a uuid are always a valid name.
pub(crate) fn fresh_name(hex: String) -> Name {
    hex.parse().unwrap_or_else(|error| panic!("made an invalid name: {error}"))
}

/// One object with everything known about it.
pub fn get<T: Kind>(app: &App, caller: &Caller, name: &str) -> Result<T, Problem> {
    caller.may_see_some::<T>()?;
    let found: Option<T> = app.model.view(name);
    found.filter(|object| caller.sees(object)).ok_or_else(|| Problem::not_found(T::KIND, name))
}

/// Refuses a write that was meant for another state of the object.
pub(crate) fn check_precondition<T: Resource>(current: &T, sent: &Metadata, query: &WriteQuery) -> Result<(), Problem> {
    let at = current.metadata().revision;
    for expected in [Some(sent.revision).filter(|r| *r != 0), query.revision].into_iter().flatten() {
        if expected != at {
            return Err(Problem::conflict(
                CHANGED_MEANWHILE,
                format!(
                    "{} '{}' is at revision {at}, not {expected}: it was changed meanwhile",
                    T::KIND,
                    current.name()
                ),
            )
            .object(current.reference())
            .remedy("read it again, make your change on that, and send it again"));
        }
    }
    if !sent.uuid.is_nil() && sent.uuid != current.metadata().uuid {
        return Err(Problem::conflict(
            "different-object",
            format!(
                "{} '{}' has uuid {}, not {}: it is another object of the same name",
                T::KIND,
                current.name(),
                current.metadata().uuid,
                sent.uuid
            ),
        )
        .object(current.reference())
        .remedy("leave metadata.uuid out if you mean the one that is there now"));
    }
    Ok(())
}

pub(crate) fn check_labels(metadata: &Metadata) -> Result<(), Problem> {
    metadata.labels.validate().map_err(|message| {
        Problem::invalid("invalid-labels", "the labels are not valid").field("metadata.labels", message)
    })
}

/// The name in a URL and the one in a body must be the same.
pub(crate) fn check_name<T: Resource>(name: &str, object: &T) -> Result<(), Problem> {
    if object.name() == name {
        return Ok(());
    }
    Err(Problem::invalid("invalid-request", format!("the request is for {} '{name}'", T::KIND))
        .field("metadata.name", format!("is '{}', expected '{name}'; names can't be changed", object.name())))
}

pub(crate) fn already_exists<T: Resource>(object: &T) -> Problem {
    Problem::conflict("already-exists", format!("{} '{}' exists already", T::KIND, object.name()))
        .object(object.reference())
        .remedy("choose another name, or change it: gantry apply -f FILE")
}
