//! The node's UDP sockets: one for IPv4 and one for IPv6, on one port, with GSO and GRO; and
//! beside them groups of sockets for punching.
//!
//! What the kernel can do is detected when the sockets are opened; what a path or a device
//! refuses later is noticed at the first refusal and done one datagram at a time from then on.

mod groups;
mod receive;
mod send;
mod streams;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, Socket, Type};
use warren_core::hop::Hop;

pub use groups::{MAX_GROUP, SocketGroups};
pub use receive::{Message, Receiver};
pub use send::{MAX_DATAGRAM, SendQueue, SendReport};
pub use streams::{StreamQueue, Streams};

const BUFFER_BYTES: libc::c_int = 7 << 20;
const SOL_UDP: libc::c_int = 17;
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// The sockets of both families. Sending and receiving may be done from several threads at once.
///
/// There may be several of each on the same port, to be received from by as many threads: the
/// kernel gives all that comes from one address to the same one.
#[derive(Debug)]
pub struct UdpSockets {
    v4: Vec<Socket>,
    v6: Vec<Socket>,
    port4: u16,
    port6: u16,
    gso: AtomicBool,
    gro: bool,
}

impl UdpSockets {
    /// Opens the sockets on `port`, or on any one port free in both families when it is 0.
    ///
    /// A family that the machine lacks is left out. `count`: how many sockets of each family, at
    /// least 1.
    ///
    /// # Errors
    /// One sentence when the port is busy, or when no family can be had.
    pub fn bind(port: u16, count: usize) -> io::Result<Self> {
        let mut last = None;
        for _ in 0..if port == 0 { 16 } else { 1 } {
            match Self::bind_once(port, count) {
                Ok(sockets) => return Ok(sockets),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = Some(error),
                Err(error) => return Err(explain(port, &error)),
            }
        }
        Err(explain(
            port,
            &last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()),
        ))
    }

    /// No sockets: a stand-in while they are replaced.
    #[must_use]
    pub fn none() -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
            port4: 0,
            port6: 0,
            gso: AtomicBool::new(false),
            gro: false,
        }
    }

    fn bind_once(port: u16, count: usize) -> io::Result<Self> {
        let v4 = open_all((Ipv4Addr::UNSPECIFIED, port).into(), count)?;
        let port4 = v4.first().map(port_of).transpose()?.unwrap_or(0);
        let wanted = if port == 0 { port4 } else { port };
        let v6 = open_all((Ipv6Addr::UNSPECIFIED, wanted).into(), count)?;
        let port6 = v6.first().map(port_of).transpose()?.unwrap_or(0);
        v4.iter().chain(&v6).for_each(widen);
        let any = v4
            .first()
            .or(v6.first())
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let gso = set_option(any, SOL_UDP, UDP_SEGMENT, 0);
        let gro = (v4.iter().chain(&v6)).all(|socket| set_option(socket, SOL_UDP, UDP_GRO, 1));
        Ok(Self {
            v4,
            v6,
            port4,
            port6,
            gso: AtomicBool::new(gso),
            gro,
        })
    }

    /// Port of the IPv4 socket, 0 without one.
    #[must_use]
    pub fn port4(&self) -> u16 {
        self.port4
    }

    /// Port of the IPv6 socket, 0 without one.
    #[must_use]
    pub fn port6(&self) -> u16 {
        self.port6
    }

    /// Whether several datagrams go out in one call to the kernel.
    #[must_use]
    pub fn gso(&self) -> bool {
        self.gso.load(Ordering::Relaxed)
    }

    /// Whether the kernel hands over several datagrams in one.
    #[must_use]
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Descriptors for receiver `index` to wait on, IPv4 first.
    #[must_use]
    pub fn descriptors(&self, index: usize) -> [Option<RawFd>; 2] {
        [&self.v4, &self.v6].map(|sockets| sockets.get(index).map(AsRawFd::as_raw_fd))
    }

    fn socket_for(&self, to: SocketAddr) -> Option<&Socket> {
        if to.is_ipv4() {
            self.v4.first()
        } else {
            self.v6.first()
        }
    }

    fn refuse_gso(&self) {
        self.gso.store(false, Ordering::Relaxed);
    }
}

/// Every socket that a datagram may leave by.
#[derive(Clone, Copy)]
pub struct Ways<'a> {
    /// The main pair.
    pub main: &'a UdpSockets,
    /// The groups beside it.
    pub groups: &'a SocketGroups,
    /// The streams to TURN servers, which are groups of one.
    pub streams: &'a Streams,
}

