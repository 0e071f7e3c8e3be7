//! `subnet`: a range of addresses of a network. A network has one in its own spec, or several of this kind.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, resource::resource};

resource!(
    /// Addresses of a network, IPv4 or IPv6.
    NetworkSubnet, "subnet", "subnets", SubnetSpec, SubnetStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubnetSpec {
    /// Fixed once the subnet is made.
    pub network: Name,
    /// For example `10.9.1.0/24` or `fd00:9::/64`. Fixed once the subnet is made.
    #[schema(value_type = String)]
    pub cidr: IpNet,
    /// The default gateway told to guests; never handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Addresses that are never handed out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub reserved: Vec<IpAddr>,
    /// Only addresses of these ranges are chosen for ports that do not ask for one; all of them if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub ranges: Vec<AddressRange>,
}

impl SubnetSpec {
    /// The same as a network's own spec has it.
    pub fn subnet(&self) -> Subnet {
        Subnet {
            cidr: self.cidr,
            gateway: self.gateway,
            dns: self.dns.clone(),
            reserved: self.reserved.clone(),
            ranges: self.ranges.clone(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubnetStatus {}

/// A subnet as a network's own spec has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// For example `10.9.0.0/24`.
    #[schema(value_type = String)]
    pub cidr: IpNet,
    /// The default gateway told to guests; never handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Addresses that are never handed out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub reserved: Vec<IpAddr>,
    /// Only addresses of these ranges are chosen for ports that do not ask for one; all of them if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub ranges: Vec<AddressRange>,
}

impl Subnet {
    pub fn new(cidr: IpNet) -> Self {
        Self { cidr, gateway: None, dns: Vec::new(), reserved: Vec::new(), ranges: Vec::new() }
    }
}

/// Addresses from one to another, both included, of one family: `10.9.0.10-10.9.0.99`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

/// Why a text is not an [`AddressRange`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a range of addresses: write it as 10.9.0.10-10.9.0.99, the lower one first")]
pub struct InvalidAddressRange(String);

impl AddressRange {
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }
}

impl FromStr for AddressRange {
    type Err = InvalidAddressRange;
    fn from_str(text: &str) -> Result<Self, InvalidAddressRange> {
        let bad = || InvalidAddressRange(text.chars().filter(|c| !c.is_control()).take(100).collect());
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let parse = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| bad());
        let range = Self { first: parse(first)?, last: parse(last)? };
        let one_family = range.first.is_ipv4() == range.last.is_ipv4();
        if one_family && range.first <= range.last { Ok(range) } else { Err(bad()) }
    }
}
impl TryFrom<String> for AddressRange {
    type Error = InvalidAddressRange;
    fn try_from(text: String) -> Result<Self, InvalidAddressRange> {
        text.parse()
    }
}
impl From<AddressRange> for String {
    fn from(range: AddressRange) -> String {
        range.to_string()
    }
}
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranges_the_right_way_round_parse() {
        let range: AddressRange = "10.0.0.5-10.0.0.9".parse().unwrap();
        assert!(range.contains("10.0.0.9".parse().unwrap()) && !range.contains("10.0.0.10".parse().unwrap()));
        assert!(!range.contains("::5".parse().unwrap()));
        assert_eq!("fd00::1 - fd00::f".parse::<AddressRange>().unwrap().to_string(), "fd00::1-fd00::f");
        for bad in ["", "10.0.0.1", "10.0.0.9-10.0.0.5", "10.0.0.1-fd00::1", "a-b"] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }
}
