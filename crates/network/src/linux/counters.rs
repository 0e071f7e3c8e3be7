//! What ports and rules have counted: one file and two listings for the whole host.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::command::{Tool, Tools, refused};
use super::tap::inside;
use crate::error::{ErrorClass, NetworkError, Result};
use crate::names::{self, Role};
use crate::plane::{PortCounters, Traffic};
use crate::ruleset::{self, Family};

/// Of the namespace of the thread that reads it.
const DEVICES: &str = "/proc/thread-self/net/dev";

pub async fn read(tools: &Tools) -> Result<Traffic> {
    let (rules, guards) = tokio::try_join!(counters(tools, Family::Inet.word()), counters(tools, "netdev"))?;
    let text = inside(tools.namespace.as_deref(), || {
        fs::read_to_string(DEVICES).map_err(|error| NetworkError::Refused {
            attempt: format!("read {DEVICES}"),
            reason: error.to_string(),
            remedy: "mount /proc".to_owned(),
            class: ErrorClass::Permanent,
        })
    })?;
    let mut taps: BTreeMap<_, _> = text.lines().filter_map(tap).collect();
    for (name, counters) in &mut taps {
        counters.spoofed_packets = guards.get(name).map_or(0, |(packets, _)| *packets);
    }
    Ok(Traffic { taps, rules })
}

/// Packets and bytes of the named counters of the family's table; of this table alone, because a listing of the rules of
/// hundreds of ports would take long.
async fn counters(tools: &Tools, family: &str) -> Result<BTreeMap<String, (u64, u64)>> {
    let (args, attempt) = (["-j", "list", "counters", "table", family, ruleset::TABLE], "read counters");
    let output = tools.run(Tool::Nft, &args, b"", attempt).await?;
    // Without groups or ports there is none.
    let is_absent = String::from_utf8_lossy(&output.stderr).contains("No such file or directory");
    if !output.status.success() && !is_absent {
        return Err(refused(Tool::Nft, attempt.to_owned(), &output));
    }
    let listing: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(ruleset::read::counters(&listing).map(|(name, packets, bytes)| (name, (packets, bytes))).collect())
}

/// A line of `/proc/net/dev` that is a tap's: name, then bytes and packets at places 0 and 1 of what it received, 8 and 9
/// of what it sent.
fn tap(line: &str) -> Option<(String, PortCounters)> {
    let (name, counters) = line.trim().split_once(':')?;
    (names::role(name) == Some(Role::Tap)).then_some(())?;
    let counters: Vec<u64> = counters.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let found = PortCounters {
        received_bytes: *counters.first()?,
        received_packets: *counters.get(1)?,
        sent_bytes: *counters.get(8)?,
        sent_packets: *counters.get(9)?,
        spoofed_packets: 0,
    };
    Some((name.to_owned(), found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_taps_are_counted() {
        let (name, counters) = tap("gt0123456789ab: 10 1 0 0 0 0 0 0 99 2 0 0 0 0 0 0").unwrap();
        assert_eq!((name.as_str(), counters.received_bytes, counters.sent_packets), ("gt0123456789ab", 10, 2));
        for other in ["  eth0: 5 1 0 0 0 0 0 0 6 2 0 0 0 0 0 0", " face |bytes", "gt0123456789ab: 1 2"] {
            assert_eq!(tap(other), None, "{other}");
        }
    }
}
