//! The pool against the relay of `test_relay`, and against a stock one where its address is given.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_bytes::ByteArray;
use warren_core::derp::frames::{self, MAX_PACKET};
use warren_core::derp::{RawKey, login};
use warren_core::seam::{Event, RelayNode};

use super::RelayPool;
use super::region::Patience;
use super::test_relay::{Kind, TestRelay};
use crate::ports::{RelayPort, RelaySink};

const LONG: Duration = Duration::from_secs(10);
const ALICE: RawKey = [0x0a; 32];
const BOB: RawKey = [0x0b; 32];

/// Collects what comes out of a pool.
#[derive(Default)]
struct Collected {
    packets: Mutex<Vec<(u16, RawKey, Vec<u8>)>>,
    events: Mutex<Vec<Event>>,
    changed: Condvar,
}

impl RelaySink for Collected {
    fn on_packet(&self, region: u16, src: &RawKey, packet: &mut [u8]) {
        self.packets
            .lock()
            .unwrap()
            .push((region, *src, packet.to_vec()));
        packet.fill(0xee);
        self.changed.notify_all();
    }

    fn on_event(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.changed.notify_all();
    }
}

impl Collected {
    fn event(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        let until = Instant::now() + LONG;
        let mut events = self.events.lock().unwrap();
        loop {
            if let Some(index) = events.iter().position(&wanted) {
                return events.drain(..=index).next_back().unwrap();
            }
            assert!(Instant::now() < until, "no such event among {events:?}");
            events = self
                .changed
                .wait_timeout(events, Duration::from_millis(50))
                .unwrap()
                .0;
        }
    }

    fn connected(&self, id: u32) {
        self.event(
            |e| matches!(e, Event::RegionState { region, connected: true, .. } if *region == id),
        );
    }

    fn packets(&self, count: usize) -> Vec<(u16, RawKey, Vec<u8>)> {
        let until = Instant::now() + LONG;
        let mut packets = self.packets.lock().unwrap();
        while packets.len() < count {
            assert!(
                Instant::now() < until,
                "{} of {count} packets came",
                packets.len()
            );
            packets = self
                .changed
                .wait_timeout(packets, Duration::from_millis(50))
                .unwrap()
                .0;
        }
        packets.split_off(0)
    }
}

