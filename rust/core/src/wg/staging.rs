//! Packets that wait for a session, and how they leave before any that came after them.
//!
//! A session is `current` from the moment its handshake ends, while what waited for it is still to
//! be sealed and sent. Until that is done the session is held back: [`Tunnel::sender`] does not
//! give it, and a thread with the next packet meets the peer's lock in [`Tunnel::stage`], which the
//! thread that sends keeps until the last of the waiting has left.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::peer::{Peer, State};
use super::session::Session;
use super::sync::lock;
use super::tunnel::Tunnel;
use crate::clock::Now;

/// A peer without a session, open for packets that wait for one.
pub struct Staging<'a> {
    tunnel: &'a Tunnel,
    state: MutexGuard<'a, State>,
}

impl Staging<'_> {
    /// Keep a packet behind those that wait already; when they are too many, the oldest goes and
    /// is counted.
    pub fn keep(&mut self, packet: &[u8]) {
        if !self.state.gone && self.state.stage(packet) {
            self.tunnel.count_dropped();
        }
    }
}

impl Tunnel {
    /// Shake hands, and have packets of `peer` wait; after [`sender`](Self::sender) gave no
    /// session. Look at [`poll_transmit`](Self::poll_transmit) afterwards.
    ///
    /// # Errors
    /// The session that stands by now: seal with it, all packets before have left.
    pub fn stage<'a>(&'a self, peer: &'a Arc<Peer>, now: Now) -> Result<Staging<'a>, Arc<Session>> {
        let mut state = lock(&peer.state);
        if let Some(session) = self.sender(peer, now) {
            return Err(session);
        }
        if !peer.is_held() {
            self.want_handshake(peer, &mut state, now);
        }
        Ok(Staging {
            tunnel: self,
            state,
        })
    }

    /// Hold `session` back if packets wait for it; before it becomes `current`. Whether any do.
    pub(super) fn hold(&self, session: &Arc<Session>, state: &State) -> bool {
        let waiting = !state.staged.is_empty();
        if waiting {
            session.held.store(true, Ordering::Release);
            self.opened.push(session.clone());
        }
        waiting
    }

    /// Seal what waited for sessions that stand now and hand each datagram to `send`, in order;
    /// `send` must not call the tunnel. Costs one atomic load when nothing waited.
    pub fn send_staged(&self, now: Now, mut send: impl FnMut(&Arc<Peer>, &[u8])) {
        let mut datagram = Vec::new();
        while let Some(session) = self.opened.pop() {
            let peer = session.peer();
            let mut state = lock(&peer.state);
            for packet in state.staged.drain(..) {
                datagram.clear();
                datagram.resize(Session::sealed_len(packet.len()), 0);
                if let Some(len) = session.seal_into(&packet, &mut datagram) {
                    peer.note_sealed(len as u64, now.mono_ms);
                    peer.note_data_sent(now.mono_ms);
                    send(peer, &datagram[..len]);
                }
            }
            session.held.store(false, Ordering::Release);
        }
    }
}
