//! DERP frames (PROTOCOL §4.2): `type u8 ‖ length u32 big endian ‖ payload`.

use super::{MalformedDerp, RawKey};

/// Bytes of a frame before its payload.
pub const HEADER_LEN: usize = 5;
/// The longest packet that a relay forwards.
pub const MAX_PACKET: usize = 64 << 10;
/// A client refuses frames with more payload than this.
pub const MAX_CLIENT_FRAME: usize = 1 << 20;
/// What ServerKey begins with: "DERP" and a key sign.
pub const MAGIC: [u8; 8] = *b"DERP\xf0\x9f\x94\x91";
/// What a disco message begins with (PROTOCOL §5.1).
const DISCO_MAGIC: &[u8; 6] = b"TS\xf0\x9f\x92\xac";

/// Server: its magic and public key.
pub const SERVER_KEY: u8 = 0x01;
/// Client: its public key and a box.
pub const CLIENT_INFO: u8 = 0x02;
/// Server: a box.
pub const SERVER_INFO: u8 = 0x03;
/// Client: destination key and packet.
pub const SEND_PACKET: u8 = 0x04;
/// Server: source key and packet.
pub const RECV_PACKET: u8 = 0x05;
/// Server: nothing.
pub const KEEP_ALIVE: u8 = 0x06;
/// Client: 1 when this is its home, else 0.
pub const NOTE_PREFERRED: u8 = 0x07;
/// Server: key and reason.
pub const PEER_GONE: u8 = 0x08;
/// Relay: source key, destination key and packet.
pub const FORWARD_PACKET: u8 = 0x0a;
/// Relay: nothing; it wants to hear of every client.
pub const WATCH_CONNS: u8 = 0x10;
/// Relay: the key of a client to close.
pub const CLOSE_PEER: u8 = 0x11;
/// Both: eight bytes to be sent back.
pub const PING: u8 = 0x12;
/// Both: the same eight bytes.
pub const PONG: u8 = 0x13;
/// Server: a problem as text, empty when over.
pub const HEALTH: u8 = 0x14;
/// Server: two times in milliseconds.
pub const RESTARTING: u8 = 0x15;

/// What a relay tells a client that has logged in.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Frame<'a> {
    /// A packet that `src` sent to us, in the reader's buffer so that it can be opened in place.
    RecvPacket {
        src: RawKey,
        packet: &'a mut [u8],
    },
    KeepAlive,
    PeerGone {
        peer: RawKey,
        reason: u8,
    },
    Ping([u8; 8]),
    Pong([u8; 8]),
    /// The relay's problem with this connection; empty when it is over.
    Health(&'a str),
    /// Come back in `reconnect_in_ms`, and go on trying for `try_for_ms`.
    Restarting {
        reconnect_in_ms: u32,
        try_for_ms: u32,
    },
    /// A type that a client has no use for; it is skipped by its length.
    Other(u8),
}

/// Read one frame's payload.
///
/// Health text that is not UTF-8 is cut where it stops being so; trailing bytes that a later
/// version may append to a frame are ignored.
pub fn parse_frame_untrusted(kind: u8, payload: &mut [u8]) -> Result<Frame<'_>, MalformedDerp> {
    let short = MalformedDerp::TooShort {
        kind,
        length: payload.len(),
    };
    Ok(match kind {
        RECV_PACKET => {
            let (src, packet) = payload.split_first_chunk_mut::<32>().ok_or(short)?;
            Frame::RecvPacket { src: *src, packet }
        }
        KEEP_ALIVE => Frame::KeepAlive,
        PEER_GONE => {
            // Relays older than the reason byte send the key alone: "disconnected".
            let (peer, rest) = payload.split_first_chunk::<32>().ok_or(short)?;
            Frame::PeerGone {
                peer: *peer,
                reason: rest.first().copied().unwrap_or(0),
            }
        }
        PING => Frame::Ping(*payload.first_chunk().ok_or(short)?),
        PONG => Frame::Pong(*payload.first_chunk().ok_or(short)?),
        HEALTH => Frame::Health(match std::str::from_utf8(payload) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&payload[..error.valid_up_to()]).unwrap_or_default(),
        }),
        RESTARTING => {
            let times = payload.first_chunk::<8>().ok_or(short)?;
            let [a, b, c, d, e, f, g, h] = *times;
            Frame::Restarting {
                reconnect_in_ms: u32::from_be_bytes([a, b, c, d]),
                try_for_ms: u32::from_be_bytes([e, f, g, h]),
            }
        }
        other => Frame::Other(other),
    })
}

