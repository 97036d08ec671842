//! What became of a run's lines in one sink.

use crate::{Gap, LineRange};

/// Most holes that are listed; readers tell further ones without their reason.
const MAX_HOLES: usize = 1000;

/// What became of a run's lines in one sink, in lines: captured = stored + waiting + dead-lettered + dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkAccount {
    /// The sink's name.
    pub name: String,
    /// Given to it.
    pub captured: u64,
    /// In the store.
    pub stored: u64,
    /// Queued or under way.
    pub waiting: u64,
    /// Refused by the store for good.
    pub dead_lettered: u64,
    /// Not even tried, because its queue was full.
    pub dropped: u64,
    /// Where the lines are that the store lacks, with the reasons.
    pub holes: Vec<Gap>,
}

impl SinkAccount {
    /// Whether every line is accounted for.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.captured == self.stored + self.waiting + self.dead_lettered + self.dropped
    }

    /// Adds a hole in number order; one that goes on where another ended for the same reason is one.
    pub(super) fn hole(&mut self, range: LineRange, bytes: Option<u64>, reason: &str) {
        let at = self.holes.partition_point(|hole| hole.range.first < range.first);
        if let Some(before) = at.checked_sub(1).and_then(|index| self.holes.get_mut(index))
            && before.range.last.plus(1) == range.first
            && before.reason == reason
        {
            before.range.last = range.last;
            before.bytes = before.bytes.zip(bytes).map(|(a, b)| a + b);
        } else if self.holes.len() < MAX_HOLES {
            self.holes.insert(at, Gap { range, bytes, reason: reason.to_owned() });
        }
    }
}
