//! What went wrong at the object store, as an error of the family.

use std::error::Error as StdError;
use std::io;

use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};
use pubsub_core::{Error, ErrorKind};

/// Most bytes of the store's own words that an error repeats: an answer may be a whole page.
const SAID_BYTES: usize = 600;

/// An error of the driver, with what was being done and to which object.
pub(crate) fn failed(doing: &'static str, key: impl std::fmt::Display, error: &StoreError) -> Error {
    let kind = kind_of(error);
    let said = error.to_string();
    let told = match kind {
        ErrorKind::Refused if said.contains("NoSuchBucket") => format!("{doing}: the bucket does not exist"),
        _ => doing.to_owned(),
    };
    let mut end = said.len().min(SAID_BYTES);
    while !said.is_char_boundary(end) {
        end -= 1;
    }
    Error::new(kind, told).with("object", key).with_source(said.get(..end).unwrap_or_default().to_owned())
}

/// The kind of an error of the driver. `NotFound` is of an object: a bucket that is not there is refused, for nothing that
/// was in it may be taken for removed.
pub(crate) fn kind_of(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::NotFound { source, .. } => match code(&source.to_string()) {
            Some("NoSuchBucket" | "ContainerNotFound") => ErrorKind::Refused,
            _ => ErrorKind::NotFound,
        },
        // A store says 409 also while another write of the object is under way.
        StoreError::AlreadyExists { source, .. } => match code(&source.to_string()) {
            Some("ConditionalRequestConflict" | "OperationAborted") => ErrorKind::Unavailable,
            Some("NoSuchBucket") => ErrorKind::Refused,
            _ => ErrorKind::Conflict,
        },
        StoreError::Precondition { .. } | StoreError::NotModified { .. } => ErrorKind::Conflict,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::Refused,
        StoreError::InvalidPath { .. } | StoreError::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => ErrorKind::Unsupported,
        StoreError::Generic { source, .. } => kind_of_cause(&**source),
        _ => ErrorKind::Internal,
    }
}

fn kind_of_cause(cause: &(dyn StdError + 'static)) -> ErrorKind {
    let mut next = Some(cause);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return match error.kind() {
                HttpErrorKind::Timeout => ErrorKind::TimedOut,
                // Also an answer that was cut: the connection broke.
                _ => ErrorKind::Unavailable,
            };
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Refused,
                _ => ErrorKind::Unavailable,
            };
        }
        next = error.source();
    }
    // The driver keeps its errors of answers to itself; their texts are what is left.
    kind_of_answer(&cause.to_string())
}

/// The kind of an answer by what the driver says of it.
fn kind_of_answer(said: &str) -> ErrorKind {
    let status: Option<u16> =
        said.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse().ok());
    match (status, code(said)) {
        (_, Some("SlowDown" | "InternalError" | "RequestTimeout" | "ServiceUnavailable")) => {
            ErrorKind::Unavailable
        }
        (_, Some("XMinioStorageFull" | "QuotaExceeded")) | (Some(507), _) => ErrorKind::Full,
        (_, Some("EntityTooLarge")) | (Some(413), _) => ErrorKind::TooLarge,
        (
            _,
            Some("ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" | "AuthorizationHeaderMalformed"),
        ) => ErrorKind::Refused,
        (Some(408 | 429 | 500..), _) => ErrorKind::Unavailable,
        (Some(400..500), _) => ErrorKind::Refused,
        // A redirect that leads nowhere: the bucket is in another region.
        _ if said.contains("incorrectly configured region") => ErrorKind::Refused,
        _ if said.contains("PermanentRedirect") || said.contains("status code: 3") => ErrorKind::Refused,
        _ => ErrorKind::Internal,
    }
}

/// The code of an error document: the text of its element `Code`.
fn code(said: &str) -> Option<&str> {
    Some(said.split_once("<Code>")?.1.split_once("</Code>")?.0.trim())
}

#[cfg(test)]
mod tests {
    use std::io;

    use object_store::Error as StoreError;
    use object_store::client::{HttpError, HttpErrorKind};
    use pubsub_core::ErrorKind;

