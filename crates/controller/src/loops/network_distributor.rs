//! Tells each host what its part of the networks is.
//!
//! What it is, [`compute`] says. The generation is the revision of that snapshot; hosts refuse to go back. Pushes to one host are one after
//! the other, so what is computed later arrives later.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use gantry_types::{Host, HostNetworks, HostState, Name, Problem, Resource};

use super::{load_balancers, router_addresses, woken};
use crate::{app::App, host_networks::compute};

const INTERVAL: Duration = Duration::from_secs(1);
const VANISHED_LOOK: Duration = Duration::from_millis(200);

/// What each host was told last. Empty after a start: then every host is told again.
#[derive(Default)]
pub struct Distributor {
    hosts: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<Option<HostNetworks>>>>>,
}

impl Distributor {
    fn of(&self, host: &Name) -> Arc<tokio::sync::Mutex<Option<HostNetworks>>> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(host.clone()).or_default())
    }
}

pub async fn run(app: Arc<App>) {
    loop {
        woken(&app, &app.wakeups.networks, INTERVAL).await;
        load_balancers::pass(&app).await;
        router_addresses::pass(&app).await;
        pass(&app, None).await;
    }
}

/// Brings every reachable host up to date, but for one. One that vanishes meanwhile is waited for only until it is known to be lost:
/// its connection may take a minute to fail, and the next pass is what tells the others where its VMs are by then.
pub async fn pass(app: &App, but: Option<&Name>) {
    let ready = app.model.list::<Host>().into_iter();
    let ready = ready.filter(|host| is_ready(host) && but.is_none_or(|but| host.metadata.name != *but));
    let pushes = ready.map(|host| async move {
        let name = &host.metadata.name;
        tokio::select! {
            biased;
            pushed = app.distribute(name, false) => if let Err(problem) = pushed {
                tracing::warn!(host = %name, %problem, "its networks are not up to date yet");
            },
            () = vanished(app, name) => tracing::warn!(host = %name, "it is lost, its networks wait for it"),
        }
    });
    join_all(pushes).await;
}

fn is_ready(host: &Host) -> bool {
    host.status.state == HostState::Ready
}

async fn vanished(app: &App, host: &Name) {
    while app.model.get::<Host>(host.as_str()).is_some_and(|host| is_ready(&host)) {
        app.clock.sleep(VANISHED_LOOK).await;
    }
}

impl App {
    /// Makes the networks of this host be as the model has them, before it returns.
    ///
    /// # Errors
    /// The host's; transient ones may be repeated.
    pub async fn distribute_now(&self, host: &Name) -> Result<(), Problem> {
        self.distribute(host, true).await
    }

    /// The same for all hosts: this one must succeed; others that don't are left to the loop, as one is that need not hear
    /// of it at once.
    pub async fn distribute_everywhere(&self, must: &Name, later: &Name) -> Result<(), Problem> {
        let (mine, ()) = futures::join!(self.distribute_now(must), pass(self, Some(later)));
        mine
    }

    async fn distribute(&self, name: &Name, surely: bool) -> Result<(), Problem> {
        let told = self.distributor.of(name);
        let mut told = told.lock().await;
        let Some(host) = self.model.get::<Host>(name.as_str()) else {
            return Err(Problem::not_found(Host::KIND, name.as_str()));
        };
        let agent = self.links.agent(&host);
        if told.is_none() {
            // Ports need the users that VMs run as there; nothing may be pushed before they are known.
            let observations = agent.observe().await?;
            self.model.overlay_mut(|overlay| {
                for observation in &observations {
                    overlay.observed(name.as_str(), observation);
                }
            });
        }
        let networks = self.model.read_at(|tables, revision| {
            let networks = self.model.overlay(|overlay| compute(tables, overlay, name));
            HostNetworks { generation: revision, ..networks }
        });
        let in_force = self.model.overlay(|overlay| overlay.hosts.get(name.as_str()).map(|r| r.networks_generation));
        if let Some(last) = told.as_ref()
            && *last == (HostNetworks { generation: last.generation, ..networks.clone() })
            // A host that has forgotten is told again.
            && (surely || in_force.is_none_or(|generation| generation >= last.generation))
        {
            return Ok(());
        }
        agent.apply_networks(&networks).await?;
        *told = Some(networks);
        Ok(())
    }
}
