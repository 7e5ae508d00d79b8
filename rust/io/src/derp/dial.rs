//! From a region's nodes to a logged-in stream: TCP, proxy, TLS, upgrade, login (PROTOCOL §4.1).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use warren_core::derp::frames::{FrameReader, MAX_CLIENT_FRAME};
use warren_core::derp::login::{ClientLogin, ServerInfo, Step};
use warren_core::derp::{MalformedDerp, RawKey, upgrade};
use warren_core::seam::RelayNode;

use super::detours::Detours;
use super::stream::{Stream, words};
use super::tls::Judge;
use super::wake::{Wake, wait, wait_any_writable};
use super::websocket::Opening;

/// All nodes of a region together may take so long.
const OVERALL: Duration = Duration::from_secs(10);
/// One node's TCP connection may take so long.
const PER_NODE: Duration = Duration::from_millis(1500);
/// Whoever swallows the upgrade without a word is tried by WebSocket after so long.
const NATIVE_PATIENCE: Duration = Duration::from_secs(4);
/// The next address of a node is tried beside the first after so long (RFC 8305 §5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// A silent connection is probed by the kernel after so long, which keeps it in the memory of
/// routers, then at this interval.
const PROBE_AFTER: Duration = Duration::from_secs(8);
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A connection whose peer acknowledges nothing for so long is dead: an idle node that the relay
/// forgot can't be called. Probes count: with less, one that is lost would be the end.
const UNACKNOWLEDGED: Duration = Duration::from_secs(12);
/// Bytes that the kernel may hold before they are on the wire; more would only be delay.
const UNSENT_BYTES: u32 = 128 << 10;

/// A stream that is logged in, with what already came behind the login.
pub(super) struct Session {
    pub(super) stream: Stream,
    pub(super) reader: FrameReader,
    pub(super) limits: ServerInfo,
}

/// Why there is no session: one sentence, or that the caller called it off.
#[derive(Debug)]
pub(super) enum Failure {
    CalledOff,
    /// The upgrade to DERP was turned away, perhaps by something in between that knows only HTTP.
    Turned(String),
    Failed(String),
}

/// How DERP is entered.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Native,
    WebSocket,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(words(&error))
    }
}

impl From<MalformedDerp> for Failure {
    fn from(error: MalformedDerp) -> Self {
        Self::Failed(error.to_string())
    }
}

/// One attempt at a region.
pub(super) struct Dialer<'a> {
    pub(super) judge: &'a Judge,
    /// Relays that are known to be reached by WebSocket only.
    pub(super) detours: &'a Detours,
    pub(super) wake: &'a Wake,
    /// Looked at whenever `wake` was called: true ends the attempt.
    pub(super) called_off: &'a dyn Fn() -> bool,
    pub(super) private: RawKey,
}

