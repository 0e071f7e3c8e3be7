//! Addresses of a network: which may be handed out, which is next, and the MAC that goes with a port. Pure.

use std::net::IpAddr;

use gantry_types::{MacAddress, Name, Network, PortLease, Subnet};
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

/// The same in whichever of a network's subnets the address is in.
pub fn is_assignable_in(subnets: &[Subnet], address: IpAddr) -> Result<(), String> {
    match subnets.iter().find(|subnet| subnet.cidr.contains(&address)) {
        Some(subnet) => is_assignable(subnet, address),
        None => Err(format!("{address} is in no subnet of the network ({})", listed(subnets))),
    }
}

fn listed(subnets: &[Subnet]) -> String {
    let cidrs: Vec<_> = subnets.iter().map(|subnet| subnet.cidr.to_string()).collect();
    if cidrs.is_empty() { "it has none".to_owned() } else { cidrs.join(", ") }
}

/// The lowest address of a subnet that nobody has or is to get.
fn next_free(network: &Network, subnet: &Subnet, is_pinned: &impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let may_be_chosen = |address: &IpAddr| {
        is_assignable(subnet, *address).is_ok() && !network.status.leases.contains_key(address) && !is_pinned(*address)
    };
    if subnet.ranges.is_empty() {
        return subnet.cidr.hosts().take(MAX_TRIES).find(may_be_chosen);
    }
    subnet.ranges.iter().find_map(|range| addresses_of(range).take(MAX_TRIES).find(may_be_chosen))
}

fn addresses_of(range: &gantry_types::AddressRange) -> Box<dyn Iterator<Item = IpAddr>> {
    match (range.first, range.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Box::new((u32::from(first)..=u32::from(last)).map(|number| IpAddr::V4(number.into())))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Box::new((u128::from(first)..=u128::from(last)).map(|number| IpAddr::V6(number.into())))
        }
        // A range is of one family.
        _ => Box::new(std::iter::empty()),
    }
}

/// The port of a VM's n-th card, unless one was made beforehand: always the same one.
pub fn port_id(vm: Uuid, index: usize) -> Uuid {
    Uuid::new_v5(&vm, format!("nic-{index}").as_bytes())
}

/// QEMU's prefix and three octets of the port's id; `attempt` gives another one if that is taken.
fn derived_mac(port: Uuid, attempt: u8) -> MacAddress {
    let bytes = port.as_bytes();
    MacAddress::qemu([bytes[0], bytes[1], bytes[2].wrapping_add(attempt)])
}

/// Who wants addresses, and which.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    pub port: Uuid,
    pub vm: Option<&'a Name>,
    /// `port/db`, if no VM has it.
    pub holder: Option<String>,
    /// One of each family of the network that is not among these is chosen besides.
    pub addresses: &'a [IpAddr],
    pub mac: Option<MacAddress>,
}

/// What a port has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    pub mac: MacAddress,
    /// IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// Leases addresses and a MAC in `network`; those that the port holds already, if it does.
/// An address that another VM's spec names (`is_pinned`) is given to nobody who does not name it.
///
/// # Errors
/// For people: an address is taken, or all are. Nothing is changed then.
pub fn lease(
    network: &mut Network,
    subnets: &[Subnet],
    claim: &Claim<'_>,
    is_pinned: impl Fn(IpAddr) -> bool,
) -> Result<Leased, String> {
    let name = &network.metadata.name;
    let held: Vec<_> = network.status.leases.iter().filter(|(_, lease)| lease.port == claim.port).collect();
    if let Some((_, first)) = held.first() {
        return Ok(Leased { mac: first.mac, addresses: held.iter().map(|(address, _)| **address).collect() });
    }
    if subnets.is_empty() {
        return Err(format!("network '{name}' has no subnet; make one: gantry apply -f FILE with kind: subnet"));
    }
    let mut addresses = Vec::new();
    for address in claim.addresses {
        is_assignable_in(subnets, *address)?;
        if let Some(holder) = network.status.leases.get(address) {
            return Err(format!("address {address} of network '{name}' is used by {}", holder.described()));
        }
        addresses.push(*address);
    }
    for is_v4 in [true, false] {
        let of_family: Vec<_> = subnets.iter().filter(|subnet| subnet.cidr.addr().is_ipv4() == is_v4).collect();
        if of_family.is_empty() || addresses.iter().any(|address| address.is_ipv4() == is_v4) {
            continue;
        }
        let free = of_family.iter().find_map(|subnet| next_free(network, subnet, &is_pinned));
        let cidrs: Vec<_> = of_family.iter().map(|subnet| subnet.cidr.to_string()).collect();
        addresses
            .push(free.ok_or_else(|| format!("network '{name}' ({}) has no free address left", cidrs.join(", ")))?);
    }
    addresses.sort_unstable();
    let mac = free_mac(network, claim)?;
    for address in &addresses {
        let lease = PortLease { vm: claim.vm.cloned(), holder: claim.holder.clone(), port: claim.port, mac };
        network.status.leases.insert(*address, lease);
    }
    Ok(Leased { mac, addresses })
}

fn free_mac(network: &Network, claim: &Claim<'_>) -> Result<MacAddress, String> {
    let name = &network.metadata.name;
    let taken = |mac: MacAddress| network.status.leases.values().find(|lease| lease.mac == mac);
    match claim.mac {
        Some(mac) => match taken(mac) {
            Some(holder) => Err(format!("MAC {mac} of network '{name}' is used by {}", holder.described())),
            None => Ok(mac),
        },
        None => (0..=u8::MAX)
            .map(|attempt| derived_mac(claim.port, attempt))
            .find(|mac| taken(*mac).is_none())
            .ok_or_else(|| format!("network '{name}' has no free MAC address for this port")),
    }
}

