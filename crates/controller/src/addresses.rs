//! Addresses of a network: which may be handed out, which is next, and the MAC that goes with a port. Pure.

use std::net::IpAddr;

use gantry_types::{MacAddress, Name, Network, NetworkSpec, NicSpec, NicStatus, PortLease, Subnet};
use ipnet::IpNet;
use uuid::Uuid;

/// How many addresses are looked at for a free one; a /8 full of leases would not fit one object anyway.
const MAX_TRIES: usize = 1 << 20;

/// Whether a port may have this address, taken or not.
pub fn is_assignable(subnet: &Subnet, address: IpAddr) -> Result<(), String> {
    if !subnet.cidr.contains(&address) {
        return Err(format!("{address} is not in the subnet {}", subnet.cidr));
    }
    if address == subnet.cidr.network() {
        return Err(format!("{address} is the subnet's own address"));
    }
    if let (IpNet::V4(v4), IpAddr::V4(address)) = (subnet.cidr, address)
        && address == v4.broadcast()
    {
        return Err(format!("{address} is the subnet's broadcast address"));
    }
    if subnet.gateway == Some(address) {
        return Err(format!("{address} is the subnet's gateway"));
    }
    if subnet.reserved.contains(&address) {
        return Err(format!("{address} is reserved in the subnet"));
    }
    Ok(())
}

/// The lowest address that nobody has or is to get.
fn next_free(network: &Network, is_pinned: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let subnet = &network.spec.subnet;
    subnet
        .cidr
        .hosts()
        .take(MAX_TRIES)
        .filter(|address| is_assignable(subnet, *address).is_ok() && !network.status.leases.contains_key(address))
        .find(|address| !is_pinned(*address))
}

/// The port of a VM's n-th card: always the same one.
pub fn port_id(vm: Uuid, index: usize) -> Uuid {
    Uuid::new_v5(&vm, format!("nic-{index}").as_bytes())
}

/// QEMU's prefix and three octets of the port's id; `attempt` gives another one if that is taken.
fn derived_mac(port: Uuid, attempt: u8) -> MacAddress {
    let bytes = port.as_bytes();
    MacAddress::qemu([bytes[0], bytes[1], bytes[2].wrapping_add(attempt)])
}

/// Leases an address and a MAC in `network` to a VM's card; the lease it holds already, if it does.
/// An address that another VM's spec names (`is_pinned`) is given to nobody who does not name it.
///
/// # Errors
/// For people: the address is taken, or all are.
pub fn lease(
    network: &mut Network,
    vm: &Name,
    vm_uuid: Uuid,
    index: usize,
    nic: &NicSpec,
    is_pinned: impl Fn(IpAddr) -> bool,
) -> Result<NicStatus, String> {
    let port = port_id(vm_uuid, index);
    let name = network.metadata.name.clone();
    if let Some((address, held)) = network.status.leases.iter().find(|(_, lease)| lease.port == port) {
        return Ok(NicStatus { network: name, port, mac: held.mac, address: *address });
    }
    let address = match nic.address {
        Some(address) => {
            is_assignable(&network.spec.subnet, address)?;
            if let Some(holder) = network.status.leases.get(&address) {
                return Err(format!("address {address} of network '{name}' is used by VM '{}'", holder.vm));
            }
            address
        }
        None => next_free(network, is_pinned)
            .ok_or_else(|| format!("network '{name}' ({}) has no free address left", network.spec.subnet.cidr))?,
    };
    let taken = |mac: MacAddress| network.status.leases.values().find(|lease| lease.mac == mac);
    let mac = match nic.mac {
        Some(mac) => match taken(mac) {
            Some(holder) => return Err(format!("MAC {mac} of network '{name}' is used by VM '{}'", holder.vm)),
            None => mac,
        },
        None => (0..=u8::MAX)
            .map(|attempt| derived_mac(port, attempt))
            .find(|mac| taken(*mac).is_none())
            .ok_or_else(|| format!("network '{name}' has no free MAC address for this port"))?,
    };
    network.status.leases.insert(address, PortLease { vm: vm.clone(), port, mac });
    Ok(NicStatus { network: name, port, mac, address })
}

/// Takes back everything a VM holds; whether there was anything.
pub fn release(network: &mut Network, vm: &Name) -> bool {
    let before = network.status.leases.len();
    network.status.leases.retain(|_, lease| lease.vm != *vm);
    network.status.leases.len() != before
}