/// Whether a packet is a disco message, which goes ahead of data in queues.
pub fn looks_like_disco(packet: &[u8]) -> bool {
    packet.len() >= DISCO_MAGIC.len() + 32 + 24 && packet.starts_with(DISCO_MAGIC)
}

/// Append a frame whose payload is `parts` one after the other.
pub fn push_frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= MAX_CLIENT_FRAME);
    out.reserve(HEADER_LEN + length);
    out.push(kind);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// How many bytes `push_send_packet` appends for a packet of this length.
pub const fn send_packet_len(packet_len: usize) -> usize {
    HEADER_LEN + 32 + packet_len
}

/// Append SendPacket: `packet` for the client whose key is `dst`.
pub fn push_send_packet(out: &mut Vec<u8>, dst: &RawKey, packet: &[u8]) {
    push_frame(out, SEND_PACKET, &[dst, packet]);
}

/// Append NotePreferred: whether this relay is the client's home.
pub fn push_note_preferred(out: &mut Vec<u8>, home: bool) {
    push_frame(out, NOTE_PREFERRED, &[&[u8::from(home)]]);
}

/// Cuts a byte stream into frames, in one buffer that is reused and bounded.
///
/// Call [`spare`](Self::spare) and [`commit`](Self::commit) (or [`push`](Self::push)) to add
/// bytes, then [`next_frame`](Self::next_frame) until it gives `None`.
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    max_payload: usize,
}

/// Room that the reader begins with and shrinks back to after a large frame.
const USUAL_CAPACITY: usize = 64 << 10;

