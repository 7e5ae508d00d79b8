//! WireGuard, as a machine that many threads share.
//!
//! The handshake's cryptography is `snow` (Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s), the transport's
//! is `ring`. The machine around them is our own, because the crates that have one keep a session
//! pair behind one `&mut`, so that sealing waits for opening, and read the clock inside, so that
//! no test can hold it. Here:
//!
//! * peers, routes and identity are one immutable [`Tables`] value, swapped whole;
//! * a [`Session`] is shared by `Arc`: its send counter is atomic, its replay window has a small
//!   lock of its own that an [`Opener`] takes once a batch; sealing takes no lock;
//! * handshakes are rare, and wait for one lock per peer, off the data path;
//! * time is [`Now`], entropy is [`Entropy`], both given.
//!
//! Source: the WireGuard whitepaper (sections in the code), PROTOCOL §6.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::clock::{Entropy, Now};
use crate::path::Path;
use crate::routes::Prefix;

/// Bytes of a data message before the ciphertext (whitepaper §5.4.6).
pub const HEADER_BYTES: usize = 16;
/// Bytes of the authentication tag behind the ciphertext.
pub const TAG_BYTES: usize = 16;
/// Header and tag: what sealing adds to a padded packet.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// A Curve25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A Curve25519 private key; wiped when dropped, never printed.
pub struct PrivateKey(pub [u8; 32]);

/// Why bytes were dropped; [`Drop::name`] is the name of the counter.
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

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// By UDP.
    Udp(SocketAddr),
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
    /// MTU inside the tunnel; padding never passes it.
    pub mtu_bytes: usize,
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

/// One peer: its key, path, counters and sessions. Shared by `Arc`; lives until the map drops it.
#[derive(Debug)]
pub struct Peer {}

impl Peer {
    /// Its node key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        todo!()
    }

    /// Where to send to it.
    #[must_use]
    pub fn path(&self) -> &Path {
        todo!()
    }

    /// Counters now.
    #[must_use]
    pub fn stats(&self) -> PeerCounters {
        todo!()
    }
}

/// Counters of one peer; times are `mono_ms`, None for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Datagram bytes received and authenticated.
    pub rx_bytes: u64,
    /// Datagram bytes sealed.
    pub tx_bytes: u64,
    /// Last established session.
    pub handshake_ms: Option<u64>,
    /// Last data sent.
    pub tx_ms: Option<u64>,
    /// Last authenticated datagram.
    pub rx_ms: Option<u64>,
}

/// One pair of transport keys. Shared by `Arc`; sealing and opening do not wait for each other.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// Whose session it is.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        todo!()
    }

    /// Bytes that sealing a packet of `plaintext_len` bytes gives.
    #[must_use]
    pub fn sealed_len(&self, _plaintext_len: usize) -> usize {
        todo!()
    }

    /// Seal a packet that lies at `buffer[16..16 + plaintext_len]` into the datagram
    /// `buffer[..returned]`; pads with zeros. `buffer` holds at least
    /// [`sealed_len`](Self::sealed_len) bytes.
    ///
    /// # Errors
    /// None left when the counter is used up: drop the packet; a new handshake is under way.
    pub fn seal_in_place(&self, _buffer: &mut [u8], _plaintext_len: usize) -> Option<usize> {
        todo!()
    }

    /// Copy `plaintext` behind the header and seal it there.
    pub fn seal_into(&self, _plaintext: &[u8], _out: &mut [u8]) -> Option<usize> {
        todo!()
    }

    /// Begin opening a batch: takes the replay window's lock until dropped.
    #[must_use]
    pub fn opener(&self) -> Opener<'_> {
        todo!()
    }
}

/// Opens the datagrams of one batch; counts what it opened.
pub struct Opener<'a> {
    _session: &'a Session,
}

impl Opener<'_> {
    /// Whether the datagram is data for this session's index (segments of one GRO read may
    /// belong to different sessions).
    #[must_use]
    pub fn takes(&self, _datagram: &[u8]) -> bool {
        todo!()
    }

    /// Open a data message in place. Gives the inner packet, cut to its own length; empty for a
    /// keepalive.
    ///
    /// # Errors
    /// Why it must be dropped; the buffer's content is then undefined.
    pub fn open_in_place<'d>(&mut self, _datagram: &'d mut [u8]) -> Result<&'d mut [u8], Refused> {
        todo!()
    }

    /// End the batch. Hand the result to [`Tunnel::received`], also when nothing opened.
    #[must_use]
    pub fn finish(self) -> Opened {
        todo!()
    }
}

