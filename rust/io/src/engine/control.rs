//! The control thread: applies commands in order, off the packet path, and runs the timers.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use warren_core::hop::{Hop, SocketRef};
use warren_core::seam::Event;
use warren_core::wg::PublicKey;

use super::actions::{Action, Work};
use super::forward::{MAX_FORWARDS, MAX_TURNS};
use super::outbound::Outbound;
use super::shared::Shared;
use super::stream;
use crate::udp::UdpSockets;

/// Commands that wait; Python gets an error beyond, instead of memory growing.
const MAX_WAITING: usize = 4096;
/// Packets on other threads bring timers that are due no sooner than this.
const MAX_SLEEP_MS: u64 = 1000;
/// How long sockets that are being replaced may stay in use by a batch.
const REPLACE_PATIENCE: Duration = Duration::from_secs(1);

/// Work on its way to the control thread.
#[derive(Default)]
pub(crate) struct Mailbox {
    waiting: Mutex<VecDeque<Work>>,
    arrived: Condvar,
}

impl Mailbox {
    /// Queues work behind what waits.
    pub(crate) fn post(&self, work: Work) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            let text = "the packet engine is behind with its commands";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        waiting.push_back(work);
        self.arrived.notify_one();
        Ok(())
    }

    /// Wakes the control thread without work.
    pub(crate) fn wake(&self) {
        drop(self.waiting.lock());
        self.arrived.notify_one();
    }

    fn take(&self, wait: Duration, stopping: impl Fn() -> bool) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() && !stopping() {
            self.arrived.wait_for(&mut waiting, wait);
        }
        waiting.pop_front()
    }
}

/// Until the engine stops.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut outbound = Outbound::new();
    while !shared.stopping() {
        let now = shared.clock.now();
        let due = shared
            .tunnel
            .next_timeout()
            .map_or(u64::MAX, |(due_ms, _)| due_ms);
        let wait = due.saturating_sub(now.mono_ms).min(MAX_SLEEP_MS);
        if let Some(work) = shared
            .mailbox
            .take(Duration::from_millis(wait), || shared.stopping())
        {
            for action in work.actions {
                apply(shared, &mut outbound, action);
            }
            if work.generation != 0 {
                shared.event(Event::Applied {
                    generation: work.generation,
                });
            }
        }
        let now = shared.clock.now();
        if shared
            .tunnel
            .next_timeout()
            .is_some_and(|(due_ms, _)| due_ms <= now.mono_ms)
        {
            shared.tunnel.handle_timeout(now);
        }
        shared.drain_tunnel(now);
    }
}

