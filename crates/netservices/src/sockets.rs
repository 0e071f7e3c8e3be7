//! The sockets of one network's services, opened inside its namespace; afterwards they work from any thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{SERVICES_V4, SERVICES_V6, dhcp4, dhcp6, dns, metadata, router};

/// Why the services can't listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the socket of {service} on '{device}'")]
pub struct SocketError {
    pub service: &'static str,
    pub device: String,
    #[source]
    pub source: io::Error,
}

/// See the module.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) device_index: u32,
    pub(crate) dhcp4: Socket,
    pub(crate) dhcp6: Socket,
    pub(crate) solicitations: Socket,
    pub(crate) advertiser: Socket,
    pub(crate) dns_udp: Vec<Socket>,
    pub(crate) dns_tcp: Vec<Socket>,
    pub(crate) http: Vec<Socket>,
}

impl Sockets {
    /// Opens all of them on `device`, which has the services' addresses. Must be called on a thread that is in the
    /// network's namespace.
    pub fn open(device: &str) -> Result<Self, SocketError> {
        let failed = |service| move |source| SocketError { service, device: device.to_owned(), source };
        let device_index = device_index(device).map_err(failed("router advertisements"))?;
        let addresses = [IpAddr::V4(SERVICES_V4), IpAddr::V6(SERVICES_V6)];
        let all = |port: u16, kind: Type| -> io::Result<Vec<Socket>> {
            addresses.iter().map(|address| bound(kind, SocketAddr::new(*address, port))).collect()
        };
        Ok(Self {
            device_index,
            dhcp4: dhcp4_socket(device).map_err(failed("DHCPv4"))?,
            dhcp6: dhcp6_socket(device_index).map_err(failed("DHCPv6"))?,
            solicitations: solicitation_socket(device, device_index).map_err(failed("router advertisements"))?,
            advertiser: advertiser_socket(device_index).map_err(failed("router advertisements"))?,
            dns_udp: all(dns::PORT, Type::DGRAM).map_err(failed("DNS"))?,
            dns_tcp: all(dns::PORT, Type::STREAM).map_err(failed("DNS"))?,
            http: all(metadata::PORT, Type::STREAM).map_err(failed("metadata"))?,
        })
    }
}

/// Of the calling thread's namespace, as every other name here.
fn device_index(device: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{device}"))?;
    let index = text.lines().find_map(|line| line.strip_prefix("ifIndex")?.trim().parse().ok());
    index.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel does not tell its index"))
}

fn bound(kind: Type, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(128)?;
    }
    Ok(socket)
}

/// On all addresses: clients without one ask 255.255.255.255.
fn dhcp4_socket(device: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), dhcp4::SERVER_PORT).into())?;
    Ok(socket)
}

fn dhcp6_socket(device_index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_only_v6(true)?;
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, dhcp6::SERVER_PORT, 0, 0).into())?;
    socket.join_multicast_v6(&dhcp6::SERVERS, device_index)?;
    Ok(socket)
}

fn solicitation_socket(device: &str, device_index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.join_multicast_v6(&router::ALL_ROUTERS, device_index)?;
    Ok(socket)
}

/// Bound anew before each advertisement: its source may be the address of a router, which is in another namespace.
fn advertiser_socket(device_index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    socket.set_freebind_v6(true)?;
    socket.set_unicast_hops_v6(router::HOP_LIMIT)?;
    socket.set_multicast_hops_v6(router::HOP_LIMIT)?;
    socket.set_multicast_if_v6(device_index)?;
    socket.set_multicast_loop_v6(false)?;
    Ok(socket)
}
