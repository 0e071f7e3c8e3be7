//! Objects from files: YAML with many documents, JSON (one object or a list), TOML (`[[objects]]`).
//!
//! What `get -o yaml` prints can be read back: the parts that are the controller's (`status`, uuid, revision, creation
//! time) are accepted and dropped, so they decide nothing. Anything else that is not known is refused with the file's
//! name and the number of the object in it. Nothing is returned unless all files are good.

use std::{
    collections::HashSet,
    io::Read,
    path::{Path, PathBuf},
};

use gantry_types::{
    AddressSet, Alarm, Cluster, FloatingIp, Host, Image, Labels, LoadBalancer, Metadata, Network, NetworkSubnet,
    Policy, Pool, Port, Problem, Receiver, Repository, Resource, ResourcePool, Router, SecurityGroup, Vm, Volume,
};
use serde::Deserialize;
use serde_json::Value;

use crate::kind::Kind;

/// A larger file is a mistake, such as an image.
const MAX_BYTES: u64 = 16 << 20;

/// An object that a file can describe; snapshots and backups are of a moment, and operations, events and tokens are made by the
/// controller only.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Cluster(Cluster),
    Policy(Policy),
    ResourcePool(ResourcePool),
    Network(Network),
    Subnet(NetworkSubnet),
    AddressSet(AddressSet),
    SecurityGroup(SecurityGroup),
    Port(Port),
    Router(Router),
    FloatingIp(FloatingIp),
    LoadBalancer(LoadBalancer),
    Pool(Pool),
    Volume(Volume),
    Image(Image),
    Alarm(Alarm),
    Receiver(Receiver),
    Repository(Repository),
    Host(Box<Host>),
    Vm(Box<Vm>),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster(_) => Kind::Cluster,
            Self::Policy(_) => Kind::Policy,
            Self::ResourcePool(_) => Kind::ResourcePool,
            Self::Network(_) => Kind::Network,
            Self::Subnet(_) => Kind::Subnet,
            Self::AddressSet(_) => Kind::AddressSet,
            Self::SecurityGroup(_) => Kind::SecurityGroup,
            Self::Port(_) => Kind::Port,
            Self::Router(_) => Kind::Router,
            Self::FloatingIp(_) => Kind::FloatingIp,
            Self::LoadBalancer(_) => Kind::LoadBalancer,
            Self::Pool(_) => Kind::Pool,
            Self::Volume(_) => Kind::Volume,
            Self::Image(_) => Kind::Image,
            Self::Alarm(_) => Kind::Alarm,
            Self::Receiver(_) => Kind::Receiver,
            Self::Repository(_) => Kind::Repository,
            Self::Host(_) => Kind::Host,
            Self::Vm(_) => Kind::Vm,
        }
    }
    pub fn name(&self) -> &str {
        match self {
            Self::Cluster(object) => object.name(),
            Self::Policy(object) => object.name(),
            Self::ResourcePool(object) => object.name(),
            Self::Network(object) => object.name(),
            Self::Subnet(object) => object.name(),
            Self::AddressSet(object) => object.name(),
            Self::SecurityGroup(object) => object.name(),
            Self::Port(object) => object.name(),
            Self::Router(object) => object.name(),
            Self::FloatingIp(object) => object.name(),
            Self::LoadBalancer(object) => object.name(),
            Self::Pool(object) => object.name(),
            Self::Volume(object) => object.name(),
            Self::Image(object) => object.name(),
            Self::Alarm(object) => object.name(),
            Self::Receiver(object) => object.name(),
            Self::Repository(object) => object.name(),
            Self::Host(object) => object.name(),
            Self::Vm(object) => object.name(),
        }
    }
    /// What others refer to comes first.
    fn rank(&self) -> u8 {
        match self {
            Self::Cluster(_) | Self::Network(_) | Self::Repository(_) => 0,
            Self::Subnet(_) | Self::AddressSet(_) => 1,
            Self::SecurityGroup(_) => 2,
            Self::Port(_) | Self::Router(_) => 3,
            Self::Image(_) | Self::LoadBalancer(_) => 4,
            Self::Host(_) => 5,
            Self::Pool(_) | Self::ResourcePool(_) => 6,
            Self::Vm(_) | Self::Volume(_) => 7,
            Self::FloatingIp(_) | Self::Policy(_) | Self::Alarm(_) => 8,
            Self::Receiver(_) => 9,
        }
    }
}

