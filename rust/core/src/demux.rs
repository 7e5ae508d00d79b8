//! What a datagram from the network is, by its first bytes alone (PROTOCOL §5.2).
//!
//! The kinds exclude each other: WireGuard begins with 1 to 4 and three zero bytes, STUN with two
//! zero bits, no zero byte behind them, and its cookie, Geneve with a zero byte, ChannelData with
//! 0x4, disco with 0x54.
//! What only a TURN server of ours may send is named as such; who sent it is for the caller to
//! check.
//!
//! Anything that is none of these is [`Kind::Unknown`]: counted and dropped, never "else
//! WireGuard".

/// First bytes of every disco packet (PROTOCOL §5.1).
pub const DISCO_MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
/// Magic, sender's disco key and nonce: the shortest that can be disco.
pub const DISCO_MIN_BYTES: usize = 62;
/// Geneve header without options (PROTOCOL §5.12).
pub const GENEVE_BYTES: usize = 8;
/// ChannelData header: channel number and length (RFC 8656 §12.4).
pub const CHANNEL_BYTES: usize = 4;
/// ChannelData over UDP may be padded to a multiple of four bytes (RFC 8656 §12.5).
const MAX_PADDING: usize = 3;

const STUN_BINDING: u16 = 1;
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
    /// A STUN message of another method: TURN's (RFC 8656 §17).
    Turn,
    /// ChannelData; the content is the `len` bytes behind the 4-byte header.
    Channel {
        /// The channel's number, 0x4000 to 0x4FFF.
        channel: u16,
        /// Bytes of the content; padding may follow it.
        len: usize,
        /// What it carries.
        inner: Inner,
    },
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
    if let Some(stun) = classify_stun(datagram) {
        return stun;
    }
    if let Some(channel) = classify_channel(datagram) {
        return channel;
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

fn classify_stun(d: &[u8]) -> Option<Kind> {
    // No method in use ends in a zero byte, as WireGuard's types do, whose receiver index may be
    // anything, the cookie too.
    if d.len() < 20 || d[0] & 0xc0 != 0 || d[1] == 0 || d[4..8] != [0x21, 0x12, 0xa4, 0x42] {
        return None;
    }
    // The class's two bits lie among those of the method (RFC 8489 §5).
    let method = u16::from_be_bytes([d[0], d[1]]) & 0x3eef;
    Some(if method == STUN_BINDING {
        Kind::Stun
    } else {
        Kind::Turn
    })
}

fn classify_channel(d: &[u8]) -> Option<Kind> {
    if d.len() < CHANNEL_BYTES || d[0] & 0xf0 != 0x40 {
        return None;
    }
    let len = usize::from(u16::from_be_bytes([d[2], d[3]]));
    let room = d.len() - CHANNEL_BYTES;
    if len > room || room - len > MAX_PADDING {
        return None;
    }
    Some(Kind::Channel {
        channel: u16::from_be_bytes([d[0], d[1]]),
        len,
        inner: classify_inner(&d[CHANNEL_BYTES..CHANNEL_BYTES + len]),
    })
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
    if vni == 0 {
        return None;
    }
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
    fn turn_is_told_from_binding() {
        let stun = |kind: u16| {
            let [high, low] = kind.to_be_bytes();
            let mut d = vec![high, low, 0, 0, 0x21, 0x12, 0xa4, 0x42];
            d.resize(20, 9);
            classify(&d)
        };
        for binding in [0x0001, 0x0011, 0x0101, 0x0111] {
            assert_eq!(stun(binding), Kind::Stun, "{binding:04x}");
        }
        for turn in [
            0x0003, 0x0103, 0x0113, 0x0104, 0x0017, 0x0108, 0x0119, 0x3eef,
        ] {
            assert_eq!(stun(turn), Kind::Turn, "{turn:04x}");
        }
        assert_eq!(stun(0x4001), Kind::Unknown);
    }

    #[test]
    fn channel_data_ends_where_it_says() {
        let mut data = vec![0; 33];
        data[0] = 4;
        for padding in 0..6 {
            let mut d = vec![0x40, 0, 0, 33];
            d.extend_from_slice(&data);
            d.resize(d.len() + padding, 0);
            let expected = Kind::Channel {
                channel: 0x4000,
                len: 33,
                inner: Inner::WireGuard(WireGuard::Data),
            };
            let whole = padding <= MAX_PADDING;
            assert_eq!(classify(&d) == expected, whole, "{padding}");
            assert_eq!(classify(&d) == Kind::Unknown, !whole, "{padding}");
        }
        assert_eq!(classify(&[0x40, 0, 0, 1]), Kind::Unknown, "truncated");
        assert_eq!(classify(&[0x50, 0, 0, 0]), Kind::Unknown, "reserved");
        let empty = Kind::Channel {
            channel: 0x4fff,
            len: 0,
            inner: Inner::Unknown,
        };
        assert_eq!(classify(&[0x4f, 0xff, 0, 0]), empty);
        let mut disco_inside = vec![0x40, 1, 0, 124];
        disco_inside.extend(disco());
        assert!(matches!(
            classify(&disco_inside),
            Kind::Channel {
                inner: Inner::Disco,
                ..
            }
        ));
    }

    #[test]
    fn vni_zero_is_none() {
        let mut d = geneve(0x7a11, false, &disco());
        d[4..7].fill(0);
        assert_eq!(classify(&d), Kind::Unknown);
    }

    #[test]
    fn no_receiver_index_makes_wireguard_anything_else() {
        for (kind, len) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1400)] {
            let mut d = vec![0; len];
            d[0] = kind;
            d[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
            assert!(matches!(classify(&d), Kind::WireGuard(_)), "{kind}");
        }
    }

    /// What each kind must be, said a second time and slowly.
    fn holds(d: &[u8], kind: Kind) -> bool {
        let inner_holds = |at: usize, end: usize, inner: Inner| match inner {
            Inner::Disco => end - at >= 62 && d[at..].starts_with(b"TS\xf0\x9f\x92\xac"),
            Inner::WireGuard(_) => {
                (1..=4).contains(&d[at]) && d[at + 1..at + 4] == [0; 3] && end - at >= 32
            }
            Inner::Unknown => true,
        };
        match kind {
            Kind::Stun | Kind::Turn => d[0] < 0x40 && d[4..8] == [0x21, 0x12, 0xa4, 0x42],
            Kind::Disco => inner_holds(0, d.len(), Inner::Disco),
            Kind::WireGuard(which) => inner_holds(0, d.len(), Inner::WireGuard(which)),
            Kind::Channel {
                channel,
                len,
                inner,
            } => {
                (0x4000..=0x4fff).contains(&channel)
                    && 4 + len <= d.len()
                    && d.len() <= 7 + len
                    && inner_holds(4, 4 + len, inner)
            }
            Kind::Geneve {
                vni,
                control,
                inner,
            } => {
                (1..1 << 24).contains(&vni)
                    && d[1] == u8::from(control) << 7
                    && inner_holds(8, d.len(), inner)
            }
            Kind::Unknown => true,
        }
    }

    #[test]
    fn half_valid_datagrams_are_what_they_say() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let starts: [&[u8]; 8] = [
            &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42],
            &[1, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42],
            &[0, 0, 0x7a, 0x11, 0, 0, 1, 0],
            &[0, 0x80, 0x7a, 0x12, 9, 9, 9, 0],
            &[0x40, 0],
            &[4, 0, 0, 0],
            &[2, 0, 0, 0],
            &DISCO_MAGIC,
        ];
        let mut seen = [0_u32; 7];
        for _ in 0..300_000 {
            let mut d = Vec::new();
            for _ in 0..1 + random() % 2 {
                d.extend_from_slice(starts[random() as usize % starts.len()]);
                if d == [0x40, 0] {
                    // Lengths about right, so that the content is looked at.
                    d.extend_from_slice(&((random() % 160) as u16).to_be_bytes());
                }
            }
            let want = match random() % 4 {
                0 => [32, 64, 92, 148][random() as usize % 4] + d.len() / 2,
                _ => random() as usize % 170,
            };
            let fill = (random() % 3) as u8;
            d.resize(want, fill);
            for _ in 0..random() % 3 {
                if let Some(at) = (random() as usize).checked_rem(d.len()) {
                    d[at] = random() as u8;
                }
            }
            let kind = classify(&d);
            assert!(holds(&d, kind), "{kind:?} {d:02x?}");
            let wireguard = matches!(kind, Kind::WireGuard(_));
            assert_eq!(wireguard, wireguard_kind(&d).is_some(), "{d:02x?}");
            assert!(matches!(
                classify_relayed(&d),
                Kind::Disco | Kind::WireGuard(_) | Kind::Unknown
            ));
            seen[match kind {
                Kind::Stun => 0,
                Kind::Turn => 1,
                Kind::Channel { .. } => 2,
                Kind::Disco => 3,
                Kind::WireGuard(_) => 4,
                Kind::Geneve { .. } => 5,
                Kind::Unknown => 6,
            }] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
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