fn apply(shared: &Arc<Shared>, outbound: &mut Outbound, action: Action) {
    match action {
        Action::Identity { private, addresses } => {
            if let Some(relay) = shared.relay() {
                relay.set_identity(private.0);
            }
            if let Some(stack) = shared.stack() {
                stack.set_addresses(&addresses);
            }
            shared.prober.set_addresses(addresses);
            shared.tunnel.set_identity(private);
        }
        Action::Peers { upsert, remove } => {
            shared
                .tunnel
                .set_peers(&upsert, &remove, shared.clock.now());
        }
        Action::Filter { rules, shields_up } => {
            if let Err(error) = shared.gate.set(&rules, shields_up) {
                fault(
                    shared,
                    format!("the packet filter was not changed: {error}"),
                );
            }
        }
        Action::Path {
            peer,
            hop,
            lease_ms,
            mtu_bytes,
        } => set_path(shared, &peer, hop, lease_ms, mtu_bytes),
        Action::Region { region, nodes } => {
            if let Some(relay) = shared.relay() {
                relay.set_region(region, nodes);
            }
        }
        Action::Home { region } => {
            if let Some(relay) = shared.relay() {
                relay.set_home(region);
            }
        }
        Action::Datagram {
            to,
            content,
            data,
            whole: false,
        } => shared.send_udp(to, content, &data),
        Action::Datagram {
            to, content, data, ..
        } => shared.send_whole(to, content, &data),
        Action::Relayed { region, peer, data } => shared.send_relay(region.into(), &peer, &data),
        Action::Packet(packet) => {
            shared.prober.note_sent(&packet);
            outbound.one(shared, &packet);
        }
        Action::Rebind { port } => rebind(shared, port),
        Action::Dial { id, to } => dial(shared, id, to),
        Action::Splice { id, fd } => splice(shared, id, fd),
        Action::Hangup { id } => {
            if let Some(stack) = shared.stack() {
                stack.hangup(id);
            }
        }
        Action::OpenSockets { group, count } => {
            if let Err(error) = shared.groups.open(group, count) {
                fault(shared, error.to_string());
            }
            // So that an inbound thread waits for them too.
            shared.wake_inbound();
        }
        Action::OpenStream { group, addr, to } => stream::open(shared, group, addr, to),
        Action::CloseSockets { group } => {
            shared.groups.close(group);
            shared.streams.close(group);
        }
        Action::KeepSocket(socket) => {
            if !shared.groups.keep(socket) {
                let SocketRef { group, index } = socket;
                fault(
                    shared,
                    format!("socket {index} of group {group} is not open"),
                );
            }
        }
        Action::Forward { vni, ends } => {
            if !shared.forwards.set(vni, ends) {
                let message = format!("no more than {MAX_FORWARDS} sessions are forwarded");
                fault(shared, message);
            }
        }
        Action::Turn { server, on } => {
            if !shared.turns.set(server, on) {
                fault(
                    shared,
                    format!("no more than {MAX_TURNS} TURN servers are used"),
                );
            }
        }
    }
}

fn fault(shared: &Shared, message: String) {
    shared.event(Event::Fault {
        message,
        fatal: false,
    });
}

fn set_path(shared: &Shared, peer: &PublicKey, hop: Option<Hop>, lease_ms: u64, mtu_bytes: usize) {
    if let Some(hop) = hop.filter(|hop| !hop.socket.is_main()) {
        shared.groups.widen(hop.socket);
    }
    // A lease for a peer that has just left the map comes too late, and that is all.
    if let Some(peer) = shared.tunnel.tables().peer(peer) {
        let until_ms = shared.clock.now().mono_ms.saturating_add(lease_ms);
        peer.path().lease(hop, until_ms, mtu_bytes);
    }
}

fn dial(shared: &Shared, id: u64, to: std::net::SocketAddr) {
    match shared.stack() {
        Some(stack) => stack.dial(id, to),
        None => {
            let error = "the engine has a TUN device: connect through the kernel".to_owned();
            shared.event(Event::Dialed { id, error });
        }
    }
}

fn splice(shared: &Shared, id: u64, fd: i32) {
    if fd < 0 {
        return;
    }
    // SAFETY: the descriptor may be anything; fcntl only tells whether it is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return;
    }
    // SAFETY: the seam says that the engine owns this open descriptor from here on.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(stack) = shared.stack() {
        stack.splice(id, socket);
    }
}

/// Opens the sockets anew and puts them in the old ones' place.
fn rebind(shared: &Shared, port: u16) {
    let old = shared.sockets.load_full();
    let held = port != 0 && (old.port4() == port || old.port6() == port);
    if held {
        // The port is ours: it must be free before it can be taken again.
        shared.sockets.store(Arc::new(UdpSockets::none()));
        shared.wake_inbound();
        let end = Instant::now() + REPLACE_PATIENCE;
        while Arc::strong_count(&old) > 1 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    drop(old);
    let threads = shared.threads();
    let sockets = UdpSockets::bind(port, threads).or_else(|error| {
        fault(shared, format!("{error}; another port was taken"));
        UdpSockets::bind(0, threads)
    });
    match sockets {
        Ok(sockets) => {
            let bound = Event::Bound {
                port4: sockets.port4(),
                port6: sockets.port6(),
            };
            shared.sockets.store(Arc::new(sockets));
            shared.wake_inbound();
            shared.event(bound);
        }
        Err(error) => shared.event(Event::Fault {
            message: error.to_string(),
            fatal: true,
        }),
    }
    if let Some(relay) = shared.relay() {
        relay.nudge();
    }
}
