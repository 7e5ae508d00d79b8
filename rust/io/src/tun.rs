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
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    tso: bool,
    uso: bool,
}

impl Tun {
    /// Creates the device `name` (at most 15 bytes; a `%d` in it is filled in by the kernel) and
    /// brings up its MTU and what offloads the kernel takes.
    ///
    /// # Errors
    /// One sentence that says what is wrong and the way out, with the kernel's error kind.
    pub fn open(name: &str, mtu_bytes: u16) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0', ' ']) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} cannot be the name of a network interface (1 to 15 characters)"),
            ));
        }
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
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let name = attach(&fd, name)?;
        let header_len: libc::c_int = VNET_LEN as libc::c_int;
        // SAFETY: the ioctl reads one int.
        if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &header_len) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let (tso, uso) = set_offloads(&fd);
        set_mtu(&name, mtu_bytes)?;
        Ok(Self { fd, name, tso, uso })
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

    /// Reads one header and packet into `buffer` (at least [`READ_ROOM`] bytes); gives their
    /// length, or `WouldBlock`.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when nothing waits.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length are those of a live exclusive slice.
        let read = unsafe {
            libc::read(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Writes one header and packet, given in parts (at most 1,024).
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for a packet that it finds malformed.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // SAFETY: IoSlice is ABI compatible with iovec; the slices live through the call.
        let written = unsafe {
            libc::writev(
                self.fd.as_raw_fd(),
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

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
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

fn attach(fd: &OwnedFd, name: &str) -> io::Result<String> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the ioctl reads and writes one ifreq.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &mut request) } < 0 {
        let error = io::Error::last_os_error();
        let sentence = match error.raw_os_error() {
            Some(libc::EBUSY) => format!(
                "the TUN device {name} is in use by another program: stop that, or choose another name"
            ),
            Some(libc::EPERM | libc::EACCES) => format!(
                "this user may not create the TUN device {name}: run as root, or run without a TUN device"
            ),
            Some(libc::EINVAL) => format!(
                "{name} cannot be a TUN device: an interface of another kind has that name, or it is malformed"
            ),
            _ => format!("the TUN device {name} cannot be created: {error}"),
        };
        return Err(io::Error::new(error.kind(), sentence));
    }
    let bytes: Vec<u8> = request
        .ifr_name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| *c as u8)
        .collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
            let error = Tun::open(name, 1280).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
