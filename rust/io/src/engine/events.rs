//! The bounded queue of events for Python, and the bucket in front of it.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};

use parking_lot::Mutex;
use warren_core::seam::Event;

use super::wake::Wake;

/// The most events that wait; Python drains them all at each wake-up.
const MAX_EVENTS: usize = 8192;
/// Of these, the most that strangers can cause (STUN and disco datagrams).
const MAX_DATAGRAMS: usize = 1024;
/// Datagrams a second that are handed up, and how many at once.
const DATAGRAMS_PER_S: u64 = 2000;
const DATAGRAM_BURST: u64 = 1000;

/// Why an event was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// Python is behind.
    Full,
    /// Datagrams come too fast.
    Rate,
}

/// Events on their way to Python.
#[derive(Debug)]
pub(crate) struct EventQueue {
    inner: Mutex<Inner>,
    wake: Wake,
}

#[derive(Debug)]
struct Inner {
    events: VecDeque<Event>,
    datagrams: usize,
    bucket: Bucket,
}

impl EventQueue {
    pub(crate) fn new(wake: Wake) -> Self {
        let inner = Inner {
            events: VecDeque::new(),
            datagrams: 0,
            bucket: Bucket::new(),
        };
        Self {
            inner: Mutex::new(inner),
            wake,
        }
    }

    /// Queues what the engine itself has to tell.
    pub(crate) fn push(&self, event: Event) -> Result<(), Overflow> {
        let mut inner = self.inner.lock();
        if inner.events.len() >= MAX_EVENTS {
            return Err(Overflow::Full);
        }
        self.append(&mut inner, event);
        Ok(())
    }

    /// Queues a datagram event, which strangers can cause: under a rate limit. `event` is made
    /// only when there is room for it.
    pub(crate) fn push_datagram(
        &self,
        mono_ms: u64,
        event: impl FnOnce() -> Event,
    ) -> Result<(), Overflow> {
        let mut inner = self.inner.lock();
        if inner.datagrams >= MAX_DATAGRAMS || inner.events.len() >= MAX_EVENTS {
            return Err(Overflow::Full);
        }
        if !inner.bucket.take(mono_ms) {
            return Err(Overflow::Rate);
        }
        inner.datagrams += 1;
        self.append(&mut inner, event());
        Ok(())
    }

    fn append(&self, inner: &mut Inner, event: Event) {
        if inner.events.is_empty() {
            self.wake.signal();
        }
        inner.events.push_back(event);
    }

    /// Takes everything that waits.
    pub(crate) fn drain(&self) -> Vec<Event> {
        let mut inner = self.inner.lock();
        self.wake.clear();
        inner.datagrams = 0;
        inner.events.drain(..).collect()
    }
}

impl AsRawFd for EventQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

/// A token bucket that counts in thousandths of a datagram.
#[derive(Debug)]
struct Bucket {
    level: u64,
    last_ms: u64,
}

impl Bucket {
    fn new() -> Self {
        Self {
            level: DATAGRAM_BURST * 1000,
            last_ms: 0,
        }
    }

    fn take(&mut self, mono_ms: u64) -> bool {
        let elapsed = mono_ms.saturating_sub(self.last_ms).min(10_000);
        self.last_ms = self.last_ms.max(mono_ms);
        self.level = (self.level + elapsed * DATAGRAMS_PER_S).min(DATAGRAM_BURST * 1000);
        if self.level < 1000 {
            return false;
        }
        self.level -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> EventQueue {
        EventQueue::new(Wake::new().unwrap())
    }

    fn event(generation: u64) -> Event {
        Event::Applied { generation }
    }

    #[test]
    fn datagrams_are_limited_and_other_events_are_not_displaced() {
        let queue = queue();
        let mut taken = 0;
        for _ in 0..5000 {
            taken += usize::from(queue.push_datagram(1, || event(0)).is_ok());
        }
        assert_eq!(taken, DATAGRAM_BURST as usize);
        assert_eq!(queue.push_datagram(1, || event(0)), Err(Overflow::Rate));
        queue.push(event(7)).unwrap();
        assert_eq!(queue.drain().last(), Some(&event(7)));
        assert!(queue.drain().is_empty());
        // 10 ms bring 20 more.
        let more = (0..100)
            .filter(|_| queue.push_datagram(11, || event(0)).is_ok())
            .count();
        assert_eq!(more, 20);
    }

    #[test]
    fn a_queue_that_nobody_drains_stays_bounded() {
        let queue = queue();
        let taken = (0..20_000)
            .filter(|n| queue.push(event(*n)).is_ok())
            .count();
        assert_eq!(taken, MAX_EVENTS);
        assert_eq!(queue.drain().len(), MAX_EVENTS);
    }
}
