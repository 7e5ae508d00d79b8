//! What time brings: patience that ends, deadlines, KeepAlive.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use warren_core::derp::frames::{KEEP_ALIVE, PING, push_frame};

use super::conn::{Conn, End, Stage};
use super::shared::count;
use super::worker::Worker;

/// How long an ending connection may take to take what was written.
const GOODBYE: Duration = Duration::from_secs(2);
/// A guest whose socket takes nothing for so long is dropped.
const GUEST_STALL: Duration = Duration::from_secs(60);
const SWEEP_MOST: Duration = Duration::from_secs(1);
const SWEEP_LEAST: Duration = Duration::from_millis(10);

impl Worker {
    pub(super) fn give_up_holding(&mut self) {
        let now = self.desk.now;
        while let Some(Reverse((until, place))) = self.desk.held.peek().copied()
            && until <= now
        {
            self.desk.held.pop();
            let Some(conn) = self.find(place) else {
                continue;
            };
            if let Stage::Member(_, member) = &mut conn.stage
                && member.blocked.as_ref().is_some_and(|(_, at)| *at == until)
                && let Some((peer, _)) = member.blocked.take()
            {
                member.patience.lose(now);
                peer.outbox.lock().give_up(place.number());
                self.enqueue(place.slot);
            }
        }
    }

    pub(super) fn sweep(&mut self) {
        let config = &self.desk.shared.config;
        let shortest = [
            config.handshake_ms,
            config.keep_alive_ms,
            config.silence_ms,
            config.stall_ms,
        ];
        let shortest = Duration::from_millis(shortest.into_iter().min().unwrap_or_default());
        self.next_sweep = self.desk.now + (shortest / 4).clamp(SWEEP_LEAST, SWEEP_MOST);
        for listener in &mut self.listeners {
            listener.ready = true;
        }
        for slot in 0..self.conns.len() as u32 {
            self.with(slot, |worker, _, conn| worker.look_at(conn));
        }
    }

    pub(super) fn look_at(&mut self, conn: &mut Conn) -> Result<(), End> {
        let now = self.desk.now;
        let config = &self.desk.shared.config;
        let ms = Duration::from_millis;
        let late = |since: Instant, limit: Duration| now.saturating_duration_since(since) > limit;
        let blocked = conn.channel.is_blocked();
        let over = match &mut conn.stage {
            Stage::Head(_) | Stage::Login(_) | Stage::Asked { .. } => {
                late(conn.since, ms(config.handshake_ms))
            }
            Stage::Ending => late(conn.since, GOODBYE),
            Stage::Guest(_) => blocked && late(conn.progress, GUEST_STALL),
            Stage::Member(_, member) => {
                if blocked && late(conn.progress, ms(config.stall_ms)) {
                    count(&self.desk.counters().stalled_clients, 1);
                    return Err(End::Failed);
                }
                if member.keep_alive_at > now {
                    return Ok(());
                }
                if member.can_ack && late(member.heard, ms(config.silence_ms)) {
                    return Err(End::Failed);
                }
                let mut frames = Vec::new();
                push_frame(&mut frames, KEEP_ALIVE, &[]);
                if member.can_ack && late(member.heard, ms(config.keep_alive_ms / 2)) {
                    let mut data = [0; 8];
                    let _ = getrandom::fill(&mut data);
                    push_frame(&mut frames, PING, &[&data]);
                }
                member.tidy(&self.desk);
                let peer = member.peer.clone();
                member.keep_alive_at = self.keep_alive_at();
                self.desk.tell(&peer, &frames);
                false
            }
        };
        if over { Err(End::Failed) } else { Ok(()) }
    }

    pub(super) fn keep_alive_at(&self) -> Instant {
        let config = &self.desk.shared.config;
        let mut chance = [0; 4];
        // Without entropy all come at once: no harm, so no error.
        let _ = getrandom::fill(&mut chance);
        let share = f64::from(u32::from_ne_bytes(chance)) / f64::from(u32::MAX);
        let jitter_ms = config.keep_alive_jitter_ms as f64 * share;
        self.desk.now + Duration::from_millis(config.keep_alive_ms + jitter_ms as u64)
    }
}
