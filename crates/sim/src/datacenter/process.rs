//! A program on a machine: a runtime of its own, which runs only when the world lets it and knows no time but the machine's.
//!
//! To end it as `kill -9` does is to drop it; to stop it as `SIGSTOP` does is not to run it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use tokio::runtime::{Builder, Runtime};

use super::time::{MachineClock, Timers};

pub struct Process {
    runtime: Runtime,
    idle: Arc<Idle>,
    pub timers: Arc<Timers>,
    pub is_frozen: bool,
}

/// Whether every task of a runtime waits.
#[derive(Default)]
struct Idle {
    is_idle: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Idle {
    /// Called when the runtime has nothing left to do.
    fn reached(&self) {
        self.is_idle.store(true, Ordering::Relaxed);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}

impl Process {
    pub fn new(clock: Arc<MachineClock>) -> io::Result<Self> {
        let idle = Arc::new(Idle::default());
        let its = Arc::clone(&idle);
        // No drivers: a program that asked the operating system for time or a socket would be told so.
        let runtime = Builder::new_current_thread().on_thread_park(move || its.reached()).build()?;
        Ok(Self { runtime, idle, timers: Timers::new(clock), is_frozen: false })
    }

    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(work));
    }

    /// Runs until everything waits: for a timer, or for somebody else.
    pub fn run(&self) {
        self.timers.fire();
        self.idle.is_idle.store(false, Ordering::Relaxed);
        let idle = Arc::clone(&self.idle);
        self.runtime.block_on(std::future::poll_fn(move |context| {
            if idle.is_idle.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            *idle.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            Poll::Pending
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_program_runs_until_all_of_it_waits_and_not_before_its_time() {
        let now = Arc::new(AtomicU64::new(0));
        let process = Process::new(MachineClock::new(now.clone(), 1_000_000, 7)).unwrap();
        let (timers, turns) = (process.timers.clone(), Arc::new(AtomicU64::new(0)));
        let counted = turns.clone();
        process.spawn(async move {
            loop {
                tokio::spawn(tokio::task::yield_now()).await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                timers.sleep(Duration::from_millis(10)).await;
            }
        });
        process.run();
        assert_eq!((turns.load(Ordering::Relaxed), process.timers.next_us()), (1, Some(10_000)));
        now.store(9_999, Ordering::Relaxed);
        process.run();
        assert_eq!(turns.load(Ordering::Relaxed), 1);
        now.store(10_000, Ordering::Relaxed);
        process.run();
        assert_eq!((turns.load(Ordering::Relaxed), process.timers.next_us()), (2, Some(20_000)));
    }
}
