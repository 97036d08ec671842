//! Where runs lie in Elasticsearch.
//!
//! # Indices
//! `P` is the prefix.
//!
//! - `P-runs`: a document for each run, whose id is that of the run.
//! - `P-lines-2026.11.29`: a document for each line of the runs that began on that day. A run lives in one index whatever
//!   day it prints on, so that its ids stay unique; a data stream would take an id again after a rollover. Whoever keeps
//!   lines by age removes whole indices.
//!
//! Both are made by index templates of the same name, with explicit mappings; what a document has beyond them is kept and
//! not indexed, so that no payload makes fields.
//!
//! # A run
//! `format`, the version of this layout; `record`, the record as JSON, which decides; fields of it that people look at and
//! search for (`action_id`, `stage`, `event_id`, `status`, `outcome`, `@timestamp` when it began, `metadata` as texts
//! `key=value` …); `index`, where its lines are; and `made`, a name that no other run had, nor this one before it was removed
//! and began again. Its sequence number at the server is what a record is written against, so that it only moves forward.
//!
//! # A line
//! Its id is `<run>-<made>-<number>`: to create it again is refused by the server and changes nothing. Its fields:
//! `@timestamp`, `message` (the text as it is shown), `action_id`, `stage`, `run_id`, `made`, `line_number`, `stream`; where
//! it did not end in a line feed `end` (`crlf`, `none`, `part`), where it was recovered `recovered`, and where its bytes are no
//! UTF-8 `raw`, the bytes in base64. Lines of another `made` are those of a run that was removed: nobody reads them.

use std::sync::Arc;

use pubsub_core::{RunId, Timestamp};

/// The version of this layout.
pub(crate) const FORMAT: u32 = 1;

/// Names indices.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    prefix: Arc<str>,
}

impl Layout {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The index of the runs, and its template.
    pub(crate) fn runs(&self) -> String {
        format!("{}-runs", self.prefix)
    }

    /// The template of all indices with lines.
    pub(crate) fn lines_template(&self) -> String {
        format!("{}-lines", self.prefix)
    }

    /// All indices with lines.
    pub(crate) fn all_lines(&self) -> String {
        format!("{}-lines-*", self.prefix)
    }

    /// The index of the lines of a run that began then.
    pub(crate) fn lines(&self, began: Timestamp) -> String {
        format!("{}-lines-{}", self.prefix, day(began))
    }
}

/// The day in UTC, as it stands in the name of an index: `2026.11.29`. The order of the names is that of the days.
pub(crate) fn day(time: Timestamp) -> String {
    let text = time.to_string();
    text.split('T').next().unwrap_or_default().replace('-', ".")
}

/// What the id of each line of a run begins with.
pub(crate) fn line_id(run: &RunId, made: &str) -> String {
    format!("{run}-{made}-")
}

#[cfg(test)]
mod tests {
    use super::{Layout, day};
    use pubsub_core::Timestamp;

    #[test]
    fn a_run_lies_in_the_index_of_the_day_on_which_it_began() {
        let began = "2026-11-29T23:59:59.999999Z".parse().unwrap();
        assert_eq!(Layout::new("ci").lines(began), "ci-lines-2026.11.29");
        assert_eq!(day(Timestamp::from_micros(began.as_micros() + 1)), "2026.11.30");
        assert_eq!(day(Timestamp::EPOCH), "1970.01.01");
    }
}
