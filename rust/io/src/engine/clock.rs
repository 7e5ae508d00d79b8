//! The only place where the engine reads clocks and draws entropy.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use warren_core::clock::{Entropy, Now};

/// Reads both clocks, once a batch.
///
/// Monotonic time counts while the machine sleeps (CLOCK_BOOTTIME), so that leases and sessions
/// from before a sleep have lapsed after it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock;

impl Clock {
    pub(crate) fn now(self) -> Now {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: one timespec that lives through the call; the clock exists since Linux 2.6.39.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
        let mono_ms = time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000;
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Now {
            mono_ms: mono_ms.max(1),
            wall,
        }
    }
}

/// The kernel's random bytes.
pub(crate) struct SystemEntropy(SystemRandom);

impl SystemEntropy {
    pub(crate) fn new() -> Self {
        Self(SystemRandom::new())
    }
}

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        // getrandom fails only where the system call is missing or forbidden; going on with
        // guessable keys would be worse than stopping.
        self.0.fill(out).expect("the kernel gives random bytes");
    }
}
