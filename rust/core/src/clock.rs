//! Time and entropy are arguments: the owner of the threads reads the clocks, once a batch.

use std::time::Duration;

/// One reading of both clocks, taken once for a whole batch of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds since any fixed start; never 0 (0 means "never" in counters).
    pub mono_ms: u64,
    /// Time since the Unix epoch, UTC; goes into handshake timestamps only.
    pub wall: Duration,
}

impl Now {
    /// The same reading, `ms` later on both clocks.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self {
            mono_ms: self.mono_ms + ms,
            wall: self.wall + Duration::from_millis(ms),
        }
    }
}

/// A cryptographically secure source of random bytes, shared by all threads.
pub trait Entropy: Send + Sync {
    /// Fill `out` whole.
    fn fill(&self, out: &mut [u8]);
}
