//! Tickets for consoles: a browser can't send headers with a websocket, and a cookie alone must not open one.
//!
//! A ticket opens one console of one VM, once, within half a minute, for the one who asked for it. Tickets are in
//! memory only, found by the hash of their secret.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use gantry_api::access::ConsoleKind;
use gantry_trust::RandomSecret;
use uuid::Uuid;

pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// Unused tickets; more than this is nobody's intention.
const KEPT: usize = 10_000;

/// What a ticket is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    pub vm: Uuid,
    pub kind: ConsoleKind,
    /// What proved who asked: nobody else can use it.
    pub holder: String,
}

struct Ticket {
    admission: Admission,
    /// By the steady clock.
    expires_at: Duration,
}

#[derive(Default)]
pub struct Tickets {
    by_hash: Mutex<HashMap<String, Ticket>>,
}

impl Tickets {
    pub fn issue(&self, admission: Admission, now: Duration) -> RandomSecret {
        let secret = RandomSecret::create();
        let mut tickets = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|_, ticket| now < ticket.expires_at);
        if tickets.len() >= KEPT
            && let Some(oldest) =
                tickets.iter().min_by_key(|(_, ticket)| ticket.expires_at).map(|(hash, _)| hash.clone())
        {
            tickets.remove(&oldest);
        }
        tickets.insert(secret.hash().to_string(), Ticket { admission, expires_at: now + TICKET_LIFETIME });
        secret
    }

    /// Uses a ticket up, whether it fits or not: one that was tried somewhere else has been seen by somebody else.
    pub fn redeem(&self, shown: &str, wanted: &Admission, now: Duration) -> bool {
        let Some(secret) = RandomSecret::parse(shown) else { return false };
        let mut tickets = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = tickets.remove(&secret.hash().to_string());
        ticket.is_some_and(|ticket| now < ticket.expires_at && ticket.admission == *wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission { vm: Uuid::from_u128(1), kind: ConsoleKind::Serial, holder: "session".into() }
    }

    #[test]
    fn a_ticket_is_good_once_and_for_what_it_was_issued() {
        let (tickets, wanted) = (Tickets::default(), admission());
        let now = Duration::from_secs(1);
        let ticket = tickets.issue(wanted.clone(), now).to_text();
        assert!(tickets.redeem(&ticket, &wanted, now));
        assert!(!tickets.redeem(&ticket, &wanted, now), "a second time");
        for other in [
            Admission { vm: Uuid::from_u128(2), ..wanted.clone() },
            Admission { kind: ConsoleKind::Vnc, ..wanted.clone() },
            Admission { holder: "another session".into(), ..wanted.clone() },
        ] {
            let ticket = tickets.issue(wanted.clone(), now).to_text();
            assert!(!tickets.redeem(&ticket, &other, now), "{other:?}");
            assert!(!tickets.redeem(&ticket, &wanted, now), "it was seen elsewhere");
        }
        let late = tickets.issue(wanted.clone(), now).to_text();
        assert!(!tickets.redeem(&late, &wanted, now + TICKET_LIFETIME));
        assert!(!tickets.redeem("", &wanted, now) && !tickets.redeem(&RandomSecret::create().to_text(), &wanted, now));
    }

    #[test]
    fn unused_tickets_are_bounded() {
        let tickets = Tickets::default();
        for _ in 0..KEPT + 10 {
            tickets.issue(admission(), Duration::ZERO);
        }
        assert_eq!(tickets.by_hash.lock().unwrap().len(), KEPT);
        tickets.issue(admission(), TICKET_LIFETIME);
        assert_eq!(tickets.by_hash.lock().unwrap().len(), 1);
    }
}
