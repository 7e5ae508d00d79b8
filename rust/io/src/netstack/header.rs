//! As much of IP, TCP and UDP headers as the stack looks at before smoltcp does (RFC 791, 8200,
//! 9293, 768). Bytes come from peers and may be anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

/// What the stack does with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// The first segment of a TCP connection.
    Syn { src: SocketAddr, dst: SocketAddr },
    Udp {
        src: SocketAddr,
        dst: SocketAddr,
        payload: &'a [u8],
    },
    /// Anything else that is well-formed enough for smoltcp to judge.
    Other,
}

/// Where a packet goes, if it is one.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..20)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..40)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// Look at an inbound packet; `None` when it is no IP packet.
pub(super) fn classify_untrusted(packet: &[u8]) -> Option<Kind<'_>> {
    let (src, dst, protocol, payload): (IpAddr, IpAddr, _, _) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            if ip.more_frags() || ip.frag_offset() != 0 {
                return Some(Kind::Other);
            }
            let header = usize::from(ip.header_len());
            let payload = packet.get(header..usize::from(ip.total_len()))?;
            (
                ip.src_addr().into(),
                ip.dst_addr().into(),
                ip.next_header(),
                payload,
            )
        }
        6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            let payload = packet.get(40..ip.total_len())?;
            (
                ip.src_addr().into(),
                ip.dst_addr().into(),
                ip.next_header(),
                payload,
            )
        }
        _ => return None,
    };
    Some(match protocol {
        IpProtocol::Tcp => match TcpPacket::new_checked(payload) {
            Ok(tcp) if tcp.syn() && !tcp.ack() && !tcp.rst() => Kind::Syn {
                src: SocketAddr::new(src, tcp.src_port()),
                dst: SocketAddr::new(dst, tcp.dst_port()),
            },
            _ => Kind::Other,
        },
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            Kind::Udp {
                src: SocketAddr::new(src, udp.src_port()),
                dst: SocketAddr::new(dst, udp.dst_port()),
                payload: payload.get(8..usize::from(udp.len()))?,
            }
        }
        _ => Kind::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn() -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 100, 64, 0, 1, 100, 64, 0, 2,
        ];
        packet.extend([
            0x10, 0x00, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0,
        ]);
        packet
    }

    #[test]
    fn a_syn_is_seen_and_a_syn_ack_is_not() {
        let packet = syn();
        let expected = Kind::Syn {
            src: "100.64.0.1:4096".parse().unwrap(),
            dst: "100.64.0.2:80".parse().unwrap(),
        };
        assert_eq!(classify_untrusted(&packet), Some(expected));
        assert_eq!(destination(&packet), Some("100.64.0.2".parse().unwrap()));
        let mut answer = packet.clone();
        answer[33] = 0x12;
        assert_eq!(classify_untrusted(&answer), Some(Kind::Other));
        let mut fragment = packet;
        fragment[6] = 0x20;
        assert_eq!(classify_untrusted(&fragment), Some(Kind::Other));
    }

    #[test]
    fn cut_and_bent_packets_never_panic() {
        let mut ipv6 = vec![0x60, 0, 0, 0, 0, 10, 17, 64];
        ipv6.extend([0xfd; 32]);
        ipv6.extend([0, 1, 0, 2, 0, 10, 0, 0, b'h', b'i']);
        assert!(matches!(
            classify_untrusted(&ipv6),
            Some(Kind::Udp { payload: b"hi", .. })
        ));
        for good in [syn(), ipv6] {
            for length in 0..good.len() {
                let _ = (
                    classify_untrusted(&good[..length]),
                    destination(&good[..length]),
                );
                for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                    let mut bent = good.clone();
                    bent[length] = value;
                    let _ = (classify_untrusted(&bent), destination(&bent));
                }
            }
        }
    }
}
