//! Relays that let us in by WebSocket only: remembered, so that a middlebox which swallows the
//! native upgrade costs its time once and not at every connection (as in RFC 8305 §9.1).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use warren_core::seam::RelayNode;

/// The native upgrade is tried again after so long.
const KEPT: Duration = Duration::from_secs(3600);
const MAX_KEPT: usize = 64;

/// What is known of the network that this machine is in now; cleared with every change of it.
#[derive(Default)]
pub(super) struct Detours(Mutex<HashMap<String, Instant>>);

impl Detours {
    fn kept(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a relay is to be entered by WebSocket at once.
    pub(super) fn knows(&self, node: &RelayNode, now: Instant) -> bool {
        self.kept()
            .get(&key(node))
            .is_some_and(|&until| now < until)
    }

    /// Takes that the native upgrade was turned away and WebSocket was not.
    pub(super) fn note(&self, node: &RelayNode, now: Instant) {
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        // One that is known already is not kept longer for having worked once more.
        kept.entry(key(node)).or_insert(now + KEPT);
    }

    /// Takes that WebSocket does not lead there any more.
    pub(super) fn forget(&self, node: &RelayNode) {
        self.kept().remove(&key(node));
    }

    pub(super) fn clear(&self) {
        self.kept().clear();
    }
}

/// Another address or proxy is another way.
fn key(node: &RelayNode) -> String {
    let proxy = node.proxy.as_deref().unwrap_or("");
    format!("{} {} {proxy}", node.server_name, node.addrs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(addr: &str, proxy: Option<&str>) -> RelayNode {
        RelayNode {
            addrs: vec![addr.to_owned()],
            server_name: "relay.test".to_owned(),
            cert_sha256: None,
            plain: false,
            insecure: false,
            proxy: proxy.map(str::to_owned),
        }
    }

    #[test]
    fn a_detour_is_kept_for_a_while_and_for_its_way_only() {
        let (detours, now) = (Detours::default(), Instant::now());
        let relay = node("192.0.2.1:443", None);
        assert!(!detours.knows(&relay, now));
        detours.note(&relay, now);
        detours.note(&relay, now + KEPT / 2);
        assert!(detours.knows(&relay, now + KEPT / 2));
        assert!(!detours.knows(&relay, now + KEPT), "tried natively again");
        assert!(!detours.knows(&node("192.0.2.1:443", Some("192.0.2.9:80")), now));
        assert!(!detours.knows(&node("192.0.2.2:443", None), now));
        detours.forget(&relay);
        assert!(!detours.knows(&relay, now));
        for number in 0..200 {
            detours.note(&node(&format!("192.0.2.1:{number}"), None), now);
        }
        assert!(detours.kept().len() <= MAX_KEPT);
        detours.clear();
        assert!(detours.kept().is_empty());
    }
}
