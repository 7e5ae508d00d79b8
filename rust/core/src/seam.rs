//! The seam to Python: a mirror of `warren/engine/{commands,events,protocol}.py`.
//!
//! MessagePack maps, internally tagged by `type`. Addresses are text (`192.0.2.1:41641`,
//! `[2001:db8::1]:41641`), prefixes CIDR text, keys 32 raw bytes, times milliseconds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

/// A key as it travels on the seam: exactly 32 bytes.
pub type Key = ByteArray<32>;

/// Bytes from Python that do not fit the mirror; one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedSeam(pub String);

impl fmt::Display for MalformedSeam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MalformedSeam {}

/// Commands in order, and the generation to confirm (0: none).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Batch {
    /// Answered with [`Event::Applied`] when the packet path uses the commands.
    pub generation: u64,
    /// In the order of application.
    pub commands: Vec<Command>,
}

/// What Python tells the engine (`commands.py` tells what each field means).
#[derive(Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type")]
#[allow(missing_docs)]
pub enum Command {
    SetIdentity {
        private_key: Key,
        addresses: Vec<String>,
    },
    SetPeers {
        #[serde(default)]
        upsert: Vec<Peer>,
        #[serde(default)]
        remove: Vec<Key>,
    },
    SetFilter {
        rules: Vec<FilterRule>,
        #[serde(default)]
        shields_up: bool,
    },
    SetPath {
        peer: Key,
        addr: Option<String>,
        lease_ms: u64,
        #[serde(default)]
        group: u32,
        #[serde(default)]
        index: u16,
        #[serde(default)]
        vni: u32,
        #[serde(default)]
        channel: u16,
        #[serde(default = "default_mtu_bytes")]
        mtu_bytes: u16,
    },
    SetRegion {
        region: u32,
        nodes: Vec<RelayNode>,
    },
    SetHome {
        region: u32,
    },
    SendDatagram {
        to: String,
        data: ByteBuf,
        #[serde(default)]
        group: u32,
        #[serde(default)]
        index: u16,
        #[serde(default)]
        vni: u32,
        #[serde(default)]
        control: bool,
        #[serde(default)]
        channel: u16,
        #[serde(default)]
        whole: bool,
    },
    SendRelayed {
        region: u32,
        peer: Key,
        data: ByteBuf,
    },
    SendPacket {
        packet: ByteBuf,
    },
    Rebind {
        port: u16,
    },
    Dial {
        id: u64,
        to: String,
    },
    Splice {
        id: u64,
        fd: i32,
    },
    Hangup {
        id: u64,
    },
    OpenSockets {
        group: u32,
        count: u16,
    },
    OpenStream {
        group: u32,
        to: RelayNode,
    },
    CloseSockets {
        group: u32,
    },
    KeepSocket {
        group: u32,
        index: u16,
    },
    SetForward {
        vni: u32,
        a: Option<String>,
        b: Option<String>,
    },
    SetTurn {
        server: String,
        #[serde(default = "default_true")]
        on: bool,
    },
}

impl fmt::Debug for Command {
    /// Only the name: commands hold the private key and payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SetIdentity { .. } => "SetIdentity",
            Self::SetPeers { .. } => "SetPeers",
            Self::SetFilter { .. } => "SetFilter",
            Self::SetPath { .. } => "SetPath",
            Self::SetRegion { .. } => "SetRegion",
            Self::SetHome { .. } => "SetHome",
            Self::SendDatagram { .. } => "SendDatagram",
            Self::SendRelayed { .. } => "SendRelayed",
            Self::SendPacket { .. } => "SendPacket",
            Self::Rebind { .. } => "Rebind",
            Self::Dial { .. } => "Dial",
            Self::Splice { .. } => "Splice",
            Self::Hangup { .. } => "Hangup",
            Self::OpenSockets { .. } => "OpenSockets",
            Self::OpenStream { .. } => "OpenStream",
            Self::CloseSockets { .. } => "CloseSockets",
            Self::KeepSocket { .. } => "KeepSocket",
            Self::SetForward { .. } => "SetForward",
            Self::SetTurn { .. } => "SetTurn",
        })
    }
}

/// One WireGuard peer.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Peer {
    /// Its public node key.
    pub key: Key,
    /// Prefixes that may come from, and are routed to, this peer.
    pub allowed_ips: Vec<String>,
    /// Relay region where it can be reached; 0 when unknown.
    #[serde(default)]
    pub home_region: u32,
    /// Take the source of authenticated datagrams as its endpoint.
    #[serde(default)]
    pub roams: bool,
    /// Where a roaming peer starts.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Persistent keepalive in seconds, 0 for none.
    #[serde(default)]
    pub keepalive_s: u32,
}

/// An inclusive range of addresses of one family, both ends as text.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Span {
    /// Lowest address.
    pub first: String,
    /// Highest address.
    pub last: String,
}

/// Addresses and inclusive ports that a rule lets in.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct DstSpan {
    /// Destination addresses.
    pub span: Span,
    /// Lowest port.
    pub first_port: u16,
    /// Highest port.
    pub last_port: u16,
}

