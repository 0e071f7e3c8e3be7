//! `vm_delete`: take it off its host, give its addresses back, forget it.
//!
//! A host that does not answer may still run the VM, so this waits for it. With `force` it does not wait for a host that
//! is lost: the VM is forgotten, and what that host still has of it is removed when it comes back (the loop for stray
//! VMs), because this operation proves that it was deleted. Cancelled, the VM stays `deleting`: nobody can say what its
//! host has done already, and deleting it again goes on.

use async_trait::async_trait;
use gantry_types::{
    Action, ErrorClass, HostState, Name, Network, Port, Problem, Resource, Severity, Snapshot, Vm, Volume,
};

use super::{
    step::{Ending, Patience, Procedure, Step, StepContext},
    vm_start::or_absent,
    volume_attach,
};
use crate::{addresses, app::copies, objects::Change};

/// Hosts that may still have something of the VM.
const LEFT_ON: &str = "left_on";

pub struct VmDelete;

#[async_trait]
impl Procedure for VmDelete {
    fn steps(&self) -> Vec<Box<dyn Step>> {
        vec![Box::new(Remove), Box::new(Forget)]
    }

    async fn conclude(&self, context: &StepContext, ending: Ending<'_>, change: &mut Change) -> Result<(), Problem> {
        let Some(mut vm) = or_gone(context).await? else {
            context.app.model.overlay_mut(|overlay| overlay.vm_gone(context.operation.spec.target.uuid));
            return Ok(());
        };
        vm.status.operation = None;
        vm.status.reason = Some(match ending {
            Ending::Failed(problem) | Ending::Incomplete(problem) => format!("deleting it failed: {problem}"),
            Ending::Cancelled | Ending::Succeeded => format!(
                "deleting it was cancelled; its host may have removed it already. To go on: gantry vm delete {}",
                vm.name()
            ),
        });
        change.update(&vm)?;
        Ok(())
    }
}

async fn or_gone(context: &StepContext) -> Result<Option<Vm>, Problem> {
    match context.vm().await {
        Ok(vm) => Ok(Some(vm)),
        Err(problem) if problem.class == ErrorClass::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

struct Remove;

#[async_trait]
impl Step for Remove {
    fn name(&self) -> &'static str {
        "remove"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let Some(vm) = or_gone(context).await? else { return Ok(()) };
        let force = matches!(context.operation.spec.action, Action::VmDelete { force: true });
        let mut left_on: Vec<Name> = Vec::new();
        for name in [&vm.status.host, &vm.status.moving_to].into_iter().flatten() {
            // Hosts are deleted only when no VM is on them.
            let host = context.host(name).await?;
            if force && host.status.state != HostState::Ready {
                left_on.push(name.clone());
                continue;
            }
            let agent = context.app.links.agent(&host);
            or_absent(agent.remove_vm(vm.metadata.uuid, vm.status.epoch).await)?;
        }
        context.note(LEFT_ON, &left_on)
    }
}

/// The VM's ports: those that were made with it go, with their addresses; those made beforehand are free again.
pub(super) async fn give_back(context: &StepContext, vm: &Vm, change: &mut Change) -> Result<(), Problem> {
    let objects = &context.app.objects;
    let name = &vm.metadata.name;
    let mut kept = Vec::new();
    for mut port in objects.list::<Port>().await? {
        if port.status.vm.as_ref() != Some(name) {
            continue;
        }
        if port.status.goes_with_vm {
            change.delete(&port);
        } else {
            port.status.vm = None;
            change.update(&port)?;
            kept.push(port);
        }
    }
    for mut network in objects.list::<Network>().await? {
        let mut changed = false;
        let at = network.metadata.name.clone();
        for port in kept.iter().filter(|port| port.spec.network == at) {
            let holder = format!("{}/{}", Port::KIND, port.name());
            changed |= addresses::hand_over(&mut network, port.metadata.uuid, None, Some(&holder));
        }
        let gone = network.status.leases.values().filter(|lease| lease.vm.as_ref() == Some(name));
        let gone: Vec<_> = gone.map(|lease| lease.port).collect();
        changed |= addresses::release(&mut network, &gone);
        if changed {
            change.update(&network)?;
        }
    }
    Ok(())
}

struct Forget;

#[async_trait]
impl Step for Forget {
    fn name(&self) -> &'static str {
        "forget"
    }

    fn patience(&self) -> Patience {
        Patience::Unlimited
    }

    fn reversible(&self) -> bool {
        false
    }

    async fn run(&self, context: &mut StepContext) -> Result<(), Problem> {
        let app = &context.app;
        app.objects
            .racing(|| async {
                let Some(vm) = or_gone(context).await? else { return Ok(()) };
                let mut change = Change::new();
                change.delete(&vm);
                let mut gone = vm.clone();
                // They were inside its disk.
                for snapshot in app.objects.list::<Snapshot>().await? {
                    if snapshot.spec.vm == vm.metadata.name {
                        change.delete(&snapshot);
                    }
                }
                // Volumes belong to themselves.
                for mut volume in app.objects.list::<Volume>().await? {
                    if volume.status.vm.as_ref() == Some(&vm.metadata.name) {
                        app.model.read(|tables| copies::leave_vm(tables, &mut volume, &mut gone));
                        volume_attach::loosen(&mut volume);
                        change.update(&volume)?;
                    }
                }
                give_back(context, &vm, &mut change).await?;
                let mut severity = Severity::Normal;
                let mut message = format!("VM '{}' was deleted by {}", vm.name(), context.operation.spec.requested_by);
                let left_on: Vec<Name> = context.memo(LEFT_ON)?.unwrap_or_default();
                if !left_on.is_empty() {
                    severity = Severity::Warning;
                    let hosts: Vec<_> = left_on.iter().map(|host| format!("'{host}'")).collect();
                    message = format!(
                        "{message} without waiting for host {}, which does not answer and may still run it with its \
                         addresses; what is there is removed when the host comes back",
                        hosts.join(" and ")
                    );
                }
                change.event(&context.event(severity, "VmDeleted", message, vm.status.host.as_ref()))?;
                app.commit(change).await?;
                Ok(())
            })
            .await
    }
}
