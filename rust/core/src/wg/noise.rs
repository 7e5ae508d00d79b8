//! The handshake's cryptography (whitepaper §5.4.1 to §5.4.4) over `snow`: bytes in, keys out.
//!
//! ```text
//! initiation  type(4) sender(4) ephemeral(32) static(48) timestamp(28) mac1(16) mac2(16)
//! response    type(4) sender(4) receiver(4) ephemeral(32) nothing(16) mac1(16) mac2(16)
//! ```
//!
//! Noise writes what stands between the indices and the macs; this room does not know the rest.

use std::sync::Arc;
use std::time::Duration;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Refused;
use super::keys::{PrivateKey, PublicKey};
use crate::clock::Entropy;

const PARAMS: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Tailscale has no preshared keys (PROTOCOL §6).
const NO_PSK: [u8; 32] = [0; 32];

/// Noise's part of an initiation: ephemeral, sealed static key, sealed timestamp.
pub(super) const INITIATION_NOISE_BYTES: usize = 32 + 48 + 28;
/// Noise's part of a response: ephemeral and an empty sealed payload.
pub(super) const RESPONSE_NOISE_BYTES: usize = 32 + 16;

/// TAI64N (whitepaper §5.1): seconds and nanoseconds, big endian, so that byte order is time
/// order.
pub(super) type Timestamp = [u8; 12];

/// The timestamp for `wall`, coarse enough (2^24 ns, about 16 ms) to tell little of our clock.
pub(super) fn timestamp(wall: Duration) -> Timestamp {
    const TAI64_EPOCH: u64 = (1 << 62) + 10;
    let mut stamp = [0; 12];
    stamp[..8].copy_from_slice(&TAI64_EPOCH.wrapping_add(wall.as_secs()).to_be_bytes());
    stamp[8..].copy_from_slice(&(wall.subsec_nanos() & !0x00ff_ffff).to_be_bytes());
    stamp
}

/// The smallest coarse timestamp after `stamp`, for a clock that stands still or goes back.
pub(super) fn timestamp_after(stamp: Timestamp) -> Timestamp {
    let mut wide = [0; 16];
    wide[4..].copy_from_slice(&stamp);
    // Nanoseconds past 999,999,999 still order rightly: peers compare bytes.
    let next = u128::from_be_bytes(wide).wrapping_add(1 << 24);
    let mut out = [0; 12];
    out.copy_from_slice(&next.to_be_bytes()[4..]);
    out
}

/// Keys of one session.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct TransportKeys {
    pub(super) send: [u8; 32],
    pub(super) receive: [u8; 32],
}

/// Our initiation, waiting for its response.
pub(super) struct Initiated(HandshakeState);

/// A peer's initiation, opened.
pub(super) struct Accepted {
    state: HandshakeState,
    pub(super) peer: PublicKey,
    pub(super) timestamp: Timestamp,
}

/// Begin a handshake with `peer`: Noise's part of the initiation.
pub(super) fn initiate(
    own: &PrivateKey,
    peer: &PublicKey,
    stamp: Timestamp,
    entropy: &Arc<dyn Entropy>,
) -> Result<(Initiated, [u8; INITIATION_NOISE_BYTES]), Refused> {
    let mut out = [0; INITIATION_NOISE_BYTES];
    let mut run = || {
        let mut state = builder(own, entropy)?
            .remote_public_key(&peer.0)?
            .build_initiator()?;
        let written = state.write_message(&stamp, &mut out)?;
        debug_assert_eq!(written, INITIATION_NOISE_BYTES);
        Ok::<_, snow::Error>(state)
    };
    let state = run().map_err(|_| Refused::Malformed)?;
    Ok((Initiated(state), out))
}

impl Initiated {
    /// Read Noise's part of the response. A forged one leaves the state as it was.
    pub(super) fn finish(
        &mut self,
        response: &[u8; RESPONSE_NOISE_BYTES],
    ) -> Result<TransportKeys, Refused> {
        self.0
            .read_message(response, &mut [])
            .map_err(|_| Refused::Forged)?;
        let (send, receive) = self.0.dangerously_get_raw_split();
        Ok(TransportKeys { send, receive })
    }
}

/// Open Noise's part of an initiation: who sends it, and when.
pub(super) fn accept(
    own: &PrivateKey,
    initiation: &[u8; INITIATION_NOISE_BYTES],
    entropy: &Arc<dyn Entropy>,
) -> Result<Accepted, Refused> {
    let mut stamp = [0; 12];
    let mut run = || {
        let mut state = builder(own, entropy)?.build_responder()?;
        state.read_message(initiation, &mut stamp)?;
        Ok::<_, snow::Error>(state)
    };
    let state = run().map_err(|_| Refused::Forged)?;
    let mut peer = [0; 32];
    peer.copy_from_slice(state.get_remote_static().ok_or(Refused::Forged)?);
    Ok(Accepted {
        state,
        peer: PublicKey(peer),
        timestamp: stamp,
    })
}

impl Accepted {
    /// Noise's part of the response, and the session's keys.
    pub(super) fn respond(
        mut self,
    ) -> Result<([u8; RESPONSE_NOISE_BYTES], TransportKeys), Refused> {
        let mut out = [0; RESPONSE_NOISE_BYTES];
        self.state
            .write_message(&[], &mut out)
            .map_err(|_| Refused::Malformed)?;
        let (receive, send) = self.state.dangerously_get_raw_split();
        Ok((out, TransportKeys { send, receive }))
    }
}

fn builder<'a>(
    own: &'a PrivateKey,
    entropy: &Arc<dyn Entropy>,
) -> Result<Builder<'a>, snow::Error> {
    let params: NoiseParams = PARAMS.parse()?;
    Builder::with_resolver(params, Box::new(Resolver(entropy.clone())))
        .prologue(PROLOGUE)?
        .local_private_key(&own.0)?
        .psk(2, &NO_PSK)
}

/// Snow's primitives, with entropy from outside.
struct Resolver(Arc<dyn Entropy>);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Source(self.0.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Source(Arc<dyn Entropy>);

impl Random for Source {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}
