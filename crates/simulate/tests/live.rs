//! What-if over a small captured datacenter.

use gantry_simulate::live::{BadChange, Capture, Changes, what_if};
use gantry_types::{Host, Name, Vm};
use serde_json::json;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn host(text: &str, memory_gib: u64) -> Host {
    serde_json::from_value(json!({
        "kind": "host", "metadata": { "name": text }, "spec": {},
        "status": { "state": "ready", "inventory": {
            "arch": "x86_64", "cpu": { "count": 8, "model": "some", "flags": [] },
            "memory": format!("{memory_gib}GiB"), "qemu_version": "7.2", "kvm": true, "guest_archs": ["x86_64"],
            "sandbox": true, "post_copy": true, "kernel": "6.1", "agent_version": "0.1.0", "pools": []
        }}
    }))
    .expect("a host")
}

fn vm(number: u128, host: &str, memory: &str) -> Vm {
    let mut vm: Vm = serde_json::from_value(json!({
        "kind": "vm", "metadata": { "name": format!("vm-{number}") },
        "spec": { "cpus": 1, "memory": memory, "disk": "1GiB" }, "status": { "phase": "running", "host": host }
    }))
    .expect("a VM");
    vm.metadata.uuid = uuid::Uuid::from_u128(number);
    vm
}

fn capture() -> Capture {
    Capture {
        hosts: vec![host("a", 4), host("b", 4)],
        vms: vec![vm(1, "a", "2GiB"), vm(2, "b", "1GiB"), vm(3, "b", "1GiB")],
        pools: Vec::new(),
    }
}

#[test]
fn lost_vms_start_elsewhere_or_are_named_with_the_reason() {
    let changes = Changes { lost: vec![name("a")], ..Changes::default() };
    let outcome = what_if(&capture(), &changes).expect("runs");
    // 3840 MiB, of which 2048 are given out.
    assert!(outcome.restarted.is_empty());
    assert_eq!(outcome.homeless[0].vm, name("vm-1"));
    assert!(outcome.homeless[0].reason.contains("b has 1.8 GiB of memory free"), "{:?}", outcome.homeless);
    assert!(!outcome.survives_one_more);

    let with_one_more = Changes { added: 1, ..changes };
    let outcome = what_if(&capture(), &with_one_more).expect("runs");
    assert_eq!((outcome.restarted[0].vm.as_str(), outcome.restarted[0].to.as_str()), ("vm-1", "added-1"));
    assert!(outcome.homeless.is_empty());
    let hosts = outcome.hosts.iter().map(|host| (host.host.as_str(), host.before.is_some(), host.after.is_some()));
    assert_eq!(hosts.collect::<Vec<_>>(), [("a", true, false), ("added-1", false, true), ("b", true, true)]);
}

#[test]
fn a_removed_host_is_emptied_and_nothing_else_moves() {
    let mut capture = capture();
    capture.hosts.push(host("c", 8));
    let changes = Changes { removed: vec![name("b")], ..Changes::default() };
    let outcome = what_if(&capture, &changes).expect("runs");
    assert_eq!(outcome.moved.len(), 2);
    assert!(outcome.moved.iter().all(|seat| seat.from == name("b") && seat.to == name("c")));
    assert!(outcome.survives_one_more);
    let a = outcome.hosts.iter().find(|host| host.host == name("a")).expect("a stays");
    assert_eq!(a.before, a.after);
}

#[test]
fn a_host_that_is_not_there_is_an_error() {
    let changes = Changes { lost: vec![name("nowhere")], ..Changes::default() };
    assert_eq!(what_if(&capture(), &changes), Err(BadChange::NoSuchHost(name("nowhere"))));
}
