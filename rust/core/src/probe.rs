//! Answers that the engine gives itself, and answers to our own probes.
//!
//! TSMP (PROTOCOL §5.11) is answered always; ICMP echo (RFC 792, RFC 4443) only in userspace
//! mode, where no kernel stands behind the tunnel.

/// What an inbound packet that passed the filter is to the prober.
#[derive(Debug, PartialEq, Eq)]
pub enum Probe {
    /// Answer with this packet, to where it came from; it goes no further.
    Answer(Vec<u8>),
    /// It answers a probe of ours: tell Python (`ProbeReply`). A TSMP pong goes no further.
    Reply,
    /// TSMP that asks nothing of us: drop.
    Consumed,
    /// Not a probe.
    Other,
}

/// Which probes of ours (`SendPacket`) wait for an answer; bounded.
pub struct Prober {}

impl Prober {
    /// `answer_echo`: answer ICMP echo requests too (userspace mode).
    #[must_use]
    pub fn new(_answer_echo: bool) -> Self {
        todo!()
    }

    /// A packet that Python sends by `SendPacket`; remembers what its answer looks like.
    pub fn note_sent(&self, _packet: &[u8]) {
        todo!()
    }

    /// Judge an inbound packet; call after the filter, before the device. Nearly free for
    /// packets that are neither TSMP nor ICMP.
    #[must_use]
    pub fn receive(&self, _packet: &[u8]) -> Probe {
        todo!()
    }
}
