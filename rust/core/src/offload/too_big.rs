//! The answer to a packet that the path does not carry: how large it may be.
//!
//! ICMP "fragmentation needed" (RFC 1191 §4) and ICMPv6 "packet too big" (RFC 4443 §3.2), as if
//! the destination itself had sent it: the kernel takes no packet from an address of its own.

use super::headers::{set_ip_length, write16, write32};
use super::{finish, pseudo_sum, sum};
use crate::packet::{self, proto};

/// The longest answer: ICMPv6 quotes up to the smallest MTU (RFC 4443 §2.4).
pub const ANSWER_BYTES: usize = 1280;
/// RFC 1812 §4.3.2.3: as much as fits into 576 bytes.
const QUOTE4_BYTES: usize = 576 - 28;
const QUOTE6_BYTES: usize = ANSWER_BYTES - 48;
const HOP_LIMIT: u8 = 64;
/// Internetwork control (RFC 1812 §4.3.2.5).
const CONTROL: u8 = 0xc0;

/// Writes the answer to `packet` into `out` and gives its length. `mtu_bytes` is what the path
/// carries.
///
/// None where there must be no answer: to ICMP errors, to later fragments, and where either
/// address is not one machine's (RFC 1812 §4.3.2.7, RFC 4443 §2.4).
pub fn too_big(packet: &[u8], mtu_bytes: usize, out: &mut [u8; ANSWER_BYTES]) -> Option<usize> {
    let parsed = packet::parse_untrusted(packet).ok()?;
    let unique = |ip: std::net::IpAddr| !ip.is_unspecified() && !ip.is_multicast();
    if !unique(parsed.src) || !unique(parsed.dst) || parsed.later_fragment {
        return None;
    }
    let kind = parsed.flags_or_type;
    let is_error = match parsed.protocol {
        proto::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        proto::ICMPV6 => kind < 128,
        _ => false,
    };
    if is_error {
        return None;
    }
    let mtu = u16::try_from(mtu_bytes).unwrap_or(u16::MAX);
    Some(match packet[0] >> 4 {
        4 => answer4(packet, mtu, out),
        _ => answer6(packet, mtu, out),
    })
}

fn answer4(packet: &[u8], mtu: u16, out: &mut [u8; ANSWER_BYTES]) -> usize {
    let quote = &packet[..packet.len().min(QUOTE4_BYTES)];
    let total = 28 + quote.len();
    out[..28].fill(0);
    out[0] = 0x45;
    out[1] = CONTROL;
    out[8] = HOP_LIMIT;
    out[9] = proto::ICMP;
    out[12..16].copy_from_slice(&packet[16..20]);
    out[16..20].copy_from_slice(&packet[12..16]);
    set_ip_length(out, total);
    out[20..22].copy_from_slice(&[3, 4]);
    write16(out, 26, mtu);
    out[28..total].copy_from_slice(quote);
    let check = finish(sum(&out[20..total]));
    out[22..24].copy_from_slice(&check);
    total
}

fn answer6(packet: &[u8], mtu: u16, out: &mut [u8; ANSWER_BYTES]) -> usize {
    let quote = &packet[..packet.len().min(QUOTE6_BYTES)];
    let total = 48 + quote.len();
    out[..48].fill(0);
    out[0] = 0x60;
    out[6] = proto::ICMPV6;
    out[7] = HOP_LIMIT;
    out[8..24].copy_from_slice(&packet[24..40]);
    out[24..40].copy_from_slice(&packet[8..24]);
    set_ip_length(out, total);
    out[40] = 2;
    write32(out, 44, mtu.into());
    out[48..total].copy_from_slice(quote);
    let total_sum = pseudo_sum(&out[8..40], proto::ICMPV6, total - 40) + sum(&out[40..total]);
    let check = finish(total_sum);
    out[42..44].copy_from_slice(&check);
    total
}
