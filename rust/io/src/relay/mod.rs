//! The relay server (DERP, PROTOCOL §4) and the TLS end of the front door.
//!
//! ```text
//! TLS port --accept--> handshake --> request head --+-- /derp --> login --> client
//!                                                   +-- else --> pair of sockets --> Python
//! Python --adopt (plain HTTP, WebSocket)----------------------> login --> client
//! ```
//!
//! A thread for each core, each with an epoll set and its own connections. Python decides who is
//! admitted and hears who left; no packet enters it. Queues and fairness are in
//! `warren_core::relay`, the protocol in `warren_core::derp`.

mod certificate;
mod channel;
mod conn;
mod door;
mod outgoing;
mod shared;
mod sockets;
mod upkeep;
mod worker;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use mio::{Poll, Waker};
use parking_lot::Mutex;
use warren_core::derp::serve::restarting_frame;
use warren_core::relay::seam::{
    Command, Event, decode_commands, decode_config, encode_events, encode_snapshot,
};
use warren_core::seam::MalformedSeam;

use crate::engine::EngineError;
use shared::{Message, Place, Shared};
use worker::{WAKE, Worker};

/// More threads than this would only wait for each other.
const MAX_THREADS: usize = 16;

/// A running relay.
pub struct Relay {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Relay {
    /// Start the threads. `config`: MessagePack of [`warren_core::relay::seam::Config`].
    pub fn start(config: &[u8]) -> Result<Self, EngineError> {
        let config = decode_config(config)?;
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let count = match config.threads {
            0 => cores,
            wanted => wanted as usize,
        };
        let polls: Vec<Poll> = (0..count.clamp(1, MAX_THREADS))
            .map(|_| Poll::new())
            .collect::<io::Result<_>>()?;
        let wakers = polls
            .iter()
            .map(|poll| Waker::new(poll.registry(), WAKE))
            .collect::<io::Result<_>>()?;
        let shared = Arc::new(Shared::new(config, wakers)?);
        let mut threads = Vec::new();
        for (index, poll) in polls.into_iter().enumerate() {
            let worker = Worker::new(poll, shared.clone(), index as u8);
            let builder = std::thread::Builder::new().name(format!("relay-{index}"));
            let shared = shared.clone();
            threads.push(builder.spawn(move || {
                let ended = catch_unwind(AssertUnwindSafe(|| worker.run()));
                if let Err(error) = ended.unwrap_or_else(|_| Err(io::Error::other("a panic"))) {
                    shared.events.tell(Event::Fault {
                        error: format!("a thread of the relay has failed: {error}"),
                    });
                }
            })?);
        }
        Ok(Self {
            shared,
            threads: threads.into(),
        })
    }

    /// Obey commands in order. Descriptors in them are the relay's from now on.
    pub fn apply(&self, commands: &[u8]) -> Result<(), EngineError> {
        for command in decode_commands(commands)? {
            self.obey(command)?;
        }
        Ok(())
    }

    fn obey(&self, command: Command) -> Result<(), EngineError> {
        let shared = &self.shared;
        let told = |sentence| EngineError::from(MalformedSeam(sentence));
        match command {
            Command::Listen { fd } => shared.post(0, Message::Listen(own(fd)?)),
            Command::SetCertificate { chain, key } => {
                shared.certificates.set(&chain, &key).map_err(told)?;
            }
            Command::SetProof { host, chain, key } => shared
                .certificates
                .set_proof(&host, &chain, &key)
                .map_err(told)?,
            Command::Adopt {
                fd,
                rest,
                fast_start,
            } => {
                let message = Message::Adopted {
                    fd: own(fd)?,
                    rest: rest.into_vec(),
                    fast_start,
                };
                shared.post(shared.least_loaded(), message);
            }
            Command::Admit { client, admitted } => {
                let place = Place::of(client);
                shared.post(place.worker, Message::Admit(place, admitted));
            }
            Command::Kick { client } => {
                let place = Place::of(client);
                shared.post(place.worker, Message::Kick(place));
            }
            Command::Stop {
                reconnect_in_ms,
                try_for_ms,
            } => {
                let farewell: Arc<[u8]> = restarting_frame(reconnect_in_ms, try_for_ms).into();
                for worker in 0..shared.mailboxes.len() {
                    shared.post(worker as u8, Message::Stop(farewell.clone()));
                }
            }
        }
        Ok(())
    }

    /// Drain the waiting events; never blocks.
    pub fn poll(&self) -> Vec<u8> {
        encode_events(&self.shared.events.take())
    }

    /// Counters now.
    pub fn snapshot(&self) -> Vec<u8> {
        encode_snapshot(&self.shared.snapshot())
    }

    /// Close every connection and stop the threads. Idempotent.
    pub fn close(&self) {
        for worker in 0..self.shared.mailboxes.len() {
            self.shared.post(worker as u8, Message::Quit);
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl AsRawFd for Relay {
    /// Readable while events wait.
    fn as_raw_fd(&self) -> RawFd {
        self.shared.events.fd().as_raw_fd()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.close();
    }
}

/// Take a descriptor over from Python. No thread may ever wait for it alone.
fn own(fd: i32) -> Result<OwnedFd, EngineError> {
    if fd < 0 {
        return Err(MalformedSeam(format!("{fd} is no descriptor")).into());
    }
    // SAFETY: Python detached it from its object before it told the number, so nothing else
    // closes it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::ioctl_fionbio(&fd, true).map_err(io::Error::from)?;
    Ok(fd)
}
