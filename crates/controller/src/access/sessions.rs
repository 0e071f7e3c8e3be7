//! Sessions of users who logged in with a password.
//!
//! ```text
//!   login ──▶ open ──used──▶ open          idle limit, lifetime, logout, too many ──▶ gone
//! ```
//! A session is found by the hash of its secret, so that what is in memory opens nothing. It says who logged in, not
//! what he may do: that is looked up with each request, and a session of a user who was deleted, disabled or has
//! another password since is not valid any more (`app::user::of_session`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gantry_trust::RandomSecret;
use gantry_types::{Name, Timestamp, User};
use uuid::Uuid;

use crate::clock::Clock;

/// Sessions of one user; one more ends the one that was used least lately.
const PER_USER: usize = 32;

#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// A session that is not used for this long is over.
    pub idle: Duration,
    /// A session is over after this long, used or not.
    pub lifetime: Duration,
}

/// One login.
#[derive(Debug)]
pub struct Session {
    pub user: Name,
    pub user_uuid: Uuid,
    /// The password it began with.
    pub password_set_at: Option<Timestamp>,
    pub csrf_token: String,
    pub expires_at: Timestamp,
    hash: String,
    /// By the steady clock.
    opened_at: Duration,
    used_at_ms: AtomicU64,
}

impl Session {
    /// Tells it from all others; of no use to anybody else.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    fn used_at(&self) -> Duration {
        Duration::from_millis(self.used_at_ms.load(Ordering::Relaxed))
    }
}

pub struct Sessions {
    limits: SessionLimits,
    by_hash: Mutex<HashMap<String, Arc<Session>>>,
}

impl Sessions {
    pub fn new(limits: SessionLimits) -> Self {
        Self { limits, by_hash: Mutex::default() }
    }

    // A panic while the lock was held leaves a map that is still whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.by_hash.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session for a user who has proved who he is; the secret is the cookie's value.
    pub fn open(&self, user: &User, clock: &dyn Clock) -> (RandomSecret, Arc<Session>) {
        let secret = RandomSecret::create();
        let now = clock.elapsed();
        let lifetime_ms = i64::try_from(self.limits.lifetime.as_millis()).unwrap_or(i64::MAX);
        let session = Arc::new(Session {
            user: user.metadata.name.clone(),
            user_uuid: user.metadata.uuid,
            password_set_at: user.status.password_set_at,
            csrf_token: secret.derived("csrf"),
            expires_at: Timestamp::from_unix_ms(clock.now().unix_ms().saturating_add(lifetime_ms)),
            hash: secret.hash().to_string(),
            opened_at: now,
            used_at_ms: AtomicU64::new(now.as_millis() as u64),
        });
        let mut sessions = self.lock();
        sessions.retain(|_, session| self.is_within_limits(session, now));
        let mut own: Vec<_> = sessions.values().filter(|other| other.user == session.user).cloned().collect();
        own.sort_by_key(|other| other.used_at());
        for oldest in own.iter().take((own.len() + 1).saturating_sub(PER_USER)) {
            sessions.remove(&oldest.hash);
        }
        sessions.insert(session.hash.clone(), Arc::clone(&session));
        (secret, session)
    }

    /// The session that a cookie opens, if it is not over. Using it renews its idle limit.
    pub fn take_up(&self, cookie: &str, clock: &dyn Clock) -> Option<Arc<Session>> {
        let hash = RandomSecret::parse(cookie)?.hash().to_string();
        let now = clock.elapsed();
        let mut sessions = self.lock();
        let session = sessions.get(&hash)?;
        if !self.is_within_limits(session, now) {
            sessions.remove(&hash);
            return None;
        }
        session.used_at_ms.store(now.as_millis() as u64, Ordering::Relaxed);
        Some(Arc::clone(session))
    }

    /// Whether it goes on; looking does not count as use.
    pub fn is_open(&self, session: &Session, clock: &dyn Clock) -> bool {
        self.lock().contains_key(&session.hash) && self.is_within_limits(session, clock.elapsed())
    }

    /// When it ends if it is not used any more.
    pub fn idle_expires_at(&self, session: &Session, clock: &dyn Clock) -> Timestamp {
        let left = (session.used_at() + self.limits.idle).saturating_sub(clock.elapsed());
        let left_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_ms(clock.now().unix_ms().saturating_add(left_ms)).min(session.expires_at)
    }

    pub fn close(&self, session: &Session) {
        self.lock().remove(&session.hash);
    }

    fn is_within_limits(&self, session: &Session, now: Duration) -> bool {
        now < session.opened_at + self.limits.lifetime && now < session.used_at() + self.limits.idle
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use futures::future::BoxFuture;
    use gantry_types::{Role, UserSpec};

    use super::*;

    /// Stands where it is put.
    #[derive(Default)]
    struct Hands(AtomicU64);

    impl Hands {
        fn forward(&self, seconds: u64) {
            self.0.fetch_add(seconds, Ordering::Relaxed);
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_ms(self.elapsed().as_millis() as i64)
        }
        fn elapsed(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
        fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
        fn new_uuid(&self) -> Uuid {
            Uuid::nil()
        }
    }

    fn sessions() -> (Sessions, Hands, User) {
        let limits = SessionLimits { idle: Duration::from_secs(60), lifetime: Duration::from_secs(600) };
        let spec = UserSpec { display_name: None, role: Role::Viewer, consoles: None, disabled: false };
        (Sessions::new(limits), Hands::default(), User::new("ann".parse().unwrap(), spec))
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let (sessions, clock, ann) = sessions();
        let (idle, _) = sessions.open(&ann, &clock);
        let (used, session) = sessions.open(&ann, &clock);
        for _ in 0..9 {
            clock.forward(59);
            assert!(sessions.take_up(&used.to_text(), &clock).is_some());
        }
        assert!(sessions.take_up(&idle.to_text(), &clock).is_none(), "idle");
        assert_eq!(sessions.idle_expires_at(&session, &clock).unix_ms(), 591_000);
        clock.forward(59);
        assert!(sessions.take_up(&used.to_text(), &clock).is_some());
        assert_eq!(sessions.idle_expires_at(&session, &clock), session.expires_at);
        clock.forward(10);
        assert!(!sessions.is_open(&session, &clock) && sessions.take_up(&used.to_text(), &clock).is_none(), "old");
    }

    #[test]
    fn only_its_secret_opens_a_session_and_nothing_after_its_end() {
        let (sessions, clock, ann) = sessions();
        let (secret, session) = sessions.open(&ann, &clock);
        assert!(sessions.take_up(&RandomSecret::create().to_text(), &clock).is_none());
        for wrong in ["", "x", &session.hash, &session.csrf_token] {
            assert!(sessions.take_up(wrong, &clock).is_none(), "{wrong}");
        }
        sessions.close(&session);
        assert!(sessions.take_up(&secret.to_text(), &clock).is_none());
    }

    #[test]
    fn the_least_used_of_too_many_sessions_goes() {
        let (sessions, clock, ann) = sessions();
        let opened: Vec<_> = (0..PER_USER).map(|_| sessions.open(&ann, &clock).0).collect();
        clock.forward(1);
        for secret in &opened[1..] {
            assert!(sessions.take_up(&secret.to_text(), &clock).is_some());
        }
        let (newest, _) = sessions.open(&ann, &clock);
        assert!(sessions.take_up(&opened[0].to_text(), &clock).is_none());
        assert!(sessions.take_up(&opened[1].to_text(), &clock).is_some());
        assert!(sessions.take_up(&newest.to_text(), &clock).is_some());
    }
}
