//! One VM: where it goes, and the same decision explained.

use std::{collections::BTreeMap, fmt};

use gantry_types::{Arch, ByteSize, Name};
use serde::Serialize;

use crate::{
    Reason, Request, Snapshot, TermScore,
    ask::Ask,
    ledger::Ledger,
    rankings::Rankings,
    score::{table, total},
};

/// Where the VM goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    pub host: Name,
    /// Before the VM took its share.
    pub free_memory: ByteSize,
    pub score: f64,
    /// The host sleeps and must be woken first.
    pub asleep: bool,
}

/// No host will do.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub refused: BTreeMap<Name, Reason>,
}

/// Chooses a host: of those that fulfil all constraints the one with the highest score; the name breaks ties, so the
/// same snapshot always gives the same answer. The time it takes grows linearly with the number of hosts.
///
/// # Errors
/// If no host fulfils all constraints: every host with its reason, by name.
pub fn place(snapshot: &Snapshot, request: &Request) -> Result<Placement, Refusal> {
    place_on(snapshot, &snapshot.ledger, request).map(|(_, placement)| placement)
}

pub(crate) fn place_on(snapshot: &Snapshot, ledger: &Ledger, request: &Request) -> Result<(u32, Placement), Refusal> {
    let ask = Ask::new(snapshot, ledger, request);
    seat(&ask, best(&ask))
}

/// The same, where hosts are kept in order.
pub(crate) fn place_ranked(
    snapshot: &Snapshot,
    ledger: &Ledger,
    rankings: &mut Rankings,
    request: &Request,
) -> Result<(u32, Placement), Refusal> {
    let ask = Ask::new(snapshot, ledger, request);
    let ranked = rankings.best(&ask);
    // Every test of batches is one of this.
    debug_assert!(ranked.is_none() || ranked == best(&ask), "{ranked:?} is not the best host");
    seat(&ask, ranked.or_else(|| best(&ask)))
}

fn seat(ask: &Ask<'_>, best: Option<(u32, f64)>) -> Result<(u32, Placement), Refusal> {
    let Some((host, score)) = best else {
        return Err(refusal(ask));
    };
    let placement = Placement {
        host: ask.snapshot.name_of(host).clone(),
        free_memory: ask.free_memory(host),
        score,
        asleep: ask.ledger.rows[host as usize].asleep,
    };
    Ok((host, placement))
}

/// The host with the highest score and, among equals, the lowest name.
pub(crate) fn best(ask: &Ask<'_>) -> Option<(u32, f64)> {
    let mut best: Option<(u32, f64)> = None;
    let rank = |host: u32| ask.ledger.rows[host as usize].rank;
    for host in hosts(ask) {
        if ask.obstacle(host).is_some() {
            continue;
        }
        let score = ask.score(host);
        let better = best.is_none_or(|(other, most)| score > most || (score == most && rank(host) < rank(other)));
        if better {
            best = Some((host, score));
        }
    }
    best
}

fn hosts<'a>(ask: &'a Ask<'_>) -> impl Iterator<Item = u32> + 'a {
    let rows = ask.ledger.rows.iter().enumerate();
    rows.filter(|(_, row)| row.present).map(|(host, _)| host as u32)
}

fn refusal(ask: &Ask<'_>) -> Refusal {
    let told = |host| {
        let reason = ask.obstacle(host).map(|obstacle| ask.reason(host, obstacle))?;
        Some((ask.snapshot.name_of(host).clone(), reason))
    };
    Refusal { refused: hosts(ask).filter_map(told).collect() }
}

/// One host's part in a decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostVerdict {
    pub host: Name,
    /// It fulfils all constraints.
    pub fits: bool,
    /// Why it was not chosen; absent for the chosen one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Terms whose weight is not 0; empty if it does not fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<TermScore>,
}

/// A decision with all its reasons: the chosen host first, then by score, then those that won't do by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub chosen: Option<Name>,
    /// Where it is now, if it is somewhere.
    pub current: Option<Name>,
    pub hosts: Vec<HostVerdict>,
}

