//! When to try a relay again: at once, soon, and then ever less often, up to 5 s.

use std::time::Duration;

/// A connection that lasted so long was a good one: its loss starts the backoff anew.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// A relay may ask for no longer pause than this.
const LONGEST: Duration = Duration::from_secs(5);
/// For so long (10 minutes) the pause stays at 1 s at most, so that a relay that returns is in
/// use within 2 s. It costs a lone packet a second; what comes after it is for the battery.
const BRISK_ATTEMPTS: u32 = 600;

/// The pause before the next attempt.
#[derive(Default)]
pub(super) struct Backoff {
    attempt: u32,
    asked: Option<Duration>,
}

impl Backoff {
    /// A connection ended after `lasted`; `restart` is what the relay announced, if it did:
    /// come back in, and go on trying for.
    pub(super) fn ended(&mut self, lasted: Duration, restart: Option<(Duration, Duration)>) {
        if lasted >= GOOD_AFTER || restart.is_some() {
            self.attempt = 0;
        }
        self.asked = restart.map(|(pause, _)| pause.min(LONGEST));
    }

    /// How long to wait now. Each delay is varied, so that the clients of a relay that comes
    /// back do not come all at once.
    pub(super) fn next_delay(&mut self) -> Duration {
        let base = match self.attempt {
            0 => Duration::ZERO,
            1 => Duration::from_millis(250),
            2 => Duration::from_millis(500),
            3..BRISK_ATTEMPTS => Duration::from_secs(1),
            _ => LONGEST,
        };
        self.attempt = self.attempt.saturating_add(1);
        let mut random = [0; 1];
        let spread = getrandom::fill(&mut random).map_or(0, |()| u32::from(random[0]));
        // 60 to 100 per cent of the base
        self.asked.take().unwrap_or(base) * (384 + spread) / 640
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_then_slower_and_never_beyond_five_seconds() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
        let mut total = Duration::ZERO;
        for _ in 0..BRISK_ATTEMPTS + 40 {
            let delay = backoff.next_delay();
            assert!(!delay.is_zero() && delay <= LONGEST);
            assert!(total > Duration::from_secs(300) || delay <= Duration::from_secs(1));
            total += delay;
        }
        assert!(
            backoff.next_delay() >= Duration::from_secs(3),
            "slow at last"
        );
        backoff.ended(Duration::from_secs(1), None);
        assert!(
            backoff.next_delay() >= Duration::from_secs(3),
            "a short life is no success"
        );
        backoff.ended(GOOD_AFTER, None);
        assert_eq!(backoff.next_delay(), Duration::ZERO);
        backoff.ended(
            GOOD_AFTER,
            Some((Duration::from_secs(60), Duration::from_secs(9))),
        );
        assert!(backoff.next_delay() >= Duration::from_secs(3));
        assert!(backoff.next_delay() < Duration::from_secs(1));
    }
}
