//! Where a datagram leaves to: the address, by which of our sockets, and in what wrapping.

use std::net::SocketAddr;

use crate::demux::{CHANNEL_BYTES, GENEVE_BYTES};

/// One of our UDP sockets: the main pair, or one of a group that was opened for punching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketRef {
    /// 0: the main sockets; otherwise the group.
    pub group: u32,
    /// Which of the group; 0 for the main sockets.
    pub index: u16,
}

impl SocketRef {
    /// The node's own pair of sockets, one for each family.
    pub const MAIN: Self = Self { group: 0, index: 0 };

    /// Whether this is [`Self::MAIN`].
    #[must_use]
    pub fn is_main(self) -> bool {
        self.group == 0
    }
}

/// What stands in front of the disco or WireGuard bytes of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wrap {
    /// Nothing.
    #[default]
    Plain,
    /// A peer relay's header with this VNI, 1 to 2^24-1 (PROTOCOL §5.12).
    Geneve(u32),
    /// A TURN server's ChannelData header, 0x4000 to 0x4FFF (RFC 8656 §12.4).
    Channel(u16),
}

impl Wrap {
    /// How many bytes larger it makes every datagram.
    #[must_use]
    pub fn header_len(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Geneve(_) => GENEVE_BYTES,
            Self::Channel(_) => CHANNEL_BYTES,
        }
    }

    /// Writes the header of a datagram that carries `payload` bytes of WireGuard (or of disco,
    /// which Geneve tells apart) to the front of `out`, which holds [`Self::header_len`] bytes.
    pub fn write(self, out: &mut [u8], payload: usize, content: Content) {
        match self {
            Self::Plain => {}
            Self::Geneve(vni) => out[..GENEVE_BYTES].copy_from_slice(&content.geneve(vni)),
            Self::Channel(channel) => {
                out[..2].copy_from_slice(&channel.to_be_bytes());
                // No datagram passes 65,507 bytes.
                out[2..CHANNEL_BYTES].copy_from_slice(&(payload as u16).to_be_bytes());
            }
        }
    }

    /// A whole datagram: header and `payload`.
    #[must_use]
    pub fn around(self, payload: &[u8], content: Content) -> Vec<u8> {
        let mut datagram = vec![0; self.header_len()];
        self.write(&mut datagram, payload.len(), content);
        datagram.extend_from_slice(payload);
        datagram
    }
}

/// What a Geneve header says that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// WireGuard.
    WireGuard,
    /// Disco for the peer behind the relay.
    Disco,
    /// Disco for the relay itself: the O bit.
    Control,
}

impl Content {
    fn geneve(self, vni: u32) -> [u8; GENEVE_BYTES] {
        let (flags, protocol) = match self {
            Self::WireGuard => (0, 0x12),
            Self::Disco => (0, 0x11),
            Self::Control => (0x80, 0x11),
        };
        let [_, high, middle, low] = vni.to_be_bytes();
        [0, flags, 0x7a, protocol, high, middle, low, 0]
    }
}

/// A direct path: where to, by which socket, in what wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The peer's address, or that of the relay that unwraps.
    pub addr: SocketAddr,
    /// Which of our sockets.
    pub socket: SocketRef,
    /// What every datagram is wrapped in.
    pub wrap: Wrap,
}

impl From<SocketAddr> for Hop {
    /// By the main socket, not wrapped.
    fn from(addr: SocketAddr) -> Self {
        Self {
            addr,
            socket: SocketRef::MAIN,
            wrap: Wrap::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demux::{Inner, Kind, WireGuard, classify};

    #[test]
    fn what_is_wrapped_is_told_apart_again() {
        let mut data = vec![7; 60];
        data[..4].copy_from_slice(&[4, 0, 0, 0]);
        let geneve = Wrap::Geneve(0xabcdef).around(&data, Content::WireGuard);
        assert_eq!(geneve[..8], [0, 0, 0x7a, 0x12, 0xab, 0xcd, 0xef, 0]);
        assert_eq!(geneve[8..], data);
        let control = Wrap::Geneve(1).around(&data, Content::Control);
        assert_eq!(control[..8], [0, 0x80, 0x7a, 0x11, 0, 0, 1, 0]);
        let channel = Wrap::Channel(0x4fff).around(&data, Content::Disco);
        assert_eq!(channel[..4], [0x4f, 0xff, 0, 60]);
        assert_eq!(
            classify(&channel),
            Kind::Channel {
                channel: 0x4fff,
                len: 60,
                inner: Inner::WireGuard(WireGuard::Data)
            }
        );
        assert_eq!(Wrap::Plain.around(&data, Content::WireGuard), data);
        for wrap in [Wrap::Plain, Wrap::Geneve(1), Wrap::Channel(0x4000)] {
            let whole = wrap.around(&data, Content::WireGuard);
            assert_eq!(whole.len(), wrap.header_len() + data.len());
        }
    }
}
