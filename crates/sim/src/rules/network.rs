//! Cables: cut in one or both directions, losing, repeating and delaying what goes over them.

use std::collections::BTreeSet;

use rand::{RngExt, rngs::StdRng};

use super::events::Node;

#[derive(Debug, Default)]
pub struct Network {
    cut: BTreeSet<(Node, Node)>,
    /// In percent.
    pub loss: u32,
    pub repeats: u32,
    /// In percent: messages that are seconds late.
    pub stragglers: u32,
}

impl Network {
    pub fn cut(&mut self, from: Node, to: Node) {
        self.cut.insert((from, to));
    }
    pub fn mend(&mut self, from: Node, to: Node) {
        self.cut.remove(&(from, to));
    }
    pub fn is_open(&self, from: Node, to: Node) -> bool {
        !self.cut.contains(&(from, to))
    }
    pub fn mend_all(&mut self) {
        *self = Self::default();
    }

    /// After how many milliseconds each copy of a message arrives.
    pub fn deliveries(&self, from: Node, to: Node, rng: &mut StdRng) -> Vec<u64> {
        // What is cut now may still have been sent: a connection sends again when it is mended, if that is soon.
        let late = rng.random_range(0..100) < self.stragglers;
        if (self.cut.contains(&(from, to)) && !late) || rng.random_range(0..100) < self.loss {
            return Vec::new();
        }
        let copies = if rng.random_range(0..100) < self.repeats { 2 } else { 1 };
        let delay = |rng: &mut StdRng| if late { rng.random_range(100..20_000) } else { rng.random_range(1..25) };
        (0..copies).map(|_| delay(rng)).collect()
    }
}
