//! Hosts in order of their score, kept for a batch: many VMs of one shape cost one look at all hosts.
//!
//! Exact: what comes out is what looking at every host would give. It serves requests that every host judges by its row
//! alone, so those to which no rule speaks; when a host's row changes it is judged anew for every shape.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use gantry_types::Labels;
use uuid::Uuid;

use crate::{Request, Snapshot, ask::Ask, ledger::Ledger};

/// Shapes that are kept; a batch with more of them looks at every host for the rest.
const MOST_SHAPES: usize = 64;

/// A host as it was judged.
struct Judged {
    score: f64,
    rank: u32,
    host: u32,
    /// Of the host's row when it was judged.
    version: u32,
}

impl Judged {
    fn key(&self) -> (f64, Reverse<u32>) {
        (self.score, Reverse(self.rank))
    }
}

impl Ord for Judged {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((score, rank), (others, other_rank)) = (self.key(), other.key());
        score.total_cmp(&others).then(rank.cmp(&other_rank))
    }
}
impl PartialOrd for Judged {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Judged {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Judged {}

struct Shape {
    /// As the first request of this shape was, without what makes it that VM's.
    request: Request,
    /// Highest score first, then lowest name.
    hosts: BinaryHeap<Judged>,
}

#[derive(Default)]
pub(crate) struct Rankings {
    shapes: Vec<Shape>,
    /// By host.
    versions: Vec<u32>,
}

impl Rankings {
    pub fn new(hosts: usize) -> Self {
        Self { shapes: Vec::new(), versions: vec![0; hosts] }
    }

    /// The best host for the request. `None` if it is none of those that are served here, or if no host will do.
    pub fn best(&mut self, ask: &Ask<'_>) -> Option<(u32, f64)> {
        if !serves(ask) {
            return None;
        }
        let shape = self.shape(ask)?;
        let hosts = &mut self.shapes[shape].hosts;
        while hosts.peek().is_some_and(|judged| judged.version != self.versions[judged.host as usize]) {
            hosts.pop();
        }
        hosts.peek().map(|judged| (judged.host, judged.score))
    }

    fn shape(&mut self, ask: &Ask<'_>) -> Option<usize> {
        let own = shape_of(ask.request);
        if let Some(known) = self.shapes.iter().position(|shape| shape.request == own) {
            return Some(known);
        }
        if self.shapes.len() == MOST_SHAPES {
            return None;
        }
        let versions = &self.versions;
        let present = (0..ask.ledger.rows.len() as u32).filter(|host| ask.ledger.rows[*host as usize].present);
        let hosts = present.filter_map(|host| judge(ask, host, versions[host as usize])).collect();
        self.shapes.push(Shape { request: own, hosts });
        Some(self.shapes.len() - 1)
    }

    /// The host's row has changed: what it was judged to be is void.
    pub fn changed(&mut self, snapshot: &Snapshot, ledger: &Ledger, host: u32) {
        self.versions[host as usize] += 1;
        let version = self.versions[host as usize];
        for shape in &mut self.shapes {
            shape.hosts.extend(judge(&Ask::by_rows(snapshot, ledger, &shape.request), host, version));
        }
    }
}

/// Whether each host's row alone decides.
fn serves(ask: &Ask<'_>) -> bool {
    let request = ask.request;
    ask.own.is_empty()
        && ask.only.is_none()
        && ask.except.is_none()
        && ask.failover.is_none()
        && request.rules.is_empty()
        && ask.masks.is_silent()
}

fn shape_of(request: &Request) -> Request {
    Request { vm: Uuid::nil(), labels: Labels::default(), ..request.clone() }
}

fn judge(ask: &Ask<'_>, host: u32, version: u32) -> Option<Judged> {
    ask.obstacle(host).is_none().then(|| Judged {
        score: ask.score(host),
        rank: ask.ledger.rows[host as usize].rank,
        host,
        version,
    })
}
