//! Receiving in batches: one call to the kernel, many datagrams, several in each buffer (GRO).

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

use super::{SOL_UDP, UDP_GRO};

/// Buffers of one batch.
const BATCH: usize = 16;
/// A GRO buffer holds up to 64 KiB.
const SLOT: usize = 65_536;
const CONTROL_LEN: usize = 64;

/// One buffer that came in: datagrams from one source, each of `segment` bytes but the last.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// Where it came from.
    pub source: SocketAddr,
    /// Offset of its first byte in the arena.
    pub start: usize,
    /// Bytes in all.
    pub len: usize,
    /// Bytes of each datagram; at least 1.
    pub segment: usize,
}

/// The arena that datagrams are received into, and opened in.
pub struct Receiver {
    arena: Box<[u8]>,
    names: Box<[libc::sockaddr_storage; BATCH]>,
    controls: Box<[[u64; CONTROL_LEN / 8]; BATCH]>,
    messages: Vec<Message>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// An empty arena; its pages are touched only as datagrams come in.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: sockaddr_storage is plain old data; all zeros is valid.
        let names = unsafe { std::mem::zeroed() };
        Self {
            arena: vec![0; BATCH * SLOT].into_boxed_slice(),
            names: Box::new(names),
            controls: Box::new([[0; CONTROL_LEN / 8]; BATCH]),
            messages: Vec::with_capacity(BATCH),
        }
    }

    /// Receives what waits on `socket`, without blocking; gives the arena and what lies in it.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when nothing waits.
    pub fn receive(&mut self, socket: RawFd) -> io::Result<(&mut [u8], &[Message])> {
        self.messages.clear();
        // SAFETY: mmsghdr and iovec are plain old data; all zeros is valid.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        for (index, header) in headers.iter_mut().enumerate() {
            vectors[index].iov_base = self.arena[index * SLOT..].as_mut_ptr().cast();
            vectors[index].iov_len = SLOT;
            let header = &mut header.msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &mut vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN as _;
        }
        // SAFETY: every pointer above points into memory that outlives the call, with its length.
        let count = unsafe {
            libc::recvmmsg(
                socket,
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (index, header) in headers[..count].iter().enumerate() {
            let len = header.msg_len as usize;
            let Some(source) = read_address(&self.names[index]) else {
                continue;
            };
            if len == 0 || header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                continue;
            }
            let segment = segment_size(&header.msg_hdr).unwrap_or(len).clamp(1, len);
            self.messages.push(Message {
                source,
                start: index * SLOT,
                len,
                segment,
            });
        }
        Ok((&mut self.arena, &self.messages))
    }
}

fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled in the control buffer and its length; the macros stay inside.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = control.as_ref() {
            if message.cmsg_level == SOL_UDP && message.cmsg_type == UDP_GRO {
                let size: libc::c_int = std::ptr::read_unaligned(libc::CMSG_DATA(control).cast());
                return usize::try_from(size).ok();
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

fn read_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let family = libc::c_int::from(name.ss_family);
    let name = std::ptr::from_ref(name);
    match family {
        libc::AF_INET => {
            // SAFETY: the family says which of the address kinds the storage holds.
            let v4 = unsafe { &*name.cast::<libc::sockaddr_in>() };
            let ip = u32::from_be(v4.sin_addr.s_addr);
            Some(SocketAddrV4::new(ip.into(), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*name.cast::<libc::sockaddr_in6>() };
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(v6.sin6_addr.s6_addr.into(), port, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}
