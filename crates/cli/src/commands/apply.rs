//! Objects from files: apply, diff, delete. Also deleting by name, which all families share.
//!
//! Each object stands for itself: one that is refused does not keep the others from being tried.

use std::collections::HashSet;

use gantry_api::rest::WriteQuery;
use gantry_types::{ErrorClass, Name, Operation, Problem, Resource};
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use super::{Failures, Session, announce};
use crate::{
    args::{Apply, Delete, Files, FollowOptions},
    client::Client,
    exit::Failure,
    follow::follow,
    kind::{Kind, with_kind},
    manifest::{Object, read_all},
    output::{note, print, yaml},
};

/// What is to be done to an object, evaluated with `$object` bound to the typed one.
macro_rules! with_object {
    ($any:expr, $object:ident => $body:expr) => {
        match $any {
            Object::Cluster($object) => $body,
            Object::Policy($object) => $body,
            Object::ResourcePool($object) => $body,
            Object::Network($object) => $body,
            Object::Subnet($object) => $body,
            Object::AddressSet($object) => $body,
            Object::SecurityGroup($object) => $body,
            Object::Port($object) => $body,
            Object::Router($object) => $body,
            Object::FloatingIp($object) => $body,
            Object::LoadBalancer($object) => $body,
            Object::Pool($object) => $body,
            Object::Volume($object) => $body,
            Object::Image($object) => $body,
            Object::Alarm($object) => $body,
            Object::Receiver($object) => $body,
            Object::Repository($object) => $body,
            Object::Host($object) => {
                let $object = &**$object;
                $body
            }
            Object::Vm($object) => {
                let $object = &**$object;
                $body
            }
        }
    };
}

pub async fn apply(session: &Session, arguments: &Apply) -> Result<(), Failure> {
    let objects = read_all(&arguments.files.files)?;
    let client = session.client()?;
    let mut failures = Failures::default();
    let mut started = Vec::new();
    // What a dry run would have made is not there for what comes after it.
    let mut imagined = Imagined::default();
    for any in &objects {
        let how = match (arguments.dry_run, imagined.is_named_by(any)) {
            (false, _) => How::InEarnest,
            (true, false) => How::Checked,
            (true, true) => How::Unchecked,
        };
        let sound = match any {
            // What can be judged without the controller.
            Object::Vm(vm) if how == How::Unchecked => vm.spec.validate(),
            Object::Policy(policy) if how == How::Unchecked => policy.spec.validate(),
            _ => Ok(()),
        };
        let applied = match sound {
            Ok(()) => with_object!(any, object => apply_one(session, &client, object, how).await),
            Err(problem) => Err(problem),
        };
        match applied {
            Ok(applied) => {
                started.extend(applied.operation);
                if applied.created && arguments.dry_run {
                    imagined.add(any);
                }
            }
            Err(problem) => failures.add(located(any, problem).into()),
        }
    }
    follow_all(&client, &started, arguments.follow, &mut failures).await?;
    failures.result()
}

/// With several objects at work, a problem has to say which one it is about.
fn located(object: &Object, mut problem: Problem) -> Problem {
    let place = format!("{}/{}", object.kind(), object.name());
    if !problem.detail.contains(object.name()) {
        problem.detail = format!("{place}: {}", problem.detail);
    }
    problem
}

/// Creates or updates, whatever is needed, and says what it was. The revision in the file does not matter: the file is
/// what somebody wants, whatever happened in between.
async fn apply_one<T: Resource>(session: &Session, client: &Client, object: &T, how: How) -> Result<Applied, Problem> {
    let dry_run = how != How::InEarnest;
    let write = WriteQuery { dry_run, revision: None };
    let current = find::<T>(client, object.name()).await?;
    let created = current.is_none();
    if how == How::Unchecked {
        let done = if created { "created" } else { "configured" };
        announce(session.printer, object, &format!("{done} (dry run, references not checked)"))?;
        return Ok(Applied { created, operation: None });
    }
    let (changed, done) = match current {
        None if T::KIND == Kind::Host.singular() => {
            return Err(
                Problem::not_found(T::KIND, object.name()).remedy("a host joins by itself: gantry host join URL TOKEN")
            );
        }
        None => (client.create(object, &write).await?, "created"),
        Some(current) if wanted(&current)? == wanted(object)? => {
            announce(session.printer, &current, "unchanged")?;
            return Ok(Applied { created, operation: None });
        }
        Some(current) => {
            let changed = client.update(object, &write).await?;
            // The controller may find that defaults make both the same.
            let same = wanted(&changed.object)? == wanted(&current)?;
            (changed, if same { "unchanged" } else { "configured" })
        }
    };
    let done = if dry_run { format!("{done} (dry run)") } else { done.to_owned() };
    announce(session.printer, &changed.object, &done)?;
    Ok(Applied { created, operation: changed.operation.filter(|_| !dry_run) })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    InEarnest,
    /// The controller checks it and changes nothing.
    Checked,
    /// It names something that does not exist yet, so the controller would refuse it.
    Unchecked,
}

