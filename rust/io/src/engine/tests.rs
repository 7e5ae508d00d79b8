//! Two engines on loopback.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use warren_core::seam::{Command, RelayNode};

use super::test_ends::{End, packet, pair, until};
use super::*;

#[test]
fn packets_of_every_size_pass_over_leased_paths() {
    let (a, b) = pair(0);
    a.lease(&b, 60_000);
    b.lease(&a, 60_000);
    until("leases", || {
        [&a, &b]
            .iter()
            .all(|end| snapshot(&end.engine.shared).peers[0].direct.is_some())
    });
    a.send(&packet(&a, &b, b"first"));
    until(
        "the first packet waits for the handshake, then arrives",
        || b.stack.0.lock().len() == 1,
    );
    let sizes = [0usize, 1, 2, 15, 16, 17, 100, 1251, 1252];
    let sent: Vec<_> = sizes
        .iter()
        .map(|size| packet(&a, &b, &vec![*size as u8; *size]))
        .collect();
    for packet in &sent {
        a.send(packet);
    }
    until("all arrive", || b.stack.0.lock().len() == 1 + sent.len());
    assert_eq!(b.stack.0.lock()[1..], sent);
    assert!(a.told(|e| *e
        == Event::Handshake {
            peer: b.public.into()
        }));
    assert!(a.told(|e| *e
        == Event::Active {
            peer: b.public.into(),
            direct: true
        }));
    assert_eq!(*a.wire.carried.lock(), 0);
}

#[test]
fn a_path_carries_what_its_lease_says_and_a_relay_everything() {
    let (a, b) = pair(7);
    for end in [&a, &b] {
        end.wire.up.store(true, Ordering::Relaxed);
    }
    a.send(&packet(&a, &b, &[1; 8_000]));
    until("over the relay", || b.stack.0.lock().len() == 1);
    a.apply(vec![Command::SetPath {
        peer: b.public.into(),
        addr: Some(b.addr()),
        lease_ms: 60_000,
        group: 0,
        index: 0,
        vni: 0,
        channel: 0,
        mtu_bytes: 1_435,
    }]);
    until("lease", || {
        snapshot(&a.engine.shared).peers[0].direct.is_some()
    });
    let head = packet(&a, &b, b"").len();
    for len in [1_433, 1_435, 1_436, 1_434] {
        a.send(&packet(&a, &b, &vec![2; len - head]));
    }
    until("all but one arrive", || b.stack.0.lock().len() == 4);
    let lengths: Vec<usize> = b.stack.0.lock().iter().map(Vec::len).collect();
    assert_eq!(lengths[1..], [1_433, 1_435, 1_434]);
    assert_eq!(a.engine.shared.drops.named()["packet-too-big"], 1);
}

#[test]
fn a_lapsed_lease_takes_the_relay_at_once() {
    let (a, b) = pair(7);
    for end in [&a, &b] {
        end.wire.up.store(true, Ordering::Relaxed);
    }
    a.send(&packet(&a, &b, b"relayed"));
    until("over the relay", || b.stack.0.lock().len() == 1);
    assert!(a.told(|e| *e
        == Event::Active {
            peer: b.public.into(),
            direct: false
        }));
    a.lease(&b, 400);
    until("lease", || {
        snapshot(&a.engine.shared).peers[0].direct.is_some()
    });
    let carried = *a.wire.carried.lock();
    a.send(&packet(&a, &b, b"direct"));
    until("directly", || b.stack.0.lock().len() == 2);
    assert_eq!(*a.wire.carried.lock(), carried);
    until("lapse", || {
        snapshot(&a.engine.shared).peers[0].direct.is_none()
    });
    a.send(&packet(&a, &b, b"relayed again"));
    until("over the relay again", || b.stack.0.lock().len() == 3);
    assert!(*a.wire.carried.lock() > carried);
}

#[test]
fn what_cannot_go_is_counted_by_reason() {
    let (a, b) = pair(0);
    let stranger = End::new(3);
    a.send(&packet(&a, &stranger, b"nobody has this address"));
    a.send(b"no packet");
    a.send(&packet(&a, &b, b"no path"));
    until("drops", || {
        let drops = a.engine.shared.drops.named();
        ["no-route", "bad-outbound", "no-path"]
            .iter()
            .all(|name| drops.contains_key(*name))
    });
    // A peer may send only from its own addresses.
    a.lease(&b, 60_000);
    b.lease(&a, 60_000);
    a.send(&packet(&a, &b, b"mine"));
    until("a session", || !b.stack.0.lock().is_empty());
    a.send(&packet(&stranger, &b, b"somebody else's"));
    until("a wrong source", || {
        b.engine.shared.drops.named().contains_key("wrong-source")
    });
}

