//! What the engine's threads share.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use serde_bytes::ByteBuf;
use warren_core::clock::Now;
use warren_core::filter::Gate;
use warren_core::hop::{Content, Hop, Wrap};
use warren_core::probe::Prober;
use warren_core::seam::Event;
use warren_core::wg::{
    Peer, PublicKey, Source, Target, Transmit, Tunnel, TunnelConfig, TunnelEvent,
};

use super::clock::{Clock, SystemEntropy};
use super::control::Mailbox;
use super::drops::{Drop, Drops};
use super::events::{EventQueue, Overflow};
use super::forward::{Forwards, Turns};
use super::inbound::Inbound;
use super::outbound::Outbound;
use super::wake::Wake;
use crate::ports::{EventSink, PacketSink, RelayPort, RelaySink, UserStack};
use crate::tun::Tun;
use crate::udp::{SocketGroups, Streams, UdpSockets, Ways};

/// `Active` is told at most once in this time for each peer.
const ACTIVE_EVERY_MS: u64 = 2000;
/// Initiations a second beyond which senders prove their address by cookie.
const INITIATIONS_PER_S: u32 = 200;

/// The parts, each with its own way of being shared.
pub(crate) struct Shared {
    pub(crate) tunnel: Tunnel,
    pub(crate) gate: Gate,
    pub(crate) prober: Prober,
    /// None in userspace mode, and once the engine is closed.
    pub(crate) tun: ArcSwapOption<Tun>,
    pub(crate) sockets: ArcSwap<UdpSockets>,
    pub(crate) groups: SocketGroups,
    pub(crate) streams: Streams,
    pub(crate) forwards: Forwards,
    pub(crate) turns: Turns,
    pub(crate) events: EventQueue,
    pub(crate) drops: Drops,
    pub(crate) clock: Clock,
    pub(crate) mailbox: Mailbox,
    /// Wakes each inbound thread: new sockets, or the end.
    pub(crate) wake_in: Box<[Wake]>,
    /// Wakes the outbound threads: the end.
    pub(crate) wake_out: Wake,
    relay: OnceLock<Arc<dyn RelayPort>>,
    stack: OnceLock<Arc<dyn UserStack>>,
    relay_inbound: Mutex<Inbound>,
    stack_outbound: Mutex<Outbound>,
    stop: AtomicBool,
}

impl Shared {
    /// `threads`: each way, at least 1.
    pub(crate) fn start(
        tun: Option<Tun>,
        sockets: UdpSockets,
        threads: usize,
    ) -> io::Result<Arc<Self>> {
        let tunnel = TunnelConfig {
            initiations_per_s: INITIATIONS_PER_S,
        };
        let bound = Event::Bound {
            port4: sockets.port4(),
            port6: sockets.port6(),
        };
        let join_udp = tun.as_ref().is_some_and(Tun::uso);
        let shared = Arc::new(Self {
            tunnel: Tunnel::new(tunnel, Arc::new(SystemEntropy::new())),
            gate: Gate::new(),
            prober: Prober::new(tun.is_none()),
            tun: ArcSwapOption::from_pointee(tun),
            sockets: ArcSwap::from_pointee(sockets),
            groups: SocketGroups::new()?,
            streams: Streams::default(),
            forwards: Forwards::default(),
            turns: Turns::default(),
            events: EventQueue::new(Wake::new()?),
            drops: Drops::default(),
            clock: Clock,
            mailbox: Mailbox::default(),
            wake_in: (0..threads)
                .map(|_| Wake::new())
                .collect::<io::Result<_>>()?,
            wake_out: Wake::new()?,
            relay: OnceLock::new(),
            stack: OnceLock::new(),
            relay_inbound: Mutex::new(Inbound::new(join_udp, 0)),
            stack_outbound: Mutex::new(Outbound::patient()),
            stop: AtomicBool::new(false),
        });
        shared.event(bound);
        Ok(shared)
    }

