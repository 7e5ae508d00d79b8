//! The machine's face and its data path; handshakes and timers are rooms of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::cookie::CookieJar;
use super::index::Indices;
use super::keys::{PrivateKey, PublicKey};
use super::load::Load;
use super::peer::{Peer, set_if_unset};
use super::queue::Queue;
use super::session::{Opened, Session};
use super::sync::lock;
use super::tables::{Identity, Registry, Tables};
use super::{
    KEEPALIVE_MS, MAX_EVENTS, MAX_TRANSMITS, OVERHEAD_BYTES, PeerConfig, REJECT_AFTER_MS,
    REKEY_AFTER_MESSAGES, REKEY_AFTER_MS, REKEY_TIMEOUT_MS, RESPONDER_REKEY_AFTER_MS, Source,
    Target, Transmit, TunnelConfig, TunnelEvent,
};
use crate::clock::{Entropy, Now};

/// The machine. Every method may be called from any thread.
pub struct Tunnel {
    pub(super) entropy: Arc<dyn Entropy>,
    tables: ArcSwap<Tables>,
    registry: Mutex<Registry>,
    pub(super) indices: Indices,
    pub(super) jar: CookieJar,
    pub(super) load: Mutex<Load>,
    transmits: Queue<Transmit>,
    events: Queue<TunnelEvent>,
    /// Sessions that packets waited for; at most one for each handshake that ended.
    pub(super) opened: Queue<Arc<Session>>,
    /// Peers that have timers.
    pub(super) armed: Mutex<Vec<Arc<Peer>>>,
    /// When the next timer is due, and why.
    pub(super) due: Mutex<Option<(u64, &'static str)>>,
    dropped: AtomicU64,
}

impl Tunnel {
    /// A tunnel without identity and peers.
    #[must_use]
    pub fn new(config: TunnelConfig, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            entropy,
            tables: ArcSwap::default(),
            registry: Mutex::default(),
            indices: Indices::new(),
            jar: CookieJar::new(),
            load: Mutex::new(Load::new(config.initiations_per_s)),
            transmits: Queue::new(MAX_TRANSMITS),
            events: Queue::new(MAX_EVENTS),
            opened: Queue::new(usize::MAX),
            armed: Mutex::default(),
            due: Mutex::new(None),
            dropped: AtomicU64::new(0),
        }
    }

    /// Who we are. A new key drops every session; the same key changes nothing.
    pub fn set_identity(&self, private: PrivateKey) {
        let identity = Identity::new(private);
        let mut registry = lock(&self.registry);
        if registry
            .identity
            .as_ref()
            .is_some_and(|old| old.public == identity.public)
        {
            return;
        }
        registry.identity = Some(identity.into());
        self.tables.store(registry.tables().into());
        for peer in registry.peers() {
            peer.forget_sessions(&mut lock(&peer.state), &self.indices);
        }
    }

