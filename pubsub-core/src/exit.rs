//! How a process ended, and what that means for the pipeline.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Why the work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It ended by itself with a code.
    Exit,
    /// A signal that we did not send ended it.
    Signal,
    /// Our limit on its whole time.
    WallTimeout,
    /// Our limit on the time without output.
    SilenceTimeout,
    /// Somebody cancelled the action.
    Cancelled,
    /// The worker was stopped before the work was done; the event is given back.
    Shutdown,
    /// Another worker holds the event by now.
    LeaseLost,
    /// It could not be started.
    NotStarted,
}

/// Why a command could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailure {
    /// No such program.
    NotFound,
    /// The file is there and may not be run.
    NotExecutable,
    /// The system refuses these arguments, this environment or this payload, and always will.
    Unacceptable,
    /// The machine is out of something for a moment: descriptors, memory, process slots, room for temporary files. Nothing
    /// of the command was begun; a worker gives its event back, and the attempt counts nowhere.
    OutOfResources,
    /// Anything else, which may pass.
    Other,
}

/// How the work ended: the input of [`ExitClassification`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub cause: Cause,
    /// The exit code, where the process had one.
    pub code: Option<i32>,
    /// The signal that ended it, where one did; our own TERM and KILL too.
    pub signal: Option<i32>,
    /// Set where the cause is [`Cause::NotStarted`].
    pub start_failure: Option<StartFailure>,
    /// Free text for people, already masked.
    pub detail: Option<String>,
}

impl Exit {
    /// Ended by itself with this code.
    #[must_use]
    pub const fn code(code: i32) -> Self {
        Self { cause: Cause::Exit, code: Some(code), signal: None, start_failure: None, detail: None }
    }

    /// Ended by a signal that was not ours.
    #[must_use]
    pub const fn signal(signal: i32) -> Self {
        Self { cause: Cause::Signal, code: None, signal: Some(signal), start_failure: None, detail: None }
    }

    /// Ended by us: a timeout, a cancel, a shutdown, a lost lease.
    #[must_use]
    pub const fn stopped(cause: Cause) -> Self {
        Self { cause, code: None, signal: None, start_failure: None, detail: None }
    }

    /// Could not be started.
    #[must_use]
    pub const fn not_started(why: StartFailure) -> Self {
        Self { cause: Cause::NotStarted, code: None, signal: None, start_failure: Some(why), detail: None }
    }

    /// With a text for people.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The code that a shell would show: the command's own, 128 + n for a signal, 124 for our timeout,
    /// 130 cancelled or stopped, 126 not executable, 127 not found.
    #[must_use]
    pub fn shell_code(&self) -> u8 {
        let code = match self.cause {
            Cause::WallTimeout | Cause::SilenceTimeout => 124,
            Cause::Cancelled | Cause::Shutdown | Cause::LeaseLost => 130,
            Cause::NotStarted if self.start_failure == Some(StartFailure::NotFound) => 127,
            Cause::NotStarted => 126,
            Cause::Exit | Cause::Signal => match (self.code, self.signal) {
                (Some(code), _) => code & 0xff,
                (None, Some(signal)) => 128 + signal,
                (None, None) => 1,
            },
        };
        u8::try_from(code).unwrap_or(1)
    }
}

/// What an exit means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Succeeded,
    /// Gracefully left early; the pipeline goes on.
    Escaped,
    /// Took too long.
    TimedOut,
    /// Stopped by somebody.
    Interrupted,
    /// Anything else.
    Failed,
}

impl Outcome {
    /// All outcomes, best first.
    pub const ALL: [Self; 5] =
        [Self::Succeeded, Self::Escaped, Self::TimedOut, Self::Interrupted, Self::Failed];

    /// The name in records and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Escaped => "escaped",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Outcome {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or_else(|| {
            Error::invalid("an outcome is succeeded, escaped, timed_out, interrupted or failed")
                .with("outcome", text)
        })
    }
}

/// What becomes of an event's chain after a conclusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chain {
    /// The next stage starts.
    Continues,
    /// This chain ends here.
    Stops,
}

/// Whether the retry policy may try the work again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retryable {
    /// As the policy says for this outcome.
    ByPolicy,
    /// Never: trying again cannot help.
    Never,
}

/// The answer of an [`ExitClassification`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// What the exit means.
    pub outcome: Outcome,
    /// Whether its chain goes on.
    pub chain: Chain,
    /// Whether it may be tried again.
    pub retryable: Retryable,
}

