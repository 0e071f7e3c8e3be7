//! Ethernet addresses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A unicast MAC address (IEEE 802), printed as `52:54:00:12:34:56`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$", examples("52:54:00:12:34:56"))]
pub struct MacAddress(pub [u8; 6]);

/// Why a text is not a unicast MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a unicast MAC address: write it as 52:54:00:12:34:56")]
pub struct InvalidMac(String);

impl MacAddress {
    /// QEMU's locally administered prefix 52:54:00 with the given last three octets.
    pub fn qemu(suffix: [u8; 3]) -> Self {
        Self([0x52, 0x54, 0x00, suffix[0], suffix[1], suffix[2]])
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMac;
    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let bad = || InvalidMac(text.chars().filter(|c| !c.is_control()).take(40).collect());
        let mut octets = [0u8; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *octet = (part.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u8::from_str_radix(part, 16))
                .ok_or_else(bad)?
                .map_err(|_| bad())?;
        }
        let multicast = octets[0] & 1 == 1;
        if parts.next().is_some() || multicast || octets == [0; 6] {
            return Err(bad());
        }
        Ok(Self(octets))
    }
}
impl TryFrom<String> for MacAddress {
    type Error = InvalidMac;
    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}
impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}
impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unicast_addresses_parse() {
        assert_eq!("52:54:00:AB:00:01".parse(), Ok(MacAddress::qemu([0xab, 0, 1])));
        for bad in [
            "",
            "52:54:00:ab:00",
            "52:54:00:ab:00:01:02",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "+2:54:00:00:00:01",
            "5:254:00:00:00:01",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
