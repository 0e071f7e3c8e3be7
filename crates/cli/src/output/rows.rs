//! Each kind's columns.

use gantry_types::{
    AddressSet, ApiToken, ByteSize, Event, FloatingIp, Host, HostState, Image, Maintenance, Name, Network,
    NetworkSubnet, Operation, Port, Resource, Router, SecurityGroup, Snapshot, StepState, User, Vm, VmPhase,
};
use serde::Serialize;

use super::{Row, Surroundings, age, duration};

/// A value's name in the API.
pub fn api_name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub(super) fn size_or_dash(size: ByteSize) -> String {
    if size.bytes() == 0 { "-".to_owned() } else { size.approximate() }
}

impl Row for Vm {
    const PLURAL_FOR_PEOPLE: &'static str = "VMs";
    const HEADERS: &'static [&'static str] = &["NAME", "PHASE", "READY", "HOST", "CPUS", "MEMORY", "ADDRESS", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["IMAGE", "UUID", "CPU%", "RSS", "EPOCH", "REASON"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let status = &self.status;
        let host = match (&status.host, &status.moving_to) {
            (Some(host), Some(to)) => format!("{host} → {to}"),
            (host, _) => or_dash(host.as_ref()),
        };
        let addresses: Vec<_> =
            status.nics.iter().flat_map(|nic| nic.addresses()).map(|address| address.to_string()).collect();
        vec![
            self.metadata.name.to_string(),
            status.phase.to_string(),
            if status.phase == VmPhase::Running { yes_no(status.ready) } else { "-".to_owned() },
            host,
            self.spec.cpus.to_string(),
            self.spec.memory.to_string(),
            addresses.join(","),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let metrics = self.status.metrics;
        vec![
            or_dash(self.spec.image.as_ref()),
            self.metadata.uuid.to_string(),
            or_dash(metrics.map(|m| format!("{:.0}", m.cpu_percent))),
            or_dash(metrics.map(|m| m.resident_memory.approximate())),
            self.status.epoch.to_string(),
            or_dash(self.status.reason.as_ref()),
        ]
    }
}

pub fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

impl Row for Host {
    const PLURAL_FOR_PEOPLE: &'static str = "hosts";
    const HEADERS: &'static [&'static str] =
        &["NAME", "STATE", "VMS", "CPUS", "MEMORY", "ACCEL", "ADDRESS", "SEEN", "LEASE"];
    const WIDE_HEADERS: &'static [&'static str] = &["CPU%", "LOAD", "ARCH", "QEMU", "KERNEL", "UNDERLAY", "POST-COPY"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let status = &self.status;
        let inventory = status.inventory.as_ref();
        let state = api_name(&status.state);
        let memory = match (status.metrics, inventory) {
            (Some(metrics), Some(inventory)) if status.state == HostState::Ready => {
                format!("{} / {}", metrics.memory_used.approximate(), inventory.memory.approximate())
            }
            (_, inventory) => or_dash(inventory.map(|i| format!("- / {}", i.memory.approximate()))),
        };
        vec![
            self.metadata.name.to_string(),
            match (status.maintenance, self.spec.cordoned) {
                (Maintenance::Off, false) => state,
                (Maintenance::Off, true) => format!("{state},cordoned"),
                (maintenance, _) => format!("{state},{}", api_name(&maintenance)),
            },
            or_dash(around.vms_of_hosts.as_ref().map(|vms| vms.get(self.name()).copied().unwrap_or(0))),
            or_dash(inventory.map(|i| i.cpu.count)),
            memory,
            or_dash(inventory.map(|i| if i.kvm { "kvm" } else { "tcg" })),
            status.agent_address.clone(),
            age(status.last_seen, around.now),
            super::lease::cell(self),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let (metrics, inventory) = (self.status.metrics, self.status.inventory.as_ref());
        vec![
            or_dash(metrics.map(|m| format!("{:.0}", m.cpu_percent))),
            or_dash(metrics.map(|m| format!("{:.2}", m.load_1m))),
            or_dash(inventory.map(|i| i.arch)),
            or_dash(inventory.map(|i| &i.qemu_version)),
            or_dash(inventory.map(|i| &i.kernel)),
            self.status.underlay_address.clone(),
            or_dash(inventory.map(|i| yes_no(i.post_copy))),
        ]
    }
}

