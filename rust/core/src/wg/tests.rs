//! What two devices do, whatever happens on the wire between them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::test_lab::{Lab, PORT_A, PORT_B, Seeded, device, packet, peer_of};
use super::*;
use crate::clock::Entropy;
use crate::demux::WireGuard;

#[test]
fn first_packet_waits_for_the_handshake_and_arrives() {
    let mut lab = Lab::new();
    let sizes = [20, 21, 36, 1279, 1280];
    for len in sizes {
        let sent = packet(PORT_A, PORT_B, len);
        lab.a_sends(&sent);
        assert_eq!(lab.b.inbox.last(), Some(&sent));
        let sent = packet(PORT_B, PORT_A, len);
        lab.b_sends(&sent);
        assert_eq!(lab.a.inbox.last(), Some(&sent));
    }
    assert_eq!((lab.a.handshakes(), lab.b.handshakes()), (1, 1));
    let lengths: Vec<usize> = lab.seen.iter().map(|(_, d)| d.len()).collect();
    assert_eq!(
        lengths,
        [148, 92, 64, 64, 64, 64, 80, 80, 1312, 1312, 1312, 1312]
    );
    assert!(lab.a.refused.is_empty() && lab.b.refused.is_empty());
    let stats = lab.a.peer(&lab.b.key).stats();
    assert_eq!(stats.tx_bytes, 148 + 64 + 64 + 80 + 1312 + 1312);
    assert_eq!(stats.rx_bytes, 92 + 64 + 64 + 80 + 1312 + 1312);
    assert_eq!(stats.handshake_ms, Some(1_000));
}

#[test]
fn initiator_renews_after_120_s_without_losing_a_packet() {
    let mut lab = Lab::new();
    for n in 0..400 {
        lab.a_sends(&packet(PORT_A, PORT_B, 64));
        lab.b_sends(&packet(PORT_B, PORT_A, 64));
        assert_eq!((lab.a.inbox.len(), lab.b.inbox.len()), (n + 1, n + 1));
        lab.pass_ms(1_000);
    }
    assert_eq!((lab.a.handshakes(), lab.b.handshakes()), (4, 4));
    assert_eq!(lab.count(PORT_A, WireGuard::Initiation), 4);
    assert_eq!(
        lab.count(PORT_B, WireGuard::Initiation),
        0,
        "the responder leaves it to him"
    );
    // Previous and current on either side, and old ones are forgotten.
    assert!(
        lab.a.tunnel.indices.used() <= 3,
        "{}",
        lab.a.tunnel.indices.used()
    );
    lab.pass_ms(200_000);
    assert_eq!(
        (lab.a.tunnel.indices.used(), lab.b.tunnel.indices.used()),
        (0, 0)
    );
    assert_eq!(
        lab.a.tunnel.next_timeout(),
        None,
        "a silent peer costs nothing"
    );
}

#[test]
fn one_way_traffic_is_renewed_from_either_side() {
    for from_a in [true, false] {
        let mut lab = Lab::new();
        lab.a_sends(&packet(PORT_A, PORT_B, 64));
        for _ in 0..400 {
            lab.pass_ms(1_000);
            let before = lab.a.inbox.len() + lab.b.inbox.len();
            if from_a {
                lab.a_sends(&packet(PORT_A, PORT_B, 64));
            } else {
                lab.b_sends(&packet(PORT_B, PORT_A, 64));
            }
            assert_eq!(lab.a.inbox.len() + lab.b.inbox.len(), before + 1);
        }
        assert!(
            (3..=5).contains(&lab.a.handshakes()),
            "{}",
            lab.a.handshakes()
        );
    }
}

#[test]
fn message_limit_renews() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    lab.pass_ms(6_000);
    let session = lab.a.peer(&lab.b.key).current.load_full().unwrap();
    session.set_counter(REKEY_AFTER_MESSAGES);
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    assert_eq!(lab.a.handshakes(), 2);
    session.set_counter(REJECT_AFTER_MESSAGES);
    let mut out = vec![0; 200];
    assert_eq!(session.seal_into(&[1; 64], &mut out), None);
    assert_eq!(session.seal_into(&[1; 64], &mut out), None);
}

