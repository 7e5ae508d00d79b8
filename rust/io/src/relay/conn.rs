//! One connection and what it is at the moment: a request's head, a login, a client, or a guest
//! whose bytes are Python's.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use warren_core::derp::frames::{PONG, looks_like_disco, push_frame};
use warren_core::derp::serve::{
    ClientFrame, GONE_NOT_HERE, parse_client_frame_untrusted, peer_gone_frame,
};
use warren_core::derp::{MalformedDerp, RawKey};
use warren_core::relay::cutter::Cutter;
use warren_core::relay::outbox::Verdict;
use warren_core::relay::patience::Patience;

use super::channel::{Bench, Channel, Failed, READ_BYTES};
use super::outgoing::Desk;
use super::shared::{Peer, count};

/// How many peers a client is remembered to have sent to, for the notice when it goes.
const MAX_REACHED: usize = 20_000;
/// How often a client is told that a peer is not here (PROTOCOL §4.3).
const NOT_HERE_PER_S: f64 = 1.0;
const NOT_HERE_BURST: f64 = 3.0;

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// The other side, the socket or TLS.
    Failed,
    /// It broke the protocol.
    Malformed,
}

impl From<Failed> for End {
    fn from(_: Failed) -> Self {
        Self::Failed
    }
}

impl From<MalformedDerp> for End {
    fn from(_: MalformedDerp) -> Self {
        Self::Malformed
    }
}

/// A connection.
pub(super) struct Conn {
    /// Which of its place's connections this is.
    pub(super) turn: u32,
    pub(super) channel: Channel,
    pub(super) stage: Stage,
    /// Since when it is what it is.
    pub(super) since: Instant,
    /// When its socket last took bytes, or nothing waited for it.
    pub(super) progress: Instant,
    /// Whether it waits for its turn.
    pub(super) queued: bool,
    /// Where it comes from, for Python.
    pub(super) source: String,
}

/// What a connection is.
pub(super) enum Stage {
    /// From a TLS port, with as much of its request's head as has come.
    Head(Vec<u8>),
    /// ClientInfo is due.
    Login(Cutter),
    /// Python thinks about it; nothing is read.
    Asked {
        cutter: Cutter,
        key: RawKey,
        can_ack: bool,
    },
    /// A client.
    Member(Cutter, Box<Member>),
    /// Not DERP: its bytes go to Python and back.
    Guest(Guest),
    /// What was written leaves; what comes is thrown away.
    Ending,
}

impl Conn {
    /// Whether a turn would do something now.
    pub(super) fn wants_turn(&self) -> bool {
        match &self.stage {
            Stage::Head(_) | Stage::Login(_) => self.channel.has_input(),
            Stage::Asked { .. } => false,
            Stage::Member(_, member) => member.blocked.is_none() && self.channel.has_input(),
            Stage::Guest(guest) => {
                (guest.up.is_empty() && self.channel.has_input())
                    || (guest.readable && !self.channel.is_blocked())
            }
            Stage::Ending => self.channel.readable,
        }
    }
}

/// A client that was admitted.
pub(super) struct Member {
    pub(super) peer: Arc<Peer>,
    /// Peers that it has sent to, as they were last found.
    pub(super) reached: HashMap<RawKey, Arc<Peer>>,
    /// For whom it is held, and until when at most.
    pub(super) blocked: Option<(Arc<Peer>, Instant)>,
    pub(super) patience: Patience,
    pub(super) can_ack: bool,
    pub(super) heard: Instant,
    pub(super) keep_alive_at: Instant,
    not_here_tokens: f64,
    not_here_at: Instant,
}

impl Member {
    pub(super) fn new(
        peer: Arc<Peer>,
        can_ack: bool,
        now: Instant,
        keep_alive_at: Instant,
    ) -> Self {
        Self {
            peer,
            reached: HashMap::new(),
            blocked: None,
            patience: Patience::default(),
            can_ack,
            heard: now,
            keep_alive_at,
            not_here_tokens: NOT_HERE_BURST,
            not_here_at: now,
        }
    }

    /// Take a frame; whether to go on with the next one.
    pub(super) fn receive(
        &mut self,
        kind: u8,
        payload: &[u8],
        desk: &mut Desk,
    ) -> Result<bool, MalformedDerp> {
        match parse_client_frame_untrusted(kind, payload)? {
            ClientFrame::Send { dst, packet } => return Ok(self.forward(dst, packet, desk)),
            ClientFrame::Ping(data) => {
                let mut pong = Vec::new();
                push_frame(&mut pong, PONG, &[&data]);
                desk.tell(&self.peer, &pong);
            }
            ClientFrame::NotePreferred(_) => self.activate(desk),
            ClientFrame::Other(_) => {}
        }
        Ok(true)
    }

    fn activate(&self, desk: &Desk) {
        if !self.peer.active.load(Ordering::Relaxed) {
            desk.shared.roster.activate(&self.peer);
        }
    }