impl Row for Image {
    const PLURAL_FOR_PEOPLE: &'static str = "images";
    const HEADERS: &'static [&'static str] = &["NAME", "PHASE", "VIRTUAL", "FILE", "FORMAT", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["DIGEST", "REASON"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let status = &self.status;
        vec![
            self.metadata.name.to_string(),
            api_name(&status.phase),
            size_or_dash(status.virtual_size),
            size_or_dash(status.file_size),
            or_dash(status.source_format.or(self.spec.format)),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![or_dash(self.status.digest.as_ref()), or_dash(self.status.reason.as_ref())]
    }
}

impl Row for Network {
    const PLURAL_FOR_PEOPLE: &'static str = "networks";
    const HEADERS: &'static [&'static str] = &["NAME", "VNI", "SUBNET", "MTU", "USED", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["TYPE", "GATEWAY", "EXTERNAL VTEPS", "UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            self.status.vni.to_string(),
            or_dash(self.spec.subnet.as_ref().map(|subnet| subnet.cidr)),
            self.spec.mtu.to_string(),
            self.status.leases.len().to_string(),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let vteps: Vec<_> = self.spec.external_vteps.iter().map(ToString::to_string).collect();
        let gateway = self.spec.subnet.as_ref().and_then(|subnet| subnet.gateway);
        let kind = self.spec.network_type.to_string();
        vec![kind, or_dash(gateway), vteps.join(","), self.metadata.uuid.to_string()]
    }
}

impl Row for NetworkSubnet {
    const PLURAL_FOR_PEOPLE: &'static str = "subnets";
    const HEADERS: &'static [&'static str] = &["NAME", "NETWORK", "CIDR", "GATEWAY", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["DNS", "RANGES"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            self.spec.network.to_string(),
            self.spec.cidr.to_string(),
            or_dash(self.spec.gateway),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![listed(&self.spec.dns), listed(&self.spec.ranges)]
    }
}

fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(",") }
}

impl Row for Port {
    const PLURAL_FOR_PEOPLE: &'static str = "ports";
    const HEADERS: &'static [&'static str] = &["NAME", "NETWORK", "ADDRESSES", "MAC", "VM", "GROUPS", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            self.spec.network.to_string(),
            listed(&self.status.addresses),
            or_dash(self.status.mac),
            or_dash(self.status.vm.as_ref()),
            listed(&self.spec.security_groups),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.metadata.uuid.to_string()]
    }
}

impl Row for SecurityGroup {
    const PLURAL_FOR_PEOPLE: &'static str = "security groups";
    const HEADERS: &'static [&'static str] = &["NAME", "RULES", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["ALLOWED", "UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let rules = self.spec.rules.len().to_string();
        vec![self.metadata.name.to_string(), rules, age(self.metadata.created_at, around.now)]
    }

    fn wide_cells(&self) -> Vec<String> {
        let rules: Vec<_> = self.spec.rules.iter().map(ToString::to_string).collect();
        vec![rules.join("; "), self.metadata.uuid.to_string()]
    }
}

impl Row for AddressSet {
    const PLURAL_FOR_PEOPLE: &'static str = "address sets";
    const HEADERS: &'static [&'static str] = &["NAME", "ADDRESSES", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["CONTENT", "UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let count = self.spec.addresses.len().to_string();
        vec![self.metadata.name.to_string(), count, age(self.metadata.created_at, around.now)]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![listed(&self.spec.addresses), self.metadata.uuid.to_string()]
    }
}

impl Row for Router {
    const PLURAL_FOR_PEOPLE: &'static str = "routers";
    const HEADERS: &'static [&'static str] = &["NAME", "NETWORKS", "EXTERNAL", "SNAT", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            listed(&self.spec.networks),
            or_dash(self.spec.external.as_ref()),
            if self.spec.external.is_some() { yes_no(self.spec.snat) } else { "-".to_owned() },
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.metadata.uuid.to_string()]
    }
}

impl Row for FloatingIp {
    const PLURAL_FOR_PEOPLE: &'static str = "floating addresses";
    const HEADERS: &'static [&'static str] = &["NAME", "NETWORK", "ADDRESS", "VM", "PORT", "BALANCER", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            self.spec.network.to_string(),
            or_dash(self.status.address),
            or_dash(self.spec.vm.as_ref()),
            or_dash(self.spec.port.as_ref()),
            or_dash(self.spec.load_balancer.as_ref()),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.metadata.uuid.to_string()]
    }
}

