//! What goes wrong in a run, drawn from its seed before it begins.

use rand::{RngExt, rngs::StdRng};

use super::events::{CONTROLLER, Event, Node, Queue};

/// Faults begin after a quiet time and end here.
pub const FAULTS_FROM_MS: u64 = 5_000;
pub const FAULTS_UNTIL_MS: u64 = 90_000;

#[derive(Debug, Clone)]
pub enum Fault {
    Cut(Node, Node),
    Mend(Node, Node),
    Loss(u32),
    Repeats(u32),
    Stragglers(u32),
    /// The program is gone; guests and the warden of a host go on.
    Crash(Node),
    Restart(Node),
    /// SIGSTOP, SIGCONT.
    Freeze(Node),
    Continue(Node),
    PowerOff(Node),
    PowerOn(Node),
    GuestDies(Node),
    /// One more host joins the cluster.
    Join(Node),
    /// Everything is well again.
    Stop,
}

/// Puts this run's faults into the queue. `joins`: hosts that are not members from the beginning.
pub fn draw(queue: &mut Queue, rng: &mut StdRng, hosts: usize, joins: &[Node]) {
    for _ in 0..rng.random_range(3..14) {
        let at = rng.random_range(FAULTS_FROM_MS..FAULTS_UNTIL_MS);
        let lasting = if rng.random_bool(0.3) { rng.random_range(20..2_500) } else { rng.random_range(2_500..40_000) };
        let end = (at + lasting).min(FAULTS_UNTIL_MS);
        let node = rng.random_range(0..=hosts);
        let host = rng.random_range(1..=hosts);
        for (at, fault) in one(rng, node, host, hosts, at, end) {
            queue.put(at, Event::Fault(fault));
        }
    }
    for node in joins {
        queue.put(rng.random_range(FAULTS_FROM_MS..FAULTS_UNTIL_MS), Event::Fault(Fault::Join(*node)));
    }
    queue.put(FAULTS_UNTIL_MS, Event::Fault(Fault::Stop));
}

fn one(rng: &mut StdRng, node: Node, host: Node, hosts: usize, at: u64, end: u64) -> Vec<(u64, Fault)> {
    let both = |cut: Fault, mend: Fault| vec![(at, cut), (end, mend)];
    match rng.random_range(0..12) {
        0 => both(Fault::Crash(node), Fault::Restart(node)),
        1 => both(Fault::Freeze(node), Fault::Continue(node)),
        2 => both(Fault::Freeze(host), Fault::Continue(host)),
        3 => both(Fault::PowerOff(host), Fault::PowerOn(host)),
        4 => vec![(at, Fault::GuestDies(host))],
        5 => both(Fault::Loss(rng.random_range(5..60)), Fault::Loss(0)),
        6 => both(Fault::Repeats(50), Fault::Repeats(0)),
        7 => both(Fault::Stragglers(rng.random_range(5..40)), Fault::Stragglers(0)),
        8 => both(Fault::Cut(host, node), Fault::Mend(host, node)),
        9 => both(Fault::Cut(node, host), Fault::Mend(node, host)),
        10 => (0..=hosts).filter(|other| *other != host).flat_map(|other| cable(host, other, at, end)).collect(),
        _ => {
            // The cluster falls into two parts.
            let side: Vec<bool> = (0..=hosts).map(|_| rng.random_bool(0.5)).collect();
            let pairs = (0..=hosts).flat_map(|a| (CONTROLLER..a).map(move |b| (a, b)));
            pairs.filter(|(a, b)| side[*a] != side[*b]).flat_map(|(a, b)| cable(a, b, at, end)).collect()
        }
    }
}

fn cable(a: Node, b: Node, at: u64, end: u64) -> Vec<(u64, Fault)> {
    vec![(at, Fault::Cut(a, b)), (at, Fault::Cut(b, a)), (end, Fault::Mend(a, b)), (end, Fault::Mend(b, a))]
}
