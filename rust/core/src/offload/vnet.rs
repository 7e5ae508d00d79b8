//! The header that goes before each packet on a TUN device with IFF_VNET_HDR.

/// Length of the header in bytes (`struct virtio_net_hdr`).
pub const VNET_LEN: usize = 10;
/// Flag: the checksum field holds the pseudo-header sum and is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// No segmentation.
pub const GSO_NONE: u8 = 0;
/// A TCP super-packet over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// A TCP super-packet over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP datagrams of one size in one packet, either family.
pub const GSO_UDP_L4: u8 = 5;
/// Modifier of a TCP type: the first segment carries CWR.
pub(super) const GSO_ECN: u8 = 0x80;

/// What the kernel says, or is told, about one packet. Native byte order on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] or 0.
    pub flags: u8,
    /// One of the `GSO_…` types.
    pub gso_type: u8,
    /// Length of all headers in bytes; a hint only.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Offset of the transport header.
    pub csum_start: u16,
    /// Offset of the checksum field from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads the header in front of a packet; every pattern of bits is a header.
    #[must_use]
    pub fn parse(bytes: &[u8; VNET_LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// Writes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; VNET_LEN] {
        let mut out = [0u8; VNET_LEN];
        out[0] = self.flags;
        out[1] = self.gso_type;
        out[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        out[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        out[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        out[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        out
    }
}
