//! A disk goes from one agent to another: a stopped VM's own, or a copy of it for a clone.
//!
//! Both agents repeat what was said to them, so this is asked again after any interruption. Until the controller records
//! the VM at the destination, what has come there can be taken back.

use std::{sync::Arc, time::Duration};

use gantry_api::relocation::{DiskArrival, ExpectDisk, SendDisk};
use gantry_types::{Host, HostState, Name, Problem, Progress};
use uuid::Uuid;

use super::{
    step::{CANCELLED, StepContext},
    vm_start::or_absent,
};

const POLL: Duration = Duration::from_millis(200);

/// The VM whose disk is sent.
pub(super) struct Origin {
    pub host: Name,
    pub vm: Uuid,
    pub epoch: u64,
    /// Of its disk what this snapshot holds.
    pub snapshot: Option<Uuid>,
}

/// # Errors
/// Transient: a host that is not there now may be back in a moment.
pub(super) fn expect_answering(context: &StepContext, host: &Name) -> Result<Arc<Host>, Problem> {
    let known = context.app.model.get::<Host>(host.as_str());
    known.filter(|known| known.status.state == HostState::Ready).ok_or_else(|| {
        Problem::transient("host-not-ready", format!("host '{host}' is not ready"))
            .remedy("see what is wrong with it: gantry host list")
    })
}

/// Has the disk sent until it has arrived. What arrives for another VM than the origin is a copy.
pub(super) async fn send(
    context: &mut StepContext,
    from: &Origin,
    destination: &Name,
    expected: &ExpectDisk,
) -> Result<(), Problem> {
    let vm = expected.assignment.uuid;
    let (source, there) = (context.agent(&from.host).await?, context.agent(destination).await?);
    let order = SendDisk {
        epoch: from.epoch,
        destination: destination.clone(),
        destination_agent: context.host(destination).await?.status.agent_address,
        clone: (vm != from.vm).then_some(vm),
        snapshot: from.snapshot,
    };
    let mut sending = None;
    loop {
        match there.expect_disk(vm, expected).await? {
            DiskArrival::Arrived => return Ok(()),
            // Nothing comes before a clone's copy is made.
            DiskArrival::Expected { total_bytes: 0, .. } if order.clone.is_some() && sending.is_some() => {
                // Shown, and nothing else: whether the source answers at all is looked at below.
                let copied = source.disk_copied(from.vm, vm).await.ok().flatten();
                let copied = copied.map_or((0, 0), |copied| (copied.copied_bytes, copied.total_bytes));
                context.progress(progress("copying the disk", copied)).await?;
            }
            DiskArrival::Expected { received_bytes, total_bytes } => {
                context.progress(progress("disk", (received_bytes, total_bytes))).await?;
            }
        }
        if context.cancel_requested() {
            // Nobody waits for the source's answer any more: it stops sending.
            let name = context.target();
            return Err(Problem::conflict(CANCELLED, format!("the sending of VM '{name}' was cancelled")));
        }
        for host in [&from.host, destination] {
            expect_answering(context, host)?;
        }
        let running = sending.get_or_insert_with(|| source.send_disk(from.vm, &order));
        tokio::select! {
            sent = running => {
                sent?;
                sending = None;
            }
            () = context.sleep(POLL) => {}
        }
    }
}

/// Removes what has come.
pub(super) async fn take_back(context: &StepContext, destination: &Name, vm: Uuid, epoch: u64) -> Result<(), Problem> {
    let removed = or_absent(context.agent(destination).await?.remove_vm(vm, epoch).await);
    let is_ready = expect_answering(context, destination).is_ok();
    match removed {
        // What a host that is lost has got is never its VM: the stray VM loop removes it when it is back.
        Err(problem) if problem.is_transient() && !is_ready => {}
        removed => removed?,
    }
    context.app.model.overlay_mut(|overlay| overlay.left(destination.as_str(), vm));
    Ok(())
}

fn progress(message: &str, (bytes_done, bytes_total): (u64, u64)) -> Progress {
    Progress { message: message.to_owned(), bytes_done, bytes_total, ..Progress::default() }
}
