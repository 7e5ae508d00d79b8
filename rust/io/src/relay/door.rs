//! How a connection becomes what it is: accepted, TLS, the request's head, the login, admission.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, socketpair};
use warren_core::derp::RawKey;
use warren_core::derp::serve::{
    MAX_CLIENT_PAYLOAD, MAX_LOGIN_PAYLOAD, Wish, parse_login_untrusted, parse_wish_untrusted,
    server_info_frame, server_key_frame, switching_response,
};
use warren_core::relay::cutter::Cutter;
use warren_core::relay::outbox::{Limits, Outbox};
use warren_core::relay::seam::Event;
use warren_core::seam::Key;

use super::conn::{Conn, End, Guest, Member, Stage};
use super::shared::{Message, Peer, Place, count};
use super::sockets::{keep_little_unsent, prepare};
use super::worker::Worker;

/// Connections that are accepted before others have their turn.
const ACCEPTS: usize = 64;

impl Worker {
    pub(super) fn accept(&mut self) {
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                let listener = &mut self.listeners[at];
                if !listener.ready {
                    break;
                }
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                match acceptfrom_with(&listener.fd, flags) {
                    Ok((fd, address)) => {
                        let source = address
                            .and_then(|address| std::net::SocketAddr::try_from(address).ok())
                            .map_or(String::new(), |address| address.to_string());
                        self.assign(fd, source);
                    }
                    Err(rustix::io::Errno::AGAIN) => listener.ready = false,
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                    Err(_) => {
                        // No descriptors or no memory: the next sweep tries again.
                        listener.ready = false;
                        count(&self.desk.counters().dropped_connections, 1);
                        break;
                    }
                }
            }
        }
    }

    pub(super) fn assign(&mut self, fd: OwnedFd, source: String) {
        let worker = self.desk.shared.least_loaded();
        if worker == self.desk.index {
            self.greet(fd, source);
        } else {
            self.desk.tell_worker(worker, Message::Accepted(fd, source));
        }
    }

    pub(super) fn greet(&mut self, fd: OwnedFd, source: String) {
        prepare(&fd);
        let Some(config) = self.desk.shared.certificates.config() else {
            self.lose();
            return;
        };
        let Some(slot) = self.insert(fd, Some(config), Stage::Head(Vec::new()), source) else {
            return;
        };
        self.waiting += 1;
        let turn = self.turns;
        self.lobby.push_back(self.place(slot, turn));
        let workers = self.desk.shared.mailboxes.len();
        let most = (self.desk.shared.config.max_waiting as usize).div_ceil(workers);
        while self.waiting > most.max(1) {
            let Some(oldest) = self.lobby.pop_front() else {
                break;
            };
            if self.is_in_lobby(oldest) {
                count(&self.desk.counters().dropped_connections, 1);
                self.with(oldest.slot, |_, _, _| Err(End::Failed));
            }
        }
        if self.lobby.len() > 2 * most + 16 {
            let lobby = std::mem::take(&mut self.lobby);
            let still = lobby.into_iter().filter(|place| self.is_in_lobby(*place));
            self.lobby = still.collect();
        }
    }

    pub(super) fn is_in_lobby(&self, place: Place) -> bool {
        let conn = self.conns.get(place.slot as usize);
        let conn = conn.and_then(Option::as_ref);
        conn.is_some_and(|conn| conn.turn == place.turn && matches!(conn.stage, Stage::Head(_)))
    }

    pub(super) fn adopt(&mut self, fd: OwnedFd, rest: &[u8], fast_start: bool) {
        prepare(&fd);
        let stage = Stage::Login(Cutter::new(MAX_LOGIN_PAYLOAD));
        if let Some(slot) = self.insert(fd, None, stage, String::new()) {
            self.with(slot, |worker, _, conn| {
                worker.begin_derp(conn, rest, fast_start)
            });
        }
    }

    pub(super) fn read_head(&mut self, slot: u32, conn: &mut Conn) -> Result<(), End> {
        let Stage::Head(head) = &mut conn.stage else {
            return Ok(());
        };
        let was_open = conn.channel.is_open();
        let mut wish = Wish::Unclear;
        conn.channel
            .read(&mut self.scratch, &mut self.desk.bench, |bytes| {
                head.extend_from_slice(bytes);
                wish = parse_wish_untrusted(head);
                Ok::<_, End>(bytes.len())
            })?;
        conn.channel.flush(&mut self.desk.bench)?;
        if conn.channel.is_open() && !was_open {
            conn.since = self.desk.now;
        }
        let head = std::mem::take(head);
        match wish {
            Wish::Derp {
                head_bytes,
                fast_start,
            } if self.desk.shared.config.derp => {
                conn.stage = Stage::Login(Cutter::new(MAX_LOGIN_PAYLOAD));
                conn.since = self.desk.now;
                self.begin_derp(conn, &head[head_bytes..], fast_start)
            }
            Wish::Unclear if conn.channel.is_finished() => Err(End::Failed),
            Wish::Unclear => {
                conn.stage = Stage::Head(head);
                Ok(())
            }
            _ => self.hand_over(slot, conn, head),
        }
    }

    pub(super) fn hand_over(
        &mut self,
        slot: u32,
        conn: &mut Conn,
        head: Vec<u8>,
    ) -> Result<(), End> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(io::Error::from)?;
        let raw = ours.as_raw_fd();
        self.poll.registry().register(
            &mut SourceFd(&raw),
            Token(slot as usize * 2 + 1),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let source = std::mem::take(&mut conn.source);
        if !self.desk.shared.events.hand_over(theirs, source) {
            count(&self.desk.counters().dropped_connections, 1);
            return Err(End::Failed);
        }
        conn.stage = Stage::Guest(Guest::new(ours, head));
        conn.since = self.desk.now;
        self.take_turn(slot, conn)
    }

    pub(super) fn begin_derp(
        &mut self,
        conn: &mut Conn,
        rest: &[u8],
        fast_start: bool,
    ) -> Result<(), End> {
        let key = self.desk.shared.public_key;
        let mut hello = Vec::new();
        if !fast_start {
            hello = switching_response(&key);
        }
        hello.extend(server_key_frame(&key));
        conn.channel.prepend(rest);
        conn.channel.write(&hello, &mut self.desk.bench)?;
        conn.channel.flush(&mut self.desk.bench)?;
        Ok(())
    }

    pub(super) fn read_login(&mut self, slot: u32, conn: &mut Conn) -> Result<(), End> {
        let client = self.place(slot, conn.turn).number();
        let Stage::Login(cutter) = &mut conn.stage else {
            return Ok(());
        };
        let private = *self.desk.shared.config.private_key;
        let mut found = None;
        conn.channel
            .read(&mut self.scratch, &mut self.desk.bench, |bytes| {
                if found.is_some() {
                    return Ok::<_, End>(0);
                }
                let taken = cutter.feed(bytes, |kind, payload| {
                    found = Some(parse_login_untrusted(kind, payload, &private)?);
                    Ok(false)
                })?;
                Ok(taken)
            })?;
        conn.channel.flush(&mut self.desk.bench)?;
        let Some((key, info)) = found else {
            return if conn.channel.is_finished() {
                Err(End::Failed)
            } else {
                Ok(())
            };
        };
        let cutter = std::mem::replace(cutter, Cutter::new(0));
        conn.stage = Stage::Asked {
            cutter,
            key,
            can_ack: info.can_ack_pings,
        };
        let key = Key::new(key);
        self.desk.shared.events.tell(Event::Login { client, key });
        Ok(())
    }

    pub(super) fn admit(&mut self, place: Place, admitted: bool) {
        if self.find(place).is_none() {
            return;
        }
        self.with(place.slot, |worker, slot, conn| {
            let Stage::Asked {
                cutter,
                key,
                can_ack,
            } = &mut conn.stage
            else {
                return Ok(());
            };
            if !admitted {
                worker.end(slot, conn);
                return Ok(());
            }
            let (key, can_ack) = (*key, *can_ack);
            let mut cutter = std::mem::replace(cutter, Cutter::new(0));
            cutter.set_max_payload(MAX_CLIENT_PAYLOAD);
            worker.welcome(conn, place, cutter, key, can_ack)
        });
    }

    pub(super) fn welcome(
        &mut self,
        conn: &mut Conn,
        place: Place,
        cutter: Cutter,
        key: RawKey,
        can_ack: bool,
    ) -> Result<(), End> {
        let shared = self.desk.shared.clone();
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let info = server_info_frame(&shared.config.private_key, &key, &nonce);
        let limits = Limits {
            pair_bytes: shared.config.pair_bytes as usize,
            client_bytes: shared.config.client_bytes as usize,
        };
        let peer = Arc::new(Peer {
            key,
            place,
            active: false.into(),
            outbox: Outbox::new(limits).into(),
        });
        keep_little_unsent(conn.channel.fd());
        let now = self.desk.now;
        let member = Member::new(peer.clone(), can_ack, now, self.keep_alive_at());
        conn.stage = Stage::Member(cutter, Box::new(member));
        conn.since = now;
        conn.progress = now;
        // A client that reads that it is in may tell others at once: it is found from now on. What
        // they send waits in its outbox, which this thread empties after this.
        shared.roster.join(&peer);
        conn.channel.write(&info, &mut self.desk.bench)?;
        conn.channel.flush(&mut self.desk.bench)?;
        Ok(())
    }
}
