//! How long a sender is held for one slow client: less with each that has just proved dead, so
//! that many of them cost it little more than one.

use std::time::{Duration, Instant};

/// Clients that proved dead so long ago no longer count.
const MEMORY: Duration = Duration::from_secs(1);
/// A client that reads is served within this time, whatever has been with others.
const LEAST: Duration = Duration::from_millis(2);
const MOST_HALVINGS: u32 = 6;

/// A sender's patience with its slow peers.
#[derive(Debug, Default)]
pub struct Patience {
    lost: u32,
    lost_at: Option<Instant>,
}

impl Patience {
    /// How long to hold the sender now; `most` where nothing speaks against it.
    pub fn hold(&self, now: Instant, most: Duration) -> Duration {
        let recent = self
            .lost_at
            .is_some_and(|at| now.saturating_duration_since(at) < MEMORY);
        if !recent {
            return most;
        }
        (most / (1 << self.lost.min(MOST_HALVINGS))).max(LEAST.min(most))
    }

    /// The sender was held in vain.
    pub fn lose(&mut self, now: Instant) {
        let recent = self
            .lost_at
            .is_some_and(|at| now.saturating_duration_since(at) < MEMORY);
        self.lost = if recent { self.lost + 1 } else { 1 };
        self.lost_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_dead_clients_cost_little_more_than_one() {
        let (mut patience, most) = (Patience::default(), Duration::from_millis(100));
        let began = Instant::now();
        let mut now = began;
        for _ in 0..100 {
            now += patience.hold(now, most);
            patience.lose(now);
        }
        assert!(now - began < 5 * most, "{:?}", now - began);
        assert!(patience.hold(now, most) >= LEAST);
        assert_eq!(patience.hold(now + MEMORY, most), most, "it is forgotten");
        patience.lose(now + MEMORY);
        assert_eq!(patience.hold(now + MEMORY, most), most / 2);
        assert_eq!(Patience::default().hold(now, most), most);
        assert_eq!(patience.hold(now, Duration::ZERO), Duration::ZERO);
    }
}
