//! The server's end of a DERP stream (PROTOCOL §4.1, §4.2): which request opens one, the login,
//! and what a client may say afterwards.

use curve25519_dalek::montgomery::MontgomeryPoint;

use super::frames::{self, MAGIC, MAX_PACKET, push_frame};
use super::login::{
    ClientInfo, MAX_CLIENT_INFO, PROTOCOL_VERSION, ServerInfo, encode_server_info,
    parse_client_info_untrusted,
};
use super::upgrade::MAX_HEAD;
use super::{MalformedDerp, RawKey};

/// The path of the upgrade.
pub const PATH: &str = "/derp";
/// Longest payload before the login is over.
pub const MAX_LOGIN_PAYLOAD: usize = MAX_CLIENT_INFO + 32;
/// Longest payload of a client that has logged in.
pub const MAX_CLIENT_PAYLOAD: usize = MAX_PACKET + 32;
/// The peer's connection ended.
pub const GONE_DISCONNECTED: u8 = 0;
/// The peer is not connected here.
pub const GONE_NOT_HERE: u8 = 1;

const MAX_HEADERS: usize = 64;

/// What the first bytes of a connection ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The head is not whole yet.
    Unclear,
    /// DERP; the frames begin `head_bytes` from the start.
    Derp {
        /// Length of the request's head.
        head_bytes: usize,
        /// The client wants no HTTP response, frames at once.
        fast_start: bool,
    },
    /// Anything else, nonsense included: for whoever speaks HTTP.
    Other,
}

/// Look at the first bytes of a connection (RFC 9112 head) and tell whether they open DERP.
///
/// Only what is plainly a DERP upgrade is one: a method that clients use (Go's GET, Rust's
/// POST), the path itself, and both upgrade headers. Where a header repeats, the last counts.
pub fn parse_wish_untrusted(bytes: &[u8]) -> Wish {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Wish::Unclear,
        _ => return Wish::Other,
    };
    let target = request.path.unwrap_or_default();
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    if path != PATH || !matches!(request.method, Some("GET" | "POST")) {
        return Wish::Other;
    }
    let header = |name: &str| {
        let found = request.headers.iter().rev();
        let mut found = found.filter(|header| header.name.eq_ignore_ascii_case(name));
        found.next().map_or(&b""[..], |header| header.value)
    };
    let names_upgrade = header("connection")
        .to_ascii_lowercase()
        .windows(7)
        .any(|window| window == b"upgrade");
    if !header("upgrade").eq_ignore_ascii_case(b"derp") || !names_upgrade {
        return Wish::Other;
    }
    Wish::Derp {
        head_bytes,
        fast_start: header("derp-fast-start") == b"1",
    }
}

/// The server's 101. In a fast start, send nothing instead.
pub fn switching_response(server: &RawKey) -> Vec<u8> {
    let hex: String = server.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\
         Derp-Version: {PROTOCOL_VERSION}\r\nDerp-Public-Key: {hex}\r\n\r\n"
    )
    .into_bytes()
}

/// The first frame of a server: its key.
pub fn server_key_frame(server: &RawKey) -> Vec<u8> {
    let mut out = Vec::new();
    push_frame(&mut out, frames::SERVER_KEY, &[&MAGIC, server]);
    out
}

/// Read the first frame of a client: who it is, proven by its box, and what it says.
///
/// A low-order point would make a box that anybody can seal; it is nobody's key.
pub fn parse_login_untrusted(
    kind: u8,
    payload: &[u8],
    server_private: &RawKey,
) -> Result<(RawKey, ClientInfo), MalformedDerp> {
    if kind != frames::CLIENT_INFO {
        return Err(MalformedDerp::OutOfTurn { kind });
    }
    let (key, info) = parse_client_info_untrusted(payload, server_private)?;
    let shared = MontgomeryPoint(key).mul_clamped(*server_private);
    if shared.0 == [0; 32] {
        return Err(MalformedDerp::BadBox);
    }
    Ok((key, info))
}

/// The server's answer to a login: ServerInfo, without limits.
pub fn server_info_frame(server_private: &RawKey, client: &RawKey, nonce: &[u8; 24]) -> Vec<u8> {
    let info = ServerInfo {
        version: PROTOCOL_VERSION,
        ..ServerInfo::default()
    };
    let sealed = encode_server_info(&info, server_private, client, nonce);
    let mut out = Vec::new();
    push_frame(&mut out, frames::SERVER_INFO, &[&sealed]);
    out
}

/// What a client that has logged in says.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// A packet for another client.
    Send {
        /// Whose it is.
        dst: &'a RawKey,
        /// What is in it, sealed end to end.
        packet: &'a [u8],
    },
    /// Whether this relay is the client's home.
    NotePreferred(bool),
    /// To be answered with the same bytes.
    Ping([u8; 8]),
    /// Pongs, and types that later versions may bring.
    Other(u8),
}

/// Read a frame of a client that has logged in. Errors: too short, or only for mesh peers.
pub fn parse_client_frame_untrusted(
    kind: u8,
    payload: &[u8],
) -> Result<ClientFrame<'_>, MalformedDerp> {
    let short = MalformedDerp::TooShort {
        kind,
        length: payload.len(),
    };
    Ok(match kind {
        frames::SEND_PACKET => {
            let (dst, packet) = payload.split_first_chunk::<32>().ok_or(short)?;
            ClientFrame::Send { dst, packet }
        }
        frames::NOTE_PREFERRED => match payload {
            [home] => ClientFrame::NotePreferred(*home != 0),
            [] => return Err(short),
            _ => {
                return Err(MalformedDerp::TooLong {
                    kind,
                    length: payload.len(),
                });
            }
        },
        frames::PING => ClientFrame::Ping(*payload.first_chunk().ok_or(short)?),
        frames::PONG if payload.len() < 8 => return Err(short),
        frames::CLIENT_INFO | frames::FORWARD_PACKET | frames::WATCH_CONNS | frames::CLOSE_PEER => {
            return Err(MalformedDerp::OutOfTurn { kind });
        }
        other => ClientFrame::Other(other),
    })
}

