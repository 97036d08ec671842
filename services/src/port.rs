//! Free ports.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below what the system gives to outgoing connections, so that nothing takes a port while its server restarts.
const PORTS: Range<u16> = 10_000..32_000;

/// A port of 127.0.0.1 at which nothing listens now. Whoever finds it taken a moment later takes another one.
pub(crate) fn free() -> io::Result<u16> {
    (0..1000)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| io::Error::other("no port is free"))
}
