//! How often a password may be tried. Guessing becomes hopeless; nobody is locked out.
//!
//! Every wrong password costs the address it came from (IPv6: its /64) one of its tries, and the name that was tried one
//! of its own; both come back with time. Tries of a name are not asked of an address from which that user has logged in
//! before: whoever guesses from elsewhere must not keep him out. State is in memory, and bounded.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Tries of an address at once, and how long one takes to come back.
const PER_ADDRESS: Allowance = Allowance { tries: 10, returns_after: Duration::from_secs(6) };
/// Tries of a name from addresses that are new to it.
const PER_NAME: Allowance = Allowance { tries: 60, returns_after: Duration::from_secs(2) };
/// Accounts kept of each sort; those that have used the least are forgotten first.
const KEPT: usize = 10_000;

#[derive(Clone, Copy)]
struct Allowance {
    tries: u32,
    returns_after: Duration,
}

/// Wrong tries that are not forgiven yet.
struct Account {
    used: u32,
    since: Duration,
}

#[derive(Default)]
struct State {
    addresses: HashMap<IpAddr, Account>,
    names: HashMap<String, Account>,
    /// Where a user has logged in, and when last.
    known: HashMap<(String, IpAddr), Duration>,
}

/// See the module's head.
#[derive(Default)]
pub struct LoginThrottle {
    state: Mutex<State>,
}

impl LoginThrottle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a try.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub fn admit(&self, name: &str, address: IpAddr, now: Duration) -> Result<(), Duration> {
        let address = network(address);
        let mut state = self.lock();
        let is_known = state.known.contains_key(&(name.to_owned(), address));
        let by_address = wait(state.addresses.get(&address), PER_ADDRESS, now);
        let by_name = if is_known { Duration::ZERO } else { wait(state.names.get(name), PER_NAME, now) };
        let longest = by_address.max(by_name);
        if !longest.is_zero() {
            return Err(longest);
        }
        charge(&mut state.addresses, address, PER_ADDRESS, now);
        charge(&mut state.names, name.to_owned(), PER_NAME, now);
        Ok(())
    }

    /// The password was right: the try is given back.
    pub fn succeeded(&self, name: &str, address: IpAddr, now: Duration) {
        let address = network(address);
        let mut state = self.lock();
        for account in [state.addresses.get_mut(&address)].into_iter().flatten() {
            account.used = account.used.saturating_sub(1);
        }
        if let Some(account) = state.names.get_mut(name) {
            account.used = account.used.saturating_sub(1);
        }
        if state.known.len() >= KEPT
            && let Some(oldest) = state.known.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
        {
            state.known.remove(&oldest);
        }
        state.known.insert((name.to_owned(), address), now);
    }
}

/// What counts as one sender.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

fn used(account: &Account, allowance: Allowance, now: Duration) -> u32 {
    let returned = now.saturating_sub(account.since).as_millis() / allowance.returns_after.as_millis();
    account.used.saturating_sub(u32::try_from(returned).unwrap_or(u32::MAX))
}

fn wait(account: Option<&Account>, allowance: Allowance, now: Duration) -> Duration {
    match account {
        Some(account) if used(account, allowance, now) >= allowance.tries => {
            let passed_ms = now.saturating_sub(account.since).as_millis() % allowance.returns_after.as_millis();
            allowance.returns_after.saturating_sub(Duration::from_millis(passed_ms as u64))
        }
        _ => Duration::ZERO,
    }
}

fn charge<K: std::hash::Hash + Eq + Clone>(
    accounts: &mut HashMap<K, Account>,
    key: K,
    allowance: Allowance,
    now: Duration,
) {
    if accounts.len() >= KEPT {
        // A tenth at once, so that a flood of senders does not have all accounts looked through for each try.
        let mut by_use: Vec<(u32, K)> =
            accounts.iter().map(|(key, account)| (used(account, allowance, now), key.clone())).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        let forgotten = by_use.iter().enumerate().take_while(|(index, (used, _))| *used == 0 || *index < KEPT / 10);
        for (_, (_, key)) in forgotten {
            accounts.remove(key);
        }
    }
    let account = accounts.entry(key).or_insert(Account { used: 0, since: now });
    let left = used(account, allowance, now);
    if left < account.used {
        // What has passed of the time until the next one returns stays to its credit.
        let returned = account.used - left;
        account.since = if left == 0 { now } else { account.since + allowance.returns_after * returned };
        account.used = left;
    }
    if account.used == 0 {
        account.since = now;
    }
    account.used += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_address_runs_out_of_tries_and_gets_them_back_one_by_one() {
        let throttle = LoginThrottle::default();
        for _ in 0..PER_ADDRESS.tries {
            assert_eq!(throttle.admit("ann", HOME, at(0)), Ok(()));
        }
        assert_eq!(throttle.admit("ann", HOME, at(0)), Err(at(6)));
        assert_eq!(throttle.admit("bob", HOME, at(4)), Err(at(2)), "whatever the name");
        assert_eq!(throttle.admit("ann", HOME, at(6)), Ok(()));
        assert_eq!(throttle.admit("ann", HOME, at(6)), Err(at(6)));
        assert_eq!(throttle.admit("ann", "192.0.2.2".parse().unwrap(), at(6)), Ok(()), "others are not concerned");
        for _ in 0..PER_ADDRESS.tries {
            assert_eq!(throttle.admit("ann", HOME, at(1000)), Ok(()));
        }
    }

    #[test]
    fn right_passwords_cost_nothing() {
        let throttle = LoginThrottle::default();
        for second in 0..100 {
            assert_eq!(throttle.admit("ann", HOME, at(second / 50)), Ok(()));
            throttle.succeeded("ann", HOME, at(second / 50));
        }
    }

    #[test]
    fn who_guesses_from_everywhere_is_slowed_and_the_user_at_his_own_desk_is_not() {
        let throttle = LoginThrottle::default();
        throttle.admit("ann", HOME, at(0)).unwrap();
        throttle.succeeded("ann", HOME, at(0));
        let anywhere = |number: u32| IpAddr::V4((0x0a00_0000 + number).into());
        let admitted = (0..1000).filter(|number| throttle.admit("ann", anywhere(*number), at(0)).is_ok()).count();
        assert_eq!(admitted, PER_NAME.tries as usize);
        assert_eq!(throttle.admit("ann", HOME, at(0)), Ok(()));
    }

    #[test]
    fn all_of_a_v6_network_is_one_sender_and_memory_is_bounded() {
        let throttle = LoginThrottle::default();
        let admitted = (0..100u128)
            .filter(|host| {
                throttle.admit(&host.to_string(), IpAddr::V6((0x2001_0db8 << 96 | host).into()), at(0)).is_ok()
            })
            .count();
        assert_eq!(admitted, PER_ADDRESS.tries as usize);
        for number in 0..2 * KEPT as u32 {
            let _refused = throttle.admit(&number.to_string(), IpAddr::V4(number.into()), at(1));
        }
        let state = throttle.lock();
        assert!(state.addresses.len() <= KEPT && state.names.len() <= KEPT);
    }
}