    use super::{failed, kind_of};

    fn answer(status: u16, code: &str) -> StoreError {
        let text = format!(
            "Error performing PUT http://h/b/k in 2ms - Server returned non-2xx status code: {status} X: <Error><Code>{code}</Code></Error>"
        );
        generic(text)
    }

    fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        StoreError::Generic { store: "S3", source: source.into() }
    }

    fn http(kind: HttpErrorKind) -> StoreError {
        generic(HttpError::new(kind, io::Error::other("x")))
    }

    #[test]
    fn every_error_of_the_driver_has_its_kind() {
        let path = || "k".to_owned();
        let of_code = |code: &str| format!("status code: 4: <Code>{code}</Code>").into();
        let table = [
            (StoreError::NotFound { path: path(), source: of_code("NoSuchKey") }, ErrorKind::NotFound),
            (StoreError::NotFound { path: path(), source: of_code("NoSuchBucket") }, ErrorKind::Refused),
            (StoreError::AlreadyExists { path: path(), source: "412".into() }, ErrorKind::Conflict),
            (
                StoreError::AlreadyExists { path: path(), source: of_code("ConditionalRequestConflict") },
                ErrorKind::Unavailable,
            ),
            (StoreError::Precondition { path: path(), source: "412".into() }, ErrorKind::Conflict),
            (StoreError::PermissionDenied { path: path(), source: "403".into() }, ErrorKind::Refused),
            (StoreError::Unauthenticated { path: path(), source: "401".into() }, ErrorKind::Refused),
            (
                StoreError::NotImplemented { operation: "x".into(), implementer: "y".into() },
                ErrorKind::Unsupported,
            ),
            (answer(503, "SlowDown"), ErrorKind::Unavailable),
            (answer(503, "ServiceUnavailable"), ErrorKind::Unavailable),
            (answer(500, "InternalError"), ErrorKind::Unavailable),
            (answer(429, "TooManyRequests"), ErrorKind::Unavailable),
            (answer(408, ""), ErrorKind::Unavailable),
            (answer(400, "RequestTimeout"), ErrorKind::Unavailable),
            (answer(400, "ExpiredToken"), ErrorKind::Refused),
            (answer(400, "AuthorizationHeaderMalformed"), ErrorKind::Refused),
            (answer(400, "InvalidArgument"), ErrorKind::Refused),
            (answer(413, ""), ErrorKind::TooLarge),
            (answer(507, "XMinioStorageFull"), ErrorKind::Full),
            (
                generic("Server returned error response: <Error><Code>SlowDown</Code></Error>"),
                ErrorKind::Unavailable,
            ),
            (
                generic(
                    "Received redirect without LOCATION, this normally indicates an incorrectly configured region",
                ),
                ErrorKind::Refused,
            ),
            (http(HttpErrorKind::Timeout), ErrorKind::TimedOut),
            (http(HttpErrorKind::Connect), ErrorKind::Unavailable),
            (http(HttpErrorKind::Interrupted), ErrorKind::Unavailable),
            (http(HttpErrorKind::Unknown), ErrorKind::Unavailable),
            (generic(io::Error::from(io::ErrorKind::StorageFull)), ErrorKind::Full),
            (generic(io::Error::from(io::ErrorKind::ReadOnlyFilesystem)), ErrorKind::Refused),
            (generic("something else"), ErrorKind::Internal),
        ];
        for (error, kind) in table {
            assert_eq!(kind_of(&error), kind, "{error}");
        }
    }

    #[test]
    fn an_error_says_what_was_done_and_what_the_store_said_and_no_more_than_that() {
        let error = failed("store lines", "runs/x", &generic("é".repeat(2_000)));
        assert!(error.to_string().starts_with("store lines (object=runs/x): "), "{error}");
        assert!(error.chain().len() < 800);
        let missing = StoreError::NotFound { path: "k".into(), source: "<Code>NoSuchBucket</Code>".into() };
        assert!(failed("list runs", "runs", &missing).to_string().contains("the bucket does not exist"));
    }
}
