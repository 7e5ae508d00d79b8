//! Identity, peers and routes of one moment: immutable, swapped whole, off the packet path.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::PeerConfig;
use super::cookie::MacKeys;
use super::keys::{PrivateKey, PublicKey};
use super::peer::Peer;
use crate::routes::{Prefix, Routes};

/// Who we are.
pub(super) struct Identity {
    pub(super) private: PrivateKey,
    pub(super) public: PublicKey,
    /// For handshake messages to us.
    pub(super) macs: MacKeys,
}

impl Identity {
    pub(super) fn new(private: PrivateKey) -> Self {
        let public = private.public();
        Self {
            private,
            public,
            macs: MacKeys::of(&public),
        }
    }
}

/// Peers and routes of one moment; take it once a batch by `Tunnel::tables`.
#[derive(Default)]
pub struct Tables {
    pub(super) identity: Option<Arc<Identity>>,
    peers: HashMap<PublicKey, Arc<Peer>>,
    routes: Routes<Arc<Peer>>,
}

impl Tables {
    /// Whom a packet to `dst` is for: the longest prefix.
    #[must_use]
    pub fn route(&self, dst: IpAddr) -> Option<&Arc<Peer>> {
        self.routes.lookup(dst)
    }

    /// Whether an inbound packet from `src` may come from `peer`: whether a packet to `src`
    /// would go to it.
    #[must_use]
    pub fn allows(&self, peer: &Peer, src: IpAddr) -> bool {
        self.route(src)
            .is_some_and(|routed| std::ptr::eq(routed.as_ref(), peer))
    }

    /// The peer with this key.
    #[must_use]
    pub fn peer(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.peers.get(key)
    }

    /// Every peer, in no order.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }
}

/// What tables are built from; behind the writer's lock.
#[derive(Default)]
pub(super) struct Registry {
    pub(super) identity: Option<Arc<Identity>>,
    entries: HashMap<PublicKey, Entry>,
    /// Counts changes, so that a prefix belongs to the peer that was named last.
    changes: u64,
}

struct Entry {
    peer: Arc<Peer>,
    prefixes: Vec<Prefix>,
    changed: u64,
}

impl Registry {
    /// Add or change one peer.
    pub(super) fn upsert(&mut self, config: &PeerConfig) -> Arc<Peer> {
        self.changes += 1;
        let entry = self.entries.entry(config.key).or_insert_with(|| Entry {
            peer: Arc::new(Peer::new(config.key)),
            prefixes: Vec::new(),
            changed: 0,
        });
        entry.changed = self.changes;
        entry.prefixes.clone_from(&config.allowed_ips);
        entry.peer.configure(config);
        entry.peer.clone()
    }

    pub(super) fn remove(&mut self, key: &PublicKey) -> Option<Arc<Peer>> {
        self.entries.remove(key).map(|entry| entry.peer)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.entries.values().map(|entry| &entry.peer)
    }

    pub(super) fn tables(&self) -> Tables {
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.sort_unstable_by_key(|entry| entry.changed);
        Tables {
            identity: self.identity.clone(),
            peers: entries
                .iter()
                .map(|e| (*e.peer.key(), e.peer.clone()))
                .collect(),
            routes: Routes::new(entries.iter().flat_map(|entry| {
                entry
                    .prefixes
                    .iter()
                    .map(|prefix| (*prefix, entry.peer.clone()))
            })),
        }
    }
}
