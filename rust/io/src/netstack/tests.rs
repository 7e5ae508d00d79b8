//! Two stacks back to back, over a wire in memory that may lose and reorder packets.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use warren_core::seam::Event;

use super::{Netstack, StackConfig};
use crate::ports::{EventSink, PacketSink, UserStack};

const LONG: Duration = Duration::from_secs(20);

/// One direction of the wire.
#[derive(Default)]
struct Wire {
    far: OnceLock<Weak<Netstack>>,
    /// Every n-th packet is lost, every m-th comes one later; 0 for none.
    lose_every: AtomicU64,
    swap_every: AtomicU64,
    count: AtomicU64,
    held: Mutex<Option<Vec<u8>>>,
}

impl PacketSink for Wire {
    fn outbound(&self, packet: &[u8]) {
        let Some(far) = self.far.get().and_then(Weak::upgrade) else {
            return;
        };
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let hit = |every: &AtomicU64| {
            let every = every.load(Ordering::Relaxed);
            every > 0 && count.is_multiple_of(every)
        };
        if hit(&self.lose_every) {
            return;
        }
        if hit(&self.swap_every) {
            *self.held.lock().unwrap() = Some(packet.to_vec());
            return;
        }
        far.inject(packet);
        if let Some(late) = self.held.lock().unwrap().take() {
            far.inject(&late);
        }
    }

    fn flush(&self) {
        if let (Some(far), Some(late)) = (
            self.far.get().and_then(Weak::upgrade),
            self.held.lock().unwrap().take(),
        ) {
            far.inject(&late);
        }
    }
}

#[derive(Default)]
struct Answers {
    dialed: Mutex<HashMap<u64, String>>,
    changed: Condvar,
}

impl EventSink for Answers {
    fn event(&self, event: Event) {
        let Event::Dialed { id, error } = event else {
            panic!("{event:?}")
        };
        assert_eq!(
            self.dialed.lock().unwrap().insert(id, error),
            None,
            "{id} was answered twice"
        );
        self.changed.notify_all();
    }
}

impl Answers {
    fn of(&self, id: u64) -> String {
        let dialed = self.dialed.lock().unwrap();
        let missing = |dialed: &mut HashMap<u64, String>| !dialed.contains_key(&id);
        let (mut dialed, late) = self
            .changed
            .wait_timeout_while(dialed, LONG, missing)
            .unwrap();
        assert!(!late.timed_out(), "no answer to dial {id}");
        dialed.remove(&id).unwrap()
    }
}

struct Pair {
    near: Arc<Netstack>,
    far: Arc<Netstack>,
    wires: [Arc<Wire>; 2],
    answers: Arc<Answers>,
    next: AtomicU64,
}

const FAR: &str = "100.64.0.2";
const FAR6: &str = "fd7a:115c:a1e0::2";

fn pair() -> Pair {
    let wires = [Arc::new(Wire::default()), Arc::new(Wire::default())];
    let answers = Arc::new(Answers::default());
    let config = StackConfig {
        mtu_bytes: 1280,
        loopback_forward: true,
    };
    let stack = |wire: &Arc<Wire>, v4: &str, v6: &str| {
        let stack = Netstack::start(&config, wire.clone(), answers.clone()).unwrap();
        stack.set_addresses(&[v4.parse().unwrap(), v6.parse().unwrap()]);
        Arc::new(stack)
    };
    let near = stack(&wires[0], "100.64.0.1", "fd7a:115c:a1e0::1");
    let far = stack(&wires[1], FAR, FAR6);
    assert!(wires[0].far.set(Arc::downgrade(&far)).is_ok());
    assert!(wires[1].far.set(Arc::downgrade(&near)).is_ok());
    Pair {
        near,
        far,
        wires,
        answers,
        next: AtomicU64::new(1),
    }
}

