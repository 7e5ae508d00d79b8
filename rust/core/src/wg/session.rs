//! One pair of transport keys (whitepaper §5.4.6): sealing without a lock, opening under one
//! that is taken once a batch.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use warren_aead::{Key, Message};

use super::noise::TransportKeys;
use super::peer::Peer;
use super::replay::Window;
use super::sync::lock;
use super::{HEADER_BYTES, OVERHEAD_BYTES, REJECT_AFTER_MESSAGES, REJECT_AFTER_MS, Refused};
use crate::packet;
use crate::path::BASE_MTU_BYTES;

const DATA: [u8; 4] = [4, 0, 0, 0];

/// One pair of transport keys. Shared by `Arc`; sealing and opening do not wait for each other.
pub struct Session {
    peer: Arc<Peer>,
    sealing: Key,
    opening: Key,
    counter: AtomicU64,
    window: Mutex<Window>,
    /// The receiver index by which the peer names this session.
    pub(super) local_index: u32,
    remote_index: u32,
    pub(super) created_ms: u64,
    /// We sent the initiation.
    pub(super) initiator: bool,
    /// The peer has proved that it has the keys; until then a responder must not send.
    pub(super) confirmed: AtomicBool,
    /// Packets that waited for it have yet to leave; until then no other is sealed.
    pub(super) held: AtomicBool,
}

/// What a session is made from, beside its keys.
pub(super) struct SessionFacts {
    pub(super) peer: Arc<Peer>,
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) created_ms: u64,
    pub(super) initiator: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Session({:08x} with {:?})",
            self.local_index,
            self.peer.key()
        )
    }
}

impl Session {
    pub(super) fn new(facts: SessionFacts, keys: &TransportKeys) -> Option<Self> {
        Some(Self {
            peer: facts.peer,
            sealing: Key::new(&keys.send)?,
            opening: Key::new(&keys.receive)?,
            counter: AtomicU64::new(0),
            window: Mutex::default(),
            local_index: facts.local_index,
            remote_index: facts.remote_index,
            created_ms: facts.created_ms,
            initiator: facts.initiator,
            confirmed: AtomicBool::new(facts.initiator),
            held: AtomicBool::new(false),
        })
    }

    /// Whose session it is.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Bytes of the datagram that sealing a packet of `plaintext_len` bytes gives at the most.
    #[must_use]
    pub fn sealed_len(plaintext_len: usize) -> usize {
        plaintext_len.next_multiple_of(16) + OVERHEAD_BYTES
    }

    /// Number a packet that lies behind 16 free bytes at `buffer[start..]`, write its header there
    /// and pad it with zeros to a multiple of 16, but never past `mtu_bytes`, which is what the path
    /// carries (whitepaper §5.4.6, PROTOCOL §6). What is returned waits for [`seal`](Self::seal), beside others in
    /// the same buffer; the datagram is [`OVERHEAD_BYTES`] longer than the message, from `start` on.
    ///
    /// None when the counter is used up or `buffer` is too short: drop the packet.
    #[must_use]
    pub fn begin(
        &self,
        buffer: &mut [u8],
        start: usize,
        plaintext_len: usize,
        mtu_bytes: usize,
    ) -> Option<Message> {
        let padded = plaintext_len
            .next_multiple_of(16)
            .min(mtu_bytes.max(plaintext_len));
        let datagram = buffer
            .get_mut(start..)?
            .get_mut(..padded + OVERHEAD_BYTES)?;
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            // Far below wrapping: 2^13 more calls would be needed even if none were refused.
            self.counter.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
            return None;
        }
        let (header, rest) = datagram.split_at_mut(HEADER_BYTES);
        header[..4].copy_from_slice(&DATA);
        header[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        rest[plaintext_len..padded].fill(0);
        Some(Message {
            counter,
            start: start + HEADER_BYTES,
            len: padded,
        })
    }

    /// Seal what was begun, all of it in `buffer`, in place and once.
    pub fn seal(&self, buffer: &mut [u8], begun: &[Message]) {
        self.sealing.seal(buffer, begun);
    }

    /// Seal a packet that lies at `buffer[16..16 + plaintext_len]` into the datagram
    /// `buffer[..returned]`; pads with zeros.
    ///
    /// None when the counter is used up or `buffer` is shorter than
    /// [`sealed_len`](Self::sealed_len): drop the packet.
    #[must_use]
    pub fn seal_in_place(&self, buffer: &mut [u8], plaintext_len: usize) -> Option<usize> {
        let message = self.begin(buffer, 0, plaintext_len, BASE_MTU_BYTES)?;
        self.seal(buffer, &[message]);
        Some(message.len + OVERHEAD_BYTES)
    }

    /// Copy `plaintext` behind the header and seal it there, as
    /// [`seal_in_place`](Self::seal_in_place).
    #[must_use]
    pub fn seal_into(&self, plaintext: &[u8], out: &mut [u8]) -> Option<usize> {
        out.get_mut(HEADER_BYTES..HEADER_BYTES + plaintext.len())?
            .copy_from_slice(plaintext);
        self.seal_in_place(out, plaintext.len())
    }

