//! The few header fields that splitting and joining touch.

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const TCP_FIN: u8 = 0x01;
pub(super) const TCP_PSH: u8 = 0x08;
pub(super) const TCP_ACK: u8 = 0x10;
pub(super) const TCP_CWR: u8 = 0x80;
pub(super) const TCP_CSUM: usize = 16;
pub(super) const UDP_CSUM: usize = 6;

pub(super) fn read16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn read32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn write16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(super) fn write32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Length of the fixed IP header that the first byte promises, or None for no IP.
pub(super) fn ip_header_len(packet: &[u8]) -> Option<usize> {
    let length = match packet.first()? >> 4 {
        4 => usize::from(packet[0] & 0x0f) * 4,
        6 => 40,
        _ => return None,
    };
    (length >= 20 && packet.len() >= length).then_some(length)
}

/// Source and destination address as they stand in a packet that `ip_header_len` accepted.
pub(super) fn addresses(packet: &[u8]) -> &[u8] {
    if packet[0] >> 4 == 4 {
        &packet[12..20]
    } else {
        &packet[8..40]
    }
}

/// Writes the IP length field for a packet of `total` bytes and, for IPv4, the header checksum.
pub(super) fn set_ip_length(packet: &mut [u8], total: usize) {
    if packet[0] >> 4 == 4 {
        let header_len = usize::from(packet[0] & 0x0f) * 4;
        write16(packet, 2, total as u16);
        packet[10..12].fill(0);
        let check = super::finish(super::sum(&packet[..header_len]));
        packet[10..12].copy_from_slice(&check);
    } else {
        write16(packet, 4, (total - 40) as u16);
    }
}
