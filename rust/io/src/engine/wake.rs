//! An eventfd: how threads, and Python's event loop, are woken.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A counter that is readable while it is not zero.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: plain creation; the result is checked before it is owned.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just opened and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Makes the descriptor readable.
    pub(crate) fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight bytes that live through the call. A full counter is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }

    /// Makes it unreadable until the next signal.
    pub(crate) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes that live through the call.
        unsafe { libc::read(self.0.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits until one of the descriptors is readable or broken; tells which.
///
/// Absent descriptors are never ready. An interrupted wait gives none.
pub(crate) fn wait_readable<const N: usize>(descriptors: [Option<RawFd>; N]) -> [bool; N] {
    let mut polls = descriptors.map(|fd| libc::pollfd {
        // Negative descriptors are skipped by the kernel.
        fd: fd.unwrap_or(-1),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: an array of N pollfds that lives through the call.
    unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, -1) };
    polls.map(|poll| poll.revents != 0)
}