impl Pair {
    fn try_dial(&self, to: SocketAddr) -> Result<u64, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.near.dial(id, to);
        match self.answers.of(id) {
            error if error.is_empty() => Ok(id),
            error => Err(error),
        }
    }

    /// Dial, splice, and give our end of the socket pair.
    fn connect(&self, to: SocketAddr) -> UnixStream {
        let id = self.try_dial(to).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.near.splice(id, theirs.into());
        ours.set_read_timeout(Some(LONG)).unwrap();
        ours.set_write_timeout(Some(LONG)).unwrap();
        ours
    }

    fn lossy(&self, lose_every: u64, swap_every: u64) {
        for wire in &self.wires {
            wire.lose_every.store(lose_every, Ordering::Relaxed);
            wire.swap_every.store(swap_every, Ordering::Relaxed);
        }
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Serves each connection on the host's loopback with `serve`, in its own thread.
fn server(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, serve) = (socket.unwrap(), serve.clone());
            std::thread::spawn(move || serve(socket));
        }
    });
    port
}

fn echo() -> u16 {
    server(|socket| {
        let mut reader = socket.try_clone().unwrap();
        let mut writer = socket;
        let _ = std::io::copy(&mut reader, &mut writer);
        let _ = writer.shutdown(Shutdown::Write);
    })
}

/// Bytes in which a lost, doubled or moved piece is seen.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |state: &mut u64| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 56) as u8
    };
    (0..length).map(|_| next(&mut state)).collect()
}

/// Send `data` through an echo server and compare what comes back.
fn round_trip(stream: &UnixStream, data: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        let mut reader = stream;
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), data.len());
        assert!(got == data, "the bytes differ");
    });
}

#[test]
fn bulk_goes_both_ways_byte_for_byte() {
    let pair = pair();
    let port = echo();
    for address in [FAR, FAR6] {
        round_trip(&pair.connect(at(address, port)), &pattern(20 << 20, 1));
    }
    assert_eq!((pair.near.dropped(), pair.far.dropped()), (0, 0));
}

#[test]
fn loss_and_reordering_are_made_good() {
    let pair = pair();
    let port = echo();
    pair.lossy(211, 37);
    round_trip(&pair.connect(at(FAR, port)), &pattern(2 << 20, 2));
}

#[test]
fn a_hundred_connections_at_once() {
    let pair = pair();
    let port = echo();
    std::thread::scope(|scope| {
        for index in 0..100 {
            let pair = &pair;
            scope.spawn(move || {
                round_trip(&pair.connect(at(FAR, port)), &pattern(100_000, index));
            });
        }
    });
}

#[test]
fn a_closed_port_is_refused_at_once() {
    let pair = pair();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let asked = Instant::now();
    assert_eq!(
        pair.try_dial(at(FAR, free)),
        Err("connection refused".to_owned())
    );
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_on_ipv6_loopback_alone_is_found() {
    let pair = pair();
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return; // a machine without IPv6
    };
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"six").unwrap());
    let mut got = String::new();
    pair.connect(at(FAR, port))
        .read_to_string(&mut got)
        .unwrap();
    assert_eq!(got, "six");
}

#[test]
fn the_server_may_go_on_after_our_end_and_we_after_its() {
    let pair = pair();
    let late = server(|mut socket| {
        let mut question = String::new();
        socket.read_to_string(&mut question).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        socket
            .write_all(format!("{question}? no").as_bytes())
            .unwrap();
    });
    let mut stream = pair.connect(at(FAR, late));
    stream.write_all(b"more").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "more? no");

    let (tell, told) = std::sync::mpsc::channel();
    let early = server(move |mut socket| {
        socket.write_all(b"bye").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        socket.read_to_string(&mut rest).unwrap();
        tell.send(rest).unwrap();
    });
    let mut stream = pair.connect(at(FAR, early));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "bye");
    stream.write_all(b"still here").unwrap();
    drop(stream);
    assert_eq!(told.recv_timeout(LONG).unwrap(), "still here");
}

