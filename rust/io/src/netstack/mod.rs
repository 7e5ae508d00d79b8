//! The userspace stack: TCP and UDP inside the tunnel without a TUN device, by smoltcp.
//!
//! ```text
//! engine --inject--> inbound queue --+                       +-- 127.0.0.1 of the host
//!                                    smoltcp <--> flows <----+
//! engine <--outbound-----------------+                       +-- sockets handed over by `splice`
//! ```
//!
//! One thread does it all and sleeps until a packet, an order, a socket or a timer is due. A
//! connection from the tunnel is first made to the same port on the host's loopback and only then
//! accepted, so that a closed port answers with RST. Bytes go straight between smoltcp's buffers
//! and the host's sockets; a full side holds up the other. ICMP echoes to our own addresses are
//! answered by smoltcp.

mod device;
mod flow;
mod header;
mod stack;
mod udp;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use mio::{Poll, Token, Waker};
use warren_core::seam::Event;

use crate::ports::{EventSink, PacketSink, UserStack};
use device::Inbound;
use stack::Stack;

/// Connections at a time, both ways together.
pub const MAX_FLOWS: usize = 1024;
/// Orders that may wait; Python sends a few at a time.
const MAX_ORDERS: usize = 16 << 10;
const WAKER: Token = Token(0);

/// What is fixed for the life of a stack.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// The largest packet that the tunnel carries.
    pub mtu_bytes: u16,
    /// Hand inbound TCP and UDP to the same port on the host's loopback.
    pub loopback_forward: bool,
}

/// What the engine asks for.
enum Order {
    Addresses(Vec<IpAddr>),
    Dial { id: u64, to: SocketAddr },
    Splice { id: u64, socket: OwnedFd },
    Hangup { id: u64 },
    Close,
}

/// What the engine's threads and the stack's share.
struct Shared {
    inbound: Inbound,
    orders: Mutex<Vec<Order>>,
    waker: Waker,
}

impl Shared {
    /// False when there is no room: the order is dropped, and with it a socket that it holds.
    fn order(&self, order: Order) -> bool {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let room = orders.len() < MAX_ORDERS || matches!(order, Order::Close);
        if room {
            orders.push(order);
        }
        drop(orders);
        self.wake();
        room
    }

    fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self) {
        // Fails only when the poller is gone, and then nobody sleeps.
        let _ = self.waker.wake();
    }
}

/// The stack, as the engine holds it.
pub struct Netstack {
    shared: Arc<Shared>,
    events: Arc<dyn EventSink>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Netstack {
    /// Start the thread. Packets go to `sink` and `Dialed` to `events`, both from that thread.
    ///
    /// # Errors
    /// What the system says when it has no thread, poller or entropy for us.
    pub fn start(
        config: &StackConfig,
        sink: Arc<dyn PacketSink>,
        events: Arc<dyn EventSink>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let shared = Arc::new(Shared {
            inbound: Inbound::default(),
            orders: Mutex::default(),
            waker,
        });
        let stack = Stack::new(poll, shared.clone(), config, sink, events.clone())?;
        let thread = std::thread::Builder::new()
            .name("netstack".to_owned())
            .spawn(move || stack.run())?;
        Ok(Self {
            shared,
            events,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl UserStack for Netstack {
    fn dropped(&self) -> u64 {
        self.shared.inbound.dropped()
    }

    fn inject(&self, ip_packet: &[u8]) {
        if self.shared.inbound.push(ip_packet) {
            self.shared.wake();
        }
    }

    fn set_addresses(&self, addresses: &[IpAddr]) {
        self.shared.order(Order::Addresses(addresses.to_vec()));
    }

    fn dial(&self, id: u64, to: SocketAddr) {
        if !self.shared.order(Order::Dial { id, to }) {
            let error = "too many connections are being opened".to_owned();
            self.events.event(Event::Dialed { id, error });
        }
    }

    fn splice(&self, id: u64, socket: OwnedFd) {
        self.shared.order(Order::Splice { id, socket });
    }

    fn hangup(&self, id: u64) {
        self.shared.order(Order::Hangup { id });
    }

    fn close(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.shared.order(Order::Close);
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for Netstack {
    fn drop(&mut self) {
        self.close();
    }
}
