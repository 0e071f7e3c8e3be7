//! Attaching to an existing tap device, so that QEMU gets a descriptor instead of the right to open
//! `/dev/net/tun` (see the kernel's Documentation/networking/tuntap.rst).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;

use super::ProcessError;

nix::ioctl_write_int!(tun_set_iff, b'T', 202);

/// Opens the tap `ifname` of the caller's network namespace, with the packet header that virtio-net uses.
pub fn open_tap(ifname: &str) -> Result<OwnedFd, ProcessError> {
    let failed = |source| ProcessError::Tap { ifname: ifname.to_owned(), source };
    if nix::net::if_::if_nametoindex(ifname).is_err() {
        // The kernel would make a new, temporary one.
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(failed)?;
    // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if ifname.len() >= request.ifr_name.len() {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF takes a pointer to an `ifreq`, which lives across the call.
    unsafe { tun_set_iff(tun.as_raw_fd(), &raw const request as libc::c_ulong) }
        .map_err(|errno| failed(errno.into()))?;
    Ok(tun.into())
}
