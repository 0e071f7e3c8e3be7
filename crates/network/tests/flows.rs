//! A TCP connection behind a stateful filter goes on behind another host's filter, once its entries are there: as it is,
//! and through translated addresses.
//!
//! ```text
//!   client 10.1.0.2 ── host A ── server 10.2.0.2      the server listens, and after the move speaks first
//!                   └─ host B ──┘
//! ```

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use gantry_network::flows::{FlowTable, Place};
use gantry_types::FlowPlace;
use support::*;

const SERVER: &str = "10.2.0.2";
const FLOATING: &str = "198.51.100.7";
const ZONE: u16 = 7;
/// A server that is heard does so at once; one that is not is retransmitting all this time.
const UNHEARD: Duration = Duration::from_millis(1500);

struct Site {
    client: Namespace,
    server: Namespace,
    hosts: [Namespace; 2],
}

impl Site {
    /// Both hosts have the same rules; the way leads through the first.
    fn new() -> Self {
        let client = Namespace::new("client");
        let server = Namespace::new("server");
        for (end, address) in [(&client, "10.1.0.2"), (&server, SERVER)] {
            end.ip("link add br0 type bridge");
            end.ip(&format!("addr add {address}/24 dev br0"));
            end.ip("link set br0 up");
        }
        let hosts = ["a", "b"].map(|name| {
            let host = Namespace::new(name);
            for (end, inner, net) in [(&client, "c0", "10.1.0"), (&server, "s0", "10.2.0")] {
                end.ip(&format!("link add {name}0 type veth peer name {inner} netns {}", host.name));
                end.ip(&format!("link set {name}0 master br0 up"));
                let last = if name == "a" { 11 } else { 12 };
                host.ip(&format!("addr add {net}.{last}/24 dev {inner}"));
                host.ip(&format!("link set {inner} up"));
            }
            host.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
            for rule in [
                "add table inet t".to_owned(),
                "add chain inet t zones { type filter hook prerouting priority raw; }".to_owned(),
                format!("add rule inet t zones ct zone set {ZONE}"),
                "add chain inet t inward { type nat hook prerouting priority dstnat; }".to_owned(),
                format!("add rule inet t inward ip daddr {FLOATING} dnat ip to {SERVER}"),
                "add chain inet t outward { type nat hook postrouting priority srcnat; }".to_owned(),
                "add chain inet t filter { type filter hook forward priority 0; policy drop; }".to_owned(),
                "add rule inet t filter ct direction reply ct state established,related accept".to_owned(),
                "add rule inet t filter ct direction original tcp dport 80 iifname c0 accept".to_owned(),
            ] {
                host.nft(&rule);
            }
            host
        });
        let site = Self { client, server, hosts };
        site.lead_through(11);
        site
    }

    fn lead_through(&self, last: u8) {
        self.client.ip(&format!("route replace 10.2.0.0/24 via 10.1.0.{last}"));
        self.client.ip(&format!("route replace {FLOATING}/32 via 10.1.0.{last}"));
        self.server.ip(&format!("route replace 10.1.0.0/24 via 10.2.0.{last}"));
    }

    fn connect(&self, to: &str) -> (TcpStream, TcpStream) {
        let listener = self.server.enter(|| TcpListener::bind((SERVER, 80)).unwrap());
        let to: SocketAddr = format!("{to}:80").parse().unwrap();
        let client = self.client.enter(|| TcpStream::connect(to).unwrap());
        let (server, _) = listener.accept().unwrap();
        say(&client, &server, b"hello");
        say(&server, &client, b"welcome");
        (client, server)
    }

    fn table(&self, host: usize) -> FlowTable {
        FlowTable::of(Some(self.hosts[host].name.clone()))
    }
}

fn place() -> Place {
    Place { name: FlowPlace::Network(100), namespace: None, zone: ZONE }
}

fn say(mut from: &TcpStream, mut to: &TcpStream, words: &[u8]) {
    from.write_all(words).unwrap();
    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut heard = vec![0; words.len()];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(heard, words);
}

async fn moves(to: &str) {
    let site = Site::new();
    let server_address: IpAddr = SERVER.parse().unwrap();
    let (mut client, mut server) = site.connect(to);
    let flows = site.table(0).flows(&place(), &[server_address]).await.unwrap();
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert!(flows[0].replied && flows[0].tcp.is_some(), "{flows:?}");

    // Without its entry the server is not heard: the rules let clients in and nothing out.
    site.lead_through(12);
    server.write_all(b"still").unwrap();
    client.set_read_timeout(Some(UNHEARD)).unwrap();
    assert!(client.read(&mut [0; 5]).is_err(), "the rules let a stranger's packets through");

    assert_eq!(site.table(1).add(&place(), &flows).await.unwrap(), flows);
    assert_eq!(site.table(1).add(&place(), &flows).await.unwrap(), [], "it is there already");
    let moved = site.table(1).flows(&place(), &[server_address]).await.unwrap();
    assert_eq!((moved[0].original, moved[0].reply), (flows[0].original, flows[0].reply));
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");
    say(&client, &server, b"and back");
    say(&server, &client, &[7; 100_000]);

    site.table(1).forget(&place(), &[server_address]).await.unwrap();
    assert!(site.table(1).flows(&place(), &[server_address]).await.unwrap().is_empty());
    assert!(site.table(1).flows(&Place { zone: 8, ..place() }, &[server_address]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_goes_on_behind_another_hosts_filter() {
    moves(SERVER).await;
}

#[tokio::test]
async fn a_connection_to_a_floating_address_goes_on_behind_another_host() {
    moves(FLOATING).await;
}
