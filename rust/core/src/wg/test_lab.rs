//! Two devices in memory, a wire between them, and a clock that only the test moves.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::{Entropy, Now};
use crate::demux::{WireGuard, wireguard_kind};

/// Entropy that replays: SplitMix64 from a seed.
pub(super) struct Seeded(pub(super) AtomicU64);

impl Entropy for Seeded {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

pub(super) struct Device {
    pub(super) tunnel: Tunnel,
    pub(super) addr: SocketAddr,
    pub(super) key: PublicKey,
    /// Opened inner packets.
    pub(super) inbox: Vec<Vec<u8>>,
    pub(super) events: Vec<TunnelEvent>,
    pub(super) refused: BTreeMap<&'static str, usize>,
}

pub(super) const PORT_A: u16 = 1;
pub(super) const PORT_B: u16 = 2;

pub(super) fn device(seed: u64, port: u16, initiations_per_s: u32) -> Device {
    let private = PrivateKey([seed as u8; 32]);
    let key = private.public();
    let config = TunnelConfig { initiations_per_s };
    let tunnel = Tunnel::new(config, Arc::new(Seeded(seed.into())));
    tunnel.set_identity(private);
    let addr = SocketAddr::from(([192, 0, 2, 1], port));
    Device {
        tunnel,
        addr,
        key,
        inbox: vec![],
        events: vec![],
        refused: BTreeMap::new(),
    }
}

pub(super) fn peer_of(other: &Device) -> PeerConfig {
    PeerConfig {
        key: other.key,
        allowed_ips: vec![format!("10.0.0.{}", other.addr.port()).parse().unwrap()],
        home_region: 0,
        roams: true,
        endpoint: Some(other.addr),
        keepalive_s: 0,
    }
}

/// An IPv4 packet from 10.0.0.src to 10.0.0.dst.
pub(super) fn packet(src: u16, dst: u16, len: usize) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    p.extend_from_slice(&[10, 0, 0, src as u8, 10, 0, 0, dst as u8]);
    p.resize(len, 0xaa);
    p[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    p
}

impl Device {
    pub(super) fn peer(&self, key: &PublicKey) -> Arc<Peer> {
        self.tunnel.tables().peer(key).unwrap().clone()
    }

    /// Send one packet as the packet path does; what was sealed at once.
    pub(super) fn send(&self, packet: &[u8], now: Now) -> Vec<Vec<u8>> {
        let tables = self.tunnel.tables();
        let peer = tables
            .route(crate::packet::destination(packet).unwrap())
            .unwrap();
        let session = match self.tunnel.sender(peer, now) {
            Some(session) => session,
            None => match self.tunnel.stage(peer, now) {
                Err(session) => session,
                Ok(mut staging) => {
                    staging.keep(packet);
                    return vec![];
                }
            },
        };
        let mut out = vec![0; Session::sealed_len(packet.len())];
        let len = session.seal_into(packet, &mut out).unwrap();
        assert_eq!(len, out.len());
        self.tunnel.sent(&session, 1, len as u64, now);
        vec![out]
    }

    pub(super) fn receive(&mut self, datagram: &[u8], src: SocketAddr, now: Now) {
        let outcome = match wireguard_kind(datagram) {
            Some(WireGuard::Data) => self.receive_data(datagram, src, now),
            Some(_) => self
                .tunnel
                .receive_handshake(datagram, Source::Udp(src.into()), now),
            None => Err(Refused::Malformed),
        };
        if let Err(refused) = outcome {
            *self.refused.entry(refused.name()).or_default() += 1;
        }
        while let Some(event) = self.tunnel.poll_event() {
            self.events.push(event);
        }
    }

    pub(super) fn receive_data(
        &mut self,
        datagram: &[u8],
        src: SocketAddr,
        now: Now,
    ) -> Result<(), Refused> {
        let session = self.tunnel.session(datagram).ok_or(Refused::NoSession)?;
        let mut buffer = datagram.to_vec();
        let mut opener = session.opener();
        let inner = opener
            .open_in_place(&mut buffer)
            .map(|plain| plain.to_vec());
        let opened = opener.finish();
        self.tunnel
            .received(&session, opened, Source::Udp(src.into()), now);
        let inner = inner?;
        if !inner.is_empty() {
            let (src, _) = crate::packet::source_and_length(&inner).unwrap();
            assert!(self.tunnel.tables().allows(session.peer(), src));
            self.inbox.push(inner);
        }
        Ok(())
    }

