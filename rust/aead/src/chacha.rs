//! ChaCha20 (RFC 8439 §2.3), 16 blocks side by side: lane `i` of every register belongs to block
//! `i`, which may be of any message.

use std::arch::x86_64::{
    __m512i, __mmask16, _mm512_add_epi32, _mm512_mask_add_epi32, _mm512_mask_mov_epi32,
    _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use std::ops::Range;

use crate::Words;
use crate::lanes::{Block, load_words, xor};

/// Blocks that are made at once.
pub(crate) const LANES: usize = 16;
/// Bytes of one block.
const BLOCK_BYTES: usize = 64;
/// "expand 32-byte k"
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// What tells the 16 blocks of one pass apart: block number and message counter of each.
///
/// The first word of the nonce comes with the key.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    block: __m512i,
    low: __m512i,
    high: __m512i,
}

impl Numbers {
    /// Block 0 of every message.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn firsts(counters: &[u64; LANES]) -> Self {
        let (mut low, mut high) = ([0; LANES], [0; LANES]);
        for ((low, high), counter) in low.iter_mut().zip(&mut high).zip(counters) {
            (*low, *high) = (*counter as u32, (*counter >> 32) as u32);
        }
        Self {
            block: _mm512_setzero_si512(),
            low: load_words(&low),
            high: load_words(&high),
        }
    }

    /// `count` lanes from `lane` on are the blocks of one message from `block` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn run(&mut self, lane: usize, count: usize, block: u32, counter: u64) {
        let mask = (((1_u32 << count) - 1) << lane) as __mmask16;
        let words = |value: u32| _mm512_set1_epi32(value.cast_signed());
        let indices = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let from = words(block.wrapping_sub(lane as u32));
        self.block = _mm512_mask_add_epi32(self.block, mask, indices, from);
        self.low = _mm512_mask_mov_epi32(self.low, mask, words(counter as u32));
        self.high = _mm512_mask_mov_epi32(self.high, mask, words((counter >> 32) as u32));
    }
}

/// A row of the state: four words of 16 blocks.
type Row = [__m512i; 4];

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Row, b: Row) -> Row {
    [
        _mm512_add_epi32(a[0], b[0]),
        _mm512_add_epi32(a[1], b[1]),
        _mm512_add_epi32(a[2], b[2]),
        _mm512_add_epi32(a[3], b[3]),
    ]
}

/// `to + by`, and `(turned ^ that) <<< BITS`.
#[inline]
#[target_feature(enable = "avx512f")]
fn step<const BITS: i32>(to: Row, by: Row, turned: Row) -> (Row, Row) {
    let [t0, t1, t2, t3] = add(to, by);
    let [x0, x1, x2, x3] = [
        _mm512_xor_si512(turned[0], t0),
        _mm512_xor_si512(turned[1], t1),
        _mm512_xor_si512(turned[2], t2),
        _mm512_xor_si512(turned[3], t3),
    ];
    let turned = [
        _mm512_rol_epi32::<BITS>(x0),
        _mm512_rol_epi32::<BITS>(x1),
        _mm512_rol_epi32::<BITS>(x2),
        _mm512_rol_epi32::<BITS>(x3),
    ];
    ([t0, t1, t2, t3], turned)
}

/// Four quarter rounds together, so that none waits for itself.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters([a, b, c, d]: [Row; 4]) -> [Row; 4] {
    let (a, d) = step::<16>(a, b, d);
    let (c, b) = step::<12>(c, d, b);
    let (a, d) = step::<8>(a, b, d);
    let (c, b) = step::<7>(c, d, b);
    [a, b, c, d]
}

/// The keystream of 16 blocks, word by word: each register holds one word of every block.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn words(key: &Words, numbers: Numbers) -> [Row; 4] {
    let word = |value: u32| _mm512_set1_epi32(value.cast_signed());
    let [k0, k1, k2, k3, k4, k5, k6, k7, prefix] = *key;
    let first = [
        [
            word(CONSTANTS[0]),
            word(CONSTANTS[1]),
            word(CONSTANTS[2]),
            word(CONSTANTS[3]),
        ],
        [word(k0), word(k1), word(k2), word(k3)],
        [word(k4), word(k5), word(k6), word(k7)],
        [numbers.block, word(prefix), numbers.low, numbers.high],
    ];
    let mut rows = first;
    for _ in 0..10 {
        let [a, [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]] = quarters(rows);
        let turned = [a, [b1, b2, b3, b0], [c2, c3, c0, c1], [d3, d0, d1, d2]];
        let [a, [b1, b2, b3, b0], [c2, c3, c0, c1], [d3, d0, d1, d2]] = quarters(turned);
        rows = [a, [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]];
    }
    for (row, first) in rows.iter_mut().zip(first) {
        *row = add(*row, first);
    }
    rows
}

