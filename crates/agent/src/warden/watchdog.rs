//! The hardware watchdog, if this machine has one and nobody else uses it: petted by the warden for as long as it guards
//! something, disarmed when it guards nothing (Documentation/watchdog/watchdog-api.rst of the kernel).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

const DEVICE: &str = "/dev/watchdog";

/// Armed while there is something to guard.
#[derive(Default)]
pub(super) struct Watchdog {
    armed: Option<File>,
    /// It could not be opened: said once.
    missing: bool,
}

impl Watchdog {
    /// Called at least every second.
    pub fn look_after(&mut self, guards_something: bool) {
        match (&mut self.armed, guards_something) {
            (None, true) if !self.missing => self.arm(Path::new(DEVICE)),
            (Some(device), true) => {
                if let Err(error) = device.write_all(b"\0") {
                    eprintln!("warden: the watchdog can't be petted: {error}");
                }
            }
            (Some(device), false) => {
                // The magic close: it is not to reset a machine that has nothing to lose.
                if let Err(error) = device.write_all(b"V") {
                    eprintln!("warden: the watchdog can't be disarmed: {error}");
                }
                self.armed = None;
            }
            (None, _) => {}
        }
    }

    fn arm(&mut self, device: &Path) {
        match OpenOptions::new().write(true).open(device) {
            Ok(file) => self.armed = Some(file),
            Err(error) => {
                self.missing = true;
                eprintln!("warden: no hardware watchdog behind it ({}: {error})", device.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_petted_and_disarmed_in_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watchdog");
        std::fs::write(&path, b"").unwrap();
        let mut watchdog = Watchdog::default();
        watchdog.arm(&path);
        watchdog.look_after(true);
        watchdog.look_after(true);
        watchdog.look_after(false);
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0V");
        assert!(watchdog.armed.is_none());
    }
}
