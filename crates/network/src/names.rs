//! Interface names: derived, never stored, at most 15 characters (the kernel's limit).
//!
//! The exact patterns also decide ownership: a device whose name does not match is never touched.

use gantry_types::MacAddress;
use uuid::Uuid;

/// `gb<vni>`: the bridge of a network on this host.
pub fn bridge_name(vni: u32) -> String {
    format!("gb{vni}")
}

/// `gx<vni>`: the vxlan device of a network on this host.
pub fn vxlan_name(vni: u32) -> String {
    format!("gx{vni}")
}

/// `gt<hex>`: the tap of a port, from the last 48 bits of its UUID. The first bits would not do: in a time-ordered
/// UUID they are the clock, and ports made in the same minute would share a name.
pub fn tap_name(port: Uuid) -> String {
    let b = port.as_bytes();
    format!("gt{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}", b[10], b[11], b[12], b[13], b[14], b[15])
}

/// `gq<vni>`: a router's end in a network's bridge.
pub fn leg_name(vni: u32) -> String {
    format!("gq{vni}")
}

/// `n<vni>`: the other end, in the router's namespace.
pub fn inner_leg_name(vni: u32) -> String {
    format!("n{vni}")
}

/// `r<hex>`: a router on a host; its namespace's name ends with it.
pub fn router_key(router: Uuid) -> String {
    let b = router.as_bytes();
    format!("r{:02x}{:02x}{:02x}{:02x}", b[12], b[13], b[14], b[15])
}

/// `ge<hex>`: a router's end in the bridge of its external network.
pub fn external_leg_name(router: Uuid) -> String {
    format!("ge{}", &router_key(router)[1..])
}

/// The other end of a router's external leg, in its namespace.
pub const INNER_EXTERNAL_LEG: &str = "ext";

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text is a router's key.
pub fn is_router_key(text: &str) -> bool {
    text.strip_prefix('r').is_some_and(|rest| is_hex(rest, 8))
}

/// `gs<vni>`: the bridge port of a network's services on this host. It is not part of the planned state: whoever runs the
/// services makes it ([`crate::services`]).
pub fn services_name(vni: u32) -> String {
    format!("gs{vni}")
}

/// The address of a network's services, the same on each host: a VM that has moved finds them where they were.
pub fn services_mac(vni: u32) -> MacAddress {
    let [_, high, middle, low] = vni.to_be_bytes();
    MacAddress([0x0a, b'g', b's', high, middle, low])
}

/// Which of Gantry's devices a name denotes, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Bridge,
    Vxlan,
    Tap,
    /// A router's end in a bridge.
    Leg,
}

/// The role of a device name; `None` for every name Gantry does not own.
pub fn role(name: &str) -> Option<Role> {
    let (prefix, rest) = name.split_at_checked(2)?;
    let is_vni = || {
        !rest.starts_with(|c: char| !c.is_ascii_digit())
            && !rest.starts_with('0')
            && rest.parse::<u32>().is_ok_and(|vni| vni < 1 << 24)
    };
    match prefix {
        "gb" if is_vni() => Some(Role::Bridge),
        "gx" if is_vni() => Some(Role::Vxlan),
        "gt" if is_hex(rest, 12) => Some(Role::Tap),
        "gq" if is_vni() => Some(Role::Leg),
        "ge" if is_hex(rest, 8) => Some(Role::Leg),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_are_recognised() {
        let tap = tap_name(Uuid::from_u128(0x0190_0000_0000_7000_8000_1234_5678_9abc));
        assert_eq!(tap, "gt123456789abc");
        for (name, expected) in [
            (bridge_name(16_777_215), Role::Bridge),
            (vxlan_name(1), Role::Vxlan),
            (tap, Role::Tap),
            (leg_name(16_777_215), Role::Leg),
            (external_leg_name(Uuid::nil()), Role::Leg),
        ] {
            assert!(name.len() <= 15, "{name}");
            assert_eq!(role(&name), Some(expected), "{name}");
        }
        for foreign in ["g", "gbx", "gb", "gb0", "gb+1", "gx16777216", "gtk0", "gtABCDEF123456", "eth0", "gé1"] {
            assert_eq!(role(foreign), None, "{foreign}");
        }
    }
}
