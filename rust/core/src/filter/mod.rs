//! The inbound packet filter with reply tracking (PROTOCOL §3.8, runtime semantics).

use crate::seam::{FilterRule, MalformedSeam};

/// Why the filter dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No rule lets it in.
    NoRule,
    /// Not an IP packet, or one that contradicts itself.
    Malformed,
    /// A fragment that cannot be judged, or that overlaps a transport header.
    Fragment,
}

/// The filter in force and the flows that may be answered; shared by all threads.
pub struct Gate {}

impl Gate {
    /// A gate that lets in nothing but replies.
    #[must_use]
    pub fn new() -> Self {
        todo!()
    }

    /// Replace the rules (off the packet path).
    ///
    /// # Errors
    /// [`MalformedSeam`] when a span is no pair of addresses of one family.
    pub fn set(&self, _rules: &[FilterRule], _shields_up: bool) -> Result<(), MalformedSeam> {
        todo!()
    }

    /// Whether an opened inbound packet may come in.
    ///
    /// # Errors
    /// Why not.
    pub fn check_in(&self, _packet: &[u8]) -> Result<(), Refusal> {
        todo!()
    }

    /// Note an outbound packet, so that its replies come in (UDP and the like). Call it with the
    /// first segment of a TSO or USO super-packet. Costs one atomic load while rules let all in.
    pub fn note_out(&self, _packet: &[u8]) {
        todo!()
    }
}
