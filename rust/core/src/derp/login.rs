//! The login inside a DERP stream (PROTOCOL §4.2): the server says its key, the client proves its
//! own by a NaCl box, the server answers with its limits in another.
//!
//! Nonces are arguments; the caller draws them from the system.

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use serde::{Deserialize, Serialize};

use super::frames::{self, MAGIC};
use super::{MalformedDerp, RawKey};

/// The protocol version that both sides speak.
pub const PROTOCOL_VERSION: u32 = 2;
/// A server refuses a longer ClientInfo.
pub const MAX_CLIENT_INFO: usize = 256 << 10;

const NONCE_LEN: usize = 24;

/// What a client tells about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The mesh key of relays of one region, as 64 hex digits; never sent by a node.
    #[serde(rename = "meshKey", default, skip_serializing_if = "String::is_empty")]
    pub mesh_key: String,
    /// The protocol version that the client speaks.
    #[serde(default)]
    pub version: u32,
    /// Whether the client answers Ping.
    #[serde(rename = "CanAckPings", default)]
    pub can_ack_pings: bool,
    /// Whether it only measures the relay.
    #[serde(
        rename = "IsProber",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub is_prober: bool,
}

impl ClientInfo {
    /// What a node says.
    pub fn of_node() -> Self {
        Self {
            mesh_key: String::new(),
            version: PROTOCOL_VERSION,
            can_ack_pings: true,
            is_prober: false,
        }
    }
}

/// What a server tells a client; a rate of 0 means that it sets none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The protocol version that the server speaks.
    #[serde(default)]
    pub version: u32,
    /// What the client may send in the long run.
    #[serde(rename = "TokenBucketBytesPerSecond", default)]
    pub bytes_per_second: u64,
    /// What it may send at once.
    #[serde(rename = "TokenBucketBytesBurst", default)]
    pub burst_bytes: u64,
}

/// The public key of a private one.
pub fn public_key(private: &RawKey) -> RawKey {
    *SecretKey::from(*private).public_key().as_bytes()
}

fn sealing_box(private: &RawKey, other: &RawKey) -> SalsaBox {
    SalsaBox::new(&PublicKey::from(*other), &SecretKey::from(*private))
}

fn seal_json<T: Serialize>(
    value: &T,
    private: &RawKey,
    other: &RawKey,
    nonce: &[u8; NONCE_LEN],
) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("plain structs always serialise");
    let sealed = sealing_box(private, other)
        .encrypt(nonce.into(), json.as_slice())
        .expect("sealing into a growing buffer cannot fail");
    [nonce.as_slice(), &sealed].concat()
}

fn open_json<T: for<'a> Deserialize<'a>>(
    sealed: &[u8],
    private: &RawKey,
    other: &RawKey,
) -> Result<T, MalformedDerp> {
    let (nonce, sealed) = sealed
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(MalformedDerp::BadBox)?;
    let json = sealing_box(private, other)
        .decrypt(nonce.into(), sealed)
        .map_err(|_| MalformedDerp::BadBox)?;
    serde_json::from_slice(&json).map_err(|_| MalformedDerp::BadJson)
}

/// The payload of ClientInfo: `public(32) ‖ nonce(24) ‖ box(JSON)`.
pub fn encode_client_info(
    info: &ClientInfo,
    private: &RawKey,
    server: &RawKey,
    nonce: &[u8; NONCE_LEN],
) -> Vec<u8> {
    let mut out = public_key(private).to_vec();
    out.extend(seal_json(info, private, server, nonce));
    out
}

/// The server's side of [`encode_client_info`]: who the client is and what it says.
pub fn parse_client_info_untrusted(
    payload: &[u8],
    server_private: &RawKey,
) -> Result<(RawKey, ClientInfo), MalformedDerp> {
    let length = payload.len();
    if length > MAX_CLIENT_INFO {
        return Err(MalformedDerp::TooLong {
            kind: frames::CLIENT_INFO,
            length,
        });
    }
    let (client, sealed) = payload
        .split_first_chunk::<32>()
        .ok_or(MalformedDerp::TooShort {
            kind: frames::CLIENT_INFO,
            length,
        })?;
    Ok((*client, open_json(sealed, server_private, client)?))
}

/// The payload of ServerInfo: `nonce(24) ‖ box(JSON)`.
pub fn encode_server_info(
    info: &ServerInfo,
    server_private: &RawKey,
    client: &RawKey,
    nonce: &[u8; NONCE_LEN],
) -> Vec<u8> {
    seal_json(info, server_private, client, nonce)
}

/// The client's side of [`encode_server_info`].
pub fn parse_server_info_untrusted(
    payload: &[u8],
    private: &RawKey,
    server: &RawKey,
) -> Result<ServerInfo, MalformedDerp> {
    open_json(payload, private, server)
}

/// The payload of ServerKey; bytes behind the key are for later versions and ignored.
pub fn parse_server_key_untrusted(payload: &[u8]) -> Result<RawKey, MalformedDerp> {
    let (magic, rest) = payload
        .split_first_chunk::<8>()
        .ok_or(MalformedDerp::TooShort {
            kind: frames::SERVER_KEY,
            length: payload.len(),
        })?;
    if *magic != MAGIC {
        return Err(MalformedDerp::BadMagic);
    }
    rest.first_chunk::<32>()
        .copied()
        .ok_or(MalformedDerp::TooShort {
            kind: frames::SERVER_KEY,
            length: payload.len(),
        })
}

