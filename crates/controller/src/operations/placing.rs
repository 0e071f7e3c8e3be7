//! Asking placement with the read model as its snapshot.

use gantry_placement::{Placement, Request, Settings, Snapshot, place};
use gantry_types::{Problem, Resource, Vm};

use crate::app::App;

/// The code of the problem that no host can take a VM.
pub const NO_HOST_FITS: &str = "no-host-fits";

/// Chooses a host for the VM. The caller holds `App::placement` until the model shows what it did with the answer.
pub fn choose(app: &App, vm: &Vm, request: &Request) -> Result<Placement, Problem> {
    let snapshot = app.model.read(|tables| {
        let hosts = tables.hosts.values().map(AsRef::as_ref);
        Snapshot::of(Settings::default(), hosts, tables.vms.values().map(AsRef::as_ref))
    });
    let answer = place(&snapshot, request);
    answer.map_err(|refusal| {
        let remedy = match refusal.missing_arch() {
            Some(arch) => format!(
                "install the package {} on a host, start its agent anew, then: gantry vm start {}",
                arch.qemu_package(),
                vm.name()
            ),
            None => "add a host, free memory, or ask for less; see: gantry host list".to_owned(),
        };
        Problem::conflict(NO_HOST_FITS, format!("no host can take VM '{}': {refusal}", vm.name()))
            .object(vm.reference())
            .remedy(remedy)
    })
}
