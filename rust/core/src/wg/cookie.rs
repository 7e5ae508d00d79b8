//! Macs and cookies: how a responder under load asks for a proof of address before it spends a
//! Diffie-Hellman (whitepaper §5.3, §5.4.4, §5.4.7).

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use blake2::digest::consts::U16;
use blake2::digest::{Digest, Mac};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

use super::sync::lock;
use super::{PublicKey, Refused, Source};
use crate::clock::Entropy;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";
/// How long a cookie, and the secret that it is made with, is good.
const COOKIE_MS: u64 = 120_000;
/// type(4) receiver(4) nonce(24) sealed cookie(32)
pub(super) const COOKIE_REPLY_BYTES: usize = 64;
const MAC_BYTES: usize = 16;

pub(super) type Cookie = [u8; 16];

/// The keys that macs and cookies of messages to one public key are made with.
#[derive(Clone)]
pub(super) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(super) fn of(receiver: &PublicKey) -> Self {
        let hash = |label: &[u8]| {
            Blake2s256::new()
                .chain_update(label)
                .chain_update(receiver.0)
                .finalize()
                .into()
        };
        Self {
            mac1: hash(LABEL_MAC1),
            cookie: hash(LABEL_COOKIE),
        }
    }

    /// Write both macs at the end of a handshake message to this key; gives mac1.
    pub(super) fn sign(&self, message: &mut [u8], cookie: Option<&Cookie>) -> [u8; 16] {
        let (mac1_at, mac2_at) = (message.len() - 2 * MAC_BYTES, message.len() - MAC_BYTES);
        let mac1 = mac(&self.mac1, &[&message[..mac1_at]]);
        message[mac1_at..mac2_at].copy_from_slice(&mac1);
        let mac2 = cookie.map_or([0; 16], |cookie| mac(cookie, &[&message[..mac2_at]]));
        message[mac2_at..].copy_from_slice(&mac2);
        mac1
    }

    /// Check mac1 of a handshake message to this key.
    pub(super) fn check(&self, message: &[u8]) -> Result<(), Refused> {
        let (body, macs) = message.split_at(message.len() - 2 * MAC_BYTES);
        let expected = mac(&self.mac1, &[body]);
        if same(&expected, &macs[..MAC_BYTES]) {
            Ok(())
        } else {
            Err(Refused::BadMac)
        }
    }

    /// Open a cookie reply from this key to a message of ours that carried `mac1`.
    pub(super) fn open_cookie(
        &self,
        reply: &[u8; COOKIE_REPLY_BYTES],
        mac1: &[u8; 16],
    ) -> Result<Cookie, Refused> {
        let mut cookie = [0; 16];
        cookie.copy_from_slice(&reply[32..48]);
        XChaCha20Poly1305::new(&self.cookie.into())
            .decrypt_in_place_detached(
                XNonce::from_slice(&reply[8..32]),
                mac1,
                &mut cookie,
                reply[48..].into(),
            )
            .map_err(|_| Refused::Forged)?;
        Ok(cookie)
    }
}

/// A responder's own side: a secret that changes every two minutes.
pub(super) struct CookieJar {
    secret: Mutex<Option<([u8; 32], u64)>>,
}

impl CookieJar {
    pub(super) fn new() -> Self {
        Self {
            secret: Mutex::new(None),
        }
    }

    /// Whether mac2 proves that the sender got a cookie at `src`.
    pub(super) fn proves_address(&self, message: &[u8], src: &Source, mono_ms: u64) -> bool {
        let Some((secret, since)) = *lock(&self.secret) else {
            return false;
        };
        if mono_ms.saturating_sub(since) >= COOKIE_MS {
            return false;
        }
        let (body, mac2) = message.split_at(message.len() - MAC_BYTES);
        same(&mac(&cookie_for(&secret, src), &[body]), mac2)
    }

    /// The cookie reply to a handshake message with a right mac1 that came from `src`.
    pub(super) fn reply(
        &self,
        own: &MacKeys,
        message: &[u8],
        src: &Source,
        mono_ms: u64,
        entropy: &Arc<dyn Entropy>,
    ) -> Option<[u8; COOKIE_REPLY_BYTES]> {
        let mut cookie = cookie_for(&self.secret(mono_ms, entropy), src);
        let mac1 = &message[message.len() - 2 * MAC_BYTES..message.len() - MAC_BYTES];
        let mut reply = [0; COOKIE_REPLY_BYTES];
        reply[0] = 3;
        reply[4..8].copy_from_slice(&message[4..8]);
        entropy.fill(&mut reply[8..32]);
        let tag = XChaCha20Poly1305::new(&own.cookie.into())
            .encrypt_in_place_detached(XNonce::from_slice(&reply[8..32]), mac1, &mut cookie)
            .ok()?;
        reply[32..48].copy_from_slice(&cookie);
        reply[48..].copy_from_slice(&tag);
        Some(reply)
    }

    fn secret(&self, mono_ms: u64, entropy: &Arc<dyn Entropy>) -> [u8; 32] {
        let mut slot = lock(&self.secret);
        match *slot {
            Some((secret, since)) if mono_ms.saturating_sub(since) < COOKIE_MS => secret,
            _ => {
                let mut secret = [0; 32];
                entropy.fill(&mut secret);
                *slot = Some((secret, mono_ms));
                secret
            }
        }
    }
}

/// Whether a cookie received at `at_ms` may still be used; 5 s earlier than the responder
/// forgets its secret at the earliest.
pub(super) fn is_cookie_fresh(at_ms: u64, mono_ms: u64) -> bool {
    mono_ms.saturating_sub(at_ms) < COOKIE_MS - 5_000
}

fn cookie_for(secret: &[u8; 32], src: &Source) -> Cookie {
    match src {
        Source::Udp(hop) => {
            let port = hop.addr.port().to_be_bytes();
            match hop.addr.ip() {
                IpAddr::V4(ip) => mac(secret, &[&ip.octets(), &port]),
                IpAddr::V6(ip) => mac(secret, &[&ip.octets(), &port]),
            }
        }
        Source::Relay { region, peer } => mac(secret, &[&region.to_be_bytes(), &peer.0]),
    }
}

/// Keyed BLAKE2s with 16 bytes of output. Keys are 16 or 32 bytes.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    // A key of at most 32 bytes is always taken; an empty answer would match no mac.
    let Ok(mut state) = <Blake2sMac<U16> as Mac>::new_from_slice(key) else {
        return [0; 16];
    };
    for part in parts {
        state.update(part);
    }
    state.finalize().into_bytes().into()
}

fn same(a: &[u8], b: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(a, b).into()
}
