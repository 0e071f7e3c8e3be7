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
//!
//! After a commit in post-copy the source still sends memory. If that is interrupted, the destination's QEMU is made to
//! listen again ([`interruption`]), and the source, which asks for it in the destination's report, goes on there, as
//! often as it takes. Meanwhile the guest stands still; what it needs is on both hosts, so neither is released.

mod convergence;
mod copying;
mod destination;
mod interruption;
mod sending;
mod source;
mod verdicts;
mod watch;

pub(crate) use destination::{decide_unknown, settled_report};
pub(crate) use interruption::Interrupted;
pub(crate) use source::{SendingTask, write_credentials};
pub(crate) use verdicts::Verdicts;
