//! Puts the data plane back when somebody else has changed it: a reload of the host's own firewall, for one, removes the
//! guards of every VM. What was changed is a warning in the log; a failure is logged once and tried again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::networks::Networks;

/// For so long a guest may be without its guard.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

pub(crate) async fn run(networks: &Networks, interval: Duration, shutdown: CancellationToken) {
    let mut works = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shutdown.cancelled() => return,
        }
        match networks.repair().await {
            Ok(repair) => {
                works = true;
                if repair.was_tampered_with {
                    let repaired = repair.changes.join("; ");
                    tracing::warn!(
                        repaired,
                        "the networks of this host were changed by somebody else and are repaired"
                    );
                } else if !repair.changes.is_empty() {
                    tracing::debug!(changes = repair.changes.join("; "), "the networks of this host are tidied up");
                }
            }
            Err(error) => {
                if works {
                    tracing::warn!(%error, "the networks of this host can't be checked, trying again");
                }
                works = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::Arc;
    use std::time::Instant;

    use gantry_api::agent::NicAssignment;
    use gantry_network::{LinuxDataPlane, tap_name};
    use gantry_types::MacAddress;
    use uuid::Uuid;

    use crate::networks::Place;

    fn command(line: &str) -> bool {
        let mut words = line.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        output.status.success()
    }

    fn nic() -> NicAssignment {
        NicAssignment {
            port: Uuid::from_u128(7 << 80),
            network: "lan".parse().unwrap(),
            vni: 4243,
            mtu: 1400,
            mac: MacAddress::qemu([0, 0, 7]),
            address: "192.168.1.7".parse().unwrap(),
            prefix_length: 24,
            gateway: None,
            dns: Vec::new(),
            more_addresses: Vec::new(),
            dhcp: false,
            interface: None,
        }
    }

    /// In a network namespace of this thread: everything runs on it, and its children inherit the namespace.
    #[tokio::test]
    async fn guards_and_entries_removed_by_hand_come_back() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
        assert!(command("ip link add under type bridge") && command("ip addr add 10.0.0.1/24 dev under"));
        assert!(command("ip link set under up"));
        let directory = tempfile::tempdir().unwrap();
        let plane = Arc::new(LinuxDataPlane::current());
        let networks = Networks::open(plane, "10.0.0.1".parse().unwrap(), directory.path()).unwrap();
        networks.ensure(Uuid::from_u128(1), &[nic()], 200_001, Place::Here).await.unwrap();
        let guard = format!("nft list chain netdev gantry {}", tap_name(nic().port));
        assert!(command(&guard));

        let shutdown = CancellationToken::new();
        let watched = run(&networks, Duration::from_millis(50), shutdown.clone());
        let tamper = async {
            for damage in [
                "nft flush ruleset".to_owned(),
                format!("bridge fdb del {} dev {} master static", nic().mac, tap_name(nic().port)),
            ] {
                assert!(command(&damage), "{damage}");
                let begun = Instant::now();
                while !is_whole(&guard) {
                    assert!(begun.elapsed() < Duration::from_secs(30), "not repaired: {damage}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            shutdown.cancel();
        };
        tokio::join!(watched, tamper);
    }

    fn is_whole(guard: &str) -> bool {
        let entries = Command::new("bridge").args(["fdb", "show", "dev", &tap_name(nic().port)]).output().unwrap();
        command(guard) && String::from_utf8_lossy(&entries.stdout).contains(&nic().mac.to_string())
    }
}
