use gantry_types::{ByteSize, CpuPart, MemoryPart};
use proptest::prelude::*;

use super::*;

const CAPACITY: Capacity = Capacity { cpus: 4, memory_bytes: 16 << 30 };

fn pool(name: &str, parent: Option<&str>, cpu: CpuPart, memory: MemoryPart) -> HostPool {
    let named = |name: &str| name.parse().expect("a name");
    HostPool { name: named(name), parent: parent.map(named), cpu, memory }
}

fn member(number: u128, pool: Option<&str>, shares: u32) -> Member {
    let resource_pool = pool.map(|pool| pool.parse().expect("a name"));
    Member {
        vm: Uuid::from_u128(number),
        pid: 1000 + number as u32,
        cpus: 1,
        memory_bytes: 1 << 30,
        wishes: ResourceWishes { cpu_shares: shares, resource_pool, ..ResourceWishes::default() },
    }
}

fn weight(groups: &[Group], end: &str) -> u32 {
    groups.iter().find(|group| group.path.ends_with(end)).map(|group| group.limits.cpu_weight).expect(end)
}

#[test]
fn pools_are_divided_by_shares_and_their_vms_within() {
    let cpu = |shares| CpuPart { shares, ..CpuPart::default() };
    let resources = HostResources {
        pools: vec![
            pool("big", None, cpu(300), MemoryPart::default()),
            pool("inner", Some("big"), cpu(100), MemoryPart::default()),
            pool("empty", None, cpu(9000), MemoryPart::default()),
        ],
        vms: BTreeMap::new(),
    };
    let members = [member(1, Some("big"), 100), member(2, Some("inner"), 200), member(3, None, 100)];
    let (groups, places) = tree(&resources, &members, CAPACITY);
    assert!(groups[0].path.as_os_str().is_empty());
    assert!(!groups.iter().any(|group| group.path.ends_with("pool-empty")), "nobody of it is here");
    assert_eq!((weight(&groups, "pool-big"), weight(&groups, &group_of(Uuid::from_u128(3)))), (7500, 2500));
    assert_eq!((weight(&groups, "pool-inner"), weight(&groups, &group_of(Uuid::from_u128(1)))), (5000, 5000));
    assert_eq!(places[&Uuid::from_u128(2)], Path::new("pool-big/pool-inner").join(group_of(Uuid::from_u128(2))));
}

#[test]
fn a_reservation_comes_first_and_a_limit_is_never_above_the_one_around_it() {
    let cpu = CpuPart { shares: 100, reservation_percent: 200, limit_percent: Some(300) };
    let resources = HostResources { pools: vec![pool("db", None, cpu, MemoryPart::default())], vms: BTreeMap::new() };
    let mut inside = member(1, Some("db"), 100);
    inside.cpus = 8;
    inside.wishes.cpu_limit_percent = Some(800);
    let (groups, _) = tree(&resources, &[inside, member(2, None, 100)], CAPACITY);
    // 200 of 400 are reserved; of the other 200 each gets half.
    assert_eq!((weight(&groups, "pool-db"), weight(&groups, &group_of(Uuid::from_u128(2)))), (7500, 2500));
    let limits: Vec<_> = groups.iter().map(|group| group.limits.cpu_limit_percent).collect();
    assert_eq!(limits, [None, Some(300), Some(300), None]);
}

#[test]
fn a_memory_limit_leaves_every_vm_what_it_was_started_with() {
    let memory = MemoryPart { limit: Some(ByteSize::mib(64)), ..MemoryPart::default() };
    let resources =
        HostResources { pools: vec![pool("tight", None, CpuPart::default(), memory)], vms: BTreeMap::new() };
    let (groups, _) = tree(&resources, &[member(1, Some("tight"), 100)], CAPACITY);
    assert_eq!(groups[1].limits.memory_limit_bytes, Some((1 << 30) + QEMU_BYTES));
    let roomy = MemoryPart { limit: Some(ByteSize::gib(8)), ..MemoryPart::default() };
    let resources = HostResources { pools: vec![pool("tight", None, CpuPart::default(), roomy)], vms: BTreeMap::new() };
    let (groups, _) = tree(&resources, &[member(1, Some("tight"), 100)], CAPACITY);
    assert_eq!(groups[1].limits.memory_limit_bytes, Some(8 << 30));
}

#[test]
fn what_the_host_is_told_counts_more_than_the_assignment() {
    let told = ResourceWishes { cpu_limit_percent: Some(50), ..ResourceWishes::default() };
    let resources = HostResources { pools: vec![], vms: BTreeMap::from([(Uuid::from_u128(1), told)]) };
    // Its assignment names a pool that is not known here.
    let (groups, _) = tree(&resources, &[member(1, Some("gone"), 100)], CAPACITY);
    assert_eq!(groups[1].limits.cpu_limit_percent, Some(50));
}

proptest! {
    #[test]
    fn a_division_gives_out_everything_and_nobody_more_than_its_limit_or_less_than_its_reservation(
        claims in prop::collection::vec((1u32..=10_000, 0u32..50, prop::option::of(50u32..1000)), 1..12),
        room in 1u32..2000,
    ) {
        let claims: Vec<Claim> = claims
            .into_iter()
            .map(|(shares, reserved, limit)| Claim { shares, reserved: reserved.into(), limit: limit.map(f64::from) })
            .collect();
        let room = f64::from(room);
        let parts = divide(room, &claims);
        let given: f64 = parts.iter().sum();
        let most: f64 = claims.iter().map(|claim| claim.limit.unwrap_or(f64::INFINITY)).sum();
        prop_assert!((given - room.min(most)).abs() < room * 1e-6, "{given} of {room}");
        let reserved: f64 = claims.iter().map(|claim| claim.reserved).sum();
        for (claim, part) in claims.iter().zip(&parts) {
            prop_assert!(*part <= claim.limit.unwrap_or(f64::INFINITY) + 1e-6);
            prop_assert!(reserved > room || *part >= claim.reserved - 1e-6);
        }
        // Of two with room below their limits and nothing reserved, the one with more shares has no less.
        for (one, a) in claims.iter().zip(&parts).filter(|(claim, _)| claim.limit.is_none() && claim.reserved == 0.0) {
            for (two, b) in claims.iter().zip(&parts).filter(|(claim, _)| claim.limit.is_none() && claim.reserved == 0.0) {
                prop_assert!((a * f64::from(two.shares) - b * f64::from(one.shares)).abs() < 1e-3 * room * 10_000.0);
            }
        }
    }
}