impl Row for Snapshot {
    const PLURAL_FOR_PEOPLE: &'static str = "snapshots";
    const HEADERS: &'static [&'static str] = &["NAME", "VM", "PHASE", "PARENT", "MEMORY", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["VOLUMES", "PAUSE", "UUID", "REASON"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let status = &self.status;
        vec![
            self.metadata.name.to_string(),
            self.spec.vm.to_string(),
            api_name(&status.phase),
            or_dash(status.parent.as_ref()),
            or_dash(status.memory_size.map(|size| size.approximate())),
            age(status.taken_at.or(self.metadata.created_at), around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let volumes: Vec<_> = self.status.volumes.iter().map(Name::as_str).collect();
        vec![
            or_dash((!volumes.is_empty()).then(|| volumes.join(","))),
            or_dash(self.status.pause_ms.map(|pause_ms| format!("{pause_ms} ms"))),
            self.metadata.uuid.to_string(),
            or_dash(self.status.reason.as_ref()),
        ]
    }
}

impl Row for Operation {
    const PLURAL_FOR_PEOPLE: &'static str = "operations";
    const HEADERS: &'static [&'static str] = &["NAME", "ACTION", "TARGET", "PHASE", "STEP", "AGE", "DURATION"];
    const WIDE_HEADERS: &'static [&'static str] = &["BY", "ERROR"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let status = &self.status;
        let span = status.started_at.map(|started| duration(status.finished_at.unwrap_or(around.now).since(started)));
        vec![
            self.metadata.name.to_string(),
            self.spec.action.verb().to_owned(),
            self.spec.target.to_string(),
            api_name(&status.phase),
            match Retry::of(self) {
                Some(retry) => format!("{}, retrying ({})", current_step(self), retry.attempts),
                None => current_step(self),
            },
            age(self.metadata.created_at, around.now),
            or_dash(span),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let error = self.status.error.as_ref().map(|problem| problem.detail.clone());
        vec![self.spec.requested_by.clone(), or_dash(error.or_else(|| Retry::of(self).map(|retry| retry.error)))]
    }
}

/// What a step that is tried again is tried again for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    pub attempts: u32,
    pub error: String,
}

impl Retry {
    /// Nothing while the operation's step is in its first try.
    pub fn of(operation: &Operation) -> Option<Self> {
        let step = operation.status.steps.iter().find(|step| step.state == StepState::Running)?;
        let error = step.error.clone().filter(|_| step.attempts > 1)?;
        Some(Self { attempts: step.attempts, error })
    }
}

/// `3/6 image`: the step that is at work, or the last one that was.
pub fn current_step(operation: &Operation) -> String {
    let steps = &operation.status.steps;
    let at_work = |state: StepState| matches!(state, StepState::Running | StepState::Failed);
    let position = steps.iter().rposition(|step| at_work(step.state)).or_else(|| {
        if operation.status.phase.is_finished() {
            return steps.iter().rposition(|step| step.state == StepState::Done);
        }
        steps.iter().position(|step| step.state == StepState::Pending)
    });
    position.map_or_else(|| "-".to_owned(), |at| format!("{}/{} {}", at + 1, steps.len(), steps[at].name))
}

impl Row for Event {
    const PLURAL_FOR_PEOPLE: &'static str = "events";
    const HEADERS: &'static [&'static str] = &["AGE", "SEVERITY", "REASON", "OBJECT", "MESSAGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["HOST", "OPERATION"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            age(self.metadata.created_at, around.now),
            api_name(&self.spec.severity),
            self.spec.reason.clone(),
            self.spec.regarding.to_string(),
            self.spec.message.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![or_dash(self.spec.host.as_ref()), or_dash(self.spec.operation.as_ref())]
    }
}

impl Row for ApiToken {
    const PLURAL_FOR_PEOPLE: &'static str = "tokens";
    const HEADERS: &'static [&'static str] = &["NAME", "ROLE", "EXPIRES", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            api_name(&self.spec.role),
            self.spec.expires_at.map_or_else(|| "never".to_owned(), |at| at.to_string()),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.metadata.uuid.to_string()]
    }
}

impl Row for User {
    const PLURAL_FOR_PEOPLE: &'static str = "users";
    const HEADERS: &'static [&'static str] = &["NAME", "ROLE", "CONSOLES", "STATE", "DISPLAY NAME", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["PASSWORD SET", "UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            api_name(&self.spec.role),
            yes_no(self.spec.may_open_consoles()),
            if self.spec.disabled { "disabled" } else { "active" }.to_owned(),
            or_dash(self.spec.display_name.as_ref()),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![or_dash(self.status.password_set_at), self.metadata.uuid.to_string()]
    }
}
