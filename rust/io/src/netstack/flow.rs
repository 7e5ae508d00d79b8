//! One TCP connection: a smoltcp socket in the tunnel, a socket of the host, and the pump between.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, Shutdown};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};

/// An open connection whose peer acknowledges nothing for so long is dead (RFC 9293 §3.8.3).
const UNACKNOWLEDGED: Duration = Duration::from_secs(15 * 60);
/// A silent connection is probed at this interval.
const PROBE_EVERY: Duration = Duration::from_secs(10 * 60);
/// ... and at this one while data waits for acknowledgement and no timer of smoltcp runs: after a
/// zero window it forgets to retransmit what was in flight, and three probes' answers remind it.
const REMIND_EVERY: Duration = Duration::from_secs(2);
/// A handshake may take so long.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);
/// A connection that one side has closed and nobody uses is given up after so long.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(10 * 60);

/// Where a flow is in its life.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// From the tunnel: the host is being asked; the SYN waits here, and is answered when we know.
    Asking { syn: Vec<u8>, second_try: bool },
    /// To the tunnel: the SYN is out, for the `Dial` with this id.
    Dialing { id: u64 },
    /// Established, waiting for its `Splice`.
    Dialed { id: u64 },
    /// Bytes flow.
    Joined,
    /// The host's side is done; smoltcp ends the rest (FIN, TIME-WAIT).
    Lingering,
}

/// One connection.
pub(super) struct Flow {
    pub(super) stage: Stage,
    pub(super) handle: Option<SocketHandle>,
    pub(super) host: Option<OwnedFd>,
    /// For inbound flows, the two ends as the tunnel sees them: peer, own.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
    /// For dialed flows, the port that they come from.
    pub(super) port: Option<u16>,
    pub(super) since: Instant,
    /// What the host's socket last said about itself; false after it would have blocked.
    pub(super) host_readable: bool,
    pub(super) host_writable: bool,
    host_ended: bool,
    /// smoltcp was told that the host has ended.
    closed: bool,
    /// Data waits for acknowledgement.
    waiting: bool,
    tunnel_ended: bool,
    established: bool,
    used: Instant,
}

/// What became of a flow in a round of the pump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    Idle,
    Moved,
    /// The host's socket is to be closed, smoltcp's goes on for a while.
    HostDone,
}

impl Flow {
    pub(super) fn new(stage: Stage, now: Instant) -> Self {
        Self {
            stage,
            handle: None,
            host: None,
            ends: None,
            port: None,
            since: now,
            host_readable: false,
            host_writable: false,
            host_ended: false,
            closed: false,
            waiting: false,
            tunnel_ended: false,
            established: false,
            used: now,
        }
    }

    /// Move what can be moved, both ways, and carry over ends and errors.
    pub(super) fn pump(&mut self, socket: &mut Socket<'_>, now: Instant) -> Pumped {
        let Some(host) = &self.host else {
            return Pumped::Idle;
        };
        match socket.state() {
            State::SynReceived | State::SynSent => return Pumped::Idle,
            // Reset during the handshake: smoltcp would listen for the next one.
            State::Listen => {
                socket.abort();
                reset_on_close(host);
                return Pumped::HostDone;
            }
            _ => {}
        }
        if !self.established {
            self.established = true;
            keep_alive(socket);
        }
        let mut moved = false;
        while self.host_writable && socket.can_recv() {
            match to_host(socket, host) {
                Ok(_) => moved = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.host_writable = false,
                Err(_) => {
                    socket.abort();
                    return Pumped::HostDone;
                }
            }
        }
        while self.host_readable && !self.host_ended && socket.can_send() {
            match from_host(socket, host) {
                Ok(0) => {
                    self.host_ended = true;
                    moved = true;
                }
                Ok(_) => moved = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.host_readable = false,
                Err(_) => {
                    socket.abort();
                    return Pumped::HostDone;
                }
            }
        }
        if !self.tunnel_ended && !socket.may_recv() {
            if socket.state() == State::Closed {
                // Reset by the peer or given up: the host shall not take it for an orderly end.
                reset_on_close(host);
                return Pumped::HostDone;
            }
            self.tunnel_ended = true;
            let _ = rustix::net::shutdown(host, Shutdown::Write);
            moved = true;
        }
        if self.host_ended && !self.closed && may_close(socket) {
            self.closed = true;
            socket.close();
            moved = true;
        }
        let waiting = socket.send_queue() > 0;
        if waiting != std::mem::replace(&mut self.waiting, waiting) {
            let every = if waiting { REMIND_EVERY } else { PROBE_EVERY };
            socket.set_keep_alive(Some(every.into()));
        }
        if moved {
            self.used = now;
        }
        self.verdict(socket, moved, now)
    }