/// All objects of `files` (`-` is standard input), those that others refer to first, otherwise in their order.
pub fn read_all(files: &[PathBuf]) -> Result<Vec<Object>, Problem> {
    let mut objects = Vec::new();
    for file in files {
        objects.extend(parse(&shown(file), &read(file)?, format_of(file))?);
    }
    objects.sort_by_key(Object::rank);
    after_those_they_name(&mut objects, Kind::SecurityGroup);
    after_those_they_name(&mut objects, Kind::ResourcePool);
    let mut seen = HashSet::new();
    for object in &objects {
        if !seen.insert((object.kind().singular(), object.name().to_owned())) {
            return Err(invalid(format!("{}/{} is described twice", object.kind(), object.name())));
        }
    }
    Ok(objects)
}

/// Security groups and resource pools name others of their kind: those that are named come first. Those in a circle stay
/// in their order.
fn after_those_they_name(objects: &mut Vec<Object>, kind: Kind) {
    let is_one = |object: &Object| object.kind() == kind;
    let Some(start) = objects.iter().position(is_one) else { return };
    let end = objects.iter().rposition(is_one).map_or(start, |last| last + 1);
    let mut waiting: Vec<Object> = objects.drain(start..end).collect();
    let mut at = start;
    while !waiting.is_empty() {
        let names: HashSet<String> = waiting.iter().map(|object| object.name().to_owned()).collect();
        let waits = |object: &Object| {
            let named: Vec<&str> = match object {
                Object::SecurityGroup(group) => {
                    group.spec.rules.iter().filter_map(|rule| rule.group.as_ref()).map(|peer| peer.as_str()).collect()
                }
                Object::ResourcePool(pool) => pool.spec.parent.iter().map(|parent| parent.as_str()).collect(),
                _ => Vec::new(),
            };
            named.into_iter().any(|name| name != object.name() && names.contains(name))
        };
        let next = waiting.iter().position(|object| !waits(object)).unwrap_or_default();
        objects.insert(at, waiting.remove(next));
        at += 1;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileFormat {
    /// JSON is YAML too.
    Yaml,
    Toml,
    /// Standard input: told from its content.
    Unknown,
}

fn format_of(file: &Path) -> FileFormat {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => FileFormat::Toml,
        Some("yaml" | "yml" | "json") => FileFormat::Yaml,
        _ => FileFormat::Unknown,
    }
}

fn shown(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

fn invalid(detail: String) -> Problem {
    Problem::invalid("invalid-file", detail)
}

fn read(file: &Path) -> Result<String, Problem> {
    let name = shown(file);
    let unreadable = |error: std::io::Error| {
        Problem::invalid("unreadable-file", format!("{name} could not be read: {error}"))
            .remedy("name a text file of YAML, JSON or TOML")
    };
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(unreadable)?)
    };
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(invalid(format!("{name} is larger than 16 MiB")).remedy("images are imported: gantry image import"));
    }
    String::from_utf8(bytes).map_err(|_| invalid(format!("{name} is not text (UTF-8)")))
}

fn parse(file: &str, text: &str, format: FileFormat) -> Result<Vec<Object>, Problem> {
    let toml = match format {
        FileFormat::Toml => true,
        FileFormat::Yaml => false,
        FileFormat::Unknown => text.lines().any(|line| line.trim() == "[[objects]]"),
    };
    let values = if toml { values_of_toml(file, text)? } else { values_of_yaml(file, text)? };
    if values.is_empty() {
        return Err(invalid(format!("{file} describes no objects"))
            .remedy("write kind, metadata and spec; see one: gantry get vm NAME -o yaml"));
    }
    values.into_iter().enumerate().map(|(index, value)| object_of(file, index + 1, value)).collect()
}

fn values_of_toml(file: &str, text: &str) -> Result<Vec<Value>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        objects: Vec<Value>,
    }
    let parsed: File = toml::from_str(text).map_err(|error| invalid(format!("{file} is not valid TOML: {error}")))?;
    Ok(parsed.objects)
}

fn values_of_yaml(file: &str, text: &str) -> Result<Vec<Value>, Problem> {
    let mut values = Vec::new();
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let malformed =
            |error: &dyn std::fmt::Display| invalid(format!("{file}, document {}: not valid YAML: {error}", index + 1));
        // Through YAML's own value first: it refuses a key that is given twice.
        let value = serde_norway::Value::deserialize(document).map_err(|error| malformed(&error))?;
        match serde_json::to_value(value).map_err(|error| malformed(&error))? {
            Value::Null => {}
            Value::Array(items) => values.extend(items),
            value => values.push(value),
        }
    }
    Ok(values)
}