impl Verdict {
    /// A verdict that leaves retrying to the policy.
    #[must_use]
    pub const fn new(outcome: Outcome, chain: Chain) -> Self {
        Self { outcome, chain, retryable: Retryable::ByPolicy }
    }
}

/// Says what an exit means. Pure: no I/O, the same answer for the same exit.
///
/// One of your own, for a program that ends with 75 where trying again may help (`EX_TEMPFAIL`, sysexits(3)):
///
/// ```
/// use std::sync::Arc;
/// use pubsub_core::{Execution, Exit, ExitClassification, ExitTable, Outcome, Chain, Retryable, Verdict};
///
/// struct OnlyTemporary(ExitTable);
///
/// impl ExitClassification for OnlyTemporary {
///     fn classify(&self, exit: &Exit) -> Verdict {
///         let verdict = self.0.classify(exit);
///         if exit.code == Some(75) { verdict } else { Verdict { retryable: Retryable::Never, ..verdict } }
///     }
/// }
///
/// let rules = OnlyTemporary(ExitTable::default());
/// assert_eq!(rules.classify(&Exit::code(75)), Verdict::new(Outcome::Failed, Chain::Stops));
/// assert_eq!(rules.classify(&Exit::code(1)).retryable, Retryable::Never);
/// let execution = Execution::new().with_classification(Arc::new(rules));
/// # let _ = execution;
/// ```
pub trait ExitClassification: Send + Sync {
    /// The verdict on one exit.
    fn classify(&self, exit: &Exit) -> Verdict;
}

/// Whether code 42 is a graceful escape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Escapes {
    /// 42 is an escape: the pipeline goes on.
    #[default]
    Enabled,
    /// 42 is a failure like any other code.
    Disabled,
}

/// A table of codes and signals in front of the default rules.
///
/// | exit | outcome | chain |
/// | --- | --- | --- |
/// | code 0 | succeeded | continues |
/// | code 42 | escaped (failed where escapes are disabled) | continues |
/// | code 124, our own timeout | timed out | continues |
/// | code 130 | interrupted | continues |
/// | our own cancel | interrupted | stops |
/// | any other code, any signal, could not start | failed | stops |
///
/// A program that could not be found or run, or that cannot take these arguments, is never tried again.
///
/// ```
/// use pubsub_core::{Exit, ExitClassification, ExitTable, Outcome, Chain, Verdict};
/// let table = ExitTable::default().with_codes(10..=19, Verdict::new(Outcome::Escaped, Chain::Continues));
/// assert_eq!(table.classify(&Exit::code(12)).outcome, Outcome::Escaped);
/// assert_eq!(table.classify(&Exit::code(20)).outcome, Outcome::Failed);
/// ```
#[derive(Clone, Debug, Default)]
pub struct ExitTable {
    escapes: Escapes,
    codes: Vec<(RangeInclusive<i32>, Verdict)>,
    signals: Vec<(i32, Verdict)>,
}

impl ExitTable {
    /// The default rules, with or without escapes.
    #[must_use]
    pub const fn new(escapes: Escapes) -> Self {
        Self { escapes, codes: Vec::new(), signals: Vec::new() }
    }

    /// A verdict of its own for a range of codes; later entries win.
    #[must_use]
    pub fn with_codes(mut self, codes: RangeInclusive<i32>, verdict: Verdict) -> Self {
        self.codes.push((codes, verdict));
        self
    }

    /// A verdict of its own for a signal; later entries win.
    #[must_use]
    pub fn with_signal(mut self, signal: i32, verdict: Verdict) -> Self {
        self.signals.push((signal, verdict));
        self
    }

    fn of_code(&self, code: i32) -> Verdict {
        if let Some((_, verdict)) = self.codes.iter().rev().find(|(range, _)| range.contains(&code)) {
            return *verdict;
        }
        match code {
            0 => Verdict::new(Outcome::Succeeded, Chain::Continues),
            42 if self.escapes == Escapes::Enabled => Verdict::new(Outcome::Escaped, Chain::Continues),
            124 => Verdict::new(Outcome::TimedOut, Chain::Continues),
            130 => Verdict::new(Outcome::Interrupted, Chain::Continues),
            _ => Verdict::new(Outcome::Failed, Chain::Stops),
        }
    }
}

