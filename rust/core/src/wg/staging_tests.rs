//! What waited for a session leaves before what came after it.

use std::sync::Mutex;

use super::test_lab::{Lab, PORT_A, PORT_B, packet};
use super::*;
use crate::demux::WireGuard;

/// The send counter of a data message.
fn counter(datagram: &[u8]) -> u64 {
    u64::from_le_bytes(datagram[8..16].try_into().unwrap())
}

/// A's initiation is answered; A has the answer and has sent nothing since.
fn answered(lab: &mut Lab, waiting: &[Vec<u8>]) {
    for packet in waiting {
        assert!(lab.a.send(packet, lab.now).is_empty());
    }
    let initiation = lab.a.tunnel.poll_transmit().expect("an initiation");
    lab.b.receive(&initiation.datagram, lab.a.addr, lab.now);
    let response = lab.b.tunnel.poll_transmit().expect("a response");
    lab.a.receive(&response.datagram, lab.b.addr, lab.now);
}

#[test]
fn every_staged_packet_arrives_in_order() {
    let mut lab = Lab::new();
    let packets: Vec<_> = (0..150).map(|n| packet(PORT_A, PORT_B, 100 + n)).collect();
    for p in &packets {
        assert!(lab.a.send(p, lab.now).is_empty());
    }
    lab.settle();
    assert_eq!(lab.b.inbox, packets[150 - MAX_STAGED..]);
    assert_eq!(lab.a.tunnel.dropped(), 150 - MAX_STAGED as u64);
    assert_eq!(lab.count(PORT_A, WireGuard::Initiation), 1);
}

#[test]
fn a_packet_between_the_answer_and_what_waited_waits_too() {
    let mut lab = Lab::new();
    let packets: Vec<_> = (0..4).map(|n| packet(PORT_A, PORT_B, 100 + n)).collect();
    answered(&mut lab, &packets[..2]);
    assert!(lab.a.send(&packets[2], lab.now).is_empty());
    lab.settle();
    assert_eq!(lab.b.inbox, packets[..3]);
    lab.a_sends(&packets[3]);
    assert_eq!(lab.b.inbox, packets);
    let again = lab.count(PORT_A, WireGuard::Initiation);
    assert_eq!(again, 0, "a session that is held needs no handshake");
}

#[test]
fn what_waits_at_the_responder_leaves_before_what_comes_after() {
    let mut lab = Lab::new();
    answered(&mut lab, &[packet(PORT_A, PORT_B, 64)]);
    // B may not send before A has used the keys; its own handshake has to wait as well.
    let packets: Vec<_> = (0..3).map(|n| packet(PORT_B, PORT_A, 100 + n)).collect();
    assert!(lab.b.send(&packets[0], lab.now).is_empty());
    let mut first = vec![];
    lab.a
        .tunnel
        .send_staged(lab.now, |_, datagram| first.push(datagram.to_vec()));
    lab.b.receive(&first[0], lab.a.addr, lab.now);
    assert!(lab.b.send(&packets[1], lab.now).is_empty(), "it is held");
    lab.settle();
    lab.b_sends(&packets[2]);
    assert_eq!(lab.a.inbox, packets);
}

#[test]
fn no_thread_overtakes_what_waited() {
    const PACKETS: u64 = 300;
    for _ in 0..200 {
        let mut lab = Lab::new();
        answered(&mut lab, &[packet(PORT_A, PORT_B, 64)]);
        let (tunnel, now) = (&lab.a.tunnel, lab.now);
        let peer = lab.a.peer(&lab.b.key);
        let wire = Mutex::new(vec![]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 1..PACKETS {
                    let session = match tunnel.sender(&peer, now) {
                        Some(session) => session,
                        None => match tunnel.stage(&peer, now) {
                            Err(session) => session,
                            Ok(mut staging) => {
                                staging.keep(&packet(PORT_A, PORT_B, 64));
                                continue;
                            }
                        },
                    };
                    let mut out = [0; 96];
                    let len = session.seal_into(&packet(PORT_A, PORT_B, 64), &mut out);
                    assert_eq!(len, Some(96));
                    wire.lock().unwrap().push(counter(&out));
                }
            });
            std::thread::yield_now();
            tunnel.send_staged(now, |_, datagram| {
                wire.lock().unwrap().push(counter(datagram));
            });
        });
        let numbers = wire.into_inner().unwrap();
        let lost = tunnel.dropped();
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert_eq!(numbers.len() as u64 + lost, PACKETS);
    }
}

#[test]
fn a_peer_that_goes_while_packets_wait_holds_nothing() {
    let mut lab = Lab::new();
    answered(&mut lab, &[packet(PORT_A, PORT_B, 64)]);
    lab.a.tunnel.set_peers(&[], &[lab.b.key], lab.now);
    lab.a.tunnel.send_staged(lab.now, |_, datagram| {
        panic!("{} bytes to nobody", datagram.len());
    });
    assert_eq!(lab.a.tunnel.indices.used(), 0);
}
