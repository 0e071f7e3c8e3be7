//! What goes wrong in a run, drawn from its seed before it begins.

use rand::{RngExt, rngs::StdRng};

use super::hub::{CONTROLLER, Event, Hub, Node};

/// Faults begin after a quiet time, in which everything is made, and end here.
pub const FROM_MS: u64 = 20_000;
pub const UNTIL_MS: u64 = 110_000;
const HOUR_MS: i64 = 3_600_000;

#[derive(Debug, Clone, Copy)]
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
    /// Nothing gets onto the disk for so long.
    StallDisk(Node, u64),
    /// The clock on the wall is put on or back.
    StepClock(Node, i64),
    /// One more host joins the cluster.
    Join(Node),
    /// Everything is well again.
    Stop,
}

/// This run's faults. `joins`: hosts that are not members from the beginning.
pub fn draw(hub: &Hub, hosts: usize, joins: &[Node]) -> Vec<(u64, Fault)> {
    hub.draw(|rng| {
        let mut faults = Vec::new();
        for _ in 0..rng.random_range(3..14) {
            let at = rng.random_range(FROM_MS..UNTIL_MS);
            let brief = rng.random_bool(0.3);
            let lasting = if brief { rng.random_range(20..2_500) } else { rng.random_range(2_500..40_000) };
            let (node, host) = (rng.random_range(0..=hosts), rng.random_range(1..=hosts));
            faults.extend(one(rng, node, host, hosts, at, (at + lasting).min(UNTIL_MS)));
        }
        faults.extend(joins.iter().map(|node| (rng.random_range(FROM_MS..UNTIL_MS), Fault::Join(*node))));
        faults
    })
}

pub fn put(hub: &Hub, faults: &[(u64, Fault)]) {
    for (at_ms, fault) in faults.iter().copied().chain([(UNTIL_MS, Fault::Stop)]) {
        hub.put(at_ms * 1_000, Event::Fault(fault));
    }
}

fn one(rng: &mut StdRng, node: Node, host: Node, hosts: usize, at: u64, end: u64) -> Vec<(u64, Fault)> {
    let both = |cut: Fault, mend: Fault| vec![(at, cut), (end, mend)];
    match rng.random_range(0..14) {
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
        11 => vec![(at, Fault::StallDisk(node, end - at))],
        12 => vec![(at, Fault::StepClock(node, rng.random_range(-3 * HOUR_MS..3 * HOUR_MS)))],
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