    fn forward(&mut self, dst: &RawKey, packet: &[u8], desk: &mut Desk) -> bool {
        self.activate(desk);
        let known = self.reached.get(dst);
        let peer = match known.filter(|peer| peer.active.load(Ordering::Relaxed)) {
            Some(peer) => peer.clone(),
            None => {
                let Some(peer) = desk.shared.roster.find(dst) else {
                    count(&desk.counters().dropped_unknown, 1);
                    if looks_like_disco(packet) {
                        self.tell_not_here(dst, desk);
                    }
                    return true;
                };
                if self.reached.len() < MAX_REACHED || self.reached.contains_key(dst) {
                    self.reached.insert(*dst, peer.clone());
                }
                peer
            }
        };
        let sender = self.peer.place.number();
        let pushed = peer
            .outbox
            .lock()
            .push(sender, &self.peer.key, packet, &mut desk.pool);
        if pushed.wake {
            desk.wake(peer.place);
        }
        let counters = desk.counters();
        count(&counters.dropped_full, pushed.dropped.into());
        match pushed.verdict {
            Verdict::Taken | Verdict::Hold => {
                count(&counters.packets, 1);
                count(&counters.bytes, packet.len() as u64);
            }
            Verdict::NoRoom => count(&counters.dropped_full, 1),
            Verdict::Closed => count(&counters.dropped_unknown, 1),
        }
        if pushed.verdict == Verdict::Hold {
            count(&counters.held_senders, 1);
            let most = Duration::from_millis(desk.shared.config.hold_ms);
            let until = desk.now + self.patience.hold(desk.now, most);
            desk.held.push(Reverse((until, self.peer.place)));
            self.blocked = Some((peer, until));
            return false;
        }
        true
    }

    /// Answer disco for an absent peer, but not more often than the wire allows.
    fn tell_not_here(&mut self, dst: &RawKey, desk: &mut Desk) {
        let elapsed = desk.now.saturating_duration_since(self.not_here_at);
        self.not_here_at = desk.now;
        self.not_here_tokens =
            NOT_HERE_BURST.min(self.not_here_tokens + elapsed.as_secs_f64() * NOT_HERE_PER_S);
        if self.not_here_tokens >= 1.0 {
            self.not_here_tokens -= 1.0;
            desk.tell(&self.peer, &peer_gone_frame(dst, GONE_NOT_HERE));
        }
    }

    /// Forget peers that are gone.
    pub(super) fn tidy(&mut self, desk: &Desk) {
        let roster = &desk.shared.roster;
        self.reached.retain(|key, peer| {
            peer.active.load(Ordering::Relaxed)
                || roster.find(key).map(|found| *peer = found).is_some()
        });
    }
}

/// A connection whose opened bytes go to Python over a pair of sockets.
pub(super) struct Guest {
    pub(super) pair: OwnedFd,
    /// As epoll's edges told.
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) hung_up: bool,
    /// Bytes that the pair did not take yet.
    pub(super) up: Vec<u8>,
    told_end: bool,
}

impl Guest {
    pub(super) fn new(pair: OwnedFd, head: Vec<u8>) -> Self {
        Self {
            pair,
            readable: true,
            writable: true,
            hung_up: false,
            up: head,
            told_end: false,
        }
    }

    /// Move bytes both ways; whether Python has closed its end.
    pub(super) fn pump(
        &mut self,
        channel: &mut Channel,
        scratch: &mut [u8],
        bench: &mut Bench,
    ) -> Result<bool, End> {
        self.push_up()?;
        if self.up.is_empty() && channel.has_input() {
            channel.read(scratch, bench, |bytes| {
                if !self.up.is_empty() {
                    return Ok::<_, End>(0);
                }
                self.up.extend_from_slice(bytes);
                self.push_up()?;
                Ok(bytes.len())
            })?;
        }
        if channel.is_finished() && self.up.is_empty() && !self.told_end {
            self.told_end = true;
            let _ = shutdown(&self.pair, Shutdown::Write);
        }
        if self.readable && !channel.is_blocked() {
            match recv(&self.pair, &mut scratch[..READ_BYTES], RecvFlags::empty()) {
                Ok((_, 0)) => return Ok(true),
                Ok((_, size)) => {
                    self.readable = size == READ_BYTES || self.hung_up;
                    channel.write(&scratch[..size], bench)?;
                    channel.flush(bench)?;
                }
                Err(rustix::io::Errno::AGAIN) => self.readable = false,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    fn push_up(&mut self) -> Result<(), End> {
        while self.writable && !self.up.is_empty() {
            match send(&self.pair, &self.up, SendFlags::NOSIGNAL) {
                Ok(size) => {
                    self.up.drain(..size);
                }
                Err(rustix::io::Errno::AGAIN) => self.writable = false,
                Err(rustix::io::Errno::INTR) => {}
                // Python has closed; what it wrote before is still to be read.
                Err(_) => self.up.clear(),
            }
        }
        Ok(())
    }
}
