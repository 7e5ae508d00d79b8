//! What waits for one client of a relay.
//!
//! Each sender has a queue of its own, and the queues are served in turns by bytes (deficit round
//! robin, Shreedhar and Varghese 1996), so that a fat sender does not push thin ones out. Disco
//! goes first, then notices, then packets.
//!
//! A queue that is full asks for its sender to be held: not read from, so that TCP slows it down.
//! That must not last, since the sender has other peers: when its patience is over
//! ([`give_up`](Outbox::give_up)) the queue drops its oldest packets instead, until it has once
//! been served to below its low mark. A client that reads, however fast its senders are, so
//! loses nothing; a dead one costs each of its senders one pause.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use super::chunk::{Chunk, Pool};
use crate::derp::RawKey;
use crate::derp::frames::{HEADER_LEN, RECV_PACKET, looks_like_disco};

/// Bytes a sender may send in its turn before the next one's.
const QUANTUM: isize = 16 << 10;
/// Disco messages that wait at most, and how many of them of one sender.
const URGENT: usize = 64;
const URGENT_OF_ONE: usize = 8;
/// Answers and notices; a client that makes us write more while it reads nothing loses them.
const NOTICES_BYTES: usize = 64 << 10;
/// A sender's queue is never asked to be shorter than this.
const LEAST_HIGH: usize = 8 << 10;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of one sender for one client; from here on the sender is held. Bytes.
    pub pair_bytes: usize,
    /// Of all senders for one client. Bytes.
    pub client_bytes: usize,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It waits, or another was dropped in its stead.
    Taken,
    /// It waits, and its sender should not be read from until it is released.
    Hold,
    /// There is no room in the whole relay; the packet was dropped.
    NoRoom,
    /// The client is gone.
    Closed,
}

/// The outcome of [`Outbox::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// What became of the packet.
    pub verdict: Verdict,
    /// Older packets that were dropped for it.
    pub dropped: u32,
    /// Whether the client's thread has to be told: nothing waited before.
    pub wake: bool,
}

#[derive(Default)]
struct Flow {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    deficit: isize,
    /// The sender is held because of this queue.
    holding: bool,
    /// It was held for long enough: now the queue drops.
    given_up: bool,
}

/// The queues in front of one client.
pub struct Outbox {
    limits: Limits,
    flows: HashMap<u64, Flow>,
    turns: VecDeque<u64>,
    urgent: VecDeque<(u64, Vec<u8>)>,
    notices: Vec<u8>,
    bytes: usize,
    /// The client's thread knows that something waits.
    scheduled: bool,
    open: bool,
}

/// What [`Outbox::take`] gives: bytes for the stream in order, and senders to go on with.
#[derive(Default)]
pub struct Taken {
    /// Disco and notices, framed.
    pub first: Vec<u8>,
    /// Packets, framed.
    pub chunks: Vec<Chunk>,
    /// Senders that were held and may go on.
    pub released: Vec<u64>,
}