#[test]
fn an_expired_session_neither_seals_nor_opens() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    let session = lab.b.peer(&lab.a.key).current.load_full().unwrap();
    let mut late = vec![0; 200];
    let len = session
        .seal_into(&packet(PORT_B, PORT_A, 64), &mut late)
        .unwrap();
    lab.pass_ms(180_000);
    assert!(
        lab.a
            .tunnel
            .sender(&lab.a.peer(&lab.b.key), lab.now)
            .is_none()
    );
    lab.post(PORT_B, PORT_A, late[..len].to_vec());
    lab.settle();
    assert!(lab.a.inbox.is_empty());
    assert_eq!(lab.a.refused["wireguard-no-session"], 1);
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    assert_eq!(lab.b.inbox.len(), 2, "a new handshake");
}

#[test]
fn lost_handshakes_are_retried_with_jitter_and_given_up() {
    let mut lab = Lab::new();
    lab.lose = Box::new(|_, _| true);
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    lab.pass_ms(4_900);
    assert_eq!(lab.seen.len(), 1);
    lab.pass_ms(500);
    assert_eq!(lab.seen.len(), 2);
    assert_ne!(
        lab.seen[0].1[4..8],
        lab.seen[1].1[4..8],
        "a fresh index each time"
    );
    lab.lose = Box::new(|_, _| false);
    lab.pass_ms(5_500);
    assert_eq!(lab.b.inbox.len(), 1, "what had waited arrives");

    lab.pass_ms(200_000);
    lab.lose = Box::new(|_, _| true);
    let before = lab.seen.len();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    lab.pass_ms(110_000);
    assert!(
        (17..=19).contains(&(lab.seen.len() - before)),
        "{}",
        lab.seen.len() - before
    );
    assert!(matches!(
        lab.a.events.last(),
        Some(TunnelEvent::Unanswered(_))
    ));
    assert_eq!(lab.a.tunnel.indices.used(), 0);
    lab.lose = Box::new(|_, _| false);
    lab.pass_ms(60_000);
    assert_eq!(lab.b.inbox.len(), 1, "given up is given up");
    lab.a_sends(&packet(PORT_A, PORT_B, 65));
    assert_eq!(lab.b.inbox.len(), 2, "until there is something to send");
}

#[test]
fn any_single_loss_heals() {
    for lost in 0..8 {
        let mut lab = Lab::new();
        lab.lose = Box::new(move |n, _| n == lost);
        lab.a_sends(&packet(PORT_A, PORT_B, 64));
        lab.pass_ms(30_000);
        for n in 0..3 {
            lab.a_sends(&packet(PORT_A, PORT_B, 64 + n));
            lab.b_sends(&packet(PORT_B, PORT_A, 64 + n));
            lab.pass_ms(6_000);
        }
        assert!(
            lab.b.inbox.len() >= 3 && lab.a.inbox.len() >= 2,
            "datagram {lost} lost"
        );
    }
}

#[test]
fn heavy_loss_and_reordering_never_duplicate() {
    let mut lab = Lab::new();
    let mut state = 5_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 40
    };
    let mut dice = random;
    lab.lose = Box::new(move |_, _| dice() % 3 == 0);
    for n in 0..2_000_usize {
        let len = 40 + n % 500;
        let mut p = packet(PORT_A, PORT_B, len.max(44));
        p[20..24].copy_from_slice(&(n as u32).to_be_bytes());
        for datagram in lab.a.send(&p, lab.now) {
            lab.post(PORT_A, PORT_B, datagram);
        }
        lab.collect();
        if n % 7 == 0 {
            let mut held: Vec<_> = lab.wire.drain(..).collect();
            for i in (1..held.len()).rev() {
                held.swap(i, random() as usize % (i + 1));
            }
            let twice: Vec<_> = held.iter().take(2).cloned().collect();
            lab.wire.extend(held);
            lab.wire.extend(twice);
            lab.settle();
            lab.pass_ms(300);
        }
    }
    let mut numbers: Vec<_> = lab
        .b
        .inbox
        .iter()
        .map(|p| u32::from_be_bytes([p[20], p[21], p[22], p[23]]))
        .collect();
    let total = numbers.len();
    assert!(total > 1_000, "{total}");
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), total, "each at most once");
}

