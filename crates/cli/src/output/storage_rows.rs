//! Columns of pools, volumes and backups.

use gantry_types::{Backup, ByteSize, Pool, Repository, Resource, Volume};

use super::{
    Row, Surroundings, age,
    rows::{api_name, or_dash},
};

impl Row for Repository {
    const PLURAL_FOR_PEOPLE: &'static str = "repositories";
    const HEADERS: &'static [&'static str] = &["NAME", "PLACE", "ENCRYPTED", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.name().to_owned(),
            self.spec.place.to_string(),
            self.status.encrypted.to_string(),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.metadata.uuid.to_string()]
    }
}

impl Row for Pool {
    const PLURAL_FOR_PEOPLE: &'static str = "pools";
    const HEADERS: &'static [&'static str] =
        &["NAME", "TYPE", "HEALTH", "CAPACITY", "FREE", "USED", "PROMISED", "VOLUMES", "VMS", "HOSTS", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["PLACE", "OVERCOMMIT", "ALARM", "UUID", "REASON"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        let hosts: Vec<_> = spec.hosts.iter().map(|host| host.as_str()).collect();
        vec![
            self.name().to_owned(),
            api_name(&spec.kind),
            status.health.to_string(),
            or_dash(status.space.map(|space| space.capacity.approximate())),
            or_dash(status.space.map(|space| space.free.approximate())),
            or_dash(status.space.map(|space| format!("{} %", space.used_percent()))),
            status.promised.approximate(),
            status.volumes.to_string(),
            status.vms.to_string(),
            hosts.join(","),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![
            self.spec.place().to_owned(),
            format!("{} %", self.spec.overcommit_percent),
            format!("{} %", self.spec.alarm_percent),
            self.metadata.uuid.to_string(),
            or_dash(self.status.reason.as_ref()),
        ]
    }
}

impl Row for Backup {
    const PLURAL_FOR_PEOPLE: &'static str = "backups";
    const HEADERS: &'static [&'static str] = &["NAME", "VM", "PHASE", "SIZE", "READ", "ADDED", "REPOSITORY", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["FROZEN", "VERIFIED", "HOST", "UUID", "REASON"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let status = &self.status;
        let size = status.disks.iter().map(|disk| disk.size.bytes()).reduce(|all, one| all.saturating_add(one));
        vec![
            self.name().to_owned(),
            self.spec.vm.to_string(),
            status.phase.to_string(),
            or_dash(size.map(|size| ByteSize(size).approximate())),
            or_dash(status.read.map(|read| read.approximate())),
            or_dash(status.written.map(|written| written.approximate())),
            self.spec.repository.clone(),
            age(status.taken_at.or(self.metadata.created_at), around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let status = &self.status;
        vec![
            or_dash(status.frozen_ms.map(|frozen_ms| format!("{frozen_ms} ms"))),
            or_dash(status.verified_at),
            or_dash(status.host.as_ref()),
            self.metadata.uuid.to_string(),
            or_dash(status.reason.as_ref()),
        ]
    }
}

impl Row for Volume {
    const PLURAL_FOR_PEOPLE: &'static str = "volumes";
    const HEADERS: &'static [&'static str] = &["NAME", "PHASE", "POOL", "SIZE", "TAKES", "VM", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["IOPS", "BYTES/S", "CACHE", "SLOT", "UUID", "REASON"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.name().to_owned(),
            self.status.phase.to_string(),
            self.spec.pool.to_string(),
            self.spec.size.to_string(),
            or_dash(self.status.allocated.map(|allocated| allocated.approximate())),
            or_dash(self.status.vm.as_ref()),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![
            or_dash(self.spec.limits.iops),
            or_dash(self.spec.limits.bytes_per_s),
            api_name(&self.spec.cache),
            or_dash(self.status.slot),
            self.metadata.uuid.to_string(),
            or_dash(self.status.reason.as_ref()),
        ]
    }
}
