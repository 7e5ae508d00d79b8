//! The stack's thread: packets, timers, orders and the host's sockets, one round after the other.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::{HardwareAddress, IpCidr, IpListenEndpoint, Ipv4Address, Ipv6Address};
use warren_core::seam::Event;

use super::device::{Packets, Tunnel};
use super::flow::{self, Flow, HANDSHAKE, Pumped, Stage};
use super::header::{Kind, classify_untrusted};
use super::udp::UdpPairs;
use super::{MAX_FLOWS, Order, Shared, StackConfig, WAKER};
use crate::ports::{EventSink, PacketSink};

/// Ports that dialed connections come from (as Linux has them).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;
/// How long to sleep when nothing has a time; any number will do.
const FOREVER: Duration = Duration::from_secs(3600);

/// Everything that the thread owns.
pub(super) struct Stack {
    poll: Poll,
    shared: Arc<Shared>,
    events: Arc<dyn EventSink>,
    forward: bool,
    epoch: Instant,
    tunnel: Tunnel,
    iface: Interface,
    sockets: SocketSet<'static>,
    flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    by_id: HashMap<u64, usize>,
    by_ends: HashMap<(SocketAddr, SocketAddr), usize>,
    ports: HashSet<u16>,
    next_port: u16,
    udp: UdpPairs,
    udp_unfinished: Vec<Token>,
}

