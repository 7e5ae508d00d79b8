//! The whole way of a packet without sockets: split, sealed, over a wire that loses, doubles and
//! reorders, opened, filtered, joined, and apart again as the kernel would. Whatever the wire let
//! through comes out once, byte for byte, flows in the order of their arrival.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use warren_core::clock::{Entropy, Now};
use warren_core::filter::Gate;
use warren_core::offload::{
    Coalescer, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Part, Split, VnetHeader, finish,
    pseudo_sum, sum,
};
use warren_core::seam::{DstSpan, FilterRule, Span};
use warren_core::wg::{
    Batch, HEADER_BYTES, PeerConfig, PrivateKey, PublicKey, Session, Source, Tunnel, TunnelConfig,
};

const MTU: usize = 1280;
const TCP: u8 = 6;
const UDP: u8 = 17;
const NOW: Now = Now {
    mono_ms: 1,
    wall: Duration::from_secs(1_700_000_000),
};

struct Noise(AtomicU64);

impl Noise {
    fn next(&self) -> u64 {
        let mut word = self.0.load(Ordering::Relaxed);
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        self.0.store(word, Ordering::Relaxed);
        word
    }

    fn below(&self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

impl Entropy for Noise {
    fn fill(&self, out: &mut [u8]) {
        out.fill_with(|| self.next() as u8);
    }
}

/// A packet behind an IP header and what else goes before the upper layer.
fn ip(v6: bool, next: u8, fragment: u16, before: &[u8], upper: &[u8]) -> Vec<u8> {
    let rest = (before.len() + upper.len()) as u16;
    let mut packet = if v6 {
        let mut head = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        head[4..6].copy_from_slice(&rest.to_be_bytes());
        head.resize(24, 0xfd);
        head.resize(40, 0xfc);
        head
    } else {
        let mut head = vec![0x45, 0, 0, 0, 0, 9, 0, 0, 64, next, 0, 0];
        head[2..4].copy_from_slice(&(rest + 20).to_be_bytes());
        head[6..8].copy_from_slice(&fragment.to_be_bytes());
        head.extend_from_slice(&[100, 64, 0, 1, 100, 64, 0, 2]);
        let check = finish(sum(&head));
        head[10..12].copy_from_slice(&check);
        head
    };
    packet.extend_from_slice(before);
    packet.extend_from_slice(upper);
    packet
}

/// TCP or UDP with this payload; the checksum is whole, or only the pseudo-header's.
fn transport(v6: bool, kind: u8, port: u16, seq: u32, payload: &[u8], whole: bool) -> Vec<u8> {
    let mut upper = 443u16.to_be_bytes().to_vec();
    upper.extend_from_slice(&port.to_be_bytes());
    if kind == TCP {
        upper.extend_from_slice(&seq.to_be_bytes());
        upper.extend_from_slice(&[0, 0, 0, 7, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    } else {
        upper.extend_from_slice(&((payload.len() + 8) as u16).to_be_bytes());
        upper.extend_from_slice(&[0, 0]);
    }
    upper.extend_from_slice(payload);
    let addresses = ip(v6, kind, 0, &[], &[]);
    let addresses = if v6 {
        &addresses[8..40]
    } else {
        &addresses[12..20]
    };
    let pseudo = pseudo_sum(addresses, kind, upper.len());
    let check = if whole {
        finish(pseudo + sum(&upper))
    } else {
        finish(pseudo).map(|byte| !byte)
    };
    let field = if kind == TCP { 16 } else { 6 };
    upper[field..field + 2].copy_from_slice(&check);
    upper
}

/// One packet as the device may hand it over, of any kind and of an odd size.
fn draw(noise: &Noise, sequences: &mut [u32; 3]) -> (VnetHeader, Vec<u8>) {
    let v6 = noise.below(2) == 0;
    let head = if v6 { 40 } else { 20 };
    let mut size = [
        0,
        1,
        2,
        15,
        500,
        MTU - head - 21,
        MTU - head - 20,
        MTU - head - 8,
    ][noise.below(8)];
    let flow = noise.below(3);
    let port = flow as u16 + 1;
    let bytes = |count: usize| (0..count).map(|_| noise.next() as u8).collect::<Vec<_>>();
    match noise.below(6) {
        kind @ (0 | 1) => {
            // A super-packet: up to 40 segments, the last of any size.
            let kind = if kind == 0 { TCP } else { UDP };
            let gso_size = [1, 700, MTU - head - 20][flow];
            let payload = bytes(gso_size + noise.below(gso_size * 39));
            let upper = transport(v6, kind, port, sequences[flow], &payload, false);
            sequences[flow] = sequences[flow].wrapping_add(payload.len() as u32);
            let header = VnetHeader {
                flags: NEEDS_CSUM,
                gso_type: match (kind, v6) {
                    (UDP, _) => GSO_UDP_L4,
                    (_, false) => GSO_TCPV4,
                    _ => GSO_TCPV6,
                },
                hdr_len: 0,
                gso_size: gso_size as u16,
                csum_start: head as u16,
                csum_offset: if kind == TCP { 16 } else { 6 },
            };
            (header, ip(v6, kind, 0, &[], &upper))
        }
        2 => {
            size = size.min(MTU - head - 20);
            let upper = transport(v6, TCP, port, sequences[flow], &bytes(size), true);
            sequences[flow] = sequences[flow].wrapping_add(size as u32);
            (VnetHeader::default(), ip(v6, TCP, 0, &[], &upper))
        }
        3 if v6 => {
            let options = [UDP, 0, 1, 4, 0, 0, 0, 0];
            let upper = transport(v6, UDP, port, 0, &bytes(size.min(1224)), true);
            (VnetHeader::default(), ip(v6, 60, 0, &options, &upper))
        }
        4 if v6 => {
            let fragment = [UDP, 0, 0x04, 0xd1, 0, 0, 0, 7];
            let rest = bytes(size.min(1224));
            (VnetHeader::default(), ip(v6, 44, 0, &fragment, &rest))
        }
        4 => (
            VnetHeader::default(),
            ip(v6, UDP, 0x2000 | 154, &[], &bytes(size)),
        ),
        _ => {
            let upper = transport(v6, UDP, port, 0, &bytes(size), true);
            (VnetHeader::default(), ip(v6, UDP, 0, &[], &upper))
        }
    }
}

fn segments(header: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut split = Split::new(header, packet).expect("a packet");
    let mut room = vec![0; split.segment_len()];
    std::iter::from_fn(|| split.write_next(&mut room).map(|len| room[..len].to_vec())).collect()
}

fn tunnel(private: u8, peer: u8) -> Tunnel {
    let config = TunnelConfig {
        initiations_per_s: 100,
    };
    let tunnel = Tunnel::new(config, Arc::new(Noise(AtomicU64::new(private.into()))));
    tunnel.set_identity(PrivateKey([private; 32]));
    let peer = PeerConfig {
        key: key(peer),
        allowed_ips: vec![
            "0.0.0.0/0".parse().expect("all"),
            "::/0".parse().expect("all"),
        ],
        home_region: 1,
        roams: false,
        endpoint: None,
        keepalive_s: 0,
    };
    tunnel.set_peers(&[peer], &[], NOW);
    tunnel
}

fn key(private: u8) -> PublicKey {
    PrivateKey([private; 32]).public()
}

/// Shakes hands; the session that seals from `a` to `b`.
fn connect(a: &Tunnel, b: &Tunnel) -> Arc<Session> {
    let to_b = a.tables().peer(&key(2)).expect("b").clone();
    assert!(a.stage(&to_b, NOW).is_ok(), "no session yet");
    for (from, to, who) in [(a, b, 1), (b, a, 2), (a, b, 1)] {
        let src = Source::Relay {
            region: 1,
            peer: key(who),
        };
        while let Some(transmit) = from.poll_transmit() {
            let mut datagram = transmit.datagram;
            if to.receive_handshake(&datagram, src, NOW).is_err() {
                let session = to.session(&datagram).expect("a session");
                let mut opener = session.opener();
                opener.open_in_place(&mut datagram).expect("authentic");
                to.received(&session, opener.finish(), src, NOW);
            }
        }
    }
    a.sender(&to_b, NOW).expect("a session")
}

fn open_gate() -> Gate {
    let gate = Gate::new();
    let spans = [("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff::ffff")];
    let spans = spans.map(|(first, last)| Span {
        first: first.into(),
        last: last.into(),
    });
    let destinations = spans.iter().map(|span| DstSpan {
        span: span.clone(),
        first_port: 0,
        last_port: 65_535,
    });
    let rule = FilterRule {
        sources: spans.to_vec(),
        destinations: destinations.collect(),
        protocols: vec![TCP, UDP],
    };
    gate.set(&[rule], false).expect("rules");
    gate
}

/// Loses one in 30, doubles one in 20, and lets one in 8 wait for up to 40 others.
fn wire(noise: &Noise, sent: Vec<(usize, Vec<u8>)>) -> Vec<(usize, Vec<u8>)> {
    let mut arriving: Vec<(usize, (usize, Vec<u8>))> = Vec::new();
    for (at, datagram) in sent.into_iter().enumerate() {
        if noise.below(30) == 0 {
            continue;
        }
        let delay = |noise: &Noise| {
            if noise.below(8) == 0 {
                noise.below(40)
            } else {
                0
            }
        };
        if noise.below(20) == 0 {
            arriving.push((at + delay(noise), datagram.clone()));
        }
        arriving.push((at + delay(noise), datagram));
    }
    arriving.sort_by_key(|(at, _)| *at);
    arriving.into_iter().map(|(_, datagram)| datagram).collect()
}

/// What tells flows whose order counts apart: addresses' family, protocol, destination port.
fn flow_of(packet: &[u8]) -> Option<(u8, u8, u8)> {
    let (next, at) = match packet[0] >> 4 {
        4 if packet[6] & 0x3f == 0 && packet[7] == 0 => (packet[9], 20),
        6 => (packet[6], 40),
        _ => return None,
    };
    matches!(next, TCP | UDP).then(|| (packet[0] >> 4, next, packet[at + 3]))
}

/// Packets with their index, sealed in one buffer as the engine does it.
fn seal_all(session: &Session, plain: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    let (mut buffer, mut numbered, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for packet in plain {
        let start = buffer.len();
        buffer.resize(start + HEADER_BYTES, 0);
        buffer.extend_from_slice(packet);
        buffer.resize(start + Session::sealed_len(packet.len()), 0xee);
        numbered.push(
            session
                .begin(&mut buffer, start, packet.len(), MTU)
                .expect("room"),
        );
        ends.push((start, buffer.len()));
    }
    session.seal(&mut buffer, &numbered);
    let cut =
        |(index, (start, end)): (usize, &(usize, usize))| (index, buffer[*start..*end].to_vec());
    ends.iter().enumerate().map(cut).collect()
}

#[test]
fn what_the_wire_lets_through_comes_out_once_and_in_order() {
    let noise = Noise(AtomicU64::new(0x2545_f491_4f6c_dd1d));
    let (a, b) = (tunnel(1, 2), tunnel(2, 1));
    let sealing = connect(&a, &b);
    let gate = open_gate();
    let (mut sequences, mut replayed, mut joined) = ([0; 3], 0, 0);
    for round in 0..300 {
        let mut plain = Vec::new();
        for _ in 0..=noise.below(12) {
            let (header, packet) = draw(&noise, &mut sequences);
            plain.extend(segments(header, &packet));
        }
        let arrived = wire(&noise, seal_all(&sealing, &plain));

        let mut arena: Vec<u8> = arrived.iter().flat_map(|(_, d)| d.clone()).collect();
        let mut coalescer = Coalescer::new(round % 2 == 0);
        let (mut expected, mut start, mut parts) = (Vec::new(), 0, Vec::new());
        let opening = b.session(&arrived.first().map_or(vec![], |(_, d)| d.clone()));
        let Some(opening) = opening else { continue };
        let mut opener = opening.opener();
        let mut seen = vec![false; plain.len()];
        let mut results = Vec::new();
        while results.len() < arrived.len() {
            let next = &arrived[results.len()..];
            let next = &next[..next.len().min(1 + noise.below(40))];
            let mut batch = Batch::default();
            for (_, datagram) in next {
                let end = start + datagram.len();
                opener.add(&mut batch, &arena, start..end);
                start = end;
            }
            opener.open(&mut batch, &mut arena);
            results.extend((0..next.len()).map(|n| opener.packet(&batch, n, &arena)));
        }
        for ((index, _), result) in arrived.iter().zip(results) {
            match result {
                Ok(place) => {
                    let packet = &arena[place.clone()];
                    assert!(!seen[*index], "a doubled datagram was let in");
                    seen[*index] = true;
                    assert_eq!(packet, plain[*index].as_slice());
                    gate.check_in(packet).expect("the filter is open");
                    parts.push(Part {
                        start: place.start as u32,
                        len: place.len() as u32,
                    });
                    expected.push(plain[*index].clone());
                }
                Err(_) => {
                    assert!(seen[*index], "only what came already is refused");
                    replayed += 1;
                }
            }
        }
        for part in parts {
            coalescer.push(&arena, part);
        }
        let mut out = Vec::new();
        coalescer.drain(&mut arena, |arena, group, parts| {
            let whole: Vec<u8> = parts
                .flat_map(|part| arena[part.start as usize..][..part.len as usize].to_vec())
                .collect();
            let pieces = segments(group.header, &whole);
            joined += pieces.len() - 1;
            out.extend(pieces);
        });
        let in_flow = |packets: &[Vec<u8>], flow| {
            let of = packets.iter().filter(|packet| flow_of(packet) == flow);
            of.cloned().collect::<Vec<_>>()
        };
        for flow in expected.iter().map(|packet| flow_of(packet)) {
            let (came, wanted) = (in_flow(&out, flow), in_flow(&expected, flow));
            assert!(came == wanted, "{flow:?} in round {round}");
        }
        assert_eq!(out.len(), expected.len(), "nothing beside");
    }
    assert!(replayed > 500, "the wire doubled: {replayed}");
    assert!(joined > 2_000, "packets were joined: {joined}");
}
