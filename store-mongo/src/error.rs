//! What the driver says, as the family's errors.

use std::fmt::Write as _;

use mongodb::error::{Error as Driver, ErrorKind as DriverKind, WriteFailure};
use pubsub_core::{Error, ErrorKind};

/// That a document with this `_id`, or of another unique index, is there.
pub(crate) const DUPLICATE_KEY: i32 = 11000;

/// The server's name of code 18.
const AUTHENTICATION_FAILED: &str = "\"AuthenticationFailed\"";

/// What kind of failure it is for whoever called.
pub(crate) fn kind_of(error: &Driver) -> ErrorKind {
    if let Some(code) = code_of(error) {
        return of_code(code);
    }
    match &*error.kind {
        DriverKind::InvalidArgument { .. } | DriverKind::InvalidTlsConfig { .. } => ErrorKind::Invalid,
        DriverKind::Authentication { .. } => ErrorKind::Refused,
        // A server that let nobody in is none to select; why, the driver says in its text alone.
        DriverKind::ServerSelection { message, .. } if message.contains(AUTHENTICATION_FAILED) => {
            ErrorKind::Refused
        }
        DriverKind::Bson(_) | DriverKind::BsonDeserialization(_) => ErrorKind::Corrupt,
        DriverKind::Io(io) if io.kind() == std::io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        DriverKind::Io(_)
        | DriverKind::DnsResolve { .. }
        | DriverKind::ConnectionPoolCleared { .. }
        | DriverKind::ServerSelection { .. } => ErrorKind::Unavailable,
        DriverKind::IncompatibleServer { .. } | DriverKind::SessionsNotSupported => ErrorKind::Unsupported,
        DriverKind::Shutdown => ErrorKind::Closed,
        _ => ErrorKind::Internal,
    }
}

/// The server's code, where it said one. Of an insert of many it is that of its write concern alone: codes of single
/// documents are judged where they are known.
fn code_of(error: &Driver) -> Option<i32> {
    match &*error.kind {
        DriverKind::Command(command) => Some(command.code),
        DriverKind::Write(WriteFailure::WriteError(failure)) => Some(failure.code),
        DriverKind::Write(WriteFailure::WriteConcernError(failure)) => Some(failure.code),
        DriverKind::InsertMany(failure) => failure.write_concern_error.as_ref().map(|failure| failure.code),
        _ => None,
    }
}

