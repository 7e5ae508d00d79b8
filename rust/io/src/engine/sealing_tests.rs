//! Nothing leaves unsealed, in whatever sizes packets come and wherever the queue is full.

use warren_core::offload::{GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

use super::outbound::Outbound;
use super::snapshot;
use super::test_ends::{End, packet, until};

/// Numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// What the kernel says of a UDP packet that is to be cut into pieces of `size` bytes.
fn pieces_of(size: usize) -> VnetHeader {
    VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_UDP_L4,
        hdr_len: 28,
        gso_size: size as u16,
        csum_start: 20,
        csum_offset: 6,
    }
}

/// The payloads of what came to `end` by UDP.
fn payloads(end: &End) -> Vec<Vec<u8>> {
    let inbox = end.stack.0.lock();
    inbox.iter().map(|packet| packet[28..].to_vec()).collect()
}

#[test]
fn packets_of_all_sizes_to_two_peers_are_all_sealed_and_stay_in_order() {
    let ends = [End::new(1), End::new(2), End::new(3)];
    let (hub, peers) = (&ends[0], &ends[1..]);
    for peer in peers {
        for (one, other) in [(hub, peer), (peer, hub)] {
            one.introduce(other, 0);
            one.lease(other, 600_000);
        }
    }
    until("leases", || {
        let known = snapshot(&hub.engine.shared).peers;
        known.iter().all(|peer| peer.direct.is_some())
    });
    for peer in peers {
        hub.send(&packet(hub, peer, b"first"));
        until("a session", || !peer.stack.0.lock().is_empty());
        peer.stack.0.lock().clear();
    }
    let shared = &hub.engine.shared;
    let mut outbound = Outbound::new();
    let mut numbers = Numbers(0x5eed);
    for round in 0..300 {
        let mut sent = [vec![], vec![]];
        for _ in 0..=numbers.below(24) {
            let to = numbers.below(2);
            // As large as the path allows, so that runs grow long, or of any size.
            let piece = [1_252, 1_252, 1 + numbers.below(1_252)][numbers.below(3)];
            // One piece, some, or as many as a packet holds; the last one mostly whole, as of TCP
            // in bulk, so that the next packet's can follow in the same run.
            let most = 65_000 / piece;
            let pieces = [1, 1 + numbers.below(most), most][numbers.below(3)];
            let short = [0, 0, 0, numbers.below(piece)][numbers.below(4)];
            let len = piece * pieces - short;
            let payload: Vec<u8> = (0..len).map(|at| (at + round) as u8).collect();
            sent[to].extend(payload.chunks(piece).map(<[u8]>::to_vec));
            let now = shared.clock.now();
            let tables = shared.tunnel.tables();
            let whole = packet(hub, &peers[to], &payload);
            outbound.packet(shared, &tables, pieces_of(piece), &whole, now);
        }
        outbound.flush(shared);
        for (peer, sent) in peers.iter().zip(sent) {
            assert_eq!(peer.drops("wireguard-forged"), 0, "round {round}");
            until("all arrive", || peer.stack.0.lock().len() >= sent.len());
            assert!(payloads(peer) == sent, "round {round}");
            peer.stack.0.lock().clear();
        }
    }
}
