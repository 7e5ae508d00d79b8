//! What the threads of a relay share: who is connected, counters, and each thread's mailbox.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use mio::Waker;
use parking_lot::{Mutex, RwLock};
use rustix::event::{EventfdFlags, eventfd};
use warren_core::derp::RawKey;
use warren_core::relay::chunk::Budget;
use warren_core::relay::outbox::Outbox;
use warren_core::relay::seam::{Config, Event, Snapshot};

use super::certificate::Certificates;

/// Connections that Python has not taken yet; beyond it new ones are closed.
const MAX_UNTAKEN: usize = 1024;

/// Where a connection lives: its thread, its place there, and which of that place's it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) worker: u8,
    pub(super) slot: u32,
    pub(super) turn: u32,
}

impl Place {
    /// One number for Python and for outboxes; never used twice in practice.
    pub(super) fn number(self) -> u64 {
        u64::from(self.worker) << 56 | u64::from(self.turn) << 24 | u64::from(self.slot)
    }

    pub(super) fn of(number: u64) -> Self {
        Self {
            worker: (number >> 56) as u8,
            turn: (number >> 24) as u32,
            slot: (number & 0xff_ffff) as u32,
        }
    }
}

/// A client that was admitted, as the other clients' threads see it.
pub(super) struct Peer {
    pub(super) key: RawKey,
    pub(super) place: Place,
    /// Whether packets for its key go to this connection.
    pub(super) active: AtomicBool,
    pub(super) outbox: Mutex<Outbox>,
}

/// The admitted connections of each key; the last one is active.
#[derive(Default)]
pub(super) struct Roster(RwLock<HashMap<RawKey, Vec<Arc<Peer>>>>);

impl Roster {
    pub(super) fn find(&self, key: &RawKey) -> Option<Arc<Peer>> {
        self.0.read().get(key)?.last().cloned()
    }

    pub(super) fn join(&self, peer: &Arc<Peer>) {
        let mut seats = self.0.write();
        let twins = seats.entry(peer.key).or_default();
        if let Some(before) = twins.last() {
            before.active.store(false, Ordering::Relaxed);
        }
        peer.active.store(true, Ordering::Relaxed);
        twins.push(peer.clone());
    }

    /// This connection was the last of its key to send: packets go here from now on.
    pub(super) fn activate(&self, peer: &Arc<Peer>) {
        let mut seats = self.0.write();
        if let Some(twins) = seats.get_mut(&peer.key)
            && let Some(at) = twins.iter().position(|twin| Arc::ptr_eq(twin, peer))
        {
            if let Some(before) = twins.last() {
                before.active.store(false, Ordering::Relaxed);
            }
            let twin = twins.remove(at);
            twin.active.store(true, Ordering::Relaxed);
            twins.push(twin);
        }
    }

    /// A connection is gone; who stands in for it, if its key is still connected.
    pub(super) fn leave(&self, peer: &Arc<Peer>) -> Option<Arc<Peer>> {
        let mut seats = self.0.write();
        peer.active.store(false, Ordering::Relaxed);
        let twins = seats.get_mut(&peer.key)?;
        twins.retain(|twin| !Arc::ptr_eq(twin, peer));
        match twins.last() {
            Some(next) => {
                next.active.store(true, Ordering::Relaxed);
                Some(next.clone())
            }
            None => {
                seats.remove(&peer.key);
                None
            }
        }
    }
}

/// What a thread is told by the others and by Python.
pub(super) enum Message {
    Listen(OwnedFd),
    /// A connection from a TLS port, and where it comes from.
    Accepted(OwnedFd, String),
    /// A stream that begins with the login, and bytes of it that were read already.
    Adopted {
        fd: OwnedFd,
        rest: Vec<u8>,
        fast_start: bool,
    },
    Admit(Place, bool),
    Kick(Place),
    /// Something waits in a client's outbox.
    Flush(u32),
    /// A held sender may go on.
    Release(Place),
    /// A connection is the last of its key now, and tells these peers when it goes.
    Inherit(Place, Vec<RawKey>),
    Stop(Arc<[u8]>),
    Quit,
}

/// How a thread is reached.
pub(super) struct Mailbox {
    messages: Mutex<Vec<Message>>,
    asleep: AtomicBool,
    waker: Waker,
}

