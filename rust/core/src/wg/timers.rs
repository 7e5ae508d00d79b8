//! Timers (whitepaper §6): every peer that has a session, a handshake under way or a persistent
//! keepalive is looked at; others cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::peer::{Peer, State};
use super::session::Session;
use super::sync::lock;
use super::tunnel::Tunnel;
use super::{GIVE_UP_MS, KEEPALIVE_MS, REJECT_AFTER_MS, REKEY_TIMEOUT_MS, TunnelEvent};
use crate::clock::Now;

/// The earliest of several deadlines, and why.
#[derive(Default)]
struct Earliest(Option<(u64, &'static str)>);

impl Earliest {
    fn add(&mut self, at_ms: u64, why: &'static str) {
        if self.0.is_none_or(|(earliest_ms, _)| at_ms < earliest_ms) {
            self.0 = Some((at_ms, why));
        }
    }
}

impl Tunnel {
    /// Run what is due. Call it at [`next_timeout`](Self::next_timeout), or every 100 to 250 ms.
    pub fn handle_timeout(&self, now: Now) {
        let peers = std::mem::take(&mut *lock(&self.armed));
        let mut earliest = Earliest::default();
        *lock(&self.due) = None;
        let mut kept = Vec::with_capacity(peers.len());
        for peer in peers {
            let mut state = lock(&peer.state);
            self.run_timers(&peer, &mut state, now);
            match next_due(&peer, &state) {
                Some((at_ms, why)) if !state.gone => {
                    earliest.add(at_ms, why);
                    drop(state);
                    kept.push(peer);
                }
                _ => state.armed = false,
            }
        }
        lock(&self.armed).append(&mut kept);
        if let Some((at_ms, why)) = earliest.0 {
            self.bring_forward(at_ms, why);
        }
    }

    /// When something is due next (`mono_ms`), and why. Packets on other threads may bring new
    /// timers, none of which is due sooner than 1 s after the packet.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(u64, &'static str)> {
        *lock(&self.due)
    }

    fn bring_forward(&self, at_ms: u64, why: &'static str) {
        let mut due = lock(&self.due);
        if due.is_none_or(|(due_ms, _)| at_ms < due_ms) {
            *due = Some((at_ms, why));
        }
    }

    /// Look at this peer's timers from now on.
    pub(super) fn arm(&self, peer: &Arc<Peer>, state: &mut State, now: Now) {
        if !state.gone && !state.armed {
            state.armed = true;
            lock(&self.armed).push(peer.clone());
            self.bring_forward(now.mono_ms + 1_000, "a peer became active");
        }
    }

    fn run_timers(&self, peer: &Arc<Peer>, state: &mut State, now: Now) {
        if state.gone {
            return;
        }
        self.expire_sessions(peer, state, now);
        self.retry_handshake(peer, state, now);
        let marks = &peer.marks;
        if is_due(&marks.keepalive_due_ms, 0, now) {
            marks.keepalive_due_ms.store(0, Ordering::Relaxed);
            if let Some(session) = self.sender(peer, now) {
                self.send_keepalive(&session, now);
            }
        }
        // Whitepaper §6.2: data went out and nothing came back, so the session may be dead.
        if is_due(&marks.unanswered_ms, KEEPALIVE_MS + REKEY_TIMEOUT_MS, now) {
            marks.unanswered_ms.store(0, Ordering::Relaxed);
            self.want_handshake(peer, state, now);
        }
        if persistent_due(peer, state).is_some_and(|at_ms| at_ms <= now.mono_ms) {
            state.keepalive_tried_ms = now.mono_ms;
            match self.sender(peer, now) {
                Some(session) => self.send_keepalive(&session, now),
                None if peer.is_held() => {}
                None => self.want_handshake(peer, state, now),
            }
        }
    }

    /// Keys older than 180 s neither seal nor open: they go.
    fn expire_sessions(&self, peer: &Peer, state: &mut State, now: Now) {
        let old = |session: &Arc<Session>| !session.is_fresh(now.mono_ms);
        let expired = [
            state.previous.take_if(|session| old(session)),
            state.next.take_if(|session| old(session)),
            if peer.current.load().as_ref().is_some_and(old) {
                peer.current.swap(None)
            } else {
                None
            },
        ];
        expired
            .iter()
            .flatten()
            .for_each(|session| self.indices.release(session.local_index));
    }

    fn retry_handshake(&self, peer: &Arc<Peer>, state: &mut State, now: Now) {
        let Some(attempt) = &state.attempt else {
            return;
        };
        if now.mono_ms < attempt.retry_ms {
            return;
        }
        if now.mono_ms.saturating_sub(attempt.began_ms) < GIVE_UP_MS {
            self.send_initiation(peer, state, now);
            return;
        }
        state.drop_attempt(&self.indices);
        state.staged.clear();
        peer.marks.unanswered_ms.store(0, Ordering::Relaxed);
        self.tell(TunnelEvent::Unanswered(peer.clone()));
    }
}

fn is_due(mark: &AtomicU64, after_ms: u64, now: Now) -> bool {
    let at_ms = mark.load(Ordering::Relaxed);
    at_ms != 0 && at_ms + after_ms <= now.mono_ms
}

/// When the persistent keepalive is due: so long after the last datagram either way, or the last
/// try.
fn persistent_due(peer: &Peer, state: &State) -> Option<u64> {
    let every_ms = peer.keepalive_ms.load(Ordering::Relaxed);
    if every_ms == 0 || state.attempt.is_some() {
        return None;
    }
    let marks = &peer.marks;
    let (tx_ms, rx_ms) = (
        marks.tx_any_ms.load(Ordering::Relaxed),
        marks.rx_any_ms.load(Ordering::Relaxed),
    );
    let last_ms = tx_ms.max(rx_ms).max(state.keepalive_tried_ms);
    Some(if last_ms == 0 { 0 } else { last_ms + every_ms })
}

/// The next deadline of one peer; None when it has none.
fn next_due(peer: &Peer, state: &State) -> Option<(u64, &'static str)> {
    let mut earliest = Earliest::default();
    if let Some(attempt) = &state.attempt {
        earliest.add(attempt.retry_ms, "retry a handshake");
    }
    let current = peer.current.load();
    let sessions = [
        state.previous.as_ref(),
        state.next.as_ref(),
        current.as_ref(),
    ];
    for session in sessions.into_iter().flatten() {
        earliest.add(session.created_ms + REJECT_AFTER_MS, "forget a session");
    }
    let marked = |mark: &AtomicU64| Some(mark.load(Ordering::Relaxed)).filter(|ms| *ms != 0);
    if let Some(at_ms) = marked(&peer.marks.keepalive_due_ms) {
        earliest.add(at_ms, "send a keepalive");
    }
    if let Some(at_ms) = marked(&peer.marks.unanswered_ms) {
        earliest.add(at_ms + KEEPALIVE_MS + REKEY_TIMEOUT_MS, "nothing came back");
    }
    if let Some(at_ms) = persistent_due(peer, state) {
        earliest.add(at_ms, "send a persistent keepalive");
    }
    earliest.0
}
