//! Poly1305 (RFC 8439 §2.5), eight messages side by side: lane `i` of every register belongs to
//! message `i`, with a key of its own.
//!
//! Numbers modulo 2^130 - 5 are three limbs of 44, 44 and 42 bits, so that the 52-bit
//! multiply-and-add instructions have room for sums. Four blocks of each message are taken at
//! once: `(h + m0)·r^4 + m1·r^3 + m2·r^2 + m3·r`, with one reduction.

use std::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi64, _mm512_and_si512, _mm512_castsi512_si256,
    _mm512_cvtepu32_epi64, _mm512_extracti64x4_epi64, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_mask_mov_epi64, _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_shrdi_epi64, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi64,
};

use crate::TAG_BYTES;
use crate::chacha::transpose_parts;
use crate::lanes::{Block, load, store_longs};

/// Messages that are authenticated at once.
pub(crate) const LANES: usize = 8;
const CHUNK_BYTES: usize = 64;
const BLOCK_BYTES: usize = 16;
/// At most four blocks that are no whole chunk, and the block of lengths.
const TAIL_BLOCKS: usize = 5;
const LIMB: i64 = (1 << 44) - 1;
const TOP_LIMB: i64 = (1 << 42) - 1;

/// A number for each message.
type Limbs = [__m512i; 3];

/// A number to multiply with: its limbs, and the upper two times 20 (2^132 = 20).
#[derive(Clone, Copy)]
struct Factor {
    r: Limbs,
    s: [__m512i; 2],
}

/// One-time keys of eight messages.
pub(crate) struct Keys {
    r: Limbs,
    pad: [__m512i; 2],
}

impl Keys {
    /// From the first eight words of 16 messages' blocks 0; `upper`: of the last eight messages.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    pub(crate) fn new([r, pad]: [[__m512i; 4]; 2], upper: bool) -> Self {
        let longs = [
            longs(r[0], r[1], upper),
            longs(r[2], r[3], upper),
            longs(pad[0], pad[1], upper),
            longs(pad[2], pad[3], upper),
        ];
        let low = _mm512_and_si512(longs[0], _mm512_set1_epi64(0x0fff_fffc_0fff_ffff));
        let high = _mm512_and_si512(longs[1], _mm512_set1_epi64(0x0fff_fffc_0fff_fffc));
        Self {
            r: limbs(low, high),
            pad: [longs[2], longs[3]],
        }
    }
}

/// Low and high words of eight messages of 16.
#[inline]
#[target_feature(enable = "avx512f")]
fn longs(low: __m512i, high: __m512i, upper: bool) -> __m512i {
    let (low, high) = if upper {
        (
            _mm512_extracti64x4_epi64::<1>(low),
            _mm512_extracti64x4_epi64::<1>(high),
        )
    } else {
        (_mm512_castsi512_si256(low), _mm512_castsi512_si256(high))
    };
    let high = _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(high));
    _mm512_or_si512(_mm512_cvtepu32_epi64(low), high)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn limbs(low: __m512i, high: __m512i) -> Limbs {
    let mask = _mm512_set1_epi64(LIMB);
    [
        _mm512_and_si512(low, mask),
        _mm512_and_si512(_mm512_shrdi_epi64::<44>(low, high), mask),
        _mm512_srli_epi64::<24>(high),
    ]
}

/// A whole block of each message: its number, with the bit above it.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn block(low: __m512i, high: __m512i) -> Limbs {
    let [a, b, c] = limbs(low, high);
    [a, b, _mm512_or_si512(c, _mm512_set1_epi64(1 << 40))]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Limbs, b: Limbs) -> Limbs {
    [
        _mm512_add_epi64(a[0], b[0]),
        _mm512_add_epi64(a[1], b[1]),
        _mm512_add_epi64(a[2], b[2]),
    ]
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(r: Limbs) -> Self {
        let twentyfold = |x| _mm512_add_epi64(_mm512_slli_epi64::<4>(x), _mm512_slli_epi64::<2>(x));
        Self {
            r,
            s: [twentyfold(r[1]), twentyfold(r[2])],
        }
    }
}

