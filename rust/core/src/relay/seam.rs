//! The relay's seam to Python: a mirror of `warren/engine/relay.py`, MessagePack as in
//! [`crate::seam`]. Descriptors travel as numbers: both ends are one process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::seam::{Key, MalformedSeam};

/// What is fixed for the life of a relay. Times in milliseconds.
#[derive(Clone, Deserialize, Serialize)]
pub struct Config {
    /// The relay's private key.
    pub private_key: Key,
    /// Whether `/derp` on the TLS ports is served here; else it goes to Python as all else.
    pub derp: bool,
    /// Threads; 0: one for each core.
    pub threads: u32,
    /// For TLS, for the request's head and for the login each.
    pub handshake_ms: u64,
    /// Between KeepAlive frames, at least.
    pub keep_alive_ms: u64,
    /// Added to that by chance.
    pub keep_alive_jitter_ms: u64,
    /// A client that can answer pings and says nothing for so long is gone.
    pub silence_ms: u64,
    /// A client whose socket takes nothing for so long is closed.
    pub stall_ms: u64,
    /// How long a sender is held for one slow client.
    pub hold_ms: u64,
    /// What may wait of one sender for one client.
    pub pair_bytes: u64,
    /// What may wait for one client.
    pub client_bytes: u64,
    /// What may wait in the whole relay.
    pub total_bytes: u64,
    /// Connections that have not said what they want; beyond it the oldest is dropped.
    pub max_waiting: u32,
}

/// What Python tells the relay (`relay.py` tells what each field means).
#[derive(Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type")]
#[allow(missing_docs)]
pub enum Command {
    Listen {
        fd: i32,
    },
    SetCertificate {
        chain: ByteBuf,
        key: ByteBuf,
    },
    SetProof {
        host: String,
        #[serde(default)]
        chain: ByteBuf,
        #[serde(default)]
        key: ByteBuf,
    },
    Adopt {
        fd: i32,
        rest: ByteBuf,
        fast_start: bool,
    },
    Admit {
        client: u64,
        admitted: bool,
    },
    Kick {
        client: u64,
    },
    Stop {
        reconnect_in_ms: u32,
        try_for_ms: u32,
    },
}

/// What the relay tells Python.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type")]
#[allow(missing_docs)]
pub enum Event {
    /// A client has proven its key; `Admit` decides.
    Login { client: u64, key: Key },
    /// A client that was admitted is gone.
    Left { client: u64 },
    /// A connection that is not DERP: plain bytes on a socket that Python now owns.
    Arrival { fd: i32, source: String },
    /// A thread has ended by an error of its own; its connections hang.
    Fault { error: String },
}

/// Counters since the start, by the names of the metrics.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct Snapshot {
    /// Name → count.
    pub counters: BTreeMap<String, u64>,
    /// Bytes of room that queues have now.
    pub queued_bytes: u64,
}

fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8], what: &str) -> Result<T, MalformedSeam> {
    rmp_serde::from_slice(bytes)
        .map_err(|error| MalformedSeam(format!("the relay cannot read {what}: {error}")))
}

/// Read the configuration.
pub fn decode_config(bytes: &[u8]) -> Result<Config, MalformedSeam> {
    decode(bytes, "its configuration")
}

/// Read commands.
pub fn decode_commands(bytes: &[u8]) -> Result<Vec<Command>, MalformedSeam> {
    decode(bytes, "a command")
}

/// Write events.
pub fn encode_events(events: &[Event]) -> Vec<u8> {
    rmp_serde::to_vec_named(events).expect("plain enums always serialise")
}

/// Write a snapshot.
pub fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    rmp_serde::to_vec_named(snapshot).expect("plain structs always serialise")
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn python_s_configuration_and_commands_are_read() {
        let config = decode_config(&sample("relay-config.hex")).unwrap();
        assert_eq!(*config.private_key, [7; 32]);
        assert!(!config.derp);
        assert_eq!((config.threads, config.max_waiting), (2, 1024));
        assert_eq!((config.hold_ms, config.stall_ms), (100, 2000));
        let bytes = |text: &[u8]| ByteBuf::from(text.to_vec());
        let (chain, key) = (bytes(b"chain"), bytes(b"key"));
        let expected = [
            Command::Listen { fd: 3 },
            Command::SetCertificate {
                chain: chain.clone(),
                key: key.clone(),
            },
            Command::SetProof {
                host: "a.test".into(),
                chain,
                key,
            },
            Command::Adopt {
                fd: 4,
                rest: bytes(b"rest"),
                fast_start: true,
            },
            Command::Admit {
                client: u64::MAX,
                admitted: true,
            },
            Command::Kick { client: 1 << 56 },
            Command::Stop {
                reconnect_in_ms: 500,
                try_for_ms: 30_000,
            },
        ];
        let read = decode_commands(&sample("relay-commands.hex")).unwrap();
        assert!(read == expected);
    }

    #[test]
    fn python_reads_these_events_and_counters() {
        let events = [
            Event::Login {
                client: u64::MAX,
                key: Key::new([9; 32]),
            },
            Event::Left { client: 1 },
            Event::Arrival {
                fd: 5,
                source: "[2001:db8::1]:443".into(),
            },
            Event::Fault {
                error: "sorry".into(),
            },
        ];
        assert_eq!(encode_events(&events), sample("relay-events.hex"));
        let snapshot = Snapshot {
            counters: [("packets".to_owned(), 1), ("bytes".to_owned(), 2)].into(),
            queued_bytes: 3,
        };
        assert_eq!(encode_snapshot(&snapshot), sample("relay-snapshot.hex"));
    }

    #[test]
    fn what_does_not_fit_is_told_in_a_sentence() {
        for bad in [&b""[..], b"\xc1", b"\x91\x81\xa4type\xa4None", &[0x93; 50]] {
            assert!(decode_commands(bad).is_err());
            let told = decode_config(bad).err().unwrap().0;
            assert!(told.starts_with("the relay cannot read its configuration: "));
        }
    }
}
