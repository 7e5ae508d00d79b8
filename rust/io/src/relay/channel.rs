//! A non-blocking byte stream: a socket, with TLS inside or without.
//!
//! What is read passes through one buffer of the thread; a channel keeps only what was not taken
//! and what the socket did not take, so that an idle client costs no buffer. TLS is driven
//! through rustls' unbuffered interface, which makes the sizes of reads and writes ours.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use crate::derp::{encode_missing, encrypt_missing};

/// Bytes of one read of a socket: what one sender may bring before the next one's turn.
pub(super) const READ_BYTES: usize = 64 << 10;
/// A TLS record with its header at most (RFC 8446 §5.2).
const RECORD_BYTES: usize = 17 << 10;
/// The buffer of a thread: a read behind what was left of the one before.
pub(super) const SCRATCH_BYTES: usize = READ_BYTES + RECORD_BYTES;
/// Buffers for writing that a thread keeps.
const KEPT: usize = 4;
/// A buffer that grew beyond this is not kept.
const KEPT_BYTES: usize = 512 << 10;

/// Why a channel ended: its socket, or bytes that are not TLS.
pub(super) type Failed = io::Error;

/// One connection.
pub(super) struct Channel {
    fd: OwnedFd,
    tls: Option<Box<UnbufferedServerConnection>>,
    /// Records that were not opened yet, because of `plain` or because their end is missing.
    stash: Vec<u8>,
    /// Opened bytes that were not taken yet; they come before those of the stash.
    plain: Vec<u8>,
    out: Out,
    /// The socket may have bytes; it takes bytes. As epoll's edges told.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The other side will send no more; the last bytes may still wait in the socket.
    pub(super) hung_up: bool,
    eof: bool,
    open: bool,
    said_goodbye: bool,
}

