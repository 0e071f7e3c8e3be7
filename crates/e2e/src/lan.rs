//! A LAN that every host of a lab is plugged into by an interface of its own, `lan0`. Its switch is a station of it.

use anyhow::Result;
use gantry_types::Host;

use crate::lab::SETTLE_LIMIT;
use crate::peer::Namespace;
use crate::{Lab, eventually};

pub struct Lan(Namespace);

impl Lan {
    /// Plugs all hosts in, and waits until they tell of it.
    pub async fn of(lab: &Lab) -> Result<Self> {
        let lan = Self(Namespace::create()?);
        lan.0.ip(&["link", "add", "switch", "type", "bridge"])?;
        lan.0.ip(&["addr", "add", "192.168.77.1/24", "dev", "switch"])?;
        lan.0.ip(&["link", "set", "switch", "up"])?;
        for host in lab.room().hosts() {
            let namespace = lab.room().layout().host_namespace(host);
            lan.0.ip(&["link", "add", &port(host), "type", "veth", "peer", "name", "lan0", "netns", &namespace])?;
            lan.0.ip(&["link", "set", &port(host), "master", "switch", "up"])?;
        }
        eventually("the hosts tell of the interface", SETTLE_LIMIT, async || {
            let hosts: Vec<Host> = lab.client().list(None).await?;
            let has_it = |host: &Host| {
                let links = host.status.inventory.as_ref().and_then(|inventory| inventory.links.as_ref());
                links.is_some_and(|links| links.interfaces.contains_key("lan0"))
            };
            anyhow::ensure!(hosts.iter().all(has_it), "not all do");
            Ok(())
        })
        .await?;
        Ok(lan)
    }

    /// The network `office`, which continues on it.
    pub async fn network(&self, lab: &Lab) -> Result<()> {
        let create =
            "network create office --type bridged --interface lan0 --subnet 192.168.77.0/24 --reserve 192.168.77.1";
        lab.gantry(&create.split(' ').collect::<Vec<_>>()).await?.ok().map(drop)
    }

    /// Where its stations are.
    pub fn namespace(&self) -> &Namespace {
        &self.0
    }

    /// The switch's end of a host's cable.
    pub fn set_plugged(&self, host: u8, plugged: bool) -> Result<()> {
        self.0.ip(&["link", "set", &port(host), if plugged { "up" } else { "down" }])
    }
}

fn port(host: u8) -> String {
    format!("to-host-{host}")
}