    /// Puts relay and userspace stack in their places; once, before the threads start.
    pub(crate) fn connect(
        &self,
        relay: Option<Arc<dyn RelayPort>>,
        stack: Option<Arc<dyn UserStack>>,
    ) {
        if let Some(relay) = relay {
            let _ = self.relay.set(relay);
        }
        if let Some(stack) = stack {
            let _ = self.stack.set(stack);
        }
    }

    pub(crate) fn relay(&self) -> Option<&Arc<dyn RelayPort>> {
        self.relay.get()
    }

    pub(crate) fn stack(&self) -> Option<&Arc<dyn UserStack>> {
        self.stack.get()
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Asks every thread to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake_inbound();
        self.wake_out.signal();
        self.mailbox.wake();
    }

    /// Has the inbound threads look at sockets and groups anew.
    pub(crate) fn wake_inbound(&self) {
        self.wake_in.iter().for_each(Wake::signal);
    }

    /// Inbound threads; outbound ones are as many, unless the device has fewer queues.
    pub(crate) fn threads(&self) -> usize {
        self.wake_in.len()
    }

    /// Closes what has threads of its own, sockets and device; the engine's threads have ended.
    pub(crate) fn close(&self) {
        if let Some(relay) = self.relay() {
            relay.close();
        }
        if let Some(stack) = self.stack() {
            stack.close();
        }
        self.groups.close_all();
        self.streams.close_all();
        self.sockets.store(Arc::new(UdpSockets::none()));
        self.tun.store(None);
    }

    /// Whether the device takes UDP super-packets.
    pub(crate) fn joins_udp(&self) -> bool {
        self.tun.load().as_ref().is_some_and(|tun| tun.uso())
    }

    /// The peer's direct path, while its lease is valid and its socket is open.
    pub(crate) fn direct(&self, peer: &Peer, now: Now) -> Option<Hop> {
        self.direct_and_mtu(peer, now).map(|(hop, _)| hop)
    }

    /// The same, with the largest packet inside the tunnel that it carries.
    pub(crate) fn direct_and_mtu(&self, peer: &Peer, now: Now) -> Option<(Hop, usize)> {
        let (hop, mtu_bytes) = peer.path().direct_and_mtu(now.mono_ms)?;
        let open = self.groups.has(hop.socket) || self.streams.has(hop.socket);
        open.then_some((hop, mtu_bytes))
    }

    /// Every socket, the main ones as they are in `sockets`.
    pub(crate) fn ways<'a>(&'a self, sockets: &'a UdpSockets) -> Ways<'a> {
        Ways {
            main: sockets,
            groups: &self.groups,
            streams: &self.streams,
        }
    }

    /// Tells Python, or counts that it could not be told.
    pub(crate) fn event(&self, event: Event) {
        if self.events.push(event).is_err() {
            self.drops.count(Drop::EventQueue);
        }
    }

    /// Hands a STUN or disco datagram up, under the rate limit.
    pub(crate) fn datagram_event(&self, now: Now, event: impl FnOnce() -> Event) {
        match self.events.push_datagram(now.mono_ms, event) {
            Ok(()) => {}
            Err(Overflow::Full) => self.drops.count(Drop::EventQueue),
            Err(Overflow::Rate) => self.drops.count(Drop::RateLimit),
        }
    }

    /// Tells that data goes to `peer`, at most every 2 s.
    pub(crate) fn note_active(&self, peer: &Peer, direct: bool, now: Now) {
        if peer.tell_active(now.mono_ms, ACTIVE_EVERY_MS) {
            self.event(Event::Active {
                peer: peer.key().0.into(),
                direct,
            });
        }
    }

    /// Sends what the WireGuard machine wants sent, and tells what it has to tell. Costs three
    /// atomic loads when there is nothing.
    pub(crate) fn drain_tunnel(&self, now: Now) {
        while let Some(transmit) = self.tunnel.poll_transmit() {
            self.transmit(&transmit, now);
        }
        self.tunnel
            .send_staged(now, |peer, datagram| self.to_peer(peer, datagram, now));
        while let Some(event) = self.tunnel.poll_event() {
            match event {
                TunnelEvent::Handshake(peer) => {
                    self.event(Event::Handshake {
                        peer: peer.key().0.into(),
                    });
                }
                TunnelEvent::Unanswered(_) => self.drops.count(Drop::Unanswered),
            }
        }
    }

