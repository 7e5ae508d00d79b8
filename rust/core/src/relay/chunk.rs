//! Chunks: whole frames one behind the other, of one sender and for one client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::derp::frames::HEADER_LEN;

/// Usual room of a chunk: what one TLS record carries (RFC 8446 §5.1).
pub const CHUNK_BYTES: usize = 16 << 10;

/// How much room the chunks of a whole relay may have.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
        })
    }

    /// Bytes of room in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, size: usize) -> bool {
        let before = self.used.fetch_add(size, Ordering::Relaxed);
        if before + size > self.limit {
            self.used.fetch_sub(size, Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// Frames in a row. Its room is counted until it goes back to a [`Pool`] or is dropped.
#[derive(Debug)]
pub struct Chunk {
    bytes: Vec<u8>,
    start: usize,
    room: usize,
    budget: Arc<Budget>,
}

impl Chunk {
    /// The frames.
    pub fn frames(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// How many bytes they have.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether no frame is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `size` more bytes fit.
    pub fn fits(&self, size: usize) -> bool {
        self.bytes.len() + size <= self.room
    }

    /// Append a frame. The caller has asked [`fits`](Self::fits).
    pub fn push(&mut self, kind: u8, source: &[u8], packet: &[u8]) {
        let length = (source.len() + packet.len()) as u32;
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(source);
        self.bytes.extend_from_slice(packet);
    }

    /// Throw the first frame away; its length in bytes, or 0 when there is none.
    pub fn drop_first(&mut self) -> usize {
        let Some((head, _)) = self.frames().split_first_chunk::<HEADER_LEN>() else {
            return 0;
        };
        let [_, a, b, c, d] = *head;
        let size = HEADER_LEN + u32::from_be_bytes([a, b, c, d]) as usize;
        self.start += size;
        size
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.room, Ordering::Relaxed);
    }
}

/// Room that one thread keeps for its next chunks, so that a frame costs no allocation.
pub struct Pool {
    budget: Arc<Budget>,
    free: Vec<Vec<u8>>,
}

/// Chunks that a pool keeps at most: 1 MiB a thread.
const KEPT: usize = 64;

impl Pool {
    /// An empty pool that counts in `budget`.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            free: Vec::new(),
        }
    }

    /// A chunk with room for at least `size` bytes; `None` when the budget is spent.
    pub fn chunk(&mut self, size: usize) -> Option<Chunk> {
        let room = size.max(CHUNK_BYTES);
        if !self.budget.take(room) {
            return None;
        }
        let bytes = match self.free.pop() {
            Some(bytes) if room == CHUNK_BYTES => bytes,
            _ => Vec::with_capacity(room),
        };
        Some(Chunk {
            bytes,
            start: 0,
            room,
            budget: self.budget.clone(),
        })
    }

    /// Keep a chunk's memory for the next one.
    pub fn give_back(&mut self, mut chunk: Chunk) {
        if chunk.room == CHUNK_BYTES && self.free.len() < KEPT {
            let mut bytes = std::mem::take(&mut chunk.bytes);
            bytes.clear();
            self.free.push(bytes);
        }
    }
}