impl Dialer<'_> {
    /// Try the nodes in order until one lets us in.
    pub(super) fn open(&self, nodes: &[RelayNode]) -> Result<Session, Failure> {
        let overall = Instant::now() + OVERALL;
        let mut last = Failure::Failed("the region has no relay".to_owned());
        for node in nodes {
            if Instant::now() >= overall {
                break;
            }
            match self.open_node(node, overall) {
                Ok(session) => return Ok(session),
                Err(Failure::CalledOff) => return Err(Failure::CalledOff),
                Err(Failure::Failed(text) | Failure::Turned(text)) => {
                    last = Failure::Failed(format!("relay {}: {text}", node.server_name));
                }
            }
        }
        Err(last)
    }

    /// Over WebSocket where the native upgrade is turned away, or was a while ago.
    fn open_node(&self, node: &RelayNode, overall: Instant) -> Result<Session, Failure> {
        if self.detours.knows(node, Instant::now()) {
            let (socket, addr) = self.reach(node, overall)?;
            match self.log_in(socket, node, addr.ip(), Way::WebSocket, overall) {
                Err(Failure::Failed(_) | Failure::Turned(_)) => self.detours.forget(node),
                done => return done,
            }
        }
        let (socket, addr) = self.reach(node, overall)?;
        let turned = match self.log_in(socket, node, addr.ip(), Way::Native, overall) {
            Err(Failure::Turned(text)) => text,
            done => return done,
        };
        let (socket, addr) = self.reach(node, overall)?;
        match self.log_in(socket, node, addr.ip(), Way::WebSocket, overall) {
            Err(Failure::Failed(text) | Failure::Turned(text)) => {
                Err(Failure::Failed(format!("{turned}; by WebSocket: {text}")))
            }
            done => {
                if done.is_ok() {
                    self.detours.note(node, Instant::now());
                }
                done
            }
        }
    }

    /// A stream to `node` that is ready for application data: no upgrade, no login.
    pub(super) fn open_stream(&self, node: &RelayNode) -> Result<Stream, Failure> {
        let overall = Instant::now() + OVERALL;
        let (socket, addr) = self.reach(node, overall)?;
        Ok(self.secure(socket, node, addr.ip(), overall)?.0)
    }

    /// Do the TLS handshake, where there is one; with what came behind it already.
    fn secure(
        &self,
        socket: TcpStream,
        node: &RelayNode,
        ip: IpAddr,
        overall: Instant,
    ) -> Result<(Stream, Vec<u8>), Failure> {
        let tls = if node.plain {
            None
        } else {
            let config = self.judge.config(node).map_err(Failure::Failed)?;
            Some((config, server_name(node, ip)?))
        };
        let mut stream = Stream::new(socket, tls)?;
        stream.start()?;
        let mut early = Vec::new();
        while !stream.is_open() {
            self.exchange(&mut stream, &mut early, overall)?;
        }
        Ok((stream, early))
    }

    /// Connect to a node, through its proxy if it has one.
    fn reach(
        &self,
        node: &RelayNode,
        overall: Instant,
    ) -> Result<(TcpStream, SocketAddr), Failure> {
        let Some(proxy) = &node.proxy else {
            return self.connect(&node.addrs, overall);
        };
        // A proxy may know the name and not the address, or in a closed network the reverse.
        let port = node
            .addrs
            .first()
            .and_then(|addr| addr.rsplit_once(':'))
            .map_or("443", |a| a.1);
        let named = format!("{}:{port}", node.server_name);
        let mut last = Failure::Failed("the proxy was not asked".to_owned());
        for target in std::iter::once(&named).chain(&node.addrs) {
            let (socket, addr) = self.connect(std::slice::from_ref(proxy), overall)?;
            match self.tunnel(socket, target, overall) {
                Ok(socket) => return Ok((socket, addr)),
                Err(Failure::CalledOff) => return Err(Failure::CalledOff),
                Err(Failure::Failed(text) | Failure::Turned(text)) => {
                    last = Failure::Failed(format!("proxy: {text}"));
                }
            }
        }
        Err(last)
    }

    /// Connect to whichever address answers first; each gets a head start on the next.
    fn connect(
        &self,
        addrs: &[String],
        overall: Instant,
    ) -> Result<(TcpStream, SocketAddr), Failure> {
        let deadline = overall.min(Instant::now() + PER_NODE);
        let mut waiting = addrs.iter();
        let mut next_at = Instant::now();
        let mut under_way: Vec<(Socket, SocketAddr)> = Vec::new();
        let mut last = "it has no address".to_owned();
        loop {
            if Instant::now() >= next_at || under_way.is_empty() {
                if let Some(text) = waiting.next() {
                    match start_connect(text) {
                        Ok(started) => under_way.push(started),
                        Err(error) => last = error,
                    }
                    next_at = Instant::now() + NEXT_ADDRESS;
                    continue;
                }
                if under_way.is_empty() {
                    return Err(Failure::Failed(last));
                }
                next_at = deadline;
            }
            let fds: Vec<_> = under_way.iter().map(|(socket, _)| socket.as_fd()).collect();
            let ready = wait_any_writable(&fds, self.wake, next_at.min(deadline))?;
            self.check()?;
            if let Some(index) = ready {
                let (socket, addr) = under_way.swap_remove(index);
                match socket.take_error()? {
                    None => return Ok((tuned(socket)?, addr)),
                    Some(error) => last = format!("cannot connect to {addr}: {}", words(&error)),
                }
            } else if Instant::now() >= deadline {
                return Err(Failure::Failed("it does not answer".to_owned()));
            }
        }
    }

    /// Ask an HTTP proxy, to which `socket` leads, for a tunnel to `target`.
    fn tunnel(
        &self,
        socket: TcpStream,
        target: &str,
        overall: Instant,
    ) -> Result<TcpStream, Failure> {
        let mut stream = Stream::new(socket.try_clone()?, None)?;
        stream.queue(&upgrade::encode_connect(target))?;
        let mut head = Vec::new();
        let (_, status) = self.read_head(&mut stream, &mut head, overall)?;
        upgrade::check_connected(status)?;
        Ok(socket)
    }

    fn log_in(
        &self,
        socket: TcpStream,
        node: &RelayNode,
        ip: IpAddr,
        way: Way,
        overall: Instant,
    ) -> Result<Session, Failure> {
        let (mut stream, mut early) = self.secure(socket, node, ip, overall)?;
        let known = stream
            .certificates()
            .iter()
            .skip(1)
            .find_map(|certificate| upgrade::server_key_of_certificate_untrusted(certificate));

        let mut login = ClientLogin::new(self.private, fresh_nonce()?);
        match (way, known) {
            (Way::WebSocket, _) => early = self.enter_websocket(&mut stream, node, overall)?,
            (Way::Native, Some(server)) => {
                // What showed the relay's own certificate is the relay.
                let mut request = upgrade::encode_request(&host_header(node), true);
                request.extend(login.start_knowing(server));
                stream.queue(&request)?;
            }
            (Way::Native, None) => {
                stream.queue(&upgrade::encode_request(&host_header(node), false))?;
                let patience = overall.min(Instant::now() + NATIVE_PATIENCE);
                let (length, status) = self
                    .read_head(&mut stream, &mut early, patience)
                    .map_err(turned)?;
                upgrade::check_switched(status).map_err(|error| turned(error.into()))?;
                early.drain(..length);
            }
        }
        let mut reader = FrameReader::new(MAX_CLIENT_FRAME);
        reader.push(&early);
        let limits = self.finish_login(&mut stream, &mut reader, &mut login, overall)?;
        Ok(Session {
            stream,
            reader,
            limits,
        })
    }

    /// Open a WebSocket inside the stream: what came in it already.
    fn enter_websocket(
        &self,
        stream: &mut Stream,
        node: &RelayNode,
        overall: Instant,
    ) -> Result<Vec<u8>, Failure> {
        let mut opening = Opening::start(&host_header(node))?;
        stream.queue(&opening.take_outgoing())?;
        let mut piece = Vec::new();
        loop {
            piece.clear();
            self.exchange(stream, &mut piece, overall)?;
            match opening.receive(&piece)? {
                Ok(websocket) => {
                    piece.clear();
                    stream.enter(websocket, &mut |bytes| piece.extend_from_slice(bytes))?;
                    return Ok(piece);
                }
                Err(waiting) => opening = waiting,
            }
        }
    }

    fn finish_login(
        &self,
        stream: &mut Stream,
        reader: &mut FrameReader,
        login: &mut ClientLogin,
        overall: Instant,
    ) -> Result<ServerInfo, Failure> {
        let mut piece = Vec::new();
        loop {
            while let Some((kind, payload)) = reader.next_frame()? {
                match login.receive(kind, payload)? {
                    Step::Wait => {}
                    Step::Send(frame) => stream.queue(&frame)?,
                    Step::Done(limits) => return Ok(limits),
                }
            }
            piece.clear();
            self.exchange(stream, &mut piece, overall)?;
            reader.push(&piece);
        }
    }

    /// Read until `head` begins with a whole response head: its length and status.
    fn read_head(
        &self,
        stream: &mut Stream,
        head: &mut Vec<u8>,
        overall: Instant,
    ) -> Result<(usize, u16), Failure> {
        loop {
            if let Some(parsed) = upgrade::parse_head_untrusted(head)? {
                return Ok(parsed);
            }
            self.exchange(stream, head, overall)?;
        }
    }

    /// Flush, wait for bytes, read once: what came is appended to `got`.
    fn exchange(
        &self,
        stream: &mut Stream,
        got: &mut Vec<u8>,
        overall: Instant,
    ) -> Result<(), Failure> {
        loop {
            stream.flush()?;
            let ready = wait(
                Some((stream.fd(), true, stream.is_blocked())),
                self.wake,
                overall,
            )?;
            self.check()?;
            if ready.readable {
                let ended = |error: io::Error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        Failure::Failed("it closed the connection during the login".to_owned())
                    }
                    _ => Failure::Failed(words(&error)),
                };
                let mut take = |bytes: &[u8]| got.extend_from_slice(bytes);
                if stream.receive(&mut take).map_err(ended)? > 0 {
                    return Ok(());
                }
            } else if Instant::now() >= overall {
                return Err(Failure::Failed("it does not finish the login".to_owned()));
            }
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if (self.called_off)() {
            Err(Failure::CalledOff)
        } else {
            Ok(())
        }
    }
}

