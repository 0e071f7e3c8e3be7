//! Alarms: what their metrics are (`measured`) and which objects that is too much of ([`readings`]), what becomes of them
//! ([`turn`]), who is told ([`notices`]) and how ([`channel`]). The loops `alarm_keeper` and `notice_sender` drive it.
//!
//! An alarm's change and the notices about it are one transaction, so that nothing is told that did not happen, and
//! nothing that happened is not told, whenever the controller dies. A notice may arrive twice if it dies between sending and
//! writing that down; its name is the same then.

pub mod built_in;
pub mod channel;
mod mail;
mod measured;
pub mod notices;
pub mod readings;
mod seen;
pub mod turn;
mod webhook;