/// The keystream of 16 blocks, block by block.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn blocks(key: &Words, numbers: Numbers) -> [__m512i; LANES] {
    let [r0, r1, r2, r3] = words(key, numbers);
    let [y0, y1, y2, y3] = [
        transpose_words(r0),
        transpose_words(r1),
        transpose_words(r2),
        transpose_words(r3),
    ];
    let mut out = [_mm512_setzero_si512(); LANES];
    for n in 0..4 {
        let parts = transpose_parts([y0[n], y1[n], y2[n], y3[n]]);
        for (part, block) in parts.into_iter().enumerate() {
            out[part * 4 + n] = block;
        }
    }
    out
}

/// Within each 128-bit part: four words of four blocks become four blocks' four words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_words([a, b, c, d]: Row) -> Row {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab2, cd2),
        _mm512_unpackhi_epi64(ab2, cd2),
    ]
}

/// Four registers of four 128-bit parts: part `i` of register `j` becomes part `j` of register `i`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose_parts([a, b, c, d]: Row) -> Row {
    let (ab, cd) = (
        _mm512_shuffle_i32x4::<0x44>(a, b),
        _mm512_shuffle_i32x4::<0x44>(c, d),
    );
    let (ab2, cd2) = (
        _mm512_shuffle_i32x4::<0xee>(a, b),
        _mm512_shuffle_i32x4::<0xee>(c, d),
    );
    [
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
        _mm512_shuffle_i32x4::<0x88>(ab2, cd2),
        _mm512_shuffle_i32x4::<0xdd>(ab2, cd2),
    ]
}

/// Encrypts or decrypts up to one block of `text` in place.
#[inline]
#[target_feature(enable = "avx512f")]
fn apply(text: &mut [u8], keystream: __m512i) {
    if let Ok(whole) = <&mut Block>::try_from(&mut *text) {
        xor(whole, keystream);
        return;
    }
    let mut bytes = [0; BLOCK_BYTES];
    bytes[..text.len()].copy_from_slice(text);
    xor(&mut bytes, keystream);
    text.copy_from_slice(&bytes[..text.len()]);
}

/// One pass: 16 blocks of keystream and the texts that they are for.
pub(crate) struct Pass {
    numbers: Numbers,
    /// Texts in the buffer, each with a whole number of blocks unless it ends its message.
    texts: [Range<usize>; LANES],
    count: usize,
    lanes: usize,
}

impl Pass {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn new() -> Self {
        Self {
            numbers: Numbers::firsts(&[0; LANES]),
            texts: [const { 0..0 }; LANES],
            count: 0,
            lanes: 0,
        }
    }

    /// Takes the text of a message in, from its block 1 on; whenever all lanes are taken, they
    /// are applied.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn push(
        &mut self,
        key: &Words,
        buffer: &mut [u8],
        text: Range<usize>,
        counter: u64,
    ) {
        let (mut start, mut block) = (text.start, 1);
        while start < text.end {
            let count = (text.end - start)
                .div_ceil(BLOCK_BYTES)
                .min(LANES - self.lanes);
            let end = text.end.min(start + count * BLOCK_BYTES);
            self.numbers.run(self.lanes, count, block, counter);
            self.texts[self.count] = start..end;
            self.count += 1;
            self.lanes += count;
            start = end;
            block += count as u32;
            if self.lanes == LANES {
                self.apply(key, buffer);
            }
        }
    }

    /// Applies what was taken in last.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn finish(mut self, key: &Words, buffer: &mut [u8]) {
        if self.lanes > 0 {
            self.apply(key, buffer);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn apply(&mut self, key: &Words, buffer: &mut [u8]) {
        let keystream = blocks(key, self.numbers);
        let texts = &self.texts[..self.count];
        if let [text] = texts
            && let (whole, []) = buffer[text.clone()].as_chunks_mut()
            && let Ok(whole) = <&mut [Block; LANES]>::try_from(whole)
        {
            for (block, keystream) in whole.iter_mut().zip(keystream) {
                xor(block, keystream);
            }
        } else {
            let mut rest = keystream.iter();
            for text in texts {
                let blocks = buffer[text.clone()].chunks_mut(BLOCK_BYTES);
                for (block, keystream) in blocks.zip(&mut rest) {
                    apply(block, *keystream);
                }
            }
        }
        self.count = 0;
        self.lanes = 0;
    }
}

/// Only for tests of the keystream itself.
#[cfg(test)]
#[target_feature(enable = "avx512f")]
pub(crate) fn keystream(key: &Words, block: u32, counter: u64) -> [Block; LANES] {
    let mut numbers = Numbers::firsts(&[0; LANES]);
    numbers.run(0, LANES, block, counter);
    blocks(key, numbers).map(|block| {
        let mut out = [0; BLOCK_BYTES];
        xor(&mut out, block);
        out
    })
}
