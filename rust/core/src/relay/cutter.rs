//! Frames out of the pieces that a stream comes in: a frame that lies whole in a piece is not
//! copied, only one that two pieces share is put together.

use crate::derp::MalformedDerp;
use crate::derp::frames::HEADER_LEN;

/// Room that is kept for the next shared frame; a packet of usual size fits.
const KEPT_BYTES: usize = 2048;

/// Cuts a stream into frames. Holds at most one frame.
pub struct Cutter {
    partial: Vec<u8>,
    max_payload: usize,
}

impl Cutter {
    /// A cutter that refuses frames with more than `max_payload` bytes.
    pub fn new(max_payload: usize) -> Self {
        Self {
            partial: Vec::new(),
            max_payload,
        }
    }

    /// Change the limit, for the frames that begin from now on.
    pub fn set_max_payload(&mut self, max_payload: usize) {
        self.max_payload = max_payload;
    }

    /// Hand each frame of `piece` to `each` as type and payload, until it answers false or an
    /// error. How many bytes were taken: all, unless it answered false.
    pub fn feed(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(u8, &[u8]) -> Result<bool, MalformedDerp>,
    ) -> Result<usize, MalformedDerp> {
        let mut at = 0;
        while at < piece.len() {
            let rest = &piece[at..];
            if self.partial.is_empty() {
                match self.whole(rest)? {
                    Some(size) => {
                        at += size;
                        if !each(rest[0], &rest[HEADER_LEN..size])? {
                            return Ok(at);
                        }
                    }
                    None => {
                        self.partial.extend_from_slice(rest);
                        at = piece.len();
                    }
                }
                continue;
            }
            let wanted = self.size_of(&self.partial)?.unwrap_or(HEADER_LEN);
            let taken = rest.len().min(wanted - self.partial.len());
            self.partial.extend_from_slice(&rest[..taken]);
            at += taken;
            if self.size_of(&self.partial)? == Some(self.partial.len()) {
                let mut frame = std::mem::take(&mut self.partial);
                let go_on = each(frame[0], &frame[HEADER_LEN..])?;
                if frame.capacity() <= KEPT_BYTES {
                    frame.clear();
                    self.partial = frame;
                }
                if !go_on {
                    return Ok(at);
                }
            }
        }
        Ok(at)
    }

    /// The size of the frame that `bytes` begin with, if they hold it whole.
    fn whole(&self, bytes: &[u8]) -> Result<Option<usize>, MalformedDerp> {
        Ok(self.size_of(bytes)?.filter(|size| *size <= bytes.len()))
    }

    /// The size of the frame that `bytes` begin with, once they hold its header.
    fn size_of(&self, bytes: &[u8]) -> Result<Option<usize>, MalformedDerp> {
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let [kind, a, b, c, d] = *head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.max_payload {
            return Err(MalformedDerp::TooLong { kind, length });
        }
        Ok(Some(HEADER_LEN + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derp::frames::push_frame;

    fn stream() -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
        let mut bytes = Vec::new();
        let mut frames = Vec::new();
        for n in 0..40u8 {
            let payload = vec![n; usize::from(n) * 97 % 5000];
            push_frame(&mut bytes, n, &[&payload]);
            frames.push((n, payload));
        }
        (bytes, frames)
    }

    #[test]
    fn frames_come_whole_whatever_the_cut() {
        let (bytes, frames) = stream();
        for cut in [1, 2, 4, 5, 6, 100, 1000, bytes.len()] {
            let mut cutter = Cutter::new(10_000);
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                let taken = cutter.feed(piece, |kind, payload| {
                    got.push((kind, payload.to_vec()));
                    Ok(true)
                });
                assert_eq!(taken, Ok(piece.len()));
            }
            assert_eq!(got, frames, "cut every {cut} bytes");
        }
    }

    #[test]
    fn it_stops_where_it_is_told_and_goes_on_there() {
        let (bytes, frames) = stream();
        for cut in [1, 7, 700, bytes.len()] {
            let mut cutter = Cutter::new(10_000);
            let mut got = Vec::new();
            for piece in bytes.chunks(cut) {
                let mut at = 0;
                while at < piece.len() {
                    at += cutter
                        .feed(&piece[at..], |kind, payload| {
                            got.push((kind, payload.to_vec()));
                            Ok(false)
                        })
                        .unwrap();
                }
            }
            assert_eq!(got, frames);
        }
    }

    #[test]
    fn too_long_is_refused_before_it_is_kept() {
        for cut in [1, 5, 9] {
            let mut cutter = Cutter::new(100);
            let bytes = [4, 0, 0, 0, 101, 1, 2, 3, 4];
            let found: Result<Vec<_>, _> = bytes
                .chunks(cut)
                .map(|piece| cutter.feed(piece, |_, _| Ok(true)))
                .collect();
            assert_eq!(
                found,
                Err(MalformedDerp::TooLong {
                    kind: 4,
                    length: 101
                })
            );
            assert!(cutter.partial.len() <= HEADER_LEN);
        }
    }
}
