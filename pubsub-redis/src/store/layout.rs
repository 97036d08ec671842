//! Where runs lie in Redis. `P` is the prefix, names are encoded by [`name::encode`].
//!
//! # Keys of a run
//! They share the hash tag `{<run>}`, so that one script reaches all of them in a cluster. A script touches one run.
//!
//! - `P:{<run>}:record`, a hash: `version` of this layout; `record`, the record as JSON; fields of it that people look at
//!   (`revision`, `status`, `outcome`, `code`, `action_id`, `stage`, `event_id`, `started_at`); `made`, a name that no other
//!   run had, nor this one before it was removed and began again; `bytes` of the lines that are there, ends included;
//!   `last_line`, the largest number in the stream; `late`, how many lines lie beside it; `dropped_through` and
//!   `dropped_bytes`, what went for the bound of the run; `clock_ahead`, by how many microseconds the server's clock was ahead
//!   of its owner's at the last sign of life.
//! - `P:<action>:<stage>:{<run>}`, a stream: an entry for each line with the id `<number>-0`, so that a range of numbers is
//!   a seek (`XRANGE key 100 199`) and the server refuses a number that it has. Fields: `type` (`output`), `line_number`,
//!   `content` (the bytes as printed, without the end), `timestamp` (RFC 3339), `stream` (`stdout` or `stderr`); where a line
//!   did not end in a line feed, or was recovered, also `end` (`lf`, `crlf`, `none`, `part`) and `recovered` (`0` or `1`).
//!   Entries of another type or with another id than `…-0` are none of ours and passed over.
//! - `P:{<run>}:late`, a sorted set whose scores are all 0: lines that came after the run was sealed without them, for a
//!   stream takes nothing before its last entry. A member is the number with 20 digits, time, stream, end, recovered and
//!   content, with a space between two; its order is that of the numbers. Readers merge both.
//!
//! # Keys over runs
//! Sorted sets of run ids by the microsecond in which they began: `P:runs`, `P:runs:<action>`, `P:runs:<action>:<stage>`,
//! `P:runs-of-event:<event>`. They are in other slots than the runs, so they are written before a run is made and again
//! after it: a run that is there is in them. What is in them and not there any more (it was removed by half, or its time
//! ended) is taken out by whoever finds it. A name that was too long is a hash; the record has the true one, and decides.
//!
//! `P:wakes` is a stream of which run changed (`run`, `action`), of about the last 1,000 changes: all that followers watch.

use std::sync::Arc;

use pubsub_core::{LineNumber, RunId, RunKey, RunQuery, Timestamp, name};

/// The version of this layout.
pub(super) const FORMAT: u32 = 1;

/// Builds keys.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: Arc<str>,
}

/// The keys of one run, as scripts take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunKeys {
    pub(super) record: String,
    pub(super) lines: String,
    pub(super) late: String,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    pub(super) fn record(&self, run: &RunId) -> String {
        format!("{}:{{{run}}}:record", self.prefix)
    }

    /// Of a run of this action and stage.
    pub(super) fn run(&self, run: &RunId, action: &str, stage: &str) -> RunKeys {
        let (prefix, action, stage) = (&self.prefix, name::encode(action), name::encode(stage));
        RunKeys {
            record: self.record(run),
            lines: format!("{prefix}:{action}:{stage}:{{{run}}}"),
            late: format!("{prefix}:{{{run}}}:late"),
        }
    }

    pub(super) fn of(&self, key: &RunKey) -> RunKeys {
        self.run(&key.run_id, key.action_id.as_str(), key.stage.as_str())
    }

    pub(super) fn all_runs(&self) -> String {
        format!("{}:runs", self.prefix)
    }

    /// The sets that a run is in.
    pub(super) fn sets(&self, key: &RunKey) -> [String; 4] {
        let (action, stage) = (name::encode(key.action_id.as_str()), name::encode(key.stage.as_str()));
        let all = self.all_runs();
        [
            format!("{all}:{action}:{stage}"),
            format!("{all}:{action}"),
            self.of_event(key.event_id.as_str()),
            all,
        ]
    }

    /// The smallest set that has all runs that fit.
    pub(super) fn set_of(&self, query: &RunQuery) -> String {
        let all = self.all_runs();
        match (&query.event, &query.action, &query.stage) {
            (Some(event), _, _) => self.of_event(event.as_str()),
            (None, Some(action), Some(stage)) => {
                format!("{all}:{}:{}", name::encode(action.as_str()), name::encode(stage.as_str()))
            }
            (None, Some(action), None) => format!("{all}:{}", name::encode(action.as_str())),
            (None, None, _) => all,
        }
    }

    fn of_event(&self, event: &str) -> String {
        format!("{}:runs-of-event:{}", self.prefix, name::encode(event))
    }

    pub(super) fn wakes(&self) -> String {
        format!("{}:wakes", self.prefix)
    }
}

/// The score of a run that began then. Exact until the year 2255: a double has 53 bits.
pub(super) fn score(began: Timestamp) -> String {
    began.as_micros().to_string()
}

/// A number as text whose order is that of the numbers.
pub(super) fn padded(number: u64) -> String {
    format!("{number:020}")
}

/// What a set of late lines is asked for, to get those from `first` to `last`.
pub(super) fn late_range(first: LineNumber, last: u64) -> (String, String) {
    let end = last.checked_add(1).map_or_else(|| "+".to_owned(), |after| format!("({}", padded(after)));
    (format!("[{}", padded(first.get())), end)
}

#[cfg(test)]
mod tests {
    use super::{Layout, late_range};
    use pubsub_core::{ActionId, EventId, LineNumber, RunKey, RunQuery, Stage};

    fn key(action: &str, stage: &str) -> RunKey {
        RunKey::new(ActionId::new(action).unwrap(), Stage::new(stage).unwrap(), EventId::new("e").unwrap(), 1)
    }

    #[test]
    fn the_keys_of_a_run_have_its_tag_alone_whatever_its_names_are() {
        let layout = Layout::new("pipeline");
        for (action, stage) in [("action-123", "build"), ("a{b}c", "{x}"), ("a:b", "c"), ("..", "}{")] {
            let key = key(action, stage);
            let keys = layout.of(&key);
            for name in [&keys.record, &keys.lines, &keys.late] {
                let (_, rest) = name.split_once('{').unwrap();
                assert_eq!(rest.split_once('}').unwrap().0, key.run_id.as_str(), "{name}");
            }
        }
        let plain = key("action-123", "build");
        let lines = layout.of(&plain).lines;
        assert_eq!(lines, format!("pipeline:action-123:build:{{{}}}", plain.run_id));
    }

    #[test]
    fn a_query_asks_a_set_that_its_runs_are_in() {
        let layout = Layout::new("p");
        let key = key("a:b", "c");
        let sets = layout.sets(&key);
        let of_action = RunQuery::all().with_action(key.action_id.clone());
        for query in [
            RunQuery::all(),
            of_action.clone(),
            of_action.with_stage(key.stage.clone()),
            RunQuery::all().with_event(key.event_id.clone()),
            RunQuery::all().with_stage(key.stage.clone()),
        ] {
            assert!(sets.contains(&layout.set_of(&query)), "{query:?}");
        }
    }

    #[test]
    fn late_lines_are_asked_for_by_numbers_of_one_length() {
        let (from, to) = late_range(LineNumber::FIRST, 99);
        assert_eq!((from.as_str(), to.as_str()), ("[00000000000000000001", "(00000000000000000100"));
        assert_eq!(late_range(LineNumber::FIRST, u64::MAX).1, "+");
    }
}
