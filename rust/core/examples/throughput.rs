//! What one core does per packet: seal, open, filter, route. Run it with `--release`:
//! `cargo run --release -p warren-core --example throughput`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use warren_core::clock::{Entropy, Now};
use warren_core::filter::Gate;
use warren_core::seam::{DstSpan, FilterRule, Span};
use warren_core::wg::{PeerConfig, PrivateKey, PublicKey, Session, Source, Tunnel, TunnelConfig};

const PEERS: u32 = 10_000;
const PACKET_BYTES: usize = 1280;
const BATCH: usize = 48;

/// Not secret: this program measures, it protects nothing.
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        for byte in out {
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            *byte = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
    }
}

fn tunnel(private: u8) -> (Tunnel, PublicKey) {
    let config = TunnelConfig {
        initiations_per_s: 1_000,
    };
    let tunnel = Tunnel::new(config, Arc::new(Counting(AtomicU64::new(private.into()))));
    let private = PrivateKey([private; 32]);
    let public = private.public();
    tunnel.set_identity(private);
    (tunnel, public)
}

fn peer(key: PublicKey, host: u32) -> PeerConfig {
    let addr = Ipv4Addr::from(0x6440_0000 + host);
    PeerConfig {
        key,
        allowed_ips: vec![format!("{addr}/32").parse().expect("a prefix")],
        home_region: 1,
        roams: false,
        endpoint: None,
        keepalive_s: 0,
    }
}

fn packet(protocol: u8) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 5, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 100, 64, 0, 2, 100, 64, 0, 1,
    ];
    packet.resize(PACKET_BYTES, 0);
    packet[33] = 2; // a SYN, so that TCP is looked up
    packet
}

fn rules(count: u32) -> Vec<FilterRule> {
    let span = |first: u32, last: u32| Span {
        first: Ipv4Addr::from(first).to_string(),
        last: Ipv4Addr::from(last).to_string(),
    };
    (0..count)
        .map(|n| FilterRule {
            sources: (0..50)
                .map(|s| span(0x6440_0000 + s * 7, 0x6440_0000 + s * 7))
                .collect(),
            destinations: vec![DstSpan {
                span: span(0x6440_0001, 0x6440_0001),
                first_port: n as u16 + 1,
                last_port: n as u16 + 1,
            }],
            protocols: vec![6, 17],
        })
        .collect()
}

fn report(what: &str, bytes: usize, mut batch: impl FnMut()) {
    let (began, mut batches) = (Instant::now(), 0_u32);
    while began.elapsed() < Duration::from_millis(400) {
        batch();
        batches += 1;
    }
    let ns = began.elapsed().as_nanos() as f64 / f64::from(batches) / BATCH as f64;
    let rate = if bytes == 0 {
        String::new()
    } else {
        format!("  {:5.2} GB/s", bytes as f64 / ns)
    };
    println!("{what:<44} {ns:8.1} ns a packet{rate}");
}

fn sessions(
    a: &Tunnel,
    b: &Tunnel,
    (a_key, b_key): (PublicKey, PublicKey),
    now: Now,
) -> Arc<Session> {
    let to_b = a.tables().peer(&b_key).expect("b").clone();
    assert!(a.stage(&to_b, now).is_ok(), "no session yet");
    let pass = |from: &Tunnel, to: &Tunnel, key| {
        while let Some(transmit) = from.poll_transmit() {
            let mut datagram = transmit.datagram;
            let src = Source::Relay {
                region: 1,
                peer: key,
            };
            if to.receive_handshake(&datagram, src, now).is_err() {
                let session = to.session(&datagram).expect("a session");
                let mut opener = session.opener();
                opener.open_in_place(&mut datagram).expect("authentic");
                to.received(&session, opener.finish(), src, now);
            }
        }
    };
    pass(a, b, a_key);
    pass(b, a, b_key);
    pass(a, b, a_key);
    a.sender(&to_b, now).expect("a session")
}

fn main() {
    let now = Now {
        mono_ms: 1,
        wall: Duration::from_secs(1_700_000_000),
    };
    let ((a, a_key), (b, b_key)) = (tunnel(1), tunnel(2));
    let mut peers: Vec<_> = (10..PEERS)
        .map(|n| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&n.to_be_bytes());
            peer(PublicKey(key), n)
        })
        .collect();
    peers.push(peer(b_key, 1));
    let began = Instant::now();
    a.set_peers(&peers, &[], now);
    println!(
        "{PEERS} peers in a new table: {:.1} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    b.set_peers(&[peer(a_key, 2)], &[], now);
    let session = sessions(&a, &b, (a_key, b_key), now);

    let plain = packet(6);
    let size = Session::sealed_len(plain.len());
    let mut buffer = vec![0; size * BATCH];
    report("seal into a GSO buffer", plain.len(), || {
        for out in buffer.chunks_mut(size) {
            session.seal_into(&plain, out).expect("room");
        }
        a.sent(&session, BATCH as u32, buffer.len() as u64, now);
    });
    report("seal and open", plain.len(), || {
        for out in buffer.chunks_mut(size) {
            session.seal_into(&plain, out).expect("room");
        }
        let other = b.session(&buffer[..size]).expect("a session");
        let mut opener = other.opener();
        for datagram in buffer.chunks_mut(size) {
            opener.open_in_place(datagram).expect("authentic");
        }
        b.received(
            &other,
            opener.finish(),
            Source::Relay {
                region: 1,
                peer: a_key,
            },
            now,
        );
    });
    let tables = a.tables();
    report("route among 10,000 peers", 0, || {
        for n in 0..BATCH as u32 {
            let dst = IpAddr::V4(Ipv4Addr::from(0x6440_0000 + n * 199));
            std::hint::black_box(tables.route(dst));
        }
    });
    let gate = Gate::new();
    let filter = |what: &str, rules: &[FilterRule], packet: &[u8]| {
        gate.set(rules, false).expect("rules");
        report(what, 0, || {
            for _ in 0..BATCH {
                let _ = std::hint::black_box(gate.check_in(std::hint::black_box(packet)));
            }
        });
    };
    let mut open = rules(1);
    let all = || Span {
        first: "0.0.0.0".into(),
        last: "255.255.255.255".into(),
    };
    open[0].sources = vec![all()];
    open[0].destinations = vec![DstSpan {
        span: all(),
        first_port: 0,
        last_port: 65_535,
    }];
    filter("filter, open to all", &open, &plain);
    filter("filter, UDP refused by 100 rules", &rules(100), &packet(17));
    let mut established = plain.clone();
    established[33] = 0x10;
    filter(
        "filter, established TCP under 100 rules",
        &rules(100),
        &established,
    );
    report("note an outbound UDP flow", 0, || {
        let udp = packet(17);
        for _ in 0..BATCH {
            gate.note_out(std::hint::black_box(&udp));
        }
    });
}
