//! From the adapters' errors to problem details: the class is kept, the chain of causes becomes the detail.

use std::error::Error;

pub(crate) use gantry_hostlink::causes as chain;
use gantry_types::{ErrorClass, Problem};

/// An error that knows its class.
pub(crate) trait Classified: Error {
    fn error_class(&self) -> ErrorClass;
}

macro_rules! classified {
    ($($error:ty),+ $(,)?) => { $(
        impl Classified for $error {
            fn error_class(&self) -> ErrorClass {
                self.class()
            }
        }
    )+ };
}

classified! {
    gantry_network::NetworkError,
    gantry_qemu::machine::LocateError,
    gantry_qemu::machine::MachineError,
    gantry_qemu::migration::MigrationError,
    gantry_qemu::process::ProcessError,
    gantry_qemu::qmp::QmpError,
    gantry_storage::StorageError,
}

/// A problem about `what` (for example `VM 'web-1'`), with a stable code.
pub(crate) fn problem(code: &str, what: &str, error: &(impl Classified + 'static)) -> Problem {
    Problem::new(error.error_class(), code, format!("{what}: {}", chain(error)))
}
