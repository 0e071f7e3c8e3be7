//! How people get in: sessions, tickets for consoles, and how often somebody may try.
//!
//! Everything here is in memory only: a controller that restarts has no sessions, so everyone logs in again. Users and
//! their password hashes are objects (`app/user.rs`); cookies and headers are the front end's (`http`).

mod sessions;
mod throttle;
mod tickets;

pub use sessions::{Session, SessionLimits, Sessions};
pub use throttle::LoginThrottle;
pub use tickets::{Admission, TICKET_LIFETIME, Tickets};

use tokio::sync::Semaphore;

/// Password hashes computed at once; each takes 19 MiB and a processor.
const HASHES_AT_ONCE: usize = 2;

/// All of it, for one controller.
pub struct Access {
    pub sessions: Sessions,
    pub throttle: LoginThrottle,
    pub tickets: Tickets,
    pub(crate) hashing: Semaphore,
}

impl Access {
    pub fn new(limits: SessionLimits) -> Self {
        Self {
            sessions: Sessions::new(limits),
            throttle: LoginThrottle::default(),
            tickets: Tickets::default(),
            hashing: Semaphore::new(HASHES_AT_ONCE),
        }
    }
}