/// A sum of products: low and high halves (of 52 bits) for each limb.
#[derive(Clone, Copy)]
struct Sum {
    low: Limbs,
    high: Limbs,
}

impl Sum {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Self {
        let zero = [_mm512_setzero_si512(); 3];
        Self {
            low: zero,
            high: zero,
        }
    }

    /// Adds `x` times `factor`. Limbs of `x` are below 2^46.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add(&mut self, x: Limbs, factor: &Factor) {
        let Factor { r, s } = factor;
        let products = [
            [(x[0], r[0]), (x[1], s[1]), (x[2], s[0])],
            [(x[0], r[1]), (x[1], r[0]), (x[2], s[1])],
            [(x[0], r[2]), (x[1], r[1]), (x[2], r[0])],
        ];
        for (limb, products) in products.into_iter().enumerate() {
            for (a, b) in products {
                self.low[limb] = _mm512_madd52lo_epu64(self.low[limb], a, b);
                self.high[limb] = _mm512_madd52hi_epu64(self.high[limb], a, b);
            }
        }
    }

    /// Limbs a little over their size, fit to be multiplied: below 2^45.
    ///
    /// With four products: a low half is below 12 · 2^52, a high one below 2^42, so that what is
    /// carried to the bottom stays below 2^55 and, after one more carry, every limb fits.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn reduce(self) -> Limbs {
        let (mask, top) = (_mm512_set1_epi64(LIMB), _mm512_set1_epi64(TOP_LIMB));
        let Self { low, high } = self;
        let carry = _mm512_add_epi64(
            _mm512_srli_epi64::<44>(low[0]),
            _mm512_slli_epi64::<8>(high[0]),
        );
        let h0 = _mm512_and_si512(low[0], mask);
        let x1 = _mm512_add_epi64(low[1], carry);
        let carry = _mm512_add_epi64(_mm512_srli_epi64::<44>(x1), _mm512_slli_epi64::<8>(high[1]));
        let h1 = _mm512_and_si512(x1, mask);
        let x2 = _mm512_add_epi64(low[2], carry);
        let carry = _mm512_add_epi64(
            _mm512_srli_epi64::<42>(x2),
            _mm512_slli_epi64::<10>(high[2]),
        );
        let h2 = _mm512_and_si512(x2, top);
        let fivefold = _mm512_add_epi64(carry, _mm512_slli_epi64::<2>(carry));
        let x0 = _mm512_add_epi64(h0, fivefold);
        [
            _mm512_and_si512(x0, mask),
            _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(x0)),
            h2,
        ]
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn product(x: Limbs, factor: &Factor) -> Limbs {
    let mut sum = Sum::zero();
    sum.add(x, factor);
    sum.reduce()
}

/// `when` on, the other off, message by message.
#[inline]
#[target_feature(enable = "avx512f")]
fn choose(mask: __mmask8, when: Limbs, otherwise: Limbs) -> Limbs {
    [
        _mm512_mask_mov_epi64(otherwise[0], mask, when[0]),
        _mm512_mask_mov_epi64(otherwise[1], mask, when[1]),
        _mm512_mask_mov_epi64(otherwise[2], mask, when[2]),
    ]
}

/// 64 bytes of each message, as the low and high halves of four blocks.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(chunks: [&Block; LANES]) -> [[__m512i; 2]; 4] {
    let zero = _mm512_setzero_si512();
    let (mut low, mut high) = ([zero; 4], [zero; 4]);
    for pair in 0..4 {
        let (a, b) = (load(chunks[pair * 2]), load(chunks[pair * 2 + 1]));
        low[pair] = _mm512_unpacklo_epi64(a, b);
        high[pair] = _mm512_unpackhi_epi64(a, b);
    }
    let (low, high) = (transpose_parts(low), transpose_parts(high));
    [
        [low[0], high[0]],
        [low[1], high[1]],
        [low[2], high[2]],
        [low[3], high[3]],
    ]
}

