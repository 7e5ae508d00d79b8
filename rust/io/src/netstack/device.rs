//! The stack's end of the tunnel: a bounded queue of packets that come in, and a way out.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::time::Instant;

use super::header::destination;
use crate::ports::PacketSink;

/// Bytes of packets that may wait for the stack; what comes beyond is dropped, and TCP notices.
pub(super) const INBOUND_LIMIT: usize = 4 << 20;

/// Whole packets, one behind the other in one buffer.
#[derive(Default)]
pub(super) struct Packets {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packets {
    pub(super) fn push(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// The queue between the engine's threads and the stack's.
#[derive(Default)]
pub(super) struct Inbound {
    state: Mutex<InboundState>,
}

#[derive(Default)]
struct InboundState {
    packets: Packets,
    woken: bool,
    dropped: u64,
}

impl Inbound {
    fn lock(&self) -> MutexGuard<'_, InboundState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queue a packet; true when the stack's thread has to be woken.
    pub(super) fn push(&self, packet: &[u8]) -> bool {
        let mut state = self.lock();
        if state.packets.bytes.len() + packet.len() > INBOUND_LIMIT {
            state.dropped += 1;
            return false;
        }
        state.packets.push(packet);
        !std::mem::replace(&mut state.woken, true)
    }

    /// Swap what waits against the empty `out`.
    pub(super) fn take(&self, out: &mut Packets) {
        out.clear();
        let mut state = self.lock();
        std::mem::swap(&mut state.packets, out);
        state.woken = false;
    }

    /// Packets that found no room so far.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

/// What smoltcp reads from and writes to: at most one packet waits to be read, the stack's loop
/// hands it over.
pub(super) struct Tunnel {
    sink: Arc<dyn PacketSink>,
    mtu_bytes: usize,
    arriving: Option<Vec<u8>>,
    spare: Vec<u8>,
    scratch: Vec<u8>,
    /// Our own addresses: what is sent there comes back.
    pub(super) own: Vec<IpAddr>,
    pub(super) looped: Packets,
    pub(super) sent: bool,
}

impl Tunnel {
    pub(super) fn new(sink: Arc<dyn PacketSink>, mtu_bytes: usize) -> Self {
        Self {
            sink,
            mtu_bytes,
            arriving: None,
            spare: Vec::new(),
            scratch: Vec::new(),
            own: Vec::new(),
            looped: Packets::default(),
            sent: false,
        }
    }

    /// Let the next read of the stack give this packet.
    pub(super) fn arrive(&mut self, packet: &[u8]) {
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.clear();
        buffer.extend_from_slice(packet);
        self.arriving = Some(buffer);
    }

    /// Send a finished packet, into the tunnel or back to ourselves.
    pub(super) fn send(&mut self, packet: &[u8]) {
        let mut leaving = Leaving {
            sink: &*self.sink,
            own: &self.own,
            looped: &mut self.looped,
            sent: &mut self.sent,
        };
        leaving.send(packet);
    }

    /// Tell the tunnel that a round is over, if anything was sent in it.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.sent) {
            self.sink.flush();
        }
    }
}

/// The way out of the stack.
struct Leaving<'a> {
    sink: &'a dyn PacketSink,
    own: &'a [IpAddr],
    looped: &'a mut Packets,
    sent: &'a mut bool,
}

impl Leaving<'_> {
    fn send(&mut self, packet: &[u8]) {
        let to_self = destination(packet).is_some_and(|to| self.own.contains(&to));
        if to_self {
            if self.looped.bytes.len() < INBOUND_LIMIT {
                self.looped.push(packet);
            }
        } else {
            self.sink.outbound(packet);
            *self.sent = true;
        }
    }
}

pub(super) struct Arrived<'a> {
    packet: Vec<u8>,
    spare: &'a mut Vec<u8>,
}

impl RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        let result = take(&self.packet);
        *self.spare = self.packet;
        result
    }
}

pub(super) struct Departing<'a> {
    leaving: Leaving<'a>,
    scratch: &'a mut Vec<u8>,
}

impl TxToken for Departing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, fill: F) -> R {
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        let packet = &mut self.scratch[..len];
        let result = fill(packet);
        self.leaving.send(packet);
        result
    }
}

impl Device for Tunnel {
    type RxToken<'a> = Arrived<'a>;
    type TxToken<'a> = Departing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived<'_>, Departing<'_>)> {
        let packet = self.arriving.take()?;
        let leaving = Leaving {
            sink: &*self.sink,
            own: &self.own,
            looped: &mut self.looped,
            sent: &mut self.sent,
        };
        Some((
            Arrived {
                packet,
                spare: &mut self.spare,
            },
            Departing {
                leaving,
                scratch: &mut self.scratch,
            },
        ))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Departing<'_>> {
        let leaving = Leaving {
            sink: &*self.sink,
            own: &self.own,
            looped: &mut self.looped,
            sent: &mut self.sent,
        };
        Some(Departing {
            leaving,
            scratch: &mut self.scratch,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu_bytes;
        // What came out of the tunnel was authenticated whole; as in the kernel's WireGuard, its
        // inner checksums are not summed up once more. What we send carries them.
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = Checksum::Tx;
        checksum.udp = Checksum::Tx;
        capabilities.checksum = checksum;
        capabilities
    }
}
