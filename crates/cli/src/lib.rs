//! The command line of Gantry, and the client that it, the tests and the benchmarks share.

pub mod client;
pub mod context;
