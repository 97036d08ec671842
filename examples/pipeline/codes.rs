//! How the program ends.

use std::io;

use pubsub_pipeline::{Error, ErrorKind, RunRecord};

/// Done.
pub(crate) const DONE: u8 = 0;
/// The pipeline stops, no hit, a difference.
pub(crate) const NO: u8 = 1;
/// The command's own code for a limit of ours, as with --pass-code.
pub(crate) const TIMED_OUT: u8 = 124;
/// The code of a run that was lost: nobody knows its own.
const LOST: u8 = 1;

/// Why a subcommand did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told, with a code of its own.
    Error(Error),
    /// Nobody reads our output any more: there is nothing left to do.
    PipeClosed,
}

impl Failure {
    /// Of its error, where it is one.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Error(error) => Some(error.kind()),
            Self::PipeClosed => None,
        }
    }
}

/// The exit code, or why there is none.
pub(crate) type Done<T = u8> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::PipeClosed;
        }
        Self::Error(Error::new(ErrorKind::Unavailable, "write the results").with_source(error))
    }
}

/// The exit code of an error.
pub(crate) const fn of_error(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::TooLarge => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::TimedOut => 5,
        _ => 4,
    }
}

/// The exit code of `stream` and `wait` for a run that has ended, or was lost.
pub(crate) fn of_run(record: &RunRecord, pass_code: bool) -> u8 {
    if pass_code {
        return record.shell_code.unwrap_or(LOST);
    }
    if record.continues == Some(true) { DONE } else { NO }
}

/// What is not there, with a sentence that says what to do.
pub(crate) fn not_there(sentence: impl Into<String>) -> Failure {
    Failure::Error(Error::new(ErrorKind::NotFound, sentence))
}

#[cfg(test)]
mod tests {
    use super::{Failure, of_error, of_run};
    use pubsub_pipeline::{
        ActionId, Cause, ErrorKind, EventId, Exit, ExitClassification, ExitTable, RunKey, RunRecord,
        SealBuilder, Stage, StartFailure,
    };
    use std::io;

    #[test]
    fn errors_have_the_codes_that_the_help_names() {
        let table = [
            (ErrorKind::Invalid, 2),
            (ErrorKind::TooLarge, 2),
            (ErrorKind::Unsupported, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::Unavailable, 4),
            (ErrorKind::Refused, 4),
            (ErrorKind::Full, 4),
            (ErrorKind::Conflict, 4),
            (ErrorKind::Corrupt, 4),
            (ErrorKind::TooNew, 4),
            (ErrorKind::Internal, 4),
            (ErrorKind::TimedOut, 5),
        ];
        for (kind, code) in table {
            assert_eq!(of_error(kind), code, "{kind}");
        }
    }

    #[test]
    fn runs_pass_on_whether_the_pipeline_goes_on_or_their_own_code() {
        let table = [
            (Exit::code(0), 0, 0),
            (Exit::code(42), 0, 42),
            (Exit::code(7), 1, 7),
            (Exit::signal(9), 1, 137),
            (Exit::stopped(Cause::WallTimeout), 0, 124),
            (Exit::stopped(Cause::Cancelled), 1, 130),
            (Exit::not_started(StartFailure::NotFound), 1, 127),
            (Exit::not_started(StartFailure::NotExecutable), 1, 126),
        ];
        for (exit, goes_on, own) in table {
            let key = RunKey::new(
                ActionId::new("a").unwrap(),
                Stage::new("s").unwrap(),
                EventId::new("e").unwrap(),
                1,
            );
            let mut record = RunRecord::begun(key, "w");
            assert_eq!((of_run(&record, false), of_run(&record, true)), (1, 1), "a lost run");
            record.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
            assert_eq!((of_run(&record, false), of_run(&record, true)), (goes_on, own), "{exit:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let broken: Failure = io::Error::from(io::ErrorKind::BrokenPipe).into();
        assert!(matches!(broken, Failure::PipeClosed));
        let full: Failure = io::Error::from(io::ErrorKind::StorageFull).into();
        assert!(matches!(full, Failure::Error(_)));
    }
}
