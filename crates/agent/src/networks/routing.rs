//! What of this host's routers and load balancers concerns its VMs.

use std::net::IpAddr;

use gantry_api::{agent::NicAssignment, heartbeat::HostTraffic};
use gantry_network::flows::FlowTable;
use gantry_network::groups::counter_name;
use gantry_network::{NetworkError, tap_name};
use gantry_types::{HealthCheck, HostGroup, HostLinks, HostRouter, PortTraffic, RuleTraffic};
use ipnet::IpNet;
use uuid::Uuid;

use super::{Networks, Place, State};

/// A router that a VM is behind, and what of its table of connections is the VM's.
#[derive(Debug, Clone)]
pub(crate) struct RouterFlows {
    pub router: Uuid,
    /// Addresses of the VM: it has begun these.
    pub own: Vec<IpAddr>,
    /// Floating addresses that lead to it: others have begun these.
    pub floating: Vec<IpAddr>,
}

/// A load balancer's member on this host, and how it is checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemberCheck {
    pub balancer: Uuid,
    pub port: Uuid,
    pub vni: u32,
    pub address: IpAddr,
    pub checked_port: u16,
    pub check: HealthCheck,
}

impl State {
    /// The cards of the VMs whose guests are here, or are about to be.
    fn nics(&self) -> impl Iterator<Item = (&NicAssignment, Place)> {
        let vms = self.vms.values().filter(|ports| !matches!(ports.place, Place::Left(_)));
        vms.flat_map(|ports| ports.nics.iter().map(|nic| (nic, ports.place)))
    }
}

fn is_behind(router: &HostRouter, vni: u32) -> bool {
    router.legs.iter().any(|leg| leg.vni == vni)
}

impl Networks {
    /// The routers that cards are behind.
    pub async fn routers_of(&self, nics: &[NicAssignment]) -> Vec<RouterFlows> {
        let state = self.state.lock().await;
        let of = |router: &HostRouter| {
            let behind = nics.iter().filter(|nic| is_behind(router, nic.vni));
            let own: Vec<IpAddr> = behind.flat_map(NicAssignment::addresses).collect();
            let floating = router.floating.iter().filter(|floating| own.contains(&floating.fixed));
            let floating = floating.map(|floating| floating.address).collect();
            RouterFlows { router: router.uuid, own, floating }
        };
        state.desired.routers.iter().map(of).filter(|flows| !flows.own.is_empty()).collect()
    }

    /// What networks find on this host.
    pub async fn links(&self) -> Result<HostLinks, NetworkError> {
        self.plane.links(self.underlay_address).await
    }

    /// What this host has counted for its ports and their groups.
    pub async fn traffic(&self) -> Result<HostTraffic, NetworkError> {
        let counted = self.plane.traffic().await?;
        let state = self.state.lock().await;
        let port = |nic: &NicAssignment| {
            let tap = counted.taps.get(&tap_name(nic.port))?;
            // What the tap received the guest has sent.
            let traffic = PortTraffic {
                received_bytes: tap.sent_bytes,
                received_packets: tap.sent_packets,
                sent_bytes: tap.received_bytes,
                sent_packets: tap.received_packets,
                spoofed_packets: tap.spoofed_packets,
            };
            Some((nic.port, traffic))
        };
        let rules_of = |group: &HostGroup| {
            let rules = group.rules.iter().zip(&group.shown).filter_map(|(rule, shown)| {
                let (packets, bytes) = *counted.rules.get(&counter_name(group.uuid, rule))?;
                Some(RuleTraffic { rule: shown.clone(), packets, bytes })
            });
            (group.uuid, rules.collect())
        };
        Ok(HostTraffic {
            ports: state.nics().filter_map(|(nic, _)| port(nic)).collect(),
            rules: state.desired.groups.iter().map(rules_of).collect(),
        })
    }

    /// What is checked here, each with whether it was healthy when the controller last spoke of it.
    pub async fn checks(&self) -> Vec<(MemberCheck, bool)> {
        let state = self.state.lock().await;
        let here: Vec<Uuid> =
            state.nics().filter(|(_, place)| *place == Place::Here).map(|(nic, _)| nic.port).collect();
        let members = state.desired.balancers.iter().flat_map(|balancer| {
            let own = balancer.members.iter().filter(|member| here.contains(&member.port));
            own.map(move |member| {
                let check = MemberCheck {
                    balancer: balancer.uuid,
                    port: member.port,
                    vni: member.vni,
                    address: member.address,
                    checked_port: balancer.checked_port,
                    check: balancer.check.clone(),
                };
                (check, member.healthy)
            })
        });
        members.collect()
    }

    /// The routers that no VM of this host is behind and that translate nothing any more. One that can't be looked into
    /// is not among them.
    pub async fn idle_routers(&self) -> Vec<Uuid> {
        let unused: Vec<(Uuid, Vec<IpAddr>)> = {
            let state = self.state.lock().await;
            let has_vm = |router: &HostRouter| state.nics().any(|(nic, _)| is_behind(router, nic.vni));
            let outside = |router: &HostRouter| {
                let own = router.external.iter().flat_map(|external| &external.addresses).map(IpNet::addr);
                (router.uuid, own.collect())
            };
            state.desired.routers.iter().filter(|router| !has_vm(router)).map(outside).collect()
        };
        let mut idle = Vec::new();
        for (router, outside) in unused {
            let table = FlowTable::default();
            match table.flows(&table.router(router), &outside).await {
                Ok(flows) if flows.is_empty() => idle.push(router),
                Ok(_) => {}
                Err(error) => tracing::debug!(%router, %error, "this router's connections can't be counted"),
            }
        }
        idle
    }
}
