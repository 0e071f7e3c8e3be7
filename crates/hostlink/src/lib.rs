//! How a controller and a host talk: [`gantry_api::AgentApi`] over HTTP with mutual TLS.
//!
//! Client and server side stand side by side so that they can't disagree. The crate also holds a host in memory
//! ([`fake`]) and the [`conformance`] suite that it and the real agent have to pass. It decides nothing: what a call
//! means is the agent's business, when to make it is the controller's.

mod backup_client;
mod backup_conformance;
mod backup_router;
mod client;
pub mod conformance;
pub mod fake;
mod fencing;
mod mirror_client;
mod mirror_conformance;
mod mirror_router;
mod relocation_client;
mod relocation_conformance;
mod relocation_router;
mod reply;
mod router;
mod storage_client;
mod storage_conformance;
mod storage_router;

pub use client::AgentClient;
pub use fencing::stale as stale_fence;
pub use reply::{Refusal, RefusedAs, answer, causes, checked, done};
pub use router::{Console, Content, Exported, Streams, router};
