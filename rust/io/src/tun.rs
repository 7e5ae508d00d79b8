//! The kernel's TUN device, opened with offloads: one read or write moves up to 64 KiB.
//!
//! Addresses and routes are not set here; only the device, its MTU and its offloads are. Every
//! read and write carries a `virtio_net_hdr` in front of the packet (see
//! `warren_core::offload::VnetHeader`).

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use warren_core::offload::VNET_LEN;

/// Room for one read: header and the largest super-packet.
pub const READ_ROOM: usize = VNET_LEN + 65_536;

const PATH: &std::ffi::CStr = c"/dev/net/tun";
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// An open TUN device. Reading and writing may be done from different threads at once.
///
/// With several queues the kernel gives the packets of one flow to one of them: to that by which
/// the flow's packets in the other direction came last, or to any.
#[derive(Debug)]
pub struct Tun {
    queues: Vec<OwnedFd>,
    name: String,
    tso: bool,
    uso: bool,
}

impl Tun {
    /// Creates the device `name` (at most 15 bytes; a `%d` in it is filled in by the kernel) and
    /// brings up its MTU and what offloads the kernel takes. `queues`: how many are wanted, at
    /// least 1; a device that was made beforehand for one has one.
    ///
    /// # Errors
    /// One sentence that says what is wrong and the way out, with the kernel's error kind.
    pub fn open(name: &str, mtu_bytes: u16, queues: usize) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0', ' ']) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} cannot be the name of a network interface (1 to 15 characters)"),
            ));
        }
        let first = open_device()?;
        // A device for several queues must be made by us: joining one that is there would take
        // packets away from whom it belongs to.
        let made = (queues > 1)
            .then(|| attach(&first, name, libc::IFF_MULTI_QUEUE | libc::IFF_TUN_EXCL).ok())
            .flatten();
        let many = made.is_some();
        let name = match made {
            Some(name) => name,
            None => attach(&first, name, 0).map_err(|error| attach_error(name, &error))?,
        };
        let mut queues_open = vec![first];
        while many && queues_open.len() < queues {
            let next = open_device()?;
            attach(&next, &name, libc::IFF_MULTI_QUEUE)
                .map_err(|error| attach_error(&name, &error))?;
            queues_open.push(next);
        }
        let header_len: libc::c_int = VNET_LEN as libc::c_int;
        for queue in &queues_open {
            // SAFETY: the ioctl reads one int.
            if unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETVNETHDRSZ, &header_len) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Offloads are the device's, whichever queue they are set by.
        let (tso, uso) = set_offloads(&queues_open[0]);
        set_mtu(&name, mtu_bytes)?;
        Ok(Self {
            queues: queues_open,
            name,
            tso,
            uso,
        })
    }

    /// How many queues it has; they are counted from 0.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// The descriptor of one queue, to wait on. With a number that is too large it is another's.
    #[must_use]
    pub fn descriptor(&self, queue: usize) -> RawFd {
        self.queues[queue % self.queues.len()].as_raw_fd()
    }

    /// The device's name as the kernel has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the kernel hands over TCP super-packets.
    #[must_use]
    pub fn tso(&self) -> bool {
        self.tso
    }

    /// Whether UDP super-packets are handed over and taken.
    #[must_use]
    pub fn uso(&self) -> bool {
        self.uso
    }

    /// Reads one header and packet of a queue into `buffer` (at least [`READ_ROOM`] bytes); gives
    /// their length, or `WouldBlock`.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when nothing waits.
    pub fn read(&self, queue: usize, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length are those of a live exclusive slice.
        let read = unsafe {
            libc::read(
                self.descriptor(queue),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Writes one header and packet, given in parts (at most 1,024), to a queue.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for a packet that it finds malformed.
    pub fn write(&self, queue: usize, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // SAFETY: IoSlice is ABI compatible with iovec; the slices live through the call.
        let written = unsafe {
            libc::writev(
                self.descriptor(queue),
                parts.as_ptr().cast(),
                parts.len() as libc::c_int,
            )
        };
        if written < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn open_device() -> io::Result<OwnedFd> {
    // SAFETY: the path is a C string; the result is checked before it is owned.
    let raw = unsafe {
        libc::open(
            PATH.as_ptr(),
            libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK,
        )
    };
    if raw < 0 {
        return Err(open_error(io::Error::last_os_error()));
    }
    // SAFETY: `raw` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn open_error(error: io::Error) -> io::Error {
    let sentence = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "/dev/net/tun is missing: load the tun module (modprobe tun), or run without a TUN device"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "/dev/net/tun may not be opened by this user: run as root, or run without a TUN device"
        }
        _ => {
            return io::Error::new(
                error.kind(),
                format!("/dev/net/tun cannot be opened: {error}"),
            );
        }
    };
    io::Error::new(error.kind(), sentence)
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain old data; all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// Makes the descriptor the device's, or a queue of it; gives the device's name.
fn attach(fd: &OwnedFd, name: &str, flags: libc::c_int) -> io::Result<String> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as libc::c_short;
    // SAFETY: the ioctl reads and writes one ifreq.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| *c as u8)
        .collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn attach_error(name: &str, error: &io::Error) -> io::Error {
    let sentence = match error.raw_os_error() {
        Some(libc::EBUSY) => format!(
            "the TUN device {name} is in use by another program: stop that, or choose another name"
        ),
        Some(libc::EPERM | libc::EACCES) => format!(
            "this user may not create the TUN device {name}: run as root, or run without a TUN device"
        ),
        Some(libc::EINVAL) => format!(
            "{name} cannot be a TUN device: an interface of another kind, or of another program, has that name, or it is malformed"
        ),
        _ => format!("the TUN device {name} cannot be created: {error}"),
    };
    io::Error::new(error.kind(), sentence)
}

/// Asks for the most and settles for what the kernel takes: (TCP, UDP) super-packets.
fn set_offloads(fd: &OwnedFd) -> (bool, bool) {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    let udp = TUN_F_USO4 | TUN_F_USO6;
    for (flags, tso, uso) in [(tcp | udp, true, true), (tcp, true, false)] {
        // SAFETY: the ioctl takes its argument by value.
        if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, flags) } == 0 {
            return (tso, uso);
        }
    }
    // SAFETY: as above.
    unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, 0 as libc::c_ulong) };
    (false, false)
}

fn set_mtu(name: &str, mtu_bytes: u16) -> io::Result<()> {
    // SAFETY: plain socket creation; checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` is ours.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut request = request(name);
    request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu_bytes);
    // SAFETY: the ioctl reads one ifreq.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &request) } < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(
            error.kind(),
            format!("the TUN device {name} does not take an MTU of {mtu_bytes} bytes: {error}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_refused_in_one_sentence() {
        for name in ["", "a name", "x/y", "sixteen-letters-"] {
            let error = Tun::open(name, 1280, 1).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
