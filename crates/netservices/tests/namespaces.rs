//! The services in a namespace of their own, asked by clients on the other side of a bridge: Debian's DHCP client for both
//! families, the kernel's own router discovery, and plain sockets for DNS and metadata.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gantry_netservices::{
    GuestMetadata, Network, Port, PortTable, SERVICES_LINK_LOCAL, SERVICES_V4, SERVICES_V6, Server, Sockets, Subnet,
};
use gantry_types::MacAddress;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, setns};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICES_MAC: MacAddress = MacAddress([0x0a, 0x67, 0x73, 0, 0, 100]);
const GATEWAY_MAC: MacAddress = MacAddress([0x0a, 0x67, 0x71, 0, 0, 100]);

static NEXT: AtomicU32 = AtomicU32::new(0);

struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Self {
        let name = format!("gsvc-{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(&["ip", "netns", "add", &name]);
        let namespace = Self(name);
        namespace.ip("link set lo up");
        namespace
    }

    fn ip(&self, words: &str) -> String {
        let mut args = vec!["ip", "-n", &self.0];
        args.extend(words.split_whitespace());
        run(&args)
    }

    fn exec(&self, args: &[&str]) -> String {
        run(&[&["ip", "netns", "exec", &self.0], args].concat())
    }

    /// Runs `work` on a thread inside the namespace; what it opens stays bound to it.
    fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        let inside = move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !Command::new("ip").args(["netns", "del", &self.0]).status().is_ok_and(|status| status.success()) {
            eprintln!("could not delete the namespace {}", self.0);
        }
    }
}

fn run(args: &[&str]) -> String {
    let output = Command::new(args[0]).args(&args[1..]).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mac(last: u8) -> MacAddress {
    MacAddress::qemu([0, 0, last])
}

fn table(resolver: IpAddr) -> PortTable {
    let subnet = |cidr: &str, gateway: &str| Subnet {
        cidr: cidr.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        gateway_mac: Some(GATEWAY_MAC),
        dns: vec![resolver],
        dhcp: true,
    };
    let network = Network {
        name: "lan".to_owned(),
        mtu: 1400,
        domain: "lan.internal".to_owned(),
        subnets: vec![subnet("10.9.0.0/24", "10.9.0.1"), subnet("fd09::/64", "fd09::1")],
        forwards: true,
        services_mac: SERVICES_MAC,
    };
    let port = |last: u8| Port {
        id: Uuid::from_u128(u128::from(last)),
        mac: mac(last),
        addresses: vec![format!("10.9.0.{last}").parse().unwrap(), format!("fd09::{last}").parse().unwrap()],
        hostname: format!("web-{last}"),
        metadata: Some(Arc::new(GuestMetadata {
            instance_id: format!("i-{last}"),
            meta_data: format!("instance-id: i-{last}\n"),
            ..GuestMetadata::default()
        })),
    };
    PortTable::new(network, vec![port(10), port(11)], [])
}

/// One network of one host: a bridge, the services on it, and clients with the MACs of ports 10 and 11.
struct Site {
    clients: Vec<Namespace>,
    _services: Namespace,
    _bridge: Namespace,
    server: Server,
}

impl Site {
    fn new(resolver: IpAddr) -> Self {
        let bridge = Namespace::new("bridge");
        bridge.ip("link add br0 type bridge mcast_snooping 0");
        bridge.ip("link set br0 up");
        let services = Namespace::new("services");
        plug(&bridge, &services, "s0", SERVICES_MAC);
        for address in [format!("{SERVICES_V4}/32"), format!("{SERVICES_V6}/128"), format!("{SERVICES_LINK_LOCAL}/64")]
        {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            services.ip(&format!("addr add {address} dev eth0 {nodad}"));
        }
        services.ip(&format!("route add 10.9.0.0/24 dev eth0 src {SERVICES_V4}"));
        services.ip("-6 route add fd09::/64 dev eth0");
        let clients = [10, 11].map(|last| {
            let client = Namespace::new(&format!("c{last}"));
            plug(&bridge, &client, &format!("c{last}"), mac(last));
            services.ip(&format!("neigh replace 10.9.0.{last} lladdr {} dev eth0 nud permanent", mac(last)));
            client
        });
        let sockets = services.enter(|| Sockets::open("eth0")).unwrap();
        let server = Server::start(sockets, table(resolver)).unwrap();
        Self { clients: clients.into(), _services: services, _bridge: bridge, server }
    }

    /// The client of port 10 with its address, as if it had asked for it.
    fn ready_client(&self) -> &Namespace {
        let client = &self.clients[0];
        client.ip("addr add 10.9.0.10/24 dev eth0");
        client.ip("route add 169.254.169.254/32 dev eth0");
        client
    }
}

/// A veth pair from the bridge to `eth0` in the namespace.
fn plug(bridge: &Namespace, namespace: &Namespace, port: &str, mac: MacAddress) {
    bridge.ip(&format!("link add {port} type veth peer name eth0 address {mac} netns {}", namespace.0));
    bridge.ip(&format!("link set {port} master br0 up"));
    namespace.ip("link set eth0 up");
}

/// Runs Debian's client once and returns the lease it wrote.
fn dhclient(client: &Namespace, family: &str, directory: &Path) -> String {
    // Its script would change the machine's own resolv.conf; what it is given is in the lease file.
    let script = directory.join("script");
    fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let leases = directory.join("leases");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (pid, config) = (directory.join("pid"), directory.join("config"));
    fs::write(
        &config,
        "option classless-routes code 121 = array of unsigned integer 8;\n\
         request subnet-mask, routers, domain-name, domain-name-servers, host-name, interface-mtu, classless-routes,\n\
         dhcp6.name-servers, dhcp6.domain-search;\n",
    )
    .unwrap();
    client.exec(&[
        "dhclient",
        family,
        "-1",
        "-v",
        "-sf",
        &path(&script),
        "-lf",
        &path(&leases),
        "-pf",
        &path(&pid),
        "-cf",
        &path(&config),
        "eth0",
    ]);
    let daemon: i32 = eventually("dhclient's pid file", || fs::read_to_string(&pid).ok()?.trim().parse().ok());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL).unwrap();
    fs::read_to_string(&leases).unwrap()
}

