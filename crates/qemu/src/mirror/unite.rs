//! A copy that has nearly caught up takes the stand-in's place.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::catch_up::next;
use super::part::part;
use super::state::{BEGUN, State, add_child};
use super::{Mirror, MirrorError, Together};
use crate::qmp::Qmp;

/// The guest stands still for so long at most.
const UNITE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Copies the rest and pairs the two, with the guest stopped by the caller. Paired already, it is fine.
///
/// # Errors
/// QEMU's reason, and [`MirrorError::NotCaughtUp`] if there is more to copy than a rest: the disk is alone then.
pub async fn unite(qmp: &Qmp, mirror: &Mirror) -> Result<(), MirrorError> {
    match make_pair(qmp, mirror).await {
        Err(error) => part(qmp, mirror).await.and(Err(error)),
        paired => paired,
    }
}

async fn make_pair(qmp: &Qmp, mirror: &Mirror) -> Result<(), MirrorError> {
    let (top, peer) = (mirror.nodes().top(), mirror.nodes().peer());
    let state = State::look(qmp, mirror).await?;
    if state.bitmap(&top, BEGUN).is_some() {
        return Err(MirrorError::NotCaughtUp);
    }
    if !state.is_paired() {
        let until = Instant::now() + UNITE_LIMIT;
        while next(qmp, mirror, 0).await? != Together::Nearly {
            if Instant::now() >= until {
                return Err(MirrorError::NotEnded { what: "the last pass to the copy" });
            }
            sleep(LOOK_AGAIN).await;
        }
        add_child(qmp, mirror, peer).await?;
    }
    let state = State::look(qmp, mirror).await?;
    state.take_out(qmp, mirror, &mirror.nodes().none()).await?;
    state.close(qmp, &mirror.nodes().none()).await?;
    state.close(qmp, &mirror.source()).await?;
    Ok(())
}