#[test]
fn replays_and_forgeries_are_refused() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    lab.pass_ms(100);
    let all: Vec<_> = lab.seen.clone();
    for (from, datagram) in &all {
        let to = if *from == PORT_A { PORT_B } else { PORT_A };
        lab.post(*from, to, datagram.clone());
        lab.settle();
    }
    assert_eq!(lab.b.refused["wireguard-stale-initiation"], 1);
    assert_eq!(lab.b.refused["wireguard-replayed"], 1);
    assert_eq!(lab.a.refused["wireguard-no-session"], 1);
    assert_eq!((lab.b.inbox.len(), lab.b.handshakes()), (1, 1));
    // Every single flipped bit of each kind of message, sampled.
    for (from, datagram) in all {
        let to = if from == PORT_A { PORT_B } else { PORT_A };
        for at in 0..datagram.len() {
            let mut bent = datagram.clone();
            bent[at] ^= 1 << (at % 8);
            lab.post(from, to, bent);
            lab.settle();
        }
    }
    assert_eq!(
        (lab.b.inbox.len(), lab.b.handshakes(), lab.a.handshakes()),
        (1, 1, 1)
    );
    lab.a_sends(&packet(PORT_A, PORT_B, 65));
    assert_eq!(lab.b.inbox.len(), 2, "none of it hurt the session");
}

#[test]
fn each_of_a_batch_has_its_own_fate() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(1, 2, 100));
    lab.settle();
    let sealing = lab
        .a
        .tunnel
        .sender(&lab.a.peer(&lab.b.key), lab.now)
        .unwrap();
    // Good, replayed, forged, foreign, an empty keepalive, and more good ones of odd sizes.
    let lens = [1_280, 1_280, 700, 64, 0, 20, 21, 1_279];
    let mut arena = vec![0; 16 * 1024];
    let (mut begun, mut places, mut end) = (vec![], vec![], 3);
    for (index, len) in lens.into_iter().enumerate() {
        let start = end;
        end += Session::sealed_len(len);
        if len > 0 {
            let from = start + HEADER_BYTES;
            arena[from..from + len].copy_from_slice(&packet(PORT_A, PORT_B, len));
        }
        begun.push(sealing.begin(&mut arena, start, len, 1280).unwrap());
        places.push(start..end);
        assert_eq!(begun[index].len + OVERHEAD_BYTES, end - start);
    }
    sealing.seal(&mut arena, &begun);
    let (first, second) = (places[0].clone(), places[1].start);
    arena.copy_within(first, second);
    arena[places[2].start + 40] ^= 1;
    arena[places[3].start + 4] ^= 1;

    let session = lab.b.tunnel.session(&arena[places[0].clone()]).unwrap();
    let (mut opener, mut batch) = (session.opener(), Batch::default());
    for place in &places {
        opener.add(&mut batch, &arena, place.clone());
    }
    opener.open(&mut batch, &mut arena);
    let fates: Vec<_> = (0..lens.len())
        .map(|index| {
            opener
                .packet(&batch, index, &arena)
                .map(|place| arena[place].to_vec())
        })
        .collect();
    let whole = |len| Ok(packet(PORT_A, PORT_B, len));
    let expected = [
        whole(1_280),
        Err(Refused::Replayed),
        Err(Refused::Forged),
        Err(Refused::Malformed),
        Ok(vec![]),
        whole(20),
        whole(21),
        whole(1_279),
    ];
    assert_eq!(fates, expected);
    assert_eq!(opener.finish().packets, 5);
    // Nothing of it is taken twice, in a later batch either.
    let mut opener = session.opener();
    batch.clear();
    opener.add(&mut batch, &arena, places[0].clone());
    opener.open(&mut batch, &mut arena);
    assert_eq!(opener.packet(&batch, 0, &arena), Err(Refused::Replayed));
}

