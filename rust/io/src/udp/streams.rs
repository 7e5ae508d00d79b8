//! Streams to TURN servers, as groups of one socket each: what waits to be written to them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use warren_core::hop::SocketRef;
use warren_core::turn_stream;

use crate::derp::Wake;

/// A node has one allocation; another stream is being opened or closed beside it.
const MAX_STREAMS: usize = 4;
/// Bytes that wait for a stream at most; more would only be delay.
const MAX_WAITING: usize = 256 << 10;

/// Messages on their way to one stream. It never blocks: what it has no room for is dropped.
pub struct StreamQueue {
    waiting: Mutex<Vec<u8>>,
    wake: Wake,
    closed: AtomicBool,
}

impl StreamQueue {
    fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            wake: Wake::new()?,
            closed: AtomicBool::new(false),
        })
    }

    /// Queues one message; false when there is no room, or when it is none of TURN's.
    pub fn push(&self, message: &[u8]) -> bool {
        let mut waiting = self.waiting.lock();
        let idle = waiting.is_empty();
        let taken = waiting.len() + message.len() <= MAX_WAITING
            && turn_stream::append(&mut waiting, message);
        if idle && taken {
            self.wake.wake();
        }
        taken
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.waiting.lock())
    }

    pub(crate) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Whether the stream is to end.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.wake.wake();
    }
}

/// The streams that there are. Changed under a lock, read by any thread.
#[derive(Default)]
pub struct Streams {
    table: ArcSwap<HashMap<u32, Arc<StreamQueue>>>,
}

impl Streams {
    /// Makes room for a stream as `group`.
    ///
    /// # Errors
    /// One sentence: the group is open, too many are, or the kernel gives no descriptor.
    pub fn open(&self, group: u32) -> io::Result<Arc<StreamQueue>> {
        let table = self.table.load();
        if table.contains_key(&group) || table.len() >= MAX_STREAMS {
            let text = format!("stream {group} is open already, or {MAX_STREAMS} are");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        let queue = Arc::new(StreamQueue::new()?);
        self.table.rcu(|old| {
            let mut table = HashMap::clone(old);
            table.insert(group, queue.clone());
            table
        });
        Ok(queue)
    }

    /// Closes a stream; one that is not open is closed.
    pub fn close(&self, group: u32) {
        if let Some(queue) = self.table.load().get(&group) {
            queue.close();
        }
        self.retain(|other, _| other != group);
    }

    /// Forgets a stream that ended by itself.
    pub(crate) fn ended(&self, ended: &Arc<StreamQueue>) {
        self.retain(|_, queue| !Arc::ptr_eq(queue, ended));
    }

    /// Closes every stream.
    pub fn close_all(&self) {
        for queue in self.table.load().values() {
            queue.close();
        }
        self.retain(|_, _| false);
    }

    fn retain(&self, keep: impl Fn(u32, &Arc<StreamQueue>) -> bool) {
        self.table.rcu(|old| {
            let mut table = HashMap::clone(old);
            table.retain(|group, queue| keep(*group, queue));
            table
        });
    }

    /// Whether this is a stream that is open.
    #[must_use]
    pub fn has(&self, socket: SocketRef) -> bool {
        !socket.is_main() && self.table.load().contains_key(&socket.group)
    }

    pub(super) fn get(&self, socket: SocketRef) -> Option<Arc<StreamQueue>> {
        if socket.is_main() {
            return None;
        }
        self.table.load().get(&socket.group).cloned()
    }
}
