//! Groups of IPv4 sockets on any port, opened towards a NAT that must be guessed at.
//!
//! All of them hang on one epoll descriptor, so hundreds that hear nothing cost nothing. Their
//! buffers stay small until one of them is to carry a tunnel.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use arc_swap::ArcSwap;
use socket2::Socket;
use warren_core::hop::SocketRef;

use super::{SOL_UDP, UDP_GRO, open, set_option, widen};

/// The most sockets in one group ...
pub const MAX_GROUP: u16 = 512;
/// ... and in all of them. A process may have 1,024 files open where nothing else is set.
const MAX_ALL: usize = 1_024;
/// Sockets that one look tells of; what is left is told by the next.
const LOOK: usize = 64;

type Table = HashMap<SocketRef, Arc<Socket>>;

/// The groups that are open. Changed by one thread at a time, read by any.
#[derive(Debug)]
pub struct SocketGroups {
    table: ArcSwap<Table>,
    epoll: OwnedFd,
}

impl SocketGroups {
    /// No groups.
    ///
    /// # Errors
    /// The kernel's, when it gives no descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain creation; the result is checked before it is owned.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            table: ArcSwap::default(),
            // SAFETY: `raw` was just opened and belongs to nobody else.
            epoll: unsafe { OwnedFd::from_raw_fd(raw) },
        })
    }

    /// Opens `count` sockets as `group`: all of them, or none.
    ///
    /// # Errors
    /// One sentence: the group is open, too many are, or the kernel gives no more.
    pub fn open(&self, group: u32, count: u16) -> io::Result<()> {
        let old = self.table.load();
        if old.keys().any(|socket| socket.group == group) {
            let text = format!("socket group {group} is open already");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        if old.len() + usize::from(count) > MAX_ALL {
            let text = format!(
                "{count} more sockets for group {group} would be more than {MAX_ALL} in all groups"
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        let mut table = Table::clone(&old);
        for index in 0..count {
            let at = SocketRef { group, index };
            let socket = self.open_one(at).map_err(|error| {
                let text = format!(
                    "socket group {group} was not opened, at socket {index} of {count}: {error}"
                );
                io::Error::new(error.kind(), text)
            })?;
            table.insert(at, socket.into());
        }
        self.table.store(table.into());
        Ok(())
    }

    fn open_one(&self, at: SocketRef) -> io::Result<Socket> {
        let socket =
            open((Ipv4Addr::UNSPECIFIED, 0).into(), false)?.ok_or(io::ErrorKind::Unsupported)?;
        set_option(&socket, SOL_UDP, UDP_GRO, 1);
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: u64::from(at.group) << 16 | u64::from(at.index),
        };
        // SAFETY: one epoll_event that lives through the call; both descriptors are open.
        let result = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &mut event,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }

    /// Closes a group; one that is not open is closed.
    pub fn close(&self, group: u32) {
        self.retain(|socket| socket.group != group);
    }

    /// Closes every group.
    pub fn close_all(&self) {
        self.retain(|_| false);
    }

    /// Closes all of a group but one, which may carry a tunnel from now on. False when that one
    /// is not open: nothing is closed then.
    pub fn keep(&self, kept: SocketRef) -> bool {
        let open = self.widen(kept);
        if open {
            self.retain(|socket| socket.group != kept.group || *socket == kept);
        }
        open
    }

    /// Gives a socket a tunnel's buffers. Whether it is open.
    pub fn widen(&self, socket: SocketRef) -> bool {
        let socket = self.get(socket);
        if let Some(socket) = &socket {
            widen(socket);
        }
        socket.is_some()
    }

    fn retain(&self, keep: impl Fn(&SocketRef) -> bool) {
        let mut table = Table::clone(&self.table.load());
        table.retain(|socket, _| keep(socket));
        // Closing takes a socket off the epoll descriptor.
        self.table.store(table.into());
    }

    /// Whether a path by this socket can be used: the main ones always.
    #[must_use]
    pub fn has(&self, socket: SocketRef) -> bool {
        socket.is_main() || self.table.load().contains_key(&socket)
    }

    pub(super) fn get(&self, socket: SocketRef) -> Option<Arc<Socket>> {
        self.table.load().get(&socket).cloned()
    }

    /// A descriptor that is readable while any of the sockets is; none while no group is open.
    #[must_use]
    pub fn descriptor(&self) -> Option<RawFd> {
        (!self.table.load().is_empty()).then(|| self.epoll.as_raw_fd())
    }

    /// Calls `each` with every socket that has something, at most [`LOOK`] of them.
    pub fn each_ready(&self, mut each: impl FnMut(SocketRef, RawFd)) {
        let mut ready = [libc::epoll_event { events: 0, u64: 0 }; LOOK];
        // SAFETY: an array of LOOK events that lives through the call; it does not wait.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                ready.as_mut_ptr(),
                LOOK as libc::c_int,
                0,
            )
        };
        for event in &ready[..usize::try_from(count).unwrap_or(0)] {
            let word = event.u64;
            let at = SocketRef {
                group: (word >> 16) as u32,
                index: word as u16,
            };
            // Held open while it is read, whatever another thread closes.
            if let Some(socket) = self.get(at) {
                each(at, socket.as_raw_fd());
            }
        }
    }
}
