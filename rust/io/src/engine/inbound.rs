//! Datagrams on their way in: what they are, open, check, and to the device.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use warren_core::clock::Now;
use warren_core::demux::{
    CHANNEL_BYTES, GENEVE_BYTES, Inner, Kind, WireGuard, classify, classify_relayed,
};
use warren_core::hop::{Hop, SocketRef, Wrap};
use warren_core::offload::{Coalescer, Part};
use warren_core::packet;
use warren_core::probe::Probe;
use warren_core::seam::Event;
use warren_core::wg::{Batch, Peer, PublicKey, Source, Tables};

use super::drops::Drop;
use super::outbound::Outbound;
use super::shared::{Shared, owned};
use super::wake::wait_readable;
use crate::udp::{Message, Receiver};

/// Header and the most parts that the coalescer joins, with room to spare.
const MAX_VECTORS: usize = 160;
/// Batches taken from one socket in a row before the other is looked at.
const ROUNDS: usize = 8;
/// Relayed packets that are gathered at most before the device gets them.
const RELAYED_BYTES: usize = 256 << 10;

/// One datagram in the arena.
#[derive(Clone, Copy)]
struct Datagram {
    start: usize,
    len: usize,
    source: Source,
}

impl Datagram {
    fn place(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    fn of<'a>(&self, arena: &'a mut [u8]) -> &'a mut [u8] {
        &mut arena[self.place()]
    }
}

/// What one thread needs to take datagrams in.
pub(crate) struct Inbound {
    coalescer: Coalescer,
    datagrams: Vec<Datagram>,
    /// Those of one session, on their way through the cipher together.
    sealed: Batch,
    /// Answers to probes; they wait until the session's window is free again.
    answers: Vec<Vec<u8>>,
    outbound: Outbound,
    /// Packets from relays are gathered here until their batch ends.
    relayed: Vec<u8>,
    /// The queue of the device that packets are written to: answers are read from the same one.
    queue: usize,
}

impl Inbound {
    /// `join_udp`: whether the device takes UDP super-packets; `queue`: which of its queues.
    pub(crate) fn new(join_udp: bool, queue: usize) -> Self {
        Self {
            coalescer: Coalescer::new(join_udp),
            datagrams: Vec::new(),
            sealed: Batch::default(),
            answers: Vec::new(),
            outbound: Outbound::new(),
            relayed: Vec::new(),
            queue,
        }
    }

    /// Takes one batch from a UDP socket, or from a stream of datagrams.
    pub(crate) fn batch(
        &mut self,
        shared: &Shared,
        socket: SocketRef,
        arena: &mut [u8],
        messages: &[Message],
        now: Now,
    ) {
        self.datagrams.clear();
        for message in messages {
            let hop = Hop {
                addr: message.source,
                socket,
                wrap: Wrap::Plain,
            };
            let end = message.start + message.len;
            for start in (message.start..end).step_by(message.segment) {
                let datagram = Datagram {
                    start,
                    len: message.segment.min(end - start),
                    source: Source::Udp(hop),
                };
                self.sort(shared, arena, datagram, hop, now);
            }
        }
        self.open_all(shared, arena, now);
        self.deliver(shared, arena);
        self.outbound.flush(shared);
        shared.drain_tunnel(now);
    }

    /// Takes one packet from a relay; what was in it reaches the device by
    /// [`Self::end_relayed`] at the latest.
    pub(crate) fn relayed(
        &mut self,
        shared: &Shared,
        region: u32,
        peer: PublicKey,
        packet: &[u8],
        now: Now,
    ) {
        let source = Source::Relay { region, peer };
        match classify_relayed(packet) {
            Kind::Disco => shared.datagram_event(now, || Event::Relayed {
                region,
                peer: peer.0.into(),
                data: owned(packet),
            }),
            Kind::WireGuard(WireGuard::Data) => self.gather(shared, packet, source),
            Kind::WireGuard(_) => {
                handshake(shared, packet, source, now);
                shared.drain_tunnel(now);
            }
            _ => shared.drops.count(Drop::Unknown),
        }
    }

    /// Copies a data message behind those of its batch; they are opened together.
    fn gather(&mut self, shared: &Shared, packet: &[u8], source: Source) {
        if self.relayed.len() + packet.len() > RELAYED_BYTES {
            self.end_relayed(shared);
        }
        self.datagrams.push(Datagram {
            start: self.relayed.len(),
            len: packet.len(),
            source,
        });
        self.relayed.extend_from_slice(packet);
    }

    /// The relay has nothing more for now.
    pub(crate) fn end_relayed(&mut self, shared: &Shared) {
        if !self.relayed.is_empty() {
            let mut arena = std::mem::take(&mut self.relayed);
            let now = shared.clock.now();
            self.open_all(shared, &mut arena, now);
            self.deliver(shared, &mut arena);
            arena.clear();
            self.relayed = arena;
            self.datagrams.clear();
            shared.drain_tunnel(now);
        }
    }

