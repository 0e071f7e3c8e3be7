//! Whether the kernel shows bridged packets to the forward chains of `inet` tables: br_netfilter's settings of one
//! network namespace.

use std::fs;
use std::io::ErrorKind;

use super::tap::inside;
use crate::error::{ErrorClass, NetworkError, Result};

const SETTINGS: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];

/// A kernel without br_netfilter shows nothing.
pub fn filters_bridges(namespace: Option<&str>) -> Result<bool> {
    let is_on = |path: &str| fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
    inside(namespace, move || Ok(SETTINGS.into_iter().all(is_on)))
}

pub fn filter_bridges(namespace: Option<&str>) -> Result<()> {
    inside(namespace, || {
        for path in SETTINGS {
            fs::write(path, "1").map_err(|error| {
                let remedy = match error.kind() {
                    ErrorKind::NotFound => "load the br_netfilter module (modprobe br_netfilter)",
                    _ => "run as root, where /proc/sys can be written",
                };
                NetworkError::Refused {
                    attempt: format!("set {path} to 1, which security groups need"),
                    reason: error.to_string(),
                    remedy: remedy.to_owned(),
                    class: ErrorClass::Permanent,
                }
            })?;
        }
        Ok(())
    })
}
