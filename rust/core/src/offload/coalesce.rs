//! Joining neighbouring packets of one flow into one super-packet for the kernel.
//!
//! Packets lie in one arena, opened in place. Joining moves no payload: a group is the first
//! packet with its headers rewritten, followed by ranges of payload, ready for one vectored
//! write. Rules are those of the kernel's own GRO: same addresses, ports, header fields and
//! options, the next sequence number, one payload size (only the last may be shorter), a valid
//! checksum on every member. Packets of one flow never overtake one another.

use super::headers::{
    TCP, TCP_ACK, TCP_CSUM, TCP_PSH, UDP, UDP_CSUM, addresses, read16, read32, set_ip_length,
    write16,
};
use super::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM};
use super::{VnetHeader, checksum::fold, pseudo_sum, sum};

/// The most parts of one group: well under the kernel's limit of 1,024 vectors in a write.
const MAX_PARTS: u16 = 128;
/// How many groups back a packet looks for its flow.
const LOOK_BACK: usize = 16;
const MAX_TOTAL: usize = 65_535;
const NONE: u32 = u32::MAX;

/// A range of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Offset in the arena.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Part {
    fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.start as usize..(self.start + self.len) as usize]
    }
}

/// Packets to be written as one.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What to tell the kernel about the packet.
    pub header: VnetHeader,
    /// Bytes in all, headers included.
    pub total_len: u32,
    first: u32,
    last: u32,
    parts: u16,
    flow: Option<Flow>,
}

/// What is known of a packet, or of a group: its first packet and where the next one would begin.
#[derive(Debug, Clone, Copy)]
struct Flow {
    packet: Part,
    transport: u8,
    headers: u8,
    protocol: u8,
    /// Payload bytes; in a group, of every member but perhaps the last.
    size: u16,
    sequence: u32,
    /// A packet: may be joined. A group: may grow.
    open: bool,
    /// PSH is set: the receiver should hear of this now, so nothing follows in the same write.
    pushed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    part: Part,
    next: u32,
}

/// Groups the packets of one batch. Its memory is reused from batch to batch.
#[derive(Debug, Default)]
pub struct Coalescer {
    groups: Vec<Group>,
    nodes: Vec<Node>,
    join_udp: bool,
}

impl Coalescer {
    /// `join_udp`: whether the device takes UDP super-packets.
    #[must_use]
    pub fn new(join_udp: bool) -> Self {
        Self {
            groups: Vec::new(),
            nodes: Vec::new(),
            join_udp,
        }
    }

    /// Adds the packet that lies at `packet` in `arena`, behind those that came before it.
    pub fn push(&mut self, arena: &[u8], packet: Part) {
        let flow = read_flow(arena, packet, self.join_udp);
        if let Some(flow) = &flow {
            let known = self.groups.iter_mut().rev().take(LOOK_BACK).find(|group| {
                group
                    .flow
                    .as_ref()
                    .is_some_and(|other| same_flow(arena, other, flow))
            });
            if known.is_some_and(|group| try_join(arena, group, flow, &mut self.nodes)) {
                return;
            }
        }
        let index = self.nodes.len() as u32;
        self.nodes.push(Node {
            part: packet,
            next: NONE,
        });
        let flow = flow.map(|flow| Flow {
            open: flow.open && !flow.pushed,
            ..flow
        });
        self.groups.push(Group {
            header: VnetHeader::default(),
            total_len: packet.len,
            first: index,
            last: index,
            parts: 1,
            flow,
        });
    }

    /// Rewrites the headers of joined groups in the arena and hands out each group with its
    /// parts, in order; then forgets the batch.
    pub fn drain(&mut self, arena: &mut [u8], mut write: impl FnMut(&[u8], &Group, Parts<'_>)) {
        for index in 0..self.groups.len() {
            let group = &mut self.groups[index];
            if group.parts > 1 {
                finalise(arena, group);
            }
            let parts = Parts {
                nodes: &self.nodes,
                next: group.first,
            };
            write(arena, group, parts);
        }
        self.groups.clear();
        self.nodes.clear();
    }
}

/// The parts of one group in order.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    nodes: &'a [Node],
    next: u32,
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let node = self.nodes.get(self.next as usize)?;
        self.next = node.next;
        Some(node.part)
    }
}

/// Reads a TCP or UDP packet over plain IP headers; None for what is never joined and keeps no
/// order with others (fragments, IP options, extension headers, other protocols).
fn read_flow(arena: &[u8], part: Part, join_udp: bool) -> Option<Flow> {
    let packet = part.of(arena);
    let (transport, protocol) = match packet.first()? {
        0x45 if packet.len() >= 28
            && usize::from(read16(packet, 2)) == packet.len()
            && read16(packet, 6) & 0x3fff == 0 =>
        {
            (20usize, packet[9])
        }
        0x60..=0x6f
            if packet.len() >= 48 && usize::from(read16(packet, 4)) + 40 == packet.len() =>
        {
            (40usize, packet[6])
        }
        _ => return None,
    };
    let (transport_len, sequence, joinable) = match protocol {
        TCP => {
            let length = usize::from(packet.get(transport + 12)? >> 4) * 4;
            let flags = packet.get(transport + 13)?;
            (
                length,
                read32(packet, transport + 4),
                flags & !TCP_PSH == TCP_ACK,
            )
        }
        UDP => {
            let whole = usize::from(read16(packet, transport + 4)) == packet.len() - transport;
            (
                8,
                0,
                join_udp && whole && read16(packet, transport + UDP_CSUM) != 0,
            )
        }
        _ => return None,
    };
    let headers = transport + transport_len;
    if transport_len < 8 || packet.len() < headers || (protocol == TCP && transport_len < 20) {
        return None;
    }
    let size = packet.len() - headers;
    Some(Flow {
        packet: part,
        transport: transport as u8,
        headers: headers as u8,
        protocol,
        size: size as u16,
        sequence,
        open: joinable && size > 0 && valid_checksums(packet, transport, protocol),
        pushed: protocol == TCP && packet[transport + 13] & TCP_PSH != 0,
    })
}

