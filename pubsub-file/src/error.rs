//! What the system's errors mean.

use std::io;
use std::path::Path;

use pubsub_core::{Error, ErrorKind};

/// The kind of an error of the file system.
pub(crate) fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::Full
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Refused,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => ErrorKind::Corrupt,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => ErrorKind::Invalid,
        _ => {
            // ELOOP: a symbolic link where a file of ours should be ("open(2)", O_NOFOLLOW).
            if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
                ErrorKind::Conflict
            } else {
                ErrorKind::Unavailable
            }
        }
    }
}

/// An error of the file system while `doing` something.
pub(crate) fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::new(kind_of(&error), doing).with_source(error)
}

/// As [`io_error`], of a folder that is named.
pub(crate) fn folder_error(doing: &'static str, folder: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| io_error(doing)(error).with("folder", folder.display())
}

#[cfg(test)]
mod tests {
    use std::io;

    use pubsub_core::ErrorKind;
    use rustix::io::Errno;

    use super::kind_of;

    #[test]
    fn each_error_of_the_system_has_its_kind() {
        let table = [
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::NOSPC, ErrorKind::Full),
            (Errno::DQUOT, ErrorKind::Full),
            (Errno::ACCESS, ErrorKind::Refused),
            (Errno::ROFS, ErrorKind::Refused),
            (Errno::LOOP, ErrorKind::Conflict),
            (Errno::MFILE, ErrorKind::Unavailable),
            (Errno::IO, ErrorKind::Unavailable),
        ];
        for (errno, kind) in table {
            assert_eq!(kind_of(&io::Error::from_raw_os_error(errno.raw_os_error())), kind, "{errno}");
        }
        assert!(kind_of(&io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error())).is_retryable());
    }
}
