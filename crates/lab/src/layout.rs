//! Names and addresses of a lab, all derived from its index, so that several labs on one machine don't collide.

use std::net::Ipv4Addr;

/// Labs that fit on one machine: one second octet each, below and above 128.
pub const INDEX_MAX: u8 = 63;
pub const HOSTS_MAX: u8 = 200;
pub const CONTROLLER_PORT: u16 = 7443;
pub const AGENT_PORT: u16 = 7444;
/// VXLAN identifier of the network `default` in the lab with index 0.
const FIRST_VNI: u32 = 1000;
/// Room for VXLAN's 50 bytes around a 1500-byte packet, and some.
pub const UNDERLAY_MTU: u32 = 1600;
/// The port Linux and RFC 7348 use.
pub const VXLAN_PORT: u16 = 4789;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    index: u8,
}

impl Layout {
    pub fn new(index: u8) -> Self {
        assert!(index <= INDEX_MAX, "lab index {index} is out of range");
        Self { index }
    }

    pub fn switch_namespace(&self) -> String {
        format!("gl{}-sw", self.index)
    }
    pub fn controller_namespace(&self) -> String {
        format!("gl{}-ctl", self.index)
    }
    pub fn host_namespace(&self, host: u8) -> String {
        format!("gl{}-h{host}", self.index)
    }
    /// What every namespace name of this lab begins with.
    pub fn namespace_prefix(&self) -> String {
        format!("gl{}-", self.index)
    }
    pub fn host_name(host: u8) -> String {
        format!("host-{host}")
    }
    /// The switch's end of a cable, inside the switch's namespace.
    pub fn switch_port(host: u8) -> String {
        format!("p{host}")
    }
    pub fn operator_link(&self) -> String {
        format!("gl{}op", self.index)
    }
    pub fn operator_vxlan(&self) -> String {
        format!("gl{}vx", self.index)
    }

    pub fn host_address(&self, host: u8) -> Ipv4Addr {
        assert!((1..=HOSTS_MAX).contains(&host), "lab host {host} is out of range");
        Ipv4Addr::new(10, 64 + self.index, 0, host)
    }
    pub fn controller_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 64 + self.index, 0, 250)
    }
    pub fn operator_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 64 + self.index, 0, 254)
    }
    /// The operator's address inside the network `default`.
    pub fn operator_inner_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 128 + self.index, 0, 254)
    }
    pub fn default_subnet(&self) -> String {
        format!("10.{}.0.0/24", 128 + self.index)
    }
    /// VXLAN identifier of the network `default`. Each lab has its own, because all labs' operators share one
    /// namespace, and the kernel lets only one device there have an identifier.
    pub fn default_vni(&self) -> u32 {
        FIRST_VNI + u32::from(self.index)
    }
    pub fn controller_url(&self) -> String {
        format!("https://{}:{CONTROLLER_PORT}", self.controller_address())
    }
    pub fn agent_address(&self, host: u8) -> String {
        format!("{}:{AGENT_PORT}", self.host_address(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labs_share_no_name_and_no_address() {
        let mut names = HashSet::new();
        let mut addresses = HashSet::new();
        let mut vnis = HashSet::new();
        for layout in (0..=INDEX_MAX).map(Layout::new) {
            assert!(vnis.insert(layout.default_vni()));
            for name in [
                layout.switch_namespace(),
                layout.controller_namespace(),
                layout.host_namespace(1),
                layout.host_namespace(HOSTS_MAX),
                layout.operator_link(),
                layout.operator_vxlan(),
            ] {
                // An interface's name has at most 15 bytes (IFNAMSIZ).
                assert!(name.len() <= 15, "{name}");
                assert!(names.insert(name));
            }
            for address in [
                layout.host_address(1),
                layout.host_address(HOSTS_MAX),
                layout.controller_address(),
                layout.operator_address(),
                layout.operator_inner_address(),
            ] {
                assert!(addresses.insert(address), "{address}");
            }
        }
    }
}
