//! What waits to be sent to one relay: two bounded buffers of whole frames, disco before data.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use warren_core::derp::RawKey;
use warren_core::derp::frames::{looks_like_disco, push_send_packet, send_packet_len};

/// Data frames that may wait. Small, so that a slow relay is felt by the sender at once: the
/// kernel keeps at most `dial::UNSENT_BYTES` more.
pub(super) const DATA_LIMIT: usize = 256 << 10;
/// Disco and control frames that may wait.
pub(super) const URGENT_LIMIT: usize = 64 << 10;

/// What became of a packet that was offered to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// Queued, and the thread knows or has to be told.
    Queued { wake: bool },
    /// Queued, but no thread serves the queue: start one.
    Orphaned,
    /// No room, or the region cannot be reached just now.
    Refused,
}

#[derive(Default)]
struct State {
    urgent: Vec<u8>,
    data: Vec<u8>,
    /// A thread serves this queue.
    served: bool,
    /// The thread was woken since it last looked.
    woken: bool,
    /// The region could not be reached a moment ago.
    shut: bool,
    waiting: usize,
}

/// The queue between the packet path and the thread of a region.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    room: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Queue a packet for `dst` as a frame.
    pub(super) fn offer(&self, dst: &RawKey, packet: &[u8]) -> Offer {
        let mut state = self.lock();
        if state.shut {
            return Offer::Refused;
        }
        let (buffer, limit) = if looks_like_disco(packet) {
            (&mut state.urgent, URGENT_LIMIT)
        } else {
            (&mut state.data, DATA_LIMIT)
        };
        if buffer.len() + send_packet_len(packet.len()) > limit {
            return Offer::Refused;
        }
        push_send_packet(buffer, dst, packet);
        if !state.served {
            state.served = true;
            state.woken = true;
            return Offer::Orphaned;
        }
        let wake = !state.woken;
        state.woken = true;
        Offer::Queued { wake }
    }

    /// Wait until data has room again, at most for `max`. False: still full, or not reachable.
    pub(super) fn wait_room(&self, max: Duration) -> bool {
        let mut state = self.lock();
        state.waiting += 1;
        let full = |state: &mut State| state.data.len() > DATA_LIMIT / 2 && !state.shut;
        let (mut state, _) = self
            .room
            .wait_timeout_while(state, max, full)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.waiting -= 1;
        !state.shut && state.data.len() <= DATA_LIMIT / 2
    }

    /// Claim the queue for a new thread; false when one serves it already.
    pub(super) fn claim(&self) -> bool {
        !std::mem::replace(&mut self.lock().served, true)
    }

    /// Give the queue back, unless something waits in it or `keep` says to go on.
    pub(super) fn release(&self, keep: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        if !state.urgent.is_empty() || !state.data.is_empty() || keep() {
            return false;
        }
        state.served = false;
        true
    }

    /// Whether anything waits.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.urgent.is_empty() && state.data.is_empty()
    }

    /// Move everything that waits into `out` (cleared first), disco in front. Buffers swap places
    /// where they can, so that nothing is allocated in steady state.
    pub(super) fn take(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut state = self.lock();
        state.woken = false;
        if state.urgent.is_empty() {
            std::mem::swap(&mut state.data, out);
        } else {
            out.append(&mut state.urgent);
            let state = &mut *state;
            out.append(&mut state.data);
        }
        if state.waiting > 0 {
            self.room.notify_all();
        }
    }

    /// Drop what waits; while `shut`, refuse everything.
    pub(super) fn clear(&self, shut: bool) {
        let mut state = self.lock();
        state.urgent.clear();
        state.data.clear();
        state.woken = false;
        state.shut = shut;
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disco(length: usize) -> Vec<u8> {
        let mut packet = b"TS\xf0\x9f\x92\xac".to_vec();
        packet.resize(length, 7);
        packet
    }

    #[test]
    fn disco_goes_first_and_the_thread_is_woken_once() {
        let queue = Queue::default();
        assert_eq!(queue.offer(&[1; 32], &[0; 100]), Offer::Orphaned);
        assert_eq!(
            queue.offer(&[1; 32], &disco(80)),
            Offer::Queued { wake: false }
        );
        let mut out = Vec::new();
        queue.take(&mut out);
        assert_eq!(&out[5 + 32..5 + 32 + 2], b"TS");
        assert_eq!(
            queue.offer(&[1; 32], &[0; 100]),
            Offer::Queued { wake: true }
        );
        assert!(!queue.release(|| false), "something waits");
        queue.take(&mut out);
        assert!(queue.release(|| false));
        assert_eq!(queue.offer(&[1; 32], &[0; 100]), Offer::Orphaned);
    }

    #[test]
    fn it_is_bounded_and_tells_when_there_is_room() {
        let queue = Queue::default();
        while queue.offer(&[1; 32], &[0; 1280]) != Offer::Refused {}
        assert!(matches!(
            queue.offer(&[1; 32], &disco(100)),
            Offer::Queued { .. }
        ));
        assert!(!queue.wait_room(Duration::from_millis(1)));
        let mut out = Vec::new();
        queue.take(&mut out);
        assert!(out.len() <= DATA_LIMIT + URGENT_LIMIT);
        assert!(queue.wait_room(Duration::from_millis(1)));
        queue.clear(true);
        assert_eq!(queue.offer(&[1; 32], &[0; 10]), Offer::Refused);
        queue.clear(false);
        assert_ne!(queue.offer(&[1; 32], &[0; 10]), Offer::Refused);
    }
}
