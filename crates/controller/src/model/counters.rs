//! What hosts have counted for ports and for groups' rules: the newest report of each, found by port and by group.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use gantry_api::heartbeat::HostTraffic;
use gantry_types::{PortTraffic, RuleTraffic};
use uuid::Uuid;

#[derive(Debug, Default)]
pub struct Counters {
    reports: HashMap<String, HostTraffic>,
    /// Which hosts' reports have a port or a group.
    reported_by: HashMap<Uuid, BTreeSet<String>>,
    /// Since the report before the newest, for each host that has made two.
    rates: HashMap<String, HashMap<Uuid, u64>>,
    /// When a host's newest report came, by the steady clock.
    reported_at: HashMap<String, Duration>,
}

impl Counters {
    /// In the place of what the host has said before; `now` by the steady clock.
    pub fn reported(&mut self, host: &str, report: HostTraffic, now: Duration) {
        let before = self.reports.get(host).zip(self.reported_at.get(host));
        let rates = before.map(|(before, at)| rates(before, &report, now.saturating_sub(*at)));
        self.forget(host);
        self.rates.extend(rates.map(|rates| (host.to_owned(), rates)));
        self.reported_at.insert(host.to_owned(), now);
        for object in report.ports.keys().chain(report.rules.keys()) {
            self.reported_by.entry(*object).or_default().insert(host.to_owned());
        }
        self.reports.insert(host.to_owned(), report);
    }

    /// A host that is no longer one.
    pub fn forget(&mut self, host: &str) {
        self.rates.remove(host);
        self.reported_at.remove(host);
        let Some(report) = self.reports.remove(host) else { return };
        for object in report.ports.keys().chain(report.rules.keys()) {
            if let Some(hosts) = self.reported_by.get_mut(object) {
                hosts.remove(host);
                if hosts.is_empty() {
                    self.reported_by.remove(object);
                }
            }
        }
    }

    /// What a port has counted, wherever its VM is.
    pub fn of_port(&self, port: Uuid) -> Option<PortTraffic> {
        // While a VM moves two hosts know its port; the one that it has run on has counted something.
        let all = self.reports_with(port).filter_map(|report| report.ports.get(&port));
        all.copied().max_by_key(|traffic| traffic.received_packets + traffic.sent_packets)
    }

    /// Bytes a second that guests on the host receive and send, by port; `None` until it has counted twice.
    pub fn bytes_per_s(&self, host: &str) -> Option<&HashMap<Uuid, u64>> {
        self.rates.get(host)
    }

    /// What a group's rule has let through on all hosts.
    pub fn of_rule(&self, group: Uuid, rule: &str) -> RuleTraffic {
        let counted = self.reports_with(group).filter_map(|report| report.rules.get(&group)).flatten();
        let none = RuleTraffic { rule: rule.to_owned(), packets: 0, bytes: 0 };
        counted.filter(|counted| counted.rule == rule).fold(none, |sum, one| RuleTraffic {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
            ..sum
        })
    }

    fn reports_with(&self, object: Uuid) -> impl Iterator<Item = &HostTraffic> {
        self.reported_by.get(&object).into_iter().flatten().filter_map(|host| self.reports.get(host))
    }
}

/// Of ports that both reports have; what has begun to count anew meanwhile has counted nothing.
fn rates(before: &HostTraffic, now: &HostTraffic, elapsed: Duration) -> HashMap<Uuid, u64> {
    let bytes = |traffic: &PortTraffic| traffic.received_bytes + traffic.sent_bytes;
    let rate = |(port, traffic): (&Uuid, &PortTraffic)| {
        let counted = bytes(traffic).saturating_sub(bytes(before.ports.get(port)?));
        Some((*port, (counted as f64 / elapsed.as_secs_f64().max(1.0)) as u64))
    };
    now.ports.iter().filter_map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    const PORT: Uuid = Uuid::from_u128(1);
    const GROUP: Uuid = Uuid::from_u128(2);

    fn report(port_packets: Option<u64>, rule_packets: &[(&str, u64)]) -> HostTraffic {
        let counted = |packets| (PORT, PortTraffic { received_packets: packets, ..PortTraffic::default() });
        let rule = |(rule, packets): &(&str, u64)| RuleTraffic {
            rule: (*rule).to_owned(),
            packets: *packets,
            bytes: packets * 100,
        };
        HostTraffic {
            ports: port_packets.map(counted).into_iter().collect(),
            rules: [(GROUP, rule_packets.iter().map(rule).collect())].into(),
        }
    }

    #[test]
    fn rules_are_summed_over_hosts_and_a_port_is_read_where_it_is() {
        let mut counters = Counters::default();
        assert_eq!((counters.of_port(PORT), counters.of_rule(GROUP, "in").packets), (None, 0));
        counters.reported("one", report(Some(5), &[("in", 7), ("out", 1)]), NOW);
        counters.reported("two", report(Some(0), &[("in", 2)]), NOW);
        assert_eq!(counters.of_port(PORT).unwrap().received_packets, 5);
        let sum = counters.of_rule(GROUP, "in");
        assert_eq!((sum.rule.as_str(), sum.packets, sum.bytes), ("in", 9, 900));
        // The port has moved; its counters begin anew, and the newest report of a host is the one that counts.
        counters.reported("one", report(None, &[("in", 8)]), NOW);
        counters.reported("two", report(Some(3), &[("in", 2)]), NOW);
        assert_eq!(counters.of_port(PORT).unwrap().received_packets, 3);
        assert_eq!((counters.of_rule(GROUP, "in").packets, counters.of_rule(GROUP, "out").packets), (10, 0));
        counters.forget("two");
        assert_eq!((counters.of_port(PORT), counters.of_rule(GROUP, "in").packets), (None, 8));
        counters.forget("one");
        assert!(counters.reported_by.is_empty());
    }

    #[test]
    fn rates_are_of_ports_that_were_counted_twice() {
        let bytes = |received_bytes, sent_bytes| HostTraffic {
            ports: [(PORT, PortTraffic { received_bytes, sent_bytes, ..PortTraffic::default() })].into(),
            rules: Default::default(),
        };
        let mut counters = Counters::default();
        counters.reported("one", bytes(1000, 50), NOW);
        assert_eq!(counters.bytes_per_s("one"), None);
        counters.reported("one", bytes(3000, 1050), 3 * NOW);
        assert_eq!(counters.bytes_per_s("one"), Some(&[(PORT, 1500)].into()));
        // The port's guest was started anew.
        counters.reported("one", bytes(10, 0), 4 * NOW);
        assert_eq!(counters.bytes_per_s("one"), Some(&[(PORT, 0)].into()));
        counters.reported("one", report(None, &[]), 5 * NOW);
        assert_eq!(counters.bytes_per_s("one"), Some(&HashMap::new()));
        counters.forget("one");
        assert_eq!(counters.bytes_per_s("one"), None);
    }
}