#[test]
fn a_forged_response_does_not_spoil_the_real_one() {
    let mut lab = Lab::new();
    lab.a.send(&packet(PORT_A, PORT_B, 64), lab.now);
    lab.collect();
    let (_, _, initiation) = lab.wire.pop_front().unwrap();
    lab.b.receive(&initiation, lab.a.addr, lab.now);
    lab.collect();
    let (_, _, response) = lab.wire.pop_front().unwrap();
    for at in [12, 45, 59] {
        let mut forged = response.clone();
        forged[at] ^= 1;
        lab.a.peer(&lab.b.key);
        crate::wg::cookie::MacKeys::of(&lab.a.key).sign(&mut forged, None);
        let outcome =
            lab.a
                .tunnel
                .receive_handshake(&forged, Source::Udp(lab.b.addr.into()), lab.now);
        assert_eq!(outcome, Err(Refused::Forged));
    }
    lab.post(PORT_B, PORT_A, response);
    lab.settle();
    assert_eq!(lab.b.inbox.len(), 1);
}

#[test]
fn unknown_keys_get_silence() {
    let mut lab = Lab::new();
    lab.b.tunnel.set_peers(&[], &[lab.a.key], lab.now);
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    assert_eq!(lab.b.refused["wireguard-unknown-peer"], 1);
    assert_eq!(lab.count(PORT_B, WireGuard::Response), 0);
    assert_eq!(lab.b.tunnel.indices.used(), 0);
    let back = peer_of(&lab.a);
    lab.b.tunnel.set_peers(&[back], &[], lab.now);
    lab.pass_ms(6_000);
    assert_eq!(lab.b.inbox.len(), 1);
}

#[test]
fn removed_peers_and_new_identities_leave_nothing() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    lab.a.tunnel.set_identity(PrivateKey([11; 32]));
    assert_eq!(
        lab.a.tunnel.indices.used(),
        1,
        "the same identity changes nothing"
    );
    let kept = peer_of(&lab.b);
    lab.a.tunnel.set_peers(&[kept], &[], lab.now);
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    assert_eq!(
        (lab.b.inbox.len(), lab.a.handshakes()),
        (2, 1),
        "the session lives on"
    );
    let peer = lab.a.peer(&lab.b.key);
    lab.a.tunnel.set_peers(&[], &[lab.b.key], lab.now);
    assert_eq!(lab.a.tunnel.indices.used(), 0);
    assert!(
        lab.a
            .tunnel
            .tables()
            .route("10.0.0.2".parse().unwrap())
            .is_none()
    );
    match lab.a.tunnel.stage(&peer, lab.now) {
        Ok(mut staging) => staging.keep(&packet(PORT_A, PORT_B, 64)),
        Err(session) => panic!("{session:?}"),
    }
    assert!(lab.a.tunnel.poll_transmit().is_none());
    lab.b.tunnel.set_identity(PrivateKey([33; 32]));
    assert_eq!(lab.b.tunnel.indices.used(), 0);
    drop(lab);
    assert_eq!(Arc::strong_count(&peer), 1, "no ring keeps it");
}

#[test]
fn a_restarted_peer_is_found_again() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    lab.pass_ms(10_000);
    // B restarts: same key, no sessions.
    let fresh = device(22, PORT_B, 1_000);
    fresh.tunnel.set_peers(&[peer_of(&lab.a)], &[], lab.now);
    lab.b = fresh;
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    assert!(lab.b.inbox.is_empty());
    lab.pass_ms(15_200);
    assert_eq!(lab.a.handshakes(), 2, "no answer for 15 s");
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    assert_eq!(lab.b.inbox.len(), 1);
    // The other way: the restarted one begins, at once.
    lab.b_sends(&packet(PORT_B, PORT_A, 64));
    assert_eq!(lab.a.inbox.len(), 1);
}

#[test]
fn keepalives() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    let before = lab.count(PORT_B, WireGuard::Data);
    lab.pass_ms(9_900);
    assert_eq!(lab.count(PORT_B, WireGuard::Data), before);
    lab.pass_ms(200);
    assert_eq!(
        lab.count(PORT_B, WireGuard::Data),
        before + 1,
        "passive, after 10 s"
    );
    assert_eq!(lab.seen.last().unwrap().1.len(), 32);
    lab.pass_ms(100_000);
    assert_eq!(
        lab.count(PORT_B, WireGuard::Data),
        before + 1,
        "and no more"
    );
    assert_eq!(lab.count(PORT_A, WireGuard::Initiation), 1);
    let mut peer = peer_of(&lab.b);
    peer.keepalive_s = 25;
    lab.a.tunnel.set_peers(&[peer], &[], lab.now);
    let sent = lab.count(PORT_A, WireGuard::Data);
    lab.pass_ms(600_000);
    let more = lab.count(PORT_A, WireGuard::Data) - sent;
    assert!((20..=30).contains(&more), "{more} in 600 s, every 25 s");
}

