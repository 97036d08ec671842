//! The one error of the family.

use std::error::Error as StdError;
use std::fmt;

/// The result of everything in this family that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it was; the part of an [`Error`] that programs decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's value cannot be right: an empty id, a bad pattern, a wrong setting.
    Invalid,
    /// What was asked for is not there.
    NotFound,
    /// The backend declares that it cannot do this.
    Unsupported,
    /// It contradicts what is there: a group with other patterns, a run with another owner.
    Conflict,
    /// Another holds the lease by now, or the entry is gone.
    LeaseLost,
    /// No room until somebody settles, removes or frees something.
    Full,
    /// Larger than this backend takes; the message names the limit.
    TooLarge,
    /// Out of reach or overloaded; the same call may succeed later.
    Unavailable,
    /// The other side understood and will not do it for whoever asks: no permission, wrong password, read-only. The same
    /// call succeeds once somebody changes that.
    Refused,
    /// What is stored cannot be read.
    Corrupt,
    /// Written by a newer version of this format.
    TooNew,
    /// It took longer than allowed.
    TimedOut,
    /// It was closed or has ended.
    Closed,
    /// A defect or an unexpected state of ours or of a driver.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing it.
    ///
    /// ```
    /// use pubsub_core::ErrorKind;
    /// assert!(ErrorKind::Unavailable.is_retryable());
    /// assert!(!ErrorKind::Invalid.is_retryable());
    /// ```
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Full | Self::Unavailable | Self::TimedOut)
    }

    /// The name that machines read, as in the `kind` of a JSON error.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Unsupported => "unsupported",
            Self::Conflict => "conflict",
            Self::LeaseLost => "lease_lost",
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Corrupt => "corrupt",
            Self::TooNew => "too_new",
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str().replace('_', " "))
    }
}

/// What failed, of which [kind](ErrorKind), with which values, and because of what.
///
/// `Display` says what failed and never repeats the cause; walk [`source`](StdError::source) for the rest,
/// or print [`Error::chain`].
///
/// ```
/// use pubsub_core::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::Unavailable, "append lines").with("run", "4f1c-1");
/// assert_eq!(error.to_string(), "append lines (run=4f1c-1): unavailable");
/// assert!(error.is_retryable());
/// ```
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug, thiserror::Error)]
#[error("{}", self.describe())]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Inner {
    fn describe(&self) -> String {
        let mut text = self.message.clone();
        for (index, (name, value)) in self.context.iter().enumerate() {
            text.push_str(if index == 0 { " (" } else { ", " });
            text.push_str(name);
            text.push('=');
            text.push_str(value);
        }
        if !self.context.is_empty() {
            text.push(')');
        }
        text.push_str(": ");
        text.push_str(&self.kind.to_string());
        text
    }
}

impl Error {
    /// An error of this kind; `message` says what was being done, or what is wrong and what is accepted.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), context: Vec::new(), source: None }))
    }

    /// Short for a value that the caller has to change.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Short for what a backend declares it cannot do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Adds a value that helps to find the place: never a secret.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message alone, without context, kind or cause.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The same failure once more, for another who waits for it: its causes are one text.
    #[must_use]
    pub fn again(&self) -> Self {
        let Inner { kind, message, context, .. } = &*self.0;
        let (message, context) = (message.clone(), context.clone());
        let causes = self.causes(&self.to_string());
        let source = (!causes.is_empty()).then(|| causes.join(": ").into());
        Self(Box::new(Inner { kind: *kind, message, context, source }))
    }

    /// The same failure for each of so many, where a call answers for every item.
    #[must_use]
    pub fn for_each<T>(&self, many: usize) -> Vec<Result<T, Self>> {
        (0..many).map(|_| Err(self.again())).collect()
    }

    /// Whether the same call may succeed later: read off the kind.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// This error and all its causes on one line, for people and logs: a cause that was said already is not said again.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut texts = vec![self.to_string()];
        texts.extend(self.causes(&texts.join(": ")));
        texts.join(": ")
    }

    /// What each cause adds to this text. Drivers often repeat theirs.
    fn causes(&self, text: &str) -> Vec<String> {
        let (mut said, mut causes) = (text.to_owned(), Vec::new());
        let mut next = self.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                said.push_str(&text);
                causes.push(text);
            }
            next = cause.source();
        }
        causes
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, ErrorKind};

    #[test]
    fn a_cause_is_said_once_also_where_each_repeats_the_one_below_it() {
        let refused = || std::io::Error::other("connection refused");
        let driver = Error::new(ErrorKind::Unavailable, "connect: connection refused").with_source(refused());
        let error = Error::new(ErrorKind::Unavailable, "append lines").with("run", "r1").with_source(driver);
        let text = "append lines (run=r1): unavailable: connect: connection refused: unavailable";
        assert_eq!(error.chain(), text);
        for again in [error.again(), error.again().again()] {
            assert_eq!((again.chain().as_str(), again.to_string()), (text, error.to_string()));
        }
        assert!(std::error::Error::source(&Error::invalid("no").again()).is_none());
    }

    #[test]
    fn the_text_never_repeats_the_cause_and_the_chain_has_it_once() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Unavailable, "append lines")
            .with("run", "r1")
            .with("store", "file")
            .with_source(cause);
        assert_eq!(error.to_string(), "append lines (run=r1, store=file): unavailable");
        assert_eq!(error.chain(), "append lines (run=r1, store=file): unavailable: disk on fire");
    }
}
