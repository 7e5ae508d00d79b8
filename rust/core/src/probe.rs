//! Answers that the engine gives itself, and answers to our own probes.
//!
//! TSMP (PROTOCOL §5.11) is answered always; ICMP echo (RFC 792, RFC 4443 §4) only in userspace
//! mode, where no kernel stands behind the tunnel.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::offload::{finish, pseudo_sum, sum};
use crate::packet::{Parsed, parse_untrusted, proto};

const TSMP_PING: u8 = b'p';
const TSMP_PONG: u8 = b'o';
/// Type byte and the data that comes back.
const TSMP_PING_BYTES: usize = 9;
const TTL: u8 = 64;
/// Probes of ours that wait for their answer; beyond it the oldest is forgotten.
const MAX_WAITING: usize = 256;

/// What an inbound packet that passed the filter is to the prober.
#[derive(Debug, PartialEq, Eq)]
pub enum Probe {
    /// Answer with this packet, to where it came from; it goes no further.
    Answer(Vec<u8>),
    /// It answers a probe of ours: tell Python (`ProbeReply`); it goes no further.
    Reply,
    /// TSMP that asks nothing of us: drop.
    Consumed,
    /// Not a probe: on to the device.
    Other,
}

/// What the answer to a probe of ours looks like.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    from: IpAddr,
    mark: Mark,
}

#[derive(Debug, PartialEq, Eq)]
enum Mark {
    /// Identifier and sequence number.
    Echo([u8; 4]),
    Tsmp([u8; 8]),
}

/// Which probes of ours (`SendPacket`) wait for an answer, and which addresses are ours.
pub struct Prober {
    answer_echo: bool,
    own: ArcSwap<Vec<IpAddr>>,
    waiting: Mutex<VecDeque<Expected>>,
}

impl Prober {
    /// `answer_echo`: answer ICMP echo requests too (userspace mode).
    #[must_use]
    pub fn new(answer_echo: bool) -> Self {
        Self {
            answer_echo,
            own: ArcSwap::default(),
            waiting: Mutex::default(),
        }
    }

    /// Our addresses; only probes to them are answered. Before they are known, every probe is.
    pub fn set_addresses(&self, own: Vec<IpAddr>) {
        self.own.store(own.into());
    }

    /// A packet that Python sends by `SendPacket`; remembers what its answer looks like.
    pub fn note_sent(&self, packet: &[u8]) {
        let Ok(parsed) = parse_untrusted(packet) else {
            return;
        };
        let upper = &packet[parsed.transport..parsed.total];
        let mark = if parsed.is_echo_request() {
            echo_mark(upper)
        } else if parsed.protocol == proto::TSMP && upper.first() == Some(&TSMP_PING) {
            tsmp_mark(upper)
        } else {
            None
        };
        if let Some(mark) = mark {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= MAX_WAITING {
                waiting.pop_front();
            }
            waiting.push_back(Expected {
                from: parsed.dst,
                mark,
            });
        }
    }

    /// Judge an inbound packet; call after the filter, before the device. Nearly free for
    /// packets that are neither TSMP nor ICMP.
    #[must_use]
    pub fn receive(&self, packet: &[u8]) -> Probe {
        if !may_be_probe(packet) {
            return Probe::Other;
        }
        let Ok(parsed) = parse_untrusted(packet) else {
            return Probe::Other;
        };
        if parsed.later_fragment {
            return Probe::Other;
        }
        let upper = &packet[parsed.transport..parsed.total];
        if parsed.protocol == proto::TSMP {
            return self.receive_tsmp(&parsed, upper);
        }
        if parsed.is_echo_reply() && self.was_expected(parsed.src, echo_mark(upper)) {
            return Probe::Reply;
        }
        if self.answer_echo && parsed.is_echo_request() && self.is_own(parsed.dst) {
            return Probe::Answer(echo_reply(&parsed, upper));
        }
        Probe::Other
    }

    fn receive_tsmp(&self, parsed: &Parsed, upper: &[u8]) -> Probe {
        match upper.first() {
            Some(&TSMP_PING) if upper.len() >= TSMP_PING_BYTES && self.is_own(parsed.dst) => {
                let mut pong = upper[..TSMP_PING_BYTES].to_vec();
                pong[0] = TSMP_PONG;
                pong.extend_from_slice(&[0, 0]); // no PeerAPI port
                Probe::Answer(reply_packet(parsed, &pong))
            }
            Some(&TSMP_PONG) if self.was_expected(parsed.src, tsmp_mark(upper)) => Probe::Reply,
            _ => Probe::Consumed,
        }
    }

    fn is_own(&self, addr: IpAddr) -> bool {
        let own = self.own.load();
        own.is_empty() || own.contains(&addr)
    }

    fn was_expected(&self, from: IpAddr, mark: Option<Mark>) -> bool {
        let Some(mark) = mark else { return false };
        let expected = Expected { from, mark };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.iter().position(|probe| *probe == expected) {
            Some(at) => waiting.remove(at).is_some(),
            None => false,
        }
    }
}

fn may_be_probe(packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => matches!(packet.get(9), Some(&(proto::ICMP | proto::TSMP))),
        Some(6) => matches!(packet.get(6), Some(&(proto::ICMPV6 | proto::TSMP))),
        _ => false,
    }
}

fn echo_mark(upper: &[u8]) -> Option<Mark> {
    Some(Mark::Echo(upper.get(4..8)?.try_into().ok()?))
}

fn tsmp_mark(upper: &[u8]) -> Option<Mark> {
    Some(Mark::Tsmp(upper.get(1..9)?.try_into().ok()?))
}

