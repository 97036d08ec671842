//! What the driver says, as the family's errors.

use pubsub_core::{Error, ErrorKind};
use redis::{ErrorKind as Driver, RedisError, ServerErrorKind as Server};

/// What kind of failure it is for whoever called.
pub(crate) fn kind_of(error: &RedisError) -> ErrorKind {
    // Codes for which the driver has no kind of its own.
    match error.code() {
        Some("OOM") => return ErrorKind::Full,
        Some("NOGROUP" | "UNBLOCKED") => return ErrorKind::NotFound,
        Some("WRONGTYPE") => return ErrorKind::Conflict,
        Some("NOAUTH" | "WRONGPASS") => return ErrorKind::Refused,
        Some("NOREPLICAS" | "MISCONF") => return ErrorKind::Unavailable,
        _ => {}
    }
    match error.kind() {
        Driver::Io if error.is_timeout() => ErrorKind::TimedOut,
        Driver::Io
        | Driver::ClusterConnectionNotFound
        | Driver::MasterNameNotFoundBySentinel
        | Driver::NoValidReplicasFoundBySentinel => ErrorKind::Unavailable,
        Driver::AuthenticationFailed => ErrorKind::Refused,
        Driver::InvalidClientConfig | Driver::EmptySentinelList => ErrorKind::Invalid,
        Driver::RESP3NotSupported => ErrorKind::Unsupported,
        Driver::Server(kind) => match kind {
            Server::NoPerm => ErrorKind::Refused,
            Server::BusyLoading
            | Server::TryAgain
            | Server::ClusterDown
            | Server::MasterDown
            | Server::Moved
            | Server::Ask
            // A master that was demoted a moment ago.
            | Server::ReadOnly => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        },
        _ => ErrorKind::Internal,
    }
}

/// For `map_err`: the failure of doing this.
pub(crate) fn failed(doing: &'static str) -> impl Fn(RedisError) -> Error {
    move |error| Error::new(kind_of(&error), doing).with_source(error)
}