    fn verdict(&self, socket: &mut Socket<'_>, moved: bool, now: Instant) -> Pumped {
        let ended = self.closed && self.tunnel_ended;
        if ended || socket.state() == State::Closed {
            return Pumped::HostDone;
        }
        let half = self.host_ended || self.tunnel_ended;
        if half && now >= self.used + HALF_CLOSED_IDLE {
            socket.abort();
            return Pumped::HostDone;
        }
        if moved { Pumped::Moved } else { Pumped::Idle }
    }

    /// When the flow has to be looked at although nothing happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asking { .. } => Some(self.since + HANDSHAKE),
            Stage::Joined if self.host_ended || self.tunnel_ended => {
                Some(self.used + HALF_CLOSED_IDLE)
            }
            _ => None,
        }
    }
}

/// A socket with two buffers of `buffer_bytes`, for a handshake that may take 30 s.
pub(super) fn fresh_socket(buffer_bytes: usize) -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; buffer_bytes]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_congestion_control(CongestionControl::Cubic);
    socket.set_timeout(Some(HANDSHAKE.into()));
    socket
}

/// How large the buffers of another connection are when `live` are open: a few may be fast, all
/// of 1,024 together stay within a quarter of a gigabyte.
pub(super) fn buffer_bytes(live: usize) -> usize {
    match live {
        0..32 => 1 << 20,
        32..128 => 256 << 10,
        _ => 64 << 10,
    }
}

/// What an established connection needs: patience, and a sign of life now and then.
pub(super) fn keep_alive(socket: &mut Socket<'_>) {
    socket.set_timeout(Some(UNACKNOWLEDGED.into()));
    socket.set_keep_alive(Some(PROBE_EVERY.into()));
}

/// Whether the FIN may go now. After the peer's own FIN it waits until all data is acknowledged:
/// smoltcp 0.14 takes no window updates in LAST-ACK, and what is still queued would be stuck.
fn may_close(socket: &Socket<'_>) -> bool {
    socket.state() != State::CloseWait || socket.send_queue() == 0
}

fn to_host(socket: &mut Socket<'_>, host: &OwnedFd) -> io::Result<usize> {
    let written = socket.recv(|bytes| {
        match rustix::net::send(host, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) => (count, Ok(count)),
            Err(error) => (0, Err(error.into())),
        }
    });
    written.unwrap_or_else(|_| Err(ErrorKind::WouldBlock.into()))
}

fn from_host(socket: &mut Socket<'_>, host: &OwnedFd) -> io::Result<usize> {
    let read = socket.send(|room| match rustix::io::read(host, room) {
        Ok(count) => (count, Ok(count)),
        Err(error) => (0, Err(error.into())),
    });
    read.unwrap_or_else(|_| Err(ErrorKind::BrokenPipe.into()))
}

/// Let closing the socket send RST instead of FIN, where it is TCP.
pub(super) fn reset_on_close(host: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_linger(host, Some(Duration::ZERO));
}

/// What a finished connect says: `None` while it is still under way.
pub(super) fn connect_result(host: &OwnedFd) -> Option<io::Result<()>> {
    match rustix::net::sockopt::socket_error(host) {
        Ok(Ok(())) => match rustix::net::getpeername(host) {
            Ok(_) => Some(Ok(())),
            Err(rustix::io::Errno::NOTCONN) => None,
            Err(error) => Some(Err(error.into())),
        },
        Ok(Err(error)) | Err(error) => Some(Err(error.into())),
    }
}

/// Begin to connect to the host's own `port`, at 127.0.0.1 or at ::1.
pub(super) fn ask_host(port: u16, second_try: bool) -> io::Result<OwnedFd> {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    let addr: SocketAddr = if second_try {
        (std::net::Ipv6Addr::LOCALHOST, port).into()
    } else {
        (std::net::Ipv4Addr::LOCALHOST, port).into()
    };
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&SockAddr::from(addr)) {
        Err(error)
            if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            Err(error)
        }
        _ => Ok(socket.into()),
    }
}

/// The raw descriptor, for the poller.
pub(super) fn raw(host: &OwnedFd) -> i32 {
    host.as_raw_fd()
}
