//! Clones of VMs: the spec of the source, and what its disk holds at one instant or held in a snapshot, under a new identity.
//!
//! Whatever may be only once is the clone's own: name, uuid, MACs, addresses, ports, and with the uuid cloud-init's
//! instance-id, so that the guest configures itself anew. Volumes, snapshots and recovery points stay the source's.

use gantry_api::rest::{Changed, CloneRequest, WriteQuery};
use gantry_types::{
    Action, Name, NicSpec, Port, PowerState, Problem, Resource, Severity, Snapshot, SnapshotPhase, Vm, VmPhase, VmSpec,
    VmStatus,
};

use super::{App, Caller, check_precondition, snapshot, vm, vm_references::check_references};
use crate::{
    objects::Change,
    operations::{FormerState, new_operation},
};

/// Makes a VM as a copy of this one, which may run meanwhile; the operation is both VMs' until the disk is copied.
pub async fn clone(
    app: &App,
    caller: &Caller,
    name: &str,
    request: &CloneRequest,
    query: &WriteQuery,
) -> Result<Changed<Vm>, Problem> {
    caller.may_change()?;
    // What pools may promise is promised once.
    let _alone = app.references.write().await;
    app.objects
        .racing(|| async {
            let source: Vm = app.objects.get(name).await?;
            check_precondition(&source, &source.metadata, query)?;
            vm::expect_idle(&source)?;
            vm::expect_phase(&source, &[VmPhase::Running, VmPhase::Paused, VmPhase::Stopped], "clone", None)?;
            snapshot::expect_disk(&source, "clone")?;
            let kept = match &request.snapshot {
                Some(kept) => Some(snapshot_of(app, &source, kept).await?),
                None => None,
            };
            if let Some(existing) = app.objects.find::<Vm>(request.name.as_str()).await? {
                return Err(vm::exists(&existing));
            }
            let mut clone = Vm::new(request.name.clone(), spec(app, &source, request));
            clone.metadata.labels = source.metadata.labels.clone();
            check_references(app, &clone)?;
            app.stamp(&mut clone.metadata);
            let former = FormerState { phase: VmPhase::Pending, ..FormerState::of(&clone) };
            let action = Action::VmClone {
                source: source.metadata.name.clone(),
                start: !request.stopped,
                snapshot: request.snapshot.clone(),
            };
            let operation = new_operation(app, caller, action, &clone, Some(&former))?;
            clone.status = VmStatus {
                phase: if request.stopped { VmPhase::Pending } else { VmPhase::Starting },
                // As the source's, whatever image has that name by now.
                disk: source.status.disk,
                image_digest: source.status.image_digest.clone(),
                operation: Some(operation.metadata.name.clone()),
                ..VmStatus::default()
            };
            let mut marked = source.clone();
            marked.status.operation = Some(operation.metadata.name.clone());
            let mut change = Change::new();
            // It is there as long as the operation is the source's, too.
            if let Some(kept) = &kept {
                change.require(kept);
            }
            change.create(&clone)?.update(&marked)?.event(&app.event(
                clone.reference(),
                Severity::Normal,
                "VmCreated",
                format!("{} clones VM '{name}' as '{}'", caller.name, clone.name()),
            ))?;
            vm::finish_change(app, change, clone, Some(operation), query).await
        })
        .await
}

/// A snapshot that a clone of this VM can begin with.
async fn snapshot_of(app: &App, source: &Vm, name: &Name) -> Result<Snapshot, Problem> {
    let invalid =
        |message: String| Problem::invalid("invalid-request", "the clone is not valid").field("snapshot", message);
    let vm = source.name();
    let found = app.objects.find::<Snapshot>(name.as_str()).await?;
    let found = found
        .filter(|found| found.spec.vm == source.metadata.name)
        .ok_or_else(|| invalid(format!("'{name}' is no snapshot of VM '{vm}'; see: gantry snapshot list {vm}")))?;
    if found.status.phase != SnapshotPhase::Ready {
        return Err(Problem::conflict("snapshot-not-ready", format!("snapshot '{name}' is not ready"))
            .object(found.reference())
            .remedy("see what is wrong with it: gantry get snapshot"));
    }
    Ok(found)
}

fn spec(app: &App, source: &Vm, request: &CloneRequest) -> VmSpec {
    let nics = source.spec.nics.iter().map(|nic| {
        // A port that was made beforehand is the source's; its groups are what the clone is to have, too.
        let port = nic.port.as_ref().and_then(|port| app.model.get::<Port>(port.as_str()));
        let security_groups = match port {
            Some(port) => port.spec.security_groups.clone(),
            None => nic.security_groups.clone(),
        };
        NicSpec { security_groups, dhcp: nic.dhcp, ..NicSpec::new(nic.network.clone()) }
    });
    VmSpec {
        nics: nics.collect(),
        power: if request.stopped { PowerState::Stopped } else { PowerState::Running },
        host: request.host.clone().or_else(|| source.spec.host.clone()),
        ..source.spec.clone()
    }
}