fn pool(private: RawKey) -> (RelayPool, Arc<Collected>) {
    let sink = Arc::new(Collected::default());
    let pool = RelayPool::new(sink.clone());
    pool.set_identity(private);
    (pool, sink)
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !check() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Two pools on one relay exchange packets of all sizes, both ways, `window` at a time: stock
/// relays drop what goes beyond a queue of 32.
fn exchange(node: &RelayNode, window: usize) {
    let (alice, from_alice) = pool(ALICE);
    let (bob, from_bob) = pool(BOB);
    let keys = [login::public_key(&ALICE), login::public_key(&BOB)];
    for (pool, sink) in [(&alice, &from_alice), (&bob, &from_bob)] {
        pool.set_region(7, vec![node.clone()]);
        pool.set_home(7);
        sink.connected(7);
        assert_eq!(pool.regions(), vec![(7, true)]);
    }
    let sizes = [0, 1, 32, 148, 1280, 1500, 16 << 10, MAX_PACKET];
    let sent: Vec<Vec<u8>> = (0..64u8)
        .map(|index| vec![index; sizes[usize::from(index) % sizes.len()]])
        .collect();
    for (pool, dst, sink, src) in [
        (&alice, keys[1], &from_bob, keys[0]),
        (&bob, keys[0], &from_alice, keys[1]),
    ] {
        for packets in sent.chunks(window) {
            for packet in packets {
                let until = Instant::now() + LONG;
                while !pool.send(7, &dst, packet) {
                    assert!(Instant::now() < until, "no room");
                    pool.wait_room(7, LONG);
                }
            }
            for ((region, from, packet), expected) in
                sink.packets(packets.len()).iter().zip(packets)
            {
                assert_eq!((*region, *from), (7, src));
                assert_eq!(packet, expected);
            }
        }
    }
    assert!(!alice.send(8, &keys[1], b"no such region"));
    alice.close();
    bob.close();
    assert!(!alice.send(7, &keys[1], b"closed"));
    assert_eq!(alice.regions(), vec![]);
}

#[test]
fn packets_pass_without_tls() {
    exchange(&TestRelay::start(Kind::Plain).node(), 64);
}

#[test]
fn packets_pass_with_a_pin_and_fast_start() {
    let relay = TestRelay::start(Kind::Tls {
        meta_certificate: true,
    });
    exchange(&relay.node(), 64);
    assert_eq!((relay.seen().logins, relay.seen().fast_starts), (2, 2));
}

#[test]
fn packets_pass_with_the_slow_start() {
    let relay = TestRelay::start(Kind::Tls {
        meta_certificate: false,
    });
    exchange(&relay.node(), 64);
    assert_eq!((relay.seen().logins, relay.seen().fast_starts), (2, 0));
}

#[test]
fn an_insecure_node_accepts_any_certificate() {
    let relay = TestRelay::start(Kind::Tls {
        meta_certificate: true,
    });
    let node = RelayNode {
        cert_sha256: None,
        insecure: true,
        server_name: "not a name".into(),
        ..relay.node()
    };
    exchange(&node, 64);
}

#[test]
fn wrong_certificates_are_refused() {
    let relay = TestRelay::start(Kind::Tls {
        meta_certificate: true,
    });
    for pin in [None, Some(ByteArray::new([1; 32]))] {
        let (pool, sink) = pool(ALICE);
        pool.set_region(
            1,
            vec![RelayNode {
                cert_sha256: pin,
                ..relay.node()
            }],
        );
        pool.set_home(1);
        let Event::RegionState {
            connected, error, ..
        } = sink.event(|_| true)
        else {
            panic!("only region states come here")
        };
        assert!(!connected && error.contains("certificate"), "{error}");
    }
    assert_eq!(relay.seen().logins, 0);
}

#[test]
fn a_region_connects_on_demand_and_says_where_home_is() {
    let relay = TestRelay::start(Kind::Plain);
    let other = TestRelay::start(Kind::Plain);
    let (alice, sink) = pool(ALICE);
    let key = login::public_key(&ALICE);
    alice.set_region(1, vec![relay.node()]);
    alice.set_region(2, vec![other.node()]);
    assert_eq!(alice.regions(), vec![]);
    assert!(alice.send(1, &key, b"to myself, before there is a connection"));
    sink.connected(1);
    assert_eq!(
        sink.packets(1)[0].2,
        b"to myself, before there is a connection"
    );
    assert_eq!(relay.seen().notes, vec![]);

    alice.set_home(1);
    eventually("told that it is home", || {
        relay.seen().notes == vec![(key, frames::NOTE_PREFERRED, vec![1])]
    });
    alice.set_home(2);
    sink.connected(2);
    eventually("told that it is home no more", || {
        relay.seen().notes.len() == 2
    });
    assert_eq!(relay.seen().notes[1].2, vec![0]);
    eventually("the new home is told", || other.seen().notes.len() == 1);
    assert_eq!(relay.seen().logins, 1);
}

#[test]
fn what_the_relay_says_becomes_events() {
    let relay = TestRelay::start(Kind::Tls {
        meta_certificate: true,
    });
    let (alice, sink) = pool(ALICE);
    let key = login::public_key(&ALICE);
    alice.set_region(1, vec![relay.node()]);
    alice.set_home(1);
    sink.connected(1);
    eventually("home is noted", || relay.seen().notes.len() == 1);

    let client = relay.client(&key).unwrap();
    client.frame(frames::PING, &[b"12345678"]);
    eventually("a pong", || {
        relay
            .seen()
            .notes
            .contains(&(key, frames::PONG, b"12345678".to_vec()))
    });
    client.frame(0x7f, &[b"a type of the future"]);
    client.frame(frames::HEALTH, &["too many of you".as_bytes()]);
    sink.event(|e| matches!(e, Event::RegionState { health, connected: true, .. } if health == "too many of you"));
    client.frame(frames::HEALTH, &[]);
    sink.event(
        |e| matches!(e, Event::RegionState { health, connected: true, .. } if health.is_empty()),
    );
    assert!(alice.send(1, &BOB, b"to nobody"));
    let gone = Event::PeerGone {
        region: 1,
        peer: ByteArray::new(BOB),
        reason: 1,
    };
    sink.event(|event| *event == gone);

    client.frame(
        frames::RESTARTING,
        &[&50u32.to_be_bytes(), &1000u32.to_be_bytes()],
    );
    sink.event(|e| matches!(e, Event::RegionState { health, .. } if health.contains("restarting")));
}

#[test]
fn a_broken_frame_ends_the_connection_and_another_follows() {
    let relay = TestRelay::start(Kind::Plain);
    let (alice, sink) = pool(ALICE);
    let key = login::public_key(&ALICE);
    alice.set_region(1, vec![relay.node()]);
    alice.set_home(1);
    for bad in [
        [frames::RECV_PACKET, 0xff, 0xff, 0xff, 0xff].as_slice(),
        &[frames::RECV_PACKET, 0, 0, 0, 1, 0],
        &[frames::PING, 0, 0, 0, 0],
    ] {
        sink.connected(1);
        relay.client(&key).unwrap().write(bad);
        sink.event(|e| {
            matches!(e, Event::RegionState { connected: false, error, .. } if error.contains("frame"))
        });
    }
    sink.connected(1);
    assert_eq!(relay.seen().logins, 4);
}

#[test]
fn a_restarted_relay_is_rejoined_and_the_news_come_once() {
    let mut relay = TestRelay::start(Kind::Tls {
        meta_certificate: true,
    });
    let (alice, sink) = pool(ALICE);
    let key = login::public_key(&ALICE);
    alice.set_region(1, vec![relay.node()]);
    alice.set_home(1);
    sink.connected(1);
    relay.stop();
    sink.event(
        |e| matches!(e, Event::RegionState { connected: false, error, .. } if !error.is_empty()),
    );
    // Refused again and again, but told only once; packets meanwhile are refused, not hoarded.
    eventually("packets are refused", || {
        !alice.send(1, &key, b"into the void")
    });
    std::thread::sleep(Duration::from_millis(1200));
    assert!(sink.events.lock().unwrap().len() <= 1);
    relay.listen();
    sink.connected(1);
    eventually("packets pass again", || {
        alice.send(1, &key, b"again") && !sink.packets.lock().unwrap().is_empty()
    });
    assert!(relay.seen().notes.len() >= 2, "home is noted again");
}

#[test]
fn a_silent_relay_is_found_out_by_a_nudge() {
    let relay = TestRelay::start(Kind::Plain);
    let (alice, sink) = pool(ALICE);
    alice.set_region(1, vec![relay.node()]);
    alice.set_home(1);
    sink.connected(1);
    alice.nudge();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(alice.regions(), vec![(1, true)], "the pong keeps it");
    assert_eq!(relay.seen().logins, 1);
    relay.fall_mute();
    alice.nudge();
    sink.event(|e| matches!(e, Event::RegionState { connected: false, error, .. } if error.contains("silent")));
    sink.connected(1);
    assert_eq!(relay.seen().logins, 2);
}

#[test]
fn what_nobody_uses_closes_and_home_stays() {
    let (home, other) = (TestRelay::start(Kind::Plain), TestRelay::start(Kind::Plain));
    let sink = Arc::new(Collected::default());
    let patience = Patience {
        idle: Duration::from_millis(150),
        idle_check: Duration::from_millis(30),
        ..Patience::default()
    };
    let alice = RelayPool::with_patience(sink.clone(), patience);
    alice.set_identity(ALICE);
    alice.set_region(1, vec![home.node()]);
    alice.set_region(2, vec![other.node()]);
    alice.set_home(1);
    sink.connected(1);
    let key = login::public_key(&ALICE);
    for logins in 1..3 {
        assert!(alice.send(2, &key, b"on demand"));
        sink.connected(2);
        sink.packets(1);
        sink.event(|e| matches!(e, Event::RegionState { region: 2, connected: false, error, .. } if error.is_empty()));
        eventually("only home is left", || alice.regions() == vec![(1, true)]);
        assert_eq!((home.seen().logins, other.seen().logins), (1, logins));
    }
}

#[test]
fn a_relay_that_says_nothing_for_long_is_left() {
    let relay = TestRelay::start(Kind::Plain);
    let sink = Arc::new(Collected::default());
    let patience = Patience {
        silence: Duration::from_millis(200),
        ..Patience::default()
    };
    let alice = RelayPool::with_patience(sink.clone(), patience);
    alice.set_identity(ALICE);
    alice.set_region(1, vec![relay.node()]);
    alice.set_home(1);
    for _ in 0..2 {
        sink.connected(1);
        sink.event(|e| matches!(e, Event::RegionState { connected: false, error, .. } if error.contains("silent")));
    }
}

#[test]
fn a_relay_that_forgot_us_is_found_out_by_sending() {
    let relay = TestRelay::start(Kind::Plain);
    let sink = Arc::new(Collected::default());
    let patience = Patience {
        doubt: Duration::from_millis(100),
        answer: Duration::from_millis(300),
        ..Patience::default()
    };
    let alice = RelayPool::with_patience(sink.clone(), patience);
    alice.set_identity(ALICE);
    alice.set_region(1, vec![relay.node()]);
    alice.set_home(1);
    sink.connected(1);
    // One that answers is asked now and then, and kept.
    for _ in 0..8 {
        assert!(alice.send(1, &BOB, b"anybody?"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(relay.seen().logins, 1);
    relay.fall_mute();
    std::thread::sleep(Duration::from_millis(150));
    assert!(alice.send(1, &BOB, b"anybody?"));
    sink.event(|e| matches!(e, Event::RegionState { connected: false, error, .. } if error.contains("silent")));
    sink.connected(1);
}

#[test]
fn packets_for_a_dead_region_do_not_make_it_try_without_end() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let (alice, sink) = pool(ALICE);
    let dead = RelayNode {
        addrs: vec![closed],
        server_name: "relay.test".into(),
        cert_sha256: None,
        plain: true,
        insecure: false,
        proxy: None,
    };
    alice.set_region(1, vec![dead]);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        alice.send(1, &BOB, b"anybody?");
        std::thread::sleep(Duration::from_micros(200));
    }
    let attempts = sink.events.lock().unwrap().len();
    assert!(
        (1..=5).contains(&attempts),
        "{attempts} attempts in a second"
    );
}

#[test]
fn another_definition_or_key_reconnects_and_none_forgets() {
    let first = TestRelay::start(Kind::Plain);
    let second = TestRelay::start(Kind::Plain);
    let (alice, sink) = pool(ALICE);
    alice.set_region(1, vec![first.node()]);
    alice.set_home(1);
    sink.connected(1);
    alice.set_region(1, vec![first.node()]);
    alice.set_region(1, vec![second.node()]);
    sink.connected(1);
    assert_eq!((first.seen().logins, second.seen().logins), (1, 1));
    alice.set_identity(BOB);
    sink.connected(1);
    assert!(second.client(&login::public_key(&BOB)).is_some());
    alice.set_region(1, vec![]);
    eventually("forgotten", || alice.regions().is_empty());
    assert!(!alice.send(1, &BOB, b"gone"));
    assert!(first.seen().logins == 1 && second.seen().logins == 2);
}

#[test]
fn dead_nodes_and_addresses_are_passed_over() {
    let relay = TestRelay::start(Kind::Plain);
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let (alice, sink) = pool(ALICE);
    let dead = RelayNode {
        addrs: vec![closed.clone(), "nonsense".into()],
        ..relay.node()
    };
    let node = RelayNode {
        addrs: vec![closed, relay.addr.to_string()],
        ..relay.node()
    };
    alice.set_region(1, vec![dead, node]);
    alice.set_home(1);
    sink.connected(1);
    // A region that accepts and never answers can be called off at once.
    let stuck = RelayNode {
        addrs: vec![mute.local_addr().unwrap().to_string()],
        ..relay.node()
    };
    alice.set_region(2, vec![stuck]);
    assert!(alice.send(2, &BOB, b"anybody?"));
    eventually("under way", || alice.regions().contains(&(2, false)));
    let asked = Instant::now();
    alice.close();
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_proxy_is_passed_by_connect() {
    let relay = TestRelay::start(Kind::Tls {
        meta_certificate: true,
    });
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy_addr = proxy.local_addr().unwrap().to_string();
    let target = relay.addr;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    std::thread::spawn(move || {
        for socket in proxy.incoming() {
            let mut socket = socket.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let line = String::from_utf8(head)
                .unwrap()
                .lines()
                .next()
                .unwrap()
                .to_owned();
            heard.lock().unwrap().push(line.clone());
            if line.contains("relay.test") {
                socket
                    .write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
                    .unwrap();
                continue;
            }
            socket
                .write_all(b"HTTP/1.1 200 OK\r\nVia: test\r\n\r\n")
                .unwrap();
            let upstream = std::net::TcpStream::connect(target).unwrap();
            for (mut from, mut to) in [
                (socket.try_clone().unwrap(), upstream.try_clone().unwrap()),
                (upstream, socket),
            ] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    let (alice, sink) = pool(ALICE);
    alice.set_region(
        1,
        vec![RelayNode {
            proxy: Some(proxy_addr),
            ..relay.node()
        }],
    );
    alice.set_home(1);
    sink.connected(1);
    let port = relay.addr.port();
    assert_eq!(
        *asked.lock().unwrap(),
        vec![
            format!("CONNECT relay.test:{port} HTTP/1.1"),
            format!("CONNECT {} HTTP/1.1", relay.addr)
        ]
    );
}

#[test]
fn servers_that_are_no_relays_are_named_in_one_sentence() {
    let answers: HashMap<&str, &[u8]> = HashMap::from([
        ("404", b"HTTP/1.1 404 Not Found\r\n\r\n".as_slice()),
        ("HTTP", b"\x15\x03\x01 what?".as_slice()),
        ("closed", b"".as_slice()),
        (
            "DERP relay",
            b"HTTP/1.1 101 X\r\n\r\n\x01\0\0\0\x28DERPderpDERPderpDERPderpDERPderpDERPderp",
        ),
        ("out of turn", b"HTTP/1.1 101 X\r\n\r\n\x06\0\0\0\0"),
    ]);
    for (wanted, answer) in answers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let answer = answer.to_vec();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let _ = socket.read(&mut [0; 1000]);
                let _ = socket.write_all(&answer);
            }
        });
        let (alice, sink) = pool(ALICE);
        let node = RelayNode {
            addrs: vec![addr],
            server_name: "other.test".into(),
            cert_sha256: None,
            plain: true,
            insecure: false,
            proxy: None,
        };
        alice.set_region(1, vec![node]);
        alice.set_home(1);
        let Event::RegionState {
            error,
            connected: false,
            ..
        } = sink.event(|_| true)
        else {
            panic!("it must not connect")
        };
        assert!(
            error.contains(wanted) && error.contains("other.test"),
            "{wanted}: {error}"
        );
    }
}

/// A relay that we did not write: `WARREN_STOCK_RELAY` is its `ip:port`, with
/// `WARREN_STOCK_RELAY_PIN` the SHA-256 of its certificate in hex, or nothing for one without TLS.
fn stock_relay() -> RelayNode {
    let addr = std::env::var("WARREN_STOCK_RELAY").expect("WARREN_STOCK_RELAY is its ip:port");
    let pin = std::env::var("WARREN_STOCK_RELAY_PIN").ok();
    let pin = pin.map(|hex| {
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        ByteArray::new(std::array::from_fn(byte))
    });
    RelayNode {
        addrs: vec![addr],
        server_name: "127.0.0.1".into(),
        plain: pin.is_none(),
        cert_sha256: pin,
        insecure: false,
        proxy: None,
    }
}

#[test]
#[ignore = "needs a stock relay, see stock_relay()"]
fn a_stock_relay_forwards() {
    exchange(&stock_relay(), 1);
    let (alice, sink) = pool(ALICE);
    alice.set_region(1, vec![stock_relay()]);
    alice.set_home(1);
    sink.connected(1);
    let mut disco = b"TS\xf0\x9f\x92\xac".to_vec();
    disco.resize(100, 1);
    assert!(alice.send(1, &[9; 32], &disco));
    let gone = Event::PeerGone {
        region: 1,
        peer: ByteArray::new([9; 32]),
        reason: 1,
    };
    sink.event(|event| *event == gone);
}

#[test]
#[ignore = "needs a stock relay, see stock_relay(); prints a rate"]
fn the_rate_through_a_stock_relay() {
    rate(&stock_relay());
}

#[test]
#[ignore = "prints a rate"]
fn the_rate_through_the_test_relay() {
    rate(
        &TestRelay::start(Kind::Tls {
            meta_certificate: true,
        })
        .node(),
    );
}

/// Counts packets and their bytes.
#[derive(Default)]
struct Counted(std::sync::atomic::AtomicU64);

impl RelaySink for Counted {
    fn on_packet(&self, _region: u16, _src: &RawKey, packet: &mut [u8]) {
        self.0
            .fetch_add(packet.len() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    fn on_event(&self, event: Event) {
        println!("{event:?}");
    }
}

fn rate(node: &RelayNode) {
    let counted = Arc::new(Counted::default());
    let (alice, _) = pool(ALICE);
    let bob = RelayPool::new(counted.clone());
    bob.set_identity(BOB);
    for pool in [&alice, &bob] {
        pool.set_region(1, vec![node.clone()]);
        pool.set_home(1);
        eventually("up", || pool.regions() == vec![(1, true)]);
    }
    let key = login::public_key(&BOB);
    let packet = [4; 1312];
    let (start, mut sent, mut refused) = (Instant::now(), 0u64, 0u64);
    while start.elapsed() < Duration::from_secs(3) {
        if alice.send(1, &key, &packet) {
            sent += packet.len() as u64;
        } else {
            refused += 1;
            alice.wait_room(1, Duration::from_millis(100));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let got = counted.0.load(std::sync::atomic::Ordering::Relaxed);
    let gbits = |bytes: u64| bytes as f64 * 8e-9 / seconds;
    println!(
        "sent {:.2} Gbit/s, came {:.2} Gbit/s, refused {refused}",
        gbits(sent),
        gbits(got)
    );
}
