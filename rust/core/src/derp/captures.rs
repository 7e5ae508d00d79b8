//! The codec against a recording of a stock relay and client (tests/vectors).

use std::io::Read;

use serde_json::Value;

use super::frames::{self, Frame, FrameReader, MAX_CLIENT_FRAME};
use super::login::{ClientLogin, Step};
use super::{RawKey, login, upgrade};

fn captures() -> Vec<Value> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/wire-captures.jsonl.gz"
    );
    let mut text = String::new();
    let file = std::fs::File::open(path).expect("the recording lies in tests/vectors");
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn key(value: &Value) -> RawKey {
    unhex(value).try_into().unwrap()
}

/// One direction of a recorded stream, all pieces joined.
fn direction(capture: &Value, which: &str) -> Vec<u8> {
    let pieces = capture["derp_bytes"].as_array().unwrap();
    pieces
        .iter()
        .filter(|piece| piece[0] == which)
        .flat_map(|piece| unhex(&piece[1]))
        .collect()
}

fn after_head(stream: &[u8]) -> &[u8] {
    let end = stream
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    &stream[end + 4..]
}

fn all_frames(stream: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut reader = FrameReader::new(MAX_CLIENT_FRAME);
    reader.push(stream);
    let mut out = Vec::new();
    while let Some((kind, payload)) = reader.next_frame().unwrap() {
        out.push((kind, payload.to_vec()));
    }
    assert_eq!(
        reader.buffered(),
        0,
        "the recording ends with a whole frame"
    );
    out
}

fn logins() -> impl Iterator<Item = Value> {
    captures()
        .into_iter()
        .filter(|capture| capture["name"] != "stun")
}

#[test]
fn the_recorded_login_opens() {
    for capture in logins() {
        let private = key(&capture["node_private"]);
        let received = direction(&capture, "in");
        let (head, status) = upgrade::parse_head_untrusted(&received).unwrap().unwrap();
        upgrade::check_switched(status).unwrap();

        let mut login = ClientLogin::new(private, [0; 24]);
        let frames = all_frames(&received[head..]);
        let Step::Send(_) = login.receive(frames[0].0, &frames[0].1).unwrap() else {
            panic!("ServerKey comes first")
        };
        let Step::Done(info) = login.receive(frames[1].0, &frames[1].1).unwrap() else {
            panic!("ServerInfo comes second")
        };
        assert_eq!(info.version, login::PROTOCOL_VERSION);
        assert_eq!(info.bytes_per_second, 0);
    }
}

#[test]
fn our_client_info_is_the_recorded_one() {
    for capture in logins() {
        let private = key(&capture["node_private"]);
        let received = direction(&capture, "in");
        let server =
            login::parse_server_key_untrusted(&all_frames(after_head(&received))[0].1).unwrap();
        let sent = all_frames(after_head(&direction(&capture, "out")));
        let (kind, recorded) = &sent[0];
        assert_eq!(*kind, frames::CLIENT_INFO);
        assert_eq!(recorded[..32], login::public_key(&private));
        // The same nonce gives the same box whenever the JSON inside is the same; it is read back
        // with the client's key, since a box opens with either private key.
        let nonce: [u8; 24] = recorded[32..56].try_into().unwrap();
        let ours =
            login::encode_client_info(&login::ClientInfo::of_node(), &private, &server, &nonce);
        assert_eq!(ours[..56], recorded[..56]);
        let limits =
            login::parse_server_info_untrusted(&recorded[32..], &private, &server).unwrap();
        assert_eq!(limits.version, login::PROTOCOL_VERSION);
        let mut preferred = Vec::new();
        frames::push_note_preferred(&mut preferred, true);
        assert_eq!(all_frames(&preferred)[0], sent[1]);
    }
}

#[test]
fn the_recorded_frames_are_packets() {
    let mut seen = 0;
    for capture in logins() {
        let listed = capture["derp_frames_received"].as_array().unwrap();
        let stream = direction(&capture, "in");
        let from_stream = all_frames(after_head(&stream));
        for (index, frame) in listed.iter().enumerate() {
            let kind = u8::try_from(frame[0].as_u64().unwrap()).unwrap();
            let mut payload = unhex(&frame[1]);
            assert_eq!(from_stream[index + 2], (kind, payload.clone()));
            let Ok(Frame::RecvPacket { src, packet }) =
                frames::parse_frame_untrusted(kind, &mut payload)
            else {
                panic!("the recorded frames are all RecvPacket")
            };
            assert_eq!(src, peer_key(&capture));
            assert!(frames::looks_like_disco(packet) || packet.starts_with(&[1, 0, 0, 0]));
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}

fn peer_key(capture: &Value) -> RawKey {
    let text = capture["peer"]["Key"].as_str().unwrap();
    key(&Value::from(text.strip_prefix("nodekey:").unwrap()))
}
