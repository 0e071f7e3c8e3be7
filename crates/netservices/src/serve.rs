//! The services of one network, running: one loop per socket, all answering from the table of the moment.
//!
//! A loop never ends by itself: what fails is logged and tried again. If one ends all the same, [`Server::is_over`] says
//! so, and its owner starts the services anew.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::callers::{Admission, Callers};
use crate::dns::{Outcome, Transport};
use crate::forward::{forward, read_message, write_message};
use crate::router::Advertisement;
use crate::sockets::Sockets;
use crate::table::PortTable;
use crate::tokens::Tokens;
use crate::{dhcp4, dhcp6, dns, http, router};

/// Connections and forwarded queries that one guest may have under way.
const PER_CALLER: usize = 32;
/// After a failure that may last, such as a device that is gone.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an idle DNS connection is kept (RFC 7766).
const DNS_IDLE_LIMIT: Duration = Duration::from_secs(10);
const DATAGRAM_BYTES: usize = 4096;

/// What all loops share.
pub(crate) struct Shared {
    table: RwLock<Arc<PortTable>>,
    pub tokens: Mutex<Tokens>,
    callers: Callers,
    /// The advertisement has changed.
    changed: Notify,
}

impl Shared {
    pub fn table(&self) -> Arc<PortTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See the module. Dropping it ends the services.
pub struct Server {
    shared: Arc<Shared>,
    loops: Vec<AbortOnDropHandle<()>>,
}

impl Server {
    /// Starts the loops on the calling runtime.
    pub fn start(sockets: Sockets, table: PortTable) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            table: RwLock::new(Arc::new(table)),
            tokens: Mutex::default(),
            callers: Callers::new(PER_CALLER),
            changed: Notify::new(),
        });
        let advertiser = Arc::new(Advertiser { socket: sockets.advertiser, device_index: sockets.device_index });
        let mut server = Self { shared: shared.clone(), loops: Vec::new() };
        server.spawn(serve_dhcp4(udp(sockets.dhcp4)?, shared.clone()));
        server.spawn(serve_dhcp6(udp(sockets.dhcp6)?, shared.clone()));
        server.spawn(answer_solicitations(udp(sockets.solicitations)?, advertiser.clone(), shared.clone()));
        server.spawn(advertise(advertiser, shared.clone()));
        for socket in sockets.dns_udp {
            server.spawn(serve_dns(Arc::new(udp(socket)?), shared.clone()));
        }
        for socket in sockets.dns_tcp {
            server.spawn(accept(tcp(socket)?, shared.clone(), serve_dns_stream));
        }
        for socket in sockets.http {
            server.spawn(accept(tcp(socket)?, shared.clone(), http::serve));
        }
        Ok(server)
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.loops.push(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    /// From here on requests are answered from `table`.
    pub fn set_table(&self, table: PortTable) {
        let before = self.shared.table();
        let is_here = |id| table.ports().iter().any(|port| port.id == id);
        self.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner).retain(is_here);
        let has_changed = router::advertisement(&before) != router::advertisement(&table);
        *self.shared.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        if has_changed {
            self.shared.changed.notify_one();
        }
    }

    /// A loop has ended, which none should.
    pub fn is_over(&self) -> bool {
        self.loops.iter().any(AbortOnDropHandle::is_finished)
    }
}

/// Also for raw sockets: sending to and receiving from an address is the same system call.
fn udp(socket: Socket) -> io::Result<UdpSocket> {
    UdpSocket::from_std(socket.into())
}

fn tcp(socket: Socket) -> io::Result<TcpListener> {
    TcpListener::from_std(socket.into())
}

/// The next datagram, whatever it takes.
async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer).await {
            Ok(received) => return received,
            Err(error) => {
                tracing::debug!(%error, "a network's services can't receive");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn send(socket: &UdpSocket, message: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(message, to).await {
        tracing::debug!(%error, %to, "a network's services can't answer");
    }
}

async fn serve_dhcp4(socket: UdpSocket, shared: Arc<Shared>) {
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let (length, _) = receive(&socket, &mut buffer).await;
        if let Some(reply) = dhcp4::answer(&buffer[..length], &shared.table()) {
            send(&socket, &reply.message, SocketAddr::new(reply.to.into(), dhcp4::CLIENT_PORT)).await;
        }
    }
}

async fn serve_dhcp6(socket: UdpSocket, shared: Arc<Shared>) {
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let (length, from) = receive(&socket, &mut buffer).await;
        let IpAddr::V6(source) = from.ip() else { continue };
        if let Some(reply) = dhcp6::answer(&buffer[..length], source, &shared.table()) {
            send(&socket, &reply, from).await;
        }
    }
}

