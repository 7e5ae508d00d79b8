//! TURN over TCP and TLS: what tells messages apart on a stream (RFC 8656 §12.4, §12.5).
//!
//! STUN messages say their length, a multiple of 4; ChannelData is padded to one.

use std::fmt;

use crate::demux::CHANNEL_BYTES;

const STUN_HEADER_BYTES: usize = 20;
/// First bytes of ChannelData (RFC 8656 §12).
const CHANNELS: std::ops::RangeInclusive<u8> = 0x40..=0x4f;

/// Bytes that are no message of TURN: nothing behind them can be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedStream;

impl fmt::Display for MalformedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the TURN server sends what is neither STUN nor ChannelData")
    }
}

impl std::error::Error for MalformedStream {}

/// Cuts a stream into messages. It holds one unfinished message at most, so some 64 KiB.
#[derive(Debug, Default)]
pub struct TurnCutter {
    buffer: Vec<u8>,
    /// Whether STUN has come: nobody has a channel before that, and HTTP begins like one.
    began: bool,
}

impl TurnCutter {
    /// Takes what came, and hands each message that is whole now to `take`, without its padding.
    ///
    /// # Errors
    /// [`MalformedStream`]; the stream is to be closed then.
    pub fn receive_untrusted(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), MalformedStream> {
        self.buffer.extend_from_slice(bytes);
        let mut rest = &self.buffer[..];
        while let Some(head) = rest.first_chunk() {
            let length = message_len(*head)?;
            if !self.began && CHANNELS.contains(&head[0]) {
                return Err(MalformedStream);
            }
            let padded = length.next_multiple_of(4);
            if rest.len() < padded {
                break;
            }
            self.began = true;
            take(&rest[..length]);
            rest = &rest[padded..];
        }
        let done = self.buffer.len() - rest.len();
        self.buffer.drain(..done);
        Ok(())
    }
}

fn message_len(head: [u8; CHANNEL_BYTES]) -> Result<usize, MalformedStream> {
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    match head[0] {
        0..=0x3f if length.is_multiple_of(4) => Ok(STUN_HEADER_BYTES + length),
        first if CHANNELS.contains(&first) => Ok(CHANNEL_BYTES + length),
        _ => Err(MalformedStream),
    }
}

/// Appends a message to `out` as a stream carries it; false for what is none, or not as long as
/// it says: it would put the other end out of step.
pub fn append(out: &mut Vec<u8>, message: &[u8]) -> bool {
    let whole = message
        .first_chunk()
        .and_then(|head| message_len(*head).ok())
        .is_some_and(|length| length == message.len());
    if whole {
        out.extend_from_slice(message);
        out.resize(out.len() + message.len().wrapping_neg() % 4, 0);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Allocate success without attributes, and 5 and 0 bytes for channels.
    fn messages() -> Vec<Vec<u8>> {
        let mut stun = vec![0x01, 0x03, 0, 4, 0x21, 0x12, 0xa4, 0x42];
        stun.resize(24, 9);
        vec![
            stun,
            vec![0x40, 1, 0, 5, 1, 2, 3, 4, 5],
            vec![0x4f, 0xff, 0, 0],
        ]
    }

    fn stream() -> Vec<u8> {
        let mut stream = Vec::new();
        for message in messages() {
            assert!(append(&mut stream, &message));
        }
        stream
    }

    #[test]
    fn messages_are_told_apart_whole_and_byte_by_byte() {
        let stream = stream();
        assert_eq!(stream.len(), 24 + 12 + 4);
        for size in [1, 3, 7, stream.len()] {
            let mut cutter = TurnCutter::default();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                let taken = cutter.receive_untrusted(piece, |message| found.push(message.to_vec()));
                assert_eq!(taken, Ok(()));
            }
            assert_eq!(found, messages());
            assert!(cutter.buffer.is_empty());
        }
    }

    #[test]
    fn garbage_is_noticed_behind_what_was_good() {
        for garbage in [
            &b"SSH-2.0-x"[..],
            &[0xff; 4],
            &[0x50, 0, 0, 0],
            &[0, 1, 0, 3],
        ] {
            let mut cutter = TurnCutter::default();
            let mut count = 0;
            let bytes = [&stream()[..], garbage].concat();
            let taken = cutter.receive_untrusted(&bytes, |_| count += 1);
            assert_eq!((taken, count), (Err(MalformedStream), 3));
        }
    }

    #[test]
    fn a_web_server_is_none_of_turn() {
        let taken = TurnCutter::default().receive_untrusted(b"HTTP/1.1 400", |_| panic!());
        assert_eq!(taken, Err(MalformedStream));
    }

    #[test]
    fn what_would_put_the_other_end_out_of_step_is_not_sent() {
        let mut out = Vec::new();
        for bad in [
            &[][..],
            &[0x40, 0, 0],
            &[0x40, 0, 0, 2, 1],
            &[4; 40],
            &[0; 24],
        ] {
            assert!(!append(&mut out, bad));
        }
        assert!(out.is_empty());
    }
}
