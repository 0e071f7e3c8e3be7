//! The acknowledger outside: receives what `wl seq` and `wl clock` report from inside a guest (see `guest/wl.c`).
//!
//! A number that arrives twice with different guest clocks was made by two executions of the same guest. A datagram
//! that is lost only understates what was acknowledged.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::eventually;
use crate::lab::SETTLE_LIMIT;

const LOOK: Duration = Duration::from_millis(100);

/// Listens until it is dropped.
pub struct Observer {
    address: SocketAddr,
    seen: Arc<Mutex<Sightings>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Everything seen so far.
#[derive(Debug, Clone, Default)]
pub struct Sightings {
    /// Number, guest clock and time of arrival, in the order of arrival.
    pub arrivals: Vec<(u64, u64, Instant)>,
    /// The highest number.
    pub last: u64,
    /// Numbers that arrived with two different guest clocks: the guest ran twice.
    pub doubled: Vec<u64>,
    first_clock: HashMap<u64, u64>,
}

impl Sightings {
    fn note(&mut self, number: u64, guest_ns: u64, at: Instant) {
        let first = *self.first_clock.entry(number).or_insert(guest_ns);
        if first != guest_ns {
            self.doubled.push(number);
        }
        self.last = self.last.max(number);
        self.arrivals.push((number, guest_ns, at));
    }

    /// The longest silence between two arrivals that ends at or after `from` and begins at or before `to`.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let pairs = self.arrivals.windows(2).map(|pair| (pair[0].2, pair[1].2));
        let gaps = pairs.filter(|(begin, end)| *end >= from && *begin <= to).map(|(begin, end)| end - begin);
        gaps.max().unwrap_or_default()
    }

    /// The longest step of the guest's own clock between arrivals of neighbouring numbers.
    pub fn longest_guest_gap(&self) -> Duration {
        let pairs = self.arrivals.windows(2).filter(|pair| pair[1].0 == pair[0].0 + 1);
        Duration::from_nanos(pairs.map(|pair| pair[1].1.saturating_sub(pair[0].1)).max().unwrap_or(0))
    }
}

impl Observer {
    /// Listens on a free port of `address`, in the network namespace of the calling thread.
    pub fn listen(address: IpAddr) -> Result<Self> {
        let socket = UdpSocket::bind((address, 0)).with_context(|| format!("cannot listen on {address}"))?;
        socket.set_read_timeout(Some(LOOK))?;
        let address = socket.local_addr()?;
        let seen = Arc::new(Mutex::new(Sightings::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut datagram = [0u8; 64];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(16) = socket.recv(&mut datagram) else { continue };
                let at = Instant::now();
                let (words, _) = datagram[..16].as_chunks::<8>();
                let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                seen.note(u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]), at);
            }
        });
        Ok(Self { address, seen, stop, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn report(&self) -> Sightings {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The highest number so far.
    pub fn last(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// How many datagrams have arrived.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).arrivals.len()
    }

    /// Waits until so many more have arrived.
    pub async fn goes_on(&self, more: usize) -> Result<()> {
        let before = self.count();
        eventually("the guest goes on writing", SETTLE_LIMIT, async || {
            let now = self.count();
            ensure!(now >= before + more, "{} acknowledgements since", now - before);
            Ok(())
        })
        .await
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_two_clocks_is_doubled_and_one_with_the_same_clock_is_not() {
        let mut seen = Sightings::default();
        let start = Instant::now();
        for (number, clock, at_ms) in [(1, 10, 0), (2, 20, 5), (2, 20, 6), (3, 30, 400), (3, 31, 401)] {
            seen.note(number, clock, start + Duration::from_millis(at_ms));
        }
        assert_eq!((seen.last, seen.doubled.as_slice()), (3, &[3][..]));
        let whole = start..start + Duration::from_secs(1);
        assert_eq!(seen.longest_gap(whole.start, whole.end), Duration::from_millis(394));
        assert_eq!(seen.longest_gap(start + Duration::from_millis(401), whole.end), Duration::from_millis(1));
    }
}
