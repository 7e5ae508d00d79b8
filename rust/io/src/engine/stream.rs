//! A stream to a TURN server (RFC 8656 §2.1): a thread that dials, writes what waits, and takes
//! what comes the way of datagrams.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use warren_core::hop::SocketRef;
use warren_core::seam::{Event, RelayNode};
use warren_core::turn_stream::TurnCutter;

use super::drops::Drop;
use super::inbound::Inbound;
use super::shared::Shared;
use crate::derp::{DialedStream, Ready, dial_stream, wait, words};
use crate::udp::{Message, StreamQueue};

/// An idle stream's thread looks this often whether the engine is still there.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Opens a stream as socket group `group`; `StreamState` tells what became of it.
pub(crate) fn open(shared: &Arc<Shared>, group: u32, addr: SocketAddr, to: RelayNode) {
    let failed = |error: &io::Error| told(shared, group, false, error.to_string());
    if shared.groups.has(SocketRef { group, index: 0 }) {
        let text = format!("socket group {group} is open already");
        return failed(&io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    let queue = match shared.streams.open(group) {
        Ok(queue) => queue,
        Err(error) => return failed(&error),
    };
    let (weak, inner) = (Arc::downgrade(shared), queue.clone());
    let body = move || run(&weak, group, addr, &to, &inner);
    let spawned = std::thread::Builder::new()
        .name(format!("warren-turn-{group}"))
        .spawn(body);
    if let Err(error) = spawned {
        shared.streams.ended(&queue);
        failed(&error);
    }
}

fn told(shared: &Shared, group: u32, open: bool, error: String) {
    shared.event(Event::StreamState { group, open, error });
}

/// The stream's thread, from dialling to its end.
fn run(
    shared: &Weak<Shared>,
    group: u32,
    addr: SocketAddr,
    to: &RelayNode,
    queue: &Arc<StreamQueue>,
) {
    let ended = match dial_stream(to, queue.wake(), &|| queue.is_closed()) {
        Ok(stream) => {
            if let Some(shared) = shared.upgrade() {
                told(&shared, group, true, String::new());
            }
            carry(shared, SocketRef { group, index: 0 }, addr, stream, queue)
                .err()
                .map(|error| words(&error))
        }
        Err(error) => error,
    };
    if let Some(shared) = shared.upgrade() {
        shared.streams.ended(queue);
        if let Some(error) = ended {
            told(
                &shared,
                group,
                false,
                error.replace("the relay", "the server"),
            );
        }
    }
}

/// Until it is closed: `Ok` by us, an error by the other end or by what it sent.
fn carry(
    shared: &Weak<Shared>,
    socket: SocketRef,
    addr: SocketAddr,
    mut stream: DialedStream,
    queue: &StreamQueue,
) -> io::Result<()> {
    let join_udp = shared.upgrade().is_some_and(|shared| shared.joins_udp());
    let mut inbound = Inbound::new(join_udp, 0);
    let mut cutter = TurnCutter::default();
    let mut arena = Vec::new();
    let mut messages = Vec::new();
    loop {
        if !stream.is_blocked() {
            let waiting = queue.take();
            if !waiting.is_empty() {
                stream.queue(&waiting)?;
            }
            stream.flush()?;
        }
        if queue.is_closed() {
            stream.close();
            return Ok(());
        }
        let interest = Some((stream.fd(), true, stream.is_blocked()));
        let Ready { readable, writable } =
            wait(interest, queue.wake(), Instant::now() + LOOK_EVERY)?;
        if writable {
            stream.flush()?;
        }
        if !readable {
            continue;
        }
        let mut cut = Ok(());
        let received = stream.receive(&mut |bytes| {
            if cut.is_ok() {
                cut = cutter.receive_untrusted(bytes, |message| {
                    messages.push(Message {
                        source: addr,
                        start: arena.len(),
                        len: message.len(),
                        segment: message.len(),
                    });
                    arena.extend_from_slice(message);
                });
            }
        });
        let Some(shared) = shared.upgrade() else {
            return Ok(());
        };
        inbound.batch(&shared, socket, &mut arena, &messages, shared.clock.now());
        arena.clear();
        messages.clear();
        if let Err(error) = cut {
            shared.drops.count(Drop::TurnStream);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        received?;
    }
}
