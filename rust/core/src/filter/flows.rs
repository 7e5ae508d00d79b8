//! Which flows went out and may be answered: bounded, the least recently used go.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::packet::Parsed;

/// Flows remembered in each of the two generations.
const GENERATION: usize = 8_192;

/// An inbound flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    protocol: u8,
    src: IpAddr,
    dst: IpAddr,
    src_port: u16,
    dst_port: u16,
}

impl Flow {
    pub(super) fn of(inbound: &Parsed) -> Self {
        Self {
            protocol: inbound.protocol,
            src: inbound.src,
            dst: inbound.dst,
            src_port: inbound.src_port,
            dst_port: inbound.dst_port,
        }
    }

    /// The flow of the replies to an outbound packet.
    pub(super) fn answering(outbound: &Parsed) -> Self {
        Self {
            protocol: outbound.protocol,
            src: outbound.dst,
            dst: outbound.src,
            src_port: outbound.dst_port,
            dst_port: outbound.src_port,
        }
    }
}

/// Two generations: a flow that is used moves to the young one; when that is full it becomes the
/// old one, and what nobody used meanwhile is gone.
#[derive(Default)]
pub(super) struct Flows {
    /// The flow noted last: most packets belong to it.
    last: Option<Flow>,
    young: HashSet<Flow>,
    old: HashSet<Flow>,
}

impl Flows {
    pub(super) fn note(&mut self, flow: Flow) {
        if self.last == Some(flow) {
            return;
        }
        if self.young.len() >= GENERATION && !self.young.contains(&flow) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(flow);
        self.last = Some(flow);
    }

    /// Whether the flow was noted; keeps it alive.
    pub(super) fn has(&mut self, flow: &Flow) -> bool {
        if self.last.as_ref() == Some(flow) || self.young.contains(flow) {
            return true;
        }
        let known = self.old.contains(flow);
        if known {
            self.note(*flow);
        }
        known
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
