//! A thread of the relay: its connections, their turns, and what they owe to each other.
//!
//! A connection belongs to one thread for its life. Its turn is one read; what that brings goes
//! into the outboxes of other clients, whichever thread they belong to, and their threads are
//! told once. Then outboxes are served: many frames a record, many records a write.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::event::Event as Ready;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use warren_core::derp::serve::{GONE_DISCONNECTED, peer_gone_frame};
use warren_core::relay::outbox::Taken;
use warren_core::relay::seam::Event;

use super::channel::{Channel, SCRATCH_BYTES};
use super::conn::{Conn, End, Stage};
use super::outgoing::Desk;
use super::shared::{Message, Place, Shared, count};

/// The token of a thread's waker; connections have two each, from 0 on.
pub(super) const WAKE: Token = Token(usize::MAX);
const LISTENERS: usize = usize::MAX / 2;
const MAX_SLOTS: usize = 1 << 24;
/// Bytes that are read before outboxes are served.
const ROUND_BYTES: usize = 256 << 10;

/// A TLS port.
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) ready: bool,
}

/// A thread's state.
pub(super) struct Worker {
    pub(super) poll: Poll,
    pub(super) desk: Desk,
    pub(super) conns: Vec<Option<Conn>>,
    pub(super) free: Vec<u32>,
    pub(super) turns: u32,
    pub(super) ready: VecDeque<u32>,
    pub(super) listeners: Vec<Listener>,
    /// Connections that have not said what they want, oldest first, and how many those are.
    pub(super) lobby: VecDeque<Place>,
    pub(super) waiting: usize,
    pub(super) scratch: Vec<u8>,
    pub(super) gather: Vec<u8>,
    pub(super) taken: Taken,
    pub(super) next_sweep: Instant,
}

impl Worker {
    pub(super) fn new(poll: Poll, shared: Arc<Shared>, index: u8) -> Self {
        let now = Instant::now();
        Self {
            poll,
            desk: Desk::new(shared, index, now),
            conns: Vec::new(),
            free: Vec::new(),
            turns: 0,
            ready: VecDeque::new(),
            listeners: Vec::new(),
            lobby: VecDeque::new(),
            waiting: 0,
            scratch: vec![0; SCRATCH_BYTES],
            gather: Vec::new(),
            taken: Taken::default(),
            next_sweep: now,
        }
    }

    /// Serve until told to quit.
    pub(super) fn run(mut self) -> io::Result<()> {
        let shared = self.desk.shared.clone();
        let mailbox = &shared.mailboxes[usize::from(self.desk.index)];
        let mut events = Events::with_capacity(512);
        let mut messages = Vec::new();
        loop {
            let idle = self.ready.is_empty()
                && self.desk.dirty.is_empty()
                && !self.listeners.iter().any(|listener| listener.ready);
            let timeout = if idle && mailbox.may_sleep() {
                self.sleep()
            } else {
                Some(Duration::ZERO)
            };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            self.desk.now = Instant::now();
            for event in &events {
                self.note(event);
            }
            mailbox.collect(&mut messages);
            for message in messages.drain(..) {
                if matches!(message, Message::Quit) {
                    return Ok(());
                }
                self.handle(message);
            }
            self.accept();
            self.take_turns();
            self.serve_outboxes();
            self.give_up_holding();
            if self.desk.now >= self.next_sweep {
                self.sweep();
            }
            self.post();
        }
    }

