//! What hosts have counted for ports and for groups' rules: the newest report of each, found by port and by group.

use std::collections::{BTreeSet, HashMap};

use gantry_api::heartbeat::HostTraffic;
use gantry_types::{PortTraffic, RuleTraffic};
use uuid::Uuid;

#[derive(Debug, Default)]
pub struct Counters {
    reports: HashMap<String, HostTraffic>,
    /// Which hosts' reports have a port or a group.
    reported_by: HashMap<Uuid, BTreeSet<String>>,
}

impl Counters {
    /// In the place of what the host has said before.
    pub fn reported(&mut self, host: &str, report: HostTraffic) {
        self.forget(host);
        for object in report.ports.keys().chain(report.rules.keys()) {
            self.reported_by.entry(*object).or_default().insert(host.to_owned());
        }
        self.reports.insert(host.to_owned(), report);
    }

    /// A host that is no longer one.
    pub fn forget(&mut self, host: &str) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        counters.reported("one", report(Some(5), &[("in", 7), ("out", 1)]));
        counters.reported("two", report(Some(0), &[("in", 2)]));
        assert_eq!(counters.of_port(PORT).unwrap().received_packets, 5);
        let sum = counters.of_rule(GROUP, "in");
        assert_eq!((sum.rule.as_str(), sum.packets, sum.bytes), ("in", 9, 900));
        // The port has moved; its counters begin anew, and the newest report of a host is the one that counts.
        counters.reported("one", report(None, &[("in", 8)]));
        counters.reported("two", report(Some(3), &[("in", 2)]));
        assert_eq!(counters.of_port(PORT).unwrap().received_packets, 3);
        assert_eq!((counters.of_rule(GROUP, "in").packets, counters.of_rule(GROUP, "out").packets), (10, 0));
        counters.forget("two");
        assert_eq!((counters.of_port(PORT), counters.of_rule(GROUP, "in").packets), (None, 8));
        counters.forget("one");
        assert!(counters.reported_by.is_empty());
    }
}