/// Takes back what the ports hold; whether there was anything.
pub fn release(network: &mut Network, ports: &[Uuid]) -> bool {
    let before = network.status.leases.len();
    network.status.leases.retain(|_, lease| !ports.contains(&lease.port));
    network.status.leases.len() != before
}

/// Writes down whose a port's addresses are now; whether that is new.
pub fn hand_over(network: &mut Network, port: Uuid, vm: Option<&Name>, holder: Option<&str>) -> bool {
    let before = network.status.leases.clone();
    for lease in network.status.leases.values_mut().filter(|lease| lease.port == port) {
        lease.vm = vm.cloned();
        lease.holder = holder.map(str::to_owned);
    }
    network.status.leases != before
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gantry_types::NetworkSpec;
    use proptest::prelude::*;

    use super::*;

    fn network(cidr: &str) -> (Network, Subnet) {
        let subnet = Subnet::new(cidr.parse().unwrap());
        (Network::new("net".parse().unwrap(), NetworkSpec::with_subnet(subnet.clone())), subnet)
    }
    fn claim(vm: &Name, port: u128) -> Claim<'_> {
        Claim { port: Uuid::from_u128(port << 64 | port), vm: Some(vm), holder: None, addresses: &[], mac: None }
    }

    #[test]
    fn a_full_network_says_so_and_a_freed_address_is_handed_out_again() {
        let (mut network, mut subnet) = network("10.0.0.0/29");
        subnet.gateway = Some("10.0.0.1".parse().unwrap());
        subnet.reserved = vec!["10.0.0.6".parse().unwrap()];
        let subnets = [subnet];
        let vm: Name = "vm".parse().unwrap();
        for n in 0..4 {
            let got = lease(&mut network, &subnets, &claim(&vm, n), |_| false).unwrap();
            assert_eq!(got.addresses, [format!("10.0.0.{}", n + 2).parse::<IpAddr>().unwrap()]);
            // Asking again gives the same.
            assert_eq!(lease(&mut network, &subnets, &claim(&vm, n), |_| false).unwrap(), got);
        }
        let last = claim(&vm, 9);
        assert!(lease(&mut network, &subnets, &last, |_| false).unwrap_err().contains("no free address"));
        let second = [claim(&vm, 1).port];
        assert!(release(&mut network, &second) && !release(&mut network, &second));
        let got = lease(&mut network, &subnets, &last, |_| false).unwrap();
        assert_eq!(got.addresses, ["10.0.0.3".parse::<IpAddr>().unwrap()]);
        assert!(release(&mut network, &[last.port]));
        let pinned = lease(&mut network, &subnets, &last, |address| got.addresses.contains(&address));
        assert!(pinned.unwrap_err().contains("no free address"), "it is kept for the VM that names it");
    }

    #[test]
    fn a_port_gets_an_address_of_each_family_from_the_ranges() {
        let (mut network, mut four) = network("10.0.0.0/24");
        four.ranges = vec!["10.0.0.100-10.0.0.101".parse().unwrap()];
        let subnets = [four, Subnet::new("fd00::/64".parse().unwrap())];
        let vm: Name = "vm".parse().unwrap();
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        let got = lease(&mut network, &subnets, &claim(&vm, 1), |_| false).unwrap();
        assert_eq!(got.addresses, [of("10.0.0.100"), of("fd00::1")]);
        // An address that is asked for may be outside the ranges, not outside the subnets or another's.
        for (wanted, problem) in [("10.0.0.100", "used by VM 'vm'"), ("10.1.0.1", "in no subnet"), ("10.0.0.0", "own")]
        {
            let addresses = [of(wanted)];
            let refused = lease(&mut network, &subnets, &Claim { addresses: &addresses, ..claim(&vm, 2) }, |_| false);
            assert!(refused.unwrap_err().contains(problem), "{wanted}");
        }
        let addresses = [of("10.0.0.7")];
        let got = lease(&mut network, &subnets, &Claim { addresses: &addresses, ..claim(&vm, 2) }, |_| false);
        assert_eq!(got.unwrap().addresses, [of("10.0.0.7"), of("fd00::2")]);
        assert!(hand_over(&mut network, claim(&vm, 2).port, None, Some("port/p")));
        assert_eq!(network.status.leases[&of("10.0.0.7")].described(), "port 'p'");
    }

    proptest! {
        #[test]
        fn no_two_ports_share_an_address_or_a_mac(ids in proptest::collection::vec(any::<u128>(), 1..40), prefix in 24u8..=30) {
            let (mut network, subnet) = network(&format!("10.0.0.0/{prefix}"));
            let subnets = [subnet];
            let mut seen = BTreeSet::new();
            let mut macs = BTreeSet::new();
            let vm: Name = "vm".parse().unwrap();
            for (n, id) in ids.iter().enumerate() {
                let claim = Claim { port: port_id(Uuid::from_u128(*id), n), ..claim(&vm, 0) };
                if let Ok(got) = lease(&mut network, &subnets, &claim, |_| false) {
                    prop_assert!(seen.insert(got.addresses[0]) && macs.insert(got.mac));
                    prop_assert!(is_assignable(&subnets[0], got.addresses[0]).is_ok());
                }
            }
        }
    }
}
