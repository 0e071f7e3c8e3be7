//! Whose a disk is, written down beside it: what keeps two hosts that reach one pool from using one disk.
//!
//! ```text
//! <pool>/disks/<uuid>.lease   {"host": "host-1", "epoch": 3, "generation": 2}: replaced as a whole, never changed in place
//! <pool>/disks/<uuid>.qcow2   byte [`LOCK_BYTE`] of it is locked for as long as somebody has a [`DiskHold`]
//! ```
//! The lease says for good whose the disk is; the lock, which ends with its process, that somebody is at work. The lock is on
//! the disk and not on the lease, because that is replaced. It is an open file description lock (fcntl(2)), which file
//! systems that hosts share carry between hosts; it makes claims come one after the other.
//!
//! Only a higher epoch takes a disk from another host, and only while neither a [`DiskHold`] nor a QEMU that writes is
//! left there: who gives higher epochs out has made sure of that, and here it is looked for once more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_types::Name;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::blocking::blocking;
use crate::disk::path_in;
use crate::error::StorageError;
use crate::staging::sync_dir;

/// QEMU locks bytes 100 to 263 of its images, `qemu-img` the same (QEMU, block/file-posix.c).
const LOCK_BYTE: libc::off_t = 1000;
/// Locked by each QEMU that may write to the image.
const QEMU_WRITES_BYTE: libc::off_t = 101;

/// Whose a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    pub host: Name,
    /// The VM's, when that host got it.
    pub epoch: u64,
    /// Grows with every change.
    pub generation: u64,
}

/// Who wants a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub host: Name,
    pub epoch: u64,
}

/// The disk is ours, and nobody else gets it while this is kept.
#[derive(Debug)]
pub struct DiskHold {
    pub lease: Lease,
    /// Its lock goes with it, where there are locks.
    pub(crate) _disk: Option<File>,
}

/// What a claim means for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is the claimer's as it stands.
    Keep,
    /// The claimer's own, at a higher epoch; or nobody's.
    Renew,
    Overtake,
    Refuse,
}

pub(crate) fn judge(lease: Option<&Lease>, claim: &Claim) -> Judgement {
    let Some(lease) = lease else { return Judgement::Renew };
    match (lease.host == claim.host, lease.epoch.cmp(&claim.epoch)) {
        (_, std::cmp::Ordering::Greater) | (false, std::cmp::Ordering::Equal) => Judgement::Refuse,
        (true, std::cmp::Ordering::Equal) => Judgement::Keep,
        (true, std::cmp::Ordering::Less) => Judgement::Renew,
        (false, std::cmp::Ordering::Less) => Judgement::Overtake,
    }
}

/// The leases of the disks in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    directory: PathBuf,
}

impl Leases {
    pub(crate) fn of(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, disk: Uuid) -> PathBuf {
        self.directory.join(format!("{}.lease", disk.as_hyphenated()))
    }

