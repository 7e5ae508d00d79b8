//! Receiver indices: 32 random bits that name a handshake or session of ours on the wire.
//!
//! The low bits are a slot in a fixed table, the rest is compared. A lookup is one atomic load;
//! finding a free slot takes a lock, and happens once a handshake.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;

use super::peer::Peer;
use super::session::Session;
use super::sync::lock;
use crate::clock::Entropy;

/// A peer has up to four indices at once (previous, current and next session, and a handshake).
const SLOTS: usize = 1 << 16;
const TRIES: usize = 256;

/// What an index stands for.
#[derive(Debug)]
pub(super) struct Entry {
    index: u32,
    pub(super) peer: Arc<Peer>,
    /// None while our initiation waits for its response.
    pub(super) session: Option<Arc<Session>>,
}

pub(super) struct Indices {
    slots: Box<[ArcSwapOption<Entry>]>,
    changing: Mutex<()>,
}

impl Indices {
    pub(super) fn new() -> Self {
        Self {
            slots: std::iter::repeat_with(ArcSwapOption::empty)
                .take(SLOTS)
                .collect(),
            changing: Mutex::new(()),
        }
    }

    fn slot(&self, index: u32) -> &ArcSwapOption<Entry> {
        &self.slots[index as usize % SLOTS]
    }

    /// Take a free index for a handshake with `peer`; None when (almost) all are taken.
    pub(super) fn reserve(&self, peer: &Arc<Peer>, entropy: &Arc<dyn Entropy>) -> Option<u32> {
        let _changing = lock(&self.changing);
        for _ in 0..TRIES {
            let mut bytes = [0; 4];
            entropy.fill(&mut bytes);
            let index = u32::from_le_bytes(bytes);
            if self.slot(index).load().is_none() {
                let entry = Entry {
                    index,
                    peer: peer.clone(),
                    session: None,
                };
                self.slot(index).store(Some(entry.into()));
                return Some(index);
            }
        }
        None
    }

    /// The reserved index now names this session.
    pub(super) fn assign(&self, session: &Arc<Session>) {
        let _changing = lock(&self.changing);
        let index = session.local_index;
        let entry = Entry {
            index,
            peer: session.peer().clone(),
            session: Some(session.clone()),
        };
        self.slot(index).store(Some(entry.into()));
    }

    /// Free an index; does nothing if it is someone else's by now.
    pub(super) fn release(&self, index: u32) {
        let _changing = lock(&self.changing);
        if self
            .slot(index)
            .load()
            .as_ref()
            .is_some_and(|entry| entry.index == index)
        {
            self.slot(index).store(None);
        }
    }

    pub(super) fn session(&self, index: u32) -> Option<Arc<Session>> {
        self.slot(index)
            .load()
            .as_ref()
            .filter(|entry| entry.index == index)?
            .session
            .clone()
    }

    /// Whose index this is.
    pub(super) fn peer(&self, index: u32) -> Option<Arc<Peer>> {
        let entry = self.slot(index).load();
        entry
            .as_ref()
            .filter(|entry| entry.index == index)
            .map(|entry| entry.peer.clone())
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.load().is_some())
            .count()
    }
}