impl ExitClassification for ExitTable {
    fn classify(&self, exit: &Exit) -> Verdict {
        match exit.cause {
            Cause::WallTimeout | Cause::SilenceTimeout => Verdict::new(Outcome::TimedOut, Chain::Continues),
            Cause::Cancelled => {
                Verdict { retryable: Retryable::Never, ..Verdict::new(Outcome::Interrupted, Chain::Stops) }
            }
            Cause::Shutdown | Cause::LeaseLost => Verdict::new(Outcome::Interrupted, Chain::Stops),
            Cause::NotStarted => {
                let retryable = match exit.start_failure {
                    Some(StartFailure::OutOfResources | StartFailure::Other) | None => Retryable::ByPolicy,
                    Some(_) => Retryable::Never,
                };
                Verdict { retryable, ..Verdict::new(Outcome::Failed, Chain::Stops) }
            }
            Cause::Exit => {
                exit.code.map_or(Verdict::new(Outcome::Failed, Chain::Stops), |code| self.of_code(code))
            }
            Cause::Signal => self
                .signals
                .iter()
                .rev()
                .find(|(signal, _)| exit.signal == Some(*signal))
                .map_or(Verdict::new(Outcome::Failed, Chain::Stops), |(_, verdict)| *verdict),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Cause, Chain, Escapes, Exit, ExitClassification, ExitTable, Outcome, Retryable, StartFailure, Verdict,
    };

    #[test]
    fn the_default_table_over_every_code_and_signal() {
        let table = ExitTable::default();
        for code in 0..=255 {
            let expected = match code {
                0 => (Outcome::Succeeded, Chain::Continues),
                42 => (Outcome::Escaped, Chain::Continues),
                124 => (Outcome::TimedOut, Chain::Continues),
                130 => (Outcome::Interrupted, Chain::Continues),
                _ => (Outcome::Failed, Chain::Stops),
            };
            let verdict = table.classify(&Exit::code(code));
            assert_eq!((verdict.outcome, verdict.chain), expected, "code {code}");
            assert_eq!(Exit::code(code).shell_code(), u8::try_from(code).unwrap());
        }
        for signal in 1..=64 {
            let verdict = table.classify(&Exit::signal(signal));
            assert_eq!((verdict.outcome, verdict.chain), (Outcome::Failed, Chain::Stops), "signal {signal}");
            assert_eq!(i32::from(Exit::signal(signal).shell_code()), 128 + signal);
        }
    }

    #[test]
    fn what_we_did_ourselves_is_told_from_what_the_program_did() {
        let table = ExitTable::default();
        let of = |exit: Exit| {
            let verdict = table.classify(&exit);
            (verdict.outcome, verdict.chain, verdict.retryable)
        };
        let by_policy = Retryable::ByPolicy;
        assert_eq!(of(Exit::stopped(Cause::WallTimeout)), (Outcome::TimedOut, Chain::Continues, by_policy));
        assert_eq!(
            of(Exit::stopped(Cause::SilenceTimeout)),
            (Outcome::TimedOut, Chain::Continues, by_policy)
        );
        assert_eq!(
            of(Exit::stopped(Cause::Cancelled)),
            (Outcome::Interrupted, Chain::Stops, Retryable::Never)
        );
        for (why, retryable, code) in [
            (StartFailure::NotFound, Retryable::Never, 127),
            (StartFailure::NotExecutable, Retryable::Never, 126),
            (StartFailure::Unacceptable, Retryable::Never, 126),
            (StartFailure::OutOfResources, by_policy, 126),
            (StartFailure::Other, by_policy, 126),
        ] {
            assert_eq!(of(Exit::not_started(why)), (Outcome::Failed, Chain::Stops, retryable));
            assert_eq!(Exit::not_started(why).shell_code(), code);
        }
        // A process that dies of our TERM at a timeout has a signal, and still timed out.
        let exit = Exit { signal: Some(15), ..Exit::stopped(Cause::WallTimeout) };
        assert_eq!(table.classify(&exit).outcome, Outcome::TimedOut);
    }

    #[test]
    fn users_fill_the_table_and_switch_escapes_off() {
        let oom = Verdict::new(Outcome::Escaped, Chain::Continues);
        let table = ExitTable::new(Escapes::Disabled).with_codes(1..=2, oom).with_signal(9, oom);
        assert_eq!(table.classify(&Exit::code(42)).outcome, Outcome::Failed);
        assert_eq!(table.classify(&Exit::code(2)), oom);
        assert_eq!(table.classify(&Exit::signal(9)), oom);
        assert_eq!(table.classify(&Exit::signal(11)).outcome, Outcome::Failed);
    }
}
