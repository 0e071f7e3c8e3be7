//! Disk and copy part, wherever they are on their way to each other.

use std::time::Duration;

use gantry_types::MirrorNodes;
use tokio::time::{Instant, sleep};

use super::state::{BEGUN, CHANGES, LATELY, PASS, State, add_child, bitmap, merge};
use super::{Mirror, MirrorError};
use crate::migration::tls;
use crate::qmp::command::{
    BlockdevAddNode, BlockdevDel, DirtyBitmapMerge, JobCancel, JobDismiss, QueryJobs, QueryNamedBlockNodes,
    Transaction, TransactionAction, Yank, YankInstance,
};
use crate::qmp::{Qmp, QmpError};

/// A job whose connection is shut down ends at once.
const END_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Parts several disks of a machine from their copies, which are all on one host: none waits for the silence of another's.
///
/// # Errors
/// As of [`part`]; the others are parted all the same.
pub async fn part_all(qmp: &Qmp, mirrors: &[Mirror]) -> Result<(), MirrorError> {
    for mirror in mirrors {
        shut_down(qmp, mirror).await?;
    }
    let mut all = Ok(());
    for mirror in mirrors {
        let parted = match part(qmp, mirror).await {
            // The machine does not have it yet, or any more.
            Err(MirrorError::NotMirrored { .. }) => Ok(()),
            parted => parted,
        };
        all = all.and(parted);
    }
    all
}

/// Out of band: its connection carries nothing any more.
async fn shut_down(qmp: &Qmp, mirror: &Mirror) -> Result<(), QmpError> {
    let instances = vec![YankInstance::BlockNode { node_name: mirror.nodes().peer() }];
    tolerated(qmp.execute(Yank { instances }).await)
}

/// The disk is alone afterwards, with what the copy lacks noted if that is known. With nothing to part nothing happens.
///
/// Writes that were under way to the peer fail: a guest that stops at that is made to go on by the caller, and writes again.
///
/// # Errors
/// QEMU's own, and [`MirrorError::NotEnded`]; repeating goes on.
pub async fn part(qmp: &Qmp, mirror: &Mirror) -> Result<(), MirrorError> {
    let (top, peer) = (mirror.nodes().top(), mirror.nodes().peer());
    // First of all, whether there is one or not: nothing that follows may wait for it, and the monitor itself may.
    shut_down(qmp, mirror).await?;
    let state = State::look(qmp, mirror).await?;
    if state.child(&mirror.nodes().none()).is_none() {
        if !state.has_node(&mirror.nodes().none()) {
            qmp.execute(BlockdevAddNode(mirror.nodes().stand_in(mirror.size))).await?;
        }
        add_child(qmp, mirror, mirror.nodes().none()).await?;
    }
    for job in [mirror.whole_job(), mirror.pass_job()] {
        end_job(qmp, &job).await?;
    }
    state.take_out(qmp, mirror, &peer).await?;
    state.close(qmp, &peer).await?;
    take_back_pass(qmp, mirror).await?;
    if state.bitmap(&top, CHANGES).is_some() && state.bitmap(&top, LATELY).is_some() {
        // Whoever forgot old changes may have been interrupted.
        merge(qmp, &top, CHANGES, LATELY).await?;
    }
    state.close(qmp, &mirror.source()).await?;
    for name in [BEGUN, LATELY] {
        state.forget(qmp, &top, name).await?;
    }
    tls::remove(qmp, &mirror.credentials()).await?;
    Ok(())
}

/// Closes what a mirrored disk that is gone has left open: nodes that were added since the machine's start stay when what
/// stood on them goes. While there is a mirrored disk of this id nothing happens.
///
/// # Errors
/// QEMU's own; repeating goes on.
pub async fn clear(qmp: &Qmp, id: &str) -> Result<(), QmpError> {
    let nodes = MirrorNodes::of(id);
    let open = qmp.execute(QueryNamedBlockNodes { flat: true }).await?;
    let is_open = |name: &String| open.iter().any(|node| node.node_name.as_ref() == Some(name));
    if is_open(&nodes.top()) {
        return Ok(());
    }
    for node_name in [nodes.none(), nodes.peer()].into_iter().filter(is_open) {
        qmp.execute(BlockdevDel { node_name }).await?;
    }
    Ok(())
}

async fn end_job(qmp: &Qmp, id: &str) -> Result<(), MirrorError> {
    let until = Instant::now() + END_LIMIT;
    while let Some(job) = qmp.execute(QueryJobs {}).await?.into_iter().find(|job| job.id == id) {
        if job.status == "concluded" {
            qmp.execute(JobDismiss { id: job.id }).await?;
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(MirrorError::NotEnded { what: "a pass to the copy" });
        }
        tolerated(qmp.execute(JobCancel { id: job.id }).await)?;
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// What a pass was to copy is still to be copied.
async fn take_back_pass(qmp: &Qmp, mirror: &Mirror) -> Result<(), MirrorError> {
    let state = State::look(qmp, mirror).await?;
    let (top, source) = (mirror.nodes().top(), mirror.source());
    if state.bitmap(&source, PASS).is_none() || state.bitmap(&top, CHANGES).is_none() {
        return Ok(());
    }
    let bitmaps = vec![bitmap(&source, PASS)];
    let merge = DirtyBitmapMerge { node: top, target: CHANGES.to_owned(), bitmaps };
    let actions = vec![
        TransactionAction::BlockDirtyBitmapMerge(merge),
        TransactionAction::BlockDirtyBitmapRemove(bitmap(&source, PASS)),
    ];
    qmp.execute(Transaction { actions }).await?;
    Ok(())
}

/// What is refused because it is not there, or is just going.
fn tolerated<T>(done: Result<T, QmpError>) -> Result<(), QmpError> {
    match done {
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
