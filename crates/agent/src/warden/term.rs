//! Until when what the warden guards may run: its rules without its process.

use gantry_ha::Moment;

/// The lease as the warden was told of it. A warden that was told nothing stops nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Term(Option<Moment>);

impl Term {
    /// A lease only grows longer, except for one that begins: what was said before it ran out can't make it shorter.
    pub fn renew(&mut self, until: Option<Moment>) {
        self.0 = match (self.0, until) {
            (Some(known), Some(until)) => Some(known.max(until)),
            (_, until) => until,
        };
    }

    /// Nothing is let in any more, until the lease is renewed.
    pub fn end(&mut self) {
        self.0 = Some(Moment(0));
    }

    pub fn is_over(&self, now: Moment) -> bool {
        self.0.is_some_and(|until| now >= until)
    }

    /// `None`: never.
    pub fn until(&self) -> Option<Moment> {
        self.0
    }
}