/// The tags of up to eight texts (none is longer than 2^32 bytes); those of missing ones mean
/// nothing.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
pub(crate) fn tags(keys: &Keys, texts: &[&[u8]]) -> [[u8; TAG_BYTES]; LANES] {
    let nothing: Block = [0; CHUNK_BYTES];
    let mut chunks: [&[Block]; LANES] = [&[]; LANES];
    // Behind the whole chunks: the rest, zeros up to a block, the lengths. Set to the right, so
    // that all messages end together.
    let mut tails = [[0_u8; CHUNK_BYTES * 2]; LANES];
    let mut tail_blocks = [0; LANES];
    for (lane, text) in texts.iter().enumerate().take(LANES) {
        let (whole, rest) = text.as_chunks::<CHUNK_BYTES>();
        chunks[lane] = whole;
        tail_blocks[lane] = rest.len().div_ceil(BLOCK_BYTES) + 1;
        let from = (TAIL_BLOCKS - tail_blocks[lane]) * BLOCK_BYTES;
        tails[lane][from..from + rest.len()].copy_from_slice(rest);
        let lengths = (TAIL_BLOCKS * BLOCK_BYTES) - 8;
        tails[lane][lengths..lengths + 8].copy_from_slice(&(text.len() as u64).to_le_bytes());
    }
    let most = chunks.iter().map(|c| c.len()).max().unwrap_or(0);
    let least = chunks[..texts.len()]
        .iter()
        .map(|c| c.len())
        .min()
        .unwrap_or(0);

    let first = Factor::new(keys.r);
    let mut h = [_mm512_setzero_si512(); 3];
    if most > 0 {
        let square = product(keys.r, &first);
        let second = Factor::new(square);
        let third = Factor::new(product(square, &first));
        let fourth = Factor::new(product(square, &second));
        for index in 0..most {
            let at = chunks.map(|chunks| chunks.get(index).unwrap_or(&nothing));
            let [m0, m1, m2, m3] = transpose(at);
            let mut sum = Sum::zero();
            sum.add(block(m3[0], m3[1]), &first);
            sum.add(block(m2[0], m2[1]), &second);
            sum.add(block(m1[0], m1[1]), &third);
            sum.add(add(h, block(m0[0], m0[1])), &fourth);
            let next = sum.reduce();
            h = if index < least {
                next
            } else {
                choose(lanes(|lane| index < chunks[lane].len()), next, h)
            };
        }
    }
    let longest = tail_blocks.iter().copied().max().unwrap_or(0);
    let halves: [&Block; LANES] =
        std::array::from_fn(|lane| tails[lane].first_chunk().unwrap_or(&nothing));
    let ends: [&Block; LANES] =
        std::array::from_fn(|lane| tails[lane].last_chunk().unwrap_or(&nothing));
    let (left, right) = (transpose(halves), transpose(ends));
    for step in TAIL_BLOCKS - longest..TAIL_BLOCKS {
        let [low, high] = if step < 4 {
            left[step]
        } else {
            right[step - 4]
        };
        let next = product(add(h, block(low, high)), &first);
        let active = lanes(|lane| step + tail_blocks[lane] >= TAIL_BLOCKS);
        h = choose(active, next, h);
    }
    finish(h, &keys.pad)
}

#[inline]
fn lanes(mut which: impl FnMut(usize) -> bool) -> __mmask8 {
    (0..LANES).fold(0, |mask, lane| mask | __mmask8::from(which(lane)) << lane)
}

