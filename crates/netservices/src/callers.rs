//! How much one guest may have under way at once, so that it takes nothing from the others of its network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts by caller.
#[derive(Debug, Clone)]
pub(crate) struct Callers {
    limit: usize,
    under_way: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One request or connection under way; ends when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    caller: IpAddr,
    under_way: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Callers {
    pub fn new(limit: usize) -> Self {
        Self { limit, under_way: Arc::default() }
    }

    /// `None` if the caller has as much under way as it may.
    pub fn admit(&self, caller: IpAddr) -> Option<Admission> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let count = under_way.entry(caller).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Admission { caller, under_way: self.under_way.clone() })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_its_own_limit_and_gets_back_what_it_ends() {
        let callers = Callers::new(2);
        let [one, other] = [IpAddr::from([10, 9, 0, 1]), IpAddr::from([10, 9, 0, 2])];
        let (first, _second) = (callers.admit(one).unwrap(), callers.admit(one).unwrap());
        assert!(callers.admit(one).is_none());
        drop(callers.admit(other).unwrap());
        drop(first);
        assert!(callers.admit(one).is_some());
        assert_eq!(callers.under_way.lock().unwrap().len(), 1);
    }
}