impl FrameReader {
    /// A reader that refuses frames with more than `max_payload` bytes.
    pub fn new(max_payload: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            max_payload,
        }
    }

    /// Unread bytes that wait for the rest of their frame.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Room for at least `min` more bytes behind what is buffered.
    pub fn spare(&mut self, min: usize) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > 4 * USUAL_CAPACITY && min <= USUAL_CAPACITY {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.len() - self.end < min && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < min {
            let size = (self.end + min).next_power_of_two().max(USUAL_CAPACITY);
            self.buffer.resize(size, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Say how many bytes were written to [`spare`](Self::spare).
    pub fn commit(&mut self, count: usize) {
        assert!(
            count <= self.buffer.len() - self.end,
            "commit beyond the spare room"
        );
        self.end += count;
    }

    /// Append bytes by copying them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.spare(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// The next whole frame as its type and payload, or `None` until more bytes come.
    pub fn next_frame(&mut self) -> Result<Option<(u8, &mut [u8])>, MalformedDerp> {
        let Some((head, _)) = self.buffer[self.start..self.end].split_first_chunk::<HEADER_LEN>()
        else {
            return Ok(None);
        };
        let [kind, a, b, c, d] = *head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.max_payload {
            return Err(MalformedDerp::TooLong { kind, length });
        }
        if self.end - self.start < HEADER_LEN + length {
            return Ok(None);
        }
        let from = self.start + HEADER_LEN;
        self.start = from + length;
        Ok(Some((kind, &mut self.buffer[from..from + length])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(reader: &mut FrameReader) -> Vec<(u8, Vec<u8>)> {
        let mut out = Vec::new();
        while let Some((kind, payload)) = reader.next_frame().unwrap() {
            out.push((kind, payload.to_vec()));
        }
        out
    }

    #[test]
    fn frames_come_whole_whatever_the_cut() {
        let mut stream = Vec::new();
        push_note_preferred(&mut stream, true);
        push_send_packet(&mut stream, &[7; 32], &[9; 3000]);
        push_frame(&mut stream, KEEP_ALIVE, &[]);
        let mut whole = FrameReader::new(MAX_CLIENT_FRAME);
        whole.push(&stream);
        let expected = drain(&mut whole);
        assert_eq!(expected.len(), 3);
        assert_eq!(expected[0], (NOTE_PREFERRED, vec![1]));
        assert_eq!(expected[1].1.len(), 3032);
        for cut in [1, 2, 5, 7, 1000] {
            let mut reader = FrameReader::new(MAX_CLIENT_FRAME);
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                reader.push(piece);
                got.extend(drain(&mut reader));
            }
            assert_eq!(got, expected, "cut every {cut} bytes");
            assert_eq!(reader.buffered(), 0);
        }
    }

    #[test]
    fn too_long_is_refused_before_it_is_buffered() {
        let mut reader = FrameReader::new(100);
        reader.push(&[RECV_PACKET, 0, 0, 0, 101]);
        assert_eq!(
            reader.next_frame(),
            Err(MalformedDerp::TooLong {
                kind: RECV_PACKET,
                length: 101
            })
        );
    }

    #[test]
    fn short_payloads_are_malformed() {
        for (kind, least) in [
            (RECV_PACKET, 32),
            (PEER_GONE, 32),
            (PING, 8),
            (PONG, 8),
            (RESTARTING, 8),
        ] {
            for length in 0..least {
                let mut payload = vec![0; length];
                assert_eq!(
                    parse_frame_untrusted(kind, &mut payload),
                    Err(MalformedDerp::TooShort { kind, length })
                );
            }
            assert!(parse_frame_untrusted(kind, &mut vec![0; least]).is_ok());
            assert!(parse_frame_untrusted(kind, &mut vec![0; least + 40]).is_ok());
        }
    }

    #[test]
    fn every_type_with_garbage_parses_or_is_malformed() {
        for kind in 0..=255u8 {
            for length in [0usize, 1, 8, 31, 32, 33, 200] {
                let mut payload = vec![0xff; length];
                let _ = parse_frame_untrusted(kind, &mut payload);
            }
        }
    }

    #[test]
    fn fields_are_read_in_network_order() {
        let mut times = [0, 0, 1, 0, 0, 1, 0, 0];
        assert_eq!(
            parse_frame_untrusted(RESTARTING, &mut times),
            Ok(Frame::Restarting {
                reconnect_in_ms: 256,
                try_for_ms: 65536
            })
        );
        let mut text = *b"slow\xff\xfe";
        assert_eq!(
            parse_frame_untrusted(HEALTH, &mut text),
            Ok(Frame::Health("slow"))
        );
        let mut gone = [3u8; 33];
        gone[32] = 1;
        assert_eq!(
            parse_frame_untrusted(PEER_GONE, &mut gone),
            Ok(Frame::PeerGone {
                peer: [3; 32],
                reason: 1
            })
        );
    }

    #[test]
    fn a_large_frame_does_not_keep_its_room() {
        let mut reader = FrameReader::new(MAX_CLIENT_FRAME);
        let mut stream = Vec::new();
        push_frame(&mut stream, HEALTH, &[&vec![b'x'; MAX_CLIENT_FRAME]]);
        reader.push(&stream);
        assert_eq!(drain(&mut reader).len(), 1);
        reader.push(&[KEEP_ALIVE, 0, 0, 0, 0]);
        assert!(reader.buffer.len() <= USUAL_CAPACITY);
        assert_eq!(drain(&mut reader), vec![(KEEP_ALIVE, vec![])]);
    }
}
