//! From the adapters' errors to problem details: the class is kept, the chain of causes becomes the detail.

use std::error::Error;

pub(crate) use gantry_hostlink::causes as chain;
use gantry_types::{ErrorClass, Problem};

/// An error that knows its class.
pub(crate) trait Classified: Error {
    fn error_class(&self) -> ErrorClass;
}

macro_rules! classified {
    ($($error:ty),+ $(,)?) => { $(
        impl Classified for $error {
            fn error_class(&self) -> ErrorClass {
                self.class()
            }
        }
    )+ };
}

classified! {
    gantry_network::NetworkError,
    gantry_qemu::backup::BackupError,
    gantry_qemu::machine::LocateError,
    gantry_qemu::machine::MachineError,
    gantry_qemu::migration::MigrationError,
    gantry_qemu::mirror::MirrorError,
    gantry_qemu::process::ProcessError,
    gantry_qemu::qmp::QmpError,
    gantry_qemu::snapshot::SnapshotError,
    gantry_qemu::volume::VolumeError,
    gantry_storage::StorageError,
}

/// A problem about `what` (for example `VM 'web-1'`), with a stable code and what to do about it.
pub(crate) fn problem(code: &str, what: &str, error: &(impl Classified + 'static)) -> Problem {
    let class = error.error_class();
    Problem::new(class, code, format!("{what}: {}", chain(error))).remedy(remedy(code, class))
}

/// What a person does about a problem with this code; without advice of its own, what its class says.
fn remedy(code: &str, class: ErrorClass) -> &'static str {
    match code {
        "disk-not-made" | "seed-not-written" => {
            "check the filesystem of this host's pool (gantry host show: is there space?), then start the VM again"
        }
        "disk-elsewhere" => "nothing is to be done: the VM is the other host's; see where it is: gantry vm show",
        "disk-in-use" => {
            "wait until the QEMU that has it open has ended; a host that is lost has to be fenced or switched off"
        }
        "lease-damaged" => "do as the message says",
        "disk-not-claimed" | "disk-not-opened" => {
            "check the filesystem of the disk's pool (gantry pool list), then repeat the command"
        }
        "disk-not-deleted" | "image-not-removed" => "check the filesystem of this host's pool, then repeat the command",
        "image-not-fetched" => {
            "check that this host reaches the controller and that its pool has space; the fetch is repeated with the command"
        }
        "image-not-found" => "check the filesystem of this host's pool",
        "no-uefi" => "install the firmware on this host (Debian: ovmf, qemu-efi-aarch64), or choose another host",
        "machine-not-possible" => "change the VM's specification as the message says",
        "qemu-not-started" => {
            "check that QEMU is installed on this host and that the host has memory and processes to spare"
        }
        "snapshot-not-taken" => {
            "check that the host's pool has space (gantry host show), then take the snapshot again; the VM goes on as before"
        }
        "snapshot-not-deleted" | "snapshots-not-read" | "snapshot-not-applied" => {
            "check the filesystem of this host's pool, then repeat the command"
        }
        "snapshot-not-loaded" => "go back to its disk only: gantry snapshot revert VM SNAPSHOT --disk-only",
        "volume-not-attached" | "volume-not-detached" => {
            "repeat the command; if it fails again, stop the VM: volumes of a stopped VM come and go without its guest"
        }
        "volume-not-moved" => {
            "the volume is whole where it was: make room in the other pool (gantry pool list), then move it again"
        }
        "copy-not-joined" => {
            "nothing is to be done: it is tried again; if it stays so, look at the other host: gantry host list"
        }
        "copy-not-parted" => "repeat the command; if it fails again, stop the VM with force and start it",
        "volume-missing" => "check the file system of the volume's pool: gantry pool list",
        "qemu-not-ended" => "look on the host for a hanging disk or filesystem, then repeat the command",
        "process-not-adopted" => "restart the agent of this host; the VM runs on meanwhile",
        "qemu-refused" | "guest-not-resumed" => {
            "repeat the command; if it fails again, stop the VM with force (gantry vm stop --force) and start it"
        }
        "tap-not-opened" => {
            "repeat the command: the VM's port is made again; if it stays so, restart this host's agent"
        }
        "networks-not-applied" | "port-not-made" | "port-not-activated" | "port-not-moved" | "port-not-removed" => {
            "check that iproute2 and nftables work on this host; the agent looks at its networks every 30 s and repairs them"
        }
        "underlay-mtu-too-small" => {
            "raise the underlay's MTU on every host and every switch between them, or lower the network's"
        }
        "no-underlay" => {
            "give this host its underlay address, or let it join again with another: gantry host join … --underlay-address"
        }
        "no-interface" => "give the network's VMs hosts that are in its LAN, or plug this one into it",
        "interface-in-use" => "give the network an interface that the host itself does not use",
        "interface-mtu-too-small" => "raise the interface's MTU on every host, or lower the network's",
        "underlay-not-checked" => "check that iproute2 works on this host, then repeat the command",
        "cannot-receive" => {
            "check this host's free memory and the ports 49152-49663 of its underlay address, then repeat"
        }
        "migration-failed" => {
            "look at both hosts, the network between them and the destination's free space, then migrate again; the VM goes on where it was"
        }
        "post-copy-not-resumed" => "check the network between the two hosts: it is tried again until they meet",
        "not-taken-over" => "nothing is to be done: the source asks again until this host answers",
        "liveness-unknown" => "look at the VM's console and at the agent's log on its host",
        _ => match class {
            ErrorClass::Invalid => "correct the request as the message says",
            ErrorClass::Conflict => "look at the object again, then repeat what is still to be done",
            ErrorClass::NotFound => "check the name, and that the object is on this host",
            ErrorClass::Denied | ErrorClass::Unauthenticated => {
                "check this host's certificates and the rights on its files"
            }
            ErrorClass::Transient => "try again; if it stays so, see the agent's log on the host",
            ErrorClass::Permanent => "see the agent's log on the host; trying again does not help",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_what_to_do() {
        let error = gantry_network::NetworkError::TimedOut { program: "ip", attempt: "look".to_owned(), limit_ms: 1 };
        let known = problem("networks-not-applied", "this host's networks", &error);
        assert!(known.remedy.unwrap().contains("nftables"));
        let other = problem("something-new", "this host", &error);
        assert!(other.is_transient() && other.remedy.unwrap().contains("try again"));
    }
}
