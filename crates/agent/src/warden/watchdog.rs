//! The hardware watchdog, if this machine has one and nobody else uses it: petted by the warden for as long as it guards
//! something, disarmed when it guards nothing (Documentation/watchdog/watchdog-api.rst of the kernel).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

const DEVICE: &str = "/dev/watchdog";
/// Unpetted for so long, it resets the machine. The kernel's own choice may be a minute. Five of the warden's looks are missed then,
/// and its agent has not started another one: a machine that is only slow is not reset.
const TIMEOUT_S: nix::libc::c_int = 5;

// linux/watchdog.h: WDIOC_SETTIMEOUT. The driver writes back what it has made of the wish.
nix::ioctl_readwrite!(set_timeout, b'W', 6, nix::libc::c_int);

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
            Ok(file) => {
                match ask_for_timeout(&file) {
                    Ok(TIMEOUT_S) => {}
                    Ok(other) => {
                        eprintln!("warden: its watchdog resets the machine after {other} s, not {TIMEOUT_S} s")
                    }
                    Err(error) => eprintln!("warden: its watchdog's timeout stays what it was: {error}"),
                }
                self.armed = Some(file);
            }
            Err(error) => {
                self.missing = true;
                eprintln!("warden: no hardware watchdog behind it ({}: {error})", device.display());
            }
        }
    }
}

/// What it is afterwards, in seconds: not every watchdog can do as short a time.
fn ask_for_timeout(device: &File) -> nix::Result<nix::libc::c_int> {
    let mut seconds = TIMEOUT_S;
    // SAFETY: the driver reads and writes one int, which outlives the call.
    unsafe { set_timeout(device.as_raw_fd(), &raw mut seconds) }?;
    Ok(seconds)
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

    #[test]
    fn a_watchdog_whose_time_can_not_be_set_guards_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watchdog");
        std::fs::write(&path, b"").unwrap();
        let refused = ask_for_timeout(&File::open(&path).unwrap());
        assert_eq!(refused, Err(nix::errno::Errno::ENOTTY));
        let mut watchdog = Watchdog::default();
        watchdog.arm(&path);
        assert!(watchdog.armed.is_some());
    }
}
