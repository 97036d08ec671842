//! What became of a run's lines in one sink.

use crate::Gap;

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
}