fn scratch(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("gsvc-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn nowhere() -> IpAddr {
    "192.0.2.53".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_dhcp_client_gets_each_ports_lease() {
    let site = Site::new(nowhere());
    for (client, last) in site.clients.iter().zip([10, 11]) {
        let directory = scratch(&format!("v4-{last}"));
        let lease = dhclient(client, "-4", &directory);
        for expected in [
            format!("fixed-address 10.9.0.{last};"),
            "option subnet-mask 255.255.255.0;".to_owned(),
            "option routers 10.9.0.1;".to_owned(),
            "option domain-name-servers 169.254.169.254;".to_owned(),
            "option domain-name \"lan.internal\";".to_owned(),
            format!("option host-name \"web-{last}\";"),
            "option interface-mtu 1400;".to_owned(),
            "option classless-routes 32,169,254,169,254,0,0,0,0,0,10,9,0,1;".to_owned(),
            "option dhcp-server-identifier 169.254.169.254;".to_owned(),
        ] {
            assert!(lease.contains(&expected), "{expected} is not in:\n{lease}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_dhcpv6_client_gets_its_ports_address() {
    let site = Site::new(nowhere());
    let client = &site.clients[0];
    eventually("the client's link-local address", || {
        let shown = client.ip("-6 addr show dev eth0 scope link");
        (shown.contains("fe80::") && !shown.contains("tentative")).then_some(())
    });
    let directory = scratch("v6");
    let lease = dhclient(client, "-6", &directory);
    for expected in ["iaaddr fd09::10 {", "option dhcp6.name-servers fd00:ec2::254;", "lan.internal."] {
        assert!(lease.contains(expected), "{expected} is not in:\n{lease}");
    }
    assert!(!lease.contains("fd09::11"), "{lease}");
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_finds_its_router_and_what_is_on_the_link() {
    let site = Site::new(nowhere());
    let client = &site.clients[0];
    let gateway = "fe80::867:71ff:fe00:64";
    let routes = |wanted: &[&str]| {
        let shown = client.ip("-6 route show");
        wanted.iter().all(|part| shown.contains(part)).then_some(shown)
    };
    let default = format!("default via {gateway}");
    let shown = eventually("the advertised routes", || routes(&[&default, "fd09::/64", "fd00:ec2::254"]));
    assert!(shown.contains("mtu 1400"), "{shown}");
    assert!(!client.ip("-6 addr show dev eth0").contains("fd09::"), "no address makes itself");

    // A router that is gone is taken back at once.
    let mut without = table(nowhere()).network;
    without.subnets[1].gateway_mac = None;
    site.server.set_table(PortTable::new(without, vec![], []));
    client.ip(&format!("-6 route del default via {gateway} dev eth0"));
    client.ip("link set eth0 down");
    client.ip("link set eth0 up");
    let shown = eventually("the advertisement without a router", || routes(&["fd09::/64"]));
    assert!(!shown.contains("default"), "{shown}");
    assert!(!site.server.is_over());
}

fn dns(client: &Namespace, name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(99, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let bytes = query.to_vec().unwrap();
    client.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&bytes, (SERVICES_V4, 53)).unwrap();
        let mut buffer = [0; 2000];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, SocketAddr::from((SERVICES_V4, 53)));
        let datagram = Message::from_vec(&buffer[..length]).unwrap();
        // The same over TCP.
        let mut stream = TcpStream::connect((SERVICES_V4, 53)).unwrap();
        stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).unwrap();
        assert_eq!(Message::from_vec(&message).unwrap(), datagram);
        datagram
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_network_resolve_and_others_are_forwarded() {
    // Port 53 of an address of this machine that nobody else uses: a resolver that knows nothing but says so.
    let resolver: IpAddr = format!("127.53.{}.53", std::process::id() % 200 + 1).parse().unwrap();
    let udp = UdpSocket::bind((resolver, 53)).unwrap();
    let tcp = std::net::TcpListener::bind((resolver, 53)).unwrap();
    let refusal = |query: &[u8]| {
        let mut reply = Message::from_vec(query).unwrap().into_response();
        reply.metadata.response_code = ResponseCode::NotZone;
        reply.to_vec().unwrap()
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        let (length, from) = udp.recv_from(&mut buffer).unwrap();
        udp.send_to(&refusal(&buffer[..length]), from).unwrap();
        let (mut stream, _) = tcp.accept().unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query).unwrap();
        let reply = refusal(&query);
        stream.write_all(&[&(reply.len() as u16).to_be_bytes(), reply.as_slice()].concat()).unwrap();
    });
    let site = Site::new(resolver);
    let client = site.ready_client();
    let answer = dns(client, "web-11.lan.internal.", RecordType::A);
    assert_eq!(answer.answers[0].data.to_string(), "10.9.0.11");
    assert_eq!(dns(client, "nobody.lan.internal.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(dns(client, "example.org.", RecordType::A).metadata.response_code, ResponseCode::NotZone);
}

fn http(client: &Namespace, head: &str) -> String {
    client.enter(|| {
        let mut stream = TcpStream::connect((SERVICES_V4, 80)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{head}\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_its_own_metadata_and_an_unknown_address_nothing() {
    let site = Site::new(nowhere());
    let client = site.ready_client();
    let answer = http(client, "GET /meta-data HTTP/1.1");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("instance-id: i-10\n"), "{answer}");
    assert!(http(client, "GET /latest/meta-data/instance-id HTTP/1.1").starts_with("HTTP/1.1 401"));
    let answer = http(client, "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60");
    let token = answer.rsplit("\r\n\r\n").next().unwrap();
    let read = format!("GET /latest/meta-data/instance-id HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}");
    assert!(http(client, &read).ends_with("\r\n\r\ni-10"));

    let stranger = &site.clients[1];
    stranger.ip("addr add 10.9.0.99/24 dev eth0");
    stranger.ip("route add 169.254.169.254/32 dev eth0");
    assert!(http(stranger, "GET /meta-data HTTP/1.1").starts_with("HTTP/1.1 404"));
}
