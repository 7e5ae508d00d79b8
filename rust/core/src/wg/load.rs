//! When initiations come faster than they should be answered, and who asks too often
//! (whitepaper §5.3; the rates are wireguard-go's: 20 a second, 5 at once, for each address).

use std::collections::HashMap;
use std::net::IpAddr;

use super::Source;

/// How long "under load" lasts after the last second that was.
const LOAD_MS: u64 = 1_000;
/// One token every 50 ms, five at most.
const TOKEN_MS: u64 = 50;
const BURST: u64 = 5;
/// Sources remembered; beyond it the idle ones go, and then newcomers wait.
const MAX_SOURCES: usize = 4_096;

/// Counts initiations, and tells when cookies are due.
#[derive(Debug)]
pub(super) struct Load {
    limit_per_s: u32,
    second_began_ms: u64,
    in_second: u32,
    until_ms: u64,
    /// Source → when its bucket was (or will be) full.
    sources: HashMap<IpAddr, u64>,
}

impl Load {
    pub(super) fn new(limit_per_s: u32) -> Self {
        Self {
            limit_per_s,
            second_began_ms: 0,
            in_second: 0,
            until_ms: 0,
            sources: HashMap::new(),
        }
    }

    /// Count one initiation with a right mac1; whether we are under load.
    pub(super) fn count(&mut self, mono_ms: u64) -> bool {
        if mono_ms.saturating_sub(self.second_began_ms) >= 1_000 {
            self.second_began_ms = mono_ms;
            self.in_second = 0;
        }
        self.in_second = self.in_second.saturating_add(1);
        if self.in_second > self.limit_per_s {
            self.until_ms = mono_ms + LOAD_MS;
        }
        mono_ms < self.until_ms
    }

    /// Under load, with its address proved: may this source be answered now?
    pub(super) fn admit(&mut self, src: &Source, mono_ms: u64) -> bool {
        let key = bucket_of(src);
        if !self.sources.contains_key(&key) && self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, full_ms| *full_ms > mono_ms);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let full_ms = self.sources.entry(key).or_insert(mono_ms);
        let after = (*full_ms).max(mono_ms) + TOKEN_MS;
        if after > mono_ms + BURST * TOKEN_MS {
            return false;
        }
        *full_ms = after;
        true
    }
}

/// One bucket for an IPv4 address, an IPv6 /64 (one customer), or a key behind a relay.
fn bucket_of(src: &Source) -> IpAddr {
    match src {
        Source::Udp(hop) => match hop.addr.ip() {
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & (u128::MAX << 64)).into()),
            v4 => v4,
        },
        Source::Relay { peer, .. } => {
            let mut half = [0; 16];
            half.copy_from_slice(&peer.0[..16]);
            IpAddr::V6(half.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_begins_past_the_limit_and_passes() {
        let mut load = Load::new(10);
        assert!((0..10).all(|_| !load.count(5_000)));
        assert!(load.count(5_000));
        assert!(load.count(5_999));
        assert!(!load.count(7_100));
    }

    #[test]
    fn a_source_gets_its_share() {
        let mut load = Load::new(10);
        let src = |text: &str| Source::Udp(text.parse::<std::net::SocketAddr>().unwrap().into());
        let udp = |n: u32| src(&format!("{}:1", std::net::Ipv4Addr::from(n)));
        let (a, b) = (src("192.0.2.1:1"), src("192.0.2.2:1"));
        assert_eq!((0..20).filter(|_| load.admit(&a, 1_000)).count(), 5);
        assert!(load.admit(&b, 1_000));
        assert!(load.admit(&a, 1_050));
        assert!(!load.admit(&a, 1_050));
        for n in 0..10_000_u32 {
            load.admit(&udp(n), 1_060);
        }
        assert!(load.sources.len() <= MAX_SOURCES);
        assert!(
            load.admit(&src("[2001:db8::1]:1"), 10_000),
            "idle sources make room"
        );
    }
}
