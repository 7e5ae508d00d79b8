//! The stock client's handshake initiations, from a recording whose node key is given
//! (tests/vectors).

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::Value;

use super::test_lab::Seeded;
use super::*;
use crate::clock::Now;
use crate::demux::{self, Inner, Kind, WireGuard};

fn captures() -> Vec<Value> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/wire-captures.jsonl.gz"
    );
    let file = std::fs::File::open(path).expect("the recording lies in tests/vectors");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn key(text: &str) -> [u8; 32] {
    unhex(text).try_into().unwrap()
}

/// What came in by UDP in a capture: source and bytes.
fn inbound(capture: &Value) -> Vec<(SocketAddr, Vec<u8>)> {
    let rows = capture["udp"].as_array().unwrap().iter();
    rows.filter(|row| row[0] == "in")
        .map(|row| {
            (
                row[1].as_str().unwrap().parse().unwrap(),
                unhex(row[2].as_str().unwrap()),
            )
        })
        .collect()
}

#[test]
fn initiations_of_the_stock_client_are_opened_and_answered() {
    let all = captures();
    let capture = all
        .iter()
        .find(|capture| capture["name"] == "direct")
        .unwrap();
    let peer = capture["peer"]["Key"]
        .as_str()
        .unwrap()
        .strip_prefix("nodekey:")
        .unwrap();
    let peer = PublicKey(key(peer));
    let config = TunnelConfig {
        initiations_per_s: 100,
    };
    let tunnel = Tunnel::new(config, Arc::new(Seeded(AtomicU64::new(1))));
    tunnel.set_identity(PrivateKey(key(capture["node_private"].as_str().unwrap())));
    let mut now = Now {
        mono_ms: 1,
        wall: Duration::from_secs(1_750_000_000),
    };
    let known = PeerConfig {
        key: peer,
        allowed_ips: vec![],
        home_region: 0,
        roams: true,
        endpoint: None,
        keepalive_s: 0,
    };
    let mut opened = 0;
    for (src, datagram) in inbound(capture) {
        if demux::classify(&datagram) != Kind::WireGuard(WireGuard::Initiation) {
            continue;
        }
        let source = Source::Udp(src.into());
        tunnel.set_peers(&[], &[peer], now);
        let stranger = tunnel.receive_handshake(&datagram, source, now);
        assert_eq!(
            stranger,
            Err(Refused::UnknownPeer),
            "opened, but nobody we know"
        );
        tunnel.set_peers(std::slice::from_ref(&known), &[], now);
        tunnel.receive_handshake(&datagram, source, now).unwrap();
        let response = tunnel.poll_transmit().unwrap();
        assert!(matches!(response.to, Target::Peer(to) if *to.key() == peer));
        assert_eq!(response.datagram.len(), 92);
        assert_eq!(response.datagram[8..12], datagram[4..8], "its index");
        let heard = tunnel
            .tables()
            .peer(&peer)
            .unwrap()
            .path()
            .direct(now.mono_ms);
        assert_eq!(heard, Some(src.into()));
        opened += 1;
        now = now.plus_ms(100);
    }
    assert!(opened > 0, "the recording holds initiations");
}

#[test]
fn recorded_datagrams_are_classified() {
    let all = captures();
    let mut kinds = std::collections::BTreeSet::new();
    for capture in &all {
        if let Some(stun) = capture["datagrams"].as_array() {
            for datagram in stun {
                let bytes = unhex(datagram["hex"].as_str().unwrap());
                assert_eq!(demux::classify(&bytes), Kind::Stun);
            }
            continue;
        }
        for (_, datagram) in inbound(capture) {
            match demux::classify(&datagram) {
                Kind::Disco => kinds.insert("disco"),
                Kind::WireGuard(WireGuard::Initiation) => kinds.insert("initiation"),
                other => panic!("{other:?} in a capture without it"),
            };
            // The same behind a peer relay's header.
            let protocol: [u8; 2] = if datagram[0] == 0x54 {
                [0x7a, 0x11]
            } else {
                [0x7a, 0x12]
            };
            let mut wrapped = vec![0, 0, protocol[0], protocol[1], 0, 0, 7, 0];
            wrapped.extend_from_slice(&datagram);
            let kind = demux::classify(&wrapped);
            assert!(
                matches!(kind, Kind::Geneve { vni: 7, control: false, inner } if inner != Inner::Unknown)
            );
        }
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["disco", "initiation"]
    );
}