    /// `None` if nobody has claimed the disk.
    pub(crate) fn read(&self, disk: Uuid) -> Result<Option<Lease>, StorageError> {
        let path = self.path(disk);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|source| StorageError::LeaseDamaged {
                disk,
                path,
                reason: source.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("reading", &path)(error)),
        }
    }

    /// Makes the disk the claimer's, or finds that it is.
    ///
    /// # Errors
    /// [`StorageError::DiskElsewhere`] if it is another host's at the same or a higher epoch, or this host's at a higher;
    /// [`StorageError::DiskInUse`] if it would be, but somebody has it open. Nothing is changed then.
    pub(crate) fn claim(&self, disk: Uuid, claim: &Claim) -> Result<DiskHold, StorageError> {
        self.claim_as(disk, claim, false)
    }

    /// `open_here`: a QEMU of whoever claims may write to it already.
    fn claim_as(&self, disk: Uuid, claim: &Claim, open_here: bool) -> Result<DiskHold, StorageError> {
        let path = path_in(&self.directory, disk);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StorageError::DiskMissing { disk },
            _ => StorageError::io("opening disk", &path)(error),
        })?;
        // Epochs only rise: who comes too late now comes too late after the lock as well, and need not wait for it.
        self.expect_claimable(disk, claim)?;
        let in_use =
            || StorageError::DiskInUse { disk, holder: self.read(disk).ok().flatten().map(|lease| lease.host) };
        if !lock(&file).map_err(StorageError::io("locking disk", &path))? {
            return Err(in_use());
        }
        // One that was deleted, and perhaps made anew, before it was locked.
        let there = fs::metadata(&path).map_err(|_| StorageError::DiskMissing { disk })?;
        let opened = file.metadata().map_err(StorageError::io("reading disk", &path))?;
        if (there.dev(), there.ino()) != (opened.dev(), opened.ino()) {
            return Err(in_use());
        }
        let (judgement, found) = self.expect_claimable(disk, claim)?;
        if judgement == Judgement::Overtake
            && !open_here
            && qemu_writes(&file).map_err(StorageError::io("looking at", &path))?
        {
            return Err(in_use());
        }
        let lease = match (judgement, found) {
            (Judgement::Keep, Some(lease)) => lease,
            (_, found) => {
                let generation = found.map_or(0, |lease| lease.generation) + 1;
                let lease = Lease { host: claim.host.clone(), epoch: claim.epoch, generation };
                let path = self.path(disk);
                self.write(&path, &lease).map_err(StorageError::io("writing", &path))?;
                lease
            }
        };
        Ok(DiskHold { lease, _disk: Some(file) })
    }

    fn expect_claimable(&self, disk: Uuid, claim: &Claim) -> Result<(Judgement, Option<Lease>), StorageError> {
        let found = self.read(disk)?;
        match (judge(found.as_ref(), claim), found) {
            (Judgement::Refuse, Some(lease)) => {
                Err(StorageError::DiskElsewhere { disk, host: lease.host, epoch: lease.epoch })
            }
            judged => Ok(judged),
        }
    }

    /// Appears whole or not at all; only whoever has the lock writes.
    fn write(&self, path: &Path, lease: &Lease) -> io::Result<()> {
        let mut fresh = tempfile::Builder::new().prefix(".lease-").tempfile_in(&self.directory)?;
        fresh.write_all(&serde_json::to_vec(lease)?)?;
        fresh.as_file().sync_all()?;
        fresh.persist(path)?;
        sync_dir(&self.directory)
    }

    /// Takes the lease of a disk that is gone away.
    pub(crate) fn remove(&self, disk: Uuid) -> Result<(), StorageError> {
        let path = self.path(disk);
        match fs::remove_file(&path).and_then(|()| sync_dir(&self.directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("removing", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn write_lock_of(byte: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        // As fcntl(2) demands of these locks.
        l_pid: 0,
    }
}

/// `false` if somebody else has it.
fn lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&write_lock_of(LOCK_BYTE))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a program of QEMU's has this file open for writing.
pub(crate) fn qemu_writes(file: &File) -> io::Result<bool> {
    let mut found = write_lock_of(QEMU_WRITES_BYTE);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(found.l_type != libc::F_UNLCK as libc::c_short)
}

impl crate::pool::DirPool {
    /// Whose a disk is; `None` if nobody has claimed it.
    pub async fn lease(&self, disk: Uuid) -> Result<Option<Lease>, StorageError> {
        let leases = self.leases();
        blocking(move || leases.read(disk)).await
    }

    /// Makes a disk this host's, or finds that it is; nobody else gets it while the answer is kept. A higher epoch takes
    /// it from another host.
    ///
    /// # Errors
    /// [`StorageError::DiskElsewhere`] if it is another host's at the same or a higher epoch, or this host's at a higher;
    /// [`StorageError::DiskInUse`] if somebody has it open. Nothing is changed then.
    pub async fn claim_disk(&self, disk: Uuid, claim: &Claim) -> Result<DiskHold, StorageError> {
        let (leases, claim) = (self.leases(), claim.clone());
        blocking(move || leases.claim(disk, &claim)).await
    }

    /// The same for a guest that has arrived, whose QEMU may have opened the disk for writing: in post-copy it does before
    /// the guest runs. No other QEMU can have it so then, by QEMU's own locks.
    ///
    /// # Errors
    /// As [`Self::claim_disk`].
    pub async fn claim_arrived_disk(&self, disk: Uuid, claim: &Claim) -> Result<DiskHold, StorageError> {
        let (leases, claim) = (self.leases(), claim.clone());
        blocking(move || leases.claim_as(disk, &claim, true)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(host: u8) -> Name {
        format!("host-{host}").parse().unwrap()
    }
    fn claim(host: u8, epoch: u64) -> Claim {
        Claim { host: name(host), epoch }
    }

    fn leases() -> (tempfile::TempDir, Leases, Uuid) {
        let directory = tempfile::tempdir().unwrap();
        let (leases, disk) = (Leases::of(directory.path().to_owned()), Uuid::new_v4());
        File::create(path_in(directory.path(), disk)).unwrap();
        (directory, leases, disk)
    }

    #[test]
    fn a_disk_is_held_by_one_and_taken_by_a_later_epoch() {
        let (_directory, leases, disk) = leases();
        assert_eq!(leases.read(disk).unwrap(), None);
        let held = leases.claim(disk, &claim(1, 3)).unwrap();
        assert_eq!((held.lease.epoch, held.lease.generation), (3, 1));
        // Whoever comes, with whatever epoch: it is held.
        for other in [claim(1, 3), claim(2, 9)] {
            let refused = leases.claim(disk, &other).unwrap_err();
            assert!(
                matches!(&refused, StorageError::DiskInUse { holder: Some(host), .. } if *host == name(1)),
                "{refused}"
            );
        }
        for late in [claim(2, 3), claim(2, 2), claim(1, 2)] {
            let refused = leases.claim(disk, &late).unwrap_err();
            assert!(matches!(refused, StorageError::DiskElsewhere { epoch: 3, .. }), "it need not wait: {refused}");
        }
        drop(held);
        let again = leases.claim(disk, &claim(1, 3)).unwrap();
        assert_eq!(again.lease.generation, 1, "nothing changed");
        drop(again);
        let taken = leases.claim(disk, &claim(2, 4)).unwrap().lease;
        assert_eq!(taken, Lease { host: name(2), epoch: 4, generation: 2 });
        // The one that it was taken from comes back.
        assert!(matches!(leases.claim(disk, &claim(1, 3)).unwrap_err(), StorageError::DiskElsewhere { epoch: 4, .. }));
    }

    #[test]
    fn a_qemu_that_writes_keeps_its_disk() {
        let (directory, leases, disk) = leases();
        drop(leases.claim(disk, &claim(1, 3)).unwrap());
        let qemu = OpenOptions::new().read(true).write(true).open(path_in(directory.path(), disk)).unwrap();
        // As QEMU does: a shared lock on the byte of the permission.
        let shared = libc::flock { l_type: libc::F_RDLCK as libc::c_short, ..write_lock_of(QEMU_WRITES_BYTE) };
        fcntl(&qemu, FcntlArg::F_OFD_SETLK(&shared)).unwrap();
        assert!(matches!(leases.claim(disk, &claim(2, 4)).unwrap_err(), StorageError::DiskInUse { .. }));
        assert!(leases.claim(disk, &claim(1, 3)).is_ok(), "an agent that restarts finds its own QEMU at work");
        let arrived = leases.claim_as(disk, &claim(2, 4), true).unwrap();
        assert_eq!(
            arrived.lease,
            Lease { host: name(2), epoch: 4, generation: 2 },
            "a guest's own QEMU is in nobody's way"
        );
        drop(arrived);
        assert!(matches!(leases.claim_as(disk, &claim(1, 3), true).unwrap_err(), StorageError::DiskElsewhere { .. }));
        assert!(matches!(leases.claim(disk, &claim(3, 5)).unwrap_err(), StorageError::DiskInUse { .. }));
        drop(qemu);
        assert!(leases.claim(disk, &claim(3, 5)).is_ok());
    }

    #[test]
    fn a_damaged_lease_is_nobodys_and_says_so() {
        let (_directory, leases, disk) = leases();
        fs::write(leases.path(disk), b"{\"host\": ").unwrap();
        let refused = leases.claim(disk, &claim(1, 3)).unwrap_err();
        assert!(matches!(refused, StorageError::LeaseDamaged { .. }), "{refused}");
        leases.remove(disk).unwrap();
        leases.remove(disk).unwrap();
        assert!(leases.claim(disk, &claim(1, 3)).is_ok());
        assert!(matches!(leases.claim(Uuid::new_v4(), &claim(1, 3)).unwrap_err(), StorageError::DiskMissing { .. }));
    }

    proptest! {
        // Each change of hands is on disk.
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever hosts claim in whatever order: epochs never fall, one epoch is never two hosts', generations count.
        #[test]
        fn a_disk_goes_from_host_to_host_by_rising_epochs(
            claims in proptest::collection::vec((0u8..4, 0u64..6), 1..40),
        ) {
            let (_directory, leases, disk) = leases();
            let mut owner: Option<(u8, u64)> = None;
            let mut changes = 0;
            for (host, epoch) in claims {
                let wanted = match owner {
                    None => true,
                    Some((had, at)) => epoch > at || (epoch == at && had == host),
                };
                let claimed = leases.claim(disk, &claim(host, epoch));
                prop_assert_eq!(claimed.is_ok(), wanted);
                if wanted {
                    changes += u64::from(owner != Some((host, epoch)));
                    owner = Some((host, epoch));
                }
                let found = leases.read(disk).unwrap().map(|lease| (lease.host, lease.epoch, lease.generation));
                prop_assert_eq!(found, owner.map(|(host, epoch)| (name(host), epoch, changes)));
            }
        }
    }
}
