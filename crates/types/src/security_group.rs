//! `security-group` and `address-set`: who may talk to a VM, and whom it may talk to.
//!
//! Groups are lists of what is allowed; there is no order and nothing denies. A port with at least one group lets in
//! only what a rule of one of its groups allows, and answers to what it has let in or out. It lets out everything until
//! one of its groups has a rule for `egress`; then only what such a rule allows.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, resource::resource};

mod group {
    use super::*;
    resource!(
        /// Rules for the ports that name it.
        SecurityGroup, "security-group", "security-groups", SecurityGroupSpec, SecurityGroupStatus
    );
}
pub use group::SecurityGroup;

mod set {
    use super::*;
    resource!(
        /// Addresses by a name, for the rules of security groups.
        AddressSet, "address-set", "address-sets", AddressSetSpec, AddressSetStatus
    );
}
pub use set::AddressSet;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroupSpec {
    /// At most 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<GroupRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecurityGroupStatus {
    /// What each rule has let through on all hosts; not stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<RuleTraffic>,
}

/// Counters of one rule. They grow as long as a host has ports with the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleTraffic {
    /// `in tcp 443 from 0.0.0.0/0`.
    pub rule: String,
    pub packets: u64,
    pub bytes: u64,
}

/// What is allowed. Each member narrows it; the empty rule allows everything in.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    #[serde(default)]
    pub direction: Direction,
    #[serde(default)]
    pub protocol: Protocol,
    /// Destination ports, only with tcp, udp or sctp: `443` or `8000-8099`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ports: Option<PortRange>,
    /// The other end is in this range. At most one of `cidr`, `group` and `address_set` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cidr: Option<IpNet>,
    /// The other end is a port with this security group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
    /// The other end is in this address set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_set: Option<Name>,
}

impl GroupRule {
    /// What is wrong with it by itself: the field and the message.
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        if self.ports.is_some() && !self.protocol.has_ports() {
            mistakes.push(("ports", format!("{} has no ports; leave it out, or use tcp, udp or sctp", self.protocol)));
        }
        let peers = [self.cidr.is_some(), self.group.is_some(), self.address_set.is_some()];
        if peers.into_iter().filter(|given| *given).count() > 1 {
            mistakes
                .push(("cidr", "give only one of cidr, group and address_set; write two rules for both".to_owned()));
        }
        if let Some(cidr) = self.cidr
            && cidr.addr() != cidr.network()
        {
            mistakes.push(("cidr", format!("{cidr} has host bits set; did you mean {}?", cidr.trunc())));
        }
        mistakes
    }
}

/// `in tcp 443 from 10.0.0.0/8`.
impl fmt::Display for GroupRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, toward) = match self.direction {
            Direction::Ingress => ("in", "from"),
            Direction::Egress => ("out", "to"),
        };
        write!(f, "{word} {}", self.protocol)?;
        if let Some(ports) = self.ports {
            write!(f, " {ports}")?;
        }
        match (&self.cidr, &self.group, &self.address_set) {
            (Some(cidr), _, _) => write!(f, " {toward} {cidr}"),
            (_, Some(group), _) => write!(f, " {toward} group {group}"),
            (_, _, Some(set)) => write!(f, " {toward} set {set}"),
            _ => write!(f, " {toward} anywhere"),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Into the VM.
    #[default]
    Ingress,
    /// Out of the VM.
    Egress,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Any,
    Tcp,
    Udp,
    Sctp,
    /// ICMP (RFC 792) and ICMPv6 (RFC 4443). What IPv6 needs to find its neighbours is always allowed.
    Icmp,
}

impl Protocol {
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }
}
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Ports from one to another, both included: `443`, `8000-8099`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "PortText", into = "String")]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// A single port may be written as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u64),
    Text(String),
}

/// Why a text is not a [`PortRange`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPortRange {
    #[error("'{0}' is not a port or a range of ports: write 443 or 8000-8099, from 1 to 65535")]
    Malformed(String),
    #[error("'{first}-{last}' is upside down; did you mean {last}-{first}?")]
    UpsideDown { first: u16, last: u16 },
}

