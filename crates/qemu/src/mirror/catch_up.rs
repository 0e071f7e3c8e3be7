//! A copy catches up: all of the disk if it must be, then what was written meanwhile, again and again.
//!
//! ```text
//!  connected -- All --> whole job (BEGUN notes what is written) --> BEGUN becomes CHANGES --+
//!       +------ Changed (CHANGES is there) ------------------------------------------------>+--> nearly
//!                                                        pass: CHANGES moves to PASS <------+
//!                                                        and is copied, then that is gone --^
//! ```

use super::connect::{check_answers, connect};
use super::part::part;
use super::state::{BEGUN, CHANGES, PASS, State, bitmap, noting, open_source};
use super::{Catch, Mirror, MirrorError, NEARLY_BYTES, Peer, Together};
use crate::qmp::command::{
    BackupBitmap, BitmapMode, BlockJobCancel, BlockdevBackup, BlockdevMirror, DirtyBitmapMerge, JobDismiss, JobInfo,
    MirrorCopyMode, MirrorSync, Transaction, TransactionAction,
};
use crate::qmp::{Qmp, QmpError};

/// Begins to catch up, or takes it a step further; to be called again and again.
///
/// # Errors
/// QEMU's reason if it can't go on: the disk is alone then, and the next call begins anew. [`MirrorError::NothingNoted`] if only
/// changes are to be copied and this QEMU does not know them.
pub async fn advance(qmp: &Qmp, mirror: &Mirror, peer: &Peer, catch: Catch) -> Result<Together, MirrorError> {
    let state = State::look(qmp, mirror).await?;
    if state.is_paired() {
        return Ok(Together::Paired);
    }
    match begin(qmp, mirror, peer, catch, &state).await {
        Ok(()) => {}
        Err(error) => return part(qmp, mirror).await.and(Err(error)),
    }
    match next(qmp, mirror, NEARLY_BYTES).await {
        Err(error) => part(qmp, mirror).await.and(Err(error)),
        step => step,
    }
}

/// Connects, if it is not yet. Which bitmap is there says from then on what is to be copied.
async fn begin(qmp: &Qmp, mirror: &Mirror, peer: &Peer, catch: Catch, state: &State) -> Result<(), MirrorError> {
    let top = mirror.nodes().top();
    if state.has_node(&mirror.nodes().peer()) {
        return Ok(());
    }
    check_answers(peer).await?;
    match catch {
        Catch::All => {
            let mut actions = Vec::new();
            if state.bitmap(&top, CHANGES).is_some() {
                actions.push(TransactionAction::BlockDirtyBitmapRemove(bitmap(&top, CHANGES)));
            }
            if state.bitmap(&top, BEGUN).is_none() {
                actions.push(TransactionAction::BlockDirtyBitmapAdd(noting(&top, BEGUN)));
            }
            qmp.execute(Transaction { actions }).await?;
        }
        Catch::Changed if state.bitmap(&top, CHANGES).is_none() => return Err(MirrorError::NothingNoted),
        Catch::Changed => state.forget(qmp, &top, BEGUN).await?,
    }
    connect(qmp, mirror, peer).await
}

/// The next step of a copy that is connected: it has caught up when no more than `enough_bytes` are left.
pub(super) async fn next(qmp: &Qmp, mirror: &Mirror, enough_bytes: u64) -> Result<Together, MirrorError> {
    let (top, peer) = (mirror.nodes().top(), mirror.nodes().peer());
    loop {
        let state = State::look(qmp, mirror).await?;
        if !state.has_node(&peer) {
            return Err(MirrorError::NotCaughtUp);
        }
        if state.child(&peer).is_some() {
            // It was about to be paired. What was written since is noted.
            state.take_out(qmp, mirror, &peer).await?;
            continue;
        }
        if !state.has_node(&mirror.source()) {
            open_source(qmp, mirror).await?;
            continue;
        }
        if let Some(job) = state.job(&mirror.whole_job()) {
            match whole_step(qmp, mirror, &state, job).await? {
                Some(catching) => return Ok(catching),
                None => continue,
            }
        }
        if let Some(job) = state.job(&mirror.pass_job()) {
            if let Some(catching) = progress(job)? {
                return Ok(catching);
            }
            state.forget(qmp, &mirror.source(), PASS).await?;
            qmp.execute(JobDismiss { id: mirror.pass_job() }).await?;
            continue;
        }
        if state.bitmap(&top, BEGUN).is_some() {
            begin_whole(qmp, mirror).await?;
            continue;
        }
        let changes = state.bitmap(&top, CHANGES).ok_or(MirrorError::NothingNoted)?;
        if changes.count <= enough_bytes {
            return Ok(Together::Nearly);
        }
        begin_pass(qmp, mirror).await?;
    }
}

