//! Up to 16 messages of one key together: their keystream as one long row of blocks, their tags
//! side by side.

use crate::chacha::{self, Numbers, Pass};
use crate::poly::{self, Keys};
use crate::{Message, TAG_BYTES, Words};

/// Messages that are worked on together at most.
pub const GROUP: usize = chacha::LANES;

/// Whether this processor has what [`seal`] and [`open`] are made of.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512ifma")
        && is_x86_feature_detected!("avx512vbmi2")
}

/// What parts of the work take, in nanoseconds on a Zen 4; their ratios matter.
const PASS_NS: usize = 195;
const TAGS_NS: usize = 150;
const CHUNK_NS: usize = 28;
const ALONE_NS: usize = 110;
const ALONE_NS_PER_KIB: usize = 430;

/// Whether these messages take less time together than one by one: a few short or unequal ones
/// would leave most lanes empty.
pub(crate) fn pays(messages: &[Message]) -> bool {
    let blocks: usize = messages.iter().map(|m| m.len.div_ceil(64)).sum();
    let bytes: usize = messages.iter().map(|m| m.len).sum();
    let tags: usize = messages
        .chunks(poly::LANES)
        .map(|half| half.iter().map(|m| m.len / 64).max().unwrap_or(0) * CHUNK_NS + TAGS_NS)
        .sum();
    let together = (1 + blocks.div_ceil(chacha::LANES)) * PASS_NS + tags;
    together < messages.len() * ALONE_NS + bytes * ALONE_NS_PER_KIB / 1024
}

/// Seals at most [`GROUP`] messages in place.
///
/// # Panics
/// If a message is not inside the buffer.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
pub(crate) fn seal(key: &Words, buffer: &mut [u8], messages: &[Message]) {
    crypt(key, buffer, messages);
    let tags = tags(key, buffer, messages);
    for (message, tag) in messages.iter().zip(tags) {
        buffer[message.tag()].copy_from_slice(&tag);
    }
}

/// Opens at most [`GROUP`] messages in place; only those are decrypted whose tags are right.
///
/// # Panics
/// If a message is not inside the buffer.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
pub(crate) fn open(key: &Words, buffer: &mut [u8], messages: &[Message], authentic: &mut [bool]) {
    let tags = tags(key, buffer, messages);
    let mut genuine = [Message::default(); GROUP];
    let mut count = 0;
    for ((message, tag), authentic) in messages.iter().zip(&tags).zip(authentic) {
        *authentic = crate::same_tag(&buffer[message.tag()], tag);
        if *authentic {
            genuine[count] = *message;
            count += 1;
        }
    }
    crypt(key, buffer, &genuine[..count]);
}

#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
fn tags(key: &Words, buffer: &[u8], messages: &[Message]) -> [[u8; TAG_BYTES]; GROUP] {
    let mut counters = [0; GROUP];
    for (counter, message) in counters.iter_mut().zip(messages) {
        *counter = message.counter;
    }
    let numbers = Numbers::firsts(&counters);
    let [r, pad, ..] = chacha::words(key, numbers);
    let mut tags = [[0; TAG_BYTES]; GROUP];
    for (half, (messages, tags)) in messages
        .chunks(poly::LANES)
        .zip(tags.chunks_mut(poly::LANES))
        .enumerate()
    {
        let mut texts: [&[u8]; poly::LANES] = [&[]; poly::LANES];
        for (text, message) in texts.iter_mut().zip(messages) {
            *text = &buffer[message.text()];
        }
        let keys = Keys::new([r, pad], half == 1);
        tags.copy_from_slice(&poly::tags(&keys, &texts[..messages.len()]));
    }
    tags
}

/// Applies the keystream of every message from its block 1 on.
#[target_feature(enable = "avx512f")]
fn crypt(key: &Words, buffer: &mut [u8], messages: &[Message]) {
    let mut pass = Pass::new();
    for message in messages {
        pass.push(key, buffer, message.text(), message.counter);
    }
    pass.finish(key, buffer);
}
