//! A relay may set a rate (ServerInfo, PROTOCOL §4.2): a token bucket that the sender keeps.

use std::time::{Duration, Instant};

/// What may be sent when. Without a rate it never holds anything back.
pub(super) struct Pace {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Pace {
    /// A full bucket of `burst` bytes that fills with `rate` bytes a second; a rate of 0 is none.
    pub(super) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let burst = burst.max(1) as f64;
        Self {
            rate: rate as f64,
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// Note that `bytes` were sent. A batch may overdraw the bucket; it is paid back by waiting.
    pub(super) fn spend(&mut self, bytes: usize, now: Instant) {
        if self.rate > 0.0 {
            let filled = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
            self.tokens = (self.tokens + filled).min(self.burst) - bytes as f64;
            self.at = now;
        }
    }

    /// When the next batch may go, if it has to wait for a time.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        (self.rate > 0.0 && self.tokens < 0.0).then(|| {
            let seconds = (-self.tokens / self.rate).min(60.0);
            self.at + Duration::from_secs_f64(seconds)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_none_is_free() {
        let start = Instant::now();
        let mut free = Pace::new(0, 0, start);
        free.spend(1 << 30, start);
        assert_eq!(free.ready_at(), None);
        let mut pace = Pace::new(1000, 500, start);
        pace.spend(500, start);
        assert_eq!(pace.ready_at(), None, "the burst is free");
        pace.spend(2000, start);
        assert_eq!(pace.ready_at(), Some(start + Duration::from_secs(2)));
        pace.spend(0, start + Duration::from_secs(9));
        assert_eq!(pace.ready_at(), None);
        pace.spend(1500, start + Duration::from_secs(9));
        assert_eq!(pace.ready_at(), Some(start + Duration::from_secs(10)));
    }
}