/// `None` if the job is done.
fn progress(job: &JobInfo) -> Result<Option<Together>, MirrorError> {
    match (&job.error, job.status.as_str()) {
        (Some(reason), "concluded") => Err(MirrorError::Copy { reason: reason.clone() }),
        (None, "concluded") => Ok(None),
        _ => Ok(Some(Together::Catching { done_bytes: job.current_progress, total_bytes: job.total_progress })),
    }
}

async fn whole_step(qmp: &Qmp, mirror: &Mirror, state: &State, job: &JobInfo) -> Result<Option<Together>, MirrorError> {
    if let Some(catching) = progress(job)? {
        if job.status == "ready" {
            // Its work is done, and it would go on for ever.
            match qmp.execute(BlockJobCancel { device: mirror.whole_job(), force: false }).await {
                Ok(_) | Err(QmpError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(Some(catching));
    }
    let top = mirror.nodes().top();
    if state.bitmap(&top, BEGUN).is_some() {
        let (node, target, bitmaps) = (top.clone(), CHANGES.to_owned(), vec![bitmap(&top, BEGUN)]);
        let actions = vec![
            TransactionAction::BlockDirtyBitmapAdd(noting(&top, CHANGES)),
            TransactionAction::BlockDirtyBitmapMerge(DirtyBitmapMerge { node, target, bitmaps }),
            TransactionAction::BlockDirtyBitmapRemove(bitmap(&top, BEGUN)),
        ];
        qmp.execute(Transaction { actions }).await?;
    }
    qmp.execute(JobDismiss { id: mirror.whole_job() }).await?;
    Ok(None)
}

/// A mirror, although nobody writes to what it reads: unlike a backup, it leaves out what is empty.
async fn begin_whole(qmp: &Qmp, mirror: &Mirror) -> Result<(), QmpError> {
    qmp.execute(BlockdevMirror {
        job_id: mirror.whole_job(),
        device: mirror.source(),
        target: mirror.nodes().peer(),
        sync: MirrorSync::Full,
        copy_mode: MirrorCopyMode::Background,
        speed: 0,
        replaces: None,
        filter_node_name: None,
        auto_finalize: true,
        auto_dismiss: false,
    })
    .await?;
    Ok(())
}

/// What is written from now on is for the next pass.
async fn begin_pass(qmp: &Qmp, mirror: &Mirror) -> Result<(), QmpError> {
    let (top, source) = (mirror.nodes().top(), mirror.source());
    let merge =
        DirtyBitmapMerge { node: source.clone(), target: PASS.to_owned(), bitmaps: vec![bitmap(&top, CHANGES)] };
    let actions = vec![
        TransactionAction::BlockDirtyBitmapAdd(noting(&source, PASS)),
        TransactionAction::BlockDirtyBitmapMerge(merge),
        TransactionAction::BlockDirtyBitmapClear(bitmap(&top, CHANGES)),
        TransactionAction::BlockdevBackup(BlockdevBackup {
            job_id: mirror.pass_job(),
            device: source,
            target: mirror.nodes().peer(),
            sync: MirrorSync::Bitmap,
            bitmap: Some(BackupBitmap { bitmap: PASS.to_owned(), bitmap_mode: BitmapMode::Never }),
            auto_dismiss: false,
        }),
    ];
    qmp.execute(Transaction { actions }).await?;
    Ok(())
}
