//! Warren's packet engine at work: every line of Rust that touches the operating system.
//!
//! | room | what it does |
//! |---|---|
//! | [`engine`] | the threads, and what they do with each batch |
//! | [`tun`] | the kernel's TUN device with its offloads |
//! | [`udp`] | the node's UDP sockets with GSO and GRO |
//! | [`derp`] | connections to relays |
//! | [`netstack`] | TCP and UDP in userspace, where there is no TUN device |
//! | [`relay`] | the relay server, and the TLS end of the front door |
//! | [`ports`] | the traits where relay and userspace stack meet the engine |
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod derp;
pub mod engine;
pub mod netstack;
pub mod ports;
pub mod relay;
pub mod tun;
pub mod udp;