#[test]
fn garbage_and_floods_are_counted_and_bounded() {
    let end = End::new(1);
    let port = snapshot(&end.engine.shared).port4;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.resize(20, 0);
    for round in 0..3000u32 {
        socket.send_to(&stun, ("127.0.0.1", port)).unwrap();
        let mut data = vec![round as u8 | 0x40; 40];
        socket.send_to(&data, ("127.0.0.1", port)).unwrap();
        data[..4].copy_from_slice(&[4, 0, 0, 0]);
        socket.send_to(&data, ("127.0.0.1", port)).unwrap();
    }
    until("drops", || {
        let drops = end.engine.shared.drops.named();
        ["unknown-datagram", "wireguard-no-session"]
            .iter()
            .all(|name| drops.contains_key(*name))
    });
    std::thread::sleep(Duration::from_millis(50));
    let events = end.engine.shared.events.drain();
    assert!((1..=1100).contains(&events.len()), "{}", events.len());
}

fn disco(mark: u8) -> Vec<u8> {
    let mut packet = warren_core::demux::DISCO_MAGIC.to_vec();
    packet.resize(80, mark);
    packet
}

fn send(to: &str, data: Vec<u8>) -> Command {
    Command::SendDatagram {
        to: to.into(),
        data: data.into(),
        group: 0,
        index: 0,
        vni: 0,
        control: false,
        channel: 0,
        whole: false,
    }
}

#[test]
fn one_socket_of_a_group_is_kept_and_carries_the_tunnel() {
    let (a, b) = pair(0);
    let there = b.addr();
    a.apply(vec![Command::OpenSockets {
        group: 3,
        count: 256,
    }]);
    let probes = (0..256).map(|index| Command::SendDatagram {
        to: there.clone(),
        data: disco(index as u8).into(),
        group: 3,
        index,
        vni: 0,
        control: false,
        channel: 0,
        whole: false,
    });
    a.apply(probes.collect());
    let probe = b.datagram(|e| matches!(e, Event::Datagram { data, .. } if data[79] == 200));
    let Event::Datagram { src, group: 0, .. } = probe else {
        panic!("{probe:?}")
    };
    b.apply(vec![send(&src, disco(7))]);
    let reply = a.datagram(|e| matches!(e, Event::Datagram { data, .. } if data[79] == 7));
    assert_eq!(
        reply,
        Event::Datagram {
            src: there.clone(),
            data: disco(7).into(),
            group: 3,
            index: 200,
            vni: 0,
            control: false,
            channel: 0
        }
    );
    a.apply(vec![Command::KeepSocket {
        group: 3,
        index: 200,
    }]);
    a.path(&b, &there, 60_000, (3, 200), 0, 0);
    b.path(&a, &src, 60_000, (0, 0), 0, 0);
    until("leases", || {
        [&a, &b]
            .iter()
            .all(|end| snapshot(&end.engine.shared).peers[0].direct.is_some())
    });
    a.send(&packet(&a, &b, b"out"));
    until("through the kept socket", || b.inbox() == 1);
    for _ in 0..50 {
        b.send(&packet(&b, &a, b"back"));
    }
    until("back through it", || a.inbox() == 50);
    a.apply(vec![Command::CloseSockets { group: 3 }]);
    until("no path without its socket", || {
        snapshot(&a.engine.shared).peers[0].direct.is_none()
    });
    assert_eq!(a.engine.shared.groups.descriptor(), None);
}

#[test]
fn groups_are_bounded_and_what_fails_is_told() {
    let end = End::new(1);
    let told = |part: &str| {
        until(part, || {
            end.told(
                |e| matches!(e, Event::Fault { message, fatal: false } if message.contains(part)),
            )
        });
    };
    let open = |group| Command::OpenSockets { group, count: 512 };
    end.apply(vec![open(1), open(1)]);
    told("group 1 is open already");
    end.apply(vec![Command::KeepSocket { group: 1, index: 9 }]);
    end.apply(vec![Command::KeepSocket { group: 1, index: 8 }]);
    told("socket 8 of group 1 is not open");
    end.apply(vec![open(2), Command::CloseSockets { group: 1 }]);
    end.apply(vec![open(3), open(4), open(5)]);
    told("more than 1024 in all");
}

