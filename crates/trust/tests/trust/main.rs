//! The crate seen from outside, as one test binary: certificates and files, transport, QEMU.

mod certificates;
mod installation;
mod qemu;
mod transport;
