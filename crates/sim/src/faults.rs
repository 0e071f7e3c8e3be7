//! What goes wrong in a run, drawn from its seed before it begins.

use std::ops::Range;

use rand::{RngExt, rngs::StdRng};

/// The controller is 0, host n is n.
pub type Node = usize;
pub const CONTROLLER: Node = 0;
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
    /// The host's agent is killed, and started again, where it has written down something of a move and nobody knows of it
    /// yet. Of machines only.
    DiesWriting(Node),
    /// What would stop the host's VMs is killed; its agent starts another. Of machines only.
    WardenDies(Node),
    /// Nothing gets onto the disk for so long. Of machines only.
    StallDisk(Node, u64),
    /// The clock on the wall is put on or back. Of machines only.
    StepClock(Node, i64),
    /// One more host joins the cluster.
    Join(Node),
    /// Everything is well again.
    Stop,
}

/// To whom it happens.
pub(crate) struct Cast<'a> {
    pub hosts: usize,
    /// Hosts that are not members from the beginning.
    pub joins: &'a [Node],
    /// They have disks and clocks on the wall.
    pub machines: bool,
}

/// The faults of a run, within this time.
pub(crate) fn draw(rng: &mut StdRng, within_ms: Range<u64>, cast: &Cast) -> Vec<(u64, Fault)> {
    let mut faults = Vec::new();
    for _ in 0..rng.random_range(3..14) {
        let at = rng.random_range(within_ms.clone());
        let brief = rng.random_bool(0.3);
        let lasting = if brief { rng.random_range(20..2_500) } else { rng.random_range(2_500..40_000) };
        let (node, host) = (rng.random_range(0..=cast.hosts), rng.random_range(1..=cast.hosts));
        faults.extend(one(rng, node, host, cast, at, (at + lasting).min(within_ms.end)));
    }
    if cast.machines {
        let dying = |rng: &mut StdRng| (rng.random_range(within_ms.clone()), rng.random_range(1..=cast.hosts));
        let count = rng.random_range(0..4);
        faults.extend((0..count).map(|_| dying(rng)).map(|(at, host)| (at, Fault::DiesWriting(host))));
    }
    faults.extend(cast.joins.iter().map(|node| (rng.random_range(within_ms.clone()), Fault::Join(*node))));
    faults
}

fn one(rng: &mut StdRng, node: Node, host: Node, cast: &Cast, at: u64, end: u64) -> Vec<(u64, Fault)> {
    let hosts = cast.hosts;
    let both = |cut: Fault, mend: Fault| vec![(at, cut), (end, mend)];
    match rng.random_range(0..if cast.machines { 15 } else { 12 }) {
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
        11 if cast.machines => vec![(at, Fault::StallDisk(node, end - at))],
        12 => vec![(at, Fault::StepClock(node, rng.random_range(-3 * HOUR_MS..3 * HOUR_MS)))],
        13 => vec![(at, Fault::WardenDies(host))],
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
