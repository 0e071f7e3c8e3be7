//! Balance between storage pools of one class: volumes leave pools that run full or are too busy.
//!
//! A volume move copies every byte, so it is proposed only for a pool above its limit, and only to a pool that stays below
//! it by a margin: pools that are merely uneven are left alone, and a volume never moves to and fro.

use gantry_types::{ByteSize, Name};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What an operator sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Volumes leave a pool that is fuller, or busier, than this share, 0–1.
    pub limit: f64,
    /// The pool that takes one stays so far below the limit, 0–1.
    pub margin: f64,
    /// A volume that moved less than this ago stays.
    pub hold_down_s: u64,
    /// Moves that a pool takes part in at once.
    pub max_moves_per_pool: u32,
    /// Moves of one decision.
    pub max_moves: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limit: 0.8, margin: 0.1, hold_down_s: 3600, max_moves_per_pool: 1, max_moves: 2 }
    }
}

/// A pool, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub name: Name,
    /// Volumes move between pools of one class only.
    pub class: String,
    pub capacity: ByteSize,
    pub used: ByteSize,
    /// Share of the time that its device is busy, 0–1; 0 where it is not measured.
    pub busy: f64,
    /// Moves that it takes part in already.
    pub moving: u32,
}

/// A volume, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    pub uuid: Uuid,
    pub name: Name,
    pub pool: Name,
    pub used: ByteSize,
    /// Its part of the pool's `busy`.
    pub busy: f64,
    /// Why it can't move, in words.
    pub obstacle: Option<String>,
    pub moved_s_ago: Option<u64>,
    /// Pools that its VM's host reaches.
    pub reachable: Vec<Name>,
}

/// A volume that should go to another pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeMove {
    pub volume: Uuid,
    pub name: Name,
    pub from: Name,
    pub to: Name,
    pub bytes: u64,
    pub reason: String,
}

/// Proposes moves, from the fullest pool on; what is cheapest to copy for what it relieves goes first.
pub fn propose(pools: &[Pool], volumes: &[Volume], settings: &Settings) -> Vec<VolumeMove> {
    let mut pools = pools.to_vec();
    let mut moves: Vec<VolumeMove> = Vec::new();
    while moves.len() < settings.max_moves {
        let mut pressed: Vec<usize> =
            (0..pools.len()).filter(|at| pools[*at].strain() > settings.limit && free(&pools[*at], settings)).collect();
        pressed.sort_by(|a, b| {
            pools[*b].strain().total_cmp(&pools[*a].strain()).then_with(|| pools[*a].name.cmp(&pools[*b].name))
        });
        let moved: Vec<Uuid> = moves.iter().map(|planned| planned.volume).collect();
        let found = pressed.into_iter().find_map(|from| best(&pools, from, volumes, settings, &moved));
        let Some((volume, from, to)) = found else { break };
        let reason = format!(
            "pool {} is {:.0} % {}",
            pools[from].name,
            100.0 * pools[from].strain(),
            if pools[from].busy > pools[from].fill() { "busy" } else { "full" }
        );
        moves.push(VolumeMove {
            volume: volume.uuid,
            name: volume.name.clone(),
            from: pools[from].name.clone(),
            to: pools[to].name.clone(),
            bytes: volume.used.bytes(),
            reason,
        });
        pools[from].give(volume, -1.0);
        pools[to].give(volume, 1.0);
    }
    moves
}

impl Pool {
    fn fill(&self) -> f64 {
        self.used.bytes() as f64 / (self.capacity.bytes() as f64).max(1.0)
    }

    /// How full or how busy it is, whichever is more; 0–1.
    pub fn strain(&self) -> f64 {
        self.fill().max(self.busy)
    }

    fn strain_with(&self, volume: &Volume) -> f64 {
        let used = self.used.bytes() as f64 + volume.used.bytes() as f64;
        (used / (self.capacity.bytes() as f64).max(1.0)).max(self.busy + volume.busy)
    }

    fn give(&mut self, volume: &Volume, sign: f64) {
        self.used = ByteSize((self.used.bytes() as f64 + sign * volume.used.bytes() as f64).max(0.0) as u64);
        self.busy = (self.busy + sign * volume.busy).max(0.0);
        self.moving += 1;
    }
}

fn free(pool: &Pool, settings: &Settings) -> bool {
    pool.moving < settings.max_moves_per_pool
}

fn best<'a>(
    pools: &[Pool],
    from: usize,
    volumes: &'a [Volume],
    settings: &Settings,
    moved: &[Uuid],
) -> Option<(&'a Volume, usize, usize)> {
    let source = &pools[from];
    let by_space = source.fill() >= source.busy;
    let held = |volume: &Volume| volume.moved_s_ago.is_some_and(|ago| ago < settings.hold_down_s);
    let can = |volume: &&Volume| {
        volume.pool == source.name && volume.obstacle.is_none() && !held(volume) && !moved.contains(&volume.uuid)
    };
    let mut candidates: Vec<&Volume> = volumes.iter().filter(can).collect();
    // By space: the smallest that is enough, else the largest. By load: most load for a byte.
    let excess = (source.fill() - settings.limit) * source.capacity.bytes() as f64;
    candidates.sort_by(|a, b| {
        let bytes = |volume: &Volume| volume.used.bytes() as f64;
        let order = if by_space {
            let rank = |volume: &Volume| if bytes(volume) >= excess { bytes(volume) } else { f64::MAX - bytes(volume) };
            rank(a).total_cmp(&rank(b)).then_with(|| b.used.cmp(&a.used))
        } else {
            let worth = |volume: &Volume| volume.busy / bytes(volume).max(1.0);
            worth(b).total_cmp(&worth(a))
        };
        order.then_with(|| a.uuid.cmp(&b.uuid))
    });
    candidates.into_iter().find_map(|volume| {
        let fits = |to: &usize| {
            let pool = &pools[*to];
            *to != from
                && pool.class == source.class
                && free(pool, settings)
                && volume.reachable.contains(&pool.name)
                && pool.strain_with(volume) <= settings.limit - settings.margin
        };
        let to = (0..pools.len()).filter(fits).min_by(|a, b| {
            let strain = |at: &usize| pools[*at].strain_with(volume);
            strain(a).total_cmp(&strain(b)).then_with(|| pools[*a].name.cmp(&pools[*b].name))
        })?;
        Some((volume, from, to))
    })
}
