//! The replay window: a ring of bit blocks, so that moving it clears whole words (RFC 6479).

const BLOCKS: usize = 128;
const BLOCK_BITS: u64 = 64;
/// How far behind the newest counter an unseen one is still taken. One block is always being
/// cleared, hence 8,192 less 64.
pub(super) const WINDOW: u64 = (BLOCKS as u64 - 1) * BLOCK_BITS;

/// Counters seen by one session.
#[derive(Debug)]
pub(super) struct Window {
    /// One more than the greatest counter seen.
    next: u64,
    blocks: [u64; BLOCKS],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            next: 0,
            blocks: [0; BLOCKS],
        }
    }
}

impl Window {
    /// Whether `counter` is new and not too old. Asked before the (dear) authentication.
    #[must_use]
    pub(super) fn may_take(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        if self.next - counter > WINDOW {
            return false;
        }
        let (block, bit) = place(counter);
        self.blocks[block] & bit == 0
    }

    /// Mark `counter` as seen, after its packet was authenticated. Counters stay far below
    /// `u64::MAX` (the session refuses them).
    pub(super) fn take(&mut self, counter: u64) {
        if counter >= self.next {
            let newest = self.next.saturating_sub(1) / BLOCK_BITS;
            let advance = (counter / BLOCK_BITS - newest).min(BLOCKS as u64);
            for step in 1..=advance {
                self.blocks[((newest + step) % BLOCKS as u64) as usize] = 0;
            }
            self.next = counter + 1;
        }
        let (block, bit) = place(counter);
        self.blocks[block] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    (
        (counter / BLOCK_BITS % BLOCKS as u64) as usize,
        1 << (counter % BLOCK_BITS),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn offer(window: &mut Window, counter: u64) -> bool {
        let fresh = window.may_take(counter);
        if fresh {
            window.take(counter);
        }
        fresh
    }

    #[test]
    fn edges_of_the_window() {
        let mut window = Window::default();
        assert!(offer(&mut window, 0));
        assert!(!offer(&mut window, 0));
        assert!(offer(&mut window, WINDOW));
        assert!(offer(&mut window, 1), "exactly the window behind");
        assert!(offer(&mut window, WINDOW + 1));
        assert!(!offer(&mut window, 1));
        assert!(offer(&mut window, 1 << 60));
        assert!(!offer(&mut window, (1 << 60) - WINDOW));
        assert!(offer(&mut window, (1 << 60) + 1 - WINDOW));
    }

    #[test]
    fn agrees_with_a_set() {
        let (mut window, mut seen, mut newest) = (Window::default(), HashSet::new(), 0_u64);
        let mut state = 7_u64;
        for _ in 0..200_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let jump = state >> 33;
            let counter = match jump % 100 {
                0 => newest + jump % 20_000,
                1..=60 => newest + 1,
                _ => newest.saturating_sub(jump % 9_000),
            };
            let expected = newest.wrapping_add(1).saturating_sub(counter) <= WINDOW
                && !seen.contains(&counter);
            assert_eq!(
                offer(&mut window, counter),
                expected,
                "{counter} at {newest}"
            );
            seen.insert(counter);
            newest = newest.max(counter);
        }
    }
}
