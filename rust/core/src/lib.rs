//! Warren's packet engine, without sockets, clocks, threads or entropy of its own.
//!
//! | room | what it does |
//! |---|---|
//! | [`seam`] | commands from Python, events to Python, as MessagePack |
//! | [`clock`] | how time and entropy come in |
//! | [`demux`] | what kind of datagram this is |
//! | [`wg`] | WireGuard: peers, sessions, handshakes, cookies, timers |
//! | [`routes`] | allowed IPs: longest prefix, both ways |
//! | [`hop`] | by which socket and in what wrapping a datagram leaves |
//! | [`path`] | where a peer is sent to: leased direct path or relay |
//! | [`packet`] | IPv4 and IPv6 headers as far as a filter needs them |
//! | [`filter`] | the inbound packet filter with reply tracking |
//! | [`probe`] | TSMP and ICMP answers |
//! | [`derp`] | the relay protocol's codec |
//! | [`relay`] | the relay server's queues, fairness and seam |
//! | [`offload`] | TSO split and GRO coalescing |
//!
//! A datagram's way in: `demux` → `wg::Tunnel::session` → `wg::Opener::open` →
//! `wg::Tables::allows` (source belongs to the peer) → `filter::Gate::check_in` → device.
//! A packet's way out: `wg::Tables::route` → `filter::Gate::note_out` → `wg::Tunnel::sender` →
//! `wg::Session::begin` and `seal` → `path::Path::direct`, else the relay.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod demux;
pub mod derp;
pub mod filter;
pub mod hop;
pub mod offload;
pub mod packet;
pub mod path;
pub mod probe;
pub mod relay;
pub mod routes;
pub mod seam;
pub mod turn_stream;
pub mod wg;