    /// Begin opening a batch: takes the replay window's lock until the opener is dropped.
    #[must_use]
    pub fn opener(&self) -> Opener<'_> {
        Opener {
            session: self,
            window: lock(&self.window),
            opened: Opened::default(),
        }
    }

    /// Messages sealed so far.
    pub(super) fn sealed_messages(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// Younger than 180 s.
    pub(super) fn is_fresh(&self, mono_ms: u64) -> bool {
        mono_ms.saturating_sub(self.created_ms) < REJECT_AFTER_MS
    }

    /// What waited for it goes first.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// May seal now.
    pub(super) fn is_usable(&self, mono_ms: u64) -> bool {
        !self.is_held() && self.is_fresh(mono_ms) && self.sealed_messages() < REJECT_AFTER_MESSAGES
    }

    #[cfg(test)]
    pub(super) fn set_counter(&self, counter: u64) {
        self.counter.store(counter, Ordering::Relaxed);
    }
}

/// What a batch brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Authenticated datagrams, keepalives included.
    pub packets: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Some were no keepalives.
    pub data: bool,
}

/// Data messages of one session in one buffer, opened together; reused, so that it keeps its
/// memory.
#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
    authentic: Vec<bool>,
    /// For each datagram: which message it is, or why it is none.
    datagrams: Vec<Result<usize, Refused>>,
}

impl Batch {
    /// Forget what is in it.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.datagrams.clear();
    }
}

/// Opens the datagrams of one batch; counts what it opened.
pub struct Opener<'a> {
    session: &'a Session,
    window: MutexGuard<'a, Window>,
    opened: Opened,
}

impl Opener<'_> {
    /// Whether the datagram is data for this session (datagrams of one read may belong to
    /// different ones).
    #[must_use]
    pub fn takes(&self, datagram: &[u8]) -> bool {
        datagram.len() >= OVERHEAD_BYTES
            && datagram[..4] == DATA
            && datagram[4..8] == self.session.local_index.to_le_bytes()
    }

    /// Take a datagram, at `place` in `buffer`, into a batch.
    pub fn add(&self, batch: &mut Batch, buffer: &[u8], place: Range<usize>) {
        let message = self.message(buffer, place).map(|message| {
            batch.messages.push(message);
            batch.messages.len() - 1
        });
        batch.datagrams.push(message);
    }

    fn message(&self, buffer: &[u8], place: Range<usize>) -> Result<Message, Refused> {
        let start = place.start + HEADER_BYTES;
        let datagram = buffer
            .get(place)
            .filter(|datagram| self.takes(datagram))
            .ok_or(Refused::Malformed)?;
        let mut counter = [0; 8];
        counter.copy_from_slice(&datagram[8..HEADER_BYTES]);
        let counter = u64::from_le_bytes(counter);
        if counter >= REJECT_AFTER_MESSAGES || !self.window.may_take(counter) {
            return Err(Refused::Replayed);
        }
        Ok(Message {
            counter,
            start,
            len: datagram.len() - OVERHEAD_BYTES,
        })
    }

    /// Open all of a batch in place; then ask for each of its packets, in order.
    pub fn open(&self, batch: &mut Batch, buffer: &mut [u8]) {
        batch.authentic.clear();
        batch.authentic.resize(batch.messages.len(), false);
        self.session
            .opening
            .open(buffer, &batch.messages, &mut batch.authentic);
    }

    /// Where the inner packet of the batch's datagram `index` lies, cut to its own length; empty
    /// for a keepalive.
    ///
    /// # Errors
    /// Why it must be dropped; what the buffer holds then is undefined.
    pub fn packet(
        &mut self,
        batch: &Batch,
        index: usize,
        buffer: &[u8],
    ) -> Result<Range<usize>, Refused> {
        let number = batch.datagrams[index]?;
        let Message {
            counter,
            start,
            len,
        } = batch.messages[number];
        if !batch.authentic[number] {
            return Err(Refused::Forged);
        }
        // Another of this batch may have had the same number.
        if !self.window.may_take(counter) {
            return Err(Refused::Replayed);
        }
        self.window.take(counter);
        self.opened.packets += 1;
        self.opened.bytes += (len + OVERHEAD_BYTES) as u64;
        if len == 0 {
            return Ok(start..start);
        }
        self.opened.data = true;
        match packet::source_and_length(&buffer[start..start + len]) {
            Some((_, length)) if (20..=len).contains(&length) => Ok(start..start + length),
            _ => Err(Refused::Malformed),
        }
    }

    /// Open one data message in place, as a batch of its own.
    ///
    /// # Errors
    /// As [`packet`](Self::packet).
    pub fn open_in_place<'d>(&mut self, datagram: &'d mut [u8]) -> Result<&'d mut [u8], Refused> {
        let mut batch = Batch::default();
        self.add(&mut batch, datagram, 0..datagram.len());
        self.open(&mut batch, datagram);
        let place = self.packet(&batch, 0, datagram)?;
        Ok(&mut datagram[place])
    }

    /// End the batch. Hand the result to `Tunnel::received`.
    #[must_use]
    pub fn finish(self) -> Opened {
        self.opened
    }
}