impl Stack {
    pub(super) fn new(
        poll: Poll,
        shared: Arc<Shared>,
        config: &StackConfig,
        sink: Arc<dyn PacketSink>,
        events: Arc<dyn EventSink>,
    ) -> io::Result<Self> {
        let mut entropy = [0; 10];
        getrandom::fill(&mut entropy).map_err(|error| io::Error::other(error.to_string()))?;
        let [seed @ .., low, high] = entropy;
        let mtu_bytes = config.mtu_bytes.into();
        let mut tunnel = Tunnel::new(sink, mtu_bytes);
        let mut settings = Config::new(HardwareAddress::Ip);
        settings.random_seed = u64::from_ne_bytes(seed);
        let now = smoltcp::time::Instant::ZERO;
        let mut iface = Interface::new(settings, &mut tunnel, now);
        // A tunnel has no next hop; smoltcp wants one all the same.
        let routes = iface.routes_mut();
        let full = |_| io::Error::other("smoltcp has no room for a route");
        routes
            .add_default_ipv4_route(Ipv4Address::new(100, 100, 100, 100))
            .map_err(full)?;
        routes
            .add_default_ipv6_route(Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))
            .map_err(full)?;
        let span = EPHEMERAL.end() - EPHEMERAL.start() + 1;
        Ok(Self {
            poll,
            shared,
            events,
            forward: config.loopback_forward,
            epoch: Instant::now(),
            tunnel,
            iface,
            sockets: SocketSet::new(Vec::new()),
            flows: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            by_ends: HashMap::new(),
            ports: HashSet::new(),
            next_port: EPHEMERAL.start() + u16::from_ne_bytes([low, high]) % span,
            udp: UdpPairs::new(MAX_FLOWS + 1, mtu_bytes),
            udp_unfinished: Vec::new(),
        })
    }

    /// Work until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut batch = Packets::default();
        let mut timeout = Some(FOREVER);
        loop {
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                let message = format!("the userspace stack stopped: {error}");
                self.events.event(Event::Fault {
                    message,
                    fatal: true,
                });
                return;
            }
            let now = Instant::now();
            for event in &events {
                // An error or hangup is found by the next call on the socket.
                let failed = event.is_error() || event.is_read_closed() || event.is_write_closed();
                let (readable, writable) = (event.is_readable(), event.is_writable());
                self.note(event.token(), readable || failed, writable || failed, now);
            }
            if !self.take_orders(now) {
                return;
            }
            self.shared.inbound.take(&mut batch);
            self.take_packets(&batch, now);
            let looped = std::mem::take(&mut self.tunnel.looped);
            self.take_packets(&looped, now);

            self.poll_egress(now);
            if self.pump_all(now) {
                self.poll_egress(now);
            }
            self.reap();
            self.tunnel.flush();
            timeout = Some(self.next_sleep(now));
        }
    }

    fn clock(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Let smoltcp send what it has to: data, acknowledgements, timers' work.
    fn poll_egress(&mut self, now: Instant) {
        let clock = self.clock(now);
        self.iface.poll(clock, &mut self.tunnel, &mut self.sockets);
    }

    fn next_sleep(&mut self, now: Instant) -> Duration {
        if self.tunnel.looped.len() > 0 || !self.udp_unfinished.is_empty() {
            return Duration::ZERO;
        }
        let clock = self.clock(now);
        let stack = self
            .iface
            .poll_delay(clock, &self.sockets)
            .map(Duration::from);
        let udp = self.udp.expire(self.poll.registry(), now);
        let flows = self.flows.iter().flatten().filter_map(Flow::deadline).min();
        let ours = udp.into_iter().chain(flows).min();
        let ours = ours.map(|at| at.saturating_duration_since(now));
        [stack, ours]
            .into_iter()
            .flatten()
            .fold(FOREVER, Duration::min)
    }

    // --- what comes from the host's sockets

    fn note(&mut self, token: Token, readable: bool, writable: bool, now: Instant) {
        if token == WAKER {
            return;
        }
        if token.0 > MAX_FLOWS {
            self.answer_udp(token, now);
            return;
        }
        let index = token.0 - 1;
        let Some(Some(flow)) = self.flows.get_mut(index) else {
            return;
        };
        flow.host_readable |= readable;
        flow.host_writable |= writable;
        if matches!(flow.stage, Stage::Asking { .. }) {
            self.settle(index, now);
        }
    }

    fn answer_udp(&mut self, token: Token, now: Instant) {
        let tunnel = &mut self.tunnel;
        if self
            .udp
            .collect(token, now, &mut |packet| tunnel.send(packet))
        {
            self.udp_unfinished.push(token);
        }
    }

    // --- what comes from the engine

    /// Carry out what was ordered; false: stop.
    fn take_orders(&mut self, now: Instant) -> bool {
        for order in self.shared.take_orders() {
            match order {
                Order::Addresses(addresses) => self.set_addresses(addresses),
                Order::Dial { id, to } => {
                    if let Err(error) = self.dial(id, to, now) {
                        self.events.event(Event::Dialed { id, error });
                    }
                }
                Order::Splice { id, socket } => self.splice(id, socket),
                Order::Hangup { id } => {
                    if let Some(index) = self.by_id.remove(&id) {
                        self.abort(index);
                    }
                }
                Order::Close => return false,
            }
        }
        for token in std::mem::take(&mut self.udp_unfinished) {
            self.answer_udp(token, now);
        }
        true
    }

    fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.iface.update_ip_addrs(|list| {
            list.clear();
            for address in &addresses {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                // More than smoltcp has room for are not served.
                let _ = list.push(IpCidr::new((*address).into(), bits));
            }
        });
        self.tunnel.own = addresses;
    }

    fn dial(&mut self, id: u64, to: SocketAddr, now: Instant) -> Result<(), String> {
        if self.by_id.contains_key(&id) {
            return Err(format!("connection {id} is already being dialed"));
        }
        let own = self
            .tunnel
            .own
            .iter()
            .find(|own| own.is_ipv4() == to.is_ipv4())
            .copied();
        let own = own.ok_or("this node has no address of that family yet")?;
        let port = self.free_port().ok_or("too many connections are open")?;
        let index = self
            .add(Flow::new(Stage::Dialing { id }, now))
            .ok_or("too many connections are open")?;
        let mut socket = flow::fresh_socket(flow::buffer_bytes(self.live()));
        if socket
            .connect(self.iface.context(), to, (own, port))
            .is_err()
        {
            self.remove(index);
            return Err(format!("{to} is no address to connect to"));
        }
        self.ports.insert(port);
        self.by_id.insert(id, index);
        let handle = self.sockets.add(socket);
        if let Some(flow) = &mut self.flows[index] {
            flow.handle = Some(handle);
            flow.port = Some(port);
        }
        Ok(())
    }

    fn splice(&mut self, id: u64, host: OwnedFd) {
        // An unknown or failed connection: dropping the socket tells its owner.
        let Some(index) = self.by_id.remove(&id) else {
            return;
        };
        let dialed = matches!(
            self.flows[index].as_ref().map(|flow| &flow.stage),
            Some(Stage::Dialed { .. } | Stage::Dialing { .. })
        );
        let ready = dialed && rustix::io::ioctl_fionbio(&host, true).is_ok();
        if !ready || self.register(index, &host).is_err() {
            self.abort(index);
            return;
        }
        if let Some(flow) = &mut self.flows[index] {
            flow.stage = Stage::Joined;
            flow.host = Some(host);
            flow.host_readable = true;
            flow.host_writable = true;
        }
    }

    fn take_packets(&mut self, batch: &Packets, now: Instant) {
        for packet in (0..batch.len()).map(|index| batch.get(index)) {
            match classify_untrusted(packet) {
                Some(Kind::Syn { src, dst }) if self.forward && self.is_own(dst) => {
                    self.on_syn(packet, src, dst, now);
                }
                Some(Kind::Udp { src, dst, payload }) if self.forward && self.is_own(dst) => {
                    self.udp
                        .deliver((src, dst), payload, self.poll.registry(), now);
                }
                Some(Kind::Udp { .. }) => {}
                Some(_) => self.feed(packet, now),
                None => {}
            }
        }
    }

    fn is_own(&self, dst: SocketAddr) -> bool {
        self.tunnel.own.contains(&dst.ip())
    }

    /// Give one packet to smoltcp.
    fn feed(&mut self, packet: &[u8], now: Instant) {
        self.tunnel.arrive(packet);
        let clock = self.clock(now);
        self.iface
            .poll_ingress_single(clock, &mut self.tunnel, &mut self.sockets);
    }

    // --- connections from the tunnel

    /// A new connection: ask the host's own port first, so that a refusal is a true one.
    fn on_syn(&mut self, packet: &[u8], src: SocketAddr, dst: SocketAddr, now: Instant) {
        if let Some(&index) = self.by_ends.get(&(src, dst)) {
            match self.state(index) {
                // The host has not answered yet.
                None => return,
                // The same ends again, soon after the last connection (RFC 9293 §3.6.1).
                Some(State::TimeWait) => self.remove(index),
                Some(_) => return self.feed(packet, now),
            }
        }
        let mut flow = Flow::new(
            Stage::Asking {
                syn: packet.to_vec(),
                second_try: false,
            },
            now,
        );
        flow.ends = Some((src, dst));
        let Some(index) = self.add(flow) else { return };
        self.by_ends.insert((src, dst), index);
        self.ask(index, false, now);
    }

    /// Begin to connect to the host; when even that fails, try ::1, then refuse.
    fn ask(&mut self, index: usize, second_try: bool, now: Instant) {
        let Some(Some(flow)) = self.flows.get_mut(index) else {
            return;
        };
        let (
            Some((_, dst)),
            Stage::Asking {
                second_try: tried, ..
            },
        ) = (flow.ends, &mut flow.stage)
        else {
            return;
        };
        *tried = second_try;
        let asked = flow::ask_host(dst.port(), second_try).and_then(|host| {
            let source = flow::raw(&host);
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut SourceFd(&source), Token(index + 1), interest)?;
            Ok(host)
        });
        match asked {
            Ok(host) => {
                flow.host = Some(host);
                self.settle(index, now);
            }
            Err(_) if !second_try => self.ask(index, true, now),
            Err(_) => self.refuse(index, now),
        }
    }

    /// See whether the host has answered, and go on accordingly.
    fn settle(&mut self, index: usize, now: Instant) {
        let Some(Some(flow)) = self.flows.get_mut(index) else {
            return;
        };
        let (Some(host), Stage::Asking { second_try, .. }) = (&flow.host, &flow.stage) else {
            return;
        };
        match flow::connect_result(host) {
            None => {}
            Some(Ok(())) => self.accept(index, now),
            Some(Err(_)) => {
                let second_try = *second_try;
                self.drop_host(index);
                if second_try {
                    self.refuse(index, now)
                } else {
                    self.ask(index, true, now)
                }
            }
        }
    }

    /// The host has accepted: let smoltcp answer the SYN.
    fn accept(&mut self, index: usize, now: Instant) {
        let live = self.live();
        let Some(Some(flow)) = self.flows.get_mut(index) else {
            return;
        };
        let (Some((_, dst)), Stage::Asking { syn, .. }) =
            (flow.ends, std::mem::replace(&mut flow.stage, Stage::Joined))
        else {
            return;
        };
        let mut socket = flow::fresh_socket(flow::buffer_bytes(live));
        let listening = socket
            .listen(IpListenEndpoint {
                addr: Some(dst.ip().into()),
                port: dst.port(),
            })
            .is_ok();
        let handle = self.sockets.add(socket);
        flow.handle = Some(handle);
        flow.host_writable = true;
        flow.host_readable = true;
        if listening {
            self.feed(&syn, now);
        }
        if self.sockets.get::<Socket<'_>>(handle).state() != State::SynReceived {
            self.remove(index);
        }
    }

    /// Nobody listens: without a socket for it, smoltcp answers the SYN with RST.
    fn refuse(&mut self, index: usize, now: Instant) {
        let stage = self.flows[index]
            .as_mut()
            .map(|flow| std::mem::replace(&mut flow.stage, Stage::Lingering));
        self.remove(index);
        if let Some(Stage::Asking { syn, .. }) = stage {
            self.feed(&syn, now);
        }
    }

    // --- flows

    fn live(&self) -> usize {
        self.flows.len() - self.free.len()
    }

    fn state(&self, index: usize) -> Option<State> {
        let handle = self.flows.get(index)?.as_ref()?.handle?;
        Some(self.sockets.get::<Socket<'_>>(handle).state())
    }

    /// Take a slot. With all in use, a connection gives way that is over and only waits, or else
    /// the one that has been half-open for longest: whoever floods us pushes out himself.
    fn add(&mut self, flow: Flow) -> Option<usize> {
        if self.live() >= MAX_FLOWS {
            let over = |index: &usize| self.state(*index) == Some(State::TimeWait);
            let half_open = |index: &usize| {
                let asking = |flow: &Flow| matches!(flow.stage, Stage::Asking { .. });
                self.flows[*index].as_ref().is_some_and(asking)
                    || self.state(*index) == Some(State::SynReceived)
            };
            let age = |index: &usize| self.flows[*index].as_ref().map(|flow| flow.since);
            let slots = 0..self.flows.len();
            let leaving = slots
                .clone()
                .find(over)
                .or_else(|| slots.filter(half_open).min_by_key(age))?;
            self.remove(leaving);
        }
        if let Some(index) = self.free.pop() {
            self.flows[index] = Some(flow);
            return Some(index);
        }
        self.flows.push(Some(flow));
        Some(self.flows.len() - 1)
    }

    fn register(&self, index: usize, host: &OwnedFd) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut SourceFd(&flow::raw(host)), Token(index + 1), interest)
    }

    fn drop_host(&mut self, index: usize) {
        let Some(Some(flow)) = self.flows.get_mut(index) else {
            return;
        };
        if let Some(host) = flow.host.take() {
            let _ = self
                .poll
                .registry()
                .deregister(&mut SourceFd(&flow::raw(&host)));
        }
    }

    /// End a flow with RST both ways; `reap` forgets it once that is sent.
    fn abort(&mut self, index: usize) {
        let Some(Some(flow)) = self.flows.get_mut(index) else {
            return;
        };
        flow.stage = Stage::Lingering;
        if let Some(host) = &flow.host {
            flow::reset_on_close(host);
        }
        if let Some(handle) = flow.handle {
            self.sockets.get_mut::<Socket<'_>>(handle).abort();
        }
        self.drop_host(index);
    }

    fn remove(&mut self, index: usize) {
        self.drop_host(index);
        let Some(flow) = self.flows.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.free.push(index);
        if let Some(handle) = flow.handle {
            self.sockets.remove(handle);
        }
        if let Some(ends) = flow.ends {
            self.by_ends.remove(&ends);
        }
        if let Some(port) = flow.port {
            self.ports.remove(&port);
        }
        if let Stage::Dialing { id } | Stage::Dialed { id } = flow.stage {
            self.by_id.remove(&id);
        }
    }

    fn free_port(&mut self) -> Option<u16> {
        for _ in EPHEMERAL {
            let port = self.next_port;
            self.next_port = if port >= *EPHEMERAL.end() {
                *EPHEMERAL.start()
            } else {
                port + 1
            };
            if !self.ports.contains(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Move bytes in every flow; true when smoltcp has something new to send.
    fn pump_all(&mut self, now: Instant) -> bool {
        let mut moved = false;
        for index in 0..self.flows.len() {
            let Some(flow) = &mut self.flows[index] else {
                continue;
            };
            let Some(handle) = flow.handle else {
                if now >= flow.since + HANDSHAKE {
                    self.remove(index);
                }
                continue;
            };
            let socket = self.sockets.get_mut::<Socket<'_>>(handle);
            match flow.stage {
                Stage::Dialing { id } => match socket.state() {
                    State::SynSent | State::SynReceived => {}
                    State::Closed => {
                        let late = now + Duration::from_secs(1) >= flow.since + HANDSHAKE;
                        let error = if late {
                            "no answer"
                        } else {
                            "connection refused"
                        };
                        self.events.event(Event::Dialed {
                            id,
                            error: error.to_owned(),
                        });
                        self.by_id.remove(&id);
                        flow.stage = Stage::Lingering;
                    }
                    _ => {
                        flow::keep_alive(socket);
                        flow.stage = Stage::Dialed { id };
                        self.events.event(Event::Dialed {
                            id,
                            error: String::new(),
                        });
                    }
                },
                Stage::Joined => match flow.pump(socket, now) {
                    Pumped::Idle => {}
                    Pumped::Moved => moved = true,
                    Pumped::HostDone => {
                        flow.stage = Stage::Lingering;
                        moved = true;
                        self.drop_host(index);
                    }
                },
                Stage::Asking { .. } | Stage::Dialed { .. } | Stage::Lingering => {}
            }
        }
        moved
    }

    /// Forget connections that are over.
    fn reap(&mut self) {
        for index in 0..self.flows.len() {
            let lingering = self.flows[index]
                .as_ref()
                .is_some_and(|flow| flow.stage == Stage::Lingering);
            if lingering && self.state(index).is_none_or(|state| state == State::Closed) {
                self.remove(index);
            }
        }
    }
}
