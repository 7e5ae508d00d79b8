//! Registers from and to memory: the only places where pointers are used.

use std::arch::x86_64::{__m512i, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_xor_si512};

/// 64 bytes, a register full.
pub(crate) type Block = [u8; 64];

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load(bytes: &Block) -> __m512i {
    // SAFETY: 64 readable bytes; no alignment is needed.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_words(words: &[u32; 16]) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store(bytes: &mut Block, value: __m512i) {
    // SAFETY: 64 writable bytes; no alignment is needed.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) };
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_longs(value: __m512i) -> [u64; 8] {
    let mut longs = [0; 8];
    // SAFETY: as above.
    unsafe { _mm512_storeu_si512(longs.as_mut_ptr().cast(), value) };
    longs
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn xor(bytes: &mut Block, value: __m512i) {
    let mixed = _mm512_xor_si512(load(bytes), value);
    store(bytes, mixed);
}
