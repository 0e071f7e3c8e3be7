//! Hard constraints, and the values of the score's terms, of one host for one request.

use gantry_types::{ByteSize, HostState, PoolInfo};

use crate::{Reason, ask::Ask, ledger::HostRow, score::TERM_COUNT};

/// Why a host won't do, cheap to find out; [`Ask::reason`] tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    NotTheOneAskedFor,
    Excluded,
    Joining,
    Lost,
    Cordoned,
    Maintenance,
    Asleep,
    Machine(u32),
    Rule(u8),
    Memory,
    MemoryReservation,
    Cpus,
    CpuReservation,
    Disk,
    Network,
    Failover,
}

impl Ask<'_> {
    /// `None`: the host fulfils all constraints.
    pub fn obstacle(&self, host: u32) -> Option<Obstacle> {
        let row = &self.ledger.rows[host as usize];
        let request = self.request;
        if self.only.is_some_and(|only| only != Some(host)) {
            return Some(Obstacle::NotTheOneAskedFor);
        }
        if self.except == Some(host) {
            return Some(Obstacle::Excluded);
        }
        match row.state {
            HostState::Ready | HostState::Sleeping | HostState::Waking => {}
            HostState::Joining => return Some(Obstacle::Joining),
            HostState::Lost => return Some(Obstacle::Lost),
        }
        // The state alone says so too, if whoever made the facts did not.
        let asleep = row.asleep || row.state != HostState::Ready;
        if asleep && !request.may_wake {
            return Some(Obstacle::Asleep);
        }
        if row.maintenance && !request.despite_cordon {
            return Some(Obstacle::Maintenance);
        }
        if row.cordoned && !request.despite_cordon {
            return Some(Obstacle::Cordoned);
        }
        let Some(machine) = row.machine else { return Some(Obstacle::Joining) };
        if self.machines[machine as usize].is_some() {
            return Some(Obstacle::Machine(machine));
        }
        if let Some(code) = self.masks.ban(host) {
            return Some(Obstacle::Rule(code));
        }
        self.too_little(host, row)
    }

    fn too_little(&self, host: u32, row: &HostRow) -> Option<Obstacle> {
        let (own, share) = (self.own_at(host), &self.share);
        if share.memory + row.memory_given - own.memory > row.memory_limit {
            return Some(Obstacle::Memory);
        }
        if share.memory_reserved > 0 && share.memory_reserved + row.memory_reserved - own.memory_reserved > row.memory {
            return Some(Obstacle::MemoryReservation);
        }
        if share.cpus + row.cpus_given - own.cpus > row.cpus_limit {
            return Some(Obstacle::Cpus);
        }
        if share.cpu_reserved > 0 && share.cpu_reserved + row.cpu_reserved - own.cpu_reserved > row.cpu_reservable {
            return Some(Obstacle::CpuReservation);
        }
        match &self.request.pool {
            None if self.request.disk_space.bytes() > row.pool_free => return Some(Obstacle::Disk),
            Some(_) if self.pool(host).is_none_or(|pool| pool.free < self.request.disk_space) => {
                return Some(Obstacle::Disk);
            }
            _ => {}
        }
        if self.pool_out_of_reach(host).is_some() {
            return Some(Obstacle::Disk);
        }
        if row.limited_networks && self.network_out_of_reach(host).is_some() {
            return Some(Obstacle::Network);
        }
        // Last, because it holds for all hosts and the others tell more.
        self.failover.is_some().then_some(Obstacle::Failover)
    }

    fn pool(&self, host: u32) -> Option<&PoolInfo> {
        let wanted = self.request.pool.as_ref()?;
        let facts = &self.snapshot.entry(host).facts;
        facts.named_pools.iter().chain(&facts.pools).find(|pool| pool.name == *wanted)
    }

    fn pool_out_of_reach(&self, host: u32) -> Option<&String> {
        let reached = &self.snapshot.entry(host).facts.named_pools;
        self.request.volume_pools.iter().find(|wanted| !reached.iter().any(|pool| pool.name == **wanted))
    }

    fn network_out_of_reach(&self, host: u32) -> Option<(&gantry_types::Name, &String)> {
        let out_of_reach = &self.snapshot.entry(host).facts.out_of_reach;
        self.request.networks.iter().find_map(|network| out_of_reach.get_key_value(network))
    }

    /// The obstacle in words and figures.
    pub fn reason(&self, host: u32, obstacle: Obstacle) -> Reason {
        let row = &self.ledger.rows[host as usize];
        let (own, share) = (self.own_at(host), &self.share);
        match obstacle {
            Obstacle::NotTheOneAskedFor => Reason::NotTheOneAskedFor,
            Obstacle::Excluded => Reason::Excluded,
            Obstacle::Joining => Reason::Joining,
            Obstacle::Lost => Reason::Lost,
            Obstacle::Cordoned => Reason::Cordoned,
            Obstacle::Maintenance => Reason::Maintenance,
            Obstacle::Asleep => Reason::Asleep,
            Obstacle::Machine(machine) => self.machines[machine as usize].clone().unwrap_or(Reason::Joining),
            Obstacle::Rule(code) => self.masks.reason(code),
            Obstacle::Memory => Reason::TooLittleMemory {
                needed: ByteSize(share.memory),
                free: ByteSize(row.memory_limit.saturating_sub(row.memory_given - own.memory)),
            },
            Obstacle::MemoryReservation => Reason::TooLittleUnreservedMemory {
                needed: ByteSize(share.memory_reserved),
                free: ByteSize(row.memory.saturating_sub(row.memory_reserved - own.memory_reserved)),
            },
            Obstacle::Cpus => Reason::TooFewCpus {
                needed: share.cpus,
                free: row.cpus_limit.saturating_sub(row.cpus_given - own.cpus),
            },
            Obstacle::CpuReservation => Reason::TooLittleUnreservedCpu {
                needed_percent: share.cpu_reserved,
                free_percent: row.cpu_reservable.saturating_sub(row.cpu_reserved - own.cpu_reserved),
            },
            Obstacle::Disk => match (&self.request.pool, self.pool(host), self.pool_out_of_reach(host)) {
                (Some(pool), None, _) | (_, _, Some(pool)) => Reason::NoSuchPool { pool: pool.clone() },
                (_, pool, None) => Reason::TooLittleDisk {
                    needed: self.request.disk_space,
                    free: pool.map_or(ByteSize(row.pool_free), |pool| pool.free),
                },
            },
            Obstacle::Network => match self.network_out_of_reach(host) {
                Some((network, why)) => Reason::NetworkOutOfReach { network: network.clone(), why: why.clone() },
                None => Reason::Joining,
            },
            Obstacle::Failover => self.failover.clone().unwrap_or(Reason::Excluded),
        }
    }

    /// Before the VM takes its share.
    pub fn free_memory(&self, host: u32) -> ByteSize {
        let row = &self.ledger.rows[host as usize];
        ByteSize(row.memory_limit.saturating_sub(row.memory_given - self.own_at(host).memory))
    }

    /// The terms' values in the order of [`crate::terms`].
    pub fn values(&self, host: u32) -> [f64; TERM_COUNT] {
        std::array::from_fn(|term| self.value(term, host))
    }

    /// The sum of the terms that count: what [`crate::score::total`] makes of all of them, without working out the others.
    pub fn score(&self, host: u32) -> f64 {
        self.counting.iter().map(|(term, weight)| self.value(*term, host) * weight).sum()
    }

    fn value(&self, term: usize, host: u32) -> f64 {
        let row = &self.ledger.rows[host as usize];
        let memory_after = || row.memory_given - self.own_at(host).memory + self.share.memory;
        let cpus_full = || {
            let after = row.cpus_given - self.own_at(host).cpus + self.share.cpus;
            share(f64::from(after), f64::from(row.cpus_limit))
        };
        match term {
            0 => share(row.memory_limit.saturating_sub(memory_after()) as f64, self.ledger.largest_memory as f64),
            1 => 1.0 - cpus_full(),
            2 => {
                let demand = row.cpu_used.max(row.demand) - self.own_at(host).demand + self.share.demand;
                1.0 - share(demand, row.cpu_capacity)
            }
            3 => share(memory_after() as f64, row.memory_limit as f64).max(cpus_full()),
            4 => share(row.cpu_per_watt, self.ledger.best_cpu_per_watt),
            5 => self.masks.kept(host),
            6 => f64::from(u8::from(!row.asleep)),
            _ => f64::from(u8::from(self.own.contains(&host))),
        }
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}
