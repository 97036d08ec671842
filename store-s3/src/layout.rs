//! Where everything lies. Names are encoded by [`name::encode`]; all keys stand under the prefix of the store.
//!
//! - `format.json`: the version of this layout. Made by the first run that begins.
//! - `runs/<run>/record.json`: the record as JSON, and in its field `store` what the store itself has to know: `format`;
//!   `made`, a name that no other beginning of this run has; once the run has ended, `bytes` of its lines, and `segments`,
//!   which there are (first number, last number, bytes of lines, length), unless they are many. The one object that is written again, on
//!   the condition that it is still what was read.
//! - `runs/<run>/<made>/<first>-<last>-<bytes>.zst`: a segment, with the numbers of its first and last line, 20 digits
//!   each, and how many bytes its lines have. Written once, where there is none. Segments may overlap, as where lines were sent twice in other portions, and after a merge; then they
//!   have the same lines, and readers give each number once.
//! - `by-day/<day>/<micros>-<run>-<made>`, `by-action/<action>/<stage>/<day>/…`, `by-event/<event>/<day>/…`: empty objects
//!   whose names tell which runs there are and when they began. They are written before the record, so that a run that is
//!   there is in them; one whose record is another, or not there, counts for nothing. Day by day, so that the newest runs
//!   are found without listing all; no order of a list is relied upon.
//!
//! A run that was removed and begins again has another `made`, so nothing of the old one can be taken for the new one's.

use pubsub_core::{LineNumber, LineRange, RunId, RunKey, Timestamp, name};

/// The version of this layout.
pub(crate) const FORMAT: u32 = 1;

/// Says the version of the layout.
pub(crate) const FORMAT_KEY: &str = "format.json";

pub(crate) const RUNS: &str = "runs";
pub(crate) const BY_DAY: &str = "by-day";
pub(crate) const BY_ACTION: &str = "by-action";
pub(crate) const BY_EVENT: &str = "by-event";

const RECORD: &str = "record.json";

/// Everything of a run.
pub(crate) fn run_folder(run: &RunId) -> String {
    format!("{RUNS}/{run}")
}

pub(crate) fn record(run: &RunId) -> String {
    format!("{RUNS}/{run}/{RECORD}")
}

pub(crate) fn segments(run: &RunId, made: &str) -> String {
    format!("{RUNS}/{run}/{made}")
}

/// The day of a time, in UTC.
pub(crate) fn day(time: Timestamp) -> String {
    time.to_string().chars().take_while(|c| *c != 'T').collect()
}

pub(crate) fn of_action(action: &str) -> String {
    format!("{BY_ACTION}/{}", name::encode(action))
}

pub(crate) fn of_stage(action: &str, stage: &str) -> String {
    format!("{}/{}", of_action(action), name::encode(stage))
}

pub(crate) fn of_event(event: &str) -> String {
    format!("{BY_EVENT}/{}", name::encode(event))
}

/// That a run began, as the name of an empty object says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Marker {
    /// In microseconds since 1970; what began before counts as then.
    pub(crate) began: u64,
    pub(crate) run: RunId,
    pub(crate) made: String,
}

/// When a run began, as markers tell it.
pub(crate) fn began(time: Timestamp) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(0)
}

impl Marker {
    pub(crate) fn name(&self) -> String {
        format!("{:020}-{}-{}", self.began, self.run, self.made)
    }

    /// `None` for what is no marker.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (began, rest) = name.split_once('-')?;
        let (run, made) = rest.rsplit_once('-')?;
        Some(Self { began: began.parse().ok()?, run: RunId::new(run).ok()?, made: made.to_owned() })
    }

    /// The keys that say it of this run, which began then.
    pub(crate) fn keys(&self, key: &RunKey, time: Timestamp) -> [String; 3] {
        let (day, name) = (day(time), self.name());
        [
            BY_DAY.to_owned(),
            of_stage(key.action_id.as_str(), key.stage.as_str()),
            of_event(key.event_id.as_str()),
        ]
        .map(|folder| format!("{folder}/{day}/{name}"))
    }
}

/// A segment as its name and a list tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) range: LineRange,
    /// Bytes of its lines.
    pub(crate) printed: u64,
    /// How long it is.
    pub(crate) size: u64,
}

impl Segment {
    /// `None` for what is no segment.
    pub(crate) fn parse(name: &str, size: u64) -> Option<Self> {
        let mut parts = name.strip_suffix(".zst")?.split('-');
        let mut number = || LineNumber::new(parts.next()?.parse().ok()?);
        let range = LineRange::new(number()?, number()?);
        let printed = parts.next()?.parse().ok()?;
        (range.first <= range.last && parts.next().is_none()).then_some(Self { range, printed, size })
    }

    pub(crate) fn name(&self) -> String {
        format!("{:020}-{:020}-{}.zst", self.range.first.get(), self.range.last.get(), self.printed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Marker, Segment, day};
    use pubsub_core::{ActionId, EventId, LineNumber, LineRange, RunKey, Stage, Timestamp};

    #[test]
    fn names_read_back() {
        let key = RunKey::new(
            ActionId::new("../A").unwrap(),
            Stage::new("b").unwrap(),
            EventId::new("e").unwrap(),
            7,
        );
        let marker =
            Marker { began: 1_764_045_141_500_001, run: key.run_id.clone(), made: "00ff".to_owned() };
        assert_eq!(Marker::parse(&marker.name()), Some(marker.clone()));
        let time = Timestamp::from_micros(1_764_045_141_500_001);
        let [by_day, by_action, by_event] = marker.keys(&key, time);
        assert_eq!(by_day, format!("by-day/2025-11-25/{}", marker.name()));
        assert!(
            by_action.starts_with("by-action/=2e.=2f=41/b/2025-11-25/00001764045141500001-"),
            "{by_action}"
        );
        assert!(by_event.starts_with("by-event/e/2025-11-25/"), "{by_event}");
        let range = LineRange::new(LineNumber::FIRST, LineNumber::new(600).unwrap());
        let segment = Segment { range, printed: 70_000, size: 9 };
        assert_eq!(segment.name(), "00000000000000000001-00000000000000000600-70000.zst");
        assert_eq!(Segment::parse(&segment.name(), 9), Some(segment));
        for other in ["record.json", "7-6-1.zst", "0-1-1.zst", "1-2-1.zst.tmp", "1-2.zst", "1-2-3-4.zst"] {
            assert_eq!(Segment::parse(other, 1), None, "{other}");
        }
        assert_eq!(Marker::parse("x"), None);
    }

    #[test]
    fn days_are_those_of_utc_and_sort_as_they_follow() {
        assert_eq!(day(Timestamp::EPOCH), "1970-01-01");
        assert!(
            day(Timestamp::from_micros(86_400_000_000 - 1)) < day(Timestamp::from_micros(86_400_000_000))
        );
    }
}