#[test]
fn persistent_keepalive_begins_by_itself_and_never_gives_up() {
    let mut lab = Lab::new();
    lab.lose = Box::new(|_, _| true);
    let mut peer = peer_of(&lab.b);
    peer.keepalive_s = 25;
    lab.a.tunnel.set_peers(&[peer], &[], lab.now);
    lab.pass_ms(1_200);
    assert_eq!(lab.count(PORT_A, WireGuard::Initiation), 1);
    lab.pass_ms(300_000);
    lab.lose = Box::new(|_, _| false);
    lab.pass_ms(30_000);
    assert_eq!(lab.b.handshakes(), 1);
}

#[test]
fn a_peer_that_roams_is_followed() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    lab.b_sends(&packet(PORT_B, PORT_A, 64));
    assert_eq!(lab.a.inbox.len(), 1);
    lab.a.addr.set_port(9);
    for datagram in lab.a.send(&packet(PORT_A, PORT_B, 64), lab.now) {
        lab.post(9, PORT_B, datagram);
    }
    lab.settle();
    let found = lab
        .b
        .peer(&lab.a.key)
        .path()
        .direct(lab.now.mono_ms)
        .unwrap();
    assert_eq!(found.addr.port(), 9);
    // A replay from elsewhere moves nothing.
    let (_, last) = lab.seen.last().unwrap().clone();
    lab.b
        .receive(&last, "192.0.2.66:66".parse().unwrap(), lab.now);
    assert_eq!(
        lab.b.peer(&lab.a.key).path().direct(1).unwrap().addr.port(),
        9
    );
}

#[test]
fn both_begin_at_once() {
    let mut lab = Lab::new();
    assert!(lab.a.send(&packet(PORT_A, PORT_B, 64), lab.now).is_empty());
    assert!(lab.b.send(&packet(PORT_B, PORT_A, 64), lab.now).is_empty());
    lab.settle();
    assert_eq!((lab.a.inbox.len(), lab.b.inbox.len()), (1, 1));
    for n in 0..400 {
        lab.a_sends(&packet(PORT_A, PORT_B, 64));
        lab.b_sends(&packet(PORT_B, PORT_A, 64));
        assert_eq!((lab.a.inbox.len(), lab.b.inbox.len()), (n + 2, n + 2));
        lab.pass_ms(1_000);
    }
}

#[test]
fn under_load_an_address_must_be_proved() {
    let mut lab = Lab::new();
    lab.b.tunnel.load = Mutex::new(super::load::Load::new(0));
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    assert_eq!(lab.count(PORT_B, WireGuard::CookieReply), 1);
    assert_eq!(lab.count(PORT_B, WireGuard::Response), 0);
    assert_eq!(lab.b.refused["wireguard-under-load"], 1);
    lab.pass_ms(5_500);
    assert_eq!(
        lab.count(PORT_B, WireGuard::Response),
        1,
        "the second try carries the cookie"
    );
    assert_eq!(lab.b.inbox.len(), 1);
    // The cookie holds for the address that got it, only there.
    let (_, proved) = lab
        .seen
        .iter()
        .rfind(|(f, d)| *f == PORT_A && d.len() == 148)
        .unwrap()
        .clone();
    let elsewhere = Source::Udp(SocketAddr::from(([192, 0, 2, 9], 9)).into());
    let outcome = lab.b.tunnel.receive_handshake(&proved, elsewhere, lab.now);
    assert_eq!(outcome, Err(Refused::UnderLoad));
    let replayed = lab
        .b
        .tunnel
        .receive_handshake(&proved, Source::Udp(lab.a.addr.into()), lab.now);
    assert_eq!(
        replayed,
        Err(Refused::StaleInitiation),
        "past the cookie, to the timestamp"
    );
}

