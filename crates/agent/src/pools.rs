//! The pools that this host reaches: their drivers, and a look at each every few seconds.
//!
//! Which pools are watched is told with the answer to each heartbeat and not written down: an agent without a controller
//! has nobody to tell. A call brings its pool along, so a volume is served whether or not its pool is watched. A pool
//! whose file system hangs costs one thread: the look that hangs there is waited for again, and no other is begun.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_api::storage::{PoolAssignment, PoolReport, VolumeReport};
use gantry_storage::{
    Claim, Copies, DirDisks, DirPool, MarkedDir, NfsDisks, NfsPool, PoolDriver, PoolFinding, Sha256Digest,
    StorageError, VmDisks,
};
use gantry_types::{ByteSize, Name, PoolHealth};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::host::Host;
use crate::pool_load::{Devices, VolumeRates};

const INTERVAL: Duration = Duration::from_secs(5);
/// A file system that takes longer is not there.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
enum Driver {
    Dir(MarkedDir),
    Nfs(NfsPool),
}

pub(crate) struct Pools {
    own: DirPool,
    host: Name,
    /// By what they were made from.
    drivers: Mutex<HashMap<Uuid, (PoolAssignment, Driver)>>,
    watched: Mutex<Vec<PoolAssignment>>,
    reports: Mutex<Vec<PoolReport>>,
    /// Looks that have not come back.
    hanging: Mutex<HashMap<Uuid, JoinHandle<PoolFinding>>>,
    changed: Notify,
    devices: Devices,
    /// What guests read and write on their volumes.
    pub rates: Arc<VolumeRates>,
}

impl Pools {
    pub fn new(own: DirPool, host: Name) -> Self {
        Self {
            own,
            host,
            drivers: Mutex::default(),
            watched: Mutex::default(),
            reports: Mutex::default(),
            hanging: Mutex::default(),
            changed: Notify::new(),
            devices: Devices::default(),
            rates: Arc::default(),
        }
    }

    pub fn driver(&self, pool: &PoolAssignment) -> Arc<dyn PoolDriver> {
        match self.made(pool) {
            Driver::Dir(directory) => Arc::new(directory),
            Driver::Nfs(export) => Arc::new(export),
        }
    }

    /// Where VMs' own disks are in a pool, or in the host's own without one, for whoever makes this claim.
    ///
    /// # Errors
    /// [`StorageError::PoolFault`] if the directory is not there now. An export is asked for with each call.
    pub async fn disks(&self, pool: Option<&PoolAssignment>, claim: Claim) -> Result<Arc<dyn VmDisks>, StorageError> {
        let Some(pool) = pool else { return Ok(Arc::new(DirDisks::new(self.own.clone(), claim))) };
        match self.made(pool) {
            Driver::Dir(directory) if pool.is_mirrored() => {
                Ok(Arc::new(DirDisks::mirrored(directory.inside().await?, claim)))
            }
            Driver::Dir(directory) => Ok(Arc::new(DirDisks::new(directory.inside().await?, claim))),
            Driver::Nfs(export) => Ok(Arc::new(NfsDisks::new(export, claim))),
        }
    }

    /// The copies that this host keeps in a mirrored pool.
    ///
    /// # Errors
    /// [`StorageError::PoolFault`] if the directory is not there now.
    pub async fn copies(&self, pool: &PoolAssignment) -> Result<Copies, StorageError> {
        match self.made(pool) {
            Driver::Dir(directory) => Copies::of(directory.inside().await?),
            Driver::Nfs(_) => Err(StorageError::PoolFault {
                path: pool.path.clone().into(),
                health: PoolHealth::Missing,
                reason: "it is an export, and keeps no copies".to_owned(),
            }),
        }
    }

    /// Removes an image from all watched pools; refused while a disk is laid over it.
    pub async fn remove_image(&self, image: Sha256Digest, claim: &Claim) -> Result<(), StorageError> {
        let watched = lock(&self.watched).clone();
        for pool in watched {
            match self.disks(Some(&pool), claim.clone()).await {
                Ok(disks) => disks.remove_image(image).await?,
                Err(error) => tracing::warn!(pool = %pool.name, %error, "an image may be left in this pool"),
            }
        }
        Ok(())
    }

