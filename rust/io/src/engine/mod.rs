//! The engine: threads that carry packets, and one that does as Python says.
//!
//! ```text
//!  TUN ──read── outbound thread ──seal── UDP (GSO) or relay
//!  UDP ──recvmmsg── inbound thread ──open── filter ── TUN (one write a flow)
//!  relay threads ──on_packet── the same inbound way, one packet at a time
//!  Python ──apply── mailbox ── control thread (tables swapped, timers run)
//!  Python <──poll── bounded events, an eventfd
//! ```
//!
//! With many cores there are several inbound and outbound threads, each with a socket and a queue
//! of the device: packets of one peer come in by one of them, and leave by one flow for flow.
//! Threads share one [`Shared`]; packet threads take no lock that another holds for long. In
//! userspace mode the stack's thread stands where the outbound thread and the TUN device do.

mod actions;
mod clock;
mod control;
mod drops;
mod events;
mod forward;
mod inbound;
mod outbound;
mod sealing;
mod shared;
mod stream;
mod wake;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use std::thread::JoinHandle;

use parking_lot::Mutex;
use warren_core::seam::{
    EngineConfig, Event, MalformedSeam, PeerStats, Snapshot, decode_commands, decode_config,
    encode_events, encode_snapshot,
};

use crate::derp::RelayPool;
use crate::netstack::{Netstack, StackConfig};
use crate::ports::UserStack;
use crate::tun::Tun;
use crate::udp::UdpSockets;
use shared::{Door, Shared};

/// The largest MTU of a device; a packet and what stands around it fit one datagram.
const MTU_MAX: u16 = 65_000;
/// More threads than that each way wait for one another.
const MAX_THREADS: usize = 16;
/// So many cores are worth one more thread each way, which leaves as much for the programs whose
/// packets they are ...
const CORES_A_THREAD: usize = 2;
/// ... and unless told otherwise, this is enough.
const DEFAULT_THREADS: usize = 4;

/// Why an engine did not start or did not take commands.
#[derive(Debug)]
pub enum EngineError {
    /// Bytes that do not fit the seam.
    Malformed(MalformedSeam),
    /// The machine refused something; the error's text is one whole sentence.
    Io(io::Error),
}

impl From<MalformedSeam> for EngineError {
    fn from(error: MalformedSeam) -> Self {
        Self::Malformed(error)
    }
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Display for EngineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for EngineError {}

/// A running engine; dropping it closes it.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Opens sockets and device as `config` (MessagePack of `EngineConfig`) says, and starts.
    ///
    /// # Errors
    /// [`EngineError`] with one sentence.
    pub fn start(config: &[u8]) -> Result<Self, EngineError> {
        let config = decode_config(config)?;
        if !(1280..=MTU_MAX).contains(&config.mtu_bytes) {
            let text = format!(
                "an MTU of {} bytes is not between 1280 and {MTU_MAX}",
                config.mtu_bytes
            );
            return Err(MalformedSeam(text).into());
        }
        let threads = match usize::from(config.threads) {
            0 => std::thread::available_parallelism()
                .map_or(1, |cores| cores.get() / CORES_A_THREAD)
                .clamp(1, DEFAULT_THREADS),
            threads => threads.min(MAX_THREADS),
        };
        let tun = config
            .tun
            .as_deref()
            .map(|name| Tun::open(name, config.mtu_bytes, threads))
            .transpose()?;
        let sockets = UdpSockets::bind(config.port, threads)?;
        let shared = Shared::start(tun, sockets, threads)?;
        let door = Arc::new(Door(Arc::downgrade(&shared)));
        let stack = start_stack(&config, &door)?;
        shared.connect(Some(Arc::new(RelayPool::new(door))), stack);
        Self::launch(shared)
    }

    /// Starts the threads around parts that stand.
    fn launch(shared: Arc<Shared>) -> Result<Self, EngineError> {
        let engine = Self {
            shared,
            threads: Mutex::default(),
        };
        engine.spawn("warren-control", control::run)?;
        for index in 0..engine.shared.threads() {
            engine.spawn(&format!("warren-in{index}"), move |shared| {
                inbound::run(shared, index);
            })?;
        }
        let queues = engine
            .shared
            .tun
            .load()
            .as_ref()
            .map_or(0, |tun| tun.queues());
        for queue in 0..queues {
            engine.spawn(&format!("warren-out{queue}"), move |shared| {
                outbound::run(shared, queue);
            })?;
        }
        Ok(engine)
    }

