//! Rules between VMs and towards hosts, worked out for one request over all hosts.
//!
//! "Together" asks for at least one matching VM in the same domain, and nothing while there is none anywhere. "Apart"
//! holds in both directions: the request's own rules against the VMs that are placed, and theirs against it.

use std::collections::{BTreeMap, BTreeSet};

use gantry_types::{DomainLevel, Keep, Labels, Selector, Strength, VmRule};

use crate::{
    Reason, Request, Snapshot,
    ledger::{Ledger, Marked},
};

/// What the rules say of each host.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    /// 0, or one more than the index of the reason. Empty if no rule bans anything.
    bans: Vec<u8>,
    reasons: Vec<Reason>,
    /// Number of 'should' rules that the host breaks. Empty if there are none.
    broken: Vec<u16>,
    wishes: u16,
}

impl Masks {
    /// No rule says anything about any host.
    pub fn is_silent(&self) -> bool {
        self.bans.is_empty() && self.broken.is_empty()
    }

    pub fn ban(&self, host: u32) -> Option<u8> {
        self.bans.get(host as usize).copied().filter(|code| *code != 0).map(|code| code - 1)
    }

    pub fn reason(&self, code: u8) -> Reason {
        self.reasons[usize::from(code)].clone()
    }

    /// Share of the 'should' rules that are kept on the host.
    pub fn kept(&self, host: u32) -> f64 {
        match self.broken.get(host as usize) {
            Some(broken) => 1.0 - f64::from(*broken) / f64::from(self.wishes),
            None => 1.0,
        }
    }

    fn apply(&mut self, strength: Strength, reason: Reason, hosts: usize, breaks: impl Fn(usize) -> bool) {
        match strength {
            Strength::Must => {
                self.bans.resize(hosts, 0);
                // Beyond that many the reason that is told is another rule's; the ban holds all the same.
                if self.reasons.len() < 254 {
                    self.reasons.push(reason);
                }
                let code = self.reasons.len() as u8;
                for (host, ban) in self.bans.iter_mut().enumerate().filter(|(_, ban)| **ban == 0) {
                    if breaks(host) {
                        *ban = code;
                    }
                }
            }
            Strength::Should => {
                self.broken.resize(hosts, 0);
                self.wishes += 1;
                for (host, broken) in self.broken.iter_mut().enumerate() {
                    *broken += u16::from(breaks(host));
                }
            }
        }
    }
}

/// `own`: where the VM itself counts at present; it is left out.
pub(crate) fn masks(snapshot: &Snapshot, ledger: &Ledger, request: &Request, own: &[u32]) -> Masks {
    let mut masks = Masks::default();
    let hosts = ledger.rows.len();
    for rule in &request.rules.hosts {
        let reason = Reason::HostRule { keep: rule.keep, selector: rule.selector.clone() };
        masks.apply(rule.strength, reason, hosts, |host| {
            let chosen = snapshot.hosts[host].as_ref().is_some_and(|entry| rule.selector.matches(&entry.labels));
            chosen != (rule.keep == Keep::Together)
        });
    }
    for rule in &request.rules.vms {
        let matching = matching(ledger, &rule.selector, request, own);
        if matching.is_empty() {
            continue;
        }
        let near = near(ledger, rule, matching.keys());
        masks.apply(rule.strength, reason(rule, true), hosts, |host| near[host] != (rule.keep == Keep::Together));
    }
    let speaks_of_it = |held: &&Marked<VmRule>| !held.at.is_empty() && held.what.selector.matches(&request.labels);
    for held in ledger.rules_in_order().filter(speaks_of_it) {
        others_rule(&mut masks, ledger, held, request, own);
    }
    masks
}

/// A rule of VMs that are placed, and that speaks of the request's VM.
fn others_rule(masks: &mut Masks, ledger: &Ledger, held: &Marked<VmRule>, request: &Request, own: &[u32]) {
    let rule = &held.what;
    let holds_it = request.rules.vms.contains(rule);
    let holders: BTreeSet<u32> = held
        .at
        .iter()
        .filter(|(host, count)| **count > u32::from(holds_it && own.contains(host)))
        .map(|(host, _)| *host)
        .collect();
    match rule.keep {
        _ if holders.is_empty() => {}
        Keep::Apart => {
            let near = near(ledger, rule, holders.iter());
            masks.apply(rule.strength, reason(rule, false), ledger.rows.len(), |host| near[host]);
        }
        Keep::Together => {
            // It must not leave a holder that has nobody else.
            let holder_domains = domains(ledger, rule, holders.iter());
            let others = domains(ledger, rule, matching(ledger, &rule.selector, request, own).keys());
            for at in own.iter().map(|host| domain(ledger, rule, *host)) {
                if holder_domains.contains(&at) && !others.contains(&at) {
                    masks.apply(rule.strength, reason(rule, false), ledger.rows.len(), |host| {
                        domain(ledger, rule, host as u32) != at
                    });
                }
            }
        }
    }
}

fn reason(rule: &VmRule, own: bool) -> Reason {
    Reason::VmRule { keep: rule.keep, selector: rule.selector.clone(), domain: rule.domain, own }
}

/// Hosts with VMs that the selector chooses, the request's own VM left out, and how many.
fn matching(ledger: &Ledger, selector: &Selector, request: &Request, own: &[u32]) -> BTreeMap<u32, u32> {
    let mut hosts: BTreeMap<u32, u32> = BTreeMap::new();
    for set in ledger.labels.iter().filter(|set| !set.at.is_empty() && selector.matches(&set.what)) {
        let is_own = |labels: &Labels| *labels == request.labels;
        for (host, count) in &set.at {
            let others = count - u32::from(is_own(&set.what) && own.contains(host));
            if others > 0 {
                *hosts.entry(*host).or_default() += others;
            }
        }
    }
    hosts
}

/// By host: whether it shares its domain with one of `hosts`.
fn near<'a>(ledger: &Ledger, rule: &VmRule, hosts: impl Iterator<Item = &'a u32>) -> Vec<bool> {
    if rule.domain == DomainLevel::Host {
        let mut near = vec![false; ledger.rows.len()];
        hosts.for_each(|host| near[*host as usize] = true);
        return near;
    }
    let domains: Vec<u32> = domains(ledger, rule, hosts).into_iter().collect();
    let is_near = |host: usize| domains.binary_search(&domain(ledger, rule, host as u32)).is_ok();
    (0..ledger.rows.len()).map(is_near).collect()
}

fn domains<'a>(ledger: &Ledger, rule: &VmRule, hosts: impl Iterator<Item = &'a u32>) -> BTreeSet<u32> {
    hosts.map(|host| domain(ledger, rule, *host)).collect()
}

fn domain(ledger: &Ledger, rule: &VmRule, host: u32) -> u32 {
    ledger.rows[host as usize].domains[rule.domain as usize]
}
