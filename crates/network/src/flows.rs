//! Tracked connections that follow a VM.
//!
//! A group lets a packet in because of the connection it belongs to, and a translated address is known by its connection
//! alone. Both are in the tables of the host a VM runs on. When it moves, the source reads the entries of its ports while
//! the guest stands still, and the destination adds them before the guest runs: with the direction they had, so that
//! each packet is judged as before. Connections of protocols other than TCP and UDP are not moved.
//!
//! What can't be read or added is lost for that connection only: its client sees a connection that stalls, as behind any
//! filter that was restarted.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use gantry_types::{Flow, FlowPlace};
use nix::sched::{CloneFlags, setns};
use uuid::Uuid;

use crate::error::{NetworkError, Result};
use crate::linux::command::Tools;
use crate::linux::conntrack::Conntrack;
use crate::linux::router;
use crate::names;

/// More than a guest of the largest size has: what is above is left to time out.
const LIMIT: usize = 65_536;

/// Where on this host a network's or router's connections are tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: FlowPlace,
    /// By name (`ip netns`); the host's own if absent.
    pub namespace: Option<String>,
    pub zone: u16,
}

/// The connection tables of one host.
#[derive(Clone, Debug, Default)]
pub struct FlowTable {
    host: Option<String>,
}

impl FlowTable {
    /// Of the host with this network namespace; of this process's if absent.
    pub fn of(host: Option<String>) -> Self {
        Self { host }
    }

    /// Where a router's translations are on this host.
    pub fn router(&self, router: Uuid) -> Place {
        let namespace = router::name(&Tools::of(self.host.as_deref()), &names::router_key(router));
        Place { name: FlowPlace::Router(router), namespace: Some(namespace), zone: 0 }
    }

    /// The connections of `addresses`.
    pub async fn flows(&self, place: &Place, addresses: &[IpAddr]) -> Result<Vec<Flow>> {
        let (name, zone, addresses) = (place.name, place.zone, addresses.to_vec());
        let work = move |table: &mut Conntrack| {
            let mut flows = table.flows(name, zone, &addresses)?;
            flows.truncate(LIMIT);
            Ok(flows)
        };
        self.work(place, "read tracked connections", work).await
    }

    /// Adds connections as they were elsewhere; those that are here are left as they are. Answers with what was added.
    pub async fn add(&self, place: &Place, flows: &[Flow]) -> Result<Vec<Flow>> {
        let (zone, flows) = (place.zone, flows.to_vec());
        let work = move |table: &mut Conntrack| {
            let mut added = Vec::new();
            for flow in flows.into_iter().take(LIMIT) {
                if table.add(zone, &flow)? {
                    added.push(flow);
                }
            }
            Ok(added)
        };
        self.work(place, "add tracked connections", work).await
    }

    /// Deletes exactly these connections, if they are here.
    pub async fn delete(&self, place: &Place, flows: &[Flow]) -> Result<()> {
        let (zone, flows) = (place.zone, flows.to_vec());
        let work = move |table: &mut Conntrack| flows.iter().try_for_each(|flow| table.delete(zone, flow));
        self.work(place, "delete tracked connections", work).await
    }

    /// Forgets all connections of `addresses`: what comes is judged by the rules alone.
    pub async fn forget(&self, place: &Place, addresses: &[IpAddr]) -> Result<()> {
        let (name, zone, addresses) = (place.name, place.zone, addresses.to_vec());
        let work = move |table: &mut Conntrack| {
            let flows = table.flows(name, zone, &addresses)?;
            flows.iter().try_for_each(|flow| table.delete(zone, flow))
        };
        self.work(place, "forget tracked connections", work).await
    }

    async fn work<T: Send + 'static>(
        &self,
        place: &Place,
        attempt: &str,
        work: impl FnOnce(&mut Conntrack) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let namespace = place.namespace.clone().or_else(|| self.host.clone());
        let run = move || {
            if let Some(name) = namespace {
                let file = File::open(PathBuf::from("/run/netns").join(name))?;
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            }
            work(&mut Conntrack::open()?)
        };
        // On a thread of its own: a namespace can't be left again for sure.
        let (send, receive) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            // Nobody waits any more for a caller that has gone.
            let _ = send.send(run());
        });
        let done = receive.await.unwrap_or_else(|_| Err(io::Error::other("the thread ended")));
        done.map_err(|source| NetworkError::Flows { attempt: attempt.to_owned(), source })
    }
}
