//! What passes a port, as a pcap file: everything its tap carries, both ways, as the guest sees it.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, recv, socket};
use tokio::sync::mpsc;

use super::announce::link_address;
use super::tap::inside;
use crate::error::{ErrorClass, NetworkError, Result};
use crate::plane::{CaptureLimits, PCAP_HEADER};

/// How many records wait for a slow reader.
const AHEAD: usize = 256;
/// How soon a reader that is gone is noticed.
const LOOK_MS: u16 = 200;

/// Captures until a limit is reached or the receiver is dropped.
pub fn start(namespace: Option<&str>, device: &str, limits: CaptureLimits) -> Result<mpsc::Receiver<Vec<u8>>> {
    let refused = |errno: nix::Error| NetworkError::Refused {
        attempt: format!("capture what passes '{device}'"),
        reason: errno.to_string(),
        remedy: "run as root or with CAP_NET_RAW".to_owned(),
        class: ErrorClass::Permanent,
    };
    let socket = inside(namespace, || {
        let index = nix::net::if_::if_nametoindex(device).map_err(|_| NetworkError::NoInterface {
            name: device.to_owned(),
            needed_for: "to capture what passes it".to_owned(),
        })?;
        // It hears nothing before it is bound to the one device.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(refused)?;
        let address = link_address(index, libc::ETH_P_ALL as u16).ok_or_else(|| refused(nix::Error::EINVAL))?;
        bind(socket.as_raw_fd(), &address).map_err(refused)?;
        Ok(socket)
    })?;
    let (records, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let until = Instant::now() + limits.time;
        let mut left = limits.bytes.saturating_sub(PCAP_HEADER.len() as u64);
        let mut frame = vec![0; 1 << 16];
        if records.blocking_send(PCAP_HEADER.to_vec()).is_err() {
            return;
        }
        while Instant::now() < until && !records.is_closed() {
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(LOOK_MS)).is_err() {
                continue;
            }
            while let Ok(length) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                let record = record(&frame[..length]);
                let Some(rest) = left.checked_sub(record.len() as u64) else { return };
                left = rest;
                if records.blocking_send(record).is_err() {
                    return;
                }
            }
        }
    });
    Ok(receiver)
}

fn record(frame: &[u8]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let length = frame.len() as u32;
    let mut record = Vec::with_capacity(frame.len() + 16);
    for field in [now.as_secs() as u32, now.subsec_micros(), length, length] {
        record.extend(field.to_le_bytes());
    }
    record.extend(frame);
    record
}
