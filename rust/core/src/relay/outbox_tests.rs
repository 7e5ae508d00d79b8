//! Fairness, holding, dropping and bounds of the queues in front of one client.

use super::super::chunk::Budget;
use super::*;

const LIMITS: Limits = Limits {
    pair_bytes: 64 << 10,
    client_bytes: 256 << 10,
};
const PACKET: usize = 1000;
const FRAME: usize = HEADER_LEN + 32 + PACKET;

struct Desk {
    outbox: Outbox,
    pool: Pool,
    budget: std::sync::Arc<Budget>,
}

fn desk(limit: usize) -> Desk {
    let budget = Budget::new(limit);
    Desk {
        outbox: Outbox::new(LIMITS),
        pool: Pool::new(budget.clone()),
        budget,
    }
}

impl Desk {
    fn push(&mut self, sender: u8, number: u32) -> Pushed {
        let mut packet = vec![0; PACKET];
        packet[..4].copy_from_slice(&number.to_be_bytes());
        self.send(sender, &packet)
    }

    fn send(&mut self, sender: u8, packet: &[u8]) -> Pushed {
        let source = [sender; 32];
        self.outbox
            .push(sender.into(), &source, packet, &mut self.pool)
    }

    /// What about `budget` bytes are: sender and number of each packet; and who is released.
    fn take(&mut self, budget: usize) -> (Vec<(u8, u32)>, Vec<u64>) {
        let mut taken = Taken::default();
        self.outbox.take(budget, &mut taken);
        let mut packets = Vec::new();
        for chunk in taken.chunks.drain(..) {
            let mut rest = chunk.frames();
            while !rest.is_empty() {
                let size = HEADER_LEN + u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
                let number = u32::from_be_bytes(rest[37..41].try_into().unwrap());
                packets.push((rest[5], number));
                rest = &rest[size..];
            }
            self.pool.give_back(chunk);
        }
        (packets, taken.released)
    }
}

#[test]
fn order_is_kept_and_only_the_first_push_wakes() {
    let mut desk = desk(1 << 20);
    let wakes: Vec<bool> = (0..20).map(|n| desk.push(1, n).wake).collect();
    assert_eq!(wakes.iter().filter(|wake| **wake).count(), 1);
    assert!(wakes[0]);
    let (packets, released) = desk.take(1 << 20);
    assert_eq!(packets, (0..20).map(|n| (1, n)).collect::<Vec<_>>());
    assert!(released.is_empty());
    assert!(desk.push(1, 20).wake, "everything was taken");
}

#[test]
fn a_fat_sender_does_not_push_a_thin_one_out() {
    let mut desk = desk(1 << 20);
    for n in 0..60 {
        desk.push(1, n);
    }
    desk.push(2, 0);
    let (packets, _) = desk.take(40 << 10);
    assert!(packets.contains(&(2, 0)), "its turn comes after one chunk");
    // Two fat ones share by bytes, whatever the size of their packets.
    for _ in 0..60 {
        desk.push(3, 7);
        desk.send(4, &[0; 100]);
        desk.send(4, &[0; 900]);
    }
    let mut bytes = [0usize; 5];
    let (packets, _) = desk.take(80 << 10);
    for (sender, number) in packets {
        bytes[usize::from(sender)] += if number == 7 { FRAME } else { FRAME / 2 };
    }
    assert!(
        bytes[3].abs_diff(bytes[4]) <= 2 * QUANTUM as usize,
        "{bytes:?}"
    );
}

#[test]
fn a_full_queue_holds_its_sender_until_it_is_served() {
    let mut desk = desk(1 << 20);
    let mut sent = 0;
    while desk.push(1, sent).verdict == Verdict::Taken {
        sent += 1;
    }
    assert!((sent as usize + 1) * FRAME > LIMITS.pair_bytes);
    assert!((sent as usize) * FRAME <= LIMITS.pair_bytes);
    assert_eq!(
        desk.push(2, 0).verdict,
        Verdict::Taken,
        "others are not held"
    );
    let (_, released) = desk.take(20 << 10);
    assert!(released.is_empty(), "not below the low mark yet");
    let (_, released) = desk.take(1 << 20);
    assert_eq!(released, [1]);
    assert_eq!(desk.push(1, 99).verdict, Verdict::Taken);
    let (_, released) = desk.take(1 << 20);
    assert!(released.is_empty(), "once is enough");
}