/// A socket for as long as it is being used.
enum Held<'a> {
    Main(&'a Socket),
    Grouped(Arc<Socket>),
}

impl Deref for Held<'_> {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        match self {
            Self::Main(socket) => socket,
            Self::Grouped(socket) => socket,
        }
    }
}

impl<'a> Ways<'a> {
    /// Sends one datagram as it is: what `hop` wraps it in is there already.
    ///
    /// # Errors
    /// The kernel's; `AddrNotAvailable` when the family is missing or the group is closed.
    pub fn send_to(&self, data: &[u8], hop: Hop) -> io::Result<()> {
        if let Some(queue) = self.streams.get(hop.socket) {
            return if queue.push(data) {
                Ok(())
            } else {
                Err(io::ErrorKind::StorageFull.into())
            };
        }
        let socket = self.socket(hop).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        socket.send_to_with_flags(data, &hop.addr.into(), flags)?;
        Ok(())
    }

    /// Sends one datagram that routers must not fragment, nor the kernel, whatever it has heard
    /// of the path (IP_PMTUDISC_PROBE).
    ///
    /// Linux has no such flag for one datagram, only for the socket: what other threads send in
    /// this moment goes whole, too.
    ///
    /// # Errors
    /// As [`Self::send_to`]; EMSGSIZE when the first link does not carry it.
    pub fn send_whole(&self, data: &[u8], hop: Hop) -> io::Result<()> {
        let socket = self.socket(hop).ok_or(io::ErrorKind::AddrNotAvailable)?;
        discover(&socket, hop.addr, libc::IP_PMTUDISC_PROBE);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let sent = socket.send_to_with_flags(data, &hop.addr.into(), flags);
        discover(&socket, hop.addr, libc::IP_PMTUDISC_DONT);
        sent.map(|_| ())
    }

    fn socket(&self, hop: Hop) -> Option<Held<'a>> {
        if hop.socket.is_main() {
            self.main.socket_for(hop.addr).map(Held::Main)
        } else {
            let socket = self.groups.get(hop.socket)?;
            hop.addr.is_ipv4().then_some(Held::Grouped(socket))
        }
    }
}

/// Opens sockets on one port; none when the machine lacks the family.
fn open_all(address: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
    // Alone, for sockets that share a port would share it with another program's, too, and take
    // datagrams away from each other in silence.
    let Some(first) = open(address, false)? else {
        return Ok(Vec::new());
    };
    if count < 2 {
        return Ok(vec![first]);
    }
    let address = SocketAddr::new(address.ip(), port_of(&first)?);
    drop(first);
    let shared = (0..count).map(|_| open(address, true));
    Ok(shared
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// Opens one socket, which may share its port; None when the machine lacks the family.
fn open(address: SocketAddr, shared: bool) -> io::Result<Option<Socket>> {
    let socket = match Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    ) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
        Err(error) => return Err(error),
    };
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    // A tunnel must not lose what a narrow hop could still carry in fragments.
    discover(&socket, address, libc::IP_PMTUDISC_DONT);
    match socket.bind(&address.into()) {
        Ok(()) => Ok(Some(socket)),
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the socket does about the path's MTU; the values are the same for both families.
fn discover(socket: &Socket, address: SocketAddr, how: libc::c_int) {
    let (level, name) = if address.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    };
    set_option(socket, level, name, how);
}

/// Gives a socket the buffers that a tunnel's worth of traffic needs.
fn widen(socket: &Socket) {
    for (force, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        if !set_option(socket, libc::SOL_SOCKET, force, BUFFER_BYTES) {
            set_option(socket, libc::SOL_SOCKET, plain, BUFFER_BYTES);
        }
    }
}

fn port_of(socket: &Socket) -> io::Result<u16> {
    Ok(socket
        .local_addr()?
        .as_socket()
        .map_or(0, |address| address.port()))
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> bool {
    // SAFETY: the option's value is one int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    result == 0
}

fn explain(port: u16, error: &io::Error) -> io::Error {
    let sentence = match error.kind() {
        io::ErrorKind::AddrInUse if port != 0 => format!(
            "UDP port {port} is in use by another program: stop that, or choose another port (0 takes any)"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("UDP port {port} may not be opened by this user: choose one above 1023")
        }
        _ => format!("no UDP socket can be opened on port {port}: {error}"),
    };
    io::Error::new(error.kind(), sentence)
}

#[cfg(test)]
mod tests;
