//! Whose a VM's own disk in an export is.
//!
//! ```text
//! <export>/<uuid>.lease-<n>   {"host": "host-1", "epoch": 3, "generation": n, "user": 1234567890}
//! ```
//! The lease with the highest generation counts. A new one appears whole, under a name that can be taken once (LINK, RFC 1813
//! 3.3.15): of two hosts that claim a disk at the same moment one fails. Those before it are removed, the oldest first.
//!
//! There are no locks. What makes a lease true is the server: the disk's file is given to the lease's *user*, whom nobody
//! was before, and only the QEMU of the host that made the lease says that it is this user. Users of processes would not do:
//! each host counts its own. So a host that has lost a disk, and all that it ever started, can't read or write one block more,
//! whether it knows of that or not.

use std::io;

use gantry_types::Name;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::session::{Entry, Handle, Session};
use super::{FRESH_USERS, HEADER_BYTES, ROOT, file_of};
use crate::lease::{Claim, Lease};

/// Others that claim the same disk meanwhile; more is no accident.
const OVERTAKEN_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NfsLease {
    pub host: Name,
    pub epoch: u64,
    pub generation: u64,
    /// Whom the server takes this host's QEMU for.
    pub user: u32,
}

impl NfsLease {
    pub fn lease(&self) -> Lease {
        Lease { host: self.host.clone(), epoch: self.epoch, generation: self.generation }
    }
}

fn name_of(disk: Uuid, generation: u64) -> String {
    format!("{}.lease-{generation}", disk.as_hyphenated())
}

/// The disk and the generation that a name is of.
fn lease_in(name: &str) -> Option<(Uuid, u64)> {
    let (disk, generation) = name.split_once(".lease-")?;
    Some((Uuid::try_parse(disk).ok()?, generation.parse().ok()?))
}

/// Why a lease is not known.
#[derive(Debug)]
pub(super) enum LeaseError {
    Damaged { name: String, reason: String },
    Io(io::Error),
}

impl From<io::Error> for LeaseError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn generations(session: &mut Session, disk: Uuid) -> io::Result<Vec<u64>> {
    let entries = session.list().await?;
    let leases = entries.iter().filter_map(|entry| lease_in(&entry.name));
    let mut found: Vec<_> = leases.filter(|(of, _)| *of == disk).map(|(_, generation)| generation).collect();
    found.sort_unstable();
    Ok(found)
}

/// `None` if nobody has claimed the disk.
pub(super) async fn read(session: &mut Session, disk: Uuid) -> Result<Option<NfsLease>, LeaseError> {
    for _ in 0..OVERTAKEN_MAX {
        let Some(last) = generations(session, disk).await?.pop() else { return Ok(None) };
        let name = name_of(disk, last);
        // One that is gone by now was followed by another.
        let Some((file, _)) = session.find(&name).await? else { continue };
        let text = match session.read(&file, HEADER_BYTES).await {
            Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => continue,
            text => text?,
        };
        let lease = serde_json::from_slice::<NfsLease>(&text).map_err(|error| error.to_string());
        let lease = lease.and_then(|lease| match lease.generation == last {
            true => Ok(lease),
            false => Err(format!("it is of generation {}", lease.generation)),
        });
        return lease.map(Some).map_err(|reason| LeaseError::Damaged { name, reason });
    }
    Err(io::Error::other("its leases change all the time").into())
}

/// Writes the lease that follows the last one; [`io::ErrorKind::AlreadyExists`] if another host was faster.
pub(super) async fn append(session: &mut Session, disk: Uuid, lease: &NfsLease) -> io::Result<()> {
    let text = serde_json::to_vec(lease)?;
    session.publish(&name_of(disk, lease.generation), &text, ROOT).await
}

/// Removes those before this one.
pub(super) async fn remove_before(session: &mut Session, disk: Uuid, generation: u64) -> io::Result<()> {
    for old in generations(session, disk).await?.into_iter().filter(|old| *old < generation) {
        session.remove(&name_of(disk, old)).await?;
    }
    Ok(())
}

/// Of a disk that is gone.
pub(super) async fn remove_all(session: &mut Session, disk: Uuid) -> io::Result<()> {
    remove_before(session, disk, u64::MAX).await
}

/// The disk belongs to the user of its last lease, whoever claims it meanwhile; `alone`: and nobody else has it. `None` if it
/// has no lease.
pub(super) async fn settle(
    session: &mut Session,
    disk: Uuid,
    file: &Handle,
    alone: bool,
) -> Result<Option<NfsLease>, LeaseError> {
    for _ in 0..OVERTAKEN_MAX {
        let Some(lease) = read(session, disk).await? else { return Ok(None) };
        let attributes = session.attributes(file).await?;
        let is_alone = (attributes.gid, attributes.mode & 0o777) == (lease.user, 0o600);
        if attributes.uid != lease.user || (alone && !is_alone) {
            session.give(file, lease.user).await?;
        }
        if read(session, disk).await?.as_ref() == Some(&lease) {
            return Ok(Some(lease));
        }
    }
    Err(io::Error::other("its leases change all the time").into())
}

/// Whom the server is to take a QEMU for that opens a disk which another host has, to get it later: the same whenever it is
/// asked, as long as that host has it.
pub(super) fn arriving_user(disk: Uuid, claim: &Claim, last: Option<&NfsLease>) -> u32 {
    let name = format!("{}/{}", claim.host, claim.epoch);
    let user = FRESH_USERS | (Uuid::new_v5(&disk, name.as_bytes()).as_fields().0 & (FRESH_USERS - 1));
    if last.is_some_and(|last| last.user == user) { user ^ 1 } else { user }
}

/// Removes leases of disks that are gone: their deletion was interrupted.
pub(super) async fn sweep(session: &mut Session, entries: &[Entry]) -> io::Result<()> {
    for entry in entries {
        // Looked for once more: a disk is there before its first lease.
        if let Some((disk, _)) = lease_in(&entry.name)
            && session.find(&file_of(disk)).await?.is_none()
        {
            session.remove(&entry.name).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_disk_and_generation_and_nothing_else_is_a_lease() {
        let disk = Uuid::from_u128(7);
        assert_eq!(lease_in(&name_of(disk, 12)), Some((disk, 12)));
        for other in [file_of(disk), format!("{disk}.lease-"), format!("{disk}.lease"), "x.lease-1".to_owned()] {
            assert_eq!(lease_in(&other), None, "{other}");
        }
    }

    #[test]
    fn who_arrives_is_the_same_user_each_time_and_never_the_one_that_has_the_disk() {
        let disk = Uuid::from_u128(7);
        let claim = |host: &str, epoch| Claim { host: host.parse().unwrap(), epoch };
        let user = arriving_user(disk, &claim("host-2", 4), None);
        assert_eq!(user, arriving_user(disk, &claim("host-2", 4), None));
        assert!(user & FRESH_USERS != 0 && i32::try_from(user).is_ok());
        assert_ne!(user, arriving_user(disk, &claim("host-2", 5), None));
        let held = NfsLease { host: "host-1".parse().unwrap(), epoch: 3, generation: 1, user };
        assert_ne!(user, arriving_user(disk, &claim("host-2", 4), Some(&held)));
    }
}
