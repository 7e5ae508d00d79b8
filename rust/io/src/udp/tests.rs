//! Two socket pairs on loopback.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;

fn at(ip: impl Into<std::net::IpAddr>, port: u16) -> Hop {
    SocketAddr::new(ip.into(), port).into()
}

/// Does something with the main sockets, and no others.
fn by_way_of<T>(main: &UdpSockets, run: impl FnOnce(Ways<'_>) -> T) -> T {
    let groups = SocketGroups::new().expect("epoll");
    run(Ways {
        main,
        groups: &groups,
        streams: &Streams::default(),
    })
}

fn flush(queue: &mut SendQueue, main: &UdpSockets) -> SendReport {
    by_way_of(main, |ways| queue.flush(ways))
}

fn pair() -> (UdpSockets, UdpSockets) {
    (
        UdpSockets::bind(0, 1).expect("bind"),
        UdpSockets::bind(0, 1).expect("bind"),
    )
}

fn receive_all(sockets: &UdpSockets, want: usize) -> Vec<Vec<u8>> {
    let mut receiver = Receiver::new();
    let mut out = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while out.len() < want && Instant::now() < end {
        for fd in sockets.descriptors(0).into_iter().flatten() {
            match receiver.receive(fd) {
                Ok((arena, messages)) => {
                    for message in messages {
                        let bytes = &arena[message.start..message.start + message.len];
                        out.extend(bytes.chunks(message.segment).map(<[u8]>::to_vec));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    out
}

fn queue(queue: &mut SendQueue, to: Hop, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let data = vec![index as u8; *size];
        queue.room(*size).expect("room").copy_from_slice(&data);
        queue.commit(to, *size);
        sent.push(data);
    }
    sent
}

#[test]
fn what_was_queued_arrives_with_and_without_segmentation() {
    let (here, there) = pair();
    let to = at(Ipv4Addr::LOCALHOST, there.port4());
    let sizes: Vec<usize> = (0..100)
        .map(|_| 1312)
        .chain([700, 1312, 1312, 1, 1, 2, 9000, 32, 32, 32, 5])
        .collect();
    for gso in [true, false] {
        if !gso {
            here.refuse_gso();
        }
        let mut out = SendQueue::new();
        let sent = queue(&mut out, to, &sizes);
        let report = flush(&mut out, &here);
        assert_eq!(
            report,
            SendReport {
                sent: sent.len() as u64,
                dropped: 0,
                ..SendReport::default()
            }
        );
        assert!(out.is_empty());
        assert_eq!(receive_all(&there, sent.len()), sent);
    }
}

/// Super-packets that are, sealed, three datagrams more than the kernel takes at once.
#[test]
fn what_could_leave_with_more_waits_for_it() {
    let (here, there) = pair();
    let to = at(Ipv4Addr::LOCALHOST, there.port4());
    let (size, whole) = (1472, 44);
    let mut out = SendQueue::new();
    let mut waiting = 0;
    for round in 0..60 {
        let sent = queue(&mut out, to, &[size; 47]);
        let full = out.full();
        let (report, moved) = by_way_of(&here, |ways| out.flush_full(ways));
        waiting += sent.len();
        let gone = waiting / whole * whole;
        assert_eq!(report.sent, gone as u64, "round {round}");
        waiting -= gone;
        assert_eq!(out.waiting(), waiting * size);
        assert!(moved == 0 || moved == full);
        // What stays lies where it is said to lie, whether it was moved or not.
        let kept = &out.queued()[if waiting > 0 { full - moved } else { 0 }..];
        assert_eq!(kept.len(), waiting * size);
        let last: Vec<_> = kept.chunks(size).map(<[u8]>::to_vec).collect();
        assert_eq!(last, sent[sent.len() - waiting..]);
        let came = receive_all(&there, gone);
        assert_eq!(came.len(), gone);
        assert_eq!(came[gone - 1], sent[sent.len() - waiting - 1]);
    }
    // A shorter one ends a message: nothing can follow it, and it need not wait.
    queue(&mut out, to, &[700]);
    let (report, _) = by_way_of(&here, |ways| out.flush_full(ways));
    assert_eq!(report.sent, waiting as u64 + 1);
    assert!(out.is_empty());
    assert_eq!(out.full(), 0);
}

#[test]
fn both_families_in_one_flush() {
    let (here, there) = pair();
    let mut out = SendQueue::new();
    let mut sent = queue(
        &mut out,
        at(Ipv4Addr::LOCALHOST, there.port4()),
        &[10, 20, 20],
    );
    if there.port6() != 0 {
        let to = at(Ipv6Addr::LOCALHOST, there.port6());
        sent.extend(queue(&mut out, to, &[30, 30, 40]));
    }
    assert_eq!(flush(&mut out, &here).sent, sent.len() as u64);
    let count = |packets: &[Vec<u8>]| {
        let mut sizes = BTreeMap::new();
        for packet in packets {
            *sizes.entry(packet.clone()).or_insert(0) += 1;
        }
        sizes
    };
    assert_eq!(count(&receive_all(&there, sent.len())), count(&sent));
}

#[test]
fn a_datagram_that_cannot_go_is_counted_and_the_rest_goes() {
    let (here, there) = pair();
    let mut out = SendQueue::new();
    // Port 0 is no destination.
    queue(&mut out, at(Ipv4Addr::LOCALHOST, 0), &[10]);
    let sent = queue(&mut out, at(Ipv4Addr::LOCALHOST, there.port4()), &[11, 11]);
    assert_eq!(
        flush(&mut out, &here),
        SendReport {
            sent: 2,
            dropped: 1,
            ..SendReport::default()
        }
    );
    assert_eq!(receive_all(&there, 2), sent);
}

#[test]
fn a_busy_port_is_said_in_one_sentence() {
    // Sockets that share their port share it with nobody else.
    for (ours, theirs) in [(1, 1), (1, 3), (3, 1), (3, 3)] {
        let here = UdpSockets::bind(0, ours).expect("bind");
        let error = UdpSockets::bind(here.port4(), theirs).expect_err("busy");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&here.port4().to_string()));
    }
}

#[test]
fn what_comes_from_one_address_comes_to_one_receiver_in_order() {
    const RECEIVERS: usize = 3;
    const SENDERS: usize = 40;
    let there = UdpSockets::bind(0, RECEIVERS).expect("bind");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, there.port4()));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind"))
        .collect();
    for number in 0..20_u8 {
        for sender in &senders {
            sender.send_to(&[number; 100], to).expect("send");
        }
    }
    let mut seen: BTreeMap<SocketAddr, (usize, Vec<u8>)> = BTreeMap::new();
    let mut busy = [false; RECEIVERS];
    for (index, busy) in busy.iter_mut().enumerate() {
        let [v4, _] = there.descriptors(index);
        let mut receiver = Receiver::new();
        while let Ok((arena, messages)) = receiver.receive(v4.expect("open")) {
            for message in messages {
                *busy = true;
                let (at, numbers) = seen.entry(message.source).or_insert((index, Vec::new()));
                assert_eq!(*at, index);
                let bytes = &arena[message.start..message.start + message.len];
                numbers.extend(bytes.chunks(message.segment).map(|datagram| datagram[0]));
            }
        }
    }
    assert_eq!(seen.len(), SENDERS);
    for (_, numbers) in seen.values() {
        assert!(numbers.iter().copied().eq(0..20));
    }
    assert!(busy.iter().filter(|busy| **busy).count() > 1);
}

#[test]
fn a_question_goes_whole_and_data_may_be_fragmented_again() {
    let here = UdpSockets::bind(0, 1).expect("bind");
    let there = UdpSockets::bind(0, 1).expect("bind");
    let groups = SocketGroups::new().expect("epoll");
    let streams = Streams::default();
    let ways = Ways {
        main: &here,
        groups: &groups,
        streams: &streams,
    };
    for to in [
        at(Ipv4Addr::LOCALHOST, there.port4()),
        at(Ipv6Addr::LOCALHOST, there.port6()),
    ] {
        let Some(socket) = here.socket_for(to.addr) else {
            continue;
        };
        let how = || {
            let (level, name) = if to.addr.is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
            };
            let (mut value, mut len) = (-1, size_of::<libc::c_int>() as libc::socklen_t);
            // SAFETY: one int and its length, both live through the call.
            let result = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    level,
                    name,
                    std::ptr::from_mut(&mut value).cast(),
                    &mut len,
                )
            };
            assert_eq!(result, 0);
            value
        };
        assert_eq!(how(), libc::IP_PMTUDISC_DONT);
        ways.send_whole(&[7; 9_000], to).expect("loopback is wide");
        assert_eq!(receive_all(&there, 1), [vec![7; 9_000]]);
        assert_eq!(how(), libc::IP_PMTUDISC_DONT);
        assert!(ways.send_whole(&[7; 65_508], to).is_err());
        assert_eq!(how(), libc::IP_PMTUDISC_DONT);
    }
}
