//! The internet checksum (RFC 1071), summed in native byte order.
//!
//! Ones-complement sums do not care about byte order as long as every word is read and the result
//! is written the same way, so nothing is swapped on the way.

/// Sum of `data` as 16-bit words in native order; an odd last byte is padded with zero.
///
/// The result is not folded; sums of chunks may be added when every chunk but the last has an
/// even length.
#[inline]
#[must_use]
pub fn sum(data: &[u8]) -> u64 {
    // Four independent accumulators of 32-bit words let the compiler use wide registers; a u64
    // cannot overflow below 2^32 words.
    let mut lanes = [0u64; 8];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut words = blocks.remainder().chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// Folds a sum to 16 bits, without the final complement.
#[inline]
#[must_use]
pub(super) fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum field for a sum: folded and complemented, as the bytes to store.
#[inline]
#[must_use]
pub fn finish(total: u64) -> [u8; 2] {
    (!fold(total)).to_ne_bytes()
}

/// Sum of the pseudo-header: `addresses` is source and destination as they stand in the packet.
#[inline]
#[must_use]
pub fn pseudo_sum(addresses: &[u8], protocol: u8, transport_len: usize) -> u64 {
    let length = (transport_len as u32).to_be_bytes();
    sum(addresses) + sum(&[0, protocol]) + sum(&length)
}
