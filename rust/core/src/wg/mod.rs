//! WireGuard, as a machine that many threads share.
//!
//! The handshake's cryptography is `snow` (Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s), the transport's
//! is `warren_aead`: many messages of one session side by side. The machine around them is our own,
//! because the crates that have one keep a session pair behind one `&mut`, so that sealing waits
//! for opening, and read the clock inside, so that no test can hold it. Here:
//!
//! * peers, routes and identity are one immutable [`Tables`] value, swapped whole;
//! * a [`Session`] is shared by `Arc`: its send counter is atomic, its replay window has a small
//!   lock of its own that an [`Opener`] takes once a batch; sealing takes no lock;
//! * handshakes are rare, and wait for one lock per peer, off the data path;
//! * time is [`crate::clock::Now`], entropy is [`crate::clock::Entropy`], both given.
//!
//! Source: the WireGuard whitepaper (sections in the code), PROTOCOL §6.

mod cookie;
mod handshake;
mod index;
mod keys;
mod load;
mod noise;
mod peer;
mod queue;
mod replay;
mod session;
mod staging;
mod sync;
mod tables;
mod timers;
mod tunnel;

#[cfg(test)]
mod captures;
#[cfg(test)]
mod staging_tests;
#[cfg(test)]
mod test_lab;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

pub use keys::{PrivateKey, PublicKey};
pub use peer::{Peer, PeerCounters};
pub use session::{Batch, Opened, Opener, Session};
pub use staging::Staging;
pub use tables::Tables;
pub use tunnel::Tunnel;
pub use warren_aead::{GROUP, Message};

use crate::hop::Hop;
use crate::routes::Prefix;

/// Bytes of a data message before the ciphertext (whitepaper §5.4.6).
pub const HEADER_BYTES: usize = 16;
/// Bytes of the authentication tag behind the ciphertext.
pub const TAG_BYTES: usize = 16;
/// Header and tag: what sealing adds to a padded packet.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

// Constants of the whitepaper, §6.1, and of PROTOCOL §6.
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
const REKEY_AFTER_MS: u64 = 120_000;
const REJECT_AFTER_MS: u64 = 180_000;
const GIVE_UP_MS: u64 = 90_000;
const REKEY_TIMEOUT_MS: u64 = 5_000;
const JITTER_MS: u64 = 334;
const KEEPALIVE_MS: u64 = 10_000;
/// A responder that sends renews so late (ours): an initiator that receives does at 165 s.
const RESPONDER_REKEY_AFTER_MS: u64 = 150_000;
/// One peer's initiations are taken at most 50 times a second.
const MIN_INITIATION_GAP_MS: u64 = 20;
/// Packets of one peer that wait for a session.
const MAX_STAGED: usize = 128;
/// Datagrams and events that wait to be polled.
const MAX_TRANSMITS: usize = 4_096;
const MAX_EVENTS: usize = 4_096;

/// Why bytes were dropped; [`Refused::name`] is the name of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Truncated, of the wrong type, or an inner packet that is none.
    Malformed,
    /// No session with this receiver index, or it was rejected for its age.
    NoSession,
    /// Authentication failed.
    Forged,
    /// Counter seen before, or too old for the window.
    Replayed,
    /// A handshake message with a wrong mac1, or not for us.
    BadMac,
    /// An initiation from a key that is no peer.
    UnknownPeer,
    /// An initiation that is not newer than the last, or comes too soon after it.
    StaleInitiation,
    /// Under load, and the source has not proved its address or asks too often.
    UnderLoad,
}

impl Refused {
    /// The name of its counter.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "wireguard-malformed",
            Self::NoSession => "wireguard-no-session",
            Self::Forged => "wireguard-forged",
            Self::Replayed => "wireguard-replayed",
            Self::BadMac => "wireguard-bad-mac",
            Self::UnknownPeer => "wireguard-unknown-peer",
            Self::StaleInitiation => "wireguard-stale-initiation",
            Self::UnderLoad => "wireguard-under-load",
        }
    }
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// By UDP: the way back there.
    Udp(Hop),
    /// Through a relay, from this key.
    Relay {
        /// The relay region.
        region: u32,
        /// Who sent it, as the relay says.
        peer: PublicKey,
    },
}

/// Where something that the machine wants sent shall go.
#[derive(Clone, Debug)]
pub enum Target {
    /// To the peer, by its best path.
    Peer(Arc<Peer>),
    /// Back to where a datagram came from (cookie replies).
    Source(Source),
}

/// A datagram that the machine wants sent (handshakes, keepalives, packets that had waited).
#[derive(Debug)]
pub struct Transmit {
    /// Where to.
    pub to: Target,
    /// The whole datagram.
    pub datagram: Vec<u8>,
}

/// What the tunnel shall be.
#[derive(Clone, Copy, Debug)]
pub struct TunnelConfig {
    /// Handshake initiations a second beyond which senders must prove their address by cookie.
    pub initiations_per_s: u32,
}

/// What the machine has to tell.
#[derive(Clone, Debug)]
pub enum TunnelEvent {
    /// A session with this peer was established or renewed.
    Handshake(Arc<Peer>),
    /// A handshake was given up after 90 s; packets that had waited were dropped.
    Unanswered(Arc<Peer>),
}

/// A peer as the network map says.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its node key.
    pub key: PublicKey,
    /// Its allowed IPs.
    pub allowed_ips: Vec<Prefix>,
    /// Relay region; 0 unknown.
    pub home_region: u32,
    /// Plain WireGuard: its endpoint is where its datagrams come from.
    pub roams: bool,
    /// Where a roaming peer starts.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive, 0 for none.
    pub keepalive_s: u32,
}