    fn spawn(&self, name: &str, body: impl Fn(&Arc<Shared>) + Send + 'static) -> io::Result<()> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let result = catch_unwind(AssertUnwindSafe(|| body(&shared)));
                if result.is_err() && !shared.stopping() {
                    let message = "a thread of the packet engine stopped by an error of its own";
                    shared.event(Event::Fault {
                        message: message.to_owned(),
                        fatal: true,
                    });
                    shared.stop();
                }
            })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Queues commands (MessagePack as `encode_commands` writes it), in order.
    ///
    /// # Errors
    /// [`EngineError::Malformed`] for what cannot be read; then none of them is applied.
    pub fn apply(&self, commands: &[u8]) -> Result<(), EngineError> {
        let batch = actions::compile(decode_commands(commands)?)?;
        if self.shared.stopping() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the engine is closed").into());
        }
        self.shared.mailbox.post(batch)?;
        Ok(())
    }

    /// Drains the waiting events, as MessagePack; never blocks.
    #[must_use]
    pub fn poll(&self) -> Vec<u8> {
        encode_events(&self.shared.events.drain())
    }

    /// Counters now, as MessagePack of `Snapshot`.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        encode_snapshot(&snapshot(&self.shared))
    }

    /// Stops the threads, closes sockets and device. Idempotent.
    pub fn close(&self) {
        self.shared.stop();
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        for thread in threads {
            // A panic was reported already when it happened.
            let _ = thread.join();
        }
        self.shared.close();
    }
}

impl AsRawFd for Engine {
    /// Readable while events wait.
    fn as_raw_fd(&self) -> RawFd {
        self.shared.events.as_raw_fd()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// The userspace stack, where there is no TUN device.
fn start_stack(config: &EngineConfig, door: &Arc<Door>) -> io::Result<Option<Arc<dyn UserStack>>> {
    if config.tun.is_some() {
        return Ok(None);
    }
    let stack = StackConfig {
        mtu_bytes: config.mtu_bytes,
        loopback_forward: config.loopback_forward,
    };
    Ok(Some(Arc::new(Netstack::start(
        &stack,
        door.clone(),
        door.clone(),
    )?)))
}

fn snapshot(shared: &Shared) -> Snapshot {
    let now = shared.clock.now();
    let ago = |then: Option<u64>| then.map(|then| now.mono_ms.saturating_sub(then));
    let sockets = shared.sockets.load();
    let tables = shared.tunnel.tables();
    let peers = tables.peers().map(|peer| {
        let counters = peer.stats();
        let direct = shared.direct_and_mtu(peer, now);
        PeerStats {
            key: peer.key().0.into(),
            rx_bytes: counters.rx_bytes,
            tx_bytes: counters.tx_bytes,
            handshake_ago_ms: ago(counters.handshake_ms),
            tx_ago_ms: ago(counters.tx_ms),
            rx_ago_ms: ago(counters.rx_ms),
            direct: direct.map(|(hop, _)| hop.addr.to_string()),
            mtu_bytes: direct.map(|(_, mtu_bytes)| mtu_bytes as u16),
        }
    });
    let tun = shared.tun.load();
    let offloads = [
        ("tun-tso", tun.as_ref().is_some_and(|tun| tun.tso())),
        ("tun-uso", tun.as_ref().is_some_and(|tun| tun.uso())),
        ("udp-gso", sockets.gso()),
        ("udp-gro", sockets.gro()),
    ];
    let mut drops = shared.drops.named();
    let unstacked = shared.stack().map_or(0, |stack| stack.dropped());
    for (name, count) in [
        ("userspace-stack", unstacked),
        ("wireguard-queue", shared.tunnel.dropped()),
    ] {
        if count > 0 {
            drops.insert(name.to_owned(), count);
        }
    }
    let regions = shared
        .relay()
        .map(|relay| relay.regions())
        .unwrap_or_default();
    Snapshot {
        port4: sockets.port4(),
        port6: sockets.port6(),
        tun_name: tun.as_ref().map(|tun| tun.name().to_owned()),
        offloads: offloads
            .iter()
            .filter(|(_, on)| *on)
            .map(|(name, _)| (*name).into())
            .collect(),
        threads: shared.threads() as u16,
        peers: peers.collect(),
        drops,
        regions: regions
            .into_iter()
            .map(|(region, up)| (region.into(), up))
            .collect(),
        forwards: shared.forwards.stats(now.mono_ms),
    }
}

#[cfg(test)]
mod sealing_tests;
#[cfg(test)]
mod test_ends;
#[cfg(test)]
mod tests;
