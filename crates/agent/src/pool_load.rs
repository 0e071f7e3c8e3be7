//! How busy pools are: their devices, as the kernel counts (`/proc/diskstats`, Linux Documentation/admin-guide/iostats.rst),
//! and what each guest reads and writes on its volumes.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::vm::node_of;

/// Rates are told each second; one that is older is of a QEMU that has gone.
const RATE_MEMORY: Duration = Duration::from_secs(5);

/// Major and minor number.
type Device = (u32, u32);

/// The devices below pools, as they were when they were last looked at.
#[derive(Default)]
pub(crate) struct Devices(Mutex<HashMap<Device, (Instant, u64)>>);

impl Devices {
    /// Share of the time since the last look that the device below this directory had something to do. `None` at the first
    /// look, and for file systems without a device of their own.
    pub fn busy_percent(&self, directory: &Path) -> Option<u32> {
        let id = fs::metadata(directory).ok()?.dev();
        let device = (rustix::fs::major(id), rustix::fs::minor(id));
        let busy_ms = busy_ms(&fs::read_to_string("/proc/diskstats").ok()?, device)?;
        let now = Instant::now();
        let (then, before_ms) = lock(&self.0).insert(device, (now, busy_ms))?;
        let passed_ms = (now - then).as_millis().max(1) as u64;
        // Counters of a device that was taken out begin anew.
        Some((busy_ms.saturating_sub(before_ms) * 100 / passed_ms).min(100) as u32)
    }
}

/// Milliseconds that this device has spent with I/O so far.
fn busy_ms(diskstats: &str, device: Device) -> Option<u64> {
    diskstats.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let is_it = number(0) == Some(device.0.into()) && number(1) == Some(device.1.into());
        // The tenth counter behind numbers and name.
        if is_it { number(12) } else { None }
    })
}

/// Bytes a second that guests read and write on their volumes here, by the node that QEMU has for each.
#[derive(Default)]
pub(crate) struct VolumeRates(Mutex<HashMap<String, (Instant, u64)>>);

impl VolumeRates {
    pub fn of(&self, volume: Uuid) -> u64 {
        let rates = lock(&self.0);
        let rate = rates.get(&node_of(volume)).filter(|(told, _)| told.elapsed() < RATE_MEMORY);
        rate.map_or(0, |(_, bytes_per_s)| *bytes_per_s)
    }

    pub fn set(&self, node: &str, bytes_per_s: u64) {
        let mut rates = lock(&self.0);
        rates.retain(|_, (told, _)| told.elapsed() < RATE_MEMORY);
        rates.insert(node.to_owned(), (Instant::now(), bytes_per_s));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder makes plain assignments.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counter_of_busy_time_is_found() {
        let text = " 254       0 vda 165 0 4096 20 7 0 88 9 0 1234 29 0 0 0 0 0 0\n \
                    254       1 vda1 1 2 3 4 5 6 7 8 9 77 11\n";
        assert_eq!(busy_ms(text, (254, 0)), Some(1234));
        assert_eq!(busy_ms(text, (254, 1)), Some(77));
        assert_eq!(busy_ms(text, (0, 45)), None);
    }

    #[test]
    fn a_volume_that_nobody_uses_has_no_rate() {
        let (rates, volume) = (VolumeRates::default(), Uuid::new_v4());
        assert_eq!(rates.of(volume), 0);
        rates.set(&node_of(volume), 4096);
        assert_eq!((rates.of(volume), rates.of(Uuid::new_v4())), (4096, 0));
    }
}