/// All that is wrong with a network's spec by itself, as field and message.
pub fn network_mistakes(spec: &NetworkSpec) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut wrong = |field: &str, message: String| mistakes.push((field.to_owned(), message));
    let cidr = spec.subnet.cidr;
    if let Some(vni) = spec.vni
        && !(1..=0x00ff_ffff).contains(&vni)
    {
        wrong("spec.vni", format!("{vni} is out of range, use 1 to 16777215"));
    }
    if !(576..=8950).contains(&spec.mtu) {
        wrong("spec.mtu", format!("{} is out of range, use 576 to 8950", spec.mtu));
    }
    if cidr.addr() != cidr.network() {
        wrong("spec.subnet.cidr", format!("{cidr} has host bits set; did you mean {}?", cidr.trunc()));
    }
    match cidr {
        IpNet::V4(v4) if !(8..=30).contains(&v4.prefix_len()) => {
            wrong("spec.subnet.cidr", format!("{cidr}: the prefix is out of range, use /8 to /30"));
        }
        IpNet::V6(v6) if !(1..=126).contains(&v6.prefix_len()) => {
            wrong("spec.subnet.cidr", format!("{cidr}: the prefix is out of range, use /1 to /126"));
        }
        _ => {}
    }
    let first = cidr.network();
    if first.is_multicast() || first.is_loopback() || first.is_unspecified() {
        wrong("spec.subnet.cidr", format!("{cidr} is not a range of ordinary addresses"));
    }
    if let Some(gateway) = spec.subnet.gateway
        && let Err(message) =
            is_assignable(&Subnet { gateway: None, reserved: Vec::new(), ..spec.subnet.clone() }, gateway)
    {
        wrong("spec.subnet.gateway", message);
    }
    for (index, address) in spec.subnet.reserved.iter().enumerate() {
        if !cidr.contains(address) {
            wrong(&format!("spec.subnet.reserved[{index}]"), format!("{address} is not in the subnet {cidr}"));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn network(cidr: &str) -> Network {
        let subnet = Subnet { cidr: cidr.parse().unwrap(), gateway: None, dns: vec![], reserved: vec![] };
        let spec = NetworkSpec { vni: None, mtu: 1450, subnet, external_vteps: vec![] };
        Network::new("net".parse().unwrap(), spec)
    }
    fn nic(address: Option<IpAddr>) -> NicSpec {
        NicSpec { network: "net".parse().unwrap(), address, mac: None }
    }

    #[test]
    fn a_full_network_says_so_and_a_freed_address_is_handed_out_again() {
        let mut network = network("10.0.0.0/29");
        network.spec.subnet.gateway = Some("10.0.0.1".parse().unwrap());
        network.spec.subnet.reserved = vec!["10.0.0.6".parse().unwrap()];
        let vm = |n: u128| (format!("vm-{n}").parse::<Name>().unwrap(), Uuid::from_u128(n << 64 | n));
        for n in 0..4 {
            let (name, uuid) = vm(n);
            let got = lease(&mut network, &name, uuid, 0, &nic(None), |_| false).unwrap();
            assert_eq!(got.address, format!("10.0.0.{}", n + 2).parse::<IpAddr>().unwrap());
            // Asking again gives the same.
            assert_eq!(lease(&mut network, &name, uuid, 0, &nic(None), |_| false).unwrap(), got);
        }
        let (name, uuid) = vm(9);
        assert!(lease(&mut network, &name, uuid, 0, &nic(None), |_| false).unwrap_err().contains("no free address"));
        assert!(release(&mut network, &vm(1).0) && !release(&mut network, &vm(1).0));
        let got = lease(&mut network, &name, uuid, 0, &nic(None), |_| false).unwrap();
        assert_eq!(got.address, "10.0.0.3".parse::<IpAddr>().unwrap());
        assert!(release(&mut network, &name));
        let pinned = lease(&mut network, &name, uuid, 0, &nic(None), |address| address == got.address);
        assert!(pinned.unwrap_err().contains("no free address"), "it is kept for the VM that names it");
    }

    #[test]
    fn wrong_networks_are_refused_field_by_field() {
        let fields = |cidr: &str, change: fn(&mut NetworkSpec)| {
            let mut spec = network(cidr).spec;
            change(&mut spec);
            network_mistakes(&spec).into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert!(fields("10.0.0.0/24", |_| ()).is_empty());
        assert!(fields("fd00::/64", |_| ()).is_empty());
        for cidr in ["10.0.0.0/31", "10.0.0.0/7", "10.0.0.1/24", "fd00::/127", "224.0.0.0/24", "127.0.0.0/8"] {
            assert_eq!(fields(cidr, |_| ()), ["spec.subnet.cidr"], "{cidr}");
        }
        assert_eq!(
            fields("10.0.0.0/24", |spec| {
                spec.vni = Some(1 << 24);
                spec.mtu = 9000;
                spec.subnet.gateway = Some("10.0.0.255".parse().unwrap());
                spec.subnet.reserved = vec!["10.0.1.0".parse().unwrap()];
            }),
            ["spec.vni", "spec.mtu", "spec.subnet.gateway", "spec.subnet.reserved[0]"]
        );
    }

    proptest! {
        #[test]
        fn no_two_ports_share_an_address_or_a_mac(ids in proptest::collection::vec(any::<u128>(), 1..40), prefix in 24u8..=30) {
            let mut network = network(&format!("10.0.0.0/{prefix}"));
            let mut seen = BTreeSet::new();
            let mut macs = BTreeSet::new();
            for (n, id) in ids.iter().enumerate() {
                let name: Name = format!("vm-{n}").parse().unwrap();
                if let Ok(got) = lease(&mut network, &name, Uuid::from_u128(*id), n, &nic(None), |_| false) {
                    prop_assert!(seen.insert(got.address) && macs.insert(got.mac));
                    prop_assert!(is_assignable(&network.spec.subnet, got.address).is_ok());
                }
            }
        }
    }
}
