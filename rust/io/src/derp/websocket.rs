//! DERP inside WebSocket (RFC 6455, PROTOCOL §4.1), for networks whose middleboxes know HTTP and
//! let no other upgrade pass.
//!
//! The framing is tungstenite's. It wants something to read and write; it gets a [`Pipe`], so that
//! the socket and its TLS stay with [`super::stream`]: bytes go in, bytes come out.

use std::io::{self, ErrorKind, Read, Write};

use tungstenite::client::client_with_config;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::http::Uri;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Bytes, ClientRequestBuilder, Error, Message};

const SUBPROTOCOL: &str = "derp";
/// A message holds some frames of DERP at most; no peer needs more.
const MAX_MESSAGE: usize = 2 << 20;
const READ_BUFFER: usize = 16 << 10;

/// What lies between tungstenite and the stream below it.
#[derive(Default)]
struct Pipe {
    incoming: Vec<u8>,
    start: usize,
    outgoing: Vec<u8>,
}

impl Pipe {
    fn feed(&mut self, bytes: &[u8]) {
        self.incoming.drain(..self.start);
        self.start = 0;
        self.incoming.extend_from_slice(bytes);
    }
}

impl Read for Pipe {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let waiting = &self.incoming[self.start..];
        if waiting.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = waiting.len().min(room.len());
        room[..count].copy_from_slice(&waiting[..count]);
        self.start += count;
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The opening handshake.
pub(super) struct Opening(MidHandshake<ClientHandshake<Pipe>>);

impl Opening {
    /// Begin; `host` is that of the Host header.
    pub(super) fn start(host: &str) -> io::Result<Self> {
        let uri: Uri = format!("ws://{host}/derp").parse().map_err(broken)?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        match client_with_config(request, Pipe::default(), Some(config)) {
            Err(HandshakeError::Interrupted(waiting)) => Ok(Self(waiting)),
            Err(HandshakeError::Failure(error)) => Err(broken(error)),
            Ok(_) => Err(broken("it answered before it was asked")),
        }
    }

    /// Take what is to be sent.
    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0.get_mut().get_mut().outgoing)
    }

    /// Take what came; the WebSocket once it is open. What came behind the answer is in it.
    pub(super) fn receive(mut self, bytes: &[u8]) -> io::Result<Result<WebSocket, Self>> {
        self.0.get_mut().get_mut().feed(bytes);
        match self.0.handshake() {
            Ok((inner, _)) => Ok(Ok(WebSocket(inner))),
            Err(HandshakeError::Interrupted(waiting)) => Ok(Err(Self(waiting))),
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(broken(format!(
                "a WebSocket was refused with {}",
                answer.status().as_u16()
            ))),
            Err(HandshakeError::Failure(error)) => Err(broken(error)),
        }
    }
}

/// An open WebSocket. Borders of messages mean nothing in either direction.
pub(super) struct WebSocket(tungstenite::WebSocket<Pipe>);

impl WebSocket {
    /// Take bytes from below; [`drain`](Self::drain) gives what is inside.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.0.get_mut().feed(bytes);
    }

    /// Hand the bytes of whole messages to `take`. The end of the WebSocket is `UnexpectedEof`.
    pub(super) fn drain(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            match self.0.read() {
                Ok(Message::Binary(bytes)) => take(&bytes),
                Ok(Message::Text(_)) => return Err(broken("text came over the WebSocket")),
                Ok(Message::Close(_)) => return Err(ErrorKind::UnexpectedEof.into()),
                // Pings are answered by what is taken as outgoing next.
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Err(error) => return Err(broken(error)),
            }
        }
    }

    /// Make bytes a message; [`take_outgoing`](Self::take_outgoing) gives it framed.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0
            .send(Message::Binary(Bytes::copy_from_slice(bytes)))
            .map_err(broken)
    }

    /// Take what is to be sent below.
    pub(super) fn take_outgoing(&mut self) -> io::Result<Vec<u8>> {
        match self.0.flush() {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
            Err(error) => return Err(broken(error)),
        }
        Ok(std::mem::take(&mut self.0.get_mut().outgoing))
    }
}

