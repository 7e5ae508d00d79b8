//! What a peer relay's server does with packets: VNIs that go from one address to another
//! unopened (PROTOCOL §5.12), and the TURN servers that may send us channel data.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use warren_core::seam::ForwardStats;

/// The most sessions that are forwarded.
pub(crate) const MAX_FORWARDS: usize = 4_096;
/// The most TURN servers that are listened to.
pub(crate) const MAX_TURNS: usize = 64;

/// One session: the two addresses between which its datagrams go.
#[derive(Debug)]
pub(crate) struct Forward {
    ends: [SocketAddr; 2],
    packets: AtomicU64,
    bytes: AtomicU64,
    /// When each end was last heard, 0 for never.
    heard_ms: [AtomicU64; 2],
}

impl Forward {
    /// Where a datagram from `source` goes; None for a stranger's.
    pub(crate) fn across(
        &self,
        source: SocketAddr,
        len: usize,
        mono_ms: u64,
    ) -> Option<SocketAddr> {
        let from = self.ends.iter().position(|end| *end == source)?;
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.heard_ms[from].store(mono_ms, Ordering::Relaxed);
        Some(self.ends[1 - from])
    }
}

/// The sessions by VNI. Changed by the control thread, read by those that carry packets.
#[derive(Debug, Default)]
pub(crate) struct Forwards(ArcSwap<HashMap<u32, Arc<Forward>>>);

impl Forwards {
    /// Sets, replaces or (None) removes a session. False when there are too many.
    ///
    /// A session whose ends stay keeps its counters.
    pub(crate) fn set(&self, vni: u32, ends: Option<[SocketAddr; 2]>) -> bool {
        let mut table = HashMap::clone(&self.0.load());
        match ends {
            None => {
                table.remove(&vni);
            }
            Some(ends) if table.get(&vni).is_some_and(|old| old.ends == ends) => return true,
            Some(_) if table.len() >= MAX_FORWARDS && !table.contains_key(&vni) => return false,
            Some(ends) => {
                let forward = Forward {
                    ends,
                    packets: AtomicU64::new(0),
                    bytes: AtomicU64::new(0),
                    heard_ms: Default::default(),
                };
                table.insert(vni, forward.into());
            }
        }
        self.0.store(table.into());
        true
    }

    pub(crate) fn get(&self, vni: u32) -> Option<Arc<Forward>> {
        self.0.load().get(&vni).cloned()
    }

    /// Counters of every session, by VNI.
    pub(crate) fn stats(&self, mono_ms: u64) -> Vec<ForwardStats> {
        let table = self.0.load();
        let ago = |mark: &AtomicU64| match mark.load(Ordering::Relaxed) {
            0 => None,
            then => Some(mono_ms.saturating_sub(then)),
        };
        let mut stats: Vec<_> = table
            .iter()
            .map(|(vni, forward)| ForwardStats {
                vni: *vni,
                packets: forward.packets.load(Ordering::Relaxed),
                bytes: forward.bytes.load(Ordering::Relaxed),
                a_ago_ms: ago(&forward.heard_ms[0]),
                b_ago_ms: ago(&forward.heard_ms[1]),
            })
            .collect();
        stats.sort_unstable_by_key(|stats| stats.vni);
        stats
    }
}

/// The TURN servers of ours: nobody else's TURN messages and channel data are taken.
#[derive(Debug, Default)]
pub(crate) struct Turns(ArcSwap<Vec<SocketAddr>>);

impl Turns {
    /// Takes a server in or out. False when there are too many.
    pub(crate) fn set(&self, server: SocketAddr, on: bool) -> bool {
        let mut servers = Vec::clone(&self.0.load());
        servers.retain(|known| *known != server);
        if on {
            if servers.len() >= MAX_TURNS {
                return false;
            }
            servers.push(server);
        }
        self.0.store(servers.into());
        true
    }

    pub(crate) fn has(&self, server: SocketAddr) -> bool {
        self.0.load().contains(&server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u32) -> SocketAddr {
        (std::net::Ipv4Addr::from(n), 9).into()
    }

    #[test]
    fn only_the_two_ends_are_carried() {
        let forwards = Forwards::default();
        assert!(forwards.set(5, Some([at(1), at(2)])));
        let forward = forwards.get(5).unwrap();
        assert_eq!(forward.across(at(1), 100, 50), Some(at(2)));
        assert_eq!(forward.across(at(2), 10, 60), Some(at(1)));
        assert_eq!(forward.across(at(3), 1, 70), None);
        assert!(forwards.set(5, Some([at(1), at(2)])), "as it was");
        let stats = &forwards.stats(100)[0];
        assert_eq!((stats.packets, stats.bytes), (2, 110));
        assert_eq!((stats.a_ago_ms, stats.b_ago_ms), (Some(50), Some(40)));
        assert!(forwards.set(5, Some([at(1), at(3)])));
        assert_eq!(forwards.stats(100)[0].packets, 0);
        assert!(forwards.set(5, None));
        assert!(forwards.get(5).is_none());
    }

    #[test]
    fn tables_are_bounded() {
        let (forwards, turns) = (Forwards::default(), Turns::default());
        let set = (0..5_000).filter(|n| forwards.set(*n, Some([at(1), at(2)])));
        assert_eq!(set.count(), MAX_FORWARDS);
        assert!(forwards.set(1, Some([at(3), at(4)])), "a known one changes");
        assert_eq!(
            (0..100).filter(|n| turns.set(at(*n), true)).count(),
            MAX_TURNS
        );
        assert!(turns.set(at(1), true) && turns.has(at(1)));
        assert!(turns.set(at(1), false) && !turns.has(at(1)));
    }
}
