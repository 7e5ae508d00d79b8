//! One peer: its key, path, counters, and what its handshakes and sessions stand at.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;

use super::cookie::{Cookie, MacKeys};
use super::index::Indices;
use super::keys::PublicKey;
use super::noise::{Initiated, Timestamp};
use super::session::Session;
use super::{MAX_STAGED, PeerConfig, Source};
use crate::hop::Hop;
use crate::path::Path;

/// One peer. Shared by `Arc`; lives until the map drops it.
pub struct Peer {
    key: PublicKey,
    path: Path,
    /// For handshake messages to it.
    pub(super) macs: MacKeys,
    /// 0 for none.
    pub(super) keepalive_ms: AtomicU64,
    /// The session that seals.
    pub(super) current: ArcSwapOption<Session>,
    pub(super) marks: Marks,
    pub(super) state: Mutex<State>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({:?})", self.key)
    }
}

/// What the packet path writes without a lock. Times are `mono_ms`, 0 for never or "not set".
#[derive(Default)]
pub(super) struct Marks {
    pub(super) rx_bytes: AtomicU64,
    pub(super) tx_bytes: AtomicU64,
    pub(super) handshake_ms: AtomicU64,
    pub(super) tx_data_ms: AtomicU64,
    pub(super) tx_any_ms: AtomicU64,
    pub(super) rx_any_ms: AtomicU64,
    /// Data came in, nothing has gone out since: when the passive keepalive is due.
    pub(super) keepalive_due_ms: AtomicU64,
    /// Data went out, nothing has come in since: when that began.
    pub(super) unanswered_ms: AtomicU64,
    /// When it was last told that data goes to this peer.
    told_active_ms: AtomicU64,
}

/// Set `mark` to `value` unless it is set.
pub(super) fn set_if_unset(mark: &AtomicU64, value: u64) {
    if mark.load(Ordering::Relaxed) == 0 {
        // Two threads may race here with values of the same moment: either will do.
        mark.store(value, Ordering::Relaxed);
    }
}

/// What handshakes and timers change, under the peer's lock.
#[derive(Default)]
pub(super) struct State {
    /// The map dropped this peer: nothing may begin any more.
    pub(super) gone: bool,
    /// In the list of peers that have timers.
    pub(super) armed: bool,
    /// The session before the current one: opens what is still under way.
    pub(super) previous: Option<Arc<Session>>,
    /// We answered an initiation; the peer has not used the keys yet.
    pub(super) next: Option<Arc<Session>>,
    pub(super) attempt: Option<Attempt>,
    /// When we last sent an initiation.
    pub(super) initiated_ms: Option<u64>,
    /// When we last took an initiation.
    pub(super) accepted_ms: Option<u64>,
    /// The greatest timestamp taken; a smaller one is a replay.
    pub(super) newest_timestamp: Option<Timestamp>,
    pub(super) sent_timestamp: Option<Timestamp>,
    /// A cookie of the peer's and when it came.
    pub(super) cookie: Option<(Cookie, u64)>,
    /// mac1 of our last handshake message, which a cookie reply is bound to.
    pub(super) sent_mac1: Option<[u8; 16]>,
    /// Packets that wait for a session.
    pub(super) staged: VecDeque<Vec<u8>>,
    /// When the persistent keepalive last tried.
    pub(super) keepalive_tried_ms: u64,
}

/// A handshake that we want: its initiation is out, or waits for its time.
pub(super) struct Attempt {
    pub(super) began_ms: u64,
    pub(super) retry_ms: u64,
    pub(super) sent: Option<SentInitiation>,
}

pub(super) struct SentInitiation {
    pub(super) index: u32,
    pub(super) noise: Initiated,
}

/// Counters of one peer; times are `mono_ms`, None for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Datagram bytes received and authenticated.
    pub rx_bytes: u64,
    /// Datagram bytes sealed.
    pub tx_bytes: u64,
    /// Last established session.
    pub handshake_ms: Option<u64>,
    /// Last data sent.
    pub tx_ms: Option<u64>,
    /// Last authenticated datagram.
    pub rx_ms: Option<u64>,
}

