//! Where the parts of the engine meet: traits, so that each part can be built and tested alone.
//!
//! All of them are called from several threads and never block: a full queue is a `false` or a
//! counted drop, never a wait.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use warren_core::seam::{Event, RelayNode};

/// The relay side as the engine sees it: one connection per region, made when needed.
pub trait RelayPort: Send + Sync {
    /// Queues a packet (WireGuard or disco) for a peer behind `region`, connecting if needed.
    ///
    /// Gives false when the region is unknown or its queue is full: the packet is dropped.
    fn send(&self, region: u16, dst: &[u8; 32], packet: &[u8]) -> bool;

    /// Waits, at most for `max`, until the queue of `region` has room again: the one call here
    /// that may block, for a sender that would rather slow down than drop. False: still full.
    fn wait_room(&self, _region: u16, _max: Duration) -> bool {
        false
    }

    /// Defines or redefines a region; a changed one is reconnected, an empty one is forgotten.
    fn set_region(&self, region: u16, nodes: Vec<RelayNode>);

    /// The region to be connected to always, as home; 0 for none.
    fn set_home(&self, region: u16);

    /// The node's private key, by which it logs in; a new one reconnects every region.
    fn set_identity(&self, private_key: [u8; 32]);

    /// The machine's network may have changed: connections whose address is gone are made anew,
    /// others are asked for a sign of life, and regions that are down are tried again at once.
    fn nudge(&self) {}

    /// Regions with a connection under way or up, and whether it is up.
    fn regions(&self) -> Vec<(u16, bool)>;

    /// Closes every connection and ends the threads. Idempotent.
    fn close(&self);
}

/// The engine as the relay side sees it.
pub trait RelaySink: Send + Sync {
    /// A packet from a peer came through `region`; it may be decrypted where it lies.
    fn on_packet(&self, region: u16, src: &[u8; 32], packet: &mut [u8]);

    /// The packets that came in one read of the stream have all been handed over.
    fn on_batch_end(&self, _region: u16) {}

    /// `RegionState` or `PeerGone`, for Python.
    fn on_event(&self, event: Event);
}

/// Takes whole IP packets from the userspace stack into the tunnel.
pub trait PacketSink: Send + Sync {
    /// Routes, seals and sends one packet; what has no peer is dropped and counted.
    fn outbound(&self, ip_packet: &[u8]);

    /// The packets of one round of the stack have all been handed over.
    fn flush(&self) {}
}

/// Takes events for Python from any part of the engine.
pub trait EventSink: Send + Sync {
    /// Queues an event; a full queue drops it and counts that.
    fn event(&self, event: Event);
}

/// The userspace stack as the engine sees it.
pub trait UserStack: Send + Sync {
    /// Takes one whole inbound IP packet that passed every check.
    fn inject(&self, ip_packet: &[u8]);

    /// This node's own addresses.
    fn set_addresses(&self, addresses: &[IpAddr]);

    /// Opens a TCP connection through the tunnel; `Dialed` answers with `id`.
    fn dial(&self, id: u64, to: SocketAddr);

    /// Joins a dialed connection with a socket, which it owns from here on.
    fn splice(&self, id: u64, socket: OwnedFd);

    /// Drops a dialed connection that was not spliced.
    fn hangup(&self, id: u64);

    /// Injected packets that were dropped because the stack could not keep up.
    fn dropped(&self) -> u64 {
        0
    }

    /// Ends the threads. Idempotent.
    fn close(&self);
}
