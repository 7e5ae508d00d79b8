//! One pair of transport keys (whitepaper §5.4.6): sealing without a lock, opening under one
//! that is taken once a batch.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::noise::TransportKeys;
use super::peer::Peer;
use super::replay::Window;
use super::sync::lock;
use super::{
    HEADER_BYTES, OVERHEAD_BYTES, REJECT_AFTER_MESSAGES, REJECT_AFTER_MS, Refused, TAG_BYTES,
};
use crate::packet;

const DATA: [u8; 4] = [4, 0, 0, 0];

/// One pair of transport keys. Shared by `Arc`; sealing and opening do not wait for each other.
pub struct Session {
    peer: Arc<Peer>,
    sealing: LessSafeKey,
    opening: LessSafeKey,
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
    mtu_bytes: usize,
}

/// What a session is made from, beside its keys.
pub(super) struct SessionFacts {
    pub(super) peer: Arc<Peer>,
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) created_ms: u64,
    pub(super) initiator: bool,
    pub(super) mtu_bytes: usize,
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
        let key = |raw| {
            UnboundKey::new(&CHACHA20_POLY1305, raw)
                .ok()
                .map(LessSafeKey::new)
        };
        Some(Self {
            peer: facts.peer,
            sealing: key(&keys.send)?,
            opening: key(&keys.receive)?,
            counter: AtomicU64::new(0),
            window: Mutex::default(),
            local_index: facts.local_index,
            remote_index: facts.remote_index,
            created_ms: facts.created_ms,
            initiator: facts.initiator,
            confirmed: AtomicBool::new(facts.initiator),
            mtu_bytes: facts.mtu_bytes,
        })
    }

    /// Whose session it is.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Bytes of the datagram that sealing a packet of `plaintext_len` bytes gives.
    #[must_use]
    pub fn sealed_len(&self, plaintext_len: usize) -> usize {
        self.padded_len(plaintext_len) + OVERHEAD_BYTES
    }

    /// To a multiple of 16, but never past the MTU (whitepaper §5.4.6, PROTOCOL §6).
    fn padded_len(&self, plaintext_len: usize) -> usize {
        plaintext_len
            .next_multiple_of(16)
            .min(self.mtu_bytes.max(plaintext_len))
    }

    /// Seal a packet that lies at `buffer[16..16 + plaintext_len]` into the datagram
    /// `buffer[..returned]`; pads with zeros.
    ///
    /// None when the counter is used up or `buffer` is shorter than
    /// [`sealed_len`](Self::sealed_len): drop the packet.
    #[must_use]
    pub fn seal_in_place(&self, buffer: &mut [u8], plaintext_len: usize) -> Option<usize> {
        let padded = self.padded_len(plaintext_len);
        let datagram = buffer.get_mut(..padded + OVERHEAD_BYTES)?;
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
        let (plaintext, tag_out) = rest.split_at_mut(padded);
        plaintext[plaintext_len..].fill(0);
        let tag = self
            .sealing
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), plaintext)
            .ok()?;
        tag_out.copy_from_slice(tag.as_ref());
        Some(padded + OVERHEAD_BYTES)
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

    /// May still seal.
    pub(super) fn is_usable(&self, mono_ms: u64) -> bool {
        self.is_fresh(mono_ms) && self.sealed_messages() < REJECT_AFTER_MESSAGES
    }

    #[cfg(test)]
    pub(super) fn set_counter(&self, counter: u64) {
        self.counter.store(counter, Ordering::Relaxed);
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
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

    /// Open a data message in place. Gives the inner packet, cut to its own length; empty for a
    /// keepalive.
    ///
    /// # Errors
    /// Why it must be dropped; what the buffer holds then is undefined.
    pub fn open_in_place<'d>(&mut self, datagram: &'d mut [u8]) -> Result<&'d mut [u8], Refused> {
        if !self.takes(datagram) {
            return Err(Refused::Malformed);
        }
        let bytes = datagram.len() as u64;
        let (header, sealed) = datagram.split_at_mut(HEADER_BYTES);
        let mut counter = [0; 8];
        counter.copy_from_slice(&header[8..]);
        let counter = u64::from_le_bytes(counter);
        if counter >= REJECT_AFTER_MESSAGES || !self.window.may_take(counter) {
            return Err(Refused::Replayed);
        }
        let plain_len = sealed.len() - TAG_BYTES;
        self.session
            .opening
            .open_in_place(nonce(counter), Aad::empty(), sealed)
            .map_err(|_| Refused::Forged)?;
        self.window.take(counter);
        self.opened.packets += 1;
        self.opened.bytes += bytes;
        if plain_len == 0 {
            return Ok(&mut []);
        }
        let plain = &mut sealed[..plain_len];
        self.opened.data = true;
        match packet::source_and_length(plain) {
            Some((_, length)) if (20..=plain_len).contains(&length) => Ok(&mut plain[..length]),
            _ => Err(Refused::Malformed),
        }
    }

    /// End the batch. Hand the result to `Tunnel::received`.
    #[must_use]
    pub fn finish(self) -> Opened {
        self.opened
    }
}
