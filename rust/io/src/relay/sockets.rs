//! What is set on the sockets of connections. All of it is of use and none of it needed: a
//! connection is served where the system refuses.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::SockRef;

/// A dead machine's connection is found out within this time, while data waits to be sent.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that the system keeps for a client beyond what is on the way to it. More would only
/// wait longer, behind each other, where no turn is taken.
const UNSENT_BYTES: u32 = 256 << 10;

/// For every connection.
pub(super) fn prepare(socket: &impl AsFd) {
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT.as_millis() as u32);
}

/// For clients: what waits, waits in the outbox.
pub(super) fn keep_little_unsent(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES);
}
