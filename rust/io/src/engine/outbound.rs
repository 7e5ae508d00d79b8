//! Packets on their way out: route, split, seal, and onto the best path there is.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use warren_core::clock::Now;
use warren_core::hop::{Content, Hop};
use warren_core::offload::{ANSWER_BYTES, Split, VNET_LEN, VnetHeader, too_big};
use warren_core::packet;
use warren_core::seam::Event;
use warren_core::wg::{HEADER_BYTES, Message, OVERHEAD_BYTES, Peer, Session, Tables};

use super::drops::Drop;
use super::sealing::{AT_ONCE, Unsealed};
use super::shared::Shared;
use super::wake::wait_readable;
use crate::tun::READ_ROOM;
use crate::udp::{MAX_DATAGRAM, SendQueue, SendReport};

/// Sealed bytes that are worth a call to the kernel: enough for full segmentation, little enough
/// that the other side works on them while we seal the next.
const FLUSH_BYTES: usize = 60_000;
/// Room for a super-packet's datagrams on their way to a relay, and for the largest alone.
const ASIDE_BYTES: usize = 2 * MAX_DATAGRAM;
/// Super-packets read in a row before the clock and the tables are looked at again.
const READS: usize = 32;
/// How long a full relay queue holds up the packets behind it ...
const RELAY_PATIENCE: Duration = Duration::from_millis(50);
/// ... and for how long it does not after that was in vain.
const RELAY_STALL_MS: u64 = 250;

/// Answers to packets that are too big for their path, in a second.
const REFUSALS_PER_S: u32 = 100;

/// What one thread needs to send packets.
pub(crate) struct Outbound {
    queue: SendQueue,
    queued: usize,
    unsealed: Unsealed,
    /// Datagrams for the relay, or one packet that waits for a session.
    aside: Box<[u8]>,
    /// A relay region that did not take packets in time, and until when it is not waited for.
    stalled: (u16, u64),
    /// Since when packets that are too big are counted, and how many there were.
    refused: (u64, u32),
    /// Whether this thread may be held up by a full relay queue.
    patient: bool,
}

impl Outbound {
    /// For a thread that produces data: a full relay queue may hold it up.
    pub(crate) fn patient() -> Self {
        Self {
            patient: true,
            ..Self::new()
        }
    }

    /// For a thread that must not wait.
    pub(crate) fn new() -> Self {
        Self {
            patient: false,
            queue: SendQueue::new(),
            queued: 0,
            unsealed: Unsealed::default(),
            aside: vec![0; ASIDE_BYTES].into_boxed_slice(),
            stalled: (0, 0),
            refused: (0, 0),
        }
    }

    /// Sends one plain packet now.
    pub(crate) fn one(&mut self, shared: &Shared, packet: &[u8]) {
        let now = shared.clock.now();
        self.packet(
            shared,
            &shared.tunnel.tables(),
            VnetHeader::default(),
            packet,
            now,
        );
        self.flush(shared);
        shared.drain_tunnel(now);
    }

    /// Seals one plain packet; it waits for [`Self::flush`].
    pub(crate) fn queue_one(&mut self, shared: &Shared, packet: &[u8]) {
        let now = shared.clock.now();
        self.packet(
            shared,
            &shared.tunnel.tables(),
            VnetHeader::default(),
            packet,
            now,
        );
    }

    /// Routes, splits and seals one packet or super-packet; it may wait for [`Self::flush`].
    pub(crate) fn packet(
        &mut self,
        shared: &Shared,
        tables: &Tables,
        header: VnetHeader,
        packet: &[u8],
        now: Now,
    ) {
        let Some(destination) = packet::destination(packet) else {
            return shared.drops.count(Drop::BadOutbound);
        };
        let Some(peer) = tables.route(destination) else {
            return shared.drops.count(Drop::NoRoute);
        };
        let Ok(mut split) = Split::new(header, packet) else {
            return shared.drops.count(Drop::BadOutbound);
        };
        shared.gate.note_out(packet);
        let direct = shared.direct_and_mtu(peer, now);
        shared.note_active(peer, direct.is_some(), now);
        // A relay's stream carries any size.
        let mtu_bytes = direct.map_or(usize::MAX, |(_, mtu_bytes)| mtu_bytes);
        if split.fit(mtu_bytes).is_err() {
            return self.refuse(shared, packet, mtu_bytes, now);
        }
        let session = match shared.tunnel.sender(peer, now) {
            Some(session) => session,
            None => match self.stage(shared, peer, &mut split, now) {
                Some(session) => session,
                None => return,
            },
        };
        let count = split.count();
        let (packets, bytes) = match direct {
            Some((hop, mtu_bytes)) => {
                self.seal_direct(shared, &session, &mut split, hop, mtu_bytes)
            }
            None => self.seal_relayed(shared, &session, &mut split, peer, now),
        };
        shared.drops.add(
            Drop::Exhausted,
            (count as u64).saturating_sub(packets.into()),
        );
        shared.tunnel.sent(&session, packets, bytes, now);
    }

