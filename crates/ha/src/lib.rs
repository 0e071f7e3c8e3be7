//! Decisions of high availability: who may run a protected VM, when a host is surely shut out, what is restarted when.
//!
//! Pure: no clock, no random numbers, no I/O. Time and messages come in as values, decisions go out as values; the
//! agent, the controller and the simulation drive the same code.
//!
//! ```text
//!   agent                              other members                     controller
//!   Lease ──"is there a record?"─────▶ FenceLedger ◀───"store this"───── Fencing ──proof──▶ restart::plan
//!     │  ◀─────── answer ────────────      │         ──── answer ────▶     ▲
//!     ▼                                                                    │ heartbeats stop
//!   warden stops protected VMs at Lease::deadline                        is the host lost?
//! ```
//! The one theorem everything stands on: **two majorities of the same members meet.** A host extends its own lease only
//! with a majority's word that there is no record against it ([`lease`]); the controller counts on the end of that
//! lease only after a majority, the host itself not counted, has stored the record ([`fencing`]). The member in both
//! gave its word before it stored the record, so the lease can't last longer than the controller computes.
//!
//! What the theorem needs from its surroundings, and gets nowhere else:
//! - a member's record is on its disk before it says so, and no answer that denies it leaves afterwards;
//! - clocks may be wrong and may step, but CLOCK_BOOTTIME of two machines passes equally fast within
//!   [`Timing::drift_permille`];
//! - what stops the VMs does so within [`Timing::kill_margin_ms`] of the deadline, whatever the agent does.

pub mod admission;
pub mod attempts;
pub mod fencing;
pub mod lease;
pub mod ledger;
pub mod loss;
mod moment;
pub mod probe;
pub mod reaction;
pub mod restart;
pub mod silence;
mod timing;
pub mod votes;

pub use fencing::Fencing;
pub use lease::Lease;
pub use ledger::FenceLedger;
pub use moment::Moment;
pub use timing::Timing;
