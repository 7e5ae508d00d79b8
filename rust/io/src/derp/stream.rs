//! A non-blocking byte stream to a relay: TCP, with TLS inside or without, and perhaps a
//! WebSocket inside that.
//!
//! TLS is driven through rustls' unbuffered interface, so that the sizes of reads and writes are
//! ours: one read of the socket takes many records, one write carries many frames.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig};

use super::room::{encode_missing, encrypt_missing};
use super::websocket::WebSocket;

/// Room for what comes in; a TLS record has at most 16.3 KiB.
const INCOMING_BYTES: usize = 128 << 10;
/// Outgoing room that is kept when all is written.
const OUTGOING_KEPT_BYTES: usize = 512 << 10;

/// One connection. Nothing in it blocks; [`fd`](Self::fd) tells when to come back.
pub(crate) struct Stream {
    socket: TcpStream,
    tls: Option<UnbufferedClientConnection>,
    incoming: Vec<u8>,
    in_start: usize,
    in_end: usize,
    outgoing: Outgoing,
    websocket: Option<WebSocket>,
    open: bool,
    closed: bool,
}

/// Bytes on their way to the socket.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outgoing {
    /// Let `fill` write behind what waits; it is called again with the room that it asks for.
    fn fill<E>(
        &mut self,
        mut fill: impl FnMut(&mut [u8]) -> Result<usize, E>,
        missing: impl Fn(&E) -> Option<usize>,
    ) -> Result<(), E> {
        loop {
            match fill(&mut self.bytes[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) => match missing(&error) {
                    Some(size) => self.bytes.resize(self.end + size, 0),
                    None => return Err(error),
                },
            }
        }
    }
}

fn broken(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.to_string())
}

/// What is wrong with the server's certificate, in words; other errors of TLS as they are.
fn distrusted(error: rustls::Error) -> io::Error {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            broken("its certificate is not the pinned one")
        }
        rustls::Error::InvalidCertificate(why) => {
            broken(format!("its certificate is not to be trusted: {why}"))
        }
        other => broken(other),
    }
}

