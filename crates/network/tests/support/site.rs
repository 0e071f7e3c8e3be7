//! Two hosts behind one switch, and a client outside that is an external VTEP of theirs.

use std::net::Ipv4Addr;

use gantry_network::{DataPlane, HostNetworks, LinuxDataPlane, tap_name};

use super::*;

/// Two hosts whose networks end in one router, and a client in the network outside.
pub struct Site {
    pub hosts: Vec<(Namespace, LinuxDataPlane)>,
    pub client: Namespace,
    _switch: Namespace,
}

impl Drop for Site {
    fn drop(&mut self) {
        for (host, _) in &self.hosts {
            let name = format!("{}-r0000abcd", host.name);
            let _gone = std::process::Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Each host as `desired` says; the client has `address` in the network `outside`.
pub async fn site(desired: impl Fn(u8) -> HostNetworks, outside: u32, address: Ipv4Addr) -> Site {
    let switch = Namespace::new("switch");
    switch.ip("link add br0 type bridge");
    switch.ip("link set br0 up");
    let plug = |namespace: &Namespace, number: u8| {
        namespace.ip(&format!("link add u0 mtu 1600 type veth peer name p{number} netns {} mtu 1600", switch.name));
        switch.ip(&format!("link set p{number} master br0 up"));
        namespace.ip(&format!("addr add {}/24 dev u0", vtep(number)));
        namespace.ip("link set u0 up");
    };
    let mut hosts = Vec::new();
    for number in 1..=2 {
        let host = Namespace::new(&format!("h{number}"));
        plug(&host, number);
        let plane = LinuxDataPlane::in_namespace(&host.name);
        plane.apply(&desired(number)).await.unwrap();
        hosts.push((host, plane));
    }
    let client = Namespace::new("client");
    plug(&client, 9);
    client.ip(&format!("link add ext0 mtu 1450 type vxlan id {outside} local {} dstport 4789 learning", vtep(9)));
    client.ip(&format!("addr add {address}/24 dev ext0"));
    client.ip("link set ext0 up");
    for number in 1..=2 {
        client.bridge(&format!("fdb append 00:00:00:00:00:00 dev ext0 dst {} self permanent", vtep(number)));
    }
    Site { hosts, client, _switch: switch }
}

pub fn attach(host: &Namespace, last: u8) -> Guest {
    let guest = Guest::attach(host, last);
    eventually("the tap to forward", || {
        host.bridge(&format!("link show dev {}", tap_name(port(last, true).id))).contains("state forwarding")
    });
    guest
}

/// Sends until it has arrived: what has to be resolved on the way may take a first packet's time.
pub fn insistently(from: &Guest, frame: &[u8], mut has_arrived: impl FnMut() -> bool) {
    for _ in 0..50 {
        from.send(frame);
        if has_arrived() {
            return;
        }
    }
    panic!("it never arrived");
}
