//! Session tokens of the metadata service: made for one port, good for a while, known to this host only.
//!
//! A guest that has moved to another host, or whose host's agent was restarted, is answered 401 and asks for a new one,
//! as clients do when a token has run out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::Rng;
use uuid::Uuid;

/// A token's life, as its client may choose it.
pub const TTL_RANGE_S: std::ops::RangeInclusive<u64> = 1..=21_600;
/// More than one guest needs at once; the oldest give way.
const PER_PORT: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Tokens {
    by_port: HashMap<Uuid, Vec<Token>>,
}

#[derive(Debug)]
struct Token {
    secret: String,
    until: Instant,
}

impl Tokens {
    /// A new token for `port`.
    pub fn issue(&mut self, port: Uuid, ttl_s: u64, now: Instant) -> String {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let secret = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let tokens = self.by_port.entry(port).or_default();
        tokens.retain(|token| token.until > now);
        if tokens.len() >= PER_PORT {
            tokens.remove(0);
        }
        tokens.push(Token { secret: secret.clone(), until: now + Duration::from_secs(ttl_s) });
        secret
    }

    /// Whether `secret` was issued to `port` and is still good.
    pub fn is_good(&self, port: Uuid, secret: &str, now: Instant) -> bool {
        let tokens = self.by_port.get(&port).into_iter().flatten();
        tokens.filter(|token| token.until > now).any(|token| token.secret == secret)
    }

    /// Forgets the tokens of ports that are gone.
    pub fn retain(&mut self, is_here: impl Fn(Uuid) -> bool) {
        self.by_port.retain(|port, _| is_here(*port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_port_and_its_time() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let now = Instant::now();
        let mut tokens = Tokens::default();
        let token = tokens.issue(one, 10, now);
        assert!(tokens.is_good(one, &token, now + Duration::from_secs(9)));
        assert!(!tokens.is_good(one, &token, now + Duration::from_secs(10)));
        assert!(!tokens.is_good(other, &token, now));
        assert_ne!(tokens.issue(one, 10, now), token);
        for _ in 0..PER_PORT {
            tokens.issue(one, 10, now);
        }
        assert_eq!(tokens.by_port[&one].len(), PER_PORT);
        assert!(!tokens.is_good(one, &token, now), "the oldest gave way");
        tokens.retain(|port| port == other);
        assert!(tokens.by_port.is_empty());
    }
}