impl Stream {
    /// Wrap a connected, non-blocking socket; `tls` is the configuration and the server's name.
    pub(crate) fn new(
        socket: TcpStream,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> io::Result<Self> {
        let tls = match tls {
            Some((config, name)) => {
                Some(UnbufferedClientConnection::new(config, name).map_err(broken)?)
            }
            None => None,
        };
        Ok(Self {
            socket,
            open: tls.is_none(),
            tls,
            incoming: vec![0; INCOMING_BYTES],
            in_start: 0,
            in_end: 0,
            outgoing: Outgoing::default(),
            websocket: None,
            closed: false,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether this machine no longer has the address that the connection comes from: then the
    /// connection is dead, and only its other end does not know.
    pub(crate) fn has_lost_its_address(&self) -> bool {
        let Ok(mut local) = self.socket.local_addr() else {
            return false;
        };
        local.set_port(0);
        matches!(UdpSocket::bind(local), Err(error) if error.kind() == ErrorKind::AddrNotAvailable)
    }

    /// Whether the other end's kernel acknowledged something within `last`.
    pub(crate) fn is_acknowledged(&self, last: Duration) -> bool {
        tcp_info(&self.socket)
            .is_ok_and(|info| Duration::from_millis(info.tcpi_last_ack_recv.into()) < last)
    }

    /// Whether application data may be sent: at once without TLS, else after its handshake.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether bytes wait for the socket to take them.
    pub(crate) fn is_blocked(&self) -> bool {
        self.outgoing.start < self.outgoing.end
    }

    /// The server's certificates, leaf first; empty without TLS or before they came.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        self.tls
            .as_ref()
            .and_then(|tls| tls.peer_certificates())
            .unwrap_or_default()
    }

    /// Begin the TLS handshake, if there is one.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        self.drive(&mut |_| {}, None)?;
        self.flush()
    }

    /// From now on everything goes through `websocket`; what waits in it is handed to `take`.
    pub(super) fn enter(
        &mut self,
        mut websocket: WebSocket,
        take: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        websocket.drain(take)?;
        self.websocket = Some(websocket);
        Ok(())
    }

    /// Read the socket once and hand the plain bytes to `take`, in order, perhaps in pieces.
    ///
    /// Gives how many bytes came from the socket; 0 when none wait. The end of the stream is
    /// `UnexpectedEof`.
    pub(crate) fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let Some(mut websocket) = self.websocket.take() else {
            return self.receive_outer(take);
        };
        let received = self.receive_outer(&mut |bytes| websocket.feed(bytes));
        let drained = websocket.drain(take);
        let replies = websocket.take_outgoing()?;
        if !replies.is_empty() {
            self.queue_outer(&replies)?;
            self.flush()?;
        }
        self.websocket = Some(websocket);
        drained?;
        received
    }

    fn receive_outer(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        if self.in_start > 0 {
            self.incoming.copy_within(self.in_start..self.in_end, 0);
            self.in_end -= self.in_start;
            self.in_start = 0;
        }
        if self.in_end == self.incoming.len() {
            return Err(broken("the relay sent a TLS message without end"));
        }
        let count = match self.socket.read(&mut self.incoming[self.in_end..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if is_transient(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        self.in_end += count;
        if self.tls.is_some() {
            self.drive(take, None)?;
            if self.is_blocked() {
                self.flush()?;
            }
        } else {
            take(&self.incoming[..self.in_end]);
            self.in_end = 0;
        }
        if self.closed {
            Err(ErrorKind::UnexpectedEof.into())
        } else {
            Ok(count)
        }
    }

    /// Queue plain bytes for sending; [`flush`](Self::flush) writes them.
    pub(crate) fn queue(&mut self, plain: &[u8]) -> io::Result<()> {
        if let Some(websocket) = &mut self.websocket {
            websocket.send(plain)?;
            let framed = websocket.take_outgoing()?;
            return self.queue_outer(&framed);
        }
        self.queue_outer(plain)
    }

    fn queue_outer(&mut self, plain: &[u8]) -> io::Result<()> {
        if self.tls.is_some() {
            return self.drive(&mut |_| {}, Some(plain));
        }
        let out = &mut self.outgoing;
        out.bytes.truncate(out.end);
        out.bytes.extend_from_slice(plain);
        out.end = out.bytes.len();
        Ok(())
    }

    /// Write as much as the socket takes; [`is_blocked`](Self::is_blocked) tells if some is left.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let out = &mut self.outgoing;
        while out.start < out.end {
            match self.socket.write(&out.bytes[out.start..out.end]) {
                Ok(count) => out.start += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        out.start = 0;
        out.end = 0;
        if out.bytes.len() > OUTGOING_KEPT_BYTES {
            *out = Outgoing::default();
        }
        Ok(())
    }

    /// Say goodbye in TLS, as far as the socket takes it at once.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            let status = tls.process_tls_records(&mut []);
            if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state {
                let close = |room: &mut [u8]| traffic.queue_close_notify(room);
                let _ = self.outgoing.fill(close, encrypt_missing);
            }
        }
        let _ = self.flush();
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Run the TLS machine until it wants input; encrypt `plain` on the way when it allows that.
    fn drive(&mut self, take: &mut dyn FnMut(&[u8]), mut plain: Option<&[u8]>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        loop {
            let UnbufferedStatus {
                mut discard, state, ..
            } = tls.process_tls_records(&mut self.incoming[self.in_start..self.in_end]);
            let mut more = true;
            match state.map_err(distrusted)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(broken)?;
                        discard += record.discard;
                        take(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    self.outgoing
                        .fill(|room| data.encode(room), encode_missing)
                        .map_err(broken)?;
                }
                // What was encoded waits in order in `outgoing`: as good as transmitted.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    self.open = true;
                    more = false;
                    if let Some(plain) = plain.take() {
                        let encrypt = |room: &mut [u8]| traffic.encrypt(plain, room);
                        self.outgoing
                            .fill(encrypt, encrypt_missing)
                            .map_err(broken)?;
                    }
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.closed = true;
                    more = false;
                }
                _ => more = false,
            }
            self.in_start += discard;
            if !more {
                return Ok(());
            }
        }
    }
}

/// A socket's error in words for a person, without the system's number.
pub(crate) fn words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "the relay closed the connection".to_owned()
        }
        ErrorKind::TimedOut => "the relay does not answer any more".to_owned(),
        _ => {
            let text = error.to_string();
            match text.split_once(" (os error") {
                Some((text, _)) => text.to_lowercase(),
                None => text,
            }
        }
    }
}

/// What the kernel knows of a connection (tcp(7), TCP_INFO).
fn tcp_info(socket: &TcpStream) -> io::Result<libc::tcp_info> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of what `info` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result == 0 {
        // SAFETY: all its fields are integers, and it was zeroed before the kernel wrote to it.
        Ok(unsafe { info.assume_init() })
    } else {
        Err(io::Error::last_os_error())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