#[test]
fn a_flood_is_met_with_cookies_not_with_curves() {
    let lab = Lab::new();
    let flooded = device(22, PORT_B, 100);
    lab.a.send(&packet(PORT_A, PORT_B, 64), lab.now);
    let Some(transmit) = lab.a.tunnel.poll_transmit() else {
        panic!("no initiation")
    };
    let mut accepted = 0;
    for n in 0..5_000_u32 {
        let src = Source::Udp(SocketAddr::from((std::net::Ipv4Addr::from(n), 7)).into());
        match flooded
            .tunnel
            .receive_handshake(&transmit.datagram, src, lab.now)
        {
            Err(Refused::UnderLoad) => {}
            Err(Refused::UnknownPeer) => accepted += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(accepted, 100);
    assert!(std::iter::from_fn(|| flooded.tunnel.poll_transmit()).count() <= MAX_TRANSMITS);
}

#[test]
fn a_clock_that_goes_back_does_not_stop_handshakes() {
    let mut lab = Lab::new();
    for years_back in 0..3_u64 {
        lab.a_sends(&packet(PORT_A, PORT_B, 64));
        assert_eq!(lab.b.inbox.len() as u64, years_back + 1);
        lab.pass_ms(181_000);
        lab.now.wall -= Duration::from_secs(365 * 86_400);
    }
}

#[test]
fn garbage_never_panics() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    let entropy = Seeded(AtomicU64::new(3));
    let source = Source::Relay {
        region: 1,
        peer: lab.a.key,
    };
    for len in 0..2_000 {
        let mut junk = vec![0; len % 200];
        entropy.fill(&mut junk);
        for kind in 0..6 {
            if junk.len() >= 4 {
                junk[..4].copy_from_slice(&[kind, 0, 0, 0]);
            }
            assert!(
                lab.b
                    .tunnel
                    .receive_handshake(&junk, source, lab.now)
                    .is_err()
            );
            if let Some(session) = lab.b.tunnel.session(&junk) {
                assert!(session.opener().open_in_place(&mut junk).is_err());
            }
        }
    }
}

#[test]
fn inner_packets_that_are_none_are_refused() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    let mut too_long = packet(PORT_A, PORT_B, 64);
    too_long[2..4].copy_from_slice(&999_u16.to_be_bytes());
    let mut too_short = packet(PORT_A, PORT_B, 64);
    too_short[2..4].copy_from_slice(&5_u16.to_be_bytes());
    for inner in [vec![0; 64], vec![0x45], vec![0xff; 20], too_long, too_short] {
        let session = lab.a.peer(&lab.b.key).current.load_full().unwrap();
        let mut out = vec![0; Session::sealed_len(inner.len())];
        session.seal_into(&inner, &mut out).unwrap();
        lab.post(PORT_A, PORT_B, out);
        lab.settle();
    }
    assert_eq!(lab.b.refused["wireguard-malformed"], 5);
    assert_eq!(lab.b.inbox.len(), 1);
}

#[test]
fn many_threads_seal_and_open_at_once() {
    let mut lab = Lab::new();
    lab.a_sends(&packet(PORT_A, PORT_B, 64));
    lab.b_sends(&packet(PORT_B, PORT_A, 64));
    let (a, b, now) = (&lab.a, &lab.b, lab.now);
    let (sealing, opening) = (
        a.peer(&b.key).current.load_full().unwrap(),
        b.tunnel.session(
            &lab.seen
                .iter()
                .find(|(f, d)| *f == PORT_A && d[0] == 4)
                .unwrap()
                .1,
        ),
    );
    let opening = opening.unwrap();
    let opened = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let inner = packet(PORT_A, PORT_B, 100);
                for _ in 0..100 {
                    let batch: Vec<_> = (0..16)
                        .map(|_| {
                            let mut out = vec![0; Session::sealed_len(inner.len())];
                            sealing.seal_into(&inner, &mut out).unwrap();
                            out
                        })
                        .collect();
                    a.tunnel.sent(&sealing, 16, 1, now);
                    let mut opener = opening.opener();
                    for mut datagram in batch {
                        assert_eq!(opener.open_in_place(&mut datagram).unwrap(), &inner);
                    }
                    let done = opener.finish();
                    b.tunnel
                        .received(&opening, done, Source::Udp(a.addr.into()), now);
                    opened.fetch_add(done.packets.into(), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(opened.into_inner(), 4 * 100 * 16);
}
