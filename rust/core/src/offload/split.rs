//! Cutting a super-packet into packets, and completing checksums that were left open.

use super::headers::{
    TCP, TCP_CSUM, TCP_CWR, TCP_FIN, TCP_PSH, UDP, UDP_CSUM, addresses, ip_header_len, read16,
    read32, set_ip_length, write16, write32,
};
use super::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM};
use super::{MalformedOffload, VnetHeader, finish, pseudo_sum, sum};

/// One packet as the kernel gave it, being cut into segments in order.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    kind: Kind,
    next: usize,
    count: usize,
}

/// A packet that the path does not carry, and that cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBig;

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Goes as it is.
    Whole,
    /// Goes as it is, after its checksum was completed.
    Checksum { start: usize, field: usize },
    /// Is cut behind its headers into pieces of `size` bytes.
    Cut {
        protocol: u8,
        transport: usize,
        headers: usize,
        size: usize,
    },
}

impl<'a> Split<'a> {
    /// Checks what the kernel says about `packet` against the packet itself.
    ///
    /// # Errors
    /// [`MalformedOffload`] when header offsets or types do not fit the packet.
    pub fn new(header: VnetHeader, packet: &'a [u8]) -> Result<Self, MalformedOffload> {
        if ip_header_len(packet).is_none() {
            return Err(MalformedOffload("not an IP packet"));
        }
        let kind = match header.gso_type & !GSO_ECN {
            GSO_NONE => whole(header, packet)?,
            GSO_TCPV4 => cut(header, packet, TCP, Some(4))?,
            GSO_TCPV6 => cut(header, packet, TCP, Some(6))?,
            GSO_UDP_L4 => cut(header, packet, UDP, None)?,
            _ => return Err(MalformedOffload("unknown segmentation type")),
        };
        let mut split = Self {
            packet,
            kind,
            next: 0,
            count: 1,
        };
        split.recount();
        Ok(split)
    }

    /// Makes no segment longer than `mtu_bytes`; before the first one is written. The kernel cut
    /// for another path where the limit is smaller: TCP is cut anew, nothing else can be.
    ///
    /// # Errors
    /// [`TooBig`]: nothing can be sent, and the sender is to be told.
    pub fn fit(&mut self, mtu_bytes: usize) -> Result<(), TooBig> {
        if self.segment_len() <= mtu_bytes {
            return Ok(());
        }
        match &mut self.kind {
            Kind::Cut {
                protocol: TCP,
                headers,
                size,
                ..
            } if *headers < mtu_bytes => *size = mtu_bytes - *headers,
            _ => return Err(TooBig),
        }
        self.recount();
        Ok(())
    }

    fn recount(&mut self) {
        if let Kind::Cut { headers, size, .. } = self.kind {
            self.count = (self.packet.len() - headers).div_ceil(size).max(1);
        }
    }

    /// How many segments come in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Length in bytes of the longest segment; the room that `write_next` needs.
    #[must_use]
    pub fn segment_len(&self) -> usize {
        match self.kind {
            Kind::Cut { headers, size, .. } => (headers + size).min(self.packet.len()),
            _ => self.packet.len(),
        }
    }

    /// Writes the next segment to the front of `out` and gives its length; None at the end, or
    /// when `out` is shorter than the segment.
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        if self.next >= self.count || out.len() < self.segment_len() {
            return None;
        }
        let index = self.next;
        self.next += 1;
        match self.kind {
            Kind::Whole => {
                out[..self.packet.len()].copy_from_slice(self.packet);
                Some(self.packet.len())
            }
            Kind::Checksum { start, field } => {
                let out = &mut out[..self.packet.len()];
                out.copy_from_slice(self.packet);
                // The field holds the pseudo-header sum, so summing over it includes that.
                let mut check = finish(sum(&out[start..]));
                if check == [0, 0] && field - start == UDP_CSUM {
                    check = [0xff, 0xff]; // RFC 768: zero says "none"
                }
                out[field..field + 2].copy_from_slice(&check);
                Some(out.len())
            }
            Kind::Cut {
                protocol,
                transport,
                headers,
                size,
            } => {
                let from = headers + index * size;
                let to = (from + size).min(self.packet.len());
                let length = headers + to - from;
                let out = &mut out[..length];
                out[..headers].copy_from_slice(&self.packet[..headers]);
                out[headers..].copy_from_slice(&self.packet[from..to]);
                set_network(out, index);
                if protocol == TCP {
                    set_tcp(out, transport, index, size, index + 1 == self.count);
                } else {
                    set_udp(out, transport);
                }
                Some(length)
            }
        }
    }
}

