//! What a host draws at which load, and whose part of it that is.
//!
//! Where a host can't tell what it draws, its SPECpower curve does: watts at 0, 10, … 100 % of its processors, between
//! them linearly (SPECpower_ssj2008, spec.org/power_ssj2008/results).

/// The curve of a host of which none is known: HP ProLiant ML110 G5, as published. Whoever knows better says so in the
/// host's spec.
pub const USUAL_CURVE: [f64; 11] = [93.7, 97.0, 101.0, 105.0, 110.0, 116.0, 121.0, 125.0, 129.0, 133.0, 135.0];

/// Watts at this share of the processors, 0–1.
pub fn watts(curve: &[f64; 11], share: f64) -> f64 {
    let at = share.clamp(0.0, 1.0) * 10.0;
    let low = at.floor() as usize;
    let high = (low + 1).min(10);
    curve[low] + (curve[high] - curve[low]) * (at - at.floor())
}

/// A VM on the host, over some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Consumer {
    /// Processor time that it used, in any unit.
    pub used: f64,
    /// Virtual processors.
    pub cpus: f64,
}

/// Divides what a host drew: what it draws when idle by the VMs' virtual processors, because they keep it awake; the rest
/// by the processor time that each used, the host's own work (`used` in all is more than the VMs' together) being nobody's.
/// Without VMs all of it is nobody's.
pub fn attribute(joules: f64, idle_joules: f64, used: f64, consumers: &[Consumer]) -> Vec<f64> {
    let idle = idle_joules.clamp(0.0, joules.max(0.0));
    let active = (joules - idle).max(0.0);
    let cpus: f64 = consumers.iter().map(|consumer| consumer.cpus).sum();
    let by_vms: f64 = consumers.iter().map(|consumer| consumer.used).sum();
    let used = used.max(by_vms);
    let part = |own: f64, all: f64| if all > 0.0 { own / all } else { 0.0 };
    consumers.iter().map(|one| idle * part(one.cpus, cpus) + active * part(one.used, used)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_curve_is_read_between_its_points() {
        assert_eq!(watts(&USUAL_CURVE, 0.0), 93.7);
        assert_eq!(watts(&USUAL_CURVE, 1.0), 135.0);
        assert!((watts(&USUAL_CURVE, 0.25) - 103.0).abs() < 1e-9);
        assert_eq!(watts(&USUAL_CURVE, 7.0), 135.0);
    }

    #[test]
    fn idle_power_is_shared_by_size_and_the_rest_by_use() {
        let vms = [Consumer { used: 30.0, cpus: 1.0 }, Consumer { used: 10.0, cpus: 3.0 }];
        // 100 J idle as 1 : 3, 40 J by use as 30 : 10 of 80, half of which was the host's own.
        assert_eq!(attribute(140.0, 100.0, 80.0, &vms), [25.0 + 15.0, 75.0 + 5.0]);
        assert_eq!(attribute(140.0, 100.0, 80.0, &[]), [0.0; 0]);
        // It drew less than was thought to be idle.
        assert_eq!(attribute(40.0, 100.0, 0.0, &vms), [10.0, 30.0]);
    }

    proptest! {
        #[test]
        fn nobody_gets_energy_that_was_not_drawn(
            joules in 0.0f64..1e6, idle in 0.0f64..1e6, used in 0.0f64..1e4,
            vms in proptest::collection::vec((0.0f64..1e3, 1u32..64), 0..20),
        ) {
            let vms: Vec<Consumer> =
                vms.into_iter().map(|(used, cpus)| Consumer { used, cpus: cpus.into() }).collect();
            let parts = attribute(joules, idle, used, &vms);
            prop_assert!(parts.iter().all(|part| *part >= 0.0));
            prop_assert!(parts.iter().sum::<f64>() <= joules * (1.0 + 1e-9) + 1e-9);
        }
    }
}
