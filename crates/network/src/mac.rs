//! Ethernet addresses as the kernel has them: besides ports' own unicast addresses also the zero address and groups.

use std::net::Ipv6Addr;

pub use gantry_types::MacAddress;

/// What the data plane needs of an address beyond naming a port.
pub trait EthernetAddress: Sized {
    /// The address that stands for "every unknown destination" in a vxlan forwarding table.
    const ZERO: Self;

    /// Reads any address, also those that no port can have.
    fn read(text: &str) -> Option<Self>;

    /// True for broadcast and multicast addresses, which no port can own.
    fn is_multicast(&self) -> bool;

    /// The IPv6 link-local address made from this MAC (RFC 4291, modified EUI-64).
    fn link_local(self) -> Ipv6Addr;
}

impl EthernetAddress for MacAddress {
    const ZERO: Self = Self([0; 6]);

    fn read(text: &str) -> Option<Self> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *octet = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(octets))
    }

    fn is_multicast(&self) -> bool {
        self.0[0] & 1 == 1
    }

    fn link_local(self) -> Ipv6Addr {
        let m = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes_and_refuses_the_rest() {
        for text in ["52:54:00:ab:cd:0f", "00:00:00:00:00:00", "33:33:00:00:00:01"] {
            assert_eq!(MacAddress::read(text).unwrap().to_string(), text);
        }
        for bad in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:0f:11", "52:54:00:ab:cd:+f", "525400abcd0f"] {
            assert_eq!(MacAddress::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn link_local_is_modified_eui64() {
        let mac = MacAddress::qemu([0, 0, 0x11]);
        assert_eq!(mac.link_local().to_string(), "fe80::5054:ff:fe00:11");
    }
}
