//! The controller: the whole program but its front end and what only keeps files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::fencing::{FenceAnswer, FenceQuestion};
use gantry_api::heartbeat::{Heartbeat, HeartbeatReply};
use gantry_controller::alarms::built_in;
use gantry_controller::app::cluster;
use gantry_controller::image_library::{ImageLibrary, ImportProgress, ImportRequest, ImportedImage};
use gantry_controller::loops::{self, intake};
use gantry_controller::objects::Objects;
use gantry_controller::power::BuiltInDrivers;
use gantry_controller::{App, Config};
use gantry_ha::{Moment, Timing};
use gantry_store::SharedStore;
use gantry_types::{Name, Problem};
use tokio::sync::mpsc;

use super::hub::{Hub, Request, Server};
use super::process::Process;
use super::store::{Shelf, ShelfStore};
use super::time::{MachineClock, ProgramClock};
use super::user::{self, Wishes};
use super::wire::Wires;
use crate::Planted;

/// What a running controller serves.
pub struct ControllerSide {
    app: Arc<App>,
    grants_despite_fence: bool,
}

impl ControllerSide {
    pub async fn heartbeat(&self, host: &Name, heartbeat: Heartbeat) -> Result<HeartbeatReply, Problem> {
        let mut reply = intake::heartbeat(&self.app, host, heartbeat).await?;
        if let Some(grant) = reply.lease.as_mut().filter(|_| self.grants_despite_fence) {
            grant.fence = None;
        }
        Ok(reply)
    }

    pub fn ask(&self, question: &FenceQuestion) -> FenceAnswer {
        self.app.leases.ask(question, Moment::from(self.app.clock.elapsed()))
    }
}

/// What every life of the controller begins with.
pub struct Seat {
    pub clock: Arc<MachineClock>,
    pub hub: Arc<Hub>,
    pub shelf: Arc<Shelf>,
    pub wishes: Arc<Wishes>,
    pub directory: PathBuf,
    pub planted: Option<Planted>,
}

impl Seat {
    /// Starts it; calls come in by the channel.
    pub fn start(&self) -> io::Result<(Process, mpsc::UnboundedSender<Request>)> {
        let process = Process::new(self.clock.clone())?;
        let (sender, inbox) = mpsc::unbounded_channel();
        let timers = process.timers.clone();
        let clock = Arc::new(ProgramClock::new(timers.clone(), self.hub.ids.clone()));
        let store: SharedStore =
            Arc::new(ShelfStore { shelf: self.shelf.clone(), hub: self.hub.clone(), timers: timers.clone() });
        let knows_all = self.planted == Some(Planted::OldCommands);
        let links = Arc::new(Wires { hub: self.hub.clone(), timers, knows_all });
        let config = config(&self.directory, self.planted);
        let grants_despite_fence = self.planted == Some(Planted::GrantsDespiteFence);
        let (hub, wishes) = (self.hub.clone(), self.wishes.clone());
        process.spawn(async move {
            let began = async {
                let objects = Objects::new(store.clone());
                cluster::ensure_main(&objects, &*clock).await?;
                built_in::ensure(&objects, &*clock).await?;
                let power = Arc::new(BuiltInDrivers::default());
                App::open(config, store, links, Arc::new(NoImages), power, clock).await
            };
            let (app, feed) = began.await.unwrap_or_else(|problem| panic!("the controller can't start: {problem}"));
            let work = loops::deciding(&app, feed);
            let wanted = tokio::spawn(user::run(app.clone(), hub.clone(), wishes));
            serve(Arc::new(ControllerSide { app, grants_despite_fence }), &hub, inbox).await;
            drop((work, wanted));
        });
        Ok((process, sender))
    }
}

fn config(directory: &Path, planted: Option<Planted>) -> Config {
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let timing = match planted {
        Some(Planted::ShortWait) => Timing { lease_ms: Timing::DEFAULT.lease_ms / 2, ..Timing::DEFAULT },
        _ => Timing::DEFAULT,
    };
    Config { timing, ..Config::new(directory, listen, "simulated") }
}

async fn serve(controller: Arc<ControllerSide>, hub: &Arc<Hub>, mut inbox: mpsc::UnboundedReceiver<Request>) {
    while let Some(request) = inbox.recv().await {
        let (hub, server) = (hub.clone(), Server::Controller(controller.clone()));
        tokio::spawn(async move {
            let reply = (request.job)(server).await;
            hub.answer(&request, reply);
        });
    }
}

/// VMs here have empty disks.
struct NoImages;

fn no_images() -> Problem {
    Problem::permanent("no-images", "there are no images here")
}

#[async_trait]
impl ImageLibrary for NoImages {
    async fn fetch(&self, _url: &str, _to: &Path, _progress: ImportProgress) -> Result<(), Problem> {
        Err(no_images())
    }
    async fn import(&self, _request: &ImportRequest, _progress: ImportProgress) -> Result<ImportedImage, Problem> {
        Err(no_images())
    }
    async fn remove(&self, _digest: &str) -> Result<(), Problem> {
        Err(no_images())
    }
    fn path(&self, digest: &str) -> PathBuf {
        PathBuf::from(digest)
    }
}
