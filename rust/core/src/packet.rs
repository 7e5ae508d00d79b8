//! IPv4 and IPv6 packets, read as far as routing, filter and probes need (RFC 791, RFC 8200).
//!
//! Bytes come from a peer or from the local kernel; neither is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers that mean something here.
#[allow(missing_docs)]
pub mod proto {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    /// No next header (RFC 8200 §4.7).
    pub const NONE: u8 = 59;
    /// Tailscale's own probes (PROTOCOL §5.11).
    pub const TSMP: u8 = 99;
    pub const DCCP: u8 = 33;
    pub const SCTP: u8 = 132;
}

/// What the filter decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Upper-layer protocol, behind any IPv6 extension headers.
    pub protocol: u8,
    /// A fragment other than the first: no upper-layer header here.
    pub later_fragment: bool,
    /// Where the fragment belongs in the whole, in bytes; 0 for a first fragment or none.
    pub fragment_at: usize,
    /// Source port of TCP, UDP, SCTP and DCCP; 0 for others.
    pub src_port: u16,
    /// Destination port; 0 for others.
    pub dst_port: u16,
    /// TCP flags, or the ICMP type; 0 for others.
    pub flags_or_type: u8,
    /// Where the upper layer begins.
    pub transport: usize,
    /// Length of the whole packet by its own header; bytes after it are padding.
    pub total: usize,
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedPacket;

/// Destination address of an outbound packet, without reading more.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(v4(packet.get(16..20)?)),
        6 => Some(v6(packet.get(24..40)?)),
        _ => None,
    }
}

/// Source address and total length by the header, for an opened datagram (padding is cut there).
#[must_use]
pub fn source_and_length(packet: &[u8]) -> Option<(IpAddr, usize)> {
    match packet.first()? >> 4 {
        4 => {
            let head = packet.get(..20)?;
            Some((
                v4(&head[12..16]),
                u16::from_be_bytes([head[2], head[3]]).into(),
            ))
        }
        6 => {
            let head = packet.get(..40)?;
            let payload: usize = u16::from_be_bytes([head[4], head[5]]).into();
            Some((v6(&head[8..24]), payload + 40))
        }
        _ => None,
    }
}

/// Read a whole packet.
///
/// # Errors
/// [`MalformedPacket`] for anything truncated or contradictory.
pub fn parse_untrusted(packet: &[u8]) -> Result<Parsed, MalformedPacket> {
    let first = packet.first().ok_or(MalformedPacket)?;
    match first >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => Err(MalformedPacket),
    }
}

fn v4(bytes: &[u8]) -> IpAddr {
    let mut raw = [0; 4];
    raw.copy_from_slice(bytes);
    Ipv4Addr::from(raw).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    let mut raw = [0; 16];
    raw.copy_from_slice(bytes);
    Ipv6Addr::from(raw).into()
}