fn broken(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str =
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";

    fn opening() -> (Opening, String) {
        let mut opening = Opening::start("relay.test").unwrap();
        let request = String::from_utf8(opening.take_outgoing()).unwrap();
        assert!(request.starts_with("GET /derp HTTP/1.1\r\n"), "{request}");
        let header = |name: &str| {
            let line = request
                .lines()
                .find(|l| l.to_lowercase().starts_with(name))
                .unwrap();
            line.split_once(": ").unwrap().1.to_owned()
        };
        assert_eq!(header("host"), "relay.test");
        assert_eq!(header("sec-websocket-protocol"), "derp");
        let key = header("sec-websocket-key");
        (
            opening,
            tungstenite::handshake::derive_accept_key(key.as_bytes()),
        )
    }

    fn open() -> WebSocket {
        let (opening, accept) = opening();
        let answer = format!("{ANSWER}{accept}\r\nSec-WebSocket-Protocol: derp\r\n\r\n");
        let (first, rest) = answer.split_at(40);
        let Err(opening) = opening.receive(first.as_bytes()).unwrap() else {
            panic!("the answer is not whole")
        };
        // A first message comes in the same piece as the rest of the answer.
        let bytes = [rest.as_bytes(), b"\x82\x02hi"].concat();
        match opening.receive(&bytes).unwrap() {
            Ok(open) => open,
            Err(_) => panic!("the answer is whole"),
        }
    }

    fn drained(websocket: &mut WebSocket) -> io::Result<Vec<u8>> {
        let mut got = Vec::new();
        websocket
            .drain(&mut |bytes| got.extend_from_slice(bytes))
            .map(|()| got)
    }

    #[test]
    fn bytes_pass_and_borders_do_not_matter() {
        let mut websocket = open();
        assert_eq!(drained(&mut websocket).unwrap(), b"hi");
        for byte in b"\x02\x03abc\x80\x01d" {
            websocket.feed(&[*byte]);
        }
        assert_eq!(drained(&mut websocket).unwrap(), b"abcd");
        websocket.feed(b"\x89\x01p");
        assert_eq!(drained(&mut websocket).unwrap(), b"");
        let pong = websocket.take_outgoing().unwrap();
        assert_eq!(pong[..2], [0x8a, 0x81], "masked, as a client's frames are");
        websocket.send(b"out").unwrap();
        assert_eq!(websocket.take_outgoing().unwrap()[..2], [0x82, 0x83]);
        websocket.feed(b"\x88\x02\x03\xe8");
        assert_eq!(
            drained(&mut websocket).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
        assert_eq!(websocket.take_outgoing().unwrap()[..1], [0x88]);
    }

    #[test]
    fn what_is_no_websocket_is_an_error() {
        let mut websocket = open();
        for bad in [
            b"\x81\x02hi".as_slice(),                               // text
            b"\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff".as_slice(), // 2 GiB
            b"\xf2\x00".as_slice(),                                 // reserved bits
            b"\x82\x82aaaahi".as_slice(),                           // masked by a server
        ] {
            let mut fresh = std::mem::replace(&mut websocket, open());
            fresh.feed(bad);
            assert_eq!(
                drained(&mut fresh).unwrap_err().kind(),
                ErrorKind::InvalidData
            );
        }
        let (_, accept) = opening();
        for bad in [
            "HTTP/1.1 403 Forbidden\r\n\r\n".to_owned(),
            "SSH-2.0-what\r\n\r\n".to_owned(),
            format!("{ANSWER}{accept}\r\nSec-WebSocket-Protocol: derp\r\n\r\n"), // another key's
            "HTTP/1.1 101 X\r\n\r\n".to_owned(),
        ] {
            let (opening, _) = opening();
            assert!(opening.receive(bad.as_bytes()).is_err(), "{bad}");
        }
        let (opening, accept) = opening();
        let other = format!("{ANSWER}{accept}\r\n\r\n");
        assert!(opening.receive(other.as_bytes()).is_err(), "no subprotocol");
    }
}
