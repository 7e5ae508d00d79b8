//! ChaCha20-Poly1305 (RFC 8439) for WireGuard's transport messages, many of one session at once.
//!
//! Packets are short. Code that works along one message spends much of its time on beginnings
//! and ends, and leaves wide registers half empty. Where the processor has AVX-512 with IFMA and
//! VBMI2 (looked for at run time), messages are worked on side by side instead; elsewhere, and
//! for a message alone, `ring` does it. Both give the same bytes.
//!
//! Nonces are WireGuard's: four zero bytes and the message counter; there is no associated data.
//! Time and memory accesses depend on lengths and on whether tags are right, on nothing secret.

#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::ops::Range;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

#[cfg(target_arch = "x86_64")]
mod chacha;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod poly;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod wide;

/// Bytes of a tag, which lies behind its text.
pub const TAG_BYTES: usize = 16;

/// One message in a buffer: `len` bytes of text at `start`, its tag behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its number, never used twice for sealing with one key.
    pub counter: u64,
    /// Offset of the text, in bytes.
    pub start: usize,
    /// Bytes of the text, without the tag.
    pub len: usize,
}

impl Message {
    fn text(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    fn tag(&self) -> Range<usize> {
        self.start + self.len..self.start + self.len + TAG_BYTES
    }
}

/// A key as eight words, then the first word of its nonces: 0 in WireGuard.
type Words = [u32; 9];

/// A transport key, for sealing or for opening.
pub struct Key {
    one: LessSafeKey,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    words: Zeroizing<Words>,
    wide: Wide,
}

/// When messages are worked on side by side.
#[derive(Clone, Copy)]
enum Wide {
    Never,
    IfItPays,
    #[cfg(test)]
    Always,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl Key {
    /// A key; None never happens with 32 bytes.
    #[must_use]
    pub fn new(raw: &[u8; 32]) -> Option<Self> {
        let mut words = Zeroizing::new([0; 9]);
        for (word, bytes) in words.iter_mut().zip(raw.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Some(Self {
            one: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, raw).ok()?),
            words,
            wide: if available() {
                Wide::IfItPays
            } else {
                Wide::Never
            },
        })
    }

    /// The same key, never with wide registers.
    #[must_use]
    pub fn one_by_one(mut self) -> Self {
        self.wide = Wide::Never;
        self
    }

    /// The same key, with wide registers even where they do not pay.
    #[cfg(test)]
    fn always_wide(mut self) -> Self {
        if available() {
            self.wide = Wide::Always;
        }
        self
    }

    /// The same key, for nonces that begin so.
    #[cfg(test)]
    fn prefix(mut self, prefix: [u8; 4]) -> Self {
        self.words[8] = u32::from_le_bytes(prefix);
        self
    }

    /// Seals the messages in place and writes their tags. They must not overlap.
    ///
    /// # Panics
    /// If a message and its tag do not lie inside the buffer.
    pub fn seal(&self, buffer: &mut [u8], messages: &[Message]) {
        for group in messages.chunks(GROUP) {
            if self.together(group) {
                self.seal_wide(buffer, group);
            } else {
                for message in group {
                    self.seal_one(buffer, message);
                }
            }
        }
    }

    /// Opens the messages in place, each if its tag is right, which `authentic` then says. The
    /// text of one that is not authentic is left as it was or wiped, never decrypted. Messages
    /// must not overlap.
    ///
    /// # Panics
    /// If a message and its tag do not lie inside the buffer, or `authentic` is shorter than
    /// `messages`.
    pub fn open(&self, buffer: &mut [u8], messages: &[Message], authentic: &mut [bool]) {
        let authentic = &mut authentic[..messages.len()];
        for (group, authentic) in messages.chunks(GROUP).zip(authentic.chunks_mut(GROUP)) {
            if self.together(group) {
                self.open_wide(buffer, group, authentic);
            } else {
                for (message, authentic) in group.iter().zip(authentic) {
                    *authentic = self.open_one(buffer, message);
                }
            }
        }
    }

    /// Whether to use wide registers for these.
    fn together(&self, group: &[Message]) -> bool {
        match self.wide {
            Wide::Never => false,
            Wide::IfItPays => pays(group),
            #[cfg(test)]
            Wide::Always => true,
        }
    }

    fn seal_one(&self, buffer: &mut [u8], message: &Message) {
        let whole = &mut buffer[message.start..message.tag().end];
        let (text, tag_out) = whole.split_at_mut(message.len);
        // Fails only for texts of 256 GiB.
        if let Ok(tag) =
            self.one
                .seal_in_place_separate_tag(self.nonce(message.counter), Aad::empty(), text)
        {
            tag_out.copy_from_slice(tag.as_ref());
        }
    }

    fn nonce(&self, counter: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.words[8].to_le_bytes());
        bytes[4..].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }

    fn open_one(&self, buffer: &mut [u8], message: &Message) -> bool {
        let whole = &mut buffer[message.start..message.tag().end];
        self.one
            .open_in_place(self.nonce(message.counter), Aad::empty(), whole)
            .is_ok()
    }
}

#[cfg(target_arch = "x86_64")]
pub use wide::GROUP;
#[cfg(target_arch = "x86_64")]
use wide::{available, pays};

#[cfg(not(target_arch = "x86_64"))]
/// Messages that are worked on together at most.
pub const GROUP: usize = 16;

#[cfg(not(target_arch = "x86_64"))]
fn available() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn pays(_: &[Message]) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
impl Key {
    fn seal_wide(&self, buffer: &mut [u8], group: &[Message]) {
        // SAFETY: `together` says so only if `available` found the instructions.
        unsafe { wide::seal(&self.words, buffer, group) }
    }

    fn open_wide(&self, buffer: &mut [u8], group: &[Message], authentic: &mut [bool]) {
        // SAFETY: as above.
        unsafe { wide::open(&self.words, buffer, group, authentic) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Key {
    fn seal_wide(&self, buffer: &mut [u8], group: &[Message]) {
        for message in group {
            self.seal_one(buffer, message);
        }
    }

    fn open_wide(&self, buffer: &mut [u8], group: &[Message], authentic: &mut [bool]) {
        for (message, authentic) in group.iter().zip(authentic) {
            *authentic = self.open_one(buffer, message);
        }
    }
}

#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
fn same_tag(one: &[u8], other: &[u8; TAG_BYTES]) -> bool {
    one.ct_eq(other).into()
}