impl PortRange {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;
    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let bad = || InvalidPortRange::Malformed(text.chars().filter(|c| !c.is_control()).take(40).collect());
        let port = |part: &str| part.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(InvalidPortRange::UpsideDown { first, last });
        }
        Ok(Self { first, last })
    }
}
impl TryFrom<PortText> for PortRange {
    type Error = InvalidPortRange;
    fn try_from(text: PortText) -> Result<Self, InvalidPortRange> {
        match text {
            PortText::Number(number) => number.to_string().parse(),
            PortText::Text(text) => text.parse(),
        }
    }
}
impl From<PortRange> for String {
    fn from(range: PortRange) -> String {
        range.to_string()
    }
}
impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressSetSpec {
    /// Addresses and ranges, IPv4 and IPv6: `10.1.0.5`, `192.0.2.0/24`. At most 10,000.
    #[serde(default)]
    pub addresses: BTreeSet<Addresses>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressSetStatus {}

/// One address or a range of them: `10.1.0.5`, `192.0.2.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, examples("10.1.0.5", "192.0.2.0/24"))]
pub struct Addresses(pub IpNet);

/// Why a text is not an [`Addresses`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address or a range of them: write 10.1.0.5 or 192.0.2.0/24")]
pub struct InvalidAddresses(String);

impl FromStr for Addresses {
    type Err = InvalidAddresses;
    fn from_str(text: &str) -> Result<Self, InvalidAddresses> {
        let bad = || InvalidAddresses(text.chars().filter(|c| !c.is_control()).take(60).collect());
        let range = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| bad())?,
        };
        Ok(Self(range.trunc()))
    }
}
impl TryFrom<String> for Addresses {
    type Error = InvalidAddresses;
    fn try_from(text: String) -> Result<Self, InvalidAddresses> {
        text.parse()
    }
}
impl From<Addresses> for String {
    fn from(addresses: Addresses) -> String {
        addresses.to_string()
    }
}
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_as_they_are_written() {
        for (text, first, last) in [("443", 443, 443), ("8000-8099", 8000, 8099), (" 1 - 65535 ", 1, 65535)] {
            assert_eq!(text.parse(), Ok(PortRange { first, last }), "{text}");
        }
        assert_eq!(serde_json::from_str::<PortRange>("443").unwrap(), "443".parse().unwrap());
        for bad in ["", "0", "65536", "-1", "80-", "http", "1-2-3"] {
            assert!(matches!(bad.parse::<PortRange>(), Err(InvalidPortRange::Malformed(_))), "{bad}");
        }
        let error = "8099-8000".parse::<PortRange>().unwrap_err().to_string();
        assert!(error.contains("upside down") && error.contains("8000-8099"), "{error}");
    }

    #[test]
    fn rules_say_what_they_allow_and_what_is_wrong_with_them() {
        let rule: GroupRule = serde_json::from_str(r#"{"protocol":"tcp","ports":443,"cidr":"0.0.0.0/0"}"#).unwrap();
        assert_eq!(rule.to_string(), "in tcp 443 from 0.0.0.0/0");
        assert!(rule.mistakes().is_empty());
        let wrong = GroupRule {
            protocol: Protocol::Icmp,
            group: Some("web".parse().unwrap()),
            cidr: Some("10.0.0.1/8".parse().unwrap()),
            ..rule
        };
        let fields: Vec<_> = wrong.mistakes().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["ports", "cidr", "cidr"]);
    }

    #[test]
    fn addresses_are_single_ones_or_ranges() {
        let texts = ["10.1.0.5", "192.0.2.0/24", "fd00::1", "fd00::/8"];
        for text in texts {
            assert_eq!(text.parse::<Addresses>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.7/24".parse::<Addresses>().unwrap().to_string(), "192.0.2.0/24");
        assert!("10.1.0".parse::<Addresses>().is_err());
    }
}
