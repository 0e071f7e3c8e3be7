//! Moving a running VM between hosts that share nothing, so that it never runs twice.
//!
//! ```text
//!  source                                               destination
//!                                                       receive: QEMU waits, never runs by itself
//!  send: record "sending"
//!  disks, memory ───────────────────────────────────▶
//!  guest stopped; the destination's agent answers?
//!  mirror finished, device state ───────────────────▶
//!  QEMU has given everything away
//!  record "committing" (A)
//!  ask commit, for ever ────────────────────────────▶   verdict file "committed" or "aborted" (B)
//!                                                       committed: network port, `cont`
//!  committed: record "moved", wait for release  ◀───
//!  aborted: `cont` here
//! ```
//! Before (A) the guest is the source's: whatever happens, it goes on there, and the destination has nothing it could
//! run. From (A) on the source runs it only if (B) says `aborted`. (B) is made once ([`verdicts`]). So at no moment,
//! with agents and hosts dying anywhere, do both sides run it; while the destination can't be reached between (A) and
//! (B), neither does.

mod convergence;
mod destination;
mod sending;
mod source;
mod verdicts;

pub(crate) use destination::{decide_unknown, settled_report};
pub(crate) use source::SendingTask;
pub(crate) use verdicts::Verdicts;
