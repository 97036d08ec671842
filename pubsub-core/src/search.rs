//! What to look for in output: one engine decides for every store.

use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};

use crate::{Error, Result};

/// Longest pattern, in bytes.
pub const MAX_SEARCH_BYTES: usize = 1000;

/// Most memory that a compiled pattern takes, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// A search: a regular expression of the `regex` crate or a plain text, on each line's bytes alone, without its end.
///
/// `^` and `$` are the line's. A match across the parts of a long line is not found.
///
/// ```
/// use pubsub_core::Search;
/// let search = Search::regex(r"code=\d+$")?;
/// assert!(search.is_match(b"ERROR: code=42"));
/// assert!(!Search::literal("why?")?.is_match(b"wh"));
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Search {
    regex: Regex,
    literal: Option<String>,
    time_limit: Duration,
}

impl Search {
    /// A pattern in the language of the `regex` crate.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) where it cannot be read, is longer than [`MAX_SEARCH_BYTES`] or too large
    /// once compiled.
    pub fn regex(pattern: &str) -> Result<Self> {
        if pattern.len() > MAX_SEARCH_BYTES {
            return Err(Error::invalid(format!(
                "a search pattern has at most {MAX_SEARCH_BYTES} bytes, this one {}",
                pattern.len()
            )));
        }
        let regex = RegexBuilder::new(pattern).size_limit(MAX_COMPILED_BYTES).build().map_err(|e| {
            Error::invalid("the search pattern is none of the regex crate's language").with_source(e)
        })?;
        Ok(Self { regex, literal: None, time_limit: Self::DEFAULT_TIME_LIMIT })
    }

    /// A plain text, in which no character is special.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) where it is longer than [`MAX_SEARCH_BYTES`].
    pub fn literal(text: &str) -> Result<Self> {
        if text.len() > MAX_SEARCH_BYTES {
            return Err(Error::invalid(format!(
                "a search text has at most {MAX_SEARCH_BYTES} bytes, this one {}",
                text.len()
            )));
        }
        let regex = RegexBuilder::new(&regex::escape(text))
            .size_limit(4 * MAX_COMPILED_BYTES)
            .build()
            .map_err(|e| Error::invalid("the search text cannot be compiled").with_source(e))?;
        Ok(Self { regex, literal: Some(text.to_owned()), time_limit: Self::DEFAULT_TIME_LIMIT })
    }

    /// How long a search may take unless told otherwise.
    pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(60);

    /// With another limit on the time it may take.
    #[must_use]
    pub const fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Whether a line matches; `line` is without its end.
    #[must_use]
    pub fn is_match(&self, line: &[u8]) -> bool {
        self.regex.is_match(line)
    }

    /// The plain text, where it is one: for stores that narrow a search down before the engine decides.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        self.literal.as_deref()
    }

    /// The pattern.
    #[must_use]
    pub fn as_regex(&self) -> &Regex {
        &self.regex
    }

    /// How long it may take.
    #[must_use]
    pub const fn time_limit(&self) -> Duration {
        self.time_limit
    }
}
