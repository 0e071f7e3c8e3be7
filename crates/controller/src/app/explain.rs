//! Why a VM is where it is, and why it is not elsewhere: placement's own decision, told.

use gantry_api::rest::{HostVerdict, ScoreTerm, VmExplanation};
use gantry_placement::{Explanation, explain};
use gantry_types::{Problem, Resource, Vm};

use super::{App, Caller};
use crate::cluster_view::{Loads, active_schedules, clusters_for, request_of, with_snapshot};

/// What placement would say if it were asked now. The VM's own share does not count against it.
pub fn vm(app: &App, caller: &Caller, name: &str) -> Result<VmExplanation, Problem> {
    caller.may_read()?;
    let vm = app.model.get::<Vm>(name).ok_or_else(|| Problem::not_found(Vm::KIND, name))?;
    let schedules = active_schedules(app);
    let (mut request, clusters) =
        app.model.read(|tables| (request_of(tables, &schedules, &vm), clusters_for(tables, &vm, None)));
    request.despite_cordon = false;
    let mut hosts = Vec::new();
    let mut chosen = None;
    for cluster in &clusters {
        let Explanation { chosen: best, hosts: verdicts, .. } =
            with_snapshot(app, cluster, Loads::Now, |snapshot| explain(snapshot, &request));
        // The first cluster that can take it does.
        let here = chosen.is_none() && best.is_some();
        chosen = chosen.or(best);
        hosts.extend(verdicts.into_iter().map(|verdict| {
            HostVerdict {
                cluster: cluster.clone(),
                reason: match &verdict.reason {
                    None if !here && verdict.fits => Some("would do, but another cluster comes first".to_owned()),
                    reason => reason.clone(),
                },
                host: verdict.host,
                fits: verdict.fits,
                score: verdict.score,
                terms: verdict
                    .terms
                    .into_iter()
                    .map(|term| ScoreTerm {
                        name: term.name.to_owned(),
                        value: term.value,
                        weight: term.weight,
                        points: term.points,
                    })
                    .collect(),
            }
        }));
    }
    let summary = summary(&vm, chosen.as_ref().map(|host| host.as_str()));
    Ok(VmExplanation { vm: vm.metadata.name.clone(), host: vm.status.host.clone(), best: chosen, summary, hosts })
}

fn summary(vm: &Vm, best: Option<&str>) -> String {
    let name = vm.name();
    match (vm.status.host.as_ref().map(|host| host.as_str()), best) {
        (Some(here), Some(best)) if here == best => {
            format!("VM '{name}' is on host '{here}', which is also where it would be placed now")
        }
        (Some(here), Some(best)) => {
            format!("VM '{name}' is on host '{here}'; placed anew now it would go to host '{best}'")
        }
        (Some(here), None) => format!("VM '{name}' is on host '{here}'; placed anew now it would find no place"),
        (None, Some(best)) => format!("VM '{name}' is on no host; started now it would go to host '{best}'"),
        (None, None) => format!("VM '{name}' is on no host, and no host could take it now"),
    }
}
