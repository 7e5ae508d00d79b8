//! The gate against cases by hand, and against a slow, obvious reading of the rules.

use std::net::Ipv4Addr;

use super::*;
use crate::seam::{DstSpan, Span};

fn span(first: &str, last: &str) -> Span {
    Span {
        first: first.into(),
        last: last.into(),
    }
}

fn rule(src: (&str, &str), dst: (&str, &str), ports: (u16, u16), protocols: &[u8]) -> FilterRule {
    FilterRule {
        sources: vec![span(src.0, src.1)],
        destinations: vec![DstSpan {
            span: span(dst.0, dst.1),
            first_port: ports.0,
            last_port: ports.1,
        }],
        protocols: protocols.to_vec(),
    }
}

/// A packet between 100.64.0.x and 100.64.0.y; `extra` is flags for TCP and the type for ICMP.
fn packet(protocol: u8, src: u8, dst: u8, ports: (u16, u16), extra: u8) -> Vec<u8> {
    let mut upper = vec![0; 20];
    if protocol == proto::ICMP {
        upper[0] = extra;
    } else {
        upper[..2].copy_from_slice(&ports.0.to_be_bytes());
        upper[2..4].copy_from_slice(&ports.1.to_be_bytes());
        upper[13] = extra;
    }
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&Ipv4Addr::new(100, 64, 0, src).octets());
    packet.extend_from_slice(&Ipv4Addr::new(100, 64, 0, dst).octets());
    packet.extend_from_slice(&upper);
    packet
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const ALL4: (&str, &str) = ("0.0.0.0", "255.255.255.255");
const ALL_PORTS: (u16, u16) = (0, 65535);

fn gate(rules: &[FilterRule]) -> Gate {
    let gate = Gate::new();
    gate.set(rules, false).unwrap();
    gate
}

#[test]
fn ssh_only() {
    let gate = gate(&[rule(
        ("100.64.0.1", "100.64.0.9"),
        ("100.64.0.50", "100.64.0.50"),
        (22, 22),
        &[6, 17, 1],
    )]);
    let check = |p: Vec<u8>| gate.check_in(&p);
    let no = Err(Refusal::NoRule);
    assert_eq!(check(packet(6, 1, 50, (999, 22), SYN)), Ok(()));
    assert_eq!(
        check(packet(6, 10, 50, (999, 22), SYN)),
        no,
        "another source"
    );
    assert_eq!(
        check(packet(6, 1, 51, (999, 22), SYN)),
        no,
        "another destination"
    );
    assert_eq!(check(packet(6, 1, 50, (999, 23), SYN)), no, "another port");
    assert_eq!(
        check(packet(6, 77, 50, (80, 999), SYN | ACK)),
        Ok(()),
        "a reply"
    );
    assert_eq!(check(packet(6, 77, 50, (80, 999), ACK)), Ok(()));
    assert_eq!(
        check(packet(1, 1, 50, (0, 0), 8)),
        Ok(()),
        "echo matches on addresses only"
    );
    assert_eq!(check(packet(1, 77, 50, (0, 0), 8)), no);
    assert_eq!(check(packet(1, 77, 50, (0, 0), 0)), Ok(()), "echo reply");
    assert_eq!(check(packet(1, 77, 50, (0, 0), 3)), Ok(()), "unreachable");
    assert_eq!(check(packet(1, 77, 50, (0, 0), 5)), no, "redirect");
    assert_eq!(check(packet(99, 77, 50, (0, 0), 0)), Ok(()), "TSMP");
    assert_eq!(
        check(packet(47, 1, 50, (0, 0), 0)),
        no,
        "GRE needs all ports"
    );
    assert_eq!(check(packet(17, 1, 50, (5, 22), 0)), Ok(()));
    assert_eq!(check(packet(17, 1, 50, (5, 53), 0)), no);
}

#[test]
fn udp_replies_come_in_and_memory_is_bounded() {
    let gate = gate(&[]);
    let reply = packet(17, 7, 50, (53, 4000), 0);
    assert_eq!(gate.check_in(&reply), Err(Refusal::NoRule));
    gate.note_out(&packet(17, 50, 7, (4000, 53), 0));
    assert_eq!(gate.check_in(&reply), Ok(()));
    assert!(gate.check_in(&packet(17, 7, 50, (54, 4000), 0)).is_err());
    for port in 0..=u16::MAX {
        gate.note_out(&packet(17, 50, 9, (port, 53), 0));
        if port % 5_000 == 0 {
            assert_eq!(gate.check_in(&reply), Ok(()), "in use, so remembered");
        }
    }
    assert!(gate.flows.lock().unwrap().len() <= 2 * 8_192 + 1);
    assert!(
        gate.check_in(&packet(17, 9, 50, (53, 1), 0)).is_err(),
        "long unused"
    );
    gate.note_out(&packet(6, 50, 9, (1, 53), SYN));
    gate.note_out(&[]);
    gate.note_out(&[0x45; 3]);
}