    /// Keeps segments until a session stands, the machine keeps few; or gives the session that
    /// stands by now.
    fn stage(
        &mut self,
        shared: &Shared,
        peer: &Arc<Peer>,
        split: &mut Split<'_>,
        now: Now,
    ) -> Option<Arc<Session>> {
        let mut staging = match shared.tunnel.stage(peer, now) {
            Ok(staging) => staging,
            Err(session) => return Some(session),
        };
        while let Some(len) = split.write_next(&mut self.aside) {
            staging.keep(&self.aside[..len]);
        }
        None
    }

    /// Drops a packet that the path does not carry and tells its sender, through the device it
    /// came by; not more often than is needed to be understood (RFC 4443 §2.4 f).
    fn refuse(&mut self, shared: &Shared, packet: &[u8], mtu_bytes: usize, now: Now) {
        shared.drops.count(Drop::TooBig);
        let (since_ms, told) = &mut self.refused;
        if now.mono_ms.saturating_sub(*since_ms) >= 1_000 {
            (*since_ms, *told) = (now.mono_ms, 0);
        }
        *told += 1;
        let mut answer = [0; ANSWER_BYTES];
        let tun = shared.tun.load();
        if let Some(tun) = tun.as_ref()
            && *told <= REFUSALS_PER_S
            && let Some(len) = too_big(packet, mtu_bytes, &mut answer)
        {
            let header = VnetHeader::default().encode();
            let parts = [IoSlice::new(&header), IoSlice::new(&answer[..len])];
            if tun.write(0, &parts).is_err() {
                shared.drops.count(Drop::Device);
            }
        }
    }

    fn seal_direct(
        &mut self,
        shared: &Shared,
        session: &Arc<Session>,
        split: &mut Split<'_>,
        hop: Hop,
        mtu_bytes: usize,
    ) -> (u32, u64) {
        let head = hop.wrap.header_len();
        let room = Session::sealed_len(split.segment_len()) + head;
        let (mut packets, mut bytes) = (0, 0);
        for _ in 0..split.count() {
            if self.queue.room(room).is_none() {
                self.flush(shared);
            }
            let Some(out) = self.queue.room(room) else {
                break;
            };
            let Some(len) = split.write_next(&mut out[head + HEADER_BYTES..]) else {
                break;
            };
            let Some(message) = session.begin(out, head, len, mtu_bytes) else {
                break;
            };
            let sealed = message.len + OVERHEAD_BYTES;
            hop.wrap.write(out, sealed, Content::WireGuard);
            let message = Message {
                start: self.queue.position() + message.start,
                ..message
            };
            self.queue.commit(hop, head + sealed);
            self.unsealed.add(session, message, self.queue.queued());
            self.queued += head + sealed;
            packets += 1;
            bytes += sealed as u64;
        }
        if self.queued >= FLUSH_BYTES {
            self.flush_full(shared);
        }
        (packets, bytes)
    }

    fn seal_relayed(
        &mut self,
        shared: &Shared,
        session: &Session,
        split: &mut Split<'_>,
        peer: &Peer,
        now: Now,
    ) -> (u32, u64) {
        let room = Session::sealed_len(split.segment_len());
        let (mut packets, mut bytes) = (0, 0);
        let mut begun = [Message::default(); AT_ONCE];
        loop {
            let (mut count, mut end) = (0, 0);
            while count < AT_ONCE && end + room <= self.aside.len() {
                let Some(len) =
                    split.write_next(&mut self.aside[end + HEADER_BYTES..][..room - HEADER_BYTES])
                else {
                    break;
                };
                let Some(message) = session.begin(&mut self.aside, end, len, usize::MAX) else {
                    break;
                };
                end += message.len + OVERHEAD_BYTES;
                begun[count] = message;
                count += 1;
            }
            if count == 0 {
                return (packets, bytes);
            }
            session.seal(&mut self.aside, &begun[..count]);
            for message in &begun[..count] {
                let start = message.start - HEADER_BYTES;
                let end = start + message.len + OVERHEAD_BYTES;
                self.push_relayed(shared, peer, start..end, now);
                packets += 1;
                bytes += (end - start) as u64;
            }
        }
    }