/// Says what [`place`] would answer, and why.
pub fn explain(snapshot: &Snapshot, request: &Request) -> Explanation {
    let ask = Ask::new(snapshot, &snapshot.ledger, request);
    let weights = snapshot.settings.weights.values();
    let chosen = best(&ask);
    let mut verdicts: Vec<HostVerdict> = hosts(&ask)
        .map(|host| {
            let name = snapshot.name_of(host).clone();
            if let Some(obstacle) = ask.obstacle(host) {
                let reason = Some(ask.reason(host, obstacle).to_string());
                return HostVerdict { host: name, fits: false, reason, score: None, terms: vec![] };
            }
            let values = ask.values(host);
            let score = total(&values, weights);
            let lower =
                |(best, most): (u32, f64)| (best != host).then(|| Reason::LowerScore { score, best: most }.to_string());
            HostVerdict {
                host: name,
                fits: true,
                reason: chosen.and_then(lower),
                score: Some(score),
                terms: table(&values, weights),
            }
        })
        .collect();
    let chosen = chosen.map(|(host, _)| snapshot.name_of(host).clone());
    verdicts.sort_by(|a, b| {
        let rank = |verdict: &HostVerdict| (Some(&verdict.host) != chosen.as_ref(), !verdict.fits);
        let score = |verdict: &HostVerdict| verdict.score.unwrap_or(f64::NEG_INFINITY);
        rank(a).cmp(&rank(b)).then_with(|| score(b).total_cmp(&score(a))).then_with(|| a.host.cmp(&b.host))
    });
    let current = snapshot.vm(request.vm).and_then(|vm| vm.host.clone());
    Explanation { chosen, current, hosts: verdicts }
}

impl Refusal {
    /// The architecture that no host has a QEMU for, if nothing else is in the way.
    pub fn missing_arch(&self) -> Option<Arch> {
        let archs: Option<Vec<_>> = self
            .refused
            .values()
            .filter(|reason| !matches!(reason, Reason::NotTheOneAskedFor | Reason::Excluded))
            .map(|reason| match reason {
                Reason::CannotRun { arch } => Some(*arch),
                _ => None,
            })
            .collect();
        archs?.first().copied()
    }
}

/// Above so many hosts, those with the same reason are told together.
const TOLD_ONE_BY_ONE: usize = 8;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.refused.is_empty() {
            return f.write_str("there are no hosts");
        }
        // With one host asked for, the others are of no interest.
        let told: Vec<_> = self.refused.iter().filter(|(_, reason)| **reason != Reason::NotTheOneAskedFor).collect();
        if told.is_empty() {
            return f.write_str("the host asked for does not exist");
        }
        if told.len() <= TOLD_ONE_BY_ONE {
            let told: Vec<_> = told.iter().map(|(host, reason)| format!("{host} {reason}")).collect();
            return f.write_str(&told.join("; "));
        }
        let mut grouped: BTreeMap<String, Vec<&Name>> = BTreeMap::new();
        for (host, reason) in told {
            grouped.entry(reason.to_string()).or_default().push(host);
        }
        let mut grouped: Vec<_> = grouped.into_iter().collect();
        grouped.sort_by(|(a_text, a), (b_text, b)| b.len().cmp(&a.len()).then_with(|| a_text.cmp(b_text)));
        let lines = grouped.iter().take(TOLD_ONE_BY_ONE).map(|(reason, hosts)| match hosts.as_slice() {
            [host] => format!("{host} {reason}"),
            _ => format!("{} hosts, among them {}: each {reason}", hosts.len(), hosts[0]),
        });
        f.write_str(&lines.collect::<Vec<_>>().join("; "))?;
        let rest: usize = grouped.iter().skip(TOLD_ONE_BY_ONE).map(|(_, hosts)| hosts.len()).sum();
        if rest > 0 { write!(f, "; and {rest} hosts for other reasons") } else { Ok(()) }
    }
}

impl std::error::Error for Refusal {}
