//! What a service manager is told (`sd_notify`): one datagram to the socket that it has named.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const SOCKET: &str = "NOTIFY_SOCKET";

/// The host answers.
pub fn ready() {
    tell("READY=1\nSTATUS=serving");
}

/// The directories are being read, until it is ready again.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let since_boot = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", since_boot.as_micros()));
}

/// Calls in flight finish, and then it ends; that takes no longer than this.
pub fn stopping(limit: Duration) {
    tell(&format!("STOPPING=1\nSTATUS=calls in flight finish\nEXTEND_TIMEOUT_USEC={}", limit.as_micros()));
}

/// Nothing happens without a service manager. One that does not listen does not keep a host from serving.
fn tell(what: &str) {
    let Some(name) = std::env::var_os(SOCKET) else { return };
    let sent = || -> io::Result<usize> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&name)?,
        };
        UnixDatagram::unbound()?.send_to_addr(what.as_bytes(), &address)
    };
    if let Err(error) = sent() {
        tracing::warn!("the service manager at {} was not told {what:?}: {error}", name.display());
    }
}
