//! Random datacenters, and an oracle that knows the constraints and nothing of how placement works.

// Each test file takes what it needs.
#![allow(dead_code)]

use gantry_placement::{Demand, HostFacts, Machine, Request, VmFacts};
use gantry_types::{
    Arch, ByteSize, DomainLevel, FailureDomain, HostRule, HostState, Keep, Labels, Name, PlacementRules, Strength,
    VmRule,
};
use proptest::prelude::*;
use uuid::Uuid;

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

pub fn host(number: usize, memory_mib: u64, cpus: u32) -> HostFacts {
    HostFacts {
        name: name(&format!("h{number}")),
        labels: labels(&[("disk", if number.is_multiple_of(2) { "ssd" } else { "hdd" })]),
        state: HostState::Ready,
        cordoned: false,
        maintenance: false,
        asleep: false,
        wake_proven: true,
        failure_domain: FailureDomain {
            rack: Some(format!("r{}", number / 2)),
            site: Some(format!("s{}", number / 4)),
        },
        machine: Some(Machine::new(Arch::X86_64, vec![Arch::X86_64], true, "7.2".into(), vec![])),
        cpus,
        cpu_capacity: f64::from(cpus) * 100.0,
        cpu_used: 0.0,
        memory: ByteSize::mib(memory_mib),
        pools: vec![],
        named_pools: vec![],
        out_of_reach: Default::default(),
        watts: Some([100.0, 105.0, 110.0, 115.0, 120.0, 125.0, 130.0, 135.0, 140.0, 145.0, 150.0]),
    }
}

pub fn request(number: usize, memory_mib: u64, cpus: u32, app: &str) -> Request {
    Request {
        vm: Uuid::from_u128(number as u128 + 1),
        labels: labels(&[("app", app)]),
        rules: PlacementRules::default(),
        arch: Arch::X86_64,
        cpus,
        cpu_reservation_percent: 0,
        memory: ByteSize::mib(memory_mib),
        memory_reservation: ByteSize(0),
        disk_space: ByteSize(0),
        pool: None,
        volume_pools: vec![],
        networks: vec![],
        demand: Demand::default(),
        only: None,
        except: None,
        despite_cordon: false,
        may_wake: false,
        like: None,
    }
}

pub fn vm(request: Request, host: Option<&str>) -> VmFacts {
    VmFacts {
        name: name(&format!("vm-{}", request.vm.as_u128())),
        host: host.map(name),
        moving_to: None,
        running: true,
        obstacle: None,
        request,
    }
}

/// Rules of all sorts, few enough that most VMs find a place.
fn rules() -> impl Strategy<Value = PlacementRules> {
    let keep = prop_oneof![3 => Just(Keep::Apart), 1 => Just(Keep::Together)];
    let level = prop_oneof![Just(DomainLevel::Host), Just(DomainLevel::Rack), Just(DomainLevel::Site)];
    let strength = prop_oneof![Just(Strength::Must), Just(Strength::Should)];
    let of_vms =
        (keep.clone(), "app=(a|b|c)", level, strength.clone()).prop_map(|(keep, selector, domain, strength)| VmRule {
            keep,
            selector: selector.parse().expect("a selector"),
            domain,
            strength,
        });
    let of_hosts = (keep, "disk=(ssd|hdd)", strength).prop_map(|(keep, selector, strength)| HostRule {
        keep,
        selector: selector.parse().expect("a selector"),
        strength,
    });
    (proptest::collection::vec(of_vms, 0..2), proptest::collection::vec(of_hosts, 0..2))
        .prop_map(|(vms, hosts)| PlacementRules { vms, hosts })
}

pub fn hosts() -> impl Strategy<Value = Vec<HostFacts>> {
    proptest::collection::vec((512u64..8192, 1u32..8), 1..9).prop_map(|sizes| {
        sizes.into_iter().enumerate().map(|(number, (memory, cpus))| host(number, memory, cpus)).collect()
    })
}

pub fn requests() -> impl Strategy<Value = Vec<Request>> {
    let one = (64u64..2048, 1u32..4, "(a|b|c)", rules(), 0u32..150, 0.0f64..200.0);
    proptest::collection::vec(one, 1..24).prop_map(|many| {
        many.into_iter()
            .enumerate()
            .map(|(number, (memory, cpus, app, rules, reserved, used))| Request {
                rules,
                cpu_reservation_percent: reserved.min(cpus * 100),
                demand: Demand { now: used, expected: used, deviation: used / 4.0 },
                ..request(number, memory, cpus, &app)
            })
            .collect()
    })
}

/// Every VM with its host.
pub type Seats<'a> = Vec<(&'a Request, &'a HostFacts)>;

/// All that is wrong with it.
pub fn violations(hosts: &[HostFacts], seats: &Seats<'_>, cpu_overcommit: f64) -> Vec<String> {
    let mut wrong = Vec::new();
    for host in hosts {
        let here: Vec<_> = seats.iter().filter(|(_, at)| at.name == host.name).map(|(request, _)| *request).collect();
        let memory: u64 = here.iter().map(|request| request.memory.bytes()).sum();
        let cpus: u32 = here.iter().map(|request| request.cpus).sum();
        let reserved: u32 = here.iter().map(|request| request.cpu_reservation_percent).sum();
        if memory > host.memory.bytes() {
            wrong.push(format!("memory of {}", host.name));
        }
        if f64::from(cpus) > f64::from(host.cpus) * cpu_overcommit {
            wrong.push(format!("processors of {}", host.name));
        }
        if f64::from(reserved) > host.cpu_capacity {
            wrong.push(format!("reservations of {}", host.name));
        }
    }
    for (request, host) in seats {
        for rule in request.rules.hosts.iter().filter(|rule| rule.strength == Strength::Must) {
            if rule.selector.matches(&host.labels) != (rule.keep == Keep::Together) {
                wrong.push(format!("host rule of {}", request.vm));
            }
        }
        for rule in request.rules.vms.iter().filter(|rule| rule.strength == Strength::Must) {
            let others: Vec<_> = seats
                .iter()
                .filter(|(other, _)| other.vm != request.vm && rule.selector.matches(&other.labels))
                .collect();
            let near = others.iter().any(|(_, at)| domain(at, rule.domain) == domain(host, rule.domain));
            if near && rule.keep == Keep::Apart {
                wrong.push(format!("{} is near {}", request.vm, rule.selector));
            }
        }
    }
    wrong
}

fn domain(host: &HostFacts, level: DomainLevel) -> String {
    let FailureDomain { rack, site } = &host.failure_domain;
    match level {
        DomainLevel::Host => host.name.to_string(),
        DomainLevel::Rack => format!("{site:?} {rack:?}"),
        DomainLevel::Site => format!("{site:?}"),
    }
}