    pub(super) fn handshakes(&self) -> usize {
        self.events
            .iter()
            .filter(|e| matches!(e, TunnelEvent::Handshake(_)))
            .count()
    }
}

/// Whether a datagram is lost, by its number and content.
pub(super) type Loss = Box<dyn FnMut(usize, &[u8]) -> bool>;

/// Devices A (port 1) and B (port 2).
pub(super) struct Lab {
    pub(super) a: Device,
    pub(super) b: Device,
    pub(super) now: Now,
    /// Datagrams under way: from port, to port, bytes.
    pub(super) wire: VecDeque<(u16, u16, Vec<u8>)>,
    /// Every datagram ever sent.
    pub(super) seen: Vec<(u16, Vec<u8>)>,
    /// Whether a datagram is lost, by its number.
    pub(super) lose: Loss,
}

impl Lab {
    pub(super) fn new() -> Self {
        let (a, b) = (device(11, PORT_A, 1_000), device(22, PORT_B, 1_000));
        let now = Now {
            mono_ms: 1_000,
            wall: Duration::from_secs(1_700_000_000),
        };
        a.tunnel.set_peers(&[peer_of(&b)], &[], now);
        b.tunnel.set_peers(&[peer_of(&a)], &[], now);
        let lose = Box::new(|_, _: &[u8]| false);
        Self {
            a,
            b,
            now,
            wire: VecDeque::new(),
            seen: vec![],
            lose,
        }
    }

    pub(super) fn post(&mut self, from: u16, to: u16, datagram: Vec<u8>) {
        let lost = (self.lose)(self.seen.len(), &datagram);
        self.seen.push((from, datagram.clone()));
        if !lost {
            self.wire.push_back((from, to, datagram));
        }
    }

    pub(super) fn collect(&mut self) {
        let mut out = vec![];
        for device in [&self.a, &self.b] {
            while let Some(transmit) = device.tunnel.poll_transmit() {
                let to = match transmit.to {
                    Target::Peer(peer) => peer.path().direct(self.now.mono_ms).unwrap().addr,
                    Target::Source(Source::Udp(hop)) => hop.addr,
                    Target::Source(other) => panic!("{other:?}"),
                };
                out.push((device.addr.port(), to.port(), transmit.datagram));
            }
            device.tunnel.send_staged(self.now, |peer, datagram| {
                let to = peer.path().direct(self.now.mono_ms).unwrap().addr;
                out.push((device.addr.port(), to.port(), datagram.to_vec()));
            });
        }
        out.into_iter()
            .for_each(|(from, to, datagram)| self.post(from, to, datagram));
    }

    /// Deliver until nothing is under way.
    pub(super) fn settle(&mut self) {
        loop {
            self.collect();
            let Some((from, to, datagram)) = self.wire.pop_front() else {
                return;
            };
            let src = SocketAddr::from(([192, 0, 2, 1], from));
            let device = if to == self.b.addr.port() {
                &mut self.b
            } else {
                &mut self.a
            };
            device.receive(&datagram, src, self.now);
        }
    }

    pub(super) fn a_sends(&mut self, packet: &[u8]) {
        for datagram in self.a.send(packet, self.now) {
            self.post(self.a.addr.port(), PORT_B, datagram);
        }
        self.settle();
    }

    pub(super) fn b_sends(&mut self, packet: &[u8]) {
        for datagram in self.b.send(packet, self.now) {
            self.post(PORT_B, self.a.addr.port(), datagram);
        }
        self.settle();
    }

    /// Let time pass, timers running every 100 ms.
    pub(super) fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now = self.now.plus_ms(100);
            for device in [&mut self.a, &mut self.b] {
                device.tunnel.handle_timeout(self.now);
                while let Some(event) = device.tunnel.poll_event() {
                    device.events.push(event);
                }
            }
            self.settle();
        }
    }

    pub(super) fn count(&self, from: u16, kind: WireGuard) -> usize {
        self.seen
            .iter()
            .filter(|(f, d)| *f == from && wireguard_kind(d) == Some(kind))
            .count()
    }
}
