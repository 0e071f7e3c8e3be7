//! Opening a tap for a QEMU that may not: the descriptor is handed over (`-netdev tap,fd=N`), so QEMU needs neither
//! access to /dev/net/tun, which not every host grants, nor the namespace of the tap.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};

use crate::error::{ErrorClass, NetworkError, Result};

const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

// The kernel declares the request with the size of a C int, though it reads an ifreq.
nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<i32>()), InterfaceRequest);

/// Opens an existing tap in this or a named namespace. The descriptor closes on exec; it holds the tap until closed,
/// and a tap has one holder at a time.
pub fn open(namespace: Option<&str>, name: &str) -> Result<OwnedFd> {
    inside(namespace, || attach(name))
}

/// Does something in a named namespace, or in the process's own.
pub fn inside<T: Send>(namespace: Option<&str>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Some(namespace) = namespace else { return work() };
    let file = File::open(format!("/run/netns/{namespace}")).map_err(|source| NetworkError::Refused {
        attempt: format!("open network namespace '{namespace}'"),
        reason: source.to_string(),
        remedy: "create the network namespace, then repeat".to_owned(),
        class: ErrorClass::NotFound,
    })?;
    // Only a thread of its own may change its namespace without taking the runtime along.
    let inside = move || {
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Refused {
            attempt: format!("enter network namespace '{namespace}'"),
            reason: errno.to_string(),
            remedy: "run as root or with CAP_SYS_ADMIN".to_owned(),
            class: ErrorClass::Denied,
        })?;
        work()
    };
    std::thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(opened) => opened,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn attach(name: &str) -> Result<OwnedFd> {
    if nix::net::if_::if_nametoindex(name).is_err() {
        // TUNSETIFF would create a new device that nobody guards.
        let needed_for = "to attach a guest".to_owned();
        return Err(NetworkError::NoInterface { name: name.to_owned(), needed_for });
    }
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(|e| refused(name, e))?;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the request has the layout and size of an ifreq and outlives the call.
    unsafe { tun_set_iff(tap.as_raw_fd(), &request) }.map_err(|errno| refused(name, errno.into()))?;
    Ok(tap.into())
}

fn refused(name: &str, source: std::io::Error) -> NetworkError {
    let (class, remedy) = match source.kind() {
        ErrorKind::NotFound => (ErrorClass::Permanent, "load the tun module (modprobe tun)"),
        ErrorKind::PermissionDenied => (ErrorClass::Denied, "run as root or with CAP_NET_ADMIN"),
        ErrorKind::ResourceBusy => (ErrorClass::Conflict, "end the process that still holds the tap"),
        _ => (ErrorClass::Permanent, "apply the host's networks, then repeat"),
    };
    let attempt = format!("open tap '{name}'");
    NetworkError::Refused { attempt, reason: source.to_string(), remedy: remedy.to_owned(), class }
}
