//! The energy account: what each host drew, hour by hour, and each VM's part of it.
//!
//! One file for each hour in the data directory; the current hour is in memory and written every minute, so a controller
//! that is killed loses a minute of figures and nothing else depends on them. Time in which no controller ran, or a host
//! was not heard, is not made up: every row says how long it accounts for.

mod report;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gantry_placement::energy::{Consumer, USUAL_CURVE, attribute, watts};
use gantry_types::{EnergySource, Host, HostState, Labels, Name, Timestamp, Vm};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::App;
pub use report::report;

const HOUR_S: u64 = 3600;
/// Hours that are kept.
const KEPT_HOURS: u64 = 35 * 24;
/// A longer gap between two looks is time in which nothing was seen.
const LONGEST_STEP: Duration = Duration::from_secs(60);

/// What something drew within one hour.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drawn {
    pub joules: f64,
    pub seconds: f64,
    pub source: EnergySource,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VmDrawn {
    pub name: Name,
    /// As they were last in this hour.
    #[serde(default)]
    pub labels: Labels,
    pub drawn: Drawn,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hour {
    /// Hours since the Unix epoch.
    pub hour: u64,
    pub hosts: BTreeMap<Name, Drawn>,
    pub vms: BTreeMap<Uuid, VmDrawn>,
}

#[derive(Default)]
struct Book {
    current: Hour,
    /// When it was last looked, and each host's counter then: the agent's instance and joules.
    looked: Option<Duration>,
    counters: BTreeMap<Name, (Uuid, f64)>,
}

/// What a host draws, as of the last look, and its VMs' parts of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Draw {
    pub watts: f64,
    pub vms: HashMap<Uuid, f64>,
}

/// See the module's head.
pub struct EnergyBook {
    directory: PathBuf,
    book: Mutex<Book>,
    /// By host. Replaced as a whole, so that nobody waits for a look.
    draws: Mutex<Arc<HashMap<Name, Draw>>>,
}

/// What one host drew since the last look.
struct Step {
    joules: f64,
    idle_joules: f64,
    source: EnergySource,
}

impl EnergyBook {
    /// Goes on with the hour that was begun.
    pub fn open(directory: &Path, now: Timestamp) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let book = Self { directory: directory.to_owned(), book: Mutex::default(), draws: Mutex::default() };
        let hour = hour_of(now);
        book.lock().current = book.read(hour).unwrap_or(Hour { hour, ..Hour::default() });
        Ok(book)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each host draws, as of the last look.
    pub(crate) fn draws(&self) -> Arc<HashMap<Name, Draw>> {
        Arc::clone(&self.draws.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn path(&self, hour: u64) -> PathBuf {
        self.directory.join(format!("{hour:08}.json"))
    }

    /// `None` if nothing is known of it; a damaged file is told of and left as it is.
    fn read(&self, hour: u64) -> Option<Hour> {
        let path = self.path(hour);
        let text = fs::read(&path).ok()?;
        match serde_json::from_slice(&text) {
            Ok(hour) => Some(hour),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an hour of the energy account is unreadable");
                None
            }
        }
    }

    /// Every hour from this one on that something is known of.
    pub(crate) fn since(&self, hour: u64) -> Vec<Hour> {
        let current = self.lock().current.clone();
        let oldest = current.hour.saturating_sub(KEPT_HOURS);
        let earlier = (hour.max(oldest)..current.hour).filter_map(|hour| self.read(hour));
        earlier.chain([current.clone()]).collect()
    }

    /// Looks at every host: what it drew since the last look, and for whom.
    pub fn account(&self, app: &App) {
        let (now, elapsed) = (app.clock.now(), app.clock.elapsed());
        let mut book = self.lock();
        if book.current.hour != hour_of(now) {
            let ended = std::mem::replace(&mut book.current, Hour { hour: hour_of(now), ..Hour::default() });
            self.write(&ended);
        }
        let step = book.looked.replace(elapsed).map_or(Duration::ZERO, |looked| elapsed.saturating_sub(looked));
        let mut draws = HashMap::new();
        app.model.read(|tables| {
            let mut on: HashMap<&str, Vec<&Vm>> = HashMap::new();
            for vm in tables.vms.values().filter(|vm| vm.status.phase.may_execute()) {
                if let Some(host) = &vm.status.host {
                    on.entry(host.as_str()).or_default().push(vm);
                }
            }
            for host in tables.hosts.values().filter(|host| host.status.state == HostState::Ready) {
                let vms = on.remove(host.metadata.name.as_str()).unwrap_or_default();
                if let Some(draw) = account_host(app, &mut book, host, &vms, step) {
                    draws.insert(host.metadata.name.clone(), draw);
                }
            }
        });
        *self.draws.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(draws);
    }

    /// Writes the current hour, and drops those that are too old.
    pub fn sync(&self) {
        let current = self.lock().current.clone();
        self.write(&current);
        let oldest = current.hour.saturating_sub(KEPT_HOURS);
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let hour = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            if hour.is_some_and(|hour| hour < oldest) {
                drop(fs::remove_file(path));
            }
        }
    }

