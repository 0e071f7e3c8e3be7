//! The subnets of a network: those that its own spec and objects of the kind `subnet` describe, and what can be wrong
//! with them. Pure.

use gantry_types::{Network, NetworkSpec, NetworkType, Subnet};
use ipnet::IpNet;

use crate::{addresses::is_assignable, model::Tables};

/// All of them, the network's own first.
pub fn of_network(tables: &Tables, network: &Network) -> Vec<Subnet> {
    let more = tables.subnets.values().filter(|subnet| subnet.spec.network == network.metadata.name);
    network.spec.subnet.iter().cloned().chain(more.map(|subnet| subnet.spec.subnet())).collect()
}

/// All that is wrong with a network's spec by itself, as field and message.
pub fn network_mistakes(spec: &NetworkSpec) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut wrong = |field: &str, message: String| mistakes.push((field.to_owned(), message));
    if let Some(vni) = spec.vni
        && !(1..=0x00ff_ffff).contains(&vni)
    {
        wrong("spec.vni", format!("{vni} is out of range, use 1 to 16777215"));
    }
    if !(576..=8950).contains(&spec.mtu) {
        wrong("spec.mtu", format!("{} is out of range, use 576 to 8950", spec.mtu));
    }
    match (spec.network_type, &spec.interface) {
        (NetworkType::Bridged, None) => {
            wrong("spec.interface", "a bridged network continues on an interface of every host; name it".to_owned());
        }
        (NetworkType::Routed | NetworkType::Isolated, Some(_)) => {
            let message = format!("only a bridged network has one, this one is {}", spec.network_type);
            wrong("spec.interface", message);
        }
        (NetworkType::Bridged, Some(interface)) => {
            let is_name = (1..=15).contains(&interface.len())
                && interface.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte));
            if !is_name {
                let shown: String = interface.chars().filter(|c| !c.is_control()).take(40).collect();
                let message =
                    format!("'{shown}' is no interface's name: 1 to 15 characters without '/', ':' and blanks");
                wrong("spec.interface", message);
            }
        }
        _ => {}
    }
    if !spec.network_type.is_routed() && !spec.external_vteps.is_empty() {
        wrong("spec.external_vteps", format!("a network that is {} has none", spec.network_type));
    }
    let gateway = spec.subnet.as_ref().and_then(|subnet| subnet.gateway);
    if let Some(gateway) = gateway.filter(|_| spec.network_type == NetworkType::Isolated) {
        wrong("spec.subnet.gateway", leads_out(gateway));
    }
    if let Some(subnet) = &spec.subnet {
        mistakes.extend(subnet_mistakes("spec.subnet", subnet, spec.mtu));
    }
    mistakes
}

/// What is wrong with a gateway in an isolated network.
pub fn leads_out(gateway: std::net::IpAddr) -> String {
    format!(
        "nothing leads out of an isolated network, so {gateway} is no gateway; leave it out, or use spec.type: routed"
    )
}

/// All that is wrong with a subnet by itself; `at` is where it is written.
pub fn subnet_mistakes(at: &str, subnet: &Subnet, mtu: u32) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut wrong = |field: &str, message: String| mistakes.push((format!("{at}.{field}"), message));
    let cidr = subnet.cidr;
    if cidr.addr() != cidr.network() {
        wrong("cidr", format!("{cidr} has host bits set; did you mean {}?", cidr.trunc()));
    }
    match cidr {
        IpNet::V4(v4) if !(8..=30).contains(&v4.prefix_len()) => {
            wrong("cidr", format!("{cidr}: the prefix is out of range, use /8 to /30"));
        }
        IpNet::V6(v6) if !(1..=126).contains(&v6.prefix_len()) => {
            wrong("cidr", format!("{cidr}: the prefix is out of range, use /1 to /126"));
        }
        IpNet::V6(_) if mtu < 1280 => {
            wrong("cidr", format!("IPv6 needs a network with spec.mtu of at least 1280 (RFC 8200), not {mtu}"));
        }
        _ => {}
    }
    let first = cidr.network();
    if first.is_multicast() || first.is_loopback() || first.is_unspecified() {
        wrong("cidr", format!("{cidr} is not a range of ordinary addresses"));
    }
    if let Some(gateway) = subnet.gateway
        && let Err(message) = is_assignable(&Subnet { gateway: None, reserved: Vec::new(), ..subnet.clone() }, gateway)
    {
        wrong("gateway", message);
    }
    for (index, address) in subnet.reserved.iter().enumerate() {
        if !cidr.contains(address) {
            wrong(&format!("reserved[{index}]"), format!("{address} is not in the subnet {cidr}"));
        }
    }
    for (index, range) in subnet.ranges.iter().enumerate() {
        if !cidr.contains(&range.first) || !cidr.contains(&range.last) {
            wrong(&format!("ranges[{index}]"), format!("{range} is not in the subnet {cidr}"));
        }
    }
    mistakes
}

