//! Waiting for one socket and for a nudge from another thread, with a deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Wakes a thread that waits in [`wait`]. Waking twice is waking once.
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(crate) fn wake(&self) {
        // Only a counter near its limit refuses, and then the descriptor is readable anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn drain(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What [`wait`] found. Both false: it was woken, or the deadline passed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Sleep until the socket is ready, `wake` is called or the deadline has passed.
///
/// An error or hangup of the socket counts as readable and writable: the next call on it tells.
pub(crate) fn wait(
    socket: Option<(BorrowedFd<'_>, bool, bool)>,
    wake: &Wake,
    deadline: Instant,
) -> io::Result<Ready> {
    let mut fds = Vec::with_capacity(2);
    fds.push(PollFd::new(wake, PollFlags::IN));
    if let Some((fd, read, write)) = socket {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, read);
        events.set(PollFlags::OUT, write);
        fds.push(PollFd::from_borrowed_fd(fd, events));
    }
    poll_until(&mut fds, deadline)?;
    if !fds[0].revents().is_empty() {
        wake.drain();
    }
    let events = fds.get(1).map_or(PollFlags::empty(), PollFd::revents);
    let failed = events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
    Ok(Ready {
        readable: failed || events.contains(PollFlags::IN),
        writable: failed || events.contains(PollFlags::OUT),
    })
}

/// Sleep until one of several sockets can be written (has connected or failed); its index.
pub(crate) fn wait_any_writable(
    sockets: &[BorrowedFd<'_>],
    wake: &Wake,
    deadline: Instant,
) -> io::Result<Option<usize>> {
    let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
    fds.extend(
        sockets
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::OUT)),
    );
    poll_until(&mut fds, deadline)?;
    if !fds[0].revents().is_empty() {
        wake.drain();
    }
    Ok(fds[1..].iter().position(|fd| !fd.revents().is_empty()))
}

fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(fds, Some(&timespec(left))) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
