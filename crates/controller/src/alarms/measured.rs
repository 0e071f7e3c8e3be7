//! What the metrics of alarms are, kind by kind.

use gantry_types::{
    AlarmMetric, Host, HostState, LeaseStanding, Network, Pool, PoolHealth, PowerState, ProbeKind, Resource, Vm,
    VmPhase, Volume,
};

use super::seen::Seen;
use crate::{address_supply::scarcest, model::Kind, subnets::of_network};

/// A kind of object that alarms have metrics of.
pub trait Measured: Kind {
    /// `None` if nobody can say now.
    fn measure(&self, metric: AlarmMetric, seen: &Seen<'_>) -> Option<f64>;
    /// Why it is as it is, for people.
    fn cause(&self, metric: AlarmMetric, seen: &Seen<'_>) -> Option<String>;
}

fn so(is_so: bool) -> Option<f64> {
    Some(f64::from(u8::from(is_so)))
}

impl Measured for Host {
    fn measure(&self, metric: AlarmMetric, seen: &Seen<'_>) -> Option<f64> {
        let report = || seen.overlay.hosts.get(self.name()).filter(|_| self.status.state == HostState::Ready);
        match metric {
            AlarmMetric::HostLost => so(self.status.state == HostState::Lost),
            AlarmMetric::HostUnfenced => so(self.status.fence.as_ref().is_some_and(|fence| fence.proof.is_none())),
            AlarmMetric::HostLeaseless => {
                let lease = report()?.lease.as_ref()?;
                so(lease.standing == LeaseStanding::Lapsed || lease.problem.is_some())
            }
            AlarmMetric::HostCpuPercent => Some(report()?.metrics.cpu_percent),
            AlarmMetric::HostMemoryPercent => {
                let whole = self.status.inventory.as_ref()?.memory.bytes();
                (whole > 0).then_some(report()?.metrics.memory_used.bytes() as f64 * 100.0 / whole as f64)
            }
            _ => None,
        }
    }

    fn cause(&self, metric: AlarmMetric, _: &Seen<'_>) -> Option<String> {
        match metric {
            AlarmMetric::HostUnfenced => Some(self.status.fence.as_ref()?.record.why.clone()),
            _ => None,
        }
    }
}

impl Measured for Vm {
    fn measure(&self, metric: AlarmMetric, seen: &Seen<'_>) -> Option<f64> {
        let status = &self.status;
        let has_failed = status.phase == VmPhase::Failed;
        match metric {
            AlarmMetric::VmFailed => so(has_failed && self.spec.power == PowerState::Running),
            AlarmMetric::VmNotRestarted => {
                let waits = status.displaced.as_ref().is_some_and(|displaced| displaced.waits.is_some());
                so(waits || has_failed && status.ha.given_up)
            }
            AlarmMetric::VmUnhealthy => {
                let is_failing = status.probes.iter().any(|probe| probe.is_failing(ProbeKind::Liveness));
                so(is_failing || status.ha.unhealthy.is_some())
            }
            AlarmMetric::VmCpuPercent => match status.phase {
                VmPhase::Running => Some(seen.overlay.vm_metrics.get(&self.metadata.uuid)?.cpu_percent),
                _ => Some(0.0),
            },
            _ => None,
        }
    }

    fn cause(&self, metric: AlarmMetric, _: &Seen<'_>) -> Option<String> {
        match metric {
            AlarmMetric::VmFailed | AlarmMetric::VmNotRestarted => self.status.reason.clone(),
            AlarmMetric::VmUnhealthy => {
                let probe = self.status.probes.iter().find(|probe| probe.is_failing(ProbeKind::Liveness));
                self.status.ha.unhealthy.clone().or_else(|| probe?.message.clone())
            }
            _ => None,
        }
    }
}

impl Measured for Pool {
    fn measure(&self, metric: AlarmMetric, seen: &Seen<'_>) -> Option<f64> {
        let health = self.status.health;
        if health == PoolHealth::Unknown {
            return None;
        }
        match metric {
            AlarmMetric::PoolNearlyFull => so(matches!(health, PoolHealth::NearlyFull | PoolHealth::Full)),
            AlarmMetric::PoolUnhealthy => {
                so(!matches!(health, PoolHealth::Healthy | PoolHealth::NearlyFull | PoolHealth::Full))
            }
            AlarmMetric::PoolUsedPercent => {
                let mut shown = self.clone();
                shown.lay_over(seen.overlay);
                Some(shown.status.space?.used_percent() as f64)
            }
            _ => None,
        }
    }

    fn cause(&self, metric: AlarmMetric, _: &Seen<'_>) -> Option<String> {
        match metric {
            AlarmMetric::PoolUsedPercent => None,
            _ => self.status.reason.clone(),
        }
    }
}

impl Measured for Volume {
    fn measure(&self, metric: AlarmMetric, seen: &Seen<'_>) -> Option<f64> {
        let report = seen.volume(self)?;
        match metric {
            AlarmMetric::VolumeAllocatedPercent => {
                Some(report.allocated.bytes() as f64 * 100.0 / self.spec.size.bytes().max(1) as f64)
            }
            AlarmMetric::VolumeBytesPerS => Some(report.io_bytes_per_s as f64),
            _ => None,
        }
    }

    fn cause(&self, _: AlarmMetric, _: &Seen<'_>) -> Option<String> {
        self.status.vm.as_ref().map(|vm| format!("it is attached to VM '{vm}'"))
    }
}

impl Measured for Network {
    fn measure(&self, metric: AlarmMetric, seen: &Seen<'_>) -> Option<f64> {
        match metric {
            AlarmMetric::NetworkAddressesPercent => {
                Some(scarcest(self, &of_network(seen.tables, self))?.used_percent())
            }
            AlarmMetric::NetworkBytesPerS => seen.network_bytes_per_s(&self.metadata.name).map(|rate| rate as f64),
            AlarmMetric::NetworkUnlinked => so(!seen.unlinked(&self.metadata.name).is_empty()),
            _ => None,
        }
    }

    fn cause(&self, metric: AlarmMetric, seen: &Seen<'_>) -> Option<String> {
        match metric {
            AlarmMetric::NetworkAddressesPercent => {
                let supply = scarcest(self, &of_network(seen.tables, self))?;
                let family = if supply.is_v4 { "IPv4" } else { "IPv6" };
                Some(format!("{} of {} of {family}", supply.held, supply.all))
            }
            AlarmMetric::NetworkUnlinked => Some(seen.unlinked(&self.metadata.name).join("; ")),
            _ => None,
        }
    }
}

/// How it is, and why, for people.
pub fn told<T: Measured>(object: &T, metric: AlarmMetric, value: f64, seen: &Seen<'_>) -> String {
    let what = match metric {
        AlarmMetric::HostLost => "does not report".to_owned(),
        AlarmMetric::HostUnfenced => "is being shut out, and nothing proves yet that its VMs are stopped".to_owned(),
        AlarmMetric::HostLeaseless => "can't run protected VMs: its lease has lapsed, or its warden is gone".to_owned(),
        AlarmMetric::HostCpuPercent => format!("uses {value:.0} % of its processors"),
        AlarmMetric::HostMemoryPercent => format!("uses {value:.0} % of its memory"),
        AlarmMetric::VmFailed => "has failed".to_owned(),
        AlarmMetric::VmNotRestarted => "is not started again".to_owned(),
        AlarmMetric::VmUnhealthy => "does not serve".to_owned(),
        AlarmMetric::VmCpuPercent => format!("uses {value:.0} % of a processor"),
        AlarmMetric::PoolUsedPercent => format!("is {value:.0} % full"),
        AlarmMetric::PoolNearlyFull => "is nearly full".to_owned(),
        AlarmMetric::PoolUnhealthy => "can't be used".to_owned(),
        AlarmMetric::VolumeAllocatedPercent => format!("takes {value:.0} % of its size in its pool"),
        AlarmMetric::VolumeBytesPerS => format!("reads and writes {:.1} MB a second", value / 1e6),
        AlarmMetric::NetworkAddressesPercent => format!("has given {value:.0} % of its addresses"),
        AlarmMetric::NetworkBytesPerS => format!("carries {:.1} MB a second for its guests", value / 1e6),
        AlarmMetric::NetworkUnlinked => "does not reach all hosts".to_owned(),
    };
    let cause = object.cause(metric, seen).map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{} '{}' {what}{cause}", T::KIND, object.name())
}
