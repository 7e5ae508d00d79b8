//! Inbound UDP in userspace mode: a peer's datagrams go to the same port on the host's loopback,
//! the answers go back. One small socket a pair of ends, bounded, forgotten after 60 s.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

/// Pairs of ends at a time.
const MAX_PAIRS: usize = 512;
/// A pair without datagrams is forgotten after so long (RFC 4787 asks NATs for 2 min; a socket on
/// the host's own loopback is cheaper to open anew).
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams that are answered in one round, so that one pair does not hold up the rest.
const ROUND: usize = 64;

/// The two ends as the tunnel sees them: peer, own.
type Ends = (SocketAddr, SocketAddr);

struct Pair {
    ends: Ends,
    socket: UdpSocket,
    used: Instant,
}

/// The pairs under way.
pub(super) struct UdpPairs {
    by_ends: HashMap<Ends, usize>,
    pairs: HashMap<usize, Pair>,
    next: usize,
    first_token: usize,
    packet: Vec<u8>,
    mtu_bytes: usize,
}

impl UdpPairs {
    /// No pairs yet; poller tokens from `first_token` on are theirs.
    pub(super) fn new(first_token: usize, mtu_bytes: usize) -> Self {
        Self {
            by_ends: HashMap::new(),
            pairs: HashMap::new(),
            next: 0,
            first_token,
            packet: Vec::new(),
            mtu_bytes,
        }
    }

    /// Hand a datagram to the host. What finds no room or no socket is lost, as UDP may be.
    pub(super) fn deliver(
        &mut self,
        ends: Ends,
        payload: &[u8],
        registry: &Registry,
        now: Instant,
    ) {
        let index = match self.by_ends.get(&ends) {
            Some(index) => *index,
            None => match self.open(ends, registry, now) {
                Some(index) => index,
                None => return,
            },
        };
        if let Some(pair) = self.pairs.get_mut(&index) {
            pair.used = now;
            let _ = pair.socket.send(payload);
        }
    }

    fn open(&mut self, ends: Ends, registry: &Registry, now: Instant) -> Option<usize> {
        if self.pairs.len() >= MAX_PAIRS {
            return None;
        }
        let mut socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).ok()?;
        socket
            .connect((Ipv4Addr::LOCALHOST, ends.1.port()).into())
            .ok()?;
        let index = self.next;
        self.next += 1;
        registry
            .register(
                &mut socket,
                Token(self.first_token + index),
                Interest::READABLE,
            )
            .ok()?;
        self.by_ends.insert(ends, index);
        self.pairs.insert(
            index,
            Pair {
                ends,
                socket,
                used: now,
            },
        );
        Some(index)
    }

    /// Read the host's answers on a token and give them out as packets. True: more may wait.
    pub(super) fn collect(
        &mut self,
        token: Token,
        now: Instant,
        send: &mut dyn FnMut(&[u8]),
    ) -> bool {
        let index = token.0 - self.first_token;
        let Some(pair) = self.pairs.get_mut(&index) else {
            return false;
        };
        let mut payload = [0; 65536];
        for _ in 0..ROUND {
            match pair.socket.recv(&mut payload) {
                Ok(count) => {
                    pair.used = now;
                    if encode(
                        &mut self.packet,
                        pair.ends,
                        &payload[..count],
                        self.mtu_bytes,
                    ) {
                        send(&self.packet);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                // Refused: nobody listens there. The pair stays, and the peer hears nothing.
                Err(_) => return false,
            }
        }
        true
    }

    /// Forget pairs that rest; gives when to look again.
    pub(super) fn expire(&mut self, registry: &Registry, now: Instant) -> Option<Instant> {
        self.pairs.retain(|_, pair| {
            let keep = now < pair.used + IDLE;
            if !keep {
                let _ = registry.deregister(&mut pair.socket);
                self.by_ends.remove(&pair.ends);
            }
            keep
        });
        self.pairs.values().map(|pair| pair.used + IDLE).min()
    }
}

/// Write a UDP packet from our end to the peer's; false when it does not fit the tunnel.
pub(super) fn encode(
    packet: &mut Vec<u8>,
    (peer, own): Ends,
    payload: &[u8],
    mtu_bytes: usize,
) -> bool {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr {
        src_port: own.port(),
        dst_port: peer.port(),
    };
    let payload_len = 8 + payload.len();
    let header_len = if own.is_ipv4() { 20 } else { 40 };
    if header_len + payload_len > mtu_bytes {
        return false;
    }
    packet.clear();
    packet.resize(header_len + payload_len, 0);
    match (own, peer) {
        (SocketAddr::V4(own), SocketAddr::V4(peer)) => Ipv4Repr {
            src_addr: *own.ip(),
            dst_addr: *peer.ip(),
            next_header: IpProtocol::Udp,
            payload_len,
            hop_limit: 64,
        }
        .emit(&mut Ipv4Packet::new_unchecked(&mut *packet), &checksums),
        (SocketAddr::V6(own), SocketAddr::V6(peer)) => Ipv6Repr {
            src_addr: *own.ip(),
            dst_addr: *peer.ip(),
            next_header: IpProtocol::Udp,
            payload_len,
            hop_limit: 64,
        }
        .emit(&mut Ipv6Packet::new_unchecked(&mut *packet)),
        _ => return false,
    }
    let (src, dst): (IpAddress, IpAddress) = (own.ip().into(), peer.ip().into());
    let write = |room: &mut [u8]| room.copy_from_slice(payload);
    let mut datagram = UdpPacket::new_unchecked(&mut packet[header_len..]);
    udp.emit(&mut datagram, &src, &dst, payload.len(), write, &checksums);
    true
}
