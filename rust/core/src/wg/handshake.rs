//! Handshakes: who begins one, what an initiation, a response and a cookie reply do
//! (whitepaper §5.4, §6).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cookie::{COOKIE_REPLY_BYTES, is_cookie_fresh};
use super::noise::{
    self, Accepted, INITIATION_NOISE_BYTES, RESPONSE_NOISE_BYTES, TransportKeys, timestamp,
    timestamp_after,
};
use super::peer::{Attempt, Peer, SentInitiation, State};
use super::session::{Session, SessionFacts};
use super::sync::lock;
use super::tables::Identity;
use super::tunnel::Tunnel;
use super::{
    JITTER_MS, MIN_INITIATION_GAP_MS, REKEY_TIMEOUT_MS, Refused, Source, Target, TunnelEvent,
};
use crate::clock::Now;
use crate::demux::{WireGuard, wireguard_kind};

const INITIATION_BYTES: usize = 8 + INITIATION_NOISE_BYTES + 32;
const RESPONSE_BYTES: usize = 12 + RESPONSE_NOISE_BYTES + 32;

impl Tunnel {
    /// An initiation, response or cookie reply. Look at
    /// [`poll_transmit`](Self::poll_transmit) afterwards.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn receive_handshake(&self, datagram: &[u8], src: Source, now: Now) -> Result<(), Refused> {
        let tables = self.tables();
        let identity = tables.identity.as_deref().ok_or(Refused::BadMac)?;
        match wireguard_kind(datagram) {
            Some(WireGuard::Initiation) => {
                let accepted = self.judge_initiation(identity, datagram, src, now)?;
                let peer = tables.peer(&accepted.peer).ok_or(Refused::UnknownPeer)?;
                self.answer(peer, accepted, datagram, src, now)
            }
            Some(WireGuard::Response) => {
                identity.macs.check(datagram)?;
                self.receive_response(datagram, src, now)
            }
            Some(WireGuard::CookieReply) => self.receive_cookie(datagram, now),
            Some(WireGuard::Data) | None => Err(Refused::Malformed),
        }
    }

    /// Macs, load and cookies before the dear part; then who sends it.
    fn judge_initiation(
        &self,
        identity: &Identity,
        datagram: &[u8],
        src: Source,
        now: Now,
    ) -> Result<Accepted, Refused> {
        identity.macs.check(datagram)?;
        if lock(&self.load).count(now.mono_ms) {
            if !self.jar.proves_address(datagram, &src, now.mono_ms) {
                let reply =
                    self.jar
                        .reply(&identity.macs, datagram, &src, now.mono_ms, &self.entropy);
                if let Some(reply) = reply {
                    self.transmit(Target::Source(src), reply.to_vec());
                }
                return Err(Refused::UnderLoad);
            }
            if !lock(&self.load).admit(&src, now.mono_ms) {
                return Err(Refused::UnderLoad);
            }
        }
        let body = array::<INITIATION_NOISE_BYTES>(datagram, 8)?;
        noise::accept(&identity.private, &body, &self.entropy)
    }

    /// Answer an initiation of a known peer: the session is its `next` until it is used.
    fn answer(
        &self,
        peer: &Arc<Peer>,
        accepted: Accepted,
        datagram: &[u8],
        src: Source,
        now: Now,
    ) -> Result<(), Refused> {
        let mut state = lock(&peer.state);
        if state.gone {
            return Err(Refused::UnknownPeer);
        }
        let replayed = state
            .newest_timestamp
            .is_some_and(|newest| accepted.timestamp <= newest);
        let flooding = state
            .accepted_ms
            .is_some_and(|at| now.mono_ms.saturating_sub(at) < MIN_INITIATION_GAP_MS);
        if replayed || flooding {
            return Err(Refused::StaleInitiation);
        }
        state.newest_timestamp = Some(accepted.timestamp);
        state.accepted_ms = Some(now.mono_ms);
        let index = self
            .indices
            .reserve(peer, &self.entropy)
            .ok_or(Refused::UnderLoad)?;
        let remote_index = u32::from_le_bytes(array(datagram, 4)?);
        let (body, keys) = match accepted.respond() {
            Ok(done) => done,
            Err(refused) => {
                self.indices.release(index);
                return Err(refused);
            }
        };
        let Some(session) = self.new_session(peer, (index, remote_index), false, &keys, now) else {
            return Err(Refused::Malformed);
        };
        if let Some(unused) = state.next.replace(session) {
            self.indices.release(unused.local_index);
        }
        let mut response = vec![0; RESPONSE_BYTES];
        response[0] = 2;
        response[4..8].copy_from_slice(&index.to_le_bytes());
        response[8..12].copy_from_slice(&remote_index.to_le_bytes());
        response[12..12 + body.len()].copy_from_slice(&body);
        peer.heard(src, datagram.len() as u64, now.mono_ms);
        self.sign_and_transmit(peer, &mut state, response, now);
        self.arm(peer, &mut state, now);
        Ok(())
    }

    /// The answer to our initiation: the session is `current` at once.
    fn receive_response(&self, datagram: &[u8], src: Source, now: Now) -> Result<(), Refused> {
        let index = u32::from_le_bytes(array(datagram, 8)?);
        let peer = self.indices.peer(index).ok_or(Refused::NoSession)?;
        let mut state = lock(&peer.state);
        let sent = state
            .attempt
            .as_mut()
            .and_then(|attempt| attempt.sent.as_mut())
            .filter(|sent| sent.index == index)
            .ok_or(Refused::NoSession)?;
        let keys = sent.noise.finish(&array(datagram, 12)?)?;
        // Taken out, not dropped: the index is the session's from now on.
        state.attempt = None;
        let remote_index = u32::from_le_bytes(array(datagram, 4)?);
        let session = self
            .new_session(&peer, (index, remote_index), true, &keys, now)
            .ok_or(Refused::Malformed)?;
        let waiting = self.hold(&session, &state);
        let current = peer.current.swap(Some(session.clone()));
        // When both sides began at once, both sessions live: theirs opens, ours seals.
        let (previous, unused) = match state.next.take() {
            Some(next) => (Some(next), current),
            None => (current, None),
        };
        let older = std::mem::replace(&mut state.previous, previous);
        [unused, older]
            .iter()
            .flatten()
            .for_each(|old| self.indices.release(old.local_index));
        peer.heard(src, datagram.len() as u64, now.mono_ms);
        self.established(&session, &mut state, now);
        // The responder may not send before it hears from us.
        if !waiting {
            self.send_keepalive(&session, now);
        }
        Ok(())
    }

    /// The peer used the keys of a session that we answered with: it is `current` now.
    pub(super) fn confirm(&self, session: &Arc<Session>, now: Now) {
        let peer = session.peer();
        let mut state = lock(&peer.state);
        session.confirmed.store(true, Ordering::Release);
        if !state
            .next
            .as_ref()
            .is_some_and(|next| Arc::ptr_eq(next, session))
        {
            return;
        }
        state.next = None;
        self.hold(session, &state);
        let current = peer.current.swap(Some(session.clone()));
        if let Some(older) = std::mem::replace(&mut state.previous, current) {
            self.indices.release(older.local_index);
        }
        // An attempt of our own under way is needless now.
        state.drop_attempt(&self.indices);
        self.established(session, &mut state, now);
    }

    fn established(&self, session: &Arc<Session>, state: &mut State, now: Now) {
        let peer = session.peer();
        peer.marks
            .handshake_ms
            .store(now.mono_ms, Ordering::Relaxed);
        self.tell(TunnelEvent::Handshake(peer.clone()));
        self.arm(peer, state, now);
    }

    /// A cookie for our next try; the try itself waits for its time (whitepaper §6.6).
    fn receive_cookie(&self, datagram: &[u8], now: Now) -> Result<(), Refused> {
        let index = u32::from_le_bytes(array(datagram, 4)?);
        let peer = self.indices.peer(index).ok_or(Refused::NoSession)?;
        let mut state = lock(&peer.state);
        let mac1 = state.sent_mac1.ok_or(Refused::NoSession)?;
        let reply = array::<COOKIE_REPLY_BYTES>(datagram, 0)?;
        state.cookie = Some((peer.macs.open_cookie(&reply, &mac1)?, now.mono_ms));
        Ok(())
    }

    /// Begin a handshake unless one is under way. At most one initiation goes out every 5 s.
    pub(super) fn want_handshake(&self, peer: &Arc<Peer>, state: &mut State, now: Now) {
        if state.gone || state.attempt.is_some() {
            return;
        }
        let earliest_ms = state.initiated_ms.map_or(0, |at| at + REKEY_TIMEOUT_MS);
        state.attempt = Some(Attempt {
            began_ms: now.mono_ms,
            retry_ms: earliest_ms,
            sent: None,
        });
        if earliest_ms <= now.mono_ms {
            self.send_initiation(peer, state, now);
        }
        self.arm(peer, state, now);
    }

    /// Send a (new) initiation for the attempt under way, and say when to try again.
    pub(super) fn send_initiation(&self, peer: &Arc<Peer>, state: &mut State, now: Now) {
        let Some(began_ms) = state.attempt.as_ref().map(|attempt| attempt.began_ms) else {
            return;
        };
        state.drop_attempt(&self.indices);
        let mut jitter = [0; 2];
        self.entropy.fill(&mut jitter);
        let retry_ms =
            now.mono_ms + REKEY_TIMEOUT_MS + u64::from(u16::from_le_bytes(jitter)) % JITTER_MS;
        let sent = self.write_initiation(peer, state, now);
        state.attempt = Some(Attempt {
            began_ms,
            retry_ms,
            sent,
        });
    }

    fn write_initiation(
        &self,
        peer: &Arc<Peer>,
        state: &mut State,
        now: Now,
    ) -> Option<SentInitiation> {
        let tables = self.tables();
        let identity = tables.identity.as_deref()?;
        let stamp = match state.sent_timestamp {
            Some(last) => timestamp(now.wall).max(timestamp_after(last)),
            None => timestamp(now.wall),
        };
        let (noise, body) =
            noise::initiate(&identity.private, peer.key(), stamp, &self.entropy).ok()?;
        let index = self.indices.reserve(peer, &self.entropy)?;
        state.sent_timestamp = Some(stamp);
        state.initiated_ms = Some(now.mono_ms);
        let mut initiation = vec![0; INITIATION_BYTES];
        initiation[0] = 1;
        initiation[4..8].copy_from_slice(&index.to_le_bytes());
        initiation[8..8 + body.len()].copy_from_slice(&body);
        self.sign_and_transmit(peer, state, initiation, now);
        Some(SentInitiation { index, noise })
    }

    fn sign_and_transmit(
        &self,
        peer: &Arc<Peer>,
        state: &mut State,
        mut message: Vec<u8>,
        now: Now,
    ) {
        let cookie = state
            .cookie
            .as_ref()
            .filter(|(_, at_ms)| is_cookie_fresh(*at_ms, now.mono_ms))
            .map(|(cookie, _)| cookie);
        state.sent_mac1 = Some(peer.macs.sign(&mut message, cookie));
        peer.marks
            .tx_bytes
            .fetch_add(message.len() as u64, Ordering::Relaxed);
        peer.marks.tx_any_ms.store(now.mono_ms, Ordering::Relaxed);
        self.transmit(Target::Peer(peer.clone()), message);
    }

    /// A session for reserved indices (ours, theirs); on None the index is free again.
    fn new_session(
        &self,
        peer: &Arc<Peer>,
        (local_index, remote_index): (u32, u32),
        initiator: bool,
        keys: &TransportKeys,
        now: Now,
    ) -> Option<Arc<Session>> {
        let facts = SessionFacts {
            peer: peer.clone(),
            local_index,
            remote_index,
            created_ms: now.mono_ms,
            initiator,
        };
        let session = Session::new(facts, keys).map(Arc::new);
        match &session {
            Some(session) => self.indices.assign(session),
            None => self.indices.release(local_index),
        }
        session
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Refused> {
    bytes
        .get(at..at + N)
        .and_then(|part| part.try_into().ok())
        .ok_or(Refused::Malformed)
}