    fn sleep(&self) -> Option<Duration> {
        let hold_ends = self.desk.held.peek().map(|Reverse((until, _))| *until);
        let sweep = (self.conns.len() > self.free.len()).then_some(self.next_sweep);
        let first = [hold_ends, sweep].into_iter().flatten().min()?;
        // epoll counts whole milliseconds.
        Some(first.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn note(&mut self, event: &Ready) {
        let Token(token) = event.token();
        if event.token() == WAKE {
            return;
        }
        if token >= LISTENERS {
            if let Some(listener) = self.listeners.get_mut(token - LISTENERS) {
                listener.ready = true;
            }
            return;
        }
        let failed = event.is_error();
        let (readable, writable) = (event.is_readable() || failed, event.is_writable() || failed);
        let hung_up = event.is_read_closed() || failed;
        let slot = token / 2;
        let Some(Some(conn)) = self.conns.get_mut(slot) else {
            return;
        };
        if token % 2 == 0 {
            conn.channel.readable |= readable;
            conn.channel.writable |= writable;
            conn.channel.hung_up |= hung_up;
        } else if let Stage::Guest(guest) = &mut conn.stage {
            guest.readable |= readable;
            guest.writable |= writable;
            guest.hung_up |= hung_up;
        }
        self.enqueue(slot as u32);
    }

    pub(super) fn enqueue(&mut self, slot: u32) {
        if let Some(Some(conn)) = self.conns.get_mut(slot as usize)
            && !std::mem::replace(&mut conn.queued, true)
        {
            self.ready.push_back(slot);
        }
    }

    pub(super) fn find(&mut self, place: Place) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(place.slot as usize)?.as_mut()?;
        (conn.turn == place.turn).then_some(conn)
    }

    pub(super) fn place(&self, slot: u32, turn: u32) -> Place {
        Place {
            worker: self.desk.index,
            slot,
            turn,
        }
    }

    // What others say.

    fn handle(&mut self, message: Message) {
        match message {
            Message::Listen(fd) => {
                let token = Token(LISTENERS + self.listeners.len());
                let registry = self.poll.registry();
                let raw = fd.as_raw_fd();
                let _ = registry.register(&mut SourceFd(&raw), token, Interest::READABLE);
                self.listeners.push(Listener { fd, ready: true });
            }
            Message::Accepted(fd, source) => self.greet(fd, source),
            Message::Adopted {
                fd,
                rest,
                fast_start,
            } => self.adopt(fd, &rest, fast_start),
            Message::Admit(place, admitted) => self.admit(place, admitted),
            Message::Kick(place) => {
                if self.find(place).is_some() {
                    self.with(place.slot, |worker, slot, conn| {
                        worker.end(slot, conn);
                        Ok(())
                    });
                }
            }
            Message::Flush(slot) => self.desk.dirty.push(slot),
            Message::Release(place) => self.resume(place),
            Message::Inherit(place, reached) => {
                let roster = self.desk.shared.clone();
                if let Some(conn) = self.find(place)
                    && let Stage::Member(_, member) = &mut conn.stage
                {
                    for key in reached {
                        if let Some(peer) = roster.roster.find(&key) {
                            member.reached.entry(key).or_insert(peer);
                        }
                    }
                }
            }
            Message::Stop(farewell) => self.stop(&farewell),
            Message::Quit => {}
        }
    }

    pub(super) fn resume(&mut self, place: Place) {
        if let Some(conn) = self.find(place)
            && let Stage::Member(_, member) = &mut conn.stage
            && member.blocked.take().is_some()
        {
            self.enqueue(place.slot);
        }
    }

    fn stop(&mut self, farewell: &[u8]) {
        self.listeners.clear();
        for slot in 0..self.conns.len() as u32 {
            self.with(slot, |worker, slot, conn| {
                match &conn.stage {
                    Stage::Member(_, member) => {
                        let peer = member.peer.clone();
                        worker.desk.tell(&peer, farewell);
                        worker.end(slot, conn);
                    }
                    Stage::Guest(_) | Stage::Ending => {}
                    _ => return Err(End::Failed),
                }
                Ok(())
            });
        }
    }

    // How connections begin and end.

    /// A connection that was counted in `loads` has not come to be.
    pub(super) fn lose(&self) {
        let load = &self.desk.shared.loads[usize::from(self.desk.index)];
        load.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn insert(
        &mut self,
        fd: OwnedFd,
        tls: Option<Arc<rustls::ServerConfig>>,
        stage: Stage,
        source: String,
    ) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.conns.len() < MAX_SLOTS => {
                self.conns.push(None);
                self.conns.len() as u32 - 1
            }
            None => {
                self.lose();
                return None;
            }
        };
        let made = Channel::new(fd, tls).and_then(|channel| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let raw = channel.raw_fd();
            self.poll.registry().register(
                &mut SourceFd(&raw),
                Token(slot as usize * 2),
                interest,
            )?;
            Ok(channel)
        });
        let Ok(channel) = made else {
            self.free.push(slot);
            self.lose();
            return None;
        };
        self.turns = self.turns.wrapping_add(1);
        self.conns[slot as usize] = Some(Conn {
            turn: self.turns,
            channel,
            stage,
            since: self.desk.now,
            progress: self.desk.now,
            queued: false,
            source,
        });
        self.enqueue(slot);
        Some(slot)
    }

    /// Let `act` have a connection; it goes on, ends politely, or is dropped.
    pub(super) fn with(
        &mut self,
        slot: u32,
        act: impl FnOnce(&mut Self, u32, &mut Conn) -> Result<(), End>,
    ) {
        let Some(mut conn) = self.conns.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        let was_waiting = matches!(conn.stage, Stage::Head(_));
        let outcome = act(self, slot, &mut conn);
        let gone = match outcome {
            Ok(()) => false,
            Err(End::Malformed) => {
                count(&self.desk.counters().malformed_clients, 1);
                self.end(slot, &mut conn);
                false
            }
            Err(End::Failed) => true,
        };
        if was_waiting && (gone || !matches!(conn.stage, Stage::Head(_))) {
            self.waiting -= 1;
        }
        if gone {
            self.leave(slot, &mut conn);
            drop(conn);
            self.free.push(slot);
            self.lose();
            return;
        }
        let again = conn.wants_turn();
        self.conns[slot as usize] = Some(conn);
        if again {
            self.enqueue(slot);
        }
    }

    /// What was written leaves, then the connection closes.
    pub(super) fn end(&mut self, slot: u32, conn: &mut Conn) {
        if matches!(conn.stage, Stage::Ending) {
            return;
        }
        if let Stage::Member(_, member) = &conn.stage {
            let peer = member.peer.clone();
            let _ = self.write_outbox(conn, &peer);
        }
        self.leave(slot, conn);
        conn.stage = Stage::Ending;
        conn.since = self.desk.now;
        conn.channel.say_goodbye(&mut self.desk.bench);
    }

    /// Take a client out of the roster, and tell who has to know.
    pub(super) fn leave(&mut self, slot: u32, conn: &mut Conn) {
        let client = self.place(slot, conn.turn).number();
        match std::mem::replace(&mut conn.stage, Stage::Ending) {
            Stage::Asked { .. } => self.desk.shared.events.tell(Event::Left { client }),
            Stage::Member(_, member) => {
                let peer = &member.peer;
                let held = peer.outbox.lock().close();
                held.into_iter()
                    .for_each(|sender| self.desk.release(sender));
                if let Some((other, _)) = &member.blocked {
                    other.outbox.lock().give_up(client);
                }
                match self.desk.shared.roster.leave(peer) {
                    Some(twin) => {
                        let reached = member.reached.into_keys().collect();
                        let message = Message::Inherit(twin.place, reached);
                        if twin.place.worker == self.desk.index {
                            self.handle(message);
                        } else {
                            self.desk.tell_worker(twin.place.worker, message);
                        }
                    }
                    None => {
                        let gone = peer_gone_frame(&peer.key, GONE_DISCONNECTED);
                        for key in member.reached.keys() {
                            if let Some(peer) = self.desk.shared.roster.find(key) {
                                self.desk.tell(&peer, &gone);
                            }
                        }
                    }
                }
                self.desk.shared.events.tell(Event::Left { client });
            }
            _ => {}
        }
    }

    // Turns.

    fn take_turns(&mut self) {
        let mut bytes = 0;
        for _ in 0..self.ready.len() {
            let Some(slot) = self.ready.pop_front() else {
                break;
            };
            self.with(slot, |worker, slot, conn| {
                conn.queued = false;
                worker.take_turn(slot, conn)
            });
            bytes += super::channel::READ_BYTES;
            if bytes >= ROUND_BYTES {
                bytes = 0;
                self.serve_outboxes();
                self.post();
            }
        }
    }

    pub(super) fn take_turn(&mut self, slot: u32, conn: &mut Conn) -> Result<(), End> {
        let was_blocked = conn.channel.is_blocked();
        if was_blocked && conn.channel.flush(&mut self.desk.bench)? {
            conn.progress = self.desk.now;
        }
        match &mut conn.stage {
            Stage::Head(_) => self.read_head(slot, conn),
            Stage::Login(_) => self.read_login(slot, conn),
            Stage::Asked { .. } => Ok(()),
            Stage::Member(cutter, member) => {
                if member.blocked.is_none() && conn.channel.has_input() {
                    member.heard = self.desk.now;
                    let mut bench = std::mem::take(&mut self.desk.bench);
                    let desk = &mut self.desk;
                    let read = conn.channel.read(&mut self.scratch, &mut bench, |bytes| {
                        let each = |kind, payload: &[u8]| member.receive(kind, payload, desk);
                        cutter.feed(bytes, each).map_err(End::from)
                    });
                    self.desk.bench = bench;
                    read?;
                    if conn.channel.is_finished() {
                        return Err(End::Failed);
                    }
                    conn.channel.flush(&mut self.desk.bench)?;
                }
                if was_blocked && !conn.channel.is_blocked() {
                    self.desk.dirty.push(slot);
                }
                Ok(())
            }
            Stage::Guest(guest) => {
                let bench = &mut self.desk.bench;
                if guest.pump(&mut conn.channel, &mut self.scratch, bench)? {
                    self.end(slot, conn);
                } else if !conn.channel.is_blocked() {
                    conn.progress = self.desk.now;
                }
                Ok(())
            }
            Stage::Ending => {
                conn.channel.say_goodbye(&mut self.desk.bench);
                if conn.channel.drain(&mut self.scratch)? {
                    return Err(End::Failed);
                }
                Ok(())
            }
        }
    }
}