    /// This host's directory of a pool.
    fn directory(&self, pool: &PoolAssignment) -> PathBuf {
        match pool.is_mirrored() {
            true => pool.path.replace("{host}", self.host.as_str()).into(),
            false => pool.path.clone().into(),
        }
    }

    fn made(&self, pool: &PoolAssignment) -> Driver {
        let mut drivers = lock(&self.drivers);
        if let Some((known, driver)) = drivers.get(&pool.uuid)
            && known == pool
        {
            return driver.clone();
        }
        let driver = match &pool.export {
            Some(export) => Driver::Nfs(NfsPool::new(export.clone(), pool.uuid, self.own.clone())),
            None if pool.is_mirrored() => Driver::Dir(MarkedDir::mirrored(self.directory(pool), pool.uuid)),
            None if Path::new(&pool.path) == self.own.path() => {
                Driver::Dir(MarkedDir::over(self.own.clone(), pool.uuid))
            }
            None => Driver::Dir(MarkedDir::new(pool.path.clone().into(), pool.uuid)),
        };
        drivers.insert(pool.uuid, (pool.clone(), driver.clone()));
        driver
    }

    /// Watches these and no others.
    pub fn watch(&self, pools: Vec<PoolAssignment>) {
        let mut watched = lock(&self.watched);
        if *watched == pools {
            return;
        }
        lock(&self.drivers).retain(|known, _| pools.iter().any(|pool| pool.uuid == *known));
        lock(&self.reports).retain(|known| pools.iter().any(|pool| pool.uuid == known.pool));
        *watched = pools;
        self.changed.notify_one();
    }

    fn watched(&self) -> Vec<PoolAssignment> {
        lock(&self.watched).clone()
    }

    /// The last look at each.
    pub fn reports(&self) -> Vec<PoolReport> {
        lock(&self.reports).clone()
    }

    async fn look(&self) {
        let watched = lock(&self.watched).clone();
        let looks = watched.iter().map(|pool| async {
            let found = self.examine(pool).await;
            // Below a file system that does not answer, no device can be asked for.
            let measures = found.health < PoolHealth::Missing && pool.export.is_none();
            let busy = measures.then(|| self.devices.busy_percent(&self.directory(pool))).flatten();
            report(pool.uuid, found, busy, &self.rates)
        });
        let reports = futures::future::join_all(looks).await;
        let watched = lock(&self.watched);
        *lock(&self.reports) =
            reports.into_iter().filter(|found| watched.iter().any(|pool| pool.uuid == found.pool)).collect();
        lock(&self.hanging).retain(|known, _| watched.iter().any(|pool| pool.uuid == *known));
    }

    async fn examine(&self, pool: &PoolAssignment) -> PoolFinding {
        let hanging = lock(&self.hanging).remove(&pool.uuid);
        let driver = self.driver(pool);
        let mut look = hanging.unwrap_or_else(|| tokio::spawn(async move { driver.examine().await }));
        match tokio::time::timeout(LOOK_LIMIT, &mut look).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => PoolFinding::broken(PoolHealth::Unreachable, format!("it can't be looked at: {error}")),
            Err(_) => {
                lock(&self.hanging).insert(pool.uuid, look);
                let reason = format!("it does not answer within {} s", LOOK_LIMIT.as_secs());
                PoolFinding::broken(PoolHealth::Unreachable, reason)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder makes plain assignments.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(pool: Uuid, found: PoolFinding, busy_percent: Option<u32>, rates: &VolumeRates) -> PoolReport {
    let volumes = found.volumes.iter().map(|disk| VolumeReport {
        volume: disk.disk,
        allocated: ByteSize(disk.allocated_bytes),
        io_bytes_per_s: rates.of(disk.disk),
    });
    let volumes = volumes.collect();
    let PoolFinding { health, reason, space, copies, .. } = found;
    PoolReport { pool, health, reason, space, busy_percent, volumes, copies }
}

/// Looks at the watched pools until the agent ends.
pub(crate) async fn run(host: &Host, shutdown: CancellationToken) {
    loop {
        host.pools.look().await;
        host.losses.note_pools(&host.pools.watched(), &host.pools.reports());
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = host.pools.changed.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}
