//! Datacenters that fail in every way, in virtual time, each from one seed.
//!
//! Two levels: [`rules`] runs the engine of leases and fencing alone, with everything around it as a small model, a thousand
//! seeds in seconds; [`datacenter`] runs the programs, the whole controller and what of the agent holds the lease. The same
//! seed gives the same run, event by event.
//!
//! Checked in both: a protected VM never executes on two hosts, at no instant; once the faults have stopped each executes on
//! the host that the controller says; no fence stays. Of the programs also: what a person has stopped does not execute until a
//! person starts it; where disks are mirrored between hosts, no guest executes without a write that it was told is durable; no
//! operation is left over; and a host that was drained is empty.

pub mod datacenter;
mod faults;
pub mod rules;

/// A mistake built into a run, to see whether the checkers find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The controller counts on half the time.
    ShortWait,
    /// Nothing stops VMs when the lease is over.
    NoWarden,
    /// The controller goes on answering heartbeats of a host it fences as if nothing were.
    GrantsDespiteFence,
    /// Commands from before a fence count after it.
    OldCommands,
    /// Machines have no hardware watchdog behind the warden.
    NoWatchdog,
    /// A host forgets that it was told to stop a VM.
    ForgottenStop,
    /// A host goes on with a guest that it has handed over, because it hears nothing of it. Of the programs only.
    TakesBack,
    /// A host has forgotten over a restart what it has taken over. Of the programs only.
    ForgetsTaken,
    /// Guests whose disks are mirrored go on without their peers before anybody has written that down. Of the programs only.
    PartsUntold,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub planted: Option<Planted>,
    /// Print every event to standard error.
    pub trace: bool,
}