    fn write(&self, hour: &Hour) {
        let written = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            file.write_all(&serde_json::to_vec(hour)?)?;
            file.as_file().sync_all()?;
            file.persist(self.path(hour.hour))?;
            Ok(())
        };
        if let Err(error) = written() {
            tracing::error!(%error, "the energy account can't be written; check the data directory");
        }
    }
}

/// `None` if nothing can be said of this step.
fn account_host(app: &App, book: &mut Book, host: &Host, vms: &[&Vm], step: Duration) -> Option<Draw> {
    let name = &host.metadata.name;
    let (instance, metrics) = app.model.overlay(|overlay| {
        let report = overlay.hosts.get(name.as_str())?;
        Some((report.agent_instance, report.metrics))
    })?;
    let before = match metrics.energy_joules {
        Some(joules) => book.counters.insert(name.clone(), (instance, joules)),
        None => book.counters.remove(name),
    };
    // A controller that slept, or has just begun, has not seen what happened.
    if step.is_zero() || step > LONGEST_STEP {
        return None;
    }
    let seconds = step.as_secs_f64();
    let curve = host.spec.curve().unwrap_or(USUAL_CURVE);
    let idle_joules = curve[0] * seconds;
    // Counters of another agent began elsewhere.
    let measured = metrics.energy_joules.zip(before.filter(|(of, _)| *of == instance));
    let drawn = match measured {
        Some((now, (_, before))) => {
            Step { joules: (now - before).max(0.0), idle_joules, source: EnergySource::Measured }
        }
        None => Step {
            joules: watts(&curve, metrics.cpu_percent / 100.0) * seconds,
            idle_joules,
            source: EnergySource::Estimated,
        },
    };
    add(book.current.hosts.entry(name.clone()).or_insert(nothing(drawn.source)), drawn.joules, seconds, drawn.source);
    let cpus = host.status.inventory.as_ref().map_or(1, |inventory| inventory.cpu.count);
    let used = app.model.overlay(|overlay| {
        let used = |vm: &&Vm| overlay.vm_metrics.get(&vm.metadata.uuid).map_or(0.0, |metrics| metrics.cpu_percent);
        vms.iter().map(used).collect::<Vec<f64>>()
    });
    let consumers: Vec<Consumer> =
        vms.iter().zip(used).map(|(vm, used)| Consumer { used, cpus: f64::from(vm.spec.cpus) }).collect();
    let in_use = metrics.cpu_percent * f64::from(cpus);
    let parts = attribute(drawn.joules, drawn.idle_joules, in_use, &consumers);
    let mut draw = Draw { watts: drawn.joules / seconds, vms: HashMap::new() };
    for (vm, joules) in vms.iter().zip(parts) {
        draw.vms.insert(vm.metadata.uuid, joules / seconds);
        let fresh = || VmDrawn {
            name: vm.metadata.name.clone(),
            labels: vm.metadata.labels.clone(),
            drawn: nothing(drawn.source),
        };
        let own = book.current.vms.entry(vm.metadata.uuid).or_insert_with(fresh);
        own.labels.clone_from(&vm.metadata.labels);
        add(&mut own.drawn, joules, seconds, drawn.source);
    }
    Some(draw)
}

fn nothing(source: EnergySource) -> Drawn {
    Drawn { joules: 0.0, seconds: 0.0, source }
}

fn add(to: &mut Drawn, joules: f64, seconds: f64, source: EnergySource) {
    to.source = to.source.with(source);
    to.joules += joules;
    to.seconds += seconds;
}

fn hour_of(moment: Timestamp) -> u64 {
    moment.since(Timestamp::UNIX_EPOCH).as_secs() / HOUR_S
}
