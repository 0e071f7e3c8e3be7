//! Keeps each cluster's status true: its hosts, what they have together, the CPU baseline on which every guest can
//! move to every host, and who votes about shutting a host out. Written only when it changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gantry_types::{
    Arch, ByteSize, Cluster, ClusterStatus, CpuBaseline, Host, HostState, Inventory, Problem, Resource,
};

use crate::{
    app::{App, cluster::hosts_of},
    leases::members_of,
    objects::Change,
};

const INTERVAL: Duration = Duration::from_secs(2);

pub async fn run(app: Arc<App>) {
    loop {
        app.clock.sleep(INTERVAL).await;
        if let Err(problem) = pass(&app).await {
            tracing::warn!(%problem, "the clusters' status could not be written");
        }
    }
}

pub async fn pass(app: &App) -> Result<(), Problem> {
    for cluster in app.model.list::<Cluster>() {
        let name = &cluster.metadata.name;
        let hosts: Vec<Arc<Host>> = app.model.read(|tables| hosts_of(tables, name).cloned().collect());
        let clusters = app.model.list::<Cluster>();
        let all: Vec<&Cluster> = clusters.iter().map(|cluster| &**cluster).collect();
        let status = status_of(&hosts, &cluster.status, &all);
        if status == cluster.status {
            continue;
        }
        let mut cluster: Cluster = app.objects.get(cluster.name()).await?;
        cluster.status = status_of(&hosts, &cluster.status, &all);
        let mut change = Change::new();
        change.update(&cluster)?;
        app.commit(change).await?;
    }
    Ok(())
}

fn status_of(hosts: &[Arc<Host>], former: &ClusterStatus, all: &[&Cluster]) -> ClusterStatus {
    let inventories = || hosts.iter().filter_map(|host| host.status.inventory.as_ref());
    ClusterStatus {
        hosts: hosts.iter().map(|host| host.metadata.name.clone()).collect(),
        ready_hosts: hosts.iter().filter(|host| host.status.state == HostState::Ready).count() as u32,
        cpus: inventories().map(|inventory| inventory.cpu.count).sum(),
        memory: ByteSize(inventories().map(|inventory| inventory.memory.bytes()).sum()),
        cpu_baseline: baselines(inventories()),
        members: members_of(&former.members, &voting(hosts), all),
        operation: former.operation.clone(),
    }
}

/// Those that have been heard of, and don't sleep: nothing runs on a host that does, and it can't answer.
fn voting(hosts: &[Arc<Host>]) -> Vec<&Host> {
    let votes = |host: &&Host| host.status.inventory.is_some() && host.status.state != HostState::Sleeping;
    hosts.iter().map(|host| &**host).filter(votes).collect()
}

/// By architecture: what all of its hosts have.
fn baselines<'a>(inventories: impl Iterator<Item = &'a Inventory>) -> Vec<CpuBaseline> {
    let mut found: BTreeMap<Arch, CpuBaseline> = BTreeMap::new();
    for inventory in inventories {
        let flags = &inventory.cpu.flags;
        let baseline = found.entry(inventory.arch).or_insert_with(|| CpuBaseline {
            arch: inventory.arch,
            kvm: inventory.kvm,
            mixed_accelerators: false,
            qemu_version: inventory.qemu_version.clone(),
            flags: flags.clone(),
        });
        baseline.mixed_accelerators |= baseline.kvm != inventory.kvm;
        baseline.kvm &= inventory.kvm;
        baseline.flags.retain(|flag| flags.contains(flag));
        if version(&inventory.qemu_version) < version(&baseline.qemu_version) {
            baseline.qemu_version.clone_from(&inventory.qemu_version);
        }
    }
    found.into_values().collect()
}

fn version(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inventory(flags: &[&str], qemu: &str, kvm: bool) -> Inventory {
        serde_json::from_value(json!({
            "arch": "x86_64", "cpu": {"count": 4, "model": "m", "flags": flags}, "memory": "4GiB",
            "qemu_version": qemu, "kvm": kvm, "guest_archs": ["x86_64"], "sandbox": true, "post_copy": true,
            "kernel": "6.1", "agent_version": "0.1.0", "pools": []
        }))
        .expect("an inventory")
    }

    #[test]
    fn the_baseline_is_what_all_hosts_have() {
        let hosts = [inventory(&["avx", "avx2", "sse"], "10.0", true), inventory(&["sse", "avx"], "7.2.17", true)];
        let found = baselines(hosts.iter());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].flags.join(" "), found[0].qemu_version.as_str()), ("avx sse".to_owned(), "7.2.17"));
        assert!(found[0].kvm && !found[0].mixed_accelerators);
        let mixed = [inventory(&[], "7.2", true), inventory(&[], "7.2", false)];
        assert!(baselines(mixed.iter())[0].mixed_accelerators);
    }
}
