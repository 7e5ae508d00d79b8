//! Why packets were dropped, counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use warren_core::filter::Refusal;
use warren_core::wg::Refused;

/// Each reason has one counter; the names are those of `Snapshot.drops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drop {
    /// No kind of datagram that this socket carries.
    Unknown,
    /// Peer-relay packets with nothing in them that is known.
    Geneve,
    /// Datagrams of a forwarded session from neither of its two addresses.
    ForwardStranger,
    /// TURN messages and channel data from no TURN server of ours.
    TurnStranger,
    /// STUN and disco beyond the rate limit.
    RateLimit,
    /// Events that Python did not drain in time.
    EventQueue,
    /// Inner packets from an address that is not the peer's.
    WrongSource,
    /// The kernel refused an inner packet.
    Device,
    /// Outbound packets that are no IP, or that contradict their offload header.
    BadOutbound,
    /// Outbound packets to an address that no peer has.
    NoRoute,
    /// Neither a valid lease nor a relay region.
    NoPath,
    /// The relay's queue was full or its region unknown.
    RelayQueue,
    /// The kernel refused a datagram.
    UdpSend,
    /// A stream to a TURN server had no room: it is slower than what is sent.
    StreamFull,
    /// The socket or stream of a path was closed, or this machine lacks the address family.
    SocketClosed,
    /// Bytes of a TURN server's stream that are no message of TURN: the stream was closed.
    TurnStream,
    /// The path carries no packet of this size, and it could not be cut: its sender was told.
    TooBig,
    /// The session's counter was used up.
    Exhausted,
    /// Handshakes given up after 90 s.
    Unanswered,
    /// See [`Refused`].
    WgMalformed,
    WgNoSession,
    WgForged,
    WgReplayed,
    WgBadMac,
    WgUnknownPeer,
    WgStaleInitiation,
    WgUnderLoad,
    /// See [`Refusal`].
    FilterNoRule,
    FilterMalformed,
    FilterFragment,
}

const NAMES: [&str; 30] = [
    "unknown-datagram",
    "geneve",
    "forward-stranger",
    "turn-stranger",
    "rate-limit",
    "event-queue",
    "wrong-source",
    "device",
    "bad-outbound",
    "no-route",
    "no-path",
    "relay-queue",
    "udp-send",
    "turn-stream-full",
    "socket-closed",
    "turn-stream",
    "packet-too-big",
    "session-exhausted",
    "handshake-unanswered",
    "wireguard-malformed",
    "wireguard-no-session",
    "wireguard-forged",
    "wireguard-replayed",
    "wireguard-bad-mac",
    "wireguard-unknown-peer",
    "wireguard-stale-initiation",
    "wireguard-under-load",
    "filter-no-rule",
    "filter-malformed",
    "filter-fragment",
];

impl From<Refused> for Drop {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Malformed => Self::WgMalformed,
            Refused::NoSession => Self::WgNoSession,
            Refused::Forged => Self::WgForged,
            Refused::Replayed => Self::WgReplayed,
            Refused::BadMac => Self::WgBadMac,
            Refused::UnknownPeer => Self::WgUnknownPeer,
            Refused::StaleInitiation => Self::WgStaleInitiation,
            Refused::UnderLoad => Self::WgUnderLoad,
        }
    }
}

impl From<Refusal> for Drop {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoRule => Self::FilterNoRule,
            Refusal::Malformed => Self::FilterMalformed,
            Refusal::Fragment => Self::FilterFragment,
        }
    }
}

/// The counters, shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct Drops([AtomicU64; NAMES.len()]);

impl Drops {
    pub(crate) fn count(&self, why: impl Into<Drop>) {
        self.add(why, 1);
    }

    pub(crate) fn add(&self, why: impl Into<Drop>, packets: u64) {
        self.0[why.into() as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// Those that are not zero, by name.
    pub(crate) fn named(&self) -> BTreeMap<String, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        NAMES
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| ((*name).to_owned(), count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_name() {
        let drops = Drops::default();
        assert!(drops.named().is_empty());
        drops.count(Drop::Unknown);
        drops.add(Refusal::Fragment, 3);
        drops.count(Refused::UnderLoad);
        let named = drops.named();
        assert_eq!(named.get("unknown-datagram"), Some(&1));
        assert_eq!(named.get("filter-fragment"), Some(&3));
        assert_eq!(named.get("wireguard-under-load"), Some(&1));
    }
}
