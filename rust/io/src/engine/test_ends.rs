//! Engines on loopback, without privileges: the userspace stack and the relay are stand-ins.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use warren_core::seam::{Batch, Command, DstSpan, FilterRule, Peer, RelayNode, Span};

use super::*;
use crate::ports::{PacketSink, RelayPort, RelaySink, UserStack};

/// A stack that only remembers what it was given.
#[derive(Default)]
pub(super) struct Bucket(pub(super) Mutex<Vec<Vec<u8>>>);

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
pub(super) struct Wire {
    pub(super) other: Mutex<Weak<Shared>>,
    pub(super) own_key: Mutex<[u8; 32]>,
    pub(super) up: AtomicBool,
    pub(super) carried: Mutex<u64>,
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

pub(super) struct End {
    pub(super) engine: Engine,
    pub(super) stack: Arc<Bucket>,
    pub(super) wire: Arc<Wire>,
    pub(super) public: [u8; 32],
    pub(super) address: Ipv4Addr,
    pub(super) events: Mutex<Vec<Event>>,
}

impl End {
    pub(super) fn new(number: u8) -> Self {
        let shared = Shared::start(None, UdpSockets::bind(0, 1).unwrap(), 1).unwrap();
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

    pub(super) fn apply(&self, commands: Vec<Command>) {
        let work = actions::compile(Batch {
            generation: 0,
            commands,
        })
        .unwrap();
        self.engine.shared.mailbox.post(work).unwrap();
    }

    pub(super) fn introduce(&self, other: &Self, home_region: u32) {
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
            let known = snapshot(&self.engine.shared).peers;
            known.iter().any(|peer| *peer.key == other.public)
        });
    }

    pub(super) fn lease(&self, other: &Self, lease_ms: u64) {
        self.path(other, &other.addr(), lease_ms, (0, 0), 0, 0);
    }

    pub(super) fn path(
        &self,
        other: &Self,
        addr: &str,
        lease_ms: u64,
        (group, index): (u32, u16),
        vni: u32,
        channel: u16,
    ) {
        self.apply(vec![Command::SetPath {
            peer: other.public.into(),
            addr: Some(addr.to_owned()),
            lease_ms,
            group,
            index,
            vni,
            channel,
            mtu_bytes: 1280,
        }]);
    }

    pub(super) fn addr(&self) -> String {
        format!("127.0.0.1:{}", snapshot(&self.engine.shared).port4)
    }

    pub(super) fn inbox(&self) -> usize {
        self.stack.0.lock().len()
    }

    pub(super) fn drops(&self, name: &str) -> u64 {
        let drops = snapshot(&self.engine.shared).drops;
        drops.get(name).copied().unwrap_or(0)
    }

    /// Waits for a datagram event that begins like a disco packet; gives its fields.
    pub(super) fn datagram(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        let mut found = None;
        until("a datagram is handed up", || {
            let mut events = self.events.lock();
            events.extend(self.engine.shared.events.drain());
            let at = events.iter().position(&wanted);
            found = at.map(|at| events.remove(at));
            found.is_some()
        });
        found.unwrap()
    }

    pub(super) fn send(&self, packet: &[u8]) {
        let door = Door(Arc::downgrade(&self.engine.shared));
        door.outbound(packet);
        door.flush();
    }

    pub(super) fn told(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        let mut events = self.events.lock();
        events.extend(self.engine.shared.events.drain());
        events.iter().any(wanted)
    }
}

pub(super) fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !true_now() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A UDP packet with no checksum.
pub(super) fn packet(from: &End, to: &End, payload: &[u8]) -> Vec<u8> {
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

pub(super) fn pair(home_region: u32) -> (End, End) {
    let (a, b) = (End::new(1), End::new(2));
    a.introduce(&b, home_region);
    b.introduce(&a, home_region);
    (a, b)
}
