//! Whether post-copy works for a QEMU without privileges. The destination learns of missing pages through
//! userfaultfd, also for faults the kernel itself takes on the guest's behalf, which the kernel gives to
//! unprivileged processes only if told to (Documentation/admin-guide/mm/userfaultfd.rst).

use std::io;

use crate::qmp::QemuVersion;

const SYSCTL: &str = "/proc/sys/vm/unprivileged_userfaultfd";
const DEVICE: &str = "/dev/userfaultfd";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostcopySupport {
    Available,
    /// [`enable_unprivileged_userfaultfd`] would make it available.
    NeedsSysctl,
    Unavailable {
        reason: String,
    },
}

/// Whether a QEMU of `version`, running as an unprivileged user, can receive by post-copy.
pub fn postcopy_support(version: &QemuVersion) -> PostcopySupport {
    // From 8.1 on QEMU opens the device node if its user may.
    if version.major > 8 || (version.major == 8 && version.minor >= 1) {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(DEVICE).map(|m| m.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o006 == 0o006) {
            return PostcopySupport::Available;
        }
    }
    match std::fs::read_to_string(SYSCTL) {
        Ok(value) if value.trim() == "1" => PostcopySupport::Available,
        Ok(_) => PostcopySupport::NeedsSysctl,
        Err(error) => PostcopySupport::Unavailable {
            reason: format!("this kernel does not offer userfaultfd to unprivileged processes ({SYSCTL}: {error})"),
        },
    }
}

/// Sets `vm.unprivileged_userfaultfd`, for the whole machine and until it restarts.
pub fn enable_unprivileged_userfaultfd() -> io::Result<()> {
    std::fs::write(SYSCTL, "1\n")
}
