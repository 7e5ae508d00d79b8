//! What went in is what came out: segments against a slow, obvious checksum and against the
//! joined packets they came from.

use super::*;

mod fit;

/// A small generator, so that failures replay.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> usize {
        (self.next() % bound) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// RFC 1071 word by word, in network order.
fn slow_checksum(chunks: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = chunks.concat();
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn transport_of(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { 20 } else { 40 }
}

fn slow_transport_checksum(packet: &[u8]) -> u16 {
    let at = transport_of(packet);
    let (addresses, protocol) = if at == 20 {
        (&packet[12..20], packet[9])
    } else {
        (&packet[8..40], packet[6])
    };
    let length = ((packet.len() - at) as u32).to_be_bytes();
    slow_checksum(&[addresses, &[0, 0, 0, protocol], &length, &packet[at..]])
}

fn assert_valid(packet: &[u8]) {
    if packet[0] >> 4 == 4 {
        assert_eq!(
            usize::from(packet[2]) << 8 | usize::from(packet[3]),
            packet.len()
        );
        assert_eq!(slow_checksum(&[&packet[..20]]), 0, "IPv4 header checksum");
    } else {
        assert_eq!(
            (usize::from(packet[4]) << 8 | usize::from(packet[5])) + 40,
            packet.len()
        );
    }
    assert_eq!(slow_transport_checksum(packet), 0, "transport checksum");
}

#[derive(Clone, Copy)]
struct Shape {
    v6: bool,
    tcp: bool,
    options: usize,
}

const SHAPES: [Shape; 6] = [
    Shape {
        v6: false,
        tcp: true,
        options: 12,
    },
    Shape {
        v6: true,
        tcp: true,
        options: 12,
    },
    Shape {
        v6: false,
        tcp: true,
        options: 0,
    },
    Shape {
        v6: true,
        tcp: true,
        options: 40,
    },
    Shape {
        v6: false,
        tcp: false,
        options: 0,
    },
    Shape {
        v6: true,
        tcp: false,
        options: 0,
    },
];

/// A whole packet with valid checksums.
fn build(shape: Shape, port: u16, sequence: u32, flags: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let at = if shape.v6 { 40 } else { 20 };
    let transport_len = if shape.tcp { 20 + shape.options } else { 8 };
    let total = at + transport_len + payload.len();
    let protocol = if shape.tcp { 6 } else { 17 };
    let mut p = vec![0u8; total];
    if shape.v6 {
        p[0] = 0x60;
        p[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        p[6] = protocol;
        p[7] = 64;
        p[8..40].copy_from_slice(&[0xfd; 32]);
        p[39] = 2;
    } else {
        p[0] = 0x45;
        p[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        p[4..6].copy_from_slice(&id.to_be_bytes());
        p[6] = 0x40;
        p[8] = 64;
        p[9] = protocol;
        p[12..20].copy_from_slice(&[100, 64, 0, 1, 100, 64, 0, 2]);
        let check = slow_checksum(&[&p[..20]]);
        p[10..12].copy_from_slice(&check.to_be_bytes());
    }
    p[at..at + 2].copy_from_slice(&443u16.to_be_bytes());
    p[at + 2..at + 4].copy_from_slice(&port.to_be_bytes());
    let field = if shape.tcp {
        p[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        p[at + 8..at + 12].copy_from_slice(&77u32.to_be_bytes());
        p[at + 12] = ((transport_len / 4) as u8) << 4;
        p[at + 13] = flags;
        p[at + 14] = 0x7f;
        p[at + 20..at + 20 + shape.options].fill(1);
        at + 16
    } else {
        p[at + 4..at + 6].copy_from_slice(&((total - at) as u16).to_be_bytes());
        at + 6
    };
    p[at + transport_len..].copy_from_slice(payload);
    let check = slow_transport_checksum(&p);
    let check = if check == 0 && !shape.tcp {
        0xffff
    } else {
        check
    };
    p[field..field + 2].copy_from_slice(&check.to_be_bytes());
    p
}

fn gso_header(shape: Shape, packet: &mut [u8], size: u16) -> VnetHeader {
    let at = transport_of(packet);
    let offset = if shape.tcp { 16 } else { 6 };
    // As the kernel leaves it: the checksum field holds the pseudo-header sum.
    let (addresses, protocol) = if at == 20 {
        (packet[12..20].to_vec(), packet[9])
    } else {
        (packet[8..40].to_vec(), packet[6])
    };
    let length = ((packet.len() - at) as u32).to_be_bytes();
    let partial = !slow_checksum(&[&addresses, &[0, 0, 0, protocol], &length]);
    packet[at + offset..at + offset + 2].copy_from_slice(&partial.to_be_bytes());
    VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: match (shape.tcp, shape.v6) {
            (false, _) => GSO_UDP_L4,
            (true, false) => GSO_TCPV4,
            (true, true) => GSO_TCPV6,
        },
        hdr_len: 0,
        gso_size: size,
        csum_start: at as u16,
        csum_offset: offset as u16,
    }
}

fn split_all(header: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut split = Split::new(header, packet).expect("splits");
    let mut out = vec![0u8; split.segment_len()];
    let mut segments = Vec::new();
    while let Some(length) = split.write_next(&mut out) {
        segments.push(out[..length].to_vec());
    }
    assert_eq!(segments.len(), split.count());
    segments
}

fn payload_of(shape: Shape, packet: &[u8]) -> &[u8] {
    &packet[transport_of(packet) + if shape.tcp { 20 + shape.options } else { 8 }..]
}

#[test]
fn segments_are_valid_and_carry_every_byte_once() {
    let mut noise = Noise(7);
    for shape in SHAPES {
        for size in [1usize, 2, 7, 536, 1228, 1460] {
            for length in [1usize, size, size + 1, 3 * size - 1, 3 * size, 20_001] {
                if length / size > 2000 {
                    continue;
                }
                let payload = noise.bytes(length);
                let flags = 0x10 | 0x08 | 0x01 | 0x80;
                let mut whole = build(shape, 80, u32::MAX - 5, flags, u16::MAX, &payload);
                let header = gso_header(shape, &mut whole, size as u16);
                let segments = split_all(header, &whole);
                let joined: Vec<u8> = segments
                    .iter()
                    .flat_map(|s| payload_of(shape, s).to_vec())
                    .collect();
                assert_eq!(joined, payload);
                let at = transport_of(&whole);
                for (index, segment) in segments.iter().enumerate() {
                    assert_valid(segment);
                    let last = index + 1 == segments.len();
                    if shape.tcp {
                        let expected = (u32::MAX - 5).wrapping_add((index * size) as u32);
                        assert_eq!(segment[at + 4..at + 8], expected.to_be_bytes());
                        assert_eq!(segment[at + 13] & 0x09 != 0, last);
                        assert_eq!(segment[at + 13] & 0x80 != 0, index == 0);
                    }
                    if !shape.v6 {
                        let id = u16::MAX.wrapping_add(index as u16);
                        assert_eq!(segment[4..6], id.to_be_bytes());
                    }
                }
            }
        }
    }
}

#[test]
fn open_checksums_are_completed() {
    let mut noise = Noise(11);
    for shape in SHAPES {
        for length in [0usize, 1, 2, 3, 99, 1200] {
            let payload = noise.bytes(length);
            let whole = build(shape, 53, 1, 0x10, 9, &payload);
            let mut open = whole.clone();
            let mut header = gso_header(shape, &mut open, 0);
            header.gso_type = GSO_NONE;
            assert_eq!(split_all(header, &open), vec![whole]);
        }
    }
}

#[test]
fn contradictory_headers_are_refused() {
    let shape = SHAPES[0];
    let mut whole = build(shape, 80, 1, 0x10, 0, &[0; 3000]);
    let good = gso_header(shape, &mut whole, 1000);
    let bad = [
        VnetHeader {
            gso_size: 0,
            ..good
        },
        VnetHeader {
            gso_type: GSO_TCPV6,
            ..good
        },
        VnetHeader {
            gso_type: 3,
            ..good
        },
        VnetHeader {
            gso_type: 77,
            ..good
        },
        VnetHeader {
            csum_start: 0,
            ..good
        },
        VnetHeader {
            csum_start: 60_000,
            ..good
        },
        VnetHeader {
            gso_type: GSO_NONE,
            csum_start: 3051,
            ..good
        },
    ];
    for header in bad {
        assert!(Split::new(header, &whole).is_err(), "{header:?}");
    }
    for cut in 0..52 {
        let _ = Split::new(good, &whole[..cut]);
    }
    assert!(Split::new(good, &whole[..51]).is_err());
    let mut noise = Noise(3);
    for _ in 0..20_000 {
        let length = noise.below(120);
        let mut packet = noise.bytes(length);
        if let Some(first) = packet.first_mut() {
            *first = if noise.below(2) == 0 { 0x45 } else { 0x60 };
        }
        let mut raw = [0u8; VNET_LEN];
        raw.copy_from_slice(&noise.bytes(VNET_LEN));
        raw[1] = [0, 1, 4, 5, 0x81][noise.below(5)];
        raw[7] = 0;
        if let Ok(mut split) = Split::new(VnetHeader::parse(&raw), &packet) {
            let mut out = vec![0u8; split.segment_len()];
            for _ in 0..split.count() {
                assert!(split.write_next(&mut out).is_some());
            }
        }
    }
}

/// Packets through the coalescer and apart again, in order of writing.
fn join_and_split(packets: &[Vec<u8>], join_udp: bool) -> (usize, Vec<Vec<u8>>) {
    let mut arena = vec![0xee; 16];
    let mut ranges = Vec::new();
    for packet in packets {
        ranges.push(Part {
            start: arena.len() as u32,
            len: packet.len() as u32,
        });
        arena.extend_from_slice(packet);
        arena.extend_from_slice(&[0xee; 33]);
    }
    let mut coalescer = Coalescer::new(join_udp);
    for range in ranges {
        coalescer.push(&arena, range);
    }
    let (mut writes, mut out) = (0, Vec::new());
    coalescer.drain(&mut arena, |arena, group, parts| {
        writes += 1;
        let whole: Vec<u8> = parts
            .flat_map(|part| arena[part.start as usize..][..part.len as usize].to_vec())
            .collect();
        assert_eq!(whole.len(), group.total_len as usize);
        assert!(whole.len() <= 65_535);
        out.extend(split_all(group.header, &whole));
    });
    (writes, out)
}

#[test]
fn a_bulk_flow_becomes_one_write_and_comes_apart_the_same() {
    let mut noise = Noise(5);
    for shape in SHAPES {
        let mut packets = Vec::new();
        for index in 0..40u32 {
            let flags = if index == 39 { 0x18 } else { 0x10 };
            let payload = noise.bytes(if index == 39 { 17 } else { 1000 });
            let id = 65_530u16.wrapping_add(index as u16);
            packets.push(build(shape, 80, u32::MAX - 9_000, flags, id, &payload));
            let at = transport_of(&packets[0]);
            if shape.tcp {
                let sequence = (u32::MAX - 9_000).wrapping_add(index * 1000);
                let last = packets.len() - 1;
                packets[last] = build(shape, 80, sequence, flags, id, &payload);
                assert_eq!(packets[last][at + 4..at + 8], sequence.to_be_bytes());
            }
        }
        let (writes, out) = join_and_split(&packets, true);
        assert_eq!(writes, 1);
        assert_eq!(out, packets);
    }
}

#[test]
fn what_must_not_be_joined_is_not() {
    let shape = SHAPES[0];
    let payload = [9u8; 100];
    let first = build(shape, 80, 1000, 0x10, 1, &payload);
    let next = build(shape, 80, 1100, 0x10, 2, &payload);
    assert_eq!(join_and_split(&[first.clone(), next.clone()], true).0, 1);
    let edit = |at: usize, value: u8| {
        let mut packet = build(shape, 80, 1100, 0x10, 2, &payload);
        packet[at] = value;
        packet[10..12].fill(0);
        let check = slow_checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
        packet[36..38].fill(0);
        let check = slow_transport_checksum(&packet);
        packet[36..38].copy_from_slice(&check.to_be_bytes());
        packet
    };
    let mut broken = next.clone();
    broken[80] ^= 1;
    let mut broken_ip = next.clone();
    broken_ip[10] ^= 1;
    let others = [
        ("gap", build(shape, 80, 1101, 0x10, 2, &payload)),
        ("other port", build(shape, 81, 1100, 0x10, 2, &payload)),
        ("longer", build(shape, 80, 1100, 0x10, 2, &[9; 101])),
        ("syn", build(shape, 80, 1100, 0x12, 2, &payload)),
        ("pure ack", build(shape, 80, 1100, 0x10, 2, &[])),
        ("tos", edit(1, 1)),
        ("ttl", edit(8, 63)),
        ("no DF", edit(6, 0)),
        ("fragment", edit(7, 1)),
        ("ack", edit(28, 5)),
        ("window", edit(34, 5)),
        ("option", edit(45, 5)),
        ("checksum", broken),
        ("IP checksum", broken_ip),
    ];
    for (name, other) in others {
        let (writes, out) = join_and_split(&[first.clone(), other.clone()], true);
        assert_eq!(writes, 2, "{name}");
        assert_eq!(out, [first.clone(), other], "{name}");
    }
    let pushed = build(shape, 80, 1000, 0x18, 1, &payload);
    assert_eq!(
        join_and_split(&[pushed, next.clone()], true).0,
        2,
        "nothing after a push"
    );
    // A stranger in the middle of a flow closes it: nothing overtakes.
    let ack = build(shape, 80, 1100, 0x10, 2, &[]);
    let order = [first, ack, next];
    assert_eq!(join_and_split(&order, true).1, order);
    let udp = SHAPES[4];
    let datagrams = [
        build(udp, 80, 0, 0, 1, &payload),
        build(udp, 80, 0, 0, 2, &payload),
    ];
    assert_eq!(
        join_and_split(&datagrams, false).0,
        2,
        "the device takes no UDP super-packets"
    );
}

#[test]
fn random_mixtures_keep_every_flow_in_order() {
    for seed in 1..60u64 {
        let mut noise = Noise(seed * 7919);
        let mut sequences = [0u32; 24];
        let mut ids = [0u16; 24];
        let mut packets = Vec::new();
        for _ in 0..noise.below(200) {
            let flow = noise.below(24);
            let shape = SHAPES[flow % 6];
            let length = [0, 1, 500, 500, 500, 1228, 9000][noise.below(7)];
            let payload = noise.bytes(length);
            let flags = [0x10, 0x10, 0x10, 0x18, 0x11, 0x02][noise.below(6)];
            let mut packet = build(
                shape,
                flow as u16,
                sequences[flow],
                flags,
                ids[flow],
                &payload,
            );
            sequences[flow] = sequences[flow].wrapping_add(length as u32);
            ids[flow] = ids[flow].wrapping_add(1);
            if noise.below(40) == 0 {
                let at = 1 + noise.below(packet.len() as u64 - 1);
                packet[at] ^= 0x10;
            }
            packets.push(packet);
        }
        let (_, out) = join_and_split(&packets, seed % 2 == 0);
        assert_eq!(out.len(), packets.len());
        let port = |packet: &Vec<u8>| {
            let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
            (packet[0] >> 4, packet.get(at..at + 4).map(<[u8]>::to_vec))
        };
        let mut keys: Vec<_> = packets.iter().map(port).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let before: Vec<_> = packets.iter().filter(|p| port(p) == key).collect();
            let after: Vec<_> = out.iter().filter(|p| port(p) == key).collect();
            assert_eq!(before, after, "seed {seed}");
        }
    }
}
