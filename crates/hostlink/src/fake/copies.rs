//! Copies of other hosts' disks that a fake host keeps, and what it has taken over.

use gantry_api::{
    mirror::{CopyEndpoint, DropLeftVolume, ServeCopy, SettleCopy, TakeCopy},
    storage::{PoolAssignment, VolumeAssignment, VolumePlace},
};
use gantry_types::{ByteSize, Name, Problem};
use uuid::Uuid;

use super::{HostState, guest::FakeDisk};

/// A copy that a host keeps for another.
#[derive(Debug, Clone)]
pub(super) struct FakeCopy {
    pub state: CopyState,
    pub disk: FakeDisk,
    pool: Uuid,
    /// By a server that ends with the host's agent.
    pub is_served: bool,
    serving: Uuid,
    /// Of a volume; a VM's own disk otherwise.
    volume: Option<ByteSize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyState {
    Behind,
    Whole(u64),
    Taken(u64),
}

impl HostState {
    /// The disk that was taken over here.
    pub(super) fn taken_copy(&self, disk: Uuid) -> Option<FakeDisk> {
        self.copies.get(&disk).filter(|copy| matches!(copy.state, CopyState::Taken(_))).map(|copy| copy.disk.clone())
    }

    /// The disks that it keeps copies of in this pool.
    pub(super) fn copies_in(&self, pool: Uuid) -> Vec<Uuid> {
        let kept =
            self.copies.iter().filter(|(_, copy)| copy.pool == pool && !matches!(copy.state, CopyState::Taken(_)));
        kept.map(|(disk, _)| *disk).collect()
    }

    /// The volumes with copies that the VM is to have are this host's.
    pub(super) fn expect_volumes(&mut self, volumes: &[VolumeAssignment]) -> Result<(), Problem> {
        for volume in volumes.iter().filter(|volume| volume.pool.is_mirrored()) {
            if !self.pool(&volume.pool)?.content().volumes.contains_key(&volume.uuid) {
                return Err(Problem::permanent("volume-missing", format!("volume '{}' is not here", volume.name)));
            }
        }
        Ok(())
    }

    pub(super) fn has_volume(&mut self, pool: &PoolAssignment, volume: Uuid) -> Result<Option<ByteSize>, Problem> {
        Ok(self.pool(pool)?.content().volumes.get(&volume).copied())
    }

    pub(super) fn serve_copy(
        &mut self,
        name: &Name,
        request: &ServeCopy,
        volume: Option<ByteSize>,
    ) -> Result<CopyEndpoint, Problem> {
        if self.vms.contains_key(&request.disk) {
            return Err(Problem::transient("vm-exists", "a host that has the VM keeps no copy of its disk"));
        }
        if self.has_volume(&request.pool, request.disk)?.is_some() {
            return Err(Problem::conflict("copy-not-kept", "a host that has the volume keeps no copy of it"));
        }
        let keeps = |copy: &FakeCopy| request.since.is_some_and(|since| copy.state == CopyState::Whole(since));
        let fresh = !self.copies.get(&request.disk).is_some_and(keeps);
        let copy = self.copies.entry(request.disk).or_insert(FakeCopy {
            state: CopyState::Behind,
            disk: FakeDisk::default(),
            pool: request.pool.uuid,
            is_served: true,
            serving: Uuid::nil(),
            volume,
        });
        self.servings += 1;
        copy.serving = Uuid::from_u128(self.servings.into());
        let serving = copy.serving;
        (copy.state, copy.is_served, copy.volume) = (CopyState::Behind, true, volume);
        if fresh {
            copy.disk = FakeDisk::default();
        }
        let (address, tls_name) = (std::net::Ipv4Addr::LOCALHOST.into(), name.to_string());
        Ok(CopyEndpoint { address, port: 1, export: request.disk.to_string(), tls_name, fresh, serving })
    }

    pub(super) fn settle_copy(&mut self, request: &SettleCopy) -> Result<(), Problem> {
        self.pool(&request.pool)?;
        let copy = self.copies.get_mut(&request.disk).ok_or_else(|| missing(request.disk))?;
        if copy.serving != request.serving || matches!(copy.state, CopyState::Taken(_)) {
            let detail = format!("the copy of disk {} was served anew since, or is taken", request.disk);
            return Err(Problem::conflict("copy-stale", detail));
        }
        copy.state = CopyState::Whole(request.generation);
        Ok(())
    }

    pub(super) fn take_copy(&mut self, request: &TakeCopy) -> Result<(), Problem> {
        self.pool(&request.pool)?;
        let copy = self.copies.get_mut(&request.disk).ok_or_else(|| missing(request.disk))?;
        match copy.state {
            CopyState::Taken(generation) if generation == request.generation => Ok(()),
            CopyState::Whole(generation) if generation == request.from => {
                (copy.state, copy.is_served) = (CopyState::Taken(request.generation), false);
                let volume = copy.volume;
                let mut content = self.pool(&request.pool)?.content();
                match volume {
                    Some(size) => drop(content.volumes.insert(request.disk, size)),
                    // Of no epoch yet: whoever adopts it has it.
                    None => drop(content.disks.entry(request.disk).or_insert(0)),
                }
                Ok(())
            }
            state => {
                let detail = format!("the copy of disk {} is {state:?}, not whole at {}", request.disk, request.from);
                Err(Problem::conflict("copy-stale", detail))
            }
        }
    }

    pub(super) fn drop_left_volume(&mut self, request: &DropLeftVolume) -> Result<(), Problem> {
        let here = VolumePlace { volume: request.volume, pool: request.pool.uuid };
        if let Some(user) = self.user_of(|place| place == here) {
            let detail = format!("the volume is attached to VM '{}'", user.assignment.name);
            return Err(Problem::conflict("volume-in-use", detail));
        }
        let taken = |copy: &FakeCopy| match copy.state {
            CopyState::Taken(generation) => Some(generation),
            CopyState::Behind | CopyState::Whole(_) => None,
        };
        let taken = self.copies.get(&request.volume).and_then(taken);
        if taken.is_some_and(|generation| generation > request.generation) {
            return Err(Problem::conflict("copy-stale", "the volume was taken over since"));
        }
        self.pool(&request.pool)?.content().volumes.remove(&request.volume);
        if taken.is_some() {
            self.copies.remove(&request.volume);
        }
        Ok(())
    }
}

pub(super) fn missing(disk: Uuid) -> Problem {
    Problem::conflict("copy-stale", format!("there is no copy of disk {disk}"))
}