/// What the caller of [`ClientLogin`] has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for another frame.
    Wait,
    /// Send these bytes (one ClientInfo frame).
    Send(Vec<u8>),
    /// Logged in.
    Done(ServerInfo),
}

/// The client's half of the login, as a machine without a socket.
pub struct ClientLogin {
    private: RawKey,
    nonce: [u8; NONCE_LEN],
    server: Option<RawKey>,
}

impl ClientLogin {
    /// A login with this node key. `nonce` must be fresh for every login.
    pub fn new(private: RawKey, nonce: [u8; NONCE_LEN]) -> Self {
        Self {
            private,
            nonce,
            server: None,
        }
    }

    /// Begin at once with a server key learned from the certificate (fast start). Gives the
    /// ClientInfo frame; the server's own ServerKey frame is then skipped.
    pub fn start_knowing(&mut self, server: RawKey) -> Vec<u8> {
        self.server = Some(server);
        let info = encode_client_info(&ClientInfo::of_node(), &self.private, &server, &self.nonce);
        let mut frame = Vec::new();
        frames::push_frame(&mut frame, frames::CLIENT_INFO, &[&info]);
        frame
    }

    /// Take the next frame of the stream.
    pub fn receive(&mut self, kind: u8, payload: &[u8]) -> Result<Step, MalformedDerp> {
        match (kind, self.server) {
            (frames::SERVER_KEY, None) => {
                let server = parse_server_key_untrusted(payload)?;
                Ok(Step::Send(self.start_knowing(server)))
            }
            (frames::SERVER_KEY, Some(_)) => Ok(Step::Wait),
            (frames::SERVER_INFO, Some(server)) => {
                parse_server_info_untrusted(payload, &self.private, &server).map(Step::Done)
            }
            (_, None) => Err(MalformedDerp::OutOfTurn { kind }),
            // Between the two, a relay may already say anything that needs no login.
            (_, Some(_)) => Ok(Step::Wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: RawKey = [0x41; 32];
    const SERVER: RawKey = [0x52; 32];

    fn server_key_frame() -> Vec<u8> {
        [MAGIC.as_slice(), &public_key(&SERVER), b"later bytes"].concat()
    }

    #[test]
    fn both_halves_meet() {
        let mut login = ClientLogin::new(CLIENT, [1; 24]);
        let Step::Send(frame) = login
            .receive(frames::SERVER_KEY, &server_key_frame())
            .unwrap()
        else {
            panic!("the client must answer with its info");
        };
        assert_eq!(frame[0], frames::CLIENT_INFO);
        let (client, info) = parse_client_info_untrusted(&frame[5..], &SERVER).unwrap();
        assert_eq!(client, public_key(&CLIENT));
        assert_eq!(info, ClientInfo::of_node());
        let limits = ServerInfo {
            version: 2,
            bytes_per_second: 9,
            burst_bytes: 10,
        };
        let sealed = encode_server_info(&limits, &SERVER, &client, &[2; 24]);
        assert_eq!(
            login.receive(frames::SERVER_INFO, &sealed),
            Ok(Step::Done(limits))
        );
    }

    #[test]
    fn fast_start_skips_the_server_key() {
        let mut login = ClientLogin::new(CLIENT, [1; 24]);
        let frame = login.start_knowing(public_key(&SERVER));
        assert!(parse_client_info_untrusted(&frame[5..], &SERVER).is_ok());
        assert_eq!(
            login.receive(frames::SERVER_KEY, &server_key_frame()),
            Ok(Step::Wait)
        );
    }

    #[test]
    fn wrong_bytes_are_malformed() {
        let mut login = ClientLogin::new(CLIENT, [1; 24]);
        assert_eq!(
            login.receive(frames::SERVER_INFO, &[0; 60]),
            Err(MalformedDerp::OutOfTurn {
                kind: frames::SERVER_INFO
            })
        );
        let key = server_key_frame();
        for length in 0..40 {
            assert!(login.receive(frames::SERVER_KEY, &key[..length]).is_err());
        }
        let mut bad = key.clone();
        bad[3] ^= 1;
        assert_eq!(
            login.receive(frames::SERVER_KEY, &bad),
            Err(MalformedDerp::BadMagic)
        );
        login.start_knowing(public_key(&SERVER));
        let client = public_key(&CLIENT);
        let sealed = encode_server_info(&ServerInfo::default(), &SERVER, &client, &[2; 24]);
        for index in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[index] ^= 0x80;
            assert!(
                login.receive(frames::SERVER_INFO, &bent).is_err(),
                "byte {index}"
            );
            assert!(
                login
                    .receive(frames::SERVER_INFO, &sealed[..index])
                    .is_err()
            );
        }
        let garbled = sealing_box(&SERVER, &client)
            .encrypt(&[3; 24].into(), &b"[1"[..])
            .unwrap();
        assert_eq!(
            login.receive(
                frames::SERVER_INFO,
                &[&[3; 24], garbled.as_slice()].concat()
            ),
            Err(MalformedDerp::BadJson)
        );
        assert!(parse_client_info_untrusted(&[0; 31], &SERVER).is_err());
        assert!(parse_client_info_untrusted(&vec![0; MAX_CLIENT_INFO + 1], &SERVER).is_err());
    }
}
