//! What happens next, and how calls get from one program to another.
//!
//! ```text
//!   caller ── call ──▶ cable ──▶ at the server, zero to two times ──▶ its answer ──▶ cable ──▶ caller, or its limit
//! ```
//! A call that arrives is carried out also when the caller has given it up long ago.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::oneshot;

use super::agent::AgentSide;
use super::controller::ControllerSide;
use super::machine::Start;
use super::streams::Rest;
use super::time::{Timers, TrueTime};
use super::user::Deed;
use crate::faults::Fault;
pub use crate::faults::{CONTROLLER, Node};
use crate::rules::network::Network;

/// Who carries a call out.
#[derive(Clone)]
pub enum Server {
    Controller(Arc<ControllerSide>),
    Agent(Arc<AgentSide>),
}

/// Hands the result to the caller, if it still waits.
pub type Reply = Box<dyn FnOnce() + Send>;
pub type Job = Arc<dyn Fn(Server) -> BoxFuture<'static, Reply> + Send + Sync>;

/// A call on its way.
#[derive(Clone)]
pub struct Request {
    pub from: Node,
    pub to: Node,
    pub what: &'static str,
    pub job: Job,
}

pub enum Event {
    Request(Request),
    Answer {
        from: Node,
        to: Node,
        what: &'static str,
        reply: Reply,
    },
    /// The child that becomes QEMU asks the warden a last time.
    Execute(Start),
    /// One QEMU has sent everything to another.
    RestArrives(Rest),
    WardenLooks {
        node: Node,
        boot: u64,
    },
    /// The hardware watchdog of a machine whose warden was killed.
    WatchdogLooks {
        node: Node,
        boot: u64,
        death: u64,
    },
    Fault(Fault),
    Deed(Deed),
    /// The checkers look.
    Check,
}

/// All of a run that its programs share without knowing.
pub struct Hub {
    pub now: TrueTime,
    pub ids: Arc<AtomicU64>,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    network: Network,
    queue: BTreeMap<(u64, u64), Event>,
    count: u64,
    trace: Trace,
}

/// Everything that has happened, as a number, and as text for whoever wants to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    pub events: u64,
    pub hash: u64,
    is_shown: bool,
}

impl Hub {
    pub fn new(seed: u64, is_shown: bool) -> Arc<Self> {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            network: Network::default(),
            queue: BTreeMap::new(),
            count: 0,
            trace: Trace { events: 0, hash: 0xcbf2_9ce4_8422_2325, is_shown },
        };
        Arc::new(Self { now: TrueTime::default(), ids: Arc::default(), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now_us(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.lock().rng)
    }

    pub fn network<T>(&self, change: impl FnOnce(&mut Network) -> T) -> T {
        change(&mut self.lock().network)
    }

    pub fn put(&self, at_us: u64, event: Event) {
        let mut state = self.lock();
        state.count += 1;
        let key = (at_us, state.count);
        state.queue.insert(key, event);
    }

    pub fn next_us(&self) -> Option<u64> {
        self.lock().queue.keys().next().map(|(at_us, _)| *at_us)
    }
    pub fn take(&self) -> Option<Event> {
        self.lock().queue.pop_first().map(|(_, event)| event)
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        let (now_us, mut state) = (self.now_us(), self.lock());
        let line = format!("{:>11.3} {}", now_us as f64 / 1_000.0, text());
        state.trace.events += 1;
        for byte in line.bytes() {
            // FNV-1a
            state.trace.hash = (state.trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if state.trace.is_shown {
            eprintln!("{line}");
        }
    }
    pub fn trace(&self) -> Trace {
        self.lock().trace
    }

    /// After how long each copy of a message arrives.
    fn deliveries(&self, from: Node, to: Node) -> Vec<u64> {
        let State { rng, network, .. } = &mut *self.lock();
        let delays = network.deliveries(from, to, rng);
        delays.into_iter().map(|delay_ms| delay_ms * 1_000 + rng.random_range(0..1_000)).collect()
    }

    /// Calls another program: what it answers, or `None` if that takes too long.
    pub async fn call<T: Send + 'static>(
        self: Arc<Self>,
        (from, to): (Node, Node),
        what: &'static str,
        (timers, limit): (Arc<Timers>, Duration),
        work: impl Fn(Server) -> BoxFuture<'static, T> + Send + Sync + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let waiting = Arc::new(Mutex::new(Some(sender)));
        let job: Job = Arc::new(move |server| {
            let (work, waiting) = (work(server), Arc::clone(&waiting));
            Box::pin(async move {
                let result = work.await;
                let reply: Reply = Box::new(move || {
                    let sender = waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
                    if let Some(sender) = sender {
                        // Whoever has given it up hears nothing.
                        drop(sender.send(result));
                    }
                });
                reply
            })
        });
        let now_us = self.now_us();
        let request = Request { from, to, what, job: Arc::clone(&job) };
        for delay_us in self.deliveries(from, to) {
            self.put(now_us + delay_us, Event::Request(request.clone()));
        }
        drop(request);
        // While the job is held, an answer that never comes is waited for.
        let answered = tokio::select! {
            biased;
            answered = receiver => answered.ok(),
            () = timers.sleep(limit) => None,
        };
        drop(job);
        answered
    }

    /// Sends what a call has come to on its way back.
    pub fn answer(&self, request: &Request, reply: Reply) {
        let Request { from, to, what, .. } = *request;
        let now_us = self.now_us();
        if let Some(delay_us) = self.deliveries(to, from).into_iter().min() {
            self.put(now_us + delay_us, Event::Answer { from: to, to: from, what, reply });
        }
    }
}