impl Outbox {
    /// Empty queues.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            flows: HashMap::new(),
            turns: VecDeque::new(),
            urgent: VecDeque::new(),
            notices: Vec::new(),
            bytes: 0,
            scheduled: false,
            open: true,
        }
    }

    /// Bytes of packets that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// From where on a sender is held: less when many send to one client.
    fn high(&self) -> usize {
        let share = self.limits.client_bytes / self.flows.len().max(1);
        share.clamp(LEAST_HIGH, self.limits.pair_bytes)
    }

    /// Put a packet of `sender`, whose key is `source`, behind its others.
    pub fn push(&mut self, sender: u64, source: &RawKey, packet: &[u8], pool: &mut Pool) -> Pushed {
        let mut pushed = Pushed {
            verdict: Verdict::Taken,
            dropped: 0,
            wake: false,
        };
        if !self.open {
            pushed.verdict = Verdict::Closed;
            return pushed;
        }
        if looks_like_disco(packet) {
            pushed.dropped = self.push_urgent(sender, source, packet);
            pushed.wake = !std::mem::replace(&mut self.scheduled, true);
            return pushed;
        }
        let size = HEADER_LEN + source.len() + packet.len();
        let flow = match self.flows.entry(sender) {
            Entry::Occupied(flow) => flow.into_mut(),
            Entry::Vacant(room) => {
                self.turns.push_back(sender);
                room.insert(Flow::default())
            }
        };
        if !flow.chunks.back().is_some_and(|chunk| chunk.fits(size)) {
            let Some(chunk) = pool.chunk(size) else {
                pushed.verdict = Verdict::NoRoom;
                return pushed;
            };
            flow.chunks.push_back(chunk);
        }
        if let Some(chunk) = flow.chunks.back_mut() {
            chunk.push(RECV_PACKET, source, packet);
        }
        flow.bytes += size;
        self.bytes += size;
        pushed.wake = !std::mem::replace(&mut self.scheduled, true);
        let high = self.high();
        let full = self.bytes > self.limits.client_bytes;
        if let Some(flow) = self.flows.get_mut(&sender)
            && (flow.bytes > high || full)
        {
            if flow.given_up {
                while (flow.bytes > high || self.bytes > self.limits.client_bytes)
                    && flow.bytes > size
                {
                    let dropped = flow.drop_oldest();
                    self.bytes -= dropped;
                    pushed.dropped += 1;
                }
            } else {
                flow.holding = true;
                pushed.verdict = Verdict::Hold;
            }
        }
        pushed
    }

    fn push_urgent(&mut self, sender: u64, source: &RawKey, packet: &[u8]) -> u32 {
        let own = self.urgent.iter().filter(|(of, _)| *of == sender).count();
        let mut dropped = 0;
        if own >= URGENT_OF_ONE {
            if let Some(at) = self.urgent.iter().position(|(of, _)| *of == sender) {
                self.urgent.remove(at);
            }
            dropped = 1;
        } else if self.urgent.len() >= URGENT {
            self.urgent.pop_front();
            dropped = 1;
        }
        let mut frame = Vec::new();
        crate::derp::frames::push_frame(&mut frame, RECV_PACKET, &[source, packet]);
        self.urgent.push_back((sender, frame));
        dropped
    }

    /// Append a frame that is no packet. Whether the client's thread has to be told.
    pub fn tell(&mut self, frame: &[u8]) -> bool {
        if !self.open || self.notices.len() + frame.len() > NOTICES_BYTES {
            return false;
        }
        self.notices.extend_from_slice(frame);
        !std::mem::replace(&mut self.scheduled, true)
    }

    /// The patience of a held sender is over: from now on its queue drops its oldest packets.
    pub fn give_up(&mut self, sender: u64) {
        if let Some(flow) = self.flows.get_mut(&sender) {
            flow.holding = false;
            flow.given_up = true;
        }
    }

    /// Take about `budget` bytes for the stream. When nothing was left, the next push wakes.
    pub fn take(&mut self, budget: usize, taken: &mut Taken) {
        for (_, frame) in self.urgent.drain(..) {
            taken.first.extend_from_slice(&frame);
        }
        taken.first.append(&mut self.notices);
        let mut total = taken.first.len();
        let low = self.high() / 2;
        while total < budget {
            let Some(&sender) = self.turns.front() else {
                break;
            };
            let Entry::Occupied(mut entry) = self.flows.entry(sender) else {
                self.turns.pop_front();
                continue;
            };
            let flow = entry.get_mut();
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            if let Some(chunk) = flow.chunks.pop_front() {
                let size = chunk.len();
                flow.bytes -= size;
                flow.deficit -= size as isize;
                self.bytes -= size;
                total += size;
                taken.chunks.push(chunk);
            }
            if flow.bytes <= low {
                flow.given_up = false;
                if std::mem::take(&mut flow.holding) {
                    taken.released.push(sender);
                }
            }
            if flow.chunks.is_empty() {
                entry.remove();
                self.turns.pop_front();
            }
        }
        if self.turns.is_empty() {
            self.scheduled = false;
        }
    }

    /// The client is gone: throw everything away. Returns the senders that were held.
    pub fn close(&mut self) -> Vec<u64> {
        self.open = false;
        self.bytes = 0;
        self.turns.clear();
        self.urgent.clear();
        self.notices = Vec::new();
        let flows = std::mem::take(&mut self.flows);
        let held = flows.iter().filter(|(_, flow)| flow.holding);
        held.map(|(sender, _)| *sender).collect()
    }
}

impl Flow {
    /// Throw the oldest packet away; its bytes.
    fn drop_oldest(&mut self) -> usize {
        while let Some(chunk) = self.chunks.front_mut() {
            let size = chunk.drop_first();
            self.bytes -= size;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            if size > 0 {
                return size;
            }
        }
        0
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
