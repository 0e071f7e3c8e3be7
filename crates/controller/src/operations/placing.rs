//! Asking placement with the read model as its snapshot.

use std::collections::BTreeMap;

use gantry_placement::{Placement, Refusal, Request, place};
use gantry_types::{Problem, Resource, Vm};

use crate::{
    app::App,
    cluster_view::{active_schedules, clusters_for, heed_schedules, snapshot_of},
};

/// The code of the problem that no host can take a VM.
pub const NO_HOST_FITS: &str = "no-host-fits";

/// Chooses a host for the VM: in the cluster that it is in, or in the first that can take it. The caller holds
/// `App::placement` until the model shows what it did with the answer.
pub fn choose(app: &App, vm: &Vm, request: &Request) -> Result<Placement, Problem> {
    let mut request = request.clone();
    heed_schedules(&mut request, &active_schedules(app), vm);
    let mut refusal = Refusal { refused: BTreeMap::new() };
    for cluster in app.model.read(|tables| clusters_for(tables, vm, request.only.as_ref())) {
        match place(&snapshot_of(app, &cluster), &request) {
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
