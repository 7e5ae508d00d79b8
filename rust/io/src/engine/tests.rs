//! Two engines on loopback, without privileges: the userspace stack and the relay are stand-ins.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use warren_core::seam::{Batch, Command, DstSpan, EngineConfig, FilterRule, Peer, RelayNode, Span};

use super::*;
use crate::ports::{PacketSink, RelayPort, RelaySink, UserStack};

/// A stack that only remembers what it was given.
#[derive(Default)]
struct Bucket(Mutex<Vec<Vec<u8>>>);

impl UserStack for Bucket {
    fn inject(&self, ip_packet: &[u8]) {
        self.0.lock().push(ip_packet.to_vec());
    }
    fn set_addresses(&self, _: &[IpAddr]) {}
    fn dial(&self, _: u64, _: SocketAddr) {}
    fn splice(&self, _: u64, _: OwnedFd) {}
    fn hangup(&self, _: u64) {}
    fn close(&self) {}
}

/// A relay that hands packets straight to the other engine, from a thread of its own.
#[derive(Default)]
struct Wire {
    other: Mutex<Weak<Shared>>,
    own_key: Mutex<[u8; 32]>,
    up: AtomicBool,
    carried: Mutex<u64>,
}

impl RelayPort for Wire {
    fn send(&self, region: u16, _: &[u8; 32], packet: &[u8]) -> bool {
        if !self.up.load(Ordering::Relaxed) {
            return false;
        }
        *self.carried.lock() += 1;
        let (other, key) = (self.other.lock().clone(), *self.own_key.lock());
        let mut packet = packet.to_vec();
        std::thread::spawn(move || {
            let door = Door(other);
            door.on_packet(region, &key, &mut packet);
            door.on_batch_end(region);
        });
        true
    }
    fn set_region(&self, _: u16, _: Vec<RelayNode>) {}
    fn set_home(&self, _: u16) {}
    fn set_identity(&self, _: [u8; 32]) {}
    fn regions(&self) -> Vec<(u16, bool)> {
        vec![(7, self.up.load(Ordering::Relaxed))]
    }
    fn close(&self) {}
}

struct End {
    engine: Engine,
    stack: Arc<Bucket>,
    wire: Arc<Wire>,
    public: [u8; 32],
    address: Ipv4Addr,
    events: Mutex<Vec<Event>>,
}

fn config() -> EngineConfig {
    EngineConfig {
        tun: None,
        port: 0,
        mtu_bytes: 1280,
        loopback_forward: false,
    }
}

impl End {
    fn new(number: u8) -> Self {
        let shared = Shared::start(&config(), None, UdpSockets::bind(0).unwrap()).unwrap();
        let (stack, wire) = (Arc::new(Bucket::default()), Arc::new(Wire::default()));
        shared.connect(Some(wire.clone()), Some(stack.clone()));
        let engine = Engine::launch(shared).unwrap();
        let private = [number; 32];
        let public = warren_core::wg::PrivateKey(private).public().0;
        *wire.own_key.lock() = public;
        let address = Ipv4Addr::new(100, 64, 0, number);
        let end = Self {
            engine,
            stack,
            wire,
            public,
            address,
            events: Mutex::default(),
        };
        let everything = Span {
            first: "0.0.0.0".into(),
            last: "255.255.255.255".into(),
        };
        let rule = FilterRule {
            sources: vec![everything.clone()],
            destinations: vec![DstSpan {
                span: everything,
                first_port: 0,
                last_port: 65535,
            }],
            protocols: vec![1, 6, 17],
        };
        end.apply(vec![
            Command::SetIdentity {
                private_key: private.into(),
                addresses: vec![format!("{address}/32")],
            },
            Command::SetFilter {
                rules: vec![rule],
                shields_up: false,
            },
        ]);
        end
    }

    fn apply(&self, commands: Vec<Command>) {
        let work = actions::compile(Batch {
            generation: 0,
            commands,
        })
        .unwrap();
        self.engine.shared.mailbox.post(work).unwrap();
    }

    fn introduce(&self, other: &Self, home_region: u32) {
        let peer = Peer {
            key: other.public.into(),
            allowed_ips: vec![format!("{}/32", other.address)],
            home_region,
            roams: false,
            endpoint: None,
            keepalive_s: 0,
        };
        self.apply(vec![Command::SetPeers {
            upsert: vec![peer],
            remove: vec![],
        }]);
        *self.wire.other.lock() = Arc::downgrade(&other.engine.shared);
        until("the peer is known", || {
            snapshot(&self.engine.shared).peers.len() == 1
        });
    }

    fn lease(&self, other: &Self, lease_ms: u64) {
        let port = snapshot(&other.engine.shared).port4;
        let addr = Some(format!("127.0.0.1:{port}"));
        self.apply(vec![Command::SetPath {
            peer: other.public.into(),
            addr,
            lease_ms,
        }]);
    }

    fn send(&self, packet: &[u8]) {
        let door = Door(Arc::downgrade(&self.engine.shared));
        door.outbound(packet);
        door.flush();
    }

    fn told(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        let mut events = self.events.lock();
        events.extend(self.engine.shared.events.drain());
        events.iter().any(wanted)
    }
}

fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !true_now() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A UDP packet with no checksum.
fn packet(from: &End, to: &End, payload: &[u8]) -> Vec<u8> {
    let total = (28 + payload.len()) as u16;
    let mut p = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    p[2..4].copy_from_slice(&total.to_be_bytes());
    p.extend(from.address.octets());
    p.extend(to.address.octets());
    p.extend([0x10, 0, 0x20, 0]);
    p.extend((total - 20).to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}

fn pair(home_region: u32) -> (End, End) {
    let (a, b) = (End::new(1), End::new(2));
    a.introduce(&b, home_region);
    b.introduce(&a, home_region);
    (a, b)
}

#[test]
fn packets_of_every_size_pass_over_leased_paths() {
    let (a, b) = pair(0);
    a.lease(&b, 60_000);
    b.lease(&a, 60_000);
    until("leases", || {
        [&a, &b]
            .iter()
            .all(|end| snapshot(&end.engine.shared).peers[0].direct.is_some())
    });
    a.send(&packet(&a, &b, b"first"));
    until(
        "the first packet waits for the handshake, then arrives",
        || b.stack.0.lock().len() == 1,
    );
    let sizes = [0usize, 1, 2, 15, 16, 17, 100, 1251, 1252];
    let sent: Vec<_> = sizes
        .iter()
        .map(|size| packet(&a, &b, &vec![*size as u8; *size]))
        .collect();
    for packet in &sent {
        a.send(packet);
    }
    until("all arrive", || b.stack.0.lock().len() == 1 + sent.len());
    assert_eq!(b.stack.0.lock()[1..], sent);
    assert!(a.told(|e| *e
        == Event::Handshake {
            peer: b.public.into()
        }));
    assert!(a.told(|e| *e
        == Event::Active {
            peer: b.public.into(),
            direct: true
        }));
    assert_eq!(*a.wire.carried.lock(), 0);
}

#[test]
fn a_lapsed_lease_takes_the_relay_at_once() {
    let (a, b) = pair(7);
    for end in [&a, &b] {
        end.wire.up.store(true, Ordering::Relaxed);
    }
    a.send(&packet(&a, &b, b"relayed"));
    until("over the relay", || b.stack.0.lock().len() == 1);
    assert!(a.told(|e| *e
        == Event::Active {
            peer: b.public.into(),
            direct: false
        }));
    a.lease(&b, 400);
    until("lease", || {
        snapshot(&a.engine.shared).peers[0].direct.is_some()
    });
    let carried = *a.wire.carried.lock();
    a.send(&packet(&a, &b, b"direct"));
    until("directly", || b.stack.0.lock().len() == 2);
    assert_eq!(*a.wire.carried.lock(), carried);
    until("lapse", || {
        snapshot(&a.engine.shared).peers[0].direct.is_none()
    });
    a.send(&packet(&a, &b, b"relayed again"));
    until("over the relay again", || b.stack.0.lock().len() == 3);
    assert!(*a.wire.carried.lock() > carried);
}

#[test]
fn what_cannot_go_is_counted_by_reason() {
    let (a, b) = pair(0);
    let stranger = End::new(3);
    a.send(&packet(&a, &stranger, b"nobody has this address"));
    a.send(b"no packet");
    a.send(&packet(&a, &b, b"no path"));
    until("drops", || {
        let drops = a.engine.shared.drops.named();
        ["no-route", "bad-outbound", "no-path"]
            .iter()
            .all(|name| drops.contains_key(*name))
    });
    // A peer may send only from its own addresses.
    a.lease(&b, 60_000);
    b.lease(&a, 60_000);
    a.send(&packet(&a, &b, b"mine"));
    until("a session", || !b.stack.0.lock().is_empty());
    a.send(&packet(&stranger, &b, b"somebody else's"));
    until("a wrong source", || {
        b.engine.shared.drops.named().contains_key("wrong-source")
    });
}

#[test]
fn garbage_and_floods_are_counted_and_bounded() {
    let end = End::new(1);
    let port = snapshot(&end.engine.shared).port4;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.resize(20, 0);
    for round in 0..3000u32 {
        socket.send_to(&stun, ("127.0.0.1", port)).unwrap();
        let mut data = vec![round as u8 | 0x40; 40];
        socket.send_to(&data, ("127.0.0.1", port)).unwrap();
        data[..4].copy_from_slice(&[4, 0, 0, 0]);
        socket.send_to(&data, ("127.0.0.1", port)).unwrap();
    }
    until("drops", || {
        let drops = end.engine.shared.drops.named();
        ["unknown-datagram", "wireguard-no-session"]
            .iter()
            .all(|name| drops.contains_key(*name))
    });
    std::thread::sleep(Duration::from_millis(50));
    let events = end.engine.shared.events.drain();
    assert!((1..=1100).contains(&events.len()), "{}", events.len());
}

#[test]
fn closing_ends_every_thread_and_frees_the_port() {
    let end = End::new(1);
    let port = snapshot(&end.engine.shared).port4;
    end.engine.close();
    end.engine.close();
    let weak = Arc::downgrade(&end.engine.shared);
    assert!(end.engine.apply(&[0x82]).is_err());
    drop(end);
    assert!(weak.upgrade().is_none());
    assert!(UdpSockets::bind(port).is_ok());
}

#[test]
fn new_sockets_may_take_the_same_port() {
    let end = End::new(1);
    let port = snapshot(&end.engine.shared).port4;
    let bound = |port| move |e: &Event| matches!(e, Event::Bound { port4, .. } if *port4 == port);
    assert!(end.told(bound(port)));
    end.events.lock().clear();
    end.apply(vec![Command::Rebind { port }]);
    until("bound again", || end.told(bound(port)));
    end.apply(vec![Command::Rebind { port: 0 }]);
    until("bound anew", || snapshot(&end.engine.shared).port4 != port);
}