fn parse_v4(packet: &[u8]) -> Result<Parsed, MalformedPacket> {
    let head = packet.get(..20).ok_or(MalformedPacket)?;
    let header = usize::from(head[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if header < 20 || total < header || total > packet.len() {
        return Err(MalformedPacket);
    }
    let fragment = u16::from_be_bytes([head[6], head[7]]);
    let mut parsed = Parsed {
        src: v4(&head[12..16]),
        dst: v4(&head[16..20]),
        protocol: head[9],
        later_fragment: fragment & 0x1fff != 0,
        fragment_at: usize::from(fragment & 0x1fff) * 8,
        src_port: 0,
        dst_port: 0,
        flags_or_type: 0,
        transport: header,
        total,
    };
    parsed.read_transport(&packet[..total])?;
    Ok(parsed)
}

fn parse_v6(packet: &[u8]) -> Result<Parsed, MalformedPacket> {
    let head = packet.get(..40).ok_or(MalformedPacket)?;
    let total = 40 + usize::from(u16::from_be_bytes([head[4], head[5]]));
    if total > packet.len() {
        return Err(MalformedPacket);
    }
    let Upper {
        protocol,
        at,
        fragment_at,
    } = skip_extensions(&packet[..total], head[6])?;
    let mut parsed = Parsed {
        src: v6(&head[8..24]),
        dst: v6(&head[24..40]),
        protocol,
        later_fragment: fragment_at != 0,
        fragment_at,
        src_port: 0,
        dst_port: 0,
        flags_or_type: 0,
        transport: at,
        total,
    };
    parsed.read_transport(&packet[..total])?;
    Ok(parsed)
}

/// What stands behind the extension headers.
struct Upper {
    protocol: u8,
    at: usize,
    fragment_at: usize,
}

/// Walk hop-by-hop, routing, destination options, fragment and authentication headers
/// (RFC 8200 §4.1).
fn skip_extensions(packet: &[u8], mut next: u8) -> Result<Upper, MalformedPacket> {
    const MOST: usize = 8;
    let mut at = 40;
    for _ in 0..MOST {
        let (follows, length) = match next {
            0 | 43 | 60 | 135 => {
                let ext = packet.get(at..at + 2).ok_or(MalformedPacket)?;
                (ext[0], 8 + usize::from(ext[1]) * 8)
            }
            51 => {
                let ext = packet.get(at..at + 2).ok_or(MalformedPacket)?;
                (ext[0], 8 + usize::from(ext[1]) * 4)
            }
            44 => {
                let ext = packet.get(at..at + 8).ok_or(MalformedPacket)?;
                let fragment_at = usize::from(u16::from_be_bytes([ext[2], ext[3]]) & 0xfff8);
                if fragment_at != 0 {
                    return Ok(Upper {
                        protocol: ext[0],
                        at: at + 8,
                        fragment_at,
                    });
                }
                (ext[0], 8)
            }
            _ => {
                return Ok(Upper {
                    protocol: next,
                    at,
                    fragment_at: 0,
                });
            }
        };
        at += length;
        if at > packet.len() {
            return Err(MalformedPacket);
        }
        next = follows;
    }
    Err(MalformedPacket)
}

impl Parsed {
    fn read_transport(&mut self, packet: &[u8]) -> Result<(), MalformedPacket> {
        if self.later_fragment {
            return Ok(());
        }
        let upper = &packet[self.transport..];
        let needed = match self.protocol {
            proto::TCP => 20,
            proto::UDP | proto::ICMP => 8,
            proto::ICMPV6 => 4,
            proto::SCTP | proto::DCCP => 12,
            _ => return Ok(()),
        };
        if upper.len() < needed {
            return Err(MalformedPacket);
        }
        if matches!(self.protocol, proto::ICMP | proto::ICMPV6) {
            self.flags_or_type = upper[0];
        } else {
            self.src_port = u16::from_be_bytes([upper[0], upper[1]]);
            self.dst_port = u16::from_be_bytes([upper[2], upper[3]]);
            if self.protocol == proto::TCP {
                self.flags_or_type = upper[13];
            }
        }
        Ok(())
    }

    /// A TCP segment that opens a connection: SYN without ACK.
    #[must_use]
    pub fn is_tcp_open(&self) -> bool {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        self.protocol == proto::TCP && self.flags_or_type & (SYN | ACK) == SYN
    }

    /// An ICMP or ICMPv6 echo request.
    #[must_use]
    pub fn is_echo_request(&self) -> bool {
        !self.later_fragment
            && matches!(
                (self.protocol, self.flags_or_type),
                (proto::ICMP, 8) | (proto::ICMPV6, 128)
            )
    }

    /// An ICMP or ICMPv6 echo reply.
    #[must_use]
    pub fn is_echo_reply(&self) -> bool {
        !self.later_fragment
            && matches!(
                (self.protocol, self.flags_or_type),
                (proto::ICMP, 0) | (proto::ICMPV6, 129)
            )
    }

    /// An ICMP error (RFC 792: 3, 4, 11, 12; no redirects) or ICMPv6 error (RFC 4443 §2.1: 1 to 4).
    #[must_use]
    pub fn is_icmp_error(&self) -> bool {
        !self.later_fragment
            && match self.protocol {
                proto::ICMP => matches!(self.flags_or_type, 3 | 4 | 11 | 12),
                proto::ICMPV6 => (1..=4).contains(&self.flags_or_type),
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP packet over IPv6 behind these extension headers (each with its own next header).
    fn v6_udp(first: u8, extensions: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, (extensions.len() + 8) as u8, first, 64];
        packet.extend_from_slice(&[1; 16]);
        packet.extend_from_slice(&[2; 16]);
        packet.extend_from_slice(extensions);
        packet.extend_from_slice(&[0, 53, 1, 0, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn extension_headers_are_passed() {
        let hop_by_hop = [44, 0, 1, 4, 0, 0, 0, 0];
        let first_fragment = [51, 0, 0, 1, 0, 0, 0, 9];
        let authentication = [17, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let all = [&hop_by_hop[..], &first_fragment, &authentication].concat();
        let parsed = parse_untrusted(&v6_udp(0, &all)).unwrap();
        assert_eq!(
            (parsed.protocol, parsed.src_port, parsed.dst_port),
            (17, 53, 256)
        );
        assert_eq!((parsed.transport, parsed.total), (72, 80));
        assert!(!parsed.later_fragment);
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let parsed = parse_untrusted(&v6_udp(44, &[17, 0, 0, 0x59, 0, 0, 0, 9])).unwrap();
        assert!(parsed.later_fragment);
        assert_eq!(
            (parsed.fragment_at, parsed.src_port, parsed.protocol),
            (88, 0, 17)
        );
    }

    #[test]
    fn contradictions_are_errors() {
        let good = v6_udp(17, &[]);
        assert!(parse_untrusted(&good).is_ok());
        for len in 0..good.len() {
            assert_eq!(parse_untrusted(&good[..len]), Err(MalformedPacket), "{len}");
        }
        assert!(
            parse_untrusted(&v6_udp(0, &[17, 9, 0, 0, 0, 0, 0, 0])).is_err(),
            "too long"
        );
        let endless = [0_u8, 0, 0, 0, 0, 0, 0, 0].repeat(12);
        assert!(parse_untrusted(&v6_udp(0, &endless)).is_err());
        assert!(
            parse_untrusted(&[0x45; 20]).is_err(),
            "total beyond the bytes"
        );
        assert!(parse_untrusted(&[0x41, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0]).is_err());
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 1_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..100_000 {
            let len = random() as usize % 90;
            let mut packet: Vec<u8> = (0..len).map(|_| random() as u8).collect();
            if len > 6 {
                packet[0] = if random() % 2 == 0 { 0x45 } else { 0x60 };
                packet[2..6].copy_from_slice(&[0, len as u8, 0, (len as u8).wrapping_sub(40)]);
            }
            if let Ok(parsed) = parse_untrusted(&packet) {
                assert!(parsed.transport <= parsed.total && parsed.total <= len);
            }
            let _ = (destination(&packet), source_and_length(&packet));
        }
    }
}