fn whole(header: VnetHeader, packet: &[u8]) -> Result<Kind, MalformedOffload> {
    if header.flags & NEEDS_CSUM == 0 {
        return Ok(Kind::Whole);
    }
    let start = usize::from(header.csum_start);
    let field = start + usize::from(header.csum_offset);
    if field + 2 > packet.len() {
        return Err(MalformedOffload("checksum outside the packet"));
    }
    Ok(Kind::Checksum { start, field })
}

fn cut(
    header: VnetHeader,
    packet: &[u8],
    protocol: u8,
    version: Option<u8>,
) -> Result<Kind, MalformedOffload> {
    let transport = usize::from(header.csum_start);
    let ip_len = ip_header_len(packet).unwrap_or(usize::MAX);
    if version.is_some_and(|v| packet[0] >> 4 != v) {
        return Err(MalformedOffload("segmentation type of the other family"));
    }
    if transport < ip_len || packet.len() < transport + 8 {
        return Err(MalformedOffload("transport header outside the packet"));
    }
    let transport_len = if protocol == TCP {
        usize::from(packet.get(transport + 12).copied().unwrap_or(0) >> 4) * 4
    } else {
        8
    };
    if protocol == TCP && transport_len < 20 {
        return Err(MalformedOffload("TCP header too short"));
    }
    let headers = transport + transport_len;
    if packet.len() < headers {
        return Err(MalformedOffload("transport header outside the packet"));
    }
    let size = usize::from(header.gso_size);
    if size == 0 {
        return Err(MalformedOffload("segments of no size"));
    }
    Ok(Kind::Cut {
        protocol,
        transport,
        headers,
        size,
    })
}

/// IP length, identification (IPv4 counts on) and header checksum of segment `index`.
fn set_network(out: &mut [u8], index: usize) {
    if out[0] >> 4 == 4 {
        let id = read16(out, 4).wrapping_add(index as u16);
        write16(out, 4, id);
    }
    set_ip_length(out, out.len());
}

/// RFC 9293: the sequence number counts on; FIN and PSH belong to the last segment, CWR to the
/// first (RFC 3168 §6.1.2).
fn set_tcp(out: &mut [u8], transport: usize, index: usize, size: usize, last: bool) {
    let sequence = read32(out, transport + 4).wrapping_add((index * size) as u32);
    write32(out, transport + 4, sequence);
    if !last {
        out[transport + 13] &= !(TCP_FIN | TCP_PSH);
    }
    if index > 0 {
        out[transport + 13] &= !TCP_CWR;
    }
    let field = transport + TCP_CSUM;
    out[field..field + 2].fill(0);
    let total = pseudo_sum(addresses(out), TCP, out.len() - transport) + sum(&out[transport..]);
    out[field..field + 2].copy_from_slice(&finish(total));
}

fn set_udp(out: &mut [u8], transport: usize) {
    let length = out.len() - transport;
    write16(out, transport + 4, length as u16);
    let field = transport + UDP_CSUM;
    out[field..field + 2].fill(0);
    let total = pseudo_sum(addresses(out), UDP, length) + sum(&out[transport..]);
    let check = finish(total);
    let check = if check == [0, 0] { [0xff, 0xff] } else { check };
    out[field..field + 2].copy_from_slice(&check);
}