    /// WireGuard data waits for [`Self::open_all`]; everything else is dealt with here.
    fn sort(&mut self, shared: &Shared, arena: &mut [u8], datagram: Datagram, hop: Hop, now: Now) {
        let bytes = datagram.of(arena);
        match classify(bytes) {
            Kind::WireGuard(WireGuard::Data) => self.datagrams.push(datagram),
            Kind::WireGuard(_) => handshake(shared, bytes, datagram.source, now),
            Kind::Stun | Kind::Disco => tell(shared, hop, false, bytes, now),
            Kind::Turn if shared.turns.has(hop.addr) => tell(shared, hop, false, bytes, now),
            Kind::Channel {
                channel,
                len,
                inner,
            } if shared.turns.has(hop.addr) => {
                let wrap = Wrap::Channel(channel);
                let content = Datagram {
                    start: datagram.start + CHANNEL_BYTES,
                    len,
                    source: Source::Udp(Hop { wrap, ..hop }),
                };
                self.sort_inner(shared, arena, content, inner, Drop::Unknown, now);
            }
            Kind::Turn | Kind::Channel { .. } => shared.drops.count(Drop::TurnStranger),
            Kind::Geneve {
                vni,
                control,
                inner,
            } => self.sort_geneve(shared, arena, datagram, hop, (vni, control, inner), now),
            Kind::Unknown => shared.drops.count(Drop::Unknown),
        }
    }

    /// A peer relay's packet: passed on if the relay is us, for us otherwise.
    fn sort_geneve(
        &mut self,
        shared: &Shared,
        arena: &mut [u8],
        datagram: Datagram,
        hop: Hop,
        (vni, control, inner): (u32, bool, Inner),
        now: Now,
    ) {
        let wrapped = Hop {
            wrap: Wrap::Geneve(vni),
            ..hop
        };
        if control {
            // Only disco has the bit.
            return match inner {
                Inner::Disco => {
                    tell(
                        shared,
                        wrapped,
                        true,
                        &datagram.of(arena)[GENEVE_BYTES..],
                        now,
                    );
                }
                _ => shared.drops.count(Drop::Geneve),
            };
        }
        if let Some(forward) = shared.forwards.get(vni) {
            return match forward.across(hop.addr, datagram.len, now.mono_ms) {
                Some(addr) => {
                    let to = Hop { addr, ..hop };
                    self.outbound.forward(shared, to, datagram.of(arena));
                }
                None => shared.drops.count(Drop::ForwardStranger),
            };
        }
        let content = Datagram {
            start: datagram.start + GENEVE_BYTES,
            len: datagram.len - GENEVE_BYTES,
            source: Source::Udp(wrapped),
        };
        self.sort_inner(shared, arena, content, inner, Drop::Geneve, now);
    }

    /// What was unwrapped; `otherwise` is why anything but disco and WireGuard is dropped.
    fn sort_inner(
        &mut self,
        shared: &Shared,
        arena: &mut [u8],
        content: Datagram,
        inner: Inner,
        otherwise: Drop,
        now: Now,
    ) {
        match (inner, content.source) {
            (Inner::WireGuard(WireGuard::Data), _) => self.datagrams.push(content),
            (Inner::WireGuard(_), source) => handshake(shared, content.of(arena), source, now),
            (Inner::Disco, Source::Udp(hop)) => tell(shared, hop, false, content.of(arena), now),
            _ => shared.drops.count(otherwise),
        }
    }

    /// Opens the data of the batch, session by session. What passes every check goes to the
    /// userspace stack at once, or waits in the coalescer for [`Self::deliver`].
    fn open_all(&mut self, shared: &Shared, arena: &mut [u8], now: Now) {
        let tables = shared.tunnel.tables();
        let mut next = 0;
        while let Some(first) = self.datagrams.get(next).copied() {
            let Some(session) = shared.tunnel.session(first.of(arena)) else {
                shared.drops.count(Drop::WgNoSession);
                next += 1;
                continue;
            };
            let mut opener = session.opener();
            let mut sealed = std::mem::take(&mut self.sealed);
            sealed.clear();
            let same = self.datagrams[next..]
                .iter()
                .take_while(|d| d.source == first.source && opener.takes(&arena[d.place()]));
            let count = same
                .map(|d| opener.add(&mut sealed, arena, d.place()))
                .count();
            opener.open(&mut sealed, arena);
            for index in 0..count {
                match opener.packet(&sealed, index, arena) {
                    Ok(place) if place.is_empty() => {} // a keepalive
                    Ok(place) => self.check(shared, &tables, session.peer(), arena, place),
                    Err(refused) => shared.drops.count(refused),
                }
            }
            self.sealed = sealed;
            next += count;
            let opened = opener.finish();
            shared.tunnel.received(&session, opened, first.source, now);
            for answer in self.answers.drain(..) {
                self.outbound.one(shared, &answer);
            }
        }
    }