    /// Our public key, once there is an identity.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.tables
            .load()
            .identity
            .as_ref()
            .map(|identity| identity.public)
    }

    /// Add or replace `upsert` by key, then drop `remove`. Sessions of kept keys live on.
    /// A prefix that two peers claim belongs to the one named last.
    pub fn set_peers(&self, upsert: &[PeerConfig], remove: &[PublicKey], now: Now) {
        let mut registry = lock(&self.registry);
        let added: Vec<_> = upsert
            .iter()
            .map(|config| registry.upsert(config))
            .collect();
        let removed: Vec<_> = remove
            .iter()
            .filter_map(|key| registry.remove(key))
            .collect();
        self.tables.store(registry.tables().into());
        drop(registry);
        for peer in added {
            if peer.keepalive_ms.load(Ordering::Relaxed) != 0 {
                self.arm(&peer, &mut lock(&peer.state), now);
            }
        }
        for peer in removed {
            let mut state = lock(&peer.state);
            state.gone = true;
            peer.forget_sessions(&mut state, &self.indices);
        }
    }

    /// Peers and routes now.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// The session that seals for `peer` now. None: [`stage`](Self::stage) the packet.
    #[must_use]
    pub fn sender(&self, peer: &Peer, now: Now) -> Option<Arc<Session>> {
        peer.current
            .load_full()
            .filter(|session| session.is_usable(now.mono_ms))
    }

    /// After sealing a batch of data: counters, timers, and a new handshake when one is due.
    /// `bytes` counts whole datagrams.
    pub fn sent(&self, session: &Session, packets: u32, bytes: u64, now: Now) {
        if packets == 0 {
            return;
        }
        let peer = session.peer();
        peer.note_sealed(bytes, now.mono_ms);
        peer.note_data_sent(now.mono_ms);
        // The initiator renews (whitepaper §6.2). When it has nothing to send it does so late or
        // never, so a sending responder does too, a while later.
        let renew_ms = if session.initiator {
            REKEY_AFTER_MS
        } else {
            RESPONDER_REKEY_AFTER_MS
        };
        if now.mono_ms.saturating_sub(session.created_ms) >= renew_ms
            || session.sealed_messages() >= REKEY_AFTER_MESSAGES
        {
            self.want_handshake(peer, &mut lock(&peer.state), now);
        }
    }

    /// The session that a data message names.
    #[must_use]
    pub fn session(&self, datagram: &[u8]) -> Option<Arc<Session>> {
        if datagram.len() < OVERHEAD_BYTES || datagram[..4] != [4, 0, 0, 0] {
            return None;
        }
        let index = [datagram[4], datagram[5], datagram[6], datagram[7]];
        self.indices.session(u32::from_le_bytes(index))
    }

    /// After a batch of data: counters, timers, roaming, confirmation of a new session. Look at
    /// [`poll_transmit`](Self::poll_transmit) afterwards.
    pub fn received(&self, session: &Arc<Session>, opened: Opened, src: Source, now: Now) {
        if opened.packets == 0 {
            return;
        }
        let peer = session.peer();
        peer.heard(src, opened.bytes, now.mono_ms);
        if opened.data {
            set_if_unset(&peer.marks.keepalive_due_ms, now.mono_ms + KEEPALIVE_MS);
        }
        if !session.confirmed.load(Ordering::Acquire) {
            self.confirm(session, now);
        }
        // Whitepaper §6.2: an initiator that only receives renews just before the end.
        let renew_ms = REJECT_AFTER_MS - KEEPALIVE_MS - REKEY_TIMEOUT_MS;
        if session.initiator
            && opened.data
            && now.mono_ms.saturating_sub(session.created_ms) >= renew_ms
        {
            let mut state = lock(&peer.state);
            if peer
                .current
                .load()
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, session))
            {
                self.want_handshake(peer, &mut state, now);
            }
        }
    }

    /// The next datagram to send, beside [`send_staged`](Self::send_staged); None when there is
    /// none (one atomic load).
    #[must_use]
    pub fn poll_transmit(&self) -> Option<Transmit> {
        self.transmits.pop()
    }

    /// The next thing to tell; None when there is none (one atomic load).
    #[must_use]
    pub fn poll_event(&self) -> Option<TunnelEvent> {
        self.events.pop()
    }

    /// Packets, datagrams and events that a full queue of the machine lost.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn transmit(&self, to: Target, datagram: Vec<u8>) {
        if !self.transmits.push(Transmit { to, datagram }) {
            self.count_dropped();
        }
    }

    pub(super) fn tell(&self, event: TunnelEvent) {
        if !self.events.push(event) {
            self.count_dropped();
        }
    }

    /// Send a datagram without a packet.
    pub(super) fn send_keepalive(&self, session: &Session, now: Now) {
        let mut datagram = vec![0; OVERHEAD_BYTES];
        if session.seal_into(&[], &mut datagram).is_some() {
            let peer = session.peer();
            peer.note_sealed(datagram.len() as u64, now.mono_ms);
            self.transmit(Target::Peer(peer.clone()), datagram);
        }
    }
}

impl Drop for Tunnel {
    /// Sessions and peers hold each other; let go.
    fn drop(&mut self) {
        for peer in lock(&self.registry).peers() {
            let mut state = lock(&peer.state);
            state.gone = true;
            peer.forget_sessions(&mut state, &self.indices);
        }
    }
}
