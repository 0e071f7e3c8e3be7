//! Placement as properties over random datacenters, and one case per reason.

use std::collections::BTreeMap;

use gantry_placement::{Likeness, MEMORY_RESERVE, Placement, Reason, Refusal, Request, Settings, Snapshot};
use gantry_types::{Arch, ByteSize, CpuInfo, Host, HostSpec, HostState, Inventory, Name, PoolInfo, Vm, VmSpec};
use proptest::prelude::*;
use uuid::Uuid;

/// Builds the snapshot and places.
fn place<'a>(
    hosts: impl IntoIterator<Item = &'a Host>,
    vms: impl IntoIterator<Item = &'a Vm>,
    request: &Request,
) -> Result<Placement, Refusal> {
    gantry_placement::place(&Snapshot::of(Settings::default(), hosts, vms, &[]), request)
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn host(text: &str, memory_mib: u64) -> Host {
    let mut host = Host::new(name(text), HostSpec::default());
    host.status.state = HostState::Ready;
    host.status.inventory = Some(Inventory {
        arch: Arch::X86_64,
        cpu: CpuInfo { count: 4, model: "some".into(), flags: vec!["sse2".into()] },
        memory: ByteSize::mib(memory_mib),
        qemu_version: "7.2.17 (Debian)".into(),
        kvm: false,
        kvm_reason: None,
        guest_archs: vec![Arch::X86_64],
        sandbox: true,
        post_copy: true,
        post_copy_reason: None,
        kernel: "6.1".into(),
        agent_version: "0.1.0".into(),
        pools: vec![PoolInfo {
            name: "default".into(),
            path: String::new(),
            capacity: ByteSize::gib(10),
            free: ByteSize::gib(5),
        }],
        links: None,
        lost_pools: Default::default(),
    });
    host
}

fn inventory(host: &mut Host) -> &mut Inventory {
    host.status.inventory.as_mut().expect("an inventory")
}

fn vm(id: u128, memory_mib: u64) -> Vm {
    let spec = VmSpec { disk: Some(ByteSize::gib(1)), ..VmSpec::new(1, ByteSize::mib(memory_mib)) };
    let mut vm = Vm::new(name(&format!("vm-{id}")), spec);
    vm.metadata.uuid = Uuid::from_u128(id);
    vm
}

fn reason(change_host: impl Fn(&mut Host), change: impl Fn(&mut Request)) -> Reason {
    let mut only = host("a", 1024);
    change_host(&mut only);
    let mut request = Request::new(&vm(1, 512));
    change(&mut request);
    let refusal = place([&only], [], &request).expect_err("must be refused");
    refusal.refused[&name("a")].clone()
}

#[test]
fn each_constraint_has_its_reason() {
    assert_eq!(reason(|h| h.status.state = HostState::Lost, |_| ()), Reason::Lost);
    assert_eq!(reason(|h| h.status.state = HostState::Joining, |_| ()), Reason::Joining);
    assert_eq!(reason(|h| h.spec.cordoned = true, |_| ()), Reason::Cordoned);
    assert_eq!(reason(|_| (), |r| r.arch = Arch::Ppc64), Reason::CannotRun { arch: Arch::Ppc64 });
    assert_eq!(reason(|_| (), |r| r.only = Some(name("b"))), Reason::NotTheOneAskedFor);
    assert_eq!(reason(|_| (), |r| r.except = Some(name("a"))), Reason::Excluded);
    assert_eq!(
        reason(|_| (), |r| r.memory = ByteSize::mib(769)),
        Reason::TooLittleMemory { needed: ByteSize::mib(769), free: ByteSize::mib(768) }
    );
    assert_eq!(
        reason(|_| (), |r| r.disk_space = ByteSize::gib(6)),
        Reason::TooLittleDisk { needed: ByteSize::gib(6), free: ByteSize::gib(5) }
    );
    let like = |kvm: bool, qemu: &str| {
        let mut source = host("source", 1024);
        inventory(&mut source).kvm = kvm;
        inventory(&mut source).qemu_version = qemu.into();
        inventory(&mut source).cpu.flags.push("avx512f".into());
        Some(Likeness::of(inventory(&mut source), true))
    };
    assert_eq!(reason(|_| (), |r| r.like = like(true, "7.2")), Reason::OtherAccelerator { kvm: false });
    assert!(matches!(reason(|_| (), |r| r.like = like(false, "8.0.1")), Reason::OlderQemu { .. }));
    assert_eq!(
        reason(|h| inventory(h).kvm = true, |r| r.like = like(true, "7.2.1")),
        Reason::MissingCpuFlag { flag: "avx512f".into() }
    );
}

#[test]
fn a_newer_qemu_with_two_digits_is_newer_and_a_cordon_does_not_hold_back_what_is_there() {
    let mut newer = host("a", 1024);
    inventory(&mut newer).qemu_version = "10.0.2".into();
    newer.spec.cordoned = true;
    let mut source = host("b", 1024);
    let mut request = Request::new(&vm(1, 512));
    request.like = Some(Likeness::of(inventory(&mut source), false));
    request.despite_cordon = true;
    assert_eq!(place([&newer], [], &request).expect("fits").host, name("a"));
}

#[test]
fn a_refusal_names_every_host() {
    let (a, mut b) = (host("a", 300), host("b", 4096));
    b.spec.cordoned = true;
    let refusal = place([&a, &b], [], &Request::new(&vm(1, 512))).expect_err("nothing fits");
    assert_eq!(refusal.to_string(), "a has 44.0 MiB of memory free, 512.0 MiB are needed; b is cordoned");
    assert_eq!(place([], [], &Request::new(&vm(1, 32))).expect_err("no hosts").to_string(), "there are no hosts");
}

proptest! {
    /// VMs placed one after the other never take more than there is, and the order of the input does not matter.
    #[test]
    fn capacity_is_never_exceeded(
        memories in proptest::collection::vec(64u64..4096, 1..8),
        wants in proptest::collection::vec(32u64..2048, 1..40),
    ) {
        let hosts: Vec<Host> = memories.iter().enumerate().map(|(n, mib)| host(&format!("h{n}"), *mib)).collect();
        let mut vms: Vec<Vm> = Vec::new();
        for (n, mib) in wants.iter().enumerate() {
            let mut vm = vm(n as u128 + 1, *mib);
            let request = Request::new(&vm);
            let answer = place(&hosts, &vms, &request);
            prop_assert_eq!(&answer, &place(hosts.iter().rev(), vms.iter().rev(), &request));
            match answer {
                Ok(placement) => {
                    // Half of them are on the move: both ends count.
                    if n % 2 == 0 { vm.status.host = Some(placement.host) } else { vm.status.moving_to = Some(placement.host) }
                    vms.push(vm);
                }
                Err(refusal) => prop_assert_eq!(refusal.refused.len(), hosts.len()),
            }
        }
        let mut used: BTreeMap<Name, u64> = BTreeMap::new();
        for vm in &vms {
            let at = vm.status.host.clone().or(vm.status.moving_to.clone()).expect("placed");
            *used.entry(at).or_default() += vm.spec.memory.bytes();
        }
        for host in &hosts {
            let limit = host.status.inventory.as_ref().expect("inventory").memory.bytes();
            let used = used.get(&host.metadata.name).copied().unwrap_or_default();
            prop_assert!(used == 0 || used + MEMORY_RESERVE.bytes() <= limit);
        }
    }

    /// What was chosen is a host that no other fitting one beats.
    #[test]
    fn the_roomiest_host_wins(memories in proptest::collection::vec(64u64..4096, 1..8), want in 32u64..1024) {
        let hosts: Vec<Host> = memories.iter().enumerate().map(|(n, mib)| host(&format!("h{n}"), *mib)).collect();
        let best = memories.iter().max().expect("one");
        let answer = place(&hosts, [], &Request::new(&vm(1, want)));
        prop_assert_eq!(answer.is_ok(), want + MEMORY_RESERVE.as_mib() <= *best);
        if let Ok(placement) = answer {
            let first = memories.iter().position(|mib| mib == best).expect("there");
            prop_assert_eq!(placement.host, name(&format!("h{first}")));
        }
    }
}