impl Mailbox {
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            messages: Mutex::default(),
            asleep: AtomicBool::new(false),
            waker,
        }
    }

    /// Tell all of `messages`, which is left empty.
    pub(super) fn post(&self, messages: &mut Vec<Message>) {
        self.messages.lock().append(messages);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Only a counter near its limit refuses, and then the thread is awake anyway.
            let _ = self.waker.wake();
        }
    }

    /// Whether the thread may sleep: nothing waits, and from now on a post wakes it.
    pub(super) fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        self.messages.lock().is_empty()
    }

    /// Take what waits.
    pub(super) fn collect(&self, into: &mut Vec<Message>) {
        self.asleep.store(false, Ordering::SeqCst);
        into.append(&mut self.messages.lock());
    }
}

/// One thread's counters; a relay's are their sums.
#[derive(Default)]
#[repr(align(128))] // no two threads write to one cache line
pub(super) struct Counters {
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) dropped_unknown: AtomicU64,
    pub(super) dropped_full: AtomicU64,
    pub(super) held_senders: AtomicU64,
    pub(super) malformed_clients: AtomicU64,
    pub(super) stalled_clients: AtomicU64,
    pub(super) dropped_connections: AtomicU64,
}

/// Add to a counter that only this thread writes.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// Events on their way to Python.
pub(super) struct Events {
    waiting: Mutex<Vec<Event>>,
    untaken: AtomicUsize,
    wake: OwnedFd,
}

impl Events {
    fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            untaken: AtomicUsize::new(0),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Tell Python. How many events there are is bounded by the connections.
    pub(super) fn tell(&self, event: Event) {
        let mut waiting = self.waiting.lock();
        waiting.push(event);
        if waiting.len() == 1 {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Hand a connection to Python; false when too many wait there already.
    pub(super) fn hand_over(&self, fd: OwnedFd, source: String) -> bool {
        if self.untaken.load(Ordering::Relaxed) >= MAX_UNTAKEN {
            return false;
        }
        self.untaken.fetch_add(1, Ordering::Relaxed);
        use std::os::fd::IntoRawFd;
        self.tell(Event::Arrival {
            fd: fd.into_raw_fd(),
            source,
        });
        true
    }

    pub(super) fn take(&self) -> Vec<Event> {
        let mut waiting = self.waiting.lock();
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        self.untaken.store(0, Ordering::Relaxed);
        std::mem::take(&mut *waiting)
    }
}

/// Everything that the threads share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) public_key: RawKey,
    pub(super) certificates: Certificates,
    pub(super) roster: Roster,
    pub(super) budget: Arc<Budget>,
    pub(super) events: Events,
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) counters: Vec<Counters>,
    /// Connections of each thread, so that new ones go where there are fewest.
    pub(super) loads: Vec<AtomicUsize>,
}

impl Shared {
    pub(super) fn new(config: Config, wakers: Vec<Waker>) -> io::Result<Self> {
        Ok(Self {
            public_key: warren_core::derp::login::public_key(&config.private_key),
            certificates: Certificates::new(),
            roster: Roster::default(),
            budget: Budget::new(config.total_bytes as usize),
            events: Events::new()?,
            counters: wakers.iter().map(|_| Counters::default()).collect(),
            loads: wakers.iter().map(|_| AtomicUsize::new(0)).collect(),
            mailboxes: wakers.into_iter().map(Mailbox::new).collect(),
            config,
        })
    }

    /// Tell one thread one thing.
    pub(super) fn post(&self, worker: u8, message: Message) {
        if let Some(mailbox) = self.mailboxes.get(usize::from(worker)) {
            mailbox.post(&mut vec![message]);
        }
    }

    /// The thread with the fewest connections; it has one more now.
    pub(super) fn least_loaded(&self) -> u8 {
        let loads = self.loads.iter().enumerate();
        let least = loads.min_by_key(|(_, load)| load.load(Ordering::Relaxed));
        let (worker, load) = least.expect("there is a thread");
        load.fetch_add(1, Ordering::Relaxed);
        worker as u8
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let sum = |pick: fn(&Counters) -> &AtomicU64| {
            let counts = self.counters.iter();
            counts.map(|of| pick(of).load(Ordering::Relaxed)).sum()
        };
        let counters = [
            ("packets", sum(|of| &of.packets)),
            ("bytes", sum(|of| &of.bytes)),
            ("dropped_unknown", sum(|of| &of.dropped_unknown)),
            ("dropped_full", sum(|of| &of.dropped_full)),
            ("held_senders", sum(|of| &of.held_senders)),
            ("malformed_clients", sum(|of| &of.malformed_clients)),
            ("stalled_clients", sum(|of| &of.stalled_clients)),
            ("dropped_connections", sum(|of| &of.dropped_connections)),
        ];
        Snapshot {
            counters: counters
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            queued_bytes: self.budget.used() as u64,
        }
    }
}
