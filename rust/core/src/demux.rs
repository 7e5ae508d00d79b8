//! What a datagram from the network is, by its first bytes alone (PROTOCOL §5.2).
//!
//! Anything that is none of these is [`Kind::Unknown`]: counted and dropped, never "else
//! WireGuard".

/// First bytes of every disco packet (PROTOCOL §5.1).
pub const DISCO_MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
/// Magic, sender's disco key and nonce: the shortest that can be disco.
pub const DISCO_MIN_BYTES: usize = 62;
/// Geneve header without options (PROTOCOL §5.12).
pub const GENEVE_BYTES: usize = 8;

const GENEVE_DISCO: u16 = 0x7a11;
const GENEVE_WIREGUARD: u16 = 0x7a12;

/// The kinds of WireGuard messages (WireGuard whitepaper §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireGuard {
    /// Type 1, 148 bytes.
    Initiation,
    /// Type 2, 92 bytes.
    Response,
    /// Type 3, 64 bytes.
    CookieReply,
    /// Type 4, at least 32 bytes.
    Data,
}

/// What a datagram claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A STUN binding message (RFC 8489 §5).
    Stun,
    /// A disco packet.
    Disco,
    /// WireGuard, of this kind and of a possible length.
    WireGuard(WireGuard),
    /// Wrapped by a peer relay; `inner` is the kind of what follows the 8-byte header and is
    /// only ever `Disco`, `WireGuard` or `Unknown`.
    Geneve {
        /// Virtual network id, 1 to 2^24-1.
        vni: u32,
        /// The O bit: bind messages of the relay itself.
        control: bool,
        /// What it carries.
        inner: Inner,
    },
    /// None of these.
    Unknown,
}

/// What a Geneve packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// A disco packet.
    Disco,
    /// WireGuard.
    WireGuard(WireGuard),
    /// Anything else.
    Unknown,
}

/// Classify a datagram from the UDP socket.
#[must_use]
pub fn classify(datagram: &[u8]) -> Kind {
    if looks_like_stun(datagram) {
        return Kind::Stun;
    }
    if let Some(geneve) = classify_geneve(datagram) {
        return geneve;
    }
    classify_relayed(datagram)
}

/// Classify the payload of a relay frame: disco or WireGuard, never STUN or Geneve.
#[must_use]
pub fn classify_relayed(payload: &[u8]) -> Kind {
    match classify_inner(payload) {
        Inner::Disco => Kind::Disco,
        Inner::WireGuard(kind) => Kind::WireGuard(kind),
        Inner::Unknown => Kind::Unknown,
    }
}

fn classify_inner(bytes: &[u8]) -> Inner {
    if looks_like_disco(bytes) {
        return Inner::Disco;
    }
    match wireguard_kind(bytes) {
        Some(kind) => Inner::WireGuard(kind),
        None => Inner::Unknown,
    }
}

fn looks_like_stun(d: &[u8]) -> bool {
    d.len() >= 20 && d[0] & 0xc0 == 0 && d[1] == 1 && d[4..8] == [0x21, 0x12, 0xa4, 0x42]
}

fn looks_like_disco(d: &[u8]) -> bool {
    d.len() >= DISCO_MIN_BYTES && d[..6] == DISCO_MAGIC
}

fn classify_geneve(d: &[u8]) -> Option<Kind> {
    if d.len() < GENEVE_BYTES || d[0] != 0 || d[1] & 0x7f != 0 || d[7] != 0 {
        return None;
    }
    let protocol = u16::from_be_bytes([d[2], d[3]]);
    if protocol != GENEVE_DISCO && protocol != GENEVE_WIREGUARD {
        return None;
    }
    let vni = u32::from_be_bytes([0, d[4], d[5], d[6]]);
    let inner = match classify_inner(&d[GENEVE_BYTES..]) {
        // A WireGuard header around disco is nobody's packet; the other way round stock
        // clients read it as WireGuard (PROTOCOL §5.2).
        Inner::Disco if protocol == GENEVE_WIREGUARD => Inner::Unknown,
        inner => inner,
    };
    Some(Kind::Geneve {
        vni,
        control: d[1] & 0x80 != 0,
        inner,
    })
}

/// The WireGuard message type, if type field and length agree.
#[must_use]
pub fn wireguard_kind(d: &[u8]) -> Option<WireGuard> {
    if d.len() < 4 || d[1..4] != [0; 3] {
        return None;
    }
    match (d[0], d.len()) {
        (1, 148) => Some(WireGuard::Initiation),
        (2, 92) => Some(WireGuard::Response),
        (3, 64) => Some(WireGuard::CookieReply),
        (4, 32..) => Some(WireGuard::Data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disco() -> Vec<u8> {
        let mut d = DISCO_MAGIC.to_vec();
        d.resize(124, 7);
        d
    }

    fn geneve(protocol: u16, control: bool, inner: &[u8]) -> Vec<u8> {
        let p = protocol.to_be_bytes();
        let mut d = vec![0, if control { 0x80 } else { 0 }, p[0], p[1], 1, 2, 3, 0];
        d.extend_from_slice(inner);
        d
    }

    #[test]
    fn each_kind_is_told_apart() {
        let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        stun.resize(20, 9);
        assert_eq!(classify(&stun), Kind::Stun);
        assert_eq!(classify_relayed(&stun), Kind::Unknown);
        assert_eq!(classify(&disco()), Kind::Disco);
        assert_eq!(classify(&disco()[..61]), Kind::Unknown);
        for (kind, len, expected) in [
            (1, 148, WireGuard::Initiation),
            (2, 92, WireGuard::Response),
            (3, 64, WireGuard::CookieReply),
            (4, 32, WireGuard::Data),
            (4, 1500, WireGuard::Data),
        ] {
            let mut d = vec![0; len];
            d[0] = kind;
            assert_eq!(classify(&d), Kind::WireGuard(expected));
            d[2] = 1; // reserved bytes must be zero
            assert_eq!(classify(&d), Kind::Unknown);
        }
        assert_eq!(classify(&[4, 0, 0, 0]), Kind::Unknown);
    }

    #[test]
    fn geneve_names_what_it_carries() {
        let mut data = vec![0; 32];
        data[0] = 4;
        let wrapped = |protocol, control, inner: &[u8]| classify(&geneve(protocol, control, inner));
        let vni = 0x01_02_03;
        assert_eq!(
            wrapped(0x7a12, false, &data),
            Kind::Geneve {
                vni,
                control: false,
                inner: Inner::WireGuard(WireGuard::Data)
            }
        );
        assert_eq!(
            wrapped(0x7a11, true, &disco()),
            Kind::Geneve {
                vni,
                control: true,
                inner: Inner::Disco
            }
        );
        assert_eq!(
            wrapped(0x7a12, false, &disco()),
            Kind::Geneve {
                vni,
                control: false,
                inner: Inner::Unknown
            }
        );
        assert_eq!(classify(&geneve(0x6558, false, &data)), Kind::Unknown);
    }

    #[test]
    fn no_length_panics() {
        for len in 0..200 {
            for first in [0, 1, 2, 3, 4, 0x40, 0x54, 0xff] {
                let mut d = vec![0; len];
                if let Some(byte) = d.first_mut() {
                    *byte = first;
                }
                let _ = classify(&d);
            }
        }
    }
}
