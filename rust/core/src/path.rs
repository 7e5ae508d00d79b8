//! Where to send what is sealed for a peer: a leased direct path, else the relay.
//!
//! Python leases a path for a trust time (DESIGN, path leases). A stalled interpreter lets the
//! lease lapse, and packets take the relay again: never a black hole. A peer that `roams` (plain
//! WireGuard, no disco) has no leases: its endpoint is the source of its last authenticated
//! datagram and never lapses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::ArcSwapOption;

use crate::hop::Hop;

/// What every path carries inside the tunnel (RFC 8200 §5).
pub const BASE_MTU_BYTES: usize = 1280;

#[derive(Debug)]
struct Lease {
    hop: Hop,
    mtu_bytes: usize,
    /// Monotonic milliseconds; `u64::MAX` for a roaming peer's endpoint.
    until_ms: u64,
}

/// The path of one peer; read on every batch, written seldom, by any thread.
#[derive(Debug, Default)]
pub struct Path {
    lease: ArcSwapOption<Lease>,
    home_region: AtomicU32,
    /// The region that it last spoke through.
    heard_region: AtomicU32,
    roams: AtomicBool,
}

impl Path {
    /// Lease `hop` until `until_ms`, or take the path away. It carries packets of up to
    /// `mtu_bytes` inside the tunnel.
    pub fn lease(&self, hop: Option<Hop>, until_ms: u64, mtu_bytes: usize) {
        let lease = hop.map(|hop| Lease {
            hop,
            mtu_bytes,
            until_ms,
        });
        self.lease.store(lease.map(Arc::new));
    }

    /// The direct path while its lease is valid.
    #[must_use]
    pub fn direct(&self, mono_ms: u64) -> Option<Hop> {
        self.direct_and_mtu(mono_ms).map(|(hop, _)| hop)
    }

    /// The same, with the largest packet that it carries.
    #[must_use]
    pub fn direct_and_mtu(&self, mono_ms: u64) -> Option<(Hop, usize)> {
        let lease = self.lease.load();
        lease
            .as_ref()
            .filter(|lease| mono_ms < lease.until_ms)
            .map(|lease| (lease.hop, lease.mtu_bytes))
    }

    /// The relay region where the peer can be reached: its home by the map, else the region that
    /// it last spoke through; 0 when unknown.
    #[must_use]
    pub fn home_region(&self) -> u32 {
        match self.home_region.load(Ordering::Relaxed) {
            0 => self.heard_region.load(Ordering::Relaxed),
            home => home,
        }
    }

    /// An authenticated datagram came through this relay region.
    pub fn heard_through(&self, region: u32) {
        self.heard_region.store(region, Ordering::Relaxed);
    }

    /// Set what the network map says of this peer. A roaming peer starts at `endpoint`, unless
    /// it has been heard from elsewhere already.
    pub fn configure(&self, home_region: u32, roams: bool, endpoint: Option<Hop>) {
        self.home_region.store(home_region, Ordering::Relaxed);
        let roamed = self.roams.swap(roams, Ordering::Relaxed);
        if roams && (!roamed || self.lease.load().is_none()) {
            self.lease(endpoint, u64::MAX, BASE_MTU_BYTES);
        } else if roamed && !roams {
            self.lease(None, 0, BASE_MTU_BYTES);
        }
    }

    /// Whether the peer roams.
    #[must_use]
    pub fn roams(&self) -> bool {
        self.roams.load(Ordering::Relaxed)
    }

    /// An authenticated datagram came by `hop`: a roaming peer is there now.
    pub fn heard_from(&self, hop: Hop) {
        if self.roams() && self.direct(0) != Some(hop) {
            self.lease(Some(hop), u64::MAX, BASE_MTU_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn at(text: &str) -> Hop {
        text.parse::<SocketAddr>().unwrap().into()
    }

    #[test]
    fn a_lease_lapses() {
        let path = Path::default();
        let addr = at("192.0.2.1:41641");
        path.lease(Some(addr), 6_500, 1_440);
        assert_eq!(path.direct_and_mtu(0), Some((addr, 1_440)));
        assert_eq!(path.direct(6_499), Some(addr));
        assert_eq!(path.direct(6_500), None);
        path.lease(None, 9_000, 1_440);
        assert_eq!(path.direct(1), None);
        path.heard_from(addr);
        assert_eq!(
            path.direct(1),
            None,
            "only a roaming peer learns from datagrams"
        );
    }

    #[test]
    fn a_roaming_peer_is_where_it_was_heard() {
        let (path, a, b) = (Path::default(), at("192.0.2.1:1"), at("[2001:db8::1]:2"));
        path.configure(0, true, Some(a));
        assert_eq!(path.direct(u64::MAX - 1), Some(a));
        path.heard_from(b);
        path.configure(0, true, Some(a));
        assert_eq!(path.direct(1), Some(b), "a new map does not move it back");
        path.configure(5, false, None);
        assert_eq!((path.direct(1), path.home_region()), (None, 5));
    }
}