/// Bytes on their way to the socket; no memory while there are none.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Channel {
    pub(super) fn new(fd: OwnedFd, tls: Option<Arc<ServerConfig>>) -> Result<Self, Failed> {
        let tls = match tls {
            Some(config) => Some(Box::new(
                UnbufferedServerConnection::new(config).map_err(broken)?,
            )),
            None => None,
        };
        Ok(Self {
            fd,
            open: tls.is_none(),
            tls,
            stash: Vec::new(),
            plain: Vec::new(),
            out: Out::default(),
            readable: true,
            writable: true,
            hung_up: false,
            eof: false,
            said_goodbye: false,
        })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether the TLS handshake is over.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the other side has sent all it will, and all of it was taken.
    pub(super) fn is_finished(&self) -> bool {
        self.eof && self.plain.is_empty()
    }

    /// Whether reading would bring something now.
    pub(super) fn has_input(&self) -> bool {
        !self.plain.is_empty() || (self.readable && !self.eof)
    }

    /// Whether bytes wait for the socket to take them.
    pub(super) fn is_blocked(&self) -> bool {
        self.out.start < self.out.end
    }

    /// Bytes that were read before this channel was made.
    pub(super) fn prepend(&mut self, bytes: &[u8]) {
        self.plain.extend_from_slice(bytes);
    }

    /// Read once and hand what it brings to `take`, which tells how much it took; less than all
    /// ends the turn, and the rest comes first in the next one. Errors of `take` come through.
    pub(super) fn read<E: From<Failed>>(
        &mut self,
        scratch: &mut [u8],
        bench: &mut Bench,
        mut take: impl FnMut(&[u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        if !self.plain.is_empty() {
            let plain = std::mem::take(&mut self.plain);
            let taken = take(&plain)?;
            if taken < plain.len() {
                self.plain = plain;
                self.plain.drain(..taken);
                return Ok(());
            }
        }
        let (used, have) = if self.tls.is_some() {
            let mut have = self.stash.len();
            scratch[..have].copy_from_slice(&self.stash);
            self.stash.clear();
            if have <= RECORD_BYTES {
                have += self.receive(&mut scratch[have..have + READ_BYTES])?;
            }
            (self.open_records(&mut scratch[..have], bench, take)?, have)
        } else {
            let have = self.receive(&mut scratch[..READ_BYTES])?;
            let taken = take(&scratch[..have])?;
            self.plain.extend_from_slice(&scratch[taken..have]);
            (have, have)
        };
        if used < have {
            self.stash.extend_from_slice(&scratch[used..have]);
        } else if self.stash.capacity() > 0 {
            self.stash = Vec::new();
        }
        Ok(())
    }

    fn receive(&mut self, room: &mut [u8]) -> Result<usize, Failed> {
        if self.eof {
            self.readable = false;
        }
        if !self.readable {
            return Ok(0);
        }
        let size = room.len();
        match recv(&self.fd, room, RecvFlags::empty()) {
            Ok((_, 0)) => {
                self.readable = false;
                self.eof = true;
                Ok(0)
            }
            Ok((_, count)) => {
                // A short read has emptied the socket; an end that follows makes a new edge,
                // unless it was there already.
                self.readable = count == size || self.hung_up;
                Ok(count)
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.readable = false;
                Ok(0)
            }
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Open the records in `bytes`; how many bytes are of no more use.
    fn open_records<E: From<Failed>>(
        &mut self,
        bytes: &mut [u8],
        bench: &mut Bench,
        mut take: impl FnMut(&[u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let Some(tls) = &mut self.tls else {
            return Ok(0);
        };
        let mut start = 0;
        loop {
            let UnbufferedStatus {
                mut discard, state, ..
            } = tls.process_tls_records(&mut bytes[start..]);
            let mut more = true;
            let mut failed = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(broken)?;
                        discard += record.discard;
                        let taken = if self.plain.is_empty() {
                            take(record.payload)?
                        } else {
                            0
                        };
                        self.plain.extend_from_slice(&record.payload[taken..]);
                    }
                    more = self.plain.is_empty();
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    self.out
                        .fill(bench, |room| data.encode(room), encode_missing)
                        .map_err(broken)?;
                }
                // What was encoded waits in order in `out`: as good as transmitted.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.open = true;
                    more = false;
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.eof = true;
                    more = false;
                }
                Ok(_) => more = false,
                Err(error) => failed = Some(error),
            }
            start += discard;
            if let Some(error) = failed {
                // What is wrong is said to the other side as an alert, if the socket takes it.
                if let Ok(ConnectionState::EncodeTlsData(mut data)) =
                    tls.process_tls_records(&mut []).state
                {
                    let alert = |room: &mut [u8]| data.encode(room);
                    let _ = self.out.fill(bench, alert, encode_missing);
                }
                let _ = self.flush(bench);
                return Err(broken(error).into());
            }
            if !more {
                return Ok(start);
            }
        }
    }

    /// Put bytes behind what waits for the socket.
    pub(super) fn write(&mut self, plain: &[u8], bench: &mut Bench) -> Result<(), Failed> {
        if plain.is_empty() {
            return Ok(());
        }
        let Some(tls) = &mut self.tls else {
            return self.out.append(bench, plain);
        };
        loop {
            match tls.process_tls_records(&mut []).state.map_err(broken)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let seal = |room: &mut [u8]| traffic.encrypt(plain, room);
                    return self.out.fill(bench, seal, encrypt_missing).map_err(broken);
                }
                // New keys are told first.
                ConnectionState::EncodeTlsData(mut data) => {
                    self.out
                        .fill(bench, |room| data.encode(room), encode_missing)
                        .map_err(broken)?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.eof = true,
                _ => return Err(ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Let the socket take what waits. Whether it took anything.
    pub(super) fn flush(&mut self, bench: &mut Bench) -> Result<bool, Failed> {
        let mut took = false;
        while self.writable && self.is_blocked() {
            let waiting = &self.out.bytes[self.out.start..self.out.end];
            match send(&self.fd, waiting, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.out.start += count;
                    took = true;
                }
                Err(rustix::io::Errno::AGAIN) => self.writable = false,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.is_blocked() {
            self.out.start = 0;
            self.out.end = 0;
            bench.give_back(std::mem::take(&mut self.out.bytes));
        }
        Ok(took)
    }

    /// Say that nothing more will come, once what waits is sent. Later calls do nothing.
    pub(super) fn say_goodbye(&mut self, bench: &mut Bench) {
        if self.said_goodbye {
            return;
        }
        if let Some(tls) = &mut self.tls
            && let Ok(ConnectionState::WriteTraffic(mut traffic)) =
                tls.process_tls_records(&mut []).state
        {
            let seal = |room: &mut [u8]| traffic.queue_close_notify(room);
            let _ = self.out.fill(bench, seal, encrypt_missing);
        }
        let _ = self.flush(bench);
        if !self.is_blocked() {
            self.said_goodbye = true;
            let _ = shutdown(&self.fd, Shutdown::Write);
        }
    }

    /// Read and throw away; whether the other side has closed too.
    pub(super) fn drain(&mut self, scratch: &mut [u8]) -> Result<bool, Failed> {
        self.stash = Vec::new();
        self.plain = Vec::new();
        self.receive(&mut scratch[..READ_BYTES])?;
        Ok(self.eof && self.said_goodbye)
    }
}

impl Out {
    /// Let `fill` write behind what waits; it is called again with the room that it asks for.
    fn fill<E>(
        &mut self,
        bench: &mut Bench,
        mut fill: impl FnMut(&mut [u8]) -> Result<usize, E>,
        missing: impl Fn(&E) -> Option<usize>,
    ) -> Result<(), E> {
        self.begin(bench);
        loop {
            match fill(&mut self.bytes[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) => match missing(&error) {
                    Some(size) => self.make_room(size),
                    None => return Err(error),
                },
            }
        }
    }

    fn append(&mut self, bench: &mut Bench, bytes: &[u8]) -> Result<(), Failed> {
        self.begin(bench);
        if self.bytes.len() - self.end < bytes.len() {
            self.make_room(bytes.len());
        }
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
        Ok(())
    }

    fn begin(&mut self, bench: &mut Bench) {
        if self.bytes.is_empty() {
            self.bytes = bench.spare.pop().unwrap_or_default();
        }
    }

    fn make_room(&mut self, size: usize) {
        let wanted = (self.end + size).next_power_of_two();
        self.bytes.resize(wanted, 0);
    }
}

/// Memory that a thread lends to the channels that write.
#[derive(Default)]
pub(super) struct Bench {
    spare: Vec<Vec<u8>>,
}

impl Bench {
    fn give_back(&mut self, bytes: Vec<u8>) {
        let worth_it = !bytes.is_empty() && bytes.len() <= KEPT_BYTES;
        if worth_it && self.spare.len() < KEPT {
            self.spare.push(bytes);
        }
    }
}

fn broken(error: impl std::fmt::Display) -> Failed {
    Failed::new(ErrorKind::InvalidData, error.to_string())
}
