//! Clients outside: one that asks over HTTP again and again, and one that keeps a single TCP connection.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::guest::http_get;

/// A request that takes longer has failed.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
/// The connection must survive this long a silence.
const ECHO_LIMIT: Duration = Duration::from_secs(60);

/// Asks a guest's HTTP server until stopped, with a new connection each time.
pub struct Prober {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: JoinHandle<ProbeReport>,
}

#[derive(Debug, Clone, Default)]
pub struct ProbeReport {
    pub answered: usize,
    pub failed: usize,
    /// Between the ends of two answered requests.
    pub longest_gap: Duration,
}

impl Prober {
    pub fn start(address: IpAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let answered = Arc::new(AtomicUsize::new(0));
        let so_far = answered.clone();
        let thread = std::thread::spawn(move || {
            let mut report = ProbeReport::default();
            let mut last: Option<Instant> = None;
            while !stopped.load(Ordering::Relaxed) {
                if http_get(address, "/", REQUEST_LIMIT).is_ok() {
                    let now = Instant::now();
                    report.answered = so_far.fetch_add(1, Ordering::Relaxed) + 1;
                    report.longest_gap = report.longest_gap.max(last.map_or(Duration::ZERO, |last| now - last));
                    last = Some(now);
                } else {
                    report.failed += 1;
                }
                std::thread::sleep(PAUSE);
            }
            // A silence that lasts to the end counts, too.
            report.longest_gap = report.longest_gap.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
            report
        });
        Self { stop, answered, thread }
    }

    /// So far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn finish(self) -> Result<ProbeReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the prober panicked")
    }
}

/// One connection to the guest's echo service for as long as it lives. Every number must come back in order.
pub struct EchoClient {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<EchoReport>>,
}

#[derive(Debug, Clone, Default)]
pub struct EchoReport {
    pub exchanged: u64,
    pub slowest: Duration,
}

impl EchoClient {
    pub fn connect(address: IpAddr, port: u16) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), ECHO_LIMIT)
            .with_context(|| format!("cannot connect to the echo service of {address}"))?;
        stream.set_read_timeout(Some(ECHO_LIMIT))?;
        stream.set_nodelay(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut report = EchoReport::default();
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                let sent = (report.exchanged + 1).to_le_bytes();
                let mut answer = [0u8; 8];
                stream.write_all(&sent).context("the long-lived connection broke while sending")?;
                stream.read_exact(&mut answer).context("the long-lived connection broke while receiving")?;
                if answer != sent {
                    bail!("the long-lived connection brought {answer:?} instead of {sent:?}");
                }
                report.exchanged += 1;
                report.slowest = report.slowest.max(started.elapsed());
                std::thread::sleep(PAUSE);
            }
            Ok(report)
        });
        Ok(Self { stop, thread })
    }

    pub fn finish(self) -> Result<EchoReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the echo client panicked")?
    }
}