fn turned(failure: Failure) -> Failure {
    match failure {
        Failure::Failed(text) => Failure::Turned(text),
        other => other,
    }
}

fn start_connect(text: &str) -> Result<(Socket, SocketAddr), String> {
    let addr: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text} is no address with a port"))?;
    let start = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&addr.into()) {
            Err(error)
                if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
            {
                Err(error)
            }
            _ => Ok(socket),
        }
    };
    start()
        .map(|socket| (socket, addr))
        .map_err(|error| format!("cannot connect to {addr}: {}", words(&error)))
}

/// Set what makes a dead relay noticed and a slow one felt.
fn tuned(socket: Socket) -> io::Result<TcpStream> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(PROBE_AFTER)
            .with_interval(PROBE_EVERY),
    )?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(socket.into())
}

/// The name to ask for. Where the name is not checked, one that TLS cannot carry is no hindrance.
fn server_name(node: &RelayNode, ip: IpAddr) -> Result<ServerName<'static>, Failure> {
    match ServerName::try_from(node.server_name.clone()) {
        Ok(name) => Ok(name),
        Err(_) if node.insecure || node.cert_sha256.is_some() => Ok(ServerName::from(ip)),
        Err(_) => Err(Failure::Failed(
            "its name is not a valid host name".to_owned(),
        )),
    }
}

/// The Host header: the name, in brackets when it is an IPv6 address.
fn host_header(node: &RelayNode) -> String {
    if node.server_name.contains(':') {
        format!("[{}]", node.server_name)
    } else {
        node.server_name.clone()
    }
}

fn fresh_nonce() -> Result<[u8; 24], Failure> {
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(nonce)
}
