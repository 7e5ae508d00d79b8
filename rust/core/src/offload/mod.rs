//! Segmentation offload: what the kernel leaves to a TUN device, done here, both ways.
//!
//! Outbound, the kernel hands over TCP and UDP super-packets of up to 64 KiB with a
//! [`VnetHeader`]; [`Split`] cuts them into packets of the path's size with right headers and
//! checksums, each written straight to where it is sealed; smaller ones if the path has shrunk
//! meanwhile ([`Split::fit`]), and what cannot be cut is answered ([`too_big`]). Inbound, [`Coalescer`] joins
//! neighbouring packets of one flow, so that the kernel takes them in one write.
//!
//! Everything is pure: bytes in, bytes and ranges out. Layouts: virtio 1.2 §5.1.6 (the header),
//! RFC 791, RFC 8200, RFC 9293, RFC 768.

mod checksum;
mod coalesce;
mod headers;
mod split;
mod too_big;
mod vnet;

pub use checksum::{finish, pseudo_sum, sum};
pub use coalesce::{Coalescer, Group, Part};
pub use split::{Split, TooBig};
pub use too_big::{ANSWER_BYTES, too_big};
pub use vnet::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_LEN, VnetHeader};

/// An offloaded packet that contradicts its own headers: it cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedOffload(pub &'static str);

impl std::fmt::Display for MalformedOffload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for MalformedOffload {}

#[cfg(test)]
mod tests;