fn object_of(file: &str, number: usize, mut value: Value) -> Result<Object, Problem> {
    let at = |detail: String| invalid(format!("{file}, object {number}: {detail}"));
    let Some(members) = value.as_object_mut() else {
        return Err(at("it has no members; write kind, metadata and spec".to_owned()));
    };
    members.remove("status");
    let kind = match members.get("kind").and_then(Value::as_str) {
        Some(kind) => kind.to_owned(),
        None => return Err(at("it has no kind; write for example kind: vm".to_owned())),
    };
    let name = members.get("metadata").and_then(|metadata| metadata["name"].as_str()).map(str::to_owned);
    let at = |detail: String| match &name {
        Some(name) => at(format!("{kind} '{name}': {detail}")),
        None => at(detail),
    };
    let known = Kind::ALL.into_iter().find(|known| known.singular() == kind);
    Ok(match known {
        Some(Kind::Vm) => Object::Vm(Box::new(typed(value).map_err(at)?)),
        Some(Kind::Image) => Object::Image(typed(value).map_err(at)?),
        Some(Kind::Cluster) => Object::Cluster(typed(value).map_err(at)?),
        Some(Kind::Policy) => Object::Policy(typed(value).map_err(at)?),
        Some(Kind::ResourcePool) => Object::ResourcePool(typed(value).map_err(at)?),
        Some(Kind::Network) => Object::Network(typed(value).map_err(at)?),
        Some(Kind::Subnet) => Object::Subnet(typed(value).map_err(at)?),
        Some(Kind::AddressSet) => Object::AddressSet(typed(value).map_err(at)?),
        Some(Kind::SecurityGroup) => Object::SecurityGroup(typed(value).map_err(at)?),
        Some(Kind::Port) => Object::Port(typed(value).map_err(at)?),
        Some(Kind::Router) => Object::Router(typed(value).map_err(at)?),
        Some(Kind::FloatingIp) => Object::FloatingIp(typed(value).map_err(at)?),
        Some(Kind::LoadBalancer) => Object::LoadBalancer(typed(value).map_err(at)?),
        Some(Kind::Pool) => Object::Pool(typed(value).map_err(at)?),
        Some(Kind::Volume) => Object::Volume(typed(value).map_err(at)?),
        Some(Kind::Alarm) => Object::Alarm(typed(value).map_err(at)?),
        Some(Kind::Receiver) => Object::Receiver(typed(value).map_err(at)?),
        Some(Kind::Repository) => Object::Repository(typed(value).map_err(at)?),
        Some(Kind::Host) => Object::Host(Box::new(typed(value).map_err(at)?)),
        Some(Kind::User) => return Err(at("users are made with: gantry user create".to_owned())),
        Some(Kind::Snapshot) => return Err(at("snapshots are taken with: gantry snapshot create".to_owned())),
        Some(Kind::Backup) => return Err(at("backups are made with: gantry backup create".to_owned())),
        Some(Kind::Token) => return Err(at("tokens are made with: gantry token create".to_owned())),
        Some(Kind::Operation | Kind::Event | Kind::Notice) => {
            return Err(at(format!("{kind}s are made by the controller and can't be applied")));
        }
        None => {
            let known = "vm, image, network, subnet, port, security-group, address-set, router, \
                         floating-ip, load-balancer, pool, volume, host, cluster, policy, resource-pool, alarm, receiver, repository";
            return Err(at(format!("'{kind}' is not a kind; there are {known}")));
        }
    })
}

fn typed<T: Resource>(value: Value) -> Result<T, String> {
    // Each part by itself, so that the message says in which one the mistake is.
    for part in ["metadata", "spec"] {
        if value.get(part).is_none() {
            return Err(format!("it has no {part}"));
        }
    }
    serde_json::from_value::<Metadata>(value["metadata"].clone()).map_err(|error| format!("metadata: {error}"))?;
    let mut object: T = serde_json::from_value(value).map_err(|error| format!("spec: {error}"))?;
    let metadata = object.metadata_mut();
    let labels: Labels = std::mem::take(&mut metadata.labels);
    labels.validate().map_err(|message| format!("metadata: {message}"))?;
    *metadata = Metadata { labels, ..Metadata::named(metadata.name.clone()) };
    Ok(object)
}

#[cfg(test)]
mod tests;
