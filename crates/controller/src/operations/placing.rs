//! Asking placement with the read model as its snapshot.

use std::collections::BTreeMap;

use gantry_placement::{Placement, Refusal, Request, place};
use gantry_types::{Host, Problem, Resource, ResourcePool, Vm};

use crate::{
    app::App,
    cluster_view::{Loads, active_schedules, clusters_for, heed_schedules, heed_volumes, with_snapshot},
};

/// The code of the problem that no host can take a VM.
pub const NO_HOST_FITS: &str = "no-host-fits";

/// Chooses a host for the VM: in the cluster that it is in, or in the first that can take it. The caller holds
/// `App::placement` until the model shows what it did with the answer.
pub fn choose(app: &App, vm: &Vm, request: &Request) -> Result<Placement, Problem> {
    let mut request = request.clone();
    heed_schedules(&mut request, &active_schedules(app), vm);
    app.model.read(|tables| heed_volumes(&mut request, tables, vm));
    expect_pools_cluster(app, vm, &request)?;
    let mut refusal = Refusal { refused: BTreeMap::new() };
    for cluster in app.model.read(|tables| clusters_for(tables, vm, request.only.as_ref())) {
        match with_snapshot(app, &cluster, Loads::Lately, |snapshot| place(snapshot, &request)) {
            Ok(placement) => return Ok(placement),
            Err(refused) => refusal.refused.extend(refused.refused),
        }
    }
    let remedy = match refusal.missing_arch() {
        Some(arch) => format!(
            "install the package {} on a host, start its agent anew, then: gantry vm start {}",
            arch.qemu_package(),
            vm.name()
        ),
        None => format!("add a host, free room, or ask for less; see: gantry vm explain {}", vm.name()),
    };
    Err(Problem::conflict(NO_HOST_FITS, format!("no host can take VM '{}': {refusal}", vm.name()))
        .object(vm.reference())
        .remedy(remedy))
}

/// A VM that is in a resource pool goes to no other cluster than the pool's.
fn expect_pools_cluster(app: &App, vm: &Vm, request: &Request) -> Result<(), Problem> {
    let pool = vm.spec.resources.resource_pool.as_ref().and_then(|pool| app.model.get::<ResourcePool>(pool.as_str()));
    let host = request.only.as_ref().and_then(|host| app.model.get::<Host>(host.as_str()));
    let (Some(pool), Some(host)) = (pool, host) else { return Ok(()) };
    if pool.spec.cluster == host.spec.cluster {
        return Ok(());
    }
    let detail = format!(
        "VM '{}' is in resource pool '{}' of cluster '{}'; host '{}' is of cluster '{}'",
        vm.name(),
        pool.name(),
        pool.spec.cluster,
        host.name(),
        host.spec.cluster
    );
    Err(Problem::conflict("other-cluster", detail).object(vm.reference()).remedy(format!(
        "choose a host of that cluster, or take it out: gantry vm set {} --resource-pool none",
        vm.name()
    )))
}
