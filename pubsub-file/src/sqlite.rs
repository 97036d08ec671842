//! What kind of failure an error of SQLite is: the one place that reads the driver's codes.

use pubsub_core::{Error, ErrorKind};
use rusqlite::ffi::{ErrorCode, SQLITE_IOERR_SHMSIZE};

/// The kind of an error of the driver.
pub(crate) fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return match error {
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => ErrorKind::Corrupt,
            _ => ErrorKind::Internal,
        };
    };
    if failure.extended_code == SQLITE_IOERR_SHMSIZE {
        // The index of the log finds no room: the first thing that a full disk refuses whoever opens the database.
        return ErrorKind::Full;
    }
    match failure.code {
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::CannotOpen
        | ErrorCode::SystemIoFailure
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::SchemaChanged
        | ErrorCode::OutOfMemory => ErrorKind::Unavailable,
        ErrorCode::OperationInterrupted => ErrorKind::TimedOut,
        ErrorCode::DiskFull => ErrorKind::Full,
        ErrorCode::TooBig => ErrorKind::TooLarge,
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
            ErrorKind::Refused
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    }
}

/// Turns an error of the driver into ours, told what was being done.
pub(crate) fn failed(what: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |error| Error::new(kind_of(&error), what).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::kind_of;
    use pubsub_core::ErrorKind;
    use rusqlite::{Error, ffi};

    #[test]
    fn every_code_of_the_driver_has_its_kind() {
        let table = [
            (ffi::SQLITE_BUSY, ErrorKind::Unavailable),
            (ffi::SQLITE_BUSY_SNAPSHOT, ErrorKind::Unavailable),
            (ffi::SQLITE_LOCKED, ErrorKind::Unavailable),
            (ffi::SQLITE_CANTOPEN, ErrorKind::Unavailable),
            (ffi::SQLITE_IOERR, ErrorKind::Unavailable),
            (ffi::SQLITE_PROTOCOL, ErrorKind::Unavailable),
            (ffi::SQLITE_NOMEM, ErrorKind::Unavailable),
            (ffi::SQLITE_SCHEMA, ErrorKind::Unavailable),
            (ffi::SQLITE_INTERRUPT, ErrorKind::TimedOut),
            (ffi::SQLITE_FULL, ErrorKind::Full),
            (ffi::SQLITE_IOERR_SHMSIZE, ErrorKind::Full),
            (ffi::SQLITE_TOOBIG, ErrorKind::TooLarge),
            (ffi::SQLITE_READONLY, ErrorKind::Refused),
            (ffi::SQLITE_PERM, ErrorKind::Refused),
            (ffi::SQLITE_AUTH, ErrorKind::Refused),
            (ffi::SQLITE_CORRUPT, ErrorKind::Corrupt),
            (ffi::SQLITE_NOTADB, ErrorKind::Corrupt),
            (ffi::SQLITE_CONSTRAINT, ErrorKind::Internal),
            (ffi::SQLITE_MISUSE, ErrorKind::Internal),
        ];
        for (code, kind) in table {
            assert_eq!(kind_of(&Error::SqliteFailure(ffi::Error::new(code), None)), kind, "code {code}");
        }
        assert_eq!(kind_of(&Error::IntegralValueOutOfRange(0, 1)), ErrorKind::Corrupt);
        assert_eq!(kind_of(&Error::QueryReturnedNoRows), ErrorKind::Internal);
    }
}