#[test]
fn a_peer_relay_carries_between_two_addresses_only() {
    let (a, b) = pair(0);
    let relay = End::new(9);
    let forward = |a, b| Command::SetForward { vni: 77, a, b };
    relay.apply(vec![forward(Some(a.addr()), Some(b.addr()))]);
    for (one, other) in [(&a, &b), (&b, &a)] {
        one.path(other, &relay.addr(), 60_000, (0, 0), 77, 0);
        until("lease", || {
            snapshot(&one.engine.shared).peers[0].direct.is_some()
        });
    }
    let sizes = [0usize, 1, 700, 1252];
    for size in sizes {
        a.send(&packet(&a, &b, &vec![size as u8; size]));
        b.send(&packet(&b, &a, &vec![size as u8; size]));
    }
    until("both ways", || (a.inbox(), b.inbox()) == (4, 4));
    let stats = &snapshot(&relay.engine.shared).forwards[0];
    assert!(stats.packets >= 10 && stats.a_ago_ms.is_some() && stats.b_ago_ms.is_some());
    // Disco in the same session goes by unopened too; the relay's own comes up.
    let wrapped = |to: &End, control, vni, mark| Command::SendDatagram {
        to: to.addr(),
        data: disco(mark).into(),
        group: 0,
        index: 0,
        vni,
        control,
        channel: 0,
        whole: false,
    };
    a.apply(vec![wrapped(&relay, false, 77, 1)]);
    let came = b.datagram(|e| matches!(e, Event::Datagram { data, .. } if data[79] == 1));
    assert!(
        matches!(&came, Event::Datagram { src, vni: 77, control: false, .. } if *src == relay.addr()),
        "{came:?}"
    );
    a.apply(vec![
        wrapped(&relay, true, 77, 2),
        wrapped(&relay, false, 78, 3),
    ]);
    for (mark, number, bit) in [(2, 77, true), (3, 78, false)] {
        let up = |e: &Event| matches!(e, Event::Datagram { data, vni, control, .. } if data[..] == disco(mark) && (*vni, *control) == (number, bit));
        relay.datagram(up);
    }
    let stranger = End::new(4);
    stranger.apply(vec![wrapped(&relay, false, 77, 4)]);
    until("a stranger's is dropped", || {
        relay.drops("forward-stranger") == 1
    });
    relay.apply(vec![forward(None, None)]);
    until("the session ends", || {
        snapshot(&relay.engine.shared).forwards.is_empty()
    });
    a.send(&packet(&a, &b, b"too late"));
    until("unknown now", || relay.drops("wireguard-no-session") >= 1);
}

/// A TURN server as far as data goes: one channel for one client, one relayed address.
fn turn(client: SocketAddr, peer: SocketAddr, channel: u16) -> (SocketAddr, SocketAddr) {
    let [server, relayed] = [0; 2].map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let addresses = (server.local_addr().unwrap(), relayed.local_addr().unwrap());
    let [server2, relayed2] = [&server, &relayed].map(|s| s.try_clone().unwrap());
    for socket in [&server, &relayed] {
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
    }
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(len) = server.recv(&mut buffer) {
            let said = usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
            assert_eq!(buffer[..2], channel.to_be_bytes());
            assert_eq!(said + 4, len);
            relayed2.send_to(&buffer[4..len], peer).unwrap();
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(len) = relayed.recv(&mut buffer) {
            let mut data = channel.to_be_bytes().to_vec();
            data.extend((len as u16).to_be_bytes());
            data.extend(&buffer[..len]);
            data.resize(data.len().next_multiple_of(4), 0);
            server2.send_to(&data, client).unwrap();
        }
    });
    addresses
}

#[test]
fn a_turn_server_of_ours_carries_and_no_other() {
    let (a, b) = pair(0);
    let [client, peer] = [a.addr(), b.addr()].map(|addr| addr.parse().unwrap());
    let (server, relayed) = turn(client, peer, 0x4001);
    b.path(&a, &relayed.to_string(), 60_000, (0, 0), 0, 0);
    b.apply(vec![send(&relayed.to_string(), disco(5))]);
    until("not ours yet", || a.drops("turn-stranger") == 1);
    a.apply(vec![Command::SetTurn {
        server: server.to_string(),
        on: true,
    }]);
    a.path(&b, &server.to_string(), 60_000, (0, 0), 0, 0x4001);
    until("leases", || {
        [&a, &b]
            .iter()
            .all(|end| snapshot(&end.engine.shared).peers[0].direct.is_some())
    });
    for size in [0usize, 1, 3, 700, 1252] {
        a.send(&packet(&a, &b, &vec![1; size]));
        b.send(&packet(&b, &a, &vec![1; size]));
    }
    until("both ways", || (a.inbox(), b.inbox()) == (5, 5));
    b.apply(vec![send(&relayed.to_string(), disco(6))]);
    let came = a.datagram(|e| matches!(e, Event::Datagram { data, .. } if data[79] == 6));
    assert!(
        matches!(&came, Event::Datagram { src, channel: 0x4001, data, .. }
            if *src == server.to_string() && data[..] == disco(6)),
        "{came:?}"
    );
    // A message of TURN's (an allocation's success) from anyone else is nothing.
    let mut allocated = vec![1, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    allocated.resize(20, 1);
    b.apply(vec![send(&a.addr(), allocated)]);
    until("a stranger's", || a.drops("turn-stranger") == 2);
}

#[test]
fn closing_ends_every_thread_and_frees_the_port() {
    let end = End::new(1);
    let port = snapshot(&end.engine.shared).port4;
    end.engine.close();
    end.engine.close();
    let weak = Arc::downgrade(&end.engine.shared);
    assert!(end.engine.apply(&[0x82]).is_err());
    assert!(
        UdpSockets::bind(port, 1).is_ok(),
        "free as soon as it is closed"
    );
    drop(end);
    assert!(weak.upgrade().is_none());
    assert!(UdpSockets::bind(port, 1).is_ok());
}

#[test]
fn new_sockets_may_take_the_same_port() {
    let end = End::new(1);
    let port = snapshot(&end.engine.shared).port4;
    let bound = |port| move |e: &Event| matches!(e, Event::Bound { port4, .. } if *port4 == port);
    assert!(end.told(bound(port)));
    end.events.lock().clear();
    end.apply(vec![Command::Rebind { port }]);
    until("bound again", || end.told(bound(port)));
    end.apply(vec![Command::Rebind { port: 0 }]);
    until("bound anew", || snapshot(&end.engine.shared).port4 != port);
}

/// A listener, and the command that opens a stream to it as group 9.
fn turn_by_tcp() -> (std::net::TcpListener, Command) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = RelayNode {
        addrs: vec![listener.local_addr().unwrap().to_string()],
        server_name: "turn.example".into(),
        cert_sha256: None,
        plain: true,
        insecure: false,
        proxy: None,
    };
    (listener, Command::OpenStream { group: 9, to })
}

