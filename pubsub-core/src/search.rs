//! What to look for in output: one engine decides for every store.

use std::time::Duration;

use regex::{Regex, RegexBuilder};

use crate::{Error, ErrorKind, Result};

/// Longest pattern, in bytes.
pub const MAX_SEARCH_BYTES: usize = 1000;

/// Most memory that a compiled pattern takes, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Most characters of a pattern that an error repeats.
const SHOWN_CHARS: usize = 80;

/// A search: a regular expression of the `regex` crate or a plain text, on each line's text alone, without its end.
///
/// `^` and `$` are the line's. Of a line that is no valid UTF-8, the text is what readers see: U+FFFD where bytes are
/// invalid. A match across the parts of a long line is not found.
///
/// ```
/// use pubsub_core::Search;
/// let search = Search::regex(r"code=\d+$")?;
/// assert!(search.is_match(b"ERROR: code=42"));
/// assert!(!Search::literal("why?")?.is_match(b"wh"));
/// assert!(Search::regex("^caf.$")?.is_match(b"caf\xe9"));
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Search {
    regex: Regex,
    literal: Option<String>,
    time_limit: Duration,
}

impl Search {
    /// A pattern in the language of the `regex` crate, on text: one that could match bytes that are no UTF-8 is none.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) where it cannot be read, is longer than [`MAX_SEARCH_BYTES`] or too large once
    /// compiled.
    pub fn regex(pattern: &str) -> Result<Self> {
        check_length("pattern", pattern)?;
        let regex = RegexBuilder::new(pattern).size_limit(MAX_COMPILED_BYTES).build().map_err(|e| {
            let problem = match e {
                regex::Error::CompiledTooBig(_) => {
                    format!("a search pattern takes at most {MAX_COMPILED_BYTES} bytes once compiled")
                }
                _ => "the search pattern is none of the regex crate's language for text".to_owned(),
            };
            Error::invalid(problem).with("pattern", shown(pattern)).with_source(e)
        })?;
        Ok(Self { regex, literal: None, time_limit: Self::DEFAULT_TIME_LIMIT })
    }

    /// A plain text, in which no character is special.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) where it is longer than [`MAX_SEARCH_BYTES`].
    pub fn literal(text: &str) -> Result<Self> {
        check_length("text", text)?;
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
        // Borrowed where the bytes are valid.
        self.regex.is_match(&String::from_utf8_lossy(line))
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

    /// The error of a search that took longer.
    #[must_use]
    pub fn timed_out(&self) -> Error {
        let (what, wanted) = match &self.literal {
            Some(text) => ("text", text.as_str()),
            None => ("pattern", self.regex.as_str()),
        };
        Error::new(ErrorKind::TimedOut, "search")
            .with("limit", format!("{:?}", self.time_limit))
            .with(what, shown(wanted))
    }
}

fn check_length(what: &'static str, given: &str) -> Result<()> {
    if given.len() <= MAX_SEARCH_BYTES {
        return Ok(());
    }
    let length = given.len();
    let problem = format!("a search {what} has at most {MAX_SEARCH_BYTES} bytes, this one {length}");
    Err(Error::invalid(problem).with(what, shown(given)))
}

/// What an error says of a pattern: control characters escaped, and of a long one the beginning.
fn shown(pattern: &str) -> String {
    match pattern.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{:?}…", pattern.get(..at).unwrap_or_default()),
        None => format!("{pattern:?}"),
    }
}