fn valid_checksums(packet: &[u8], transport: usize, protocol: u8) -> bool {
    let network = packet[0] >> 4 == 6 || fold(sum(&packet[..transport])) == 0xffff;
    let total = pseudo_sum(addresses(packet), protocol, packet.len() - transport)
        + sum(&packet[transport..]);
    network && fold(total) == 0xffff
}

fn same_flow(arena: &[u8], one: &Flow, other: &Flow) -> bool {
    let (a, b) = (one.packet.of(arena), other.packet.of(arena));
    let at = usize::from(one.transport);
    one.protocol == other.protocol
        && one.transport == other.transport
        && addresses(a) == addresses(b)
        && a[at..at + 4] == b[at..at + 4]
}

/// Appends a packet to the group of its flow if every rule allows it; otherwise the group is
/// closed, so that later packets of the flow cannot slip in before this one.
fn try_join(arena: &[u8], group: &mut Group, packet: &Flow, nodes: &mut Vec<Node>) -> bool {
    let Some(flow) = group.flow.as_mut() else {
        return false;
    };
    let fits = flow.open
        && packet.open
        && group.parts < MAX_PARTS
        && packet.size <= flow.size
        && group.total_len as usize + usize::from(packet.size) <= MAX_TOTAL
        && follows(arena, flow, packet, group.parts);
    if !fits {
        flow.open = false;
        return false;
    }
    let index = nodes.len() as u32;
    let part = Part {
        start: packet.packet.start + u32::from(packet.headers),
        len: u32::from(packet.size),
    };
    nodes.push(Node { part, next: NONE });
    nodes[group.last as usize].next = index;
    group.last = index;
    group.parts += 1;
    group.total_len += part.len;
    flow.pushed |= packet.pushed;
    flow.open = packet.size == flow.size && !packet.pushed;
    true
}

/// Whether `packet` carries on where the group of `flow`, with `members` so far, ended.
fn follows(arena: &[u8], flow: &Flow, packet: &Flow, members: u16) -> bool {
    let (first, next) = (flow.packet.of(arena), packet.packet.of(arena));
    if flow.headers != packet.headers {
        return false;
    }
    let network = if first[0] >> 4 == 4 {
        // With DF the identification means nothing (RFC 6864 §4.1).
        let unfragmentable = first[6] & 0x40 != 0;
        let counts_on = read16(first, 4).wrapping_add(members) == read16(next, 4);
        first[1] == next[1] && first[6..9] == next[6..9] && (unfragmentable || counts_on)
    } else {
        first[..4] == next[..4] && first[7] == next[7]
    };
    if flow.protocol == UDP {
        return network;
    }
    let at = usize::from(flow.transport);
    let expected = flow
        .sequence
        .wrapping_add(u32::from(members) * u32::from(flow.size));
    network
        && packet.sequence == expected
        && first[at + 8..at + 13] == next[at + 8..at + 13]
        && first[at + 14..at + 16] == next[at + 14..at + 16]
        && first[at + 18..usize::from(flow.headers)] == next[at + 18..usize::from(packet.headers)]
}

/// Makes the first packet's headers those of the whole group.
fn finalise(arena: &mut [u8], group: &mut Group) {
    let Some(flow) = group.flow else { return };
    let start = flow.packet.start as usize;
    let headers = &mut arena[start..start + usize::from(flow.headers)];
    let transport = usize::from(flow.transport);
    let transport_len = group.total_len as usize - transport;
    set_ip_length(headers, group.total_len as usize);
    let offset = if flow.protocol == TCP {
        if flow.pushed {
            headers[transport + 13] |= TCP_PSH;
        }
        TCP_CSUM
    } else {
        write16(headers, transport + 4, transport_len as u16);
        UDP_CSUM
    };
    // The kernel completes it segment by segment: only the pseudo-header is summed here.
    let partial = fold(pseudo_sum(addresses(headers), flow.protocol, transport_len));
    let field = transport + offset;
    headers[field..field + 2].copy_from_slice(&partial.to_ne_bytes());
    group.header = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: match (flow.protocol, headers[0] >> 4) {
            (UDP, _) => GSO_UDP_L4,
            (_, 4) => GSO_TCPV4,
            _ => GSO_TCPV6,
        },
        hdr_len: u16::from(flow.headers),
        gso_size: flow.size,
        csum_start: u16::from(flow.transport),
        csum_offset: offset as u16,
    };
}