fn echo_reply(request: &Parsed, upper: &[u8]) -> Vec<u8> {
    let mut reply = upper.to_vec();
    reply[..4].fill(0);
    let pseudo = match (request.src, request.dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            reply[0] = 129;
            let addresses = [dst.octets(), src.octets()].concat();
            pseudo_sum(&addresses, proto::ICMPV6, reply.len())
        }
        _ => 0,
    };
    let checksum = finish(pseudo + sum(&reply));
    reply[2..4].copy_from_slice(&checksum);
    reply_packet(request, &reply)
}

/// A packet back to the sender with this upper layer.
fn reply_packet(request: &Parsed, upper: &[u8]) -> Vec<u8> {
    match (request.src, request.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (20 + upper.len()) as u16;
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, TTL, request.protocol, 0, 0];
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet.extend_from_slice(&dst.octets());
            packet.extend_from_slice(&src.octets());
            let checksum = finish(sum(&packet));
            packet[10..12].copy_from_slice(&checksum);
            packet.extend_from_slice(upper);
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0, request.protocol, TTL];
            packet[4..6].copy_from_slice(&(upper.len() as u16).to_be_bytes());
            packet.extend_from_slice(&dst.octets());
            packet.extend_from_slice(&src.octets());
            packet.extend_from_slice(upper);
            packet
        }
        _ => Vec::new(), // a parsed packet has one family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed_between(src: &str, dst: &str, protocol: u8) -> Parsed {
        Parsed {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol,
            later_fragment: false,
            fragment_at: 0,
            src_port: 0,
            dst_port: 0,
            flags_or_type: 0,
            transport: 0,
            total: 0,
        }
    }

    /// A packet from `src` to `dst`, made by asking for a reply the other way round.
    fn packet(src: &str, dst: &str, protocol: u8, upper: &[u8]) -> Vec<u8> {
        reply_packet(&parsed_between(dst, src, protocol), upper)
    }

    fn prober(answer_echo: bool, own: &str) -> Prober {
        let prober = Prober::new(answer_echo);
        prober.set_addresses(vec![own.parse().unwrap()]);
        prober
    }

    const FAMILIES: [(&str, &str, u8, u8, u8); 2] = [
        ("100.64.0.1", "100.64.0.2", proto::ICMP, 8, 0),
        (
            "fd7a:115c:a1e0::1",
            "fd7a:115c:a1e0::2",
            proto::ICMPV6,
            128,
            129,
        ),
    ];

    #[test]
    fn tsmp_ping_and_pong_find_each_other() {
        for (a, b, ..) in FAMILIES {
            let (alice, bob) = (prober(false, a), prober(false, b));
            let ping = packet(a, b, proto::TSMP, b"p12345678");
            alice.note_sent(&ping);
            let Probe::Answer(pong) = bob.receive(&ping) else {
                panic!("no pong")
            };
            assert_eq!(&pong[pong.len() - 11..], b"o12345678\0\0");
            assert_eq!(alice.receive(&pong), Probe::Reply);
            assert_eq!(alice.receive(&pong), Probe::Consumed, "only once");
            assert_eq!(alice.receive(&ping), Probe::Consumed, "not for us");
            assert_eq!(
                bob.receive(&packet(a, b, proto::TSMP, b"!x")),
                Probe::Consumed
            );
            assert_eq!(
                bob.receive(&packet(a, b, proto::TSMP, b"")),
                Probe::Consumed
            );
            assert_eq!(
                bob.receive(&packet(a, b, proto::TSMP, b"p123")),
                Probe::Consumed
            );
        }
    }

    #[test]
    fn echo_is_answered_with_right_checksums() {
        for (a, b, protocol, request, reply) in FAMILIES {
            let (alice, bob) = (prober(false, a), prober(true, b));
            let echo = packet(a, b, protocol, &[request, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
            alice.note_sent(&echo);
            let Probe::Answer(answer) = bob.receive(&echo) else {
                panic!("no answer")
            };
            let parsed = parse_untrusted(&answer).unwrap();
            assert_eq!(parsed.flags_or_type, reply);
            let upper = &answer[parsed.transport..];
            assert_eq!(&upper[4..], &[3, 4, 5, 6, 7, 8, 9]);
            let mut total = sum(upper);
            if protocol == proto::ICMPV6 {
                total += pseudo_sum(&answer[8..40], protocol, upper.len());
            } else {
                assert_eq!(finish(sum(&answer[..20])), [0, 0]);
            }
            assert_eq!(finish(total), [0, 0]);
            assert_eq!(alice.receive(&answer), Probe::Reply);
            assert_eq!(
                alice.receive(&answer),
                Probe::Other,
                "the kernel's own ping"
            );
            assert_eq!(alice.receive(&echo), Probe::Other, "the kernel answers");
        }
    }

    #[test]
    fn bounded_and_unmoved_by_garbage() {
        let alice = prober(true, "100.64.0.1");
        for n in 0..10_000_u32 {
            let data = [&b"p0000"[..], &n.to_be_bytes()].concat();
            alice.note_sent(&packet("100.64.0.1", "100.64.0.2", proto::TSMP, &data));
        }
        assert_eq!(alice.waiting.lock().unwrap().len(), MAX_WAITING);
        for len in 0..60 {
            let mut junk = vec![0x45; len];
            if len > 9 {
                junk[9] = proto::TSMP;
            }
            let _ = alice.receive(&junk);
            alice.note_sent(&junk);
        }
    }
}
