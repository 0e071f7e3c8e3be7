//! How many addresses a network's ports may get without asking for one, and how many of them are given. Pure.

use std::net::IpAddr;

use gantry_types::{Network, Subnet};

use crate::addresses::is_assignable;

/// Addresses of one family that ports may get without asking for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    pub is_v4: bool,
    pub held: u128,
    pub all: u128,
}

impl Supply {
    /// 100 if there are none.
    pub fn used_percent(&self) -> f64 {
        if self.all == 0 { 100.0 } else { self.held as f64 * 100.0 / self.all as f64 }
    }
}

/// What a network has of the family that has the smaller part of its addresses left; `None` for a network without a subnet.
pub fn scarcest(network: &Network, subnets: &[Subnet]) -> Option<Supply> {
    let of_family = |is_v4| {
        let of_it: Vec<_> = subnets.iter().filter(|subnet| subnet.cidr.addr().is_ipv4() == is_v4).collect();
        let held = |subnet: &Subnet| {
            let leases = network.status.leases.keys();
            leases.filter(|address| is_assignable(subnet, **address).is_ok() && is_chosen(subnet, **address)).count()
        };
        (!of_it.is_empty()).then(|| Supply {
            is_v4,
            held: of_it.iter().map(|subnet| held(subnet) as u128).sum(),
            all: of_it.iter().map(|subnet| choosable(subnet)).fold(0, u128::saturating_add),
        })
    };
    let families = [true, false].into_iter().filter_map(of_family);
    families.max_by(|one, other| one.used_percent().total_cmp(&other.used_percent()))
}

/// Whether a port that does not ask for an address may get this one.
fn is_chosen(subnet: &Subnet, address: IpAddr) -> bool {
    subnet.ranges.is_empty() || subnet.ranges.iter().any(|range| range.contains(address))
}

/// How many addresses of a subnet ports may get that ask for none.
fn choosable(subnet: &Subnet) -> u128 {
    let cidr = subnet.cidr;
    let mut never: Vec<IpAddr> = vec![cidr.network()];
    never.extend(cidr.addr().is_ipv4().then(|| cidr.broadcast()));
    never.extend(subnet.gateway);
    never.extend(&subnet.reserved);
    never.retain(|address| cidr.contains(address) && is_chosen(subnet, *address));
    never.sort_unstable();
    never.dedup();
    let whole = [(number_of(cidr.network()), number_of(cidr.broadcast()))];
    let mut ranges: Vec<_> =
        subnet.ranges.iter().map(|range| (number_of(range.first), number_of(range.last))).collect();
    ranges.sort_unstable();
    let (mut count, mut counted_to) = (0_u128, None);
    for (first, last) in if ranges.is_empty() { &whole[..] } else { &ranges[..] } {
        // Ranges may share addresses.
        let first = counted_to.map_or(*first, |to: u128| (*first).max(to.saturating_add(1)));
        if first <= *last {
            count = count.saturating_add(last - first + 1);
            counted_to = Some(*last);
        }
    }
    count - never.len() as u128
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use gantry_types::{NetworkSpec, PortLease};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn with(subnets: &[Subnet], held: &[&str]) -> Option<Supply> {
        let mut network = Network::new("net".parse().unwrap(), NetworkSpec::with_subnet(subnets[0].clone()));
        for address in held {
            let mac = gantry_types::MacAddress::qemu([0, 0, 1]);
            let lease = PortLease { vm: None, holder: None, port: Uuid::from_u128(1), mac };
            network.status.leases.insert(address.parse().unwrap(), lease);
        }
        scarcest(&network, subnets)
    }

    fn subnet(cidr: &str, ranges: &[&str]) -> Subnet {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Subnet { ranges, ..Subnet::new(cidr.parse().unwrap()) }
    }

    #[test]
    fn what_is_asked_for_by_address_takes_nothing_from_what_is_chosen() {
        let four = Subnet { gateway: Some("10.0.0.1".parse().unwrap()), ..subnet("10.0.0.0/24", &[]) };
        let all = with(&[four], &["10.0.0.2"]).unwrap();
        assert_eq!((all.is_v4, all.held, all.all), (true, 1, 253));
        let ranges = ["10.0.0.100-10.0.0.109", "10.0.0.105-10.0.0.119"];
        let some = with(&[subnet("10.0.0.0/24", &ranges)], &["10.0.0.2", "10.0.0.105"]).unwrap();
        assert_eq!((some.held, some.all, some.used_percent()), (1, 20, 5.0));
        let none =
            Subnet { reserved: vec!["10.0.0.5".parse().unwrap()], ..subnet("10.0.0.0/24", &["10.0.0.5-10.0.0.5"]) };
        assert_eq!(with(&[none], &[]).unwrap().used_percent(), 100.0);
    }

    #[test]
    fn the_family_that_is_nearer_to_its_end_is_told() {
        let (four, six) = (subnet("10.0.0.0/30", &[]), subnet("fd00::/64", &[]));
        let both = with(&[four, six.clone()], &["10.0.0.1", "fd00::1"]).unwrap();
        assert_eq!((both.is_v4, both.held, both.all), (true, 1, 2));
        let only = with(&[six], &["fd00::1"]).unwrap();
        assert_eq!((only.is_v4, only.held, only.all), (false, 1, (1 << 64) - 1));
        let network = Network::new("net".parse().unwrap(), serde_json::from_str("{}").unwrap());
        assert_eq!(scarcest(&network, &[]), None);
    }

    proptest! {
        /// Counted by looking at each address.
        #[test]
        fn it_is_as_many_as_may_be_assigned(prefix in 24u8..=30, ends in proptest::collection::vec((0u8..=255, 0u8..=255), 0..4)) {
            let mut subnet = subnet(&format!("10.0.0.0/{prefix}"), &[]);
            let of = |last: u8| IpAddr::from([10, 0, 0, last & (255 >> (prefix - 24))]);
            for (one, other) in ends {
                let (first, last) = (of(one).min(of(other)), of(one).max(of(other)));
                subnet.ranges.push(gantry_types::AddressRange { first, last });
                subnet.reserved.push(first);
            }
            let may = |last: &u8| {
                let address = IpAddr::from([10, 0, 0, *last]);
                is_assignable(&subnet, address).is_ok() && is_chosen(&subnet, address)
            };
            prop_assert_eq!(choosable(&subnet), (0..=255).filter(may).count() as u128);
        }
    }
}
