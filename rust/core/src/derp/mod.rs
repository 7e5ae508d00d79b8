//! DERP, the relay protocol (PROTOCOL §4): bytes in, values out; no sockets, no clock, no entropy.
//!
//! ```text
//! upgrade   GET /derp, the 101 answer, CONNECT through a proxy, the server key in the certificate
//! frames    type(1) length(4, big endian) payload; a bounded reader over the stream
//! login     ServerKey -> ClientInfo -> ServerInfo, sealed in NaCl boxes
//! serve     the server's end: which request opens a stream, the login, what clients say
//! ```
//!
//! The connections that use this live in `warren-io`.

pub mod frames;
pub mod login;
pub mod serve;
pub mod upgrade;

#[cfg(test)]
mod captures;

use std::fmt;

/// A Curve25519 public or private key as it travels inside DERP: 32 raw bytes.
pub type RawKey = [u8; 32];

/// Bytes from the other side that break the protocol; the connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MalformedDerp {
    /// A frame announces more payload than this side accepts.
    TooLong { kind: u8, length: usize },
    /// A frame is shorter than its type demands.
    TooShort { kind: u8, length: usize },
    /// ServerKey does not begin with the protocol's magic.
    BadMagic,
    /// A box that does not open with these keys.
    BadBox,
    /// An opened box does not hold the JSON that it should.
    BadJson,
    /// The frame may not come at this point of the login.
    OutOfTurn { kind: u8 },
    /// Not an HTTP response, or a head beyond the limit.
    BadHttp,
    /// The server answered the upgrade with another status.
    Refused { status: u16 },
}

impl fmt::Display for MalformedDerp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { kind, length } => {
                write!(f, "relay frame {kind:#04x} of {length} bytes is too long")
            }
            Self::TooShort { kind, length } => {
                write!(f, "relay frame {kind:#04x} of {length} bytes is too short")
            }
            Self::BadMagic => f.write_str("the server is not a DERP relay"),
            Self::BadBox => f.write_str("the relay's login box does not open"),
            Self::BadJson => f.write_str("the relay's login box holds no valid JSON"),
            Self::OutOfTurn { kind } => {
                write!(f, "relay frame {kind:#04x} came out of turn in the login")
            }
            Self::BadHttp => f.write_str("the server's answer is not HTTP"),
            Self::Refused { status } => {
                write!(
                    f,
                    "the server answered {status} instead of switching to DERP"
                )
            }
        }
    }
}

impl std::error::Error for MalformedDerp {}
