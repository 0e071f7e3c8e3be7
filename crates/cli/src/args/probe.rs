//! How a VM's probes are said on the command line.

use clap::Args;
use gantry_types::{Probe, ProbeCheck, ProbeKind};

/// Part of `gantry vm set`.
#[derive(Debug, Default, Args)]
pub struct ProbeOptions {
    /// How its host finds out whether its application serves, also while it runs; with --ha restart it is started again
    /// when this fails: http://:PORT/PATH, tcp://:PORT or exec:/PATH ARGUMENTS. May be given several times; replaces all
    /// liveness probes. Before the colon may stand the network of the card that is asked
    #[arg(long = "probe", value_name = "CHECK", group = "change")]
    pub liveness: Vec<ProbeCheck>,
    /// What has to succeed for the VM to be ready, written as for --probe; replaces all readiness probes
    #[arg(long = "readiness-probe", value_name = "CHECK", group = "change")]
    pub readiness: Vec<ProbeCheck>,
    /// Remove all probes
    #[arg(long, group = "change", conflicts_with_all = ["liveness", "readiness"])]
    pub no_probes: bool,
    /// Of its HTTP probes: the status that is good; any of 200 to 399 if never given
    #[arg(long = "probe-status", value_name = "STATUS", group = "change", value_parser = clap::value_parser!(u16).range(100..=599))]
    pub status: Option<u16>,
    /// Of its HTTP probes: what the answer has to contain
    #[arg(long = "probe-body", value_name = "TEXT", group = "change")]
    pub body: Option<String>,
    /// Of all its probes: for how long after the VM's start failures count for nothing
    #[arg(long = "probe-delay", value_name = "SECONDS", group = "change", value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub initial_delay_s: Option<u32>,
    /// Of all its probes: from one question to the next
    #[arg(long = "probe-period", value_name = "SECONDS", group = "change", value_parser = clap::value_parser!(u32).range(1..=300))]
    pub period_s: Option<u32>,
    /// Of all its probes: an answer that takes longer is none
    #[arg(long = "probe-timeout", value_name = "SECONDS", group = "change", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub timeout_s: Option<u32>,
    /// Of all its probes: so many failures in a row make it fail
    #[arg(long = "probe-failures", value_name = "N", group = "change", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub failure_threshold: Option<u32>,
    /// Of its readiness probes: so many successes in a row make it ready
    #[arg(long = "probe-successes", value_name = "N", group = "change", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub success_threshold: Option<u32>,
}

impl ProbeOptions {
    /// Changes probes as they say.
    pub fn lay_over(&self, probes: &mut Vec<Probe>) {
        if self.no_probes {
            probes.clear();
        }
        for (kind, checks) in [(ProbeKind::Liveness, &self.liveness), (ProbeKind::Readiness, &self.readiness)] {
            if !checks.is_empty() {
                probes.retain(|probe| probe.kind != kind);
                probes.extend(checks.iter().map(|check| Probe::new(kind, check.clone())));
            }
        }
        for probe in probes {
            if let ProbeCheck::HttpGet(http) = &mut probe.check {
                http.status = self.status.or(http.status);
                http.body = self.body.clone().or(http.body.take());
            }
            probe.initial_delay_s = self.initial_delay_s.unwrap_or(probe.initial_delay_s);
            probe.period_s = self.period_s.unwrap_or(probe.period_s);
            probe.timeout_s = self.timeout_s.unwrap_or(probe.timeout_s);
            probe.failure_threshold = self.failure_threshold.unwrap_or(probe.failure_threshold);
            if probe.kind == ProbeKind::Readiness {
                probe.success_threshold = self.success_threshold.unwrap_or(probe.success_threshold);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(probes: &[Probe]) -> Vec<String> {
        probes.iter().map(|probe| format!("{} {} {}", probe.kind, probe.check, probe.period_s)).collect()
    }

    #[test]
    fn probes_of_a_kind_are_replaced_and_their_times_changed() {
        let check = |text: &str| vec![text.parse::<ProbeCheck>().expect("a check")];
        let mut probes = Vec::new();
        let both = ProbeOptions {
            liveness: check("http://:80/health"),
            readiness: check("tcp://:80"),
            body: Some("ok".to_owned()),
            period_s: Some(5),
            success_threshold: Some(2),
            ..ProbeOptions::default()
        };
        both.lay_over(&mut probes);
        assert_eq!(shown(&probes), ["liveness http://:80/health 5", "readiness tcp://:80 5"]);
        assert_eq!((probes[0].success_threshold, probes[1].success_threshold), (1, 2));
        assert!(matches!(&probes[0].check, ProbeCheck::HttpGet(http) if http.body.as_deref() == Some("ok")));
        let other = ProbeOptions { liveness: check("exec:/bin/true"), ..ProbeOptions::default() };
        other.lay_over(&mut probes);
        assert_eq!(shown(&probes), ["readiness tcp://:80 5", "liveness exec:/bin/true 10"]);
        ProbeOptions { no_probes: true, ..ProbeOptions::default() }.lay_over(&mut probes);
        assert_eq!(probes, []);
    }
}