/// The frame that tells a client that a peer is gone, and why.
pub fn peer_gone_frame(peer: &RawKey, reason: u8) -> Vec<u8> {
    let mut out = Vec::new();
    push_frame(&mut out, frames::PEER_GONE, &[peer, &[reason]]);
    out
}

/// The frame that sends clients away: come back in `reconnect_in_ms`, try for `try_for_ms`.
pub fn restarting_frame(reconnect_in_ms: u32, try_for_ms: u32) -> Vec<u8> {
    let (first, second) = (reconnect_in_ms.to_be_bytes(), try_for_ms.to_be_bytes());
    let mut out = Vec::new();
    push_frame(&mut out, frames::RESTARTING, &[&first, &second]);
    out
}

#[cfg(test)]
mod tests {
    use super::super::login::{encode_client_info, public_key};
    use super::*;

    fn head(lines: &[&str]) -> Vec<u8> {
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }

    #[test]
    fn only_plain_derp_upgrades_are_derp() {
        let derp = ["Host: x", "Upgrade: DERP", "Connection: Upgrade"];
        for (first, extra, expected) in [
            ("GET /derp HTTP/1.1", None, Some(false)),
            ("POST /derp HTTP/1.1", None, Some(false)),
            ("GET /derp?x=1 HTTP/1.1", None, Some(false)),
            ("GET /derp HTTP/1.1", Some("Derp-Fast-Start: 1"), Some(true)),
            (
                "GET /derp HTTP/1.1",
                Some("Derp-Fast-Start: 0"),
                Some(false),
            ),
            ("GET /derp HTTP/1.1", Some("Upgrade: websocket"), None),
            ("GET /derp/probe HTTP/1.1", None, None),
            ("PUT /derp HTTP/1.1", None, None),
            ("GET http://x/derp HTTP/1.1", None, None),
            ("NONSENSE", None, None),
        ] {
            let mut lines = vec![first];
            lines.extend(derp);
            lines.extend(extra);
            let bytes = head(&lines);
            let wish = parse_wish_untrusted(&[&bytes[..], b"frames"].concat());
            let wanted = expected.map_or(Wish::Other, |fast_start| Wish::Derp {
                head_bytes: bytes.len(),
                fast_start,
            });
            assert_eq!(wish, wanted, "{first} {extra:?}");
        }
        assert_eq!(
            parse_wish_untrusted(&head(&["GET /derp HTTP/1.1", "Host: x"])),
            Wish::Other
        );
    }

    #[test]
    fn a_head_that_never_ends_is_for_others() {
        assert_eq!(parse_wish_untrusted(b""), Wish::Unclear);
        assert_eq!(parse_wish_untrusted(b"GET /derp HTT"), Wish::Unclear);
        let long = [b"GET /derp HTTP/1.1\r\nX: ".as_slice(), &[b'x'; MAX_HEAD]].concat();
        assert_eq!(parse_wish_untrusted(&long), Wish::Other);
        assert_eq!(parse_wish_untrusted(&[0xff; 20]), Wish::Other);
    }

    #[test]
    fn a_client_logs_in_with_its_own_key_only() {
        let (server, client) = ([1; 32], [2; 32]);
        let info = ClientInfo::of_node();
        let good = encode_client_info(&info, &client, &public_key(&server), &[9; 24]);
        let found = parse_login_untrusted(frames::CLIENT_INFO, &good, &server);
        assert_eq!(found, Ok((public_key(&client), info)));
        let mut other = good.clone();
        other[..32].copy_from_slice(&public_key(&[3; 32]));
        assert_eq!(
            parse_login_untrusted(frames::CLIENT_INFO, &other, &server),
            Err(MalformedDerp::BadBox)
        );
        assert_eq!(
            parse_login_untrusted(frames::PING, &good, &server),
            Err(MalformedDerp::OutOfTurn { kind: frames::PING })
        );
    }

    #[test]
    fn a_low_order_point_is_nobody() {
        // With the zero key both ends "share" a secret that everybody knows.
        let (server, zero) = ([1; 32], [0; 32]);
        let info = ServerInfo::default();
        let anybody_s = encode_server_info(&info, &[7; 32], &zero, &[9; 24]);
        let payload = [&zero[..], &anybody_s].concat();
        assert_eq!(
            parse_login_untrusted(frames::CLIENT_INFO, &payload, &server),
            Err(MalformedDerp::BadBox)
        );
    }

    #[test]
    fn what_only_mesh_peers_may_ask_is_refused() {
        for kind in [
            frames::FORWARD_PACKET,
            frames::WATCH_CONNS,
            frames::CLOSE_PEER,
            frames::CLIENT_INFO,
        ] {
            assert_eq!(
                parse_client_frame_untrusted(kind, &[0; 64]),
                Err(MalformedDerp::OutOfTurn { kind })
            );
        }
        assert_eq!(
            parse_client_frame_untrusted(frames::SEND_PACKET, &[0; 31]),
            Err(MalformedDerp::TooShort {
                kind: frames::SEND_PACKET,
                length: 31
            })
        );
        for kind in 0..=255 {
            for length in [0, 1, 2, 7, 8, 31, 32, 33, 100] {
                let _ = parse_client_frame_untrusted(kind, &vec![0xff; length]);
            }
        }
    }
}
