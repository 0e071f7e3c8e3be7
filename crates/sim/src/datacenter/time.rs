//! Time: one true time for the world, a clock for each machine, timers for each program.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use gantry_controller::clock::Clock;
use gantry_ha::Moment;
use gantry_types::Timestamp;
use uuid::Uuid;

const MILLION: u64 = 1_000_000;
/// 2027: what wall clocks say when a run begins.
const WALL_START_MS: i64 = 1_800_000_000_000;

/// The world's time in microseconds.
pub type TrueTime = Arc<AtomicU64>;

/// A machine's clocks: a steady one that is a little too fast or too slow, and one on the wall that steps.
pub struct MachineClock {
    now: TrueTime,
    ppm: u64,
    /// Machines are not switched on at the same time.
    origin_us: u64,
    wall_step_ms: AtomicI64,
}

impl MachineClock {
    pub fn new(now: TrueTime, ppm: u64, origin_us: u64) -> Arc<Self> {
        Arc::new(Self { now, ppm, origin_us, wall_step_ms: AtomicI64::new(0) })
    }

    pub fn steady_us(&self) -> u64 {
        self.now.load(Ordering::Relaxed) * self.ppm / MILLION + self.origin_us
    }
    pub fn moment(&self) -> Moment {
        Moment(self.steady_us() / 1_000)
    }
    /// The first true time at which this clock says `steady_us`.
    pub fn true_us(&self, steady_us: u64) -> u64 {
        (steady_us.saturating_sub(self.origin_us) * MILLION).div_ceil(self.ppm)
    }
    pub fn step_wall(&self, by_ms: i64) {
        self.wall_step_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
    fn wall_ms(&self) -> i64 {
        WALL_START_MS + (self.steady_us() / 1_000).cast_signed() + self.wall_step_ms.load(Ordering::Relaxed)
    }
}

/// The timers of one program. They end with it.
pub struct Timers {
    pub clock: Arc<MachineClock>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    count: u64,
    /// By when each is due on the machine's clock; among those of one moment the one that was set first comes first.
    wakers: BTreeMap<(u64, u64), Waker>,
}

impl Timers {
    pub fn new(clock: Arc<MachineClock>) -> Arc<Self> {
        Arc::new(Self { clock, pending: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The true time at which the next one is due.
    pub fn next_us(&self) -> Option<u64> {
        self.lock().wakers.keys().next().map(|(due_us, _)| self.clock.true_us(*due_us))
    }

    /// Wakes whoever's time has come. Whether there was one.
    pub fn fire(&self) -> bool {
        let mut pending = self.lock();
        let later = pending.wakers.split_off(&(self.clock.steady_us() + 1, 0));
        let due = std::mem::replace(&mut pending.wakers, later);
        drop(pending);
        let any = !due.is_empty();
        due.into_values().for_each(Waker::wake);
        any
    }

    pub fn sleep(self: &Arc<Self>, duration: Duration) -> BoxFuture<'static, ()> {
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4 / MILLION);
        // A sleep of no time is a turn for the others.
        let due_us = self.clock.steady_us() + duration_us.max(1);
        Box::pin(Sleep { timers: Arc::clone(self), due_us, key: None })
    }
}

struct Sleep {
    timers: Arc<Timers>,
    due_us: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.timers.clock.steady_us() >= self.due_us {
            return Poll::Ready(());
        }
        let timers = Arc::clone(&self.timers);
        let mut pending = timers.lock();
        let key = self.key.unwrap_or_else(|| {
            pending.count += 1;
            (self.due_us, pending.count)
        });
        pending.wakers.insert(key, context.waker().clone());
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timers.lock().wakers.remove(&key);
        }
    }
}

/// The controller's clock, and where its ids come from.
pub struct ProgramClock {
    timers: Arc<Timers>,
    ids: Arc<AtomicU64>,
}

impl ProgramClock {
    /// `ids`: the world's count of ids.
    pub fn new(timers: Arc<Timers>, ids: Arc<AtomicU64>) -> Self {
        Self { timers, ids }
    }
}

impl Clock for ProgramClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.timers.clock.wall_ms())
    }
    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.timers.clock.steady_us())
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.timers.sleep(duration)
    }
    fn new_uuid(&self) -> Uuid {
        next_id(&self.ids)
    }
}

/// Sorted as they are made.
pub fn next_id(ids: &AtomicU64) -> Uuid {
    let count = u128::from(ids.fetch_add(1, Ordering::Relaxed) + 1);
    // Some names are made of the last digits only.
    Uuid::from_u128((count << 64) | count)
}
