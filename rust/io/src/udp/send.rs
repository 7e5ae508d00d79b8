//! Sending in batches: datagrams are sealed into one arena and leave in as few calls as can be.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::SockAddr;
use warren_core::hop::Hop;

use super::{SOL_UDP, UDP_SEGMENT, Ways};

/// The largest datagram that may be queued, in bytes.
pub const MAX_DATAGRAM: usize = 65_507;
const ARENA: usize = 256 << 10;
/// Kernels take 64 segments at least; the whole must fit one IP packet.
const MAX_SEGMENTS: usize = 64;
const MAX_RUN: usize = 65_000;
const BATCH: usize = 32;
/// How long a full socket buffer holds the sender up before packets are dropped.
const PATIENCE_MS: libc::c_int = 10;
/// Destinations whose path does not take segmentation (its MTU is smaller than our datagrams) ...
const MAX_NARROW: usize = 64;
/// ... and after how many flushes they are tried again.
const NARROW_FLUSHES: u32 = 100_000;

/// What became of a flush.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that it refused.
    pub dropped: u64,
    /// Messages for which a stream had no room.
    pub full: u64,
    /// Datagrams whose socket or stream was closed meanwhile.
    pub closed: u64,
}

impl SendReport {
    fn lose(&mut self, count: usize, error: &io::Error) {
        let lost = match error.kind() {
            io::ErrorKind::StorageFull => &mut self.full,
            io::ErrorKind::AddrNotAvailable => &mut self.closed,
            _ => &mut self.dropped,
        };
        *lost += count as u64;
    }
}

/// Datagrams of one size for one hop, back to back in the arena.
#[derive(Debug, Clone, Copy)]
struct Run {
    to: Hop,
    start: usize,
    len: usize,
    segment: usize,
    count: usize,
    /// The last one was shorter than the others: nothing may follow it.
    closed: bool,
}

/// Datagrams on their way out; reused from batch to batch.
#[derive(Debug)]
pub struct SendQueue {
    arena: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    /// With the size of the segments that were refused.
    narrow: Vec<(SocketAddr, usize)>,
    flushes: u32,
}

impl Default for SendQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl Run {
    /// Whether nothing can be added to it.
    fn is_full(&self) -> bool {
        self.closed || self.count >= MAX_SEGMENTS || self.len + self.segment > MAX_RUN
    }
}