#[test]
fn a_reset_is_carried_over_and_not_taken_for_an_end() {
    let pair = pair();
    // The server closes with unread bytes in its socket, which is a reset.
    let rude = server(|mut socket| {
        socket.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    });
    let id = pair.try_dial(at(FAR, rude)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    pair.near.splice(id, listener.accept().unwrap().0.into());
    ours.set_read_timeout(Some(LONG)).unwrap();
    ours.write_all(&[1; 1000]).unwrap();
    assert_eq!(
        ours.read(&mut [0; 10]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn hangup_and_a_dropped_end_reach_the_server() {
    let pair = pair();
    let (tell, told) = std::sync::mpsc::channel();
    let port = server(move |mut socket| {
        socket.set_read_timeout(Some(LONG)).unwrap();
        let mut got = Vec::new();
        tell.send(
            socket
                .read_to_end(&mut got)
                .map(|_| got)
                .map_err(|error| error.kind()),
        )
        .unwrap();
    });
    let id = pair.try_dial(at(FAR, port)).unwrap();
    pair.near.hangup(id);
    assert_eq!(
        told.recv_timeout(LONG).unwrap(),
        Err(ErrorKind::ConnectionReset)
    );
    let (ours, theirs) = UnixStream::pair().unwrap();
    pair.near.splice(id, theirs.into());
    ours.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(
        (&ours).read(&mut [0]).unwrap(),
        0,
        "the socket of a dead dial is closed"
    );

    let mut stream = pair.connect(at(FAR, port));
    stream.write_all(b"last words").unwrap();
    drop(stream);
    assert_eq!(told.recv_timeout(LONG).unwrap(), Ok(b"last words".to_vec()));
}

#[test]
fn a_slow_reader_holds_up_the_sender_and_nothing_is_lost() {
    let pair = pair();
    let data = pattern(8 << 20, 3);
    let expected = data.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let port = server(move |mut socket| {
        std::thread::sleep(Duration::from_millis(500));
        let mut got = Vec::new();
        socket.read_to_end(&mut got).unwrap();
        tell.send(got).unwrap();
    });
    let mut stream = pair.connect(at(FAR, port));
    stream.write_all(&data).unwrap();
    drop(stream);
    assert!(told.recv_timeout(LONG).unwrap() == expected);
}

#[test]
fn what_is_queued_when_both_have_ended_still_arrives() {
    // The reader rests when the server has ended and what is left fills the receiver's window and
    // some of the sender's queue: after the last FIN the window must open once more.
    let pair = pair();
    let answer = pattern(4 << 20, 4);
    let sent = answer.clone();
    let port = server(move |mut socket| {
        socket.read_to_end(&mut Vec::new()).unwrap();
        socket.write_all(&sent).unwrap();
    });
    for left in [1500 << 10, 1700 << 10, 1900 << 10] {
        let mut stream = pair.connect(at(FAR, port));
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = vec![0; answer.len() - left];
        stream.read_exact(&mut got).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        stream.read_to_end(&mut got).unwrap();
        assert!(got == answer);
    }
}

#[test]
fn what_cannot_be_dialed_is_said_in_words() {
    let pair = pair();
    assert!(pair.try_dial(at("0.0.0.0", 1)).is_err());
    assert!(pair.try_dial(at(FAR, 0)).is_err());
    let alone = Netstack::start(
        &StackConfig {
            mtu_bytes: 1280,
            loopback_forward: false,
        },
        Arc::new(Wire::default()),
        pair.answers.clone(),
    )
    .unwrap();
    alone.dial(1000, at(FAR, 80));
    assert!(pair.answers.of(1000).contains("no address"));
    alone.close();
    alone.close();
}

#[test]
fn our_own_address_can_be_dialed() {
    let pair = pair();
    let port = echo();
    round_trip(&pair.connect(at("100.64.0.1", port)), b"hello, me");
}

#[test]
fn datagrams_go_to_the_host_and_back() {
    /// Keeps what leaves the stack.
    #[derive(Default)]
    struct Kept(Mutex<Vec<Vec<u8>>>);
    impl PacketSink for Kept {
        fn outbound(&self, packet: &[u8]) {
            self.0.lock().unwrap().push(packet.to_vec());
        }
    }
    let kept = Arc::new(Kept::default());
    let config = StackConfig {
        mtu_bytes: 1280,
        loopback_forward: true,
    };
    let stack = Netstack::start(&config, kept.clone(), Arc::new(Answers::default())).unwrap();
    stack.set_addresses(&[FAR.parse().unwrap(), FAR6.parse().unwrap()]);
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_read_timeout(Some(LONG)).unwrap();
    let port = host.local_addr().unwrap().port();

    for ends in [("100.64.0.1", FAR), ("fd7a:115c:a1e0::1", FAR6)] {
        let (peer, own) = (at(ends.0, 5555), at(ends.1, port));
        // Our own writer makes the question: from the peer's end to ours.
        let mut question = Vec::new();
        assert!(super::udp::encode(
            &mut question,
            (own, peer),
            b"anyone?",
            1280
        ));
        stack.inject(&question);
        let mut got = [0; 100];
        let (count, from) = host.recv_from(&mut got).unwrap();
        assert_eq!(&got[..count], b"anyone?");
        host.send_to(b"me", from).unwrap();
        let until = Instant::now() + LONG;
        let answer = loop {
            if let Some(answer) = kept.0.lock().unwrap().pop() {
                break answer;
            }
            assert!(Instant::now() < until, "no answer left the stack");
            std::thread::sleep(Duration::from_millis(2));
        };
        let expected = super::header::Kind::Udp {
            src: own,
            dst: peer,
            payload: b"me",
        };
        assert_eq!(super::header::classify_untrusted(&answer), Some(expected));
    }
}

#[test]
fn garbage_from_the_tunnel_is_dropped() {
    let pair = pair();
    let port = echo();
    let noise = pattern(1 << 16, 9);
    for (index, piece) in noise.chunks(97).enumerate() {
        let mut packet = piece.to_vec();
        packet[0] = if index % 2 == 0 { 0x45 } else { 0x60 };
        pair.far.inject(&packet);
        pair.far.inject(piece);
        pair.far.inject(&[]);
    }
    round_trip(&pair.connect(at(FAR, port)), b"still well");
}

#[test]
fn a_flood_of_half_open_connections_pushes_out_itself() {
    let pair = pair();
    let port = echo();
    // Nobody accepts: the host's backlog is soon full, and the rest waits for it.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf_port = deaf.local_addr().unwrap().port().to_be_bytes();
    for source in 0..3 * super::MAX_FLOWS as u16 {
        let mut syn = vec![
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 100, 64, 0, 9, 100, 64, 0, 2,
        ];
        let sum = warren_core::offload::sum(&syn);
        syn[10..12].copy_from_slice(&warren_core::offload::finish(sum));
        syn.extend((source + 1).to_be_bytes());
        syn.extend(deaf_port);
        syn.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        pair.far.inject(&syn);
    }
    round_trip(&pair.connect(at(FAR, port)), b"let me through");
}

#[test]
fn an_idle_stack_sleeps() {
    let pair = pair();
    let stream = pair.connect(at(FAR, echo()));
    std::thread::sleep(Duration::from_millis(300));
    let before = [&pair.wires[0], &pair.wires[1]].map(|wire| wire.count.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_millis(700));
    let after = [&pair.wires[0], &pair.wires[1]].map(|wire| wire.count.load(Ordering::Relaxed));
    assert_eq!(before, after, "an idle connection sends nothing");
    drop(stream);
}

#[test]
#[ignore = "prints a rate"]
fn the_rate_of_one_connection() {
    let pair = pair();
    let port = server(|mut socket| {
        let mut room = vec![0; 1 << 20];
        while socket.read(&mut room).is_ok_and(|count| count > 0) {}
    });
    let mut stream = pair.connect(at(FAR, port));
    let piece = vec![7; 1 << 20];
    let start = Instant::now();
    let mut sent = 0u64;
    while start.elapsed() < Duration::from_secs(3) {
        stream.write_all(&piece).unwrap();
        sent += piece.len() as u64;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let _ = stream.read(&mut [0]);
    println!(
        "{:.2} Gbit/s",
        sent as f64 * 8e-9 / start.elapsed().as_secs_f64()
    );
}
