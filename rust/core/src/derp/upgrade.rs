//! How a connection becomes a DERP stream (PROTOCOL §4.1): the request, its answer, the way
//! through an HTTP proxy, and the relay's key in its last certificate.

use super::{MalformedDerp, RawKey};

/// A longer response head is refused.
pub const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// The request that turns an HTTP connection into DERP.
///
/// fast_start: ask the server to send no HTTP response at all; only with its key known.
pub fn encode_request(host: &str, fast_start: bool) -> Vec<u8> {
    let fast = if fast_start {
        "Derp-Fast-Start: 1\r\n"
    } else {
        ""
    };
    format!(
        "GET /derp HTTP/1.1\r\nHost: {host}\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n{fast}\r\n"
    )
    .into_bytes()
}

/// Ask an HTTP proxy for a tunnel to `target` (`host:port`) (RFC 9110 §9.3.6).
pub fn encode_connect(target: &str) -> Vec<u8> {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes()
}

/// The head of a response: its length in bytes and its status; `None` until it is whole.
pub fn parse_head_untrusted(bytes: &[u8]) -> Result<Option<(usize, u16)>, MalformedDerp> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            Ok(Some((length, response.code.ok_or(MalformedDerp::BadHttp)?)))
        }
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => Ok(None),
        _ => Err(MalformedDerp::BadHttp),
    }
}

/// Whether `status` answers the upgrade with yes.
pub fn check_switched(status: u16) -> Result<(), MalformedDerp> {
    if status == 101 {
        Ok(())
    } else {
        Err(MalformedDerp::Refused { status })
    }
}

/// Whether `status` answers CONNECT with yes.
pub fn check_connected(status: u16) -> Result<(), MalformedDerp> {
    if (200..300).contains(&status) {
        Ok(())
    } else {
        Err(MalformedDerp::Refused { status })
    }
}

/// DER of the attribute type commonName (2.5.4.3).
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
const KEY_PREFIX: &[u8] = b"derpkey";

/// The relay's public key, when this DER certificate is the meta certificate that relays append
/// to their chain: its common name is `derpkey` and 64 hex digits.
///
/// The certificate proves nothing by itself; it came over a connection whose leaf was verified.
pub fn server_key_of_certificate_untrusted(der: &[u8]) -> Option<RawKey> {
    let name_len = KEY_PREFIX.len() + 64;
    der.windows(COMMON_NAME.len())
        .enumerate()
        .filter(|(_, window)| *window == COMMON_NAME)
        .find_map(|(at, _)| {
            // type, then a string (UTF8String or PrintableString) with a one-byte length
            let [tag, length, text @ ..] = der.get(at + COMMON_NAME.len()..)? else {
                return None;
            };
            if !matches!(tag, 0x0c | 0x13) || usize::from(*length) != name_len {
                return None;
            }
            let hex = text.get(..name_len)?.strip_prefix(KEY_PREFIX)?;
            parse_hex_key(hex)
        })
}

fn parse_hex_key(hex: &[u8]) -> Option<RawKey> {
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate_with(tag: u8, name: &[u8]) -> Vec<u8> {
        let mut der = vec![0x30, 0x82, 1, 2];
        der.extend(COMMON_NAME);
        der.extend([tag, name.len() as u8]);
        der.extend(name);
        der.extend([0x30, 0x00]);
        der
    }

    #[test]
    fn the_key_is_found_in_the_common_name() {
        let name = format!("derpkey{}", "0fA5".repeat(16));
        let key = server_key_of_certificate_untrusted(&certificate_with(0x0c, name.as_bytes()));
        assert_eq!(key.unwrap()[..2], [0x0f, 0xa5]);
    }

    #[test]
    fn other_certificates_have_none() {
        let good = format!("derpkey{}", "00".repeat(32));
        for name in [
            "derp.example".to_owned(),
            format!("derpkey{}", "g0".repeat(32)),
        ] {
            assert!(
                server_key_of_certificate_untrusted(&certificate_with(0x0c, name.as_bytes()))
                    .is_none()
            );
        }
        assert!(
            server_key_of_certificate_untrusted(&certificate_with(0x04, good.as_bytes())).is_none()
        );
        let whole = certificate_with(0x13, good.as_bytes());
        for length in 0..whole.len() - 2 {
            assert!(server_key_of_certificate_untrusted(&whole[..length]).is_none());
        }
    }

    #[test]
    fn heads_are_read_when_whole_and_bounded() {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n\r\n\x01\x00";
        for length in 0..head.len() - 2 {
            assert_eq!(parse_head_untrusted(&head[..length]), Ok(None));
        }
        assert_eq!(parse_head_untrusted(head), Ok(Some((head.len() - 2, 101))));
        assert_eq!(
            parse_head_untrusted(b"\x01\x00\x00"),
            Err(MalformedDerp::BadHttp)
        );
        let mut endless = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        endless.resize(MAX_HEAD + 1, b'a');
        assert_eq!(parse_head_untrusted(&endless), Err(MalformedDerp::BadHttp));
        assert!(check_switched(404).is_err() && check_switched(101).is_ok());
        assert!(check_connected(407).is_err() && check_connected(200).is_ok());
    }
}