impl SendQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arena: vec![0; ARENA].into_boxed_slice(),
            used: 0,
            runs: Vec::with_capacity(64),
            narrow: Vec::new(),
            flushes: 0,
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Room for one datagram to be written in place, when `len` bytes are left; flush otherwise.
    pub fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        self.arena[self.used..].get_mut(..len)
    }

    /// Where [`Self::room`] lies in [`Self::queued`], once it is filled.
    #[must_use]
    pub fn position(&self) -> usize {
        self.used
    }

    /// All that is queued, to be sealed in place.
    pub fn queued(&mut self) -> &mut [u8] {
        &mut self.arena[..self.used]
    }

    /// Queues the `len` bytes that were written to the front of [`Self::room`], wrapped already.
    pub fn commit(&mut self, to: Hop, len: usize) {
        let start = self.used;
        self.used += len;
        if let Some(run) = self.runs.last_mut()
            && run.to == to
            && !run.is_full()
            && len <= run.segment
        {
            run.closed = len < run.segment;
            run.len += len;
            run.count += 1;
            return;
        }
        self.runs.push(Run {
            to,
            start,
            len,
            segment: len,
            count: 1,
            closed: false,
        });
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// Where what may still grow begins: the last run of datagrams, while more of them would
    /// leave in the same call's message. All before it may as well go.
    #[must_use]
    pub fn full(&self) -> usize {
        match self.runs.last() {
            Some(run) if !run.is_full() => run.start,
            _ => self.used,
        }
    }

    /// Sends what lies before [`Self::full`]. What stays may move: by how many bytes, towards
    /// the front.
    pub fn flush_full(&mut self, ways: Ways<'_>) -> (SendReport, usize) {
        let open = self.runs.pop_if(|run| !run.is_full());
        let used = self.used;
        let report = self.flush(ways);
        let Some(mut open) = open else {
            return (report, used);
        };
        // Only now and then, so that little is copied.
        let moved = if open.start > ARENA / 2 {
            open.start
        } else {
            0
        };
        if moved > 0 {
            self.arena.copy_within(open.start..used, 0);
        }
        self.used = used - moved;
        open.start -= moved;
        self.runs.push(open);
        (report, moved)
    }

    /// Sends everything and empties the queue.
    pub fn flush(&mut self, ways: Ways<'_>) -> SendReport {
        let mut report = SendReport::default();
        self.flushes = self.flushes.wrapping_add(1);
        if self.flushes.is_multiple_of(NARROW_FLUSHES) {
            self.narrow.clear();
        }
        let queued = std::mem::take(&mut self.runs);
        let mut runs: &[Run] = &queued;
        while let Some(first) = runs.first() {
            let same = runs
                .iter()
                .take(BATCH)
                .take_while(|r| same_socket(r.to, first.to));
            let (batch, rest) = runs.split_at(same.count());
            self.send_runs(ways, batch, &mut report);
            runs = rest;
        }
        self.runs = queued;
        self.runs.clear();
        self.used = 0;
        report
    }

    /// Sends runs that leave by one socket.
    fn send_runs(&mut self, ways: Ways<'_>, mut runs: &[Run], report: &mut SendReport) {
        while let Some(run) = runs.first() {
            let ready = runs
                .iter()
                .take_while(|run| self.may_go_whole(ways, run))
                .count();
            if ready == 0 {
                self.send_singly(ways, run, report);
                runs = &runs[1..];
                continue;
            }
            match self.send_many(ways, &runs[..ready]) {
                Ok(taken) => {
                    report.sent += runs[..taken]
                        .iter()
                        .map(|run| run.count as u64)
                        .sum::<u64>();
                    runs = &runs[taken..];
                }
                Err(error) => {
                    self.refused(ways, run, &error, report);
                    runs = &runs[1..];
                }
            }
        }
    }

    fn may_go_whole(&self, ways: Ways<'_>, run: &Run) -> bool {
        if ways.streams.has(run.to.socket) {
            return false;
        }
        let narrow = |&(addr, segment)| addr == run.to.addr && run.segment >= segment;
        run.count == 1 || (ways.main.gso() && !self.narrow.iter().any(narrow))
    }

    /// The kernel refused `run`: tries it without segmentation if that may be why.
    ///
    /// EIO: a device on the way out cannot do it, so it is not tried again on these sockets.
    /// EINVAL, EMSGSIZE: the segments are larger than this path's MTU; one by one the kernel cuts
    /// them into fragments.
    fn refused(&mut self, ways: Ways<'_>, run: &Run, error: &io::Error, report: &mut SendReport) {
        match error.raw_os_error() {
            Some(libc::EIO | libc::EOPNOTSUPP) if run.count > 1 => ways.main.refuse_gso(),
            Some(libc::EINVAL | libc::EMSGSIZE) if run.count > 1 => {
                if self.narrow.len() >= MAX_NARROW {
                    self.narrow.clear();
                }
                self.narrow.push((run.to.addr, run.segment));
            }
            _ => {
                report.lose(run.count, error);
                return;
            }
        }
        self.send_singly(ways, run, report);
    }

    fn send_singly(&self, ways: Ways<'_>, run: &Run, report: &mut SendReport) {
        for datagram in self.arena[run.start..run.start + run.len].chunks(run.segment) {
            let mut result = ways.send_to(datagram, run.to);
            if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
                && wait_writable(ways, run.to)
            {
                result = ways.send_to(datagram, run.to);
            }
            match result {
                Ok(()) => report.sent += 1,
                Err(error) => report.lose(1, &error),
            }
        }
    }

    /// One `sendmmsg`; waits a little once when the socket's buffer is full.
    fn send_many(&self, ways: Ways<'_>, runs: &[Run]) -> io::Result<usize> {
        let to = runs[0].to;
        let held = ways.socket(to).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = held.as_raw_fd();
        // SAFETY: mmsghdr and iovec are plain old data; all zeros is valid.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        let mut controls = [[0u64; 4]; BATCH];
        let mut names: [Option<SockAddr>; BATCH] = [const { None }; BATCH];
        for (index, run) in runs.iter().enumerate() {
            vectors[index].iov_base = self.arena[run.start..].as_ptr().cast_mut().cast();
            vectors[index].iov_len = run.len;
            let name = names[index].insert(SockAddr::from(run.to.addr));
            let header = &mut headers[index].msg_hdr;
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len();
            header.msg_iov = &mut vectors[index];
            header.msg_iovlen = 1;
            if run.count > 1 {
                write_segment_size(header, &mut controls[index], run.segment as u16);
            }
        }
        let mut patient = true;
        loop {
            // SAFETY: every pointer above points into memory that outlives the call; the kernel
            // only reads through them.
            let sent = unsafe {
                libc::sendmmsg(
                    socket,
                    headers.as_mut_ptr(),
                    runs.len() as libc::c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            };
            if let Ok(sent) = usize::try_from(sent) {
                return Ok(sent);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock if patient => {
                    patient = false;
                    wait_writable(ways, to);
                }
                _ => return Err(error),
            }
        }
    }
}

/// Whether one call to the kernel may send to both.
fn same_socket(one: Hop, other: Hop) -> bool {
    one.socket == other.socket && one.addr.is_ipv4() == other.addr.is_ipv4()
}

fn wait_writable(ways: Ways<'_>, to: Hop) -> bool {
    let Some(socket) = ways.socket(to) else {
        return false;
    };
    let mut wait = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one pollfd that lives through the call.
    unsafe { libc::poll(&mut wait, 1, PATIENCE_MS) > 0 }
}

fn write_segment_size(header: &mut libc::msghdr, control: &mut [u64; 4], size: u16) {
    header.msg_control = control.as_mut_ptr().cast();
    // SAFETY: 32 bytes hold one control message with a u16 (24 bytes), aligned as it must be.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(2) as _;
        let message = libc::CMSG_FIRSTHDR(header);
        (*message).cmsg_level = SOL_UDP;
        (*message).cmsg_type = UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(2) as _;
        std::ptr::write_unaligned(libc::CMSG_DATA(message).cast::<u16>(), size);
    }
}