    /// Queues the sealed datagram for the peer's relay. A full queue holds this thread up for a
    /// moment, so that the senders behind it slow down before packets are lost; a relay that is
    /// stuck does so only now and then, for other peers' packets wait behind.
    fn push_relayed(&mut self, shared: &Shared, peer: &Peer, place: Range<usize>, now: Now) {
        let datagram = &self.aside[place];
        let region = u16::try_from(peer.path().home_region()).unwrap_or(0);
        let (Some(relay), true) = (shared.relay(), region != 0) else {
            return shared.drops.count(Drop::NoPath);
        };
        if relay.send(region, &peer.key().0, datagram) {
            return;
        }
        let stalled = self.stalled.0 == region && now.mono_ms < self.stalled.1;
        if self.patient && !stalled {
            if relay.wait_room(region, RELAY_PATIENCE)
                && relay.send(region, &peer.key().0, datagram)
            {
                return;
            }
            self.stalled = (region, now.mono_ms + RELAY_STALL_MS);
        }
        shared.drops.count(Drop::RelayQueue);
    }

    /// Passes a datagram on as it is; it waits for [`Self::flush`].
    pub(crate) fn forward(&mut self, shared: &Shared, hop: Hop, datagram: &[u8]) {
        if self.queue.room(datagram.len()).is_none() {
            self.flush(shared);
        }
        // The arena holds any datagram.
        if let Some(out) = self.queue.room(datagram.len()) {
            out.copy_from_slice(datagram);
            self.queue.commit(hop, datagram.len());
            self.queued += datagram.len();
        }
        if self.queued >= FLUSH_BYTES {
            self.flush(shared);
        }
    }

    /// Seals and sends all but what could leave together with the packets that come next. A
    /// super-packet, sealed, is a little more than the kernel takes at once; sent alone, its rest
    /// would cost the kernel as much as the whole.
    fn flush_full(&mut self, shared: &Shared) {
        self.unsealed
            .seal_before(self.queue.full(), self.queue.queued());
        let (report, moved) = self.queue.flush_full(shared.ways(&shared.sockets.load()));
        count(shared, report);
        self.unsealed.moved(moved);
        self.queued = self.queue.waiting();
    }

    /// Seals and sends what waits.
    pub(crate) fn flush(&mut self, shared: &Shared) {
        self.unsealed.seal(self.queue.queued());
        self.unsealed.rest();
        self.queued = 0;
        if !self.queue.is_empty() {
            let report = self.queue.flush(shared.ways(&shared.sockets.load()));
            count(shared, report);
        }
    }
}

/// Counts what was lost.
fn count(shared: &Shared, report: SendReport) {
    shared.drops.add(Drop::UdpSend, report.dropped);
    shared.drops.add(Drop::StreamFull, report.full);
    shared.drops.add(Drop::SocketClosed, report.closed);
}

/// An outbound thread: a queue of TUN to WireGuard to UDP or relay, until the engine stops.
pub(crate) fn run(shared: &Arc<Shared>, queue: usize) {
    let Some(tun) = shared.tun.load_full() else {
        return;
    };
    let mut outbound = Outbound::patient();
    let mut buffer = vec![0u8; READ_ROOM].into_boxed_slice();
    while !shared.stopping() {
        let now = shared.clock.now();
        let tables = shared.tunnel.tables();
        let mut idle = false;
        for _ in 0..READS {
            match tun.read(queue, &mut buffer) {
                Ok(len) => {
                    let Some((head, packet)) = buffer[..len].split_first_chunk::<VNET_LEN>() else {
                        continue;
                    };
                    outbound.packet(shared, &tables, VnetHeader::parse(head), packet, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    idle = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return device_gone(shared, &error),
            }
        }
        if idle {
            outbound.flush(shared);
        }
        shared.drain_tunnel(now);
        if idle {
            wait_readable([
                Some(tun.descriptor(queue)),
                Some(shared.wake_out.as_raw_fd()),
            ]);
        }
    }
}

fn device_gone(shared: &Shared, error: &io::Error) {
    if !shared.stopping() {
        let message = format!("the TUN device is gone (was it deleted?): {error}");
        shared.event(Event::Fault {
            message,
            fatal: true,
        });
    }
}