impl Peer {
    pub(super) fn new(key: PublicKey) -> Self {
        Self {
            key,
            path: Path::default(),
            macs: MacKeys::of(&key),
            keepalive_ms: AtomicU64::new(0),
            current: ArcSwapOption::empty(),
            marks: Marks::default(),
            state: Mutex::default(),
        }
    }

    /// Its node key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Where to send to it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Counters now.
    #[must_use]
    pub fn stats(&self) -> PeerCounters {
        let get = |mark: &AtomicU64| mark.load(Ordering::Relaxed);
        let time = |mark: &AtomicU64| Some(get(mark)).filter(|ms| *ms != 0);
        PeerCounters {
            rx_bytes: get(&self.marks.rx_bytes),
            tx_bytes: get(&self.marks.tx_bytes),
            handshake_ms: time(&self.marks.handshake_ms),
            tx_ms: time(&self.marks.tx_data_ms),
            rx_ms: time(&self.marks.rx_any_ms),
        }
    }

    /// A session stands, and what waited for it has yet to leave.
    pub(super) fn is_held(&self) -> bool {
        self.current
            .load()
            .as_ref()
            .is_some_and(|session| session.is_held())
    }

    pub(super) fn configure(&self, config: &PeerConfig) {
        self.path.configure(
            config.home_region,
            config.roams,
            config.endpoint.map(Hop::from),
        );
        self.keepalive_ms
            .store(u64::from(config.keepalive_s) * 1_000, Ordering::Relaxed);
    }

    /// An authenticated datagram of `bytes` bytes came from `src`.
    pub(super) fn heard(&self, src: Source, bytes: u64, mono_ms: u64) {
        match src {
            Source::Udp(hop) => self.path.heard_from(hop),
            Source::Relay { region, .. } => self.path.heard_through(region),
        }
        self.marks.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.marks.rx_any_ms.store(mono_ms, Ordering::Relaxed);
        self.marks.unanswered_ms.store(0, Ordering::Relaxed);
    }

    /// Something authenticated was sealed for it.
    pub(super) fn note_sealed(&self, bytes: u64, mono_ms: u64) {
        self.marks.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.marks.tx_any_ms.store(mono_ms, Ordering::Relaxed);
        self.marks.keepalive_due_ms.store(0, Ordering::Relaxed);
    }

    /// That something was data.
    pub(super) fn note_data_sent(&self, mono_ms: u64) {
        self.marks.tx_data_ms.store(mono_ms, Ordering::Relaxed);
        set_if_unset(&self.marks.unanswered_ms, mono_ms);
    }

    /// Whether to tell that data goes to this peer now: the first time, and again no sooner than
    /// `every_ms` later. Of several threads one is told so.
    pub fn tell_active(&self, mono_ms: u64, every_ms: u64) -> bool {
        let told = &self.marks.told_active_ms;
        let last = told.load(Ordering::Relaxed);
        (last == 0 || mono_ms.saturating_sub(last) >= every_ms)
            && told
                .compare_exchange(last, mono_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Forget sessions, handshakes and waiting packets.
    pub(super) fn forget_sessions(&self, state: &mut State, indices: &Indices) {
        let sessions = [
            state.previous.take(),
            state.next.take(),
            self.current.swap(None),
        ];
        sessions
            .iter()
            .flatten()
            .for_each(|session| indices.release(session.local_index));
        state.drop_attempt(indices);
        state.staged.clear();
        state.cookie = None;
        self.marks.keepalive_due_ms.store(0, Ordering::Relaxed);
        self.marks.unanswered_ms.store(0, Ordering::Relaxed);
    }
}

impl State {
    pub(super) fn drop_attempt(&mut self, indices: &Indices) {
        if let Some(sent) = self.attempt.take().and_then(|attempt| attempt.sent) {
            indices.release(sent.index);
        }
    }

    /// Let a packet wait; whether an older one had to go for it.
    pub(super) fn stage(&mut self, packet: &[u8]) -> bool {
        let full = self.staged.len() >= MAX_STAGED;
        if full {
            self.staged.pop_front();
        }
        self.staged.push_back(packet.to_vec());
        full
    }
}