    /// Checks what was in a datagram, at `place` now: source, filter, probes.
    fn check(
        &mut self,
        shared: &Shared,
        tables: &Tables,
        peer: &Peer,
        arena: &[u8],
        place: Range<usize>,
    ) {
        let part = Part {
            start: place.start as u32,
            len: place.len() as u32,
        };
        let packet = &arena[place];
        let from_peer =
            packet::source_and_length(packet).is_some_and(|(src, _)| tables.allows(peer, src));
        if !from_peer {
            return shared.drops.count(Drop::WrongSource);
        }
        if let Err(refusal) = shared.gate.check_in(packet) {
            return shared.drops.count(refusal);
        }
        match shared.prober.receive(packet) {
            Probe::Other => {}
            Probe::Consumed => return,
            Probe::Answer(answer) => return self.answers.push(answer),
            Probe::Reply => {
                return shared.event(Event::ProbeReply {
                    packet: owned(packet),
                });
            }
        }
        match shared.stack() {
            Some(stack) => stack.inject(packet),
            None => self.coalescer.push(arena, part),
        }
    }

    /// Writes the batch to the TUN device, each group of joined packets in one write.
    fn deliver(&mut self, shared: &Shared, arena: &mut [u8]) {
        // Without a device there is a stack, and nothing was gathered.
        let tun = shared.tun.load();
        let Some(tun) = tun.as_ref() else { return };
        self.coalescer.drain(arena, |arena, group, parts| {
            let header = group.header.encode();
            let mut vectors = [IoSlice::new(&[]); MAX_VECTORS];
            vectors[0] = IoSlice::new(&header);
            let mut used = 1;
            for part in parts.take(MAX_VECTORS - 1) {
                vectors[used] = IoSlice::new(&arena[part.start as usize..][..part.len as usize]);
                used += 1;
            }
            if tun.write(self.queue, &vectors[..used]).is_err() {
                shared.drops.add(Drop::Device, used as u64 - 1);
            }
        });
    }
}

/// Hands STUN or disco bytes up, with the way back.
fn tell(shared: &Shared, hop: Hop, control: bool, bytes: &[u8], now: Now) {
    let (vni, channel) = match hop.wrap {
        Wrap::Plain => (0, 0),
        Wrap::Geneve(vni) => (vni, 0),
        Wrap::Channel(channel) => (0, channel),
    };
    shared.datagram_event(now, || Event::Datagram {
        src: hop.addr.to_string(),
        data: owned(bytes),
        group: hop.socket.group,
        index: hop.socket.index,
        vni,
        control,
        channel,
    });
}

fn handshake(shared: &Shared, datagram: &[u8], source: Source, now: Now) {
    if let Err(refused) = shared.tunnel.receive_handshake(datagram, source, now) {
        shared.drops.count(refused);
    }
}

/// An inbound thread: its sockets to WireGuard to the device, until the engine stops. The first
/// one also takes what comes by the sockets for punching.
pub(crate) fn run(shared: &Arc<Shared>, index: usize) {
    let mut inbound = Inbound::new(shared.joins_udp(), index);
    let mut receiver = Receiver::new();
    while !shared.stopping() {
        let sockets = shared.sockets.load_full();
        let [v4, v6] = sockets.descriptors(index);
        let wake = &shared.wake_in[index];
        let groups = shared.groups.descriptor().filter(|_| index == 0);
        let [woken, v4_ready, v6_ready, group_ready] =
            wait_readable([Some(wake.as_raw_fd()), v4, v6, groups]);
        if woken {
            wake.clear();
            continue;
        }
        for fd in [v4.filter(|_| v4_ready), v6.filter(|_| v6_ready)]
            .into_iter()
            .flatten()
        {
            receive(shared, &mut inbound, &mut receiver, SocketRef::MAIN, fd);
        }
        if group_ready {
            shared.groups.each_ready(|socket, fd| {
                receive(shared, &mut inbound, &mut receiver, socket, fd);
            });
        }
    }
}

/// Takes what waits on one socket, up to a bound.
fn receive(
    shared: &Shared,
    inbound: &mut Inbound,
    receiver: &mut Receiver,
    socket: SocketRef,
    fd: RawFd,
) {
    for _ in 0..ROUNDS {
        // Asynchronous errors (an unreachable peer) end the round like an empty socket.
        let Ok((arena, messages)) = receiver.receive(fd) else {
            break;
        };
        inbound.batch(shared, socket, arena, messages, shared.clock.now());
    }
}
