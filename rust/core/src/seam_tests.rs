//! The mirror against samples that pytest reads and writes too (tests/vectors/engine-*.hex).

use super::*;

fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the samples lie in tests/vectors");
    let text = text.trim();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn key(n: u8) -> Key {
    Key::new([n; 32])
}

#[test]
fn python_s_commands_are_read_and_written_alike() {
    let bytes = sample("engine-commands.hex");
    let batch = decode_commands(&bytes).unwrap();
    assert_eq!((batch.generation, batch.commands.len()), (3, 28));
    assert_eq!(
        batch.commands[1],
        Command::SetPeers {
            upsert: vec![
                Peer {
                    key: key(2),
                    allowed_ips: vec!["100.64.0.2/32".into()],
                    home_region: 7,
                    roams: false,
                    endpoint: None,
                    keepalive_s: 0,
                },
                Peer {
                    key: key(3),
                    allowed_ips: vec!["10.0.0.0/8".into(), "::/0".into()],
                    home_region: 0,
                    roams: true,
                    endpoint: Some("[2001:db8::1]:51820".into()),
                    keepalive_s: 25,
                },
            ],
            remove: vec![key(4)],
        }
    );
    let Command::SetRegion { region: 900, nodes } = &batch.commands[6] else {
        panic!()
    };
    assert_eq!(
        (nodes[0].cert_sha256, nodes[0].insecure),
        (Some(key(5)), true)
    );
    assert_eq!(batch.commands[15], Command::Hangup { id: 1 << 40 });
    assert_eq!(
        batch.commands[17],
        Command::SendDatagram {
            to: "192.0.2.1:9".into(),
            data: ByteBuf::from(vec![1]),
            group: 3,
            index: 255,
            vni: 0,
            control: false,
            channel: 0,
            whole: false,
        }
    );
    assert_eq!(
        batch.commands[24],
        Command::SetTurn {
            server: "192.0.2.7:3478".into(),
            on: false
        }
    );
    let Command::OpenStream { group: 9, to } = &batch.commands[25] else {
        panic!()
    };
    assert_eq!(to.addrs, ["[2001:db8::7]:5349"]);
    assert_eq!(rmp_serde::to_vec_named(&batch).unwrap(), bytes);
    assert!(
        !format!("{batch:?}").contains("1, 1, 1"),
        "no key in a dump"
    );
}

#[test]
fn python_s_config_is_read() {
    let config = decode_config(&sample("engine-config.hex")).unwrap();
    let expected = EngineConfig {
        tun: Some("warren0".into()),
        port: 41641,
        mtu_bytes: 1280,
        loopback_forward: true,
        threads: 2,
    };
    assert_eq!(config, expected);
}

#[test]
fn events_are_what_python_reads() {
    let data = |bytes: &[u8]| ByteBuf::from(bytes.to_vec());
    let events = [
        Event::Applied { generation: 3 },
        Event::Bound {
            port4: 41641,
            port6: 0,
        },
        Event::Datagram {
            src: "[2001:db8::1]:3478".into(),
            data: data(&[1, 1]),
            group: 0,
            index: 0,
            vni: 0,
            control: false,
            channel: 0,
        },
        Event::Datagram {
            src: "192.0.2.1:3478".into(),
            data: data(b"disco"),
            group: 3,
            index: 255,
            vni: 1,
            control: true,
            channel: 0x4000,
        },
        Event::Relayed {
            region: 900,
            peer: key(2),
            data: data(b"disco"),
        },
        Event::RegionState {
            region: 900,
            connected: false,
            error: "refused".into(),
            health: String::new(),
        },
        Event::StreamState {
            group: 9,
            open: false,
            error: "refused".into(),
        },
        Event::PeerGone {
            region: 900,
            peer: key(2),
            reason: 1,
        },
        Event::Active {
            peer: key(2),
            direct: true,
        },
        Event::Handshake { peer: key(2) },
        Event::ProbeReply {
            packet: data(&[0x45, 0]),
        },
        Event::Dialed {
            id: 1 << 40,
            error: String::new(),
        },
        Event::Fault {
            message: "the TUN device is gone".into(),
            fatal: true,
        },
    ];
    pin("engine-events.hex", &encode_events(&events));
}

#[test]
fn snapshots_are_what_python_reads() {
    let snapshot = Snapshot {
        port4: 41641,
        port6: 0,
        tun_name: None,
        offloads: vec!["udp-gso".into()],
        threads: 2,
        peers: vec![PeerStats {
            key: key(2),
            rx_bytes: 1 << 40,
            tx_bytes: 0,
            handshake_ago_ms: Some(5),
            tx_ago_ms: None,
            rx_ago_ms: None,
            direct: Some("192.0.2.1:41641".into()),
            mtu_bytes: Some(1440),
        }],
        drops: [("no-route".to_owned(), 1)].into(),
        regions: [(900, true)].into(),
        forwards: vec![ForwardStats {
            vni: 5,
            packets: 2,
            bytes: 200,
            a_ago_ms: Some(7),
            b_ago_ms: None,
        }],
    };
    pin("engine-snapshot.hex", &encode_snapshot(&snapshot));
}

/// The sample holds exactly these bytes.
fn pin(name: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sample(name), bytes, "{name} should hold {hex}");
}

#[test]
fn what_does_not_fit_is_one_sentence() {
    let whole = sample("engine-commands.hex");
    for len in 0..whole.len() {
        let error = decode_commands(&whole[..len]).unwrap_err().to_string();
        assert!(
            error.starts_with("the engine cannot read commands: "),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }
    let unknown = b"\x82\xaageneration\x00\xa8commands\x91\x81\xa4type\xa3Fly";
    let error = decode_commands(unknown).unwrap_err().to_string();
    assert!(error.contains("Fly"), "{error}");
    // What callers wrote before there were groups and wrappings is read as before.
    let old = b"\x82\xaageneration\x00\xa8commands\x91\x83\xa4type\xacSendDatagram\xa2to\xa3x:1\xa4data\xc4\x00";
    let Command::SendDatagram { group, vni, .. } = &decode_commands(old).unwrap().commands[0]
    else {
        panic!()
    };
    assert_eq!((*group, *vni), (0, 0));
    let short_key = b"\x82\xaageneration\x00\xa8commands\x91\x83\xa4type\xabSetIdentity\xabprivate_key\xc4\x01\x07\xa9addresses\x90";
    assert!(decode_commands(short_key).is_err());
    let nested = [0x91_u8].repeat(100_000);
    assert!(decode_commands(&nested).is_err(), "depth is bounded");
}