/// `h` modulo 2^130 - 5, plus the pad, modulo 2^128.
#[inline]
#[target_feature(enable = "avx512f")]
fn finish(h: Limbs, pad: &[__m512i; 2]) -> [[u8; TAG_BYTES]; LANES] {
    let [h0, h1, h2] = h.map(|limb| store_longs(limb));
    let [low, high] = pad.map(|half| store_longs(half));
    let (limb, top) = (LIMB.cast_unsigned(), TOP_LIMB.cast_unsigned());
    std::array::from_fn(|lane| {
        // Twice around, so that every limb is in its bounds.
        let (mut a, mut b, mut c) = (h0[lane], h1[lane], h2[lane]);
        for _ in 0..2 {
            b += a >> 44;
            a &= limb;
            c += b >> 44;
            b &= limb;
            a += (c >> 42) * 5;
            c &= top;
        }
        b += a >> 44;
        a &= limb;
        // One more than 2^130 - 6 wraps: then h + 5 has a bit above its top.
        let over = (a + 5) >> 44;
        let over = (b + over) >> 44;
        let over = (c + over) >> 42;
        let a = a + over * 5;
        // Bits at 2^128 and above fall off.
        let number = u128::from(a)
            .wrapping_add(u128::from(b) << 44)
            .wrapping_add(u128::from(c) << 88);
        let pad = u128::from(low[lane]) | u128::from(high[lane]) << 64;
        number.wrapping_add(pad).to_le_bytes()
    })
}

#[cfg(test)]
mod tests {
    use poly1305::Poly1305;
    use poly1305::universal_hash::KeyInit;

    use super::*;

    fn splat(longs: [u64; 3]) -> Limbs {
        longs.map(|long| {
            // SAFETY: the callers looked for the instructions.
            unsafe { _mm512_set1_epi64(long.cast_signed()) }
        })
    }

    /// Sums around 2^130 - 5, which no random text comes near.
    #[test]
    fn sums_wrap_at_the_prime() {
        if !crate::wide::available() {
            return;
        }
        let below = |n: u64| [(1 << 44) - 5 - n, (1 << 44) - 1, (1 << 42) - 1];
        let cases = [
            (below(0), 0),
            (below(1), u128::MAX - 5),
            (below(5), u128::MAX - 9),
            ([(1 << 44) - 4, (1 << 44) - 1, (1 << 42) - 1], 1),
            ([(1 << 44) - 1, (1 << 44) - 1, (1 << 42) - 1], 4),
            ([1 << 44, (1 << 44) - 1, (1 << 42) - 1], 5),
            ([0, 1 << 44, (1 << 42) - 1], 5),
            ([0, 0, 0], 0),
        ];
        for (limbs, expected) in cases {
            // SAFETY: the instructions were found.
            let tags = unsafe {
                let zero = _mm512_setzero_si512();
                finish(splat(limbs), &[zero, zero])
            };
            assert_eq!(tags[3], u128::to_le_bytes(expected), "{limbs:x?}");
        }
    }

    /// The largest keys and texts, where sums are largest, against another implementation.
    #[test]
    fn extremes_agree_with_another() {
        if !crate::wide::available() {
            return;
        }
        for (fill, key) in [(0xff, [0xff; 32]), (0, [0xff; 32]), (0xff, [0; 32])] {
            for len in [0, 1, 15, 16, 63, 64, 65, 1_280, 65_519] {
                let text = vec![fill; len];
                let mut padded = text.clone();
                padded.resize(len.next_multiple_of(16) + 8, 0);
                padded.extend_from_slice(&(len as u64).to_le_bytes());
                let expected = Poly1305::new(&key.into()).compute_unpadded(&padded);
                // SAFETY: the instructions were found.
                let found = unsafe {
                    let word = std::arch::x86_64::_mm512_set1_epi32(i32::from(key[0] as i8));
                    tags(&Keys::new([[word; 4]; 2], false), &[&text[..]; LANES])
                };
                assert!(
                    found.iter().all(|tag| tag[..] == expected[..]),
                    "{fill} {len}"
                );
            }
        }
    }
}