#[test]
fn after_its_patience_the_oldest_are_dropped_and_service_makes_it_patient_again() {
    let mut desk = desk(1 << 20);
    let mut sent = 0;
    while desk.push(1, sent).verdict == Verdict::Taken {
        sent += 1;
    }
    desk.outbox.give_up(1);
    for n in 0..100 {
        let pushed = desk.push(1, sent + 1 + n);
        assert_eq!(pushed.verdict, Verdict::Taken);
        assert!(pushed.dropped >= 1, "one in, one out");
        assert!(desk.outbox.bytes() <= LIMITS.pair_bytes);
    }
    let (packets, released) = desk.take(1 << 20);
    assert!(released.is_empty(), "it was not held any more");
    assert_eq!(
        packets.last(),
        Some(&(1, sent + 100)),
        "the newest is there"
    );
    assert!(packets[0].1 > 50, "the oldest are gone");
    while desk.push(1, 0).verdict == Verdict::Taken {}
    assert_eq!(desk.push(1, 0).verdict, Verdict::Hold);
}

#[test]
fn many_senders_share_what_one_client_may_have() {
    let mut desk = desk(64 << 20);
    let mut held = 0;
    for round in 0..100 {
        for sender in 0..200 {
            if desk.push(sender, round).verdict == Verdict::Hold {
                held += 1;
                desk.outbox.give_up(sender.into());
            }
        }
    }
    assert_eq!(held, 200, "each once");
    assert!(desk.outbox.bytes() <= LIMITS.client_bytes + 200 * FRAME);
    let (packets, _) = desk.take(400 * FRAME);
    let senders: std::collections::HashSet<u8> = packets.iter().map(|(of, _)| *of).collect();
    assert_eq!(senders.len(), 200, "every one was served");
}

#[test]
fn disco_goes_first_and_no_sender_fills_its_places() {
    let mut desk = desk(1 << 20);
    let disco = |n: u8| [b"TS\xf0\x9f\x92\xac".as_slice(), &[n; 80]].concat();
    desk.push(1, 0);
    desk.send(2, &disco(1));
    let dropped: u32 = (0..100).map(|n| desk.send(3, &disco(n)).dropped).sum();
    assert_eq!(dropped as usize, 100 - URGENT_OF_ONE);
    let mut taken = Taken::default();
    desk.outbox.take(1, &mut taken);
    assert!(taken.chunks.is_empty());
    assert!(taken.first.windows(80).any(|window| window == [1; 80]));
    assert!(taken.first.windows(80).any(|window| window == [99; 80]));
    assert!(!taken.first.windows(80).any(|window| window == [50; 80]));
}

#[test]
fn notices_are_bounded() {
    let mut desk = desk(1 << 20);
    for _ in 0..100_000 {
        desk.outbox.tell(&[0; 13]);
    }
    let mut taken = Taken::default();
    desk.outbox.take(1, &mut taken);
    assert!(taken.first.len() <= NOTICES_BYTES);
    assert!(
        desk.outbox.tell(&[0; 13]),
        "there is room again, and nothing waits"
    );
}

#[test]
fn the_relay_s_memory_is_bounded_and_given_back() {
    let limit = 10 * super::super::chunk::CHUNK_BYTES;
    let mut desk = desk(limit);
    let mut refused = 0;
    for sender in 0..30 {
        if desk.push(sender, 0).verdict == Verdict::NoRoom {
            refused += 1;
        }
    }
    assert_eq!(refused, 20);
    assert!(desk.budget.used() <= limit);
    assert_eq!(desk.take(1 << 20).0.len(), 10);
    assert_eq!(desk.budget.used(), 0);
    desk.send(1, &vec![0; 64 << 10]);
    desk.outbox.close();
    assert_eq!(desk.budget.used(), 0);
}

#[test]
fn a_closed_outbox_lets_its_senders_go() {
    let mut desk = desk(1 << 20);
    while desk.push(1, 0).verdict == Verdict::Taken {}
    desk.push(2, 0);
    assert_eq!(desk.outbox.close(), [1]);
    assert_eq!(desk.push(1, 0).verdict, Verdict::Closed);
    assert!(!desk.outbox.tell(b"x"));
    assert_eq!(desk.outbox.bytes(), 0);
}
