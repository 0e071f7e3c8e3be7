//! A VM's part of its host: its QEMU is in a group of its own, which has what was asked for, follows changes while the VM
//! runs, outlives the agent, and is gone with the VM.

use std::path::{Path, PathBuf};

use gantry_api::AgentApi;
use gantry_api::agent::PowerAction;
use gantry_cgroup::{Cgroups, Hierarchy};
use gantry_types::{ByteSize, CpuPart, HostPool, HostResources, MemoryPart, ResourceWishes};

use crate::world::{eventually, in_world, request};

/// The groups that a process is in, as the kernel tells (cgroups(7)), of the hierarchies that are used.
fn groups_of(pid: u32) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter(|path| path.contains("/gantry-")).map(|path| PathBuf::from(path.trim_start_matches('/'))).collect()
}

fn limit_of(hierarchies: &[std::sync::Arc<dyn Hierarchy>], group: &Path) -> Option<u32> {
    hierarchies.iter().filter_map(|hierarchy| hierarchy.limits(group).ok()?.cpu_limit_percent).next()
}

#[test]
fn a_vm_has_its_part_of_the_host_as_long_as_it_runs() {
    in_world(1, async |mut world| {
        let groups = Cgroups::find("gantry-agent-test");
        let hierarchies = groups.hierarchies().to_vec();
        if groups.support().cpu.is_none() {
            eprintln!("nothing to look at: {}", groups.support().told());
            return;
        }
        let mut vm = world.assignment("web-1");
        vm.resources.resource_pool = Some("gold".parse().unwrap());
        vm.resources.cpu_limit_percent = Some(90);
        let gold = HostPool {
            name: "gold".parse().unwrap(),
            parent: None,
            cpu: CpuPart { shares: 400, limit_percent: Some(150), ..CpuPart::default() },
            // Less than the VM has: that must not be its end.
            memory: MemoryPart { limit: Some(ByteSize::mib(32)), ..MemoryPart::default() },
        };
        let told = HostResources { pools: vec![gold], vms: Default::default() };
        let report = world.agent(0).apply_resources(&told).await.unwrap();
        assert!(report.enforced.contains("cpu") && report.problems.is_empty(), "{report:?}");
        world.boot(0, &vm).await;
        let pid = world.qemus(0)[0];
        if report.enforced.contains("cpu not at all") {
            // `ip netns exec` mounts a /sys of its own, without control groups: a VM does not need them to run.
            assert!(report.enforced.contains("not mounted") && groups_of(pid).is_empty(), "{report:?}");
            return;
        }
        let end = Path::new("pool-gold").join(format!("vm-{}", vm.uuid));
        let seen = groups_of(pid);
        assert!(!seen.is_empty() && seen.iter().all(|group| group.ends_with(&end)), "{seen:?}");
        let group = seen[0].clone();
        let limited = async |percent| {
            eventually(&format!("its limit is {percent:?}"), async || {
                (limit_of(&hierarchies, &group) == percent).then_some(())
            })
            .await;
        };
        limited(Some(90)).await;

        // It is changed while it runs, and an agent that comes back goes on with that.
        let wishes = ResourceWishes { cpu_limit_percent: Some(60), ..vm.resources.clone() };
        let changed = HostResources { vms: [(vm.uuid, wishes)].into(), ..told.clone() };
        for _ in 0..2 {
            assert!(world.agent(0).apply_resources(&changed).await.unwrap().problems.is_empty());
        }
        limited(Some(60)).await;
        world.kill_agent(0);
        assert_eq!((world.qemus(0), groups_of(pid)), (vec![pid], seen.clone()), "neither needs the agent");
        world.start_agent(0).await;
        world.until(0, vm.uuid, "it is taken over", |vm| vm.guest_agent).await;
        limited(Some(60)).await;
        assert_eq!(groups_of(pid), seen);

        // Taken out of the pool, also while it runs.
        let free = HostResources { pools: vec![], vms: [(vm.uuid, ResourceWishes::default())].into() };
        world.agent(0).apply_resources(&free).await.unwrap();
        let outside = groups_of(pid);
        assert!(outside.iter().all(|group| !group.to_string_lossy().contains("pool-gold")), "{outside:?}");
        assert!(world.agent(0).check_liveness(vm.uuid, true).await.unwrap().alive);
        let scope = outside[0].parent().unwrap().to_owned();
        let agent = world.agent(0);
        agent.power(vm.uuid, &request(&vm, PowerAction::Kill)).await.unwrap();
        agent.remove_vm(vm.uuid, vm.epoch).await.unwrap();
        eventually("the host's groups are gone", async || {
            let left = hierarchies.iter().any(|hierarchy| hierarchy.mount().join(&scope).exists());
            (!left).then_some(())
        })
        .await;
    });
}