/// What a batch brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Authenticated datagrams, keepalives included.
    pub packets: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Some were no keepalives.
    pub data: bool,
}

/// Peers and routes of one moment; take it once a batch by [`Tunnel::tables`].
pub struct Tables {}

impl Tables {
    /// Whom a packet to `dst` is for.
    #[must_use]
    pub fn route(&self, _dst: IpAddr) -> Option<&Arc<Peer>> {
        todo!()
    }

    /// Whether an inbound packet from `src` may come from `peer`.
    #[must_use]
    pub fn allows(&self, _peer: &Peer, _src: IpAddr) -> bool {
        todo!()
    }

    /// The peer with this key.
    #[must_use]
    pub fn peer(&self, _key: &PublicKey) -> Option<&Arc<Peer>> {
        todo!()
    }

    /// Every peer.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        std::iter::empty()
    }
}

/// The machine. Every method may be called from any thread.
pub struct Tunnel {}

impl Tunnel {
    /// A tunnel without identity and peers.
    #[must_use]
    pub fn new(_config: TunnelConfig, _entropy: Arc<dyn Entropy>) -> Self {
        todo!()
    }

    /// Who we are. A new key drops every session; the same key changes nothing.
    pub fn set_identity(&self, _private: PrivateKey) {
        todo!()
    }

    /// Add or replace `upsert` by key, then drop `remove`. Sessions of kept keys live on.
    /// A prefix that two peers claim belongs to the one named last.
    pub fn set_peers(&self, _upsert: &[PeerConfig], _remove: &[PublicKey], _now: Now) {
        todo!()
    }

    /// Peers and routes now.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        todo!()
    }

    /// The session that seals for `peer` now. None: [`stage`](Self::stage) the packet.
    #[must_use]
    pub fn sender(&self, _peer: &Peer, _now: Now) -> Option<Arc<Session>> {
        todo!()
    }

    /// After sealing a batch: counters, timers, and a new handshake when one is due.
    pub fn sent(&self, _session: &Session, _packets: u32, _bytes: u64, _now: Now) {
        todo!()
    }

    /// Keep a packet until a session stands (bounded, oldest dropped), and shake hands. Look at
    /// [`poll_transmit`](Self::poll_transmit) afterwards. An empty packet only starts the
    /// handshake.
    pub fn stage(&self, _peer: &Arc<Peer>, _packet: &[u8], _now: Now) {
        todo!()
    }

    /// The session that a data message names.
    #[must_use]
    pub fn session(&self, _datagram: &[u8]) -> Option<Arc<Session>> {
        todo!()
    }

    /// After a batch of data: counters, timers, roaming, confirmation of a new session. Look at
    /// [`poll_transmit`](Self::poll_transmit) afterwards.
    pub fn received(&self, _session: &Arc<Session>, _opened: Opened, _src: Source, _now: Now) {
        todo!()
    }

    /// An initiation, response or cookie reply. Look at
    /// [`poll_transmit`](Self::poll_transmit) afterwards.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn receive_handshake(
        &self,
        _datagram: &[u8],
        _src: Source,
        _now: Now,
    ) -> Result<(), Refused> {
        todo!()
    }

    /// Run what is due. Call it every 100 to 250 ms, or at [`next_timeout`](Self::next_timeout).
    pub fn handle_timeout(&self, _now: Now) {
        todo!()
    }

    /// When something is due next (`mono_ms`) and why. Packets on other threads may bring new
    /// timers, none of which is due sooner than 1 s after the packet.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(u64, &'static str)> {
        todo!()
    }

    /// The next datagram to send; None when there is none (one atomic load).
    #[must_use]
    pub fn poll_transmit(&self) -> Option<Transmit> {
        todo!()
    }

    /// The next thing to tell (one atomic load when there is none).
    #[must_use]
    pub fn poll_event(&self) -> Option<TunnelEvent> {
        todo!()
    }
}