fn by_stream(to: &str, data: Vec<u8>, channel: u16) -> Command {
    Command::SendDatagram {
        to: to.into(),
        data: data.into(),
        group: 9,
        index: 0,
        vni: 0,
        control: false,
        channel,
        whole: false,
    }
}

fn stream_is(wanted: bool) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::StreamState { group: 9, open, .. } if *open == wanted)
}

#[test]
fn a_stream_carries_what_datagrams_do_and_garbage_ends_it() {
    use std::io::{Read, Write};
    let end = End::new(1);
    let (listener, open) = turn_by_tcp();
    let server = listener.local_addr().unwrap().to_string();
    let turn = Command::SetTurn {
        server: server.clone(),
        on: true,
    };
    end.apply(vec![
        open,
        turn,
        by_stream(&server, disco(1)[..77].to_vec(), 0x4001),
    ]);
    let (mut stream, _) = listener.accept().unwrap();
    until("open", || end.told(stream_is(true)));
    let mut got = [0; 84];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got[..4], [0x40, 1, 0, 77]);
    assert_eq!(got[4..81], disco(1)[..77]);
    assert_eq!(got[81..], [0; 3], "padded");

    let mut message = vec![1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    message.resize(20, 1);
    message.extend([0x40, 1, 0, 80]);
    message.extend(disco(2));
    for piece in message.chunks(33) {
        stream.write_all(piece).unwrap();
    }
    let came = end.datagram(|e| {
        matches!(
            e,
            Event::Datagram {
                group: 9,
                channel: 1..,
                ..
            }
        )
    });
    assert!(
        matches!(&came, Event::Datagram { channel: 0x4001, data, .. } if data[..] == disco(2)),
        "{came:?}"
    );

    stream.write_all(b"SSH-2.0-nothing of TURN").unwrap();
    until("closed", || end.told(stream_is(false)));
    assert_eq!(end.drops("turn-stream"), 1);
    let lost = end.drops("socket-closed");
    end.apply(vec![by_stream(&server, disco(3), 0x4001)]);
    until("nothing carries it", || {
        end.drops("socket-closed") == lost + 1
    });
}

#[test]
fn a_server_that_does_not_read_costs_packets_and_no_memory() {
    let end = End::new(1);
    let (listener, open) = turn_by_tcp();
    let server = listener.local_addr().unwrap().to_string();
    end.apply(vec![open]);
    let (stream, _) = listener.accept().unwrap();
    until("dropped", || {
        let many = (0..64).map(|_| by_stream(&server, vec![1; 60_000], 0x4001));
        end.apply(many.collect());
        end.drops("turn-stream-full") > 0
    });
    assert_eq!(end.drops("udp-send"), 0);
    drop(stream);
    until("the end is told", || end.told(stream_is(false)));
}

#[test]
fn a_server_that_refuses_is_told_with_its_reason() {
    let end = End::new(1);
    let (listener, open) = turn_by_tcp();
    drop(listener);
    end.apply(vec![open]);
    let refused = |event: &Event| matches!(event, Event::StreamState { error, .. } if error.contains("refused"));
    until("refused", || end.told(refused));
}