/// The other subnet of the same network that has addresses of this one.
pub fn overlapping(cidr: IpNet, others: &[Subnet]) -> Option<&Subnet> {
    others.iter().find(|other| other.cidr.contains(&cidr) || cidr.contains(&other.cidr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_networks_are_refused_field_by_field() {
        let fields = |cidr: &str, change: fn(&mut NetworkSpec, &mut Subnet)| {
            let mut subnet = Subnet::new(cidr.parse().unwrap());
            let mut spec = NetworkSpec::with_subnet(subnet.clone());
            change(&mut spec, &mut subnet);
            spec.subnet = Some(subnet);
            network_mistakes(&spec).into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert!(fields("10.0.0.0/24", |_, _| ()).is_empty());
        assert!(fields("fd00::/64", |_, _| ()).is_empty());
        for cidr in ["10.0.0.0/31", "10.0.0.0/7", "10.0.0.1/24", "fd00::/127", "224.0.0.0/24", "127.0.0.0/8"] {
            assert_eq!(fields(cidr, |_, _| ()), ["spec.subnet.cidr"], "{cidr}");
        }
        assert_eq!(fields("fd00::/64", |spec, _| spec.mtu = 1279), ["spec.subnet.cidr"]);
        assert_eq!(
            fields("10.0.0.0/24", |spec, subnet| {
                spec.vni = Some(1 << 24);
                spec.mtu = 9000;
                subnet.gateway = Some("10.0.0.255".parse().unwrap());
                subnet.reserved = vec!["10.0.1.0".parse().unwrap()];
                subnet.ranges = vec!["10.0.0.9-10.0.1.0".parse().unwrap()];
            }),
            ["spec.vni", "spec.mtu", "spec.subnet.gateway", "spec.subnet.reserved[0]", "spec.subnet.ranges[0]"]
        );
    }

    #[test]
    fn types_allow_only_what_they_are_for() {
        let fields = |spec: &str| {
            let spec: NetworkSpec = serde_json::from_str(spec).unwrap();
            network_mistakes(&spec).into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        for good in [
            r#"{}"#,
            r#"{"type": "isolated", "subnet": {"cidr": "10.0.0.0/24"}}"#,
            r#"{"type": "bridged", "interface": "eth1", "subnet": {"cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}}"#,
        ] {
            assert!(fields(good).is_empty(), "{good}");
        }
        for (bad, expected) in [
            (r#"{"type": "bridged"}"#, vec!["spec.interface"]),
            (r#"{"interface": "eth1"}"#, vec!["spec.interface"]),
            (r#"{"type": "bridged", "interface": "an interface"}"#, vec!["spec.interface"]),
            (
                r#"{"type": "isolated", "external_vteps": ["192.0.2.1"],
                    "subnet": {"cidr": "10.0.0.0/24", "gateway": "10.0.0.1"}}"#,
                vec!["spec.external_vteps", "spec.subnet.gateway"],
            ),
        ] {
            assert_eq!(fields(bad), expected, "{bad}");
        }
    }

    #[test]
    fn subnets_that_share_addresses_overlap() {
        let others = [Subnet::new("10.0.0.0/24".parse().unwrap()), Subnet::new("fd00::/64".parse().unwrap())];
        for (cidr, overlaps) in
            [("10.0.0.128/25", true), ("10.0.0.0/16", true), ("10.0.1.0/24", false), ("fd00:0:0:1::/64", false)]
        {
            assert_eq!(overlapping(cidr.parse().unwrap(), &others).is_some(), overlaps, "{cidr}");
        }
    }
}