/// One inbound rule (PROTOCOL §3.8).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct FilterRule {
    /// Any of these sources …
    pub sources: Vec<Span>,
    /// … to any of these destinations …
    pub destinations: Vec<DstSpan>,
    /// … by any of these IP protocol numbers.
    pub protocols: Vec<u8>,
}

/// One relay server of a region, or a TURN server that is spoken to by a stream.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct RelayNode {
    /// `ip:port` to try in order.
    pub addrs: Vec<String>,
    /// SNI and Host header.
    pub server_name: String,
    /// SHA-256 of the pinned leaf certificate in DER.
    #[serde(default)]
    pub cert_sha256: Option<Key>,
    /// Speak without TLS.
    #[serde(default)]
    pub plain: bool,
    /// Accept any certificate.
    #[serde(default)]
    pub insecure: bool,
    /// HTTP proxy `ip:port`.
    #[serde(default)]
    pub proxy: Option<String>,
}

/// What the engine tells Python (`events.py` tells what each field means).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type")]
#[allow(missing_docs)]
pub enum Event {
    Applied {
        generation: u64,
    },
    Bound {
        port4: u16,
        port6: u16,
    },
    Datagram {
        src: String,
        data: ByteBuf,
        group: u32,
        index: u16,
        vni: u32,
        control: bool,
        channel: u16,
    },
    Relayed {
        region: u32,
        peer: Key,
        data: ByteBuf,
    },
    RegionState {
        region: u32,
        connected: bool,
        error: String,
        health: String,
    },
    StreamState {
        group: u32,
        open: bool,
        error: String,
    },
    PeerGone {
        region: u32,
        peer: Key,
        reason: u8,
    },
    Active {
        peer: Key,
        direct: bool,
    },
    Handshake {
        peer: Key,
    },
    ProbeReply {
        packet: ByteBuf,
    },
    Dialed {
        id: u64,
        error: String,
    },
    Fault {
        message: String,
        fatal: bool,
    },
}

/// What is fixed for the life of an engine.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct EngineConfig {
    /// TUN device to create; None for the userspace stack.
    pub tun: Option<String>,
    /// UDP port for both families; 0 takes any.
    #[serde(default)]
    pub port: u16,
    /// MTU of the TUN device or of the userspace stack.
    #[serde(default = "default_mtu_bytes")]
    pub mtu_bytes: u16,
    /// Userspace mode hands inbound TCP to the same port on 127.0.0.1.
    #[serde(default = "default_true")]
    pub loopback_forward: bool,
    /// Threads each way; 0: as many as suit the machine.
    #[serde(default)]
    pub threads: u16,
}

fn default_mtu_bytes() -> u16 {
    1280
}

fn default_true() -> bool {
    true
}

/// Counters of one peer; times are milliseconds ago.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct PeerStats {
    pub key: Key,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub handshake_ago_ms: Option<u64>,
    pub tx_ago_ms: Option<u64>,
    pub rx_ago_ms: Option<u64>,
    pub direct: Option<String>,
    pub mtu_bytes: Option<u16>,
}

/// What was forwarded between the two sides of a peer-relay session; times are milliseconds ago.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct ForwardStats {
    pub vni: u32,
    pub packets: u64,
    pub bytes: u64,
    pub a_ago_ms: Option<u64>,
    pub b_ago_ms: Option<u64>,
}

/// Counters of the engine.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub port4: u16,
    pub port6: u16,
    pub tun_name: Option<String>,
    pub offloads: Vec<String>,
    pub threads: u16,
    pub peers: Vec<PeerStats>,
    pub drops: BTreeMap<String, u64>,
    pub regions: BTreeMap<u32, bool>,
    #[serde(default)]
    pub forwards: Vec<ForwardStats>,
}

/// Read a list of commands as `encode_commands` wrote it.
///
/// # Errors
/// [`MalformedSeam`] with one sentence that names what does not fit.
pub fn decode_commands(bytes: &[u8]) -> Result<Batch, MalformedSeam> {
    decode("commands", bytes)
}

/// Read the configuration that `NativeEngine` wrote.
///
/// # Errors
/// [`MalformedSeam`] with one sentence that names what does not fit.
pub fn decode_config(bytes: &[u8]) -> Result<EngineConfig, MalformedSeam> {
    decode("the configuration", bytes)
}

/// Write events for `decode_events`.
#[must_use]
pub fn encode_events(events: &[Event]) -> Vec<u8> {
    encode(&events)
}

/// Write the counters for `NativeEngine.snapshot`.
#[must_use]
pub fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    encode(snapshot)
}

fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, MalformedSeam> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    T::deserialize(&mut reader)
        .map_err(|error| MalformedSeam(format!("the engine cannot read {what}: {error}")))
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing plain values into memory fails for no value of these types.
    rmp_serde::to_vec_named(value).unwrap_or_default()
}

#[cfg(test)]
#[path = "seam_tests.rs"]
mod tests;