    fn transmit(&self, transmit: &Transmit, now: Now) {
        match &transmit.to {
            Target::Peer(peer) => self.to_peer(peer, &transmit.datagram, now),
            Target::Source(Source::Udp(hop)) => {
                self.send_udp(*hop, Content::WireGuard, &transmit.datagram);
            }
            Target::Source(Source::Relay { region, peer }) => {
                self.send_relay(*region, peer, &transmit.datagram);
            }
        }
    }

    /// Sends a message of WireGuard by the best path there is.
    fn to_peer(&self, peer: &Peer, datagram: &[u8], now: Now) {
        match self.direct(peer, now) {
            Some(hop) => self.send_udp(hop, Content::WireGuard, datagram),
            None => self.send_relay(peer.path().home_region(), peer.key(), datagram),
        }
    }

    /// Sends one datagram, wrapped as `hop` says.
    pub(crate) fn send_udp(&self, hop: Hop, content: Content, payload: &[u8]) {
        let sockets = self.sockets.load();
        let ways = self.ways(&sockets);
        let sent = match hop.wrap {
            Wrap::Plain => ways.send_to(payload, hop),
            wrap => ways.send_to(&wrap.around(payload, content), hop),
        };
        if let Err(error) = sent {
            self.drops.count(match error.kind() {
                io::ErrorKind::StorageFull => Drop::StreamFull,
                io::ErrorKind::AddrNotAvailable => Drop::SocketClosed,
                _ => Drop::UdpSend,
            });
        }
    }

    /// Sends one datagram that must not be fragmented: it asks how large the path is. One that
    /// the first link does not carry is an answer, not a loss.
    pub(crate) fn send_whole(&self, hop: Hop, content: Content, payload: &[u8]) {
        let sockets = self.sockets.load();
        let sent = self
            .ways(&sockets)
            .send_whole(&hop.wrap.around(payload, content), hop);
        match sent {
            Err(error) if error.raw_os_error() != Some(libc::EMSGSIZE) => {
                self.drops.count(Drop::UdpSend);
            }
            _ => {}
        }
    }

    /// Sends through a relay region; counts when there is none, or when its queue is full.
    pub(crate) fn send_relay(&self, region: u32, peer: &PublicKey, datagram: &[u8]) {
        let region = u16::try_from(region).unwrap_or(0);
        match self.relay() {
            Some(relay) if region != 0 => {
                if !relay.send(region, &peer.0, datagram) {
                    self.drops.count(Drop::RelayQueue);
                }
            }
            _ => self.drops.count(Drop::NoPath),
        }
    }
}

/// The engine as relay and userspace stack see it; holds it weakly, as the engine holds them.
pub(crate) struct Door(pub(crate) Weak<Shared>);

impl EventSink for Door {
    fn event(&self, event: Event) {
        if let Some(shared) = self.0.upgrade() {
            shared.event(event);
        }
    }
}

impl PacketSink for Door {
    fn outbound(&self, ip_packet: &[u8]) {
        if let Some(shared) = self.0.upgrade() {
            shared.stack_outbound.lock().queue_one(&shared, ip_packet);
        }
    }

    fn flush(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.stack_outbound.lock().flush(&shared);
            shared.drain_tunnel(shared.clock.now());
        }
    }
}

impl RelaySink for Door {
    fn on_packet(&self, region: u16, src: &[u8; 32], packet: &mut [u8]) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let now = shared.clock.now();
        let mut inbound = shared.relay_inbound.lock();
        inbound.relayed(&shared, region.into(), PublicKey(*src), packet, now);
    }

    fn on_batch_end(&self, _region: u16) {
        if let Some(shared) = self.0.upgrade() {
            shared.relay_inbound.lock().end_relayed(&shared);
        }
    }

    fn on_event(&self, event: Event) {
        if let Some(shared) = self.0.upgrade() {
            shared.event(event);
        }
    }
}

/// Bytes for an event.
pub(crate) fn owned(bytes: &[u8]) -> ByteBuf {
    ByteBuf::from(bytes.to_vec())
}
