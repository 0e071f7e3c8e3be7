//! Which table a kind lives in, and objects of whichever kind.

use std::sync::Arc;

use gantry_store::KeyValue;
use gantry_types::{
    AddressSet, Alarm, ApiToken, Backup, Cluster, Event, FloatingIp, Host, Image, LoadBalancer, Name, Network,
    NetworkSubnet, Notice, Operation, Policy, Pool, Port, Problem, Receiver, Repository, Resource, ResourcePool,
    Router, SecurityGroup, Snapshot, User, Vm, Volume,
};

use super::{Facts, Overlay, Table, Tables, facts};
use crate::objects::{self, ROOT};

/// A kind of object that the read model holds.
pub trait Kind: Resource {
    fn table(tables: &Tables) -> &Table<Self>;
    fn table_mut(tables: &mut Tables) -> &mut Table<Self>;
    fn wrap(object: Arc<Self>) -> AnyObject;
    /// The object, if it is of this kind.
    fn of(object: &AnyObject) -> Option<&Arc<Self>>;
    /// Whether objects of this kind can belong to users. Those of other kinds are only for who may read everything.
    const HAS_OWNERS: bool = false;
    /// The user whose it is.
    fn owner(&self) -> Option<&Name> {
        None
    }
    /// What lists are filtered and sorted by.
    fn facts(&self) -> Facts<'_> {
        Facts::default()
    }
    /// Adds what is known but not stored, and takes away what must not leave the controller.
    fn lay_over(&mut self, _overlay: &Overlay) {}
}

macro_rules! kinds {
    ($($kind:ident in $table:ident $(, owner $owner:expr)? $(, facts $facts:expr)? $(, lay_over $lay:expr)?;)*) => {
        /// An object of any kind.
        #[derive(Debug, Clone)]
        pub enum AnyObject {
            $($kind(Arc<$kind>),)*
        }

        impl AnyObject {
            pub(super) fn insert_into(&self, tables: &mut Tables) {
                match self {
                    $(Self::$kind(object) => {
                        tables.$table.insert(object.name().to_owned(), Arc::clone(object));
                    })*
                }
            }
            pub(super) fn remove_from(&self, tables: &mut Tables) {
                match self {
                    $(Self::$kind(object) => {
                        tables.$table.remove(object.name());
                    })*
                }
            }
            pub fn revision(&self) -> u64 {
                match self {
                    $(Self::$kind(object) => object.metadata.revision,)*
                }
            }

            /// From the store; `None` for a key of no known kind.
            pub(super) fn decode(kv: &KeyValue) -> Option<Result<Self, Problem>> {
                let (kind, _) = kv.key.strip_prefix(ROOT)?.split_once('/')?;
                $(if kind == $kind::KIND {
                    return Some(objects::decode::<$kind>(kv).map(|object| Self::$kind(Arc::new(object))));
                })*
                None
            }

            /// What the tables hold under a key of the store.
            pub(super) fn lookup(tables: &Tables, key: &str) -> Option<Self> {
                let (kind, name) = key.strip_prefix(ROOT)?.split_once('/')?;
                $(if kind == $kind::KIND {
                    return tables.$table.get(name).cloned().map(Self::$kind);
                })*
                None
            }

            pub(super) fn all(tables: &Tables) -> impl Iterator<Item = (String, Self)> {
                let objects = std::iter::empty();
                $(let objects = objects.chain(tables.$table.iter().map(|(name, object)| {
                    (objects::key::<$kind>(name), Self::$kind(Arc::clone(object)))
                }));)*
                objects
            }
        }

        $(impl Kind for $kind {
            fn table(tables: &Tables) -> &Table<Self> {
                &tables.$table
            }
            fn table_mut(tables: &mut Tables) -> &mut Table<Self> {
                &mut tables.$table
            }
            fn wrap(object: Arc<Self>) -> AnyObject {
                AnyObject::$kind(object)
            }
            fn of(object: &AnyObject) -> Option<&Arc<Self>> {
                match object {
                    AnyObject::$kind(object) => Some(object),
                    _ => None,
                }
            }
            $(const HAS_OWNERS: bool = true;
            fn owner(&self) -> Option<&Name> {
                let owner: fn(&Self) -> Option<&Name> = $owner;
                owner(self)
            })?
            $(fn facts(&self) -> Facts<'_> {
                $facts(self)
            })?
            $(fn lay_over(&mut self, overlay: &Overlay) {
                let lay: fn(&mut Self, &Overlay) = $lay;
                lay(self, overlay);
            })?
        })*
    };
}

kinds! {
    Vm in vms, owner |vm| vm.spec.owner.as_ref(), facts facts::of_vm, lay_over |vm, overlay| {
        vm.status.metrics = overlay.vm_metrics.get(&vm.metadata.uuid).copied();
        vm.status.migration = overlay.migrations.get(&vm.metadata.uuid).cloned();
    };
    Host in hosts, facts facts::of_host, lay_over |host, overlay| {
        if let Some(report) = overlay.hosts.get(host.name()) {
            host.status.last_seen = Some(report.last_seen);
            host.status.metrics = Some(report.metrics);
            host.status.lease.clone_from(&report.lease);
        }
    };
    Cluster in clusters;
    Image in images, facts facts::of_image;
    Network in networks, facts facts::of_network;
    NetworkSubnet in subnets;
    Port in ports, facts facts::of_port, lay_over |port, overlay| port.status.traffic = overlay.counters.of_port(port.metadata.uuid);
    SecurityGroup in security_groups, lay_over |group, overlay| {
        let rules = group.spec.rules.iter();
        let traffic = rules.map(|rule| overlay.counters.of_rule(group.metadata.uuid, &rule.to_string()));
        group.status.traffic = traffic.collect();
    };
    AddressSet in address_sets;
    Router in routers;
    FloatingIp in floating_ips;
    LoadBalancer in load_balancers;
    Snapshot in snapshots, facts facts::of_snapshot;
    Backup in backups, facts facts::of_backup;
    Pool in pools, facts facts::of_pool, lay_over |pool, overlay| {
        let reports = pool.spec.hosts.iter().filter_map(|host| overlay.hosts.get(host.as_str()));
        let its = reports.flat_map(|report| &report.pools).filter(|report| report.pool == pool.metadata.uuid);
        let its: Vec<_> = its.collect();
        let told: Vec<_> = its.iter().filter_map(|report| report.space).collect();
        pool.status.space = pool.space_among(&told);
        pool.status.busy_percent = its.iter().filter_map(|report| report.busy_percent).max();
    };
    Volume in volumes, facts facts::of_volume, lay_over |volume, overlay| {
        volume.status.allocated = overlay.volumes.get(&volume.metadata.uuid).copied();
    };
    Operation in operations, facts facts::of_operation, lay_over |operation, overlay| {
        if let Some(progress) = overlay.operations.get(operation.name()) {
            operation.status.progress = Some(progress.clone());
        }
    };
    Policy in policies;
    ResourcePool in resource_pools, lay_over |pool, overlay| {
        if let Some(status) = overlay.resource_pools.get(pool.name()) {
            pool.status = status.clone();
        }
    };
    Alarm in alarms, facts facts::of_alarm;
    Receiver in receivers, lay_over |receiver, _| drop(receiver.spec.secret_mut().take());
    Repository in repositories, lay_over |repository, _| repository.spec.drop_secrets();
    Notice in notices, facts facts::of_notice;
    Event in events, facts facts::of_event;
    ApiToken in tokens, lay_over |token, _| token.status.hash.clear();
    User in users, lay_over |user, _| user.status.password_hash.clear();
}
