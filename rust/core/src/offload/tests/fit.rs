//! Packets for a path that is smaller than the one that the kernel cut for.

use super::*;

#[test]
fn tcp_is_cut_anew_to_fit_and_carries_every_byte_once() {
    let mut noise = Noise(11);
    for shape in SHAPES.iter().copied().filter(|shape| shape.tcp) {
        for mtu in [1280usize, 1281, 1300, 1340, 1440] {
            for length in [1usize, 1228, 1400, 1401, 2_800, 5_601, 60_000] {
                let payload = noise.bytes(length);
                let mut whole = build(shape, 80, u32::MAX - 5, 0x18, 9, &payload);
                let header = gso_header(shape, &mut whole, 1400);
                let mut split = Split::new(header, &whole).expect("splits");
                assert_eq!(split.fit(mtu), Ok(()));
                assert!(split.segment_len() <= mtu);
                let mut out = vec![0u8; split.segment_len()];
                let (mut joined, mut count, mut sequence) = (Vec::new(), 0, u32::MAX - 5);
                while let Some(len) = split.write_next(&mut out) {
                    assert_valid(&out[..len]);
                    let at = transport_of(&out);
                    assert_eq!(out[at + 4..at + 8], sequence.to_be_bytes());
                    let part = payload_of(shape, &out[..len]);
                    sequence = sequence.wrapping_add(part.len() as u32);
                    joined.extend_from_slice(part);
                    count += 1;
                }
                assert_eq!((joined, count), (payload, split.count()));
            }
        }
    }
}

#[test]
fn what_cannot_be_cut_is_too_big_and_what_fits_is_left_alone() {
    for shape in SHAPES {
        // A single packet, as it is, and with an open checksum.
        let head = build(shape, 80, 1, 0x10, 9, &[]).len();
        for (len, fits) in [(1_440, true), (1_441, false)] {
            let packet = build(shape, 80, 1, 0x10, 9, &vec![1; len - head]);
            let mut split = Split::new(VnetHeader::default(), &packet).unwrap();
            assert_eq!(split.fit(1_440).is_ok(), fits);
            assert_eq!(split.fit(usize::MAX), Ok(()));
        }
    }
    // Datagrams of a super-packet cannot be made smaller.
    for shape in SHAPES.iter().copied().filter(|shape| !shape.tcp) {
        let mut whole = build(shape, 80, 1, 0, 9, &[7; 6_000]);
        let header = gso_header(shape, &mut whole, 1_400);
        assert_eq!(Split::new(header, &whole).unwrap().fit(1_400), Err(TooBig));
        assert_eq!(Split::new(header, &whole).unwrap().fit(1_500), Ok(()));
    }
    // Headers that leave no room.
    let mut whole = build(SHAPES[3], 80, 1, 0x10, 9, &[7; 6_000]);
    let header = gso_header(SHAPES[3], &mut whole, 1_400);
    assert_eq!(Split::new(header, &whole).unwrap().fit(100), Err(TooBig));
}

/// The checksum of an ICMP message, with the pseudo-header in the case of IPv6.
fn icmp_checksum(answer: &[u8]) -> u16 {
    match answer[0] >> 4 {
        4 => slow_checksum(&[&answer[20..]]),
        _ => slow_transport_checksum(answer),
    }
}

#[test]
fn the_sender_is_told_how_much_the_path_carries() {
    for shape in SHAPES {
        for len in [1usize, 500, 1_400, 60_000] {
            let mut packet = build(shape, 80, 1, 0x10, 9, &vec![5; len]);
            gso_header(shape, &mut packet, 1_400);
            let mut out = [0xee; ANSWER_BYTES];
            let total = too_big(&packet, 1_340, &mut out).expect("an answer");
            let answer = &out[..total];
            assert_eq!(icmp_checksum(answer), 0);
            if shape.v6 {
                assert_eq!(
                    usize::from(answer[4]) << 8 | usize::from(answer[5]),
                    total - 40
                );
                assert_eq!(
                    (&answer[8..24], &answer[24..40]),
                    (&packet[24..40], &packet[8..24])
                );
                assert_eq!((answer[6], answer[40], answer[41]), (58, 2, 0));
                assert_eq!(answer[44..48], 1_340u32.to_be_bytes());
                assert_eq!(answer[48..], packet[..packet.len().min(1_232)]);
            } else {
                assert_eq!(slow_checksum(&[&answer[..20]]), 0);
                assert_eq!(usize::from(answer[2]) << 8 | usize::from(answer[3]), total);
                assert_eq!(
                    (&answer[12..16], &answer[16..20]),
                    (&packet[16..20], &packet[12..16])
                );
                assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 4));
                assert_eq!(answer[26..28], 1_340u16.to_be_bytes());
                assert_eq!(answer[28..], packet[..packet.len().min(548)]);
            }
        }
    }
}

#[test]
fn errors_fragments_and_crowds_get_no_answer() {
    let mut out = [0; ANSWER_BYTES];
    let udp = build(SHAPES[4], 80, 1, 0, 9, &[5; 1_400]);
    assert!(too_big(&udp, 1_280, &mut out).is_some());
    let changed = |at: usize, value: u8| {
        let mut packet = udp.clone();
        packet[at] = value;
        packet
    };
    // A later fragment; to and from a multicast group; from nowhere; cut short; no IP.
    for packet in [
        changed(7, 1),
        changed(16, 224),
        changed(12, 224),
        changed(0, 0x95),
    ] {
        assert_eq!(too_big(&packet, 1_280, &mut out), None);
    }
    let mut nowhere = udp.clone();
    nowhere[12..16].fill(0);
    assert_eq!(too_big(&nowhere, 1_280, &mut out), None);
    assert_eq!(too_big(&udp[..100], 1_280, &mut out), None);
    // ICMP errors, but echoes.
    for (kind, answered) in [(3, false), (11, false), (8, true), (0, true)] {
        let mut icmp = changed(9, 1);
        icmp[20] = kind;
        assert_eq!(too_big(&icmp, 1_280, &mut out).is_some(), answered);
    }
    let udp6 = build(SHAPES[5], 80, 1, 0, 9, &[5; 1_400]);
    for (kind, answered) in [(1, false), (2, false), (127, false), (128, true)] {
        let mut icmp = udp6.clone();
        icmp[6] = 58;
        icmp[40] = kind;
        assert_eq!(too_big(&icmp, 1_280, &mut out).is_some(), answered);
    }
}

#[test]
fn no_bytes_make_it_fail() {
    let mut noise = Noise(13);
    let mut out = [0; ANSWER_BYTES];
    for round in 0..200_000 {
        let len = noise.below(200) + if round % 50 == 0 { 1_400 } else { 0 };
        let mut packet = noise.bytes(len);
        if let Some(first) = packet.first_mut() {
            *first = if noise.below(2) == 0 { 0x45 } else { 0x60 };
        }
        if let Some(total) = too_big(&packet, 1_280 + noise.below(8_000), &mut out) {
            assert!(total <= ANSWER_BYTES);
        }
        let header = VnetHeader {
            flags: noise.next() as u8,
            gso_type: noise.below(6) as u8,
            hdr_len: 0,
            gso_size: noise.below(2_000) as u16,
            csum_start: noise.below(80) as u16,
            csum_offset: noise.below(20) as u16,
        };
        let Ok(mut split) = Split::new(header, &packet) else {
            continue;
        };
        let mtu = 1_280 + noise.below(200);
        if split.fit(mtu).is_ok() {
            let mut room = vec![0; split.segment_len()];
            while let Some(len) = split.write_next(&mut room) {
                assert!(len <= mtu);
            }
        }
    }
}