struct Applied {
    created: bool,
    operation: Option<Operation>,
}

/// Objects that a dry run would have created, of the kinds that others name.
#[derive(Debug, Default)]
struct Imagined {
    made: HashSet<(&'static str, String)>,
}

impl Imagined {
    fn add(&mut self, object: &Object) {
        self.made.insert((object.kind().singular(), object.name().to_owned()));
    }

    fn is_named_by(&self, object: &Object) -> bool {
        named_by(object).into_iter().any(|(kind, name)| self.made.contains(&(kind.singular(), name.to_string())))
    }
}

/// Everything that an object refers to.
fn named_by(object: &Object) -> Vec<(Kind, &Name)> {
    match object {
        Object::Vm(vm) => {
            let image = vm.spec.image.iter().map(|image| (Kind::Image, image));
            let nics = vm.spec.nics.iter().flat_map(|nic| {
                let groups = nic.security_groups.iter().map(|group| (Kind::SecurityGroup, group));
                let port = nic.port.iter().map(|port| (Kind::Port, port));
                groups.chain(port).chain([(Kind::Network, &nic.network)])
            });
            let pool = vm.spec.resources.resource_pool.iter().map(|pool| (Kind::ResourcePool, pool));
            image.chain(pool).chain(nics).collect()
        }
        Object::Port(port) => {
            let groups = port.spec.security_groups.iter().map(|group| (Kind::SecurityGroup, group));
            groups.chain([(Kind::Network, &port.spec.network)]).collect()
        }
        Object::Subnet(subnet) => vec![(Kind::Network, &subnet.spec.network)],
        Object::SecurityGroup(group) => {
            let sets = group.spec.rules.iter().filter_map(|rule| Some((Kind::AddressSet, rule.address_set.as_ref()?)));
            let groups = group.spec.rules.iter().filter_map(|rule| Some((Kind::SecurityGroup, rule.group.as_ref()?)));
            sets.chain(groups).collect()
        }
        Object::Router(router) => {
            let networks = router.spec.networks.iter().chain(&router.spec.external);
            networks.map(|network| (Kind::Network, network)).collect()
        }
        Object::FloatingIp(floating) => {
            let vm = floating.spec.vm.iter().map(|vm| (Kind::Vm, vm));
            let port = floating.spec.port.iter().map(|port| (Kind::Port, port));
            let balancer = floating.spec.load_balancer.iter().map(|balancer| (Kind::LoadBalancer, balancer));
            vm.chain(port).chain(balancer).chain([(Kind::Network, &floating.spec.network)]).collect()
        }
        Object::LoadBalancer(balancer) => vec![(Kind::Network, &balancer.spec.network)],
        Object::Pool(pool) => pool.spec.hosts.iter().map(|host| (Kind::Host, host)).collect(),
        Object::Volume(volume) => vec![(Kind::Pool, &volume.spec.pool)],
        Object::Host(host) => vec![(Kind::Cluster, &host.spec.cluster)],
        Object::Policy(policy) => vec![(Kind::Cluster, &policy.spec.cluster)],
        Object::ResourcePool(pool) => {
            let parent = pool.spec.parent.iter().map(|parent| (Kind::ResourcePool, parent));
            parent.chain([(Kind::Cluster, &pool.spec.cluster)]).collect()
        }
        Object::Receiver(receiver) => receiver.spec.alarms.iter().map(|alarm| (Kind::Alarm, alarm)).collect(),
        Object::Cluster(_)
        | Object::Alarm(_)
        | Object::Network(_)
        | Object::AddressSet(_)
        | Object::Image(_)
        | Object::Repository(_) => Vec::new(),
    }
}

async fn find<T: Resource>(client: &Client, name: &str) -> Result<Option<T>, Problem> {
    match client.get::<T>(name).await {
        Ok(object) => Ok(Some(object)),
        Err(problem) if problem.class == ErrorClass::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// The part of an object that its owner decides.
#[derive(Debug, PartialEq, Serialize)]
struct Wanted {
    labels: Value,
    spec: Value,
}

fn wanted(object: &impl Resource) -> Result<Wanted, Problem> {
    let unreadable = |error: serde_json::Error| Problem::permanent("unreadable-object", error.to_string());
    let mut value = serde_json::to_value(object).map_err(unreadable)?;
    let labels = serde_json::to_value(&object.metadata().labels).map_err(unreadable)?;
    Ok(Wanted { labels, spec: value["spec"].take() })
}

/// Exits with 1 if apply would change something, as `diff` does.
pub async fn diff(session: &Session, files: &Files) -> Result<(), Failure> {
    let objects = read_all(&files.files)?;
    let client = session.client()?;
    let mut different = false;
    for any in &objects {
        let text = with_object!(any, object => diff_one(&client, object).await)?;
        different |= !text.is_empty();
        print(&text)?;
    }
    if different { Err(Failure::Silent(1)) } else { Ok(()) }
}

async fn diff_one<T: Resource>(client: &Client, object: &T) -> Result<String, Problem> {
    let current = match find::<T>(client, object.name()).await? {
        Some(current) => yaml(&wanted(&current)?)?,
        None => String::new(),
    };
    let place = format!("{}/{}", T::KIND, object.name());
    Ok(unified(&place, &current, &yaml(&wanted(object)?)?))
}

fn unified(place: &str, current: &str, wanted: &str) -> String {
    if current == wanted {
        return String::new();
    }
    let (now, file) = (format!("{place} (now)"), format!("{place} (file)"));
    TextDiff::from_lines(current, wanted).unified_diff().context_radius(3).header(&now, &file).to_string()
}

pub async fn delete(session: &Session, arguments: &Delete) -> Result<(), Failure> {
    if let Some(kind) = arguments.kind {
        return delete_named(session, kind, &arguments.names, arguments.follow).await;
    }
    // What refers to others goes first.
    let mut objects = read_all(&arguments.files)?;
    objects.reverse();
    let client = session.client()?;
    let mut failures = Failures::default();
    for object in &objects {
        // One after the other: a network can't go while its VM is still there.
        delete_one(session, &client, object.kind(), object.name(), arguments.follow, &mut failures).await?;
    }
    failures.result()
}

pub async fn delete_named(
    session: &Session,
    kind: Kind,
    names: &[String],
    options: FollowOptions,
) -> Result<(), Failure> {
    let client = session.client()?;
    let mut failures = Failures::default();
    for name in names {
        delete_one(session, &client, kind, name, options, &mut failures).await?;
    }
    failures.result()
}

async fn delete_one(
    session: &Session,
    client: &Client,
    kind: Kind,
    name: &str,
    options: FollowOptions,
    failures: &mut Failures,
) -> Result<(), Failure> {
    let write = WriteQuery::default();
    with_kind!(kind, T => match client.delete::<T>(name, &write).await {
        Err(problem) => failures.add(problem.into()),
        Ok(changed) => {
            let failed_before = failures.count;
            follow_all(client, changed.operation.as_slice(), options, failures).await?;
            let waits = options.no_wait && changed.operation.is_some();
            if failures.count == failed_before && !waits {
                announce(session.printer, &changed.object, "deleted")?;
            }
        }
    });
    Ok(())
}

async fn follow_all(
    client: &Client,
    operations: &[Operation],
    options: FollowOptions,
    failures: &mut Failures,
) -> Result<(), Failure> {
    for operation in operations {
        if options.no_wait {
            note(&format!("operation {} is at work; follow it: gantry operation wait {0}", operation.name()));
            continue;
        }
        match follow(client, operation).await {
            Ok(_) => {}
            // Whoever interrupts does not want the next one to be followed.
            Err(interrupted @ Failure::Interrupted(_)) => return Err(interrupted),
            Err(failure) => failures.add(failure),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gantry_types::{Network, Vm};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dry_run_knows_what_the_same_file_would_have_made() {
        let spec = serde_json::from_value(json!({"subnet": {"cidr": "10.9.0.0/24"}})).unwrap();
        let network = Object::Network(Network::new("net".parse().unwrap(), spec));
        let vm = |nic: &str| {
            let spec = json!({"cpus": 1, "memory": "64MiB", "disk": "1GiB", "nics": [{"network": nic}]});
            Object::Vm(Box::new(Vm::new("web".parse().unwrap(), serde_json::from_value(spec).unwrap())))
        };
        let mut imagined = Imagined::default();
        assert!(!imagined.is_named_by(&vm("net")));
        imagined.add(&network);
        assert!(imagined.is_named_by(&vm("net")) && !imagined.is_named_by(&vm("other")));
    }

    #[test]
    fn a_diff_shows_what_changes_and_nothing_else() {
        assert_eq!(unified("vm/web", "a: 1\n", "a: 1\n"), "");
        let text = unified("vm/web", "a: 1\nb: 2\n", "a: 1\nb: 3\n");
        assert_eq!(text, "--- vm/web (now)\n+++ vm/web (file)\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n");
    }
}