struct Advertiser {
    socket: Socket,
    device_index: u32,
}

impl Advertiser {
    /// A full send queue loses it; the next one comes.
    fn send(&self, advertisement: &Advertisement, to: Ipv6Addr) {
        let on_link = |address| SocketAddrV6::new(address, 0, 0, self.device_index).into();
        let sent = self
            .socket
            .bind(&on_link(advertisement.source))
            .and_then(|()| self.socket.send_to(&advertisement.message, &on_link(to)));
        if let Err(error) = sent {
            tracing::debug!(%error, %to, "a router advertisement is not sent");
        }
    }
}

async fn answer_solicitations(socket: UdpSocket, advertiser: Arc<Advertiser>, shared: Arc<Shared>) {
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let (length, from) = receive(&socket, &mut buffer).await;
        let IpAddr::V6(source) = from.ip() else { continue };
        if !router::is_solicitation(&buffer[..length]) {
            continue;
        }
        if let Some(advertisement) = router::advertisement(&shared.table()) {
            // A host that has no address yet asks from none (RFC 4861, 4.1).
            advertiser.send(&advertisement, if source.is_unspecified() { router::ALL_NODES } else { source });
        }
    }
}

async fn advertise(advertiser: Arc<Advertiser>, shared: Arc<Shared>) {
    loop {
        if let Some(advertisement) = router::advertisement(&shared.table()) {
            advertiser.send(&advertisement, router::ALL_NODES);
        }
        // Either way it is time.
        let _ = timeout(Duration::from_secs(router::INTERVAL_S), shared.changed.notified()).await;
    }
}

async fn serve_dns(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = [0; DATAGRAM_BYTES];
    loop {
        let (length, from) = receive(&socket, &mut buffer).await;
        let query = &buffer[..length];
        match dns::answer(query, Transport::Udp, &shared.table()) {
            Outcome::Drop => {}
            Outcome::Answer(answer) => send(&socket, &answer, from).await,
            Outcome::Forward => match shared.callers.admit(from.ip()) {
                Some(admission) => {
                    let (query, socket, shared) = (query.to_vec(), socket.clone(), shared.clone());
                    tokio::spawn(async move {
                        if let Some(answer) = forwarded(&query, Transport::Udp, &shared, admission).await {
                            send(&socket, &answer, from).await;
                        }
                    });
                }
                None => {
                    if let Some(refusal) = dns::failure(query, Transport::Udp) {
                        send(&socket, &refusal, from).await;
                    }
                }
            },
        }
    }
}

async fn forwarded(query: &[u8], transport: Transport, shared: &Shared, _under_way: Admission) -> Option<Vec<u8>> {
    let table = shared.table();
    if !table.network.forwards {
        return dns::failure(query, transport);
    }
    let resolvers = table.forwarders();
    match forward(query, transport, &resolvers).await {
        Some(answer) => Some(answer),
        None => dns::failure(query, transport),
    }
}

async fn serve_dns_stream(mut stream: TcpStream, caller: IpAddr, shared: Arc<Shared>) {
    while let Ok(Ok(query)) = timeout(DNS_IDLE_LIMIT, read_message(&mut stream)).await {
        let answer = match dns::answer(&query, Transport::Tcp, &shared.table()) {
            Outcome::Drop => return,
            Outcome::Answer(answer) => Some(answer),
            Outcome::Forward => match shared.callers.admit(caller) {
                Some(admission) => forwarded(&query, Transport::Tcp, &shared, admission).await,
                None => dns::failure(&query, Transport::Tcp),
            },
        };
        let Some(answer) = answer else { return };
        if !matches!(timeout(DNS_IDLE_LIMIT, write_message(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn accept<F, S>(listener: TcpListener, shared: Arc<Shared>, serve: S)
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(TcpStream, IpAddr, Arc<Shared>) -> F,
{
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(admission) = shared.callers.admit(from.ip()) else { continue };
                let serving = serve(stream, from.ip(), shared.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(admission);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a network's services can't accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
