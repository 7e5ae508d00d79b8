//! Connections to relays (DERP, PROTOCOL §4): one stream and one thread per region in use.
//!
//! ```text
//! packet path --send--> queue (bounded, disco first) --+
//!                                                      region thread --- TLS/TCP --- relay
//! engine <--on_packet, on_event------------------------+
//! ```
//!
//! The home region is kept connected always; another is connected when something is sent there
//! and closes after 60 s without packets. A thread sleeps in `poll` on its socket and its wake;
//! an idle pool costs nothing. The protocol itself is in `warren_core::derp`.

mod backoff;
mod detours;
mod dial;
mod pace;
mod queue;
mod region;
mod room;
mod stream;
mod tls;
mod wake;
mod websocket;

#[cfg(test)]
mod test_relay;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use warren_core::derp::RawKey;
use warren_core::seam::{Event, RelayNode};

use crate::ports::{RelayPort, RelaySink};
use detours::Detours;
use region::{Patience, Region};
pub(crate) use room::{encode_missing, encrypt_missing};
pub(crate) use stream::{Stream as DialedStream, words};
use tls::Judge;
pub(crate) use wake::{Ready, Wake, wait};

/// Regions that may be defined; ids of the wire have 16 bits, real maps some dozens.
const MAX_REGIONS: usize = 1024;

/// Dials a stream that is no relay's, by the same TCP, proxy and TLS.
///
/// # Errors
/// One sentence why there is none; None when `called_off` said so after a wake-up.
pub(crate) fn dial_stream(
    to: &RelayNode,
    wake: &Wake,
    called_off: &dyn Fn() -> bool,
) -> Result<DialedStream, Option<String>> {
    let dialer = dial::Dialer {
        judge: &Judge::new(),
        detours: &Detours::default(),
        wake,
        called_off,
        private: RawKey::default(),
    };
    dialer.open_stream(to).map_err(|failure| match failure {
        dial::Failure::CalledOff => None,
        dial::Failure::Failed(text) | dial::Failure::Turned(text) => Some(text),
    })
}

/// All relay regions of a node.
pub struct RelayPool {
    regions: RwLock<HashMap<u16, Arc<Region>>>,
    wanted: Mutex<Wanted>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    judge: Arc<Judge>,
    sink: Arc<dyn RelaySink>,
    patience: Patience,
}

#[derive(Default)]
struct Wanted {
    private: Option<RawKey>,
    home: u16,
    closed: bool,
}

impl RelayPool {
    /// A pool without regions; what comes in goes to `sink`, from the threads of the regions.
    pub fn new(sink: Arc<dyn RelaySink>) -> Self {
        Self::with_patience(sink, Patience::default())
    }

    fn with_patience(sink: Arc<dyn RelaySink>, patience: Patience) -> Self {
        Self {
            patience,
            regions: RwLock::default(),
            wanted: Mutex::default(),
            threads: Mutex::default(),
            judge: Arc::new(Judge::new()),
            sink,
        }
    }

    fn region(&self, id: u16) -> Option<Arc<Region>> {
        self.regions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    fn all(&self) -> Vec<(u16, Arc<Region>)> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions
            .iter()
            .map(|(id, region)| (*id, region.clone()))
            .collect()
    }

    fn adopt(&self, thread: Option<JoinHandle<()>>) {
        if let Some(thread) = thread {
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        }
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RelayPort for RelayPool {
    fn send(&self, region: u16, dst: &RawKey, packet: &[u8]) -> bool {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = regions.get(&region) else {
            return false;
        };
        let (queued, thread) = found.send(dst, packet);
        drop(regions);
        self.adopt(thread);
        queued
    }

    fn wait_room(&self, region: u16, max: Duration) -> bool {
        self.region(region)
            .is_some_and(|region| region.wait_room(max))
    }

    fn set_region(&self, id: u16, nodes: Vec<RelayNode>) {
        let wanted = self.wanted();
        if wanted.closed {
            return;
        }
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        if nodes.is_empty() {
            if let Some(region) = regions.remove(&id) {
                region.forget();
            }
            return;
        }
        let region = match regions.get(&id) {
            Some(region) => region.clone(),
            None if regions.len() >= MAX_REGIONS => return,
            None => match Region::new(id, self.judge.clone(), self.sink.clone(), self.patience) {
                Ok(region) => {
                    region.set_private(wanted.private);
                    regions.insert(id, region.clone());
                    region
                }
                Err(error) => {
                    let error = format!("cannot prepare a relay region: {error}");
                    drop(regions);
                    self.sink.on_event(Event::RegionState {
                        region: id.into(),
                        connected: false,
                        error,
                        health: String::new(),
                    });
                    return;
                }
            },
        };
        drop(regions);
        region.set_nodes(nodes);
        let thread = if wanted.home == id {
            region.set_home(true)
        } else {
            None
        };
        drop(wanted);
        self.adopt(thread);
    }

    fn set_home(&self, home: u16) {
        let mut wanted = self.wanted();
        if wanted.closed {
            return;
        }
        wanted.home = home;
        // The new home first: the relay of the old one is told that it is not home any more
        // while the new one is already being connected.
        for (id, region) in self.all() {
            self.adopt(region.set_home(id == home));
        }
    }

    fn set_identity(&self, private_key: RawKey) {
        let mut wanted = self.wanted();
        if wanted.closed {
            return;
        }
        wanted.private = Some(private_key);
        for (id, region) in self.all() {
            region.set_private(Some(private_key));
            if id == wanted.home {
                self.adopt(region.set_home(true));
            }
        }
    }

    fn nudge(&self) {
        for (_, region) in self.all() {
            region.nudge();
        }
    }

    fn regions(&self) -> Vec<(u16, bool)> {
        self.all()
            .iter()
            .filter_map(|(id, region)| Some((*id, region.status()?)))
            .collect()
    }

    fn close(&self) {
        self.wanted().closed = true;
        let regions =
            std::mem::take(&mut *self.regions.write().unwrap_or_else(PoisonError::into_inner));
        for region in regions.values() {
            region.forget();
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let own = std::thread::current().id();
        for thread in threads
            .into_iter()
            .filter(|thread| thread.thread().id() != own)
        {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for RelayPool {
    fn drop(&mut self) {
        self.close();
    }
}