/// By the codes of `src/mongo/base/error_codes.yml` of the server, and those of compatible services.
pub(crate) const fn of_code(code: i32) -> ErrorKind {
    match code {
        // BadValue, FailedToParse, TypeMismatch, InvalidOptions, InvalidNamespace, UnknownReplWriteConcern.
        2 | 9 | 14 | 72 | 73 | 79 => ErrorKind::Invalid,
        // NamespaceNotFound, IndexNotFound.
        26 | 27 => ErrorKind::NotFound,
        // UserNotFound, Unauthorized, AuthenticationFailed, RolesNotFound, DocumentValidationFailure, what Atlas will not do.
        11 | 13 | 18 | 31 | 121 | 8000 => ErrorKind::Refused,
        // IllegalOperation, CommandNotFound, CommandNotSupported, CommandNotSupportedOnView, APIVersionError,
        // unknown stage, no change streams here, NotImplemented.
        20 | 59 | 115 | 166 | 322 | 40324 | 40573 | 238 => ErrorKind::Unsupported,
        // IndexOptionsConflict, IndexKeySpecsConflict, DuplicateKey and its older forms.
        85 | 86 | DUPLICATE_KEY | 11001 | 12582 => ErrorKind::Conflict,
        // OutOfDiskSpace, QuotaExceeded.
        12501 | 14031 => ErrorKind::Full,
        // BSONObjectTooLarge and its older forms, KeyTooLong.
        10334 | 17280 | 17419 | 17420 => ErrorKind::TooLarge,
        // LockTimeout, MaxTimeMSExpired, WriteConcernTimeout, NetworkTimeout, NetworkInterfaceExceededTimeLimit,
        // ExceededTimeLimit.
        24 | 50 | 64 | 89 | 202 | 262 => ErrorKind::TimedOut,
        // The network within the deployment: HostUnreachable, HostNotFound, SocketException.
        6 | 7 | 9001
        // A primary that is none, or not yet: PrimarySteppedDown, NotWritablePrimary and its older forms.
        | 189 | 10058 | 10107 | 13435 | 13436
        // A server that goes or comes: ShutdownInProgress, InterruptedAtShutdown, InterruptedDueToReplStateChange,
        // Interrupted, FailedToSatisfyReadPreference, ReadConcernMajorityNotAvailableYet, CannotSatisfyWriteConcern.
        | 91 | 11600 | 11602 | 11601 | 133 | 134 | 100
        // What was asked has to be asked again: CursorNotFound, CursorKilled, WriteConflict, StaleShardVersion, StaleConfig.
        | 43 | 237 | 112 | 63 | 13388
        // Load: TooManyRequests of a compatible service, IngressRequestRateLimitExceeded, TemporarilyUnavailable.
        | 16500 | 462 | 365 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

/// For `map_err`: the failure of doing this.
pub(crate) fn failed(doing: &'static str) -> impl Fn(Driver) -> Error {
    move |error| Error::new(kind_of(&error), doing).with_source(told(&error))
}

/// What the server or the driver said, without the documents that the driver would repeat.
pub(crate) fn told(error: &Driver) -> String {
    let mut text = match &*error.kind {
        DriverKind::Command(it) => said(it.code, Some(&it.code_name), &it.message),
        DriverKind::Write(WriteFailure::WriteError(it)) => {
            said(it.code, it.code_name.as_deref(), &it.message)
        }
        DriverKind::Write(WriteFailure::WriteConcernError(it)) => {
            said(it.code, Some(&it.code_name), &it.message)
        }
        DriverKind::InsertMany(it) => match (&it.write_concern_error, &it.write_errors) {
            (Some(it), _) => said(it.code, Some(&it.code_name), &it.message),
            (None, Some(errors)) => format!("{} documents were not inserted", errors.len()),
            (None, None) => "an insert failed".to_owned(),
        },
        other => other.to_string(),
    };
    if let Some(cause) = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Driver>()) {
        let _ = write!(text, ": {}", told(cause));
    }
    text
}

/// A refusal in the server's words: its code, the name of that, and its text.
pub(crate) fn said(code: i32, name: Option<&str>, message: &str) -> String {
    match name {
        Some(name) if !name.is_empty() => format!("{message} ({name}, code {code})"),
        _ => format!("{message} (code {code})"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use mongodb::bson::{deserialize_from_document, doc};
    use mongodb::error::CommandError;

    use super::{Driver, DriverKind, failed, kind_of, of_code};
    use pubsub_core::ErrorKind;

    fn command(code: i32, name: &str, message: &str) -> Driver {
        let answer = doc! { "code": code, "codeName": name, "errmsg": message };
        let command: CommandError = deserialize_from_document(answer).unwrap();
        DriverKind::Command(command).into()
    }

    #[test]
    fn every_code_of_a_server_has_a_kind() {
        for (kind, codes) in [
            (ErrorKind::Invalid, &[2, 9, 14, 72, 73, 79][..]),
            (ErrorKind::NotFound, &[26, 27]),
            (ErrorKind::Refused, &[11, 13, 18, 31, 121, 8000]),
            (ErrorKind::Unsupported, &[20, 59, 115, 166, 238, 322, 40324, 40573]),
            (ErrorKind::Conflict, &[85, 86, 11000, 11001, 12582]),
            (ErrorKind::Full, &[12501, 14031]),
            (ErrorKind::TooLarge, &[10334, 17280, 17419, 17420]),
            (ErrorKind::TimedOut, &[24, 50, 64, 89, 202, 262]),
            (ErrorKind::Unavailable, &[6, 7, 9001, 189, 10058, 10107, 13435, 13436]),
            (ErrorKind::Unavailable, &[91, 100, 133, 134, 11600, 11601, 11602]),
            (ErrorKind::Unavailable, &[43, 63, 112, 237, 365, 462, 13388, 16500]),
            (ErrorKind::Internal, &[0, 1, 8, 99_999]),
        ] {
            for code in codes {
                assert_eq!(of_code(*code), kind, "{code}");
                assert_eq!(kind_of(&command(*code, "", "")), kind, "{code}");
            }
        }
    }

    #[test]
    fn what_the_driver_finds_by_itself_has_a_kind() {
        let timed_out: Driver = io::Error::from(io::ErrorKind::TimedOut).into();
        let cut: Driver = io::Error::from(io::ErrorKind::UnexpectedEof).into();
        for (error, kind) in [
            (timed_out, ErrorKind::TimedOut),
            (cut, ErrorKind::Unavailable),
            (DriverKind::Shutdown.into(), ErrorKind::Closed),
            (DriverKind::SessionsNotSupported.into(), ErrorKind::Unsupported),
            (DriverKind::MissingResumeToken.into(), ErrorKind::Internal),
        ] {
            assert_eq!(kind_of(&error), kind, "{error}");
        }
    }

    #[test]
    fn an_error_says_the_servers_words_once() {
        let error = failed("append lines")(command(13, "Unauthorized", "not authorized on pipeline"));
        assert_eq!(
            error.chain(),
            "append lines: refused: not authorized on pipeline (Unauthorized, code 13)"
        );
    }
}