#[test]
fn open_to_all_is_still_no_way_for_garbage_scopes() {
    let gate = gate(&[rule(ALL4, ALL4, ALL_PORTS, &[6, 17, 1, 58])]);
    assert!(gate.rules.load().open4.has(6) && !gate.rules.load().open6.has(6));
    assert_eq!(gate.check_in(&packet(6, 1, 50, (1, 2), SYN)), Ok(()));
    assert_eq!(
        gate.check_in(&packet(47, 1, 50, (1, 2), 0)),
        Err(Refusal::NoRule)
    );
    let mut multicast = packet(17, 1, 50, (1, 2), 0);
    multicast[16..20].copy_from_slice(&[224, 0, 0, 251]);
    assert_eq!(gate.check_in(&multicast), Err(Refusal::NoRule));
    multicast[16..20].copy_from_slice(&[169, 254, 0, 1]);
    assert_eq!(gate.check_in(&multicast), Err(Refusal::NoRule));
    let gre = gate_with_gre();
    assert_eq!(gre.check_in(&packet(47, 1, 50, (1, 2), 0)), Ok(()));
}

fn gate_with_gre() -> Gate {
    gate(&[rule(("100.64.0.1", "100.64.0.1"), ALL4, ALL_PORTS, &[47])])
}

#[test]
fn shields_up_lets_in_replies_only() {
    let gate = Gate::new();
    gate.set(&[rule(ALL4, ALL4, ALL_PORTS, &[6, 17, 1])], true)
        .unwrap();
    gate.note_out(&packet(17, 50, 7, (4000, 53), 0));
    assert!(gate.check_in(&packet(6, 1, 50, (1, 2), SYN)).is_err());
    assert!(gate.check_in(&packet(1, 1, 50, (0, 0), 8)).is_err());
    assert_eq!(gate.check_in(&packet(17, 7, 50, (53, 4000), 0)), Ok(()));
}

#[test]
fn fragments() {
    let gate = gate(&[]);
    let mut fragment = packet(17, 1, 50, (1, 2), 0);
    fragment[7] = 10; // 80 bytes in
    assert_eq!(gate.check_in(&fragment), Ok(()));
    fragment[7] = 9;
    assert_eq!(gate.check_in(&fragment), Err(Refusal::Fragment));
}

#[test]
fn spans_are_checked() {
    let gate = Gate::new();
    for (first, last) in [
        ("10.0.0.2", "10.0.0.1"),
        ("10.0.0.1", "::1"),
        ("x", "10.0.0.1"),
    ] {
        let bad = rule((first, last), ALL4, ALL_PORTS, &[6]);
        assert!(gate.set(&[bad], false).is_err(), "{first} {last}");
    }
}

/// The rules as PROTOCOL §3.8 says them, one sentence a line.
fn obvious(rules: &[FilterRule], p: &Parsed) -> bool {
    let within = |span: &Span, addr: IpAddr| {
        let (first, last): (IpAddr, IpAddr) =
            (span.first.parse().unwrap(), span.last.parse().unwrap());
        first.is_ipv4() == addr.is_ipv4() && first <= addr && addr <= last
    };
    let any = |named: bool, port: Option<u16>, all_ports: bool| {
        rules.iter().any(|rule| {
            (!named || rule.protocols.contains(&p.protocol))
                && rule.sources.iter().any(|span| within(span, p.src))
                && rule.destinations.iter().any(|to| {
                    within(&to.span, p.dst)
                        && port.is_none_or(|port| to.first_port <= port && port <= to.last_port)
                        && (!all_ports || (to.first_port, to.last_port) == ALL_PORTS)
                })
        })
    };
    match p.protocol {
        99 => true,
        6 if p.flags_or_type & (SYN | ACK) != SYN => true,
        6 | 17 | 132 => any(true, Some(p.dst_port), false),
        1 if [0, 3, 4, 11, 12].contains(&p.flags_or_type) => true,
        1 => any(false, None, false),
        _ => any(true, None, true),
    }
}

#[test]
fn agrees_with_the_obvious_reading() {
    let mut state = 42_u64;
    let mut below = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (state >> 33) % bound
    };
    for _ in 0..300 {
        let mut rules = Vec::new();
        for _ in 0..below(5) {
            let mut range = |bound: u64| {
                let (a, b) = (below(bound), below(bound));
                (a.min(b), a.max(b))
            };
            let (src, dst, ports) = (range(12), range(12), range(12));
            let text = |n: u64| format!("100.64.0.{n}");
            let ports = if below(3) == 0 {
                ALL_PORTS
            } else {
                (ports.0 as u16, ports.1 as u16)
            };
            let mut next = rule(
                (&text(src.0), &text(src.1)),
                (&text(dst.0), &text(dst.1)),
                ports,
                [&[6, 17][..], &[1], &[47, 132], &[6, 17, 1, 58]][below(4) as usize],
            );
            next.sources
                .push(span(&text(src.1), &text(src.1 + below(3))));
            rules.push(next);
        }
        let gate = gate(&rules);
        for _ in 0..200 {
            let protocol = [6, 17, 1, 47, 99, 132][below(6) as usize];
            let extra = [SYN, ACK, SYN | ACK, 0, 8, 3][below(6) as usize];
            let ports = (below(12) as u16, below(14) as u16);
            let p = packet(protocol, below(14) as u8, below(14) as u8, ports, extra);
            let parsed = parse_untrusted(&p).unwrap();
            assert_eq!(
                gate.check_in(&p).is_ok(),
                obvious(&rules, &parsed),
                "{rules:?} {parsed:?}"
            );
        }
    }
}
