//! What a turn owes to others, and how outboxes are written: many frames a record, many records
//! a write.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use warren_core::relay::chunk::Pool;

use super::channel::Bench;
use super::conn::{Conn, End, Stage};
use super::shared::{Counters, Message, Peer, Place, Shared};
use super::worker::Worker;

/// Bytes of an outbox that are sealed and written at once.
const BATCH_BYTES: usize = 64 << 10;
/// Batches for one client before the next one's.
const BATCHES: usize = 4;
/// Frames that are shorter are gathered into one record.
const GATHER_BYTES: usize = 8 << 10;
const RECORD_BYTES: usize = 16 << 10;

/// What a connection's turn needs of its thread.
pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) index: u8,
    pub(super) now: Instant,
    pub(super) pool: Pool,
    /// Senders of this thread that are held, by when that ends.
    pub(super) held: BinaryHeap<Reverse<(Instant, Place)>>,
    pub(super) bench: Bench,
    /// Own clients whose outboxes have something.
    pub(super) dirty: Vec<u32>,
    /// Own senders that may go on.
    pub(super) released: Vec<Place>,
    /// What other threads will be told.
    pub(super) outgoing: Vec<Vec<Message>>,
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, index: u8, now: Instant) -> Self {
        Self {
            pool: Pool::new(shared.budget.clone()),
            outgoing: shared.mailboxes.iter().map(|_| Vec::new()).collect(),
            shared,
            index,
            now,
            held: BinaryHeap::new(),
            bench: Bench::default(),
            dirty: Vec::new(),
            released: Vec::new(),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.shared.counters[usize::from(self.index)]
    }

    /// Something waits in a client's outbox.
    pub(super) fn wake(&mut self, place: Place) {
        if place.worker == self.index {
            self.dirty.push(place.slot);
        } else {
            self.tell_worker(place.worker, Message::Flush(place.slot));
        }
    }

    /// Send a client a frame that is no packet.
    pub(super) fn tell(&mut self, peer: &Peer, frame: &[u8]) {
        if peer.outbox.lock().tell(frame) {
            self.wake(peer.place);
        }
    }

    pub(super) fn release(&mut self, sender: u64) {
        let place = Place::of(sender);
        if place.worker == self.index {
            self.released.push(place);
        } else {
            self.tell_worker(place.worker, Message::Release(place));
        }
    }

    pub(super) fn tell_worker(&mut self, worker: u8, message: Message) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(worker)) {
            outgoing.push(message);
        }
    }
}

impl Worker {
    /// Write what waits for own clients. A client with much to get goes on after others have
    /// been read.
    pub(super) fn serve_outboxes(&mut self) {
        let mut dirty = std::mem::take(&mut self.desk.dirty);
        for slot in dirty.drain(..) {
            self.with(slot, |worker, _, conn| {
                let Stage::Member(_, member) = &conn.stage else {
                    return Ok(());
                };
                let peer = member.peer.clone();
                worker.write_outbox(conn, &peer)
            });
        }
        if self.desk.dirty.is_empty() {
            self.desk.dirty = dirty; // its memory
        }
        for place in std::mem::take(&mut self.desk.released) {
            self.resume(place);
        }
    }

    /// Let the socket have what waits for a client, as much as it takes and is fair.
    pub(super) fn write_outbox(&mut self, conn: &mut Conn, peer: &Peer) -> Result<(), End> {
        for _ in 0..BATCHES {
            if conn.channel.is_blocked() {
                if conn.channel.flush(&mut self.desk.bench)? {
                    conn.progress = self.desk.now;
                }
                if conn.channel.is_blocked() {
                    return Ok(());
                }
            }
            conn.progress = self.desk.now;
            let taken = &mut self.taken;
            peer.outbox.lock().take(BATCH_BYTES, taken);
            for sender in taken.released.drain(..) {
                self.desk.release(sender);
            }
            if taken.first.is_empty() && taken.chunks.is_empty() {
                return Ok(());
            }
            self.gather.clear();
            self.gather.append(&mut taken.first);
            for chunk in taken.chunks.drain(..) {
                let frames = chunk.frames();
                if frames.len() > GATHER_BYTES || self.gather.len() + frames.len() > RECORD_BYTES {
                    conn.channel.write(&self.gather, &mut self.desk.bench)?;
                    self.gather.clear();
                }
                if frames.len() > GATHER_BYTES {
                    conn.channel.write(frames, &mut self.desk.bench)?;
                } else {
                    self.gather.extend_from_slice(frames);
                }
                self.desk.pool.give_back(chunk);
            }
            conn.channel.write(&self.gather, &mut self.desk.bench)?;
            conn.channel.flush(&mut self.desk.bench)?;
        }
        self.desk.dirty.push(peer.place.slot);
        Ok(())
    }

    pub(super) fn post(&mut self) {
        for (worker, messages) in self.desk.outgoing.iter_mut().enumerate() {
            if !messages.is_empty() {
                self.desk.shared.mailboxes[worker].post(messages);
            }
        }
    }
}
