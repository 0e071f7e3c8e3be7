//! From the adapters' errors to problem details: the class is kept, the chain of causes becomes the detail.

use std::error::Error;

use gantry_types::{ErrorClass, Problem};

/// The error and its causes, outermost first.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

/// An error that knows its class.
pub(crate) trait Classified: Error {
    fn error_class(&self) -> ErrorClass;
}

macro_rules! classes_of {
    ($class:path: $($error:ty),+ $(,)?) => { $(
        impl Classified for $error {
            fn error_class(&self) -> ErrorClass {
                use $class as Class;
                match self.class() {
                    Class::Invalid => ErrorClass::Invalid,
                    Class::Conflict => ErrorClass::Conflict,
                    Class::NotFound => ErrorClass::NotFound,
                    Class::Denied => ErrorClass::Denied,
                    Class::Transient => ErrorClass::Transient,
                    Class::Permanent => ErrorClass::Permanent,
                }
            }
        }
    )+ };
}

classes_of! {
    gantry_qemu::ErrorClass:
    gantry_qemu::qmp::QmpError,
    gantry_qemu::process::ProcessError,
    gantry_qemu::machine::MachineError,
    gantry_qemu::machine::LocateError,
    gantry_qemu::migration::MigrationError,
}
classes_of! { gantry_network::ErrorClass: gantry_network::NetworkError }

impl Classified for gantry_storage::StorageError {
    fn error_class(&self) -> ErrorClass {
        self.class()
    }
}

/// A problem about `what` (for example `VM 'web-1'`), with a stable code.
pub(crate) fn problem(code: &str, what: &str, error: &(impl Classified + 'static)) -> Problem {
    Problem::new(error.error_class(), code, format!("{what}: {}", chain(error)))
}
