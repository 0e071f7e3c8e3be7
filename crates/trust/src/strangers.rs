//! How many connections each address has that showed no certificate.
//!
//! Owned here: the count. A place is given back when its holder is dropped: when the peer has shown a certificate, or
//! when the socket is closed. Nothing waits here; who finds no place is closed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

/// Who counts as one: an IPv4 address, or the /64 that one IPv6 machine has all of.
type Origin = IpAddr;

#[derive(Clone)]
pub(crate) struct Strangers {
    limit: usize,
    open: Arc<Mutex<HashMap<Origin, usize>>>,
}

/// A place, given back when it is dropped.
pub(crate) struct StrangerPlace {
    origin: Origin,
    strangers: Strangers,
}

impl Strangers {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, open: Arc::default() }
    }

    /// `None` if this address has as many as it may.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<StrangerPlace> {
        let origin = origin_of(address);
        let mut open = self.open();
        let count = open.entry(origin).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(StrangerPlace { origin, strangers: self.clone() })
    }

    // Nothing panics while it is held; the count would be right anyway.
    fn open(&self) -> MutexGuard<'_, HashMap<Origin, usize>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for StrangerPlace {
    fn drop(&mut self) {
        let mut open = self.strangers.open();
        if let Some(count) = open.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.origin);
            }
        }
    }
}

fn origin_of(address: IpAddr) -> Origin {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_own_places_and_gets_them_back() {
        let strangers = Strangers::new(1);
        let enter = |address: &str| strangers.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        let other = enter("192.0.2.2").unwrap();
        let six = enter("2001:db8::1").unwrap();
        assert!(enter("2001:db8::ffff:1").is_none(), "one machine has the whole /64");
        assert!(enter("2001:db8:0:1::1").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        drop((other, six));
        assert!(strangers.open().is_empty());
    }
}
