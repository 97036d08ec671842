//! What a run has: which segments, and which of their lines are given.

use pubsub_core::{LineNumber, LineRange, Result, RunId, RunStatus};

use crate::layout::Segment;
use crate::record::Stored;
use crate::store::Inner;

const DOING: &str = "read lines";

/// Lines that are given from one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) segment: Segment,
    /// What of it is given: another may have its other lines as well.
    pub(crate) range: LineRange,
}

/// Parts in number order that give each number once. A segment of which nothing is needed is left out.
pub(crate) fn parts_of(mut segments: Vec<Segment>) -> Vec<Part> {
    segments.sort_unstable_by_key(|segment| (segment.range.first, std::cmp::Reverse(segment.range.last)));
    let (mut parts, mut next) = (Vec::with_capacity(segments.len()), LineNumber::FIRST);
    for segment in segments {
        if segment.range.last >= next {
            parts.push(Part {
                segment,
                range: LineRange::new(segment.range.first.max(next), segment.range.last),
            });
            next = segment.range.last.plus(1);
        }
    }
    parts
}

/// A run as it was looked up.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) stored: Stored,
    pub(crate) parts: Vec<Part>,
}

/// Where to look for the segments of a run that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// In its record, where they are named there.
    Named,
    /// In the bucket.
    Listed,
}

impl Inner {
    /// The segments that a run has.
    pub(crate) async fn listed(&self, stored: &Stored) -> Result<Vec<Segment>> {
        let listed = self.bucket.list(DOING, &stored.folder()).await?;
        Ok(listed.iter().filter_map(|object| Segment::parse(&object.name, object.size)).collect())
    }

    /// `None` where the run is not there.
    pub(crate) async fn view(&self, run: &RunId, look: Look) -> Result<Option<View>> {
        // The record first: where it says that the run has ended, everything is there that is listed after it.
        let Some(stored) = self.find(DOING, run).await? else { return Ok(None) };
        let ended = stored.record.status == RunStatus::Completed && look == Look::Named;
        let segments = match stored.own.segments().filter(|_| ended) {
            Some(segments) => segments,
            None => self.listed(&stored).await?,
        };
        Ok(Some(View { stored, parts: parts_of(segments) }))
    }
}

impl View {
    /// All lines up to this number are there, or never will be.
    pub(crate) fn complete_through(&self) -> u64 {
        let record = &self.stored.record;
        if record.status == RunStatus::Completed {
            return self.last_stored().max(record.last_number().map_or(0, LineNumber::get));
        }
        let missing = record.gaps.iter().chain(&record.holes).map(|gap| gap.range);
        let mut known: Vec<LineRange> = self.parts.iter().map(|part| part.range).chain(missing).collect();
        known.sort_unstable_by_key(|range| range.first);
        let reach = |through: u64, range: &LineRange| {
            if range.first.before() <= through { through.max(range.last.get()) } else { through }
        };
        known.iter().fold(0, reach)
    }

    pub(crate) fn last_stored(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.range.last.get())
    }

    /// The first of the last so many lines that are there.
    pub(crate) fn first_of_last(&self, count: u64) -> LineNumber {
        let mut wanted = count;
        for part in self.parts.iter().rev() {
            let lines = part.range.lines();
            if wanted <= lines {
                return part.range.first.plus(lines - wanted);
            }
            wanted -= lines;
        }
        LineNumber::FIRST
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{prop_assert_eq, proptest};
    use pubsub_core::{LineNumber, LineRange};

    use super::parts_of;
    use crate::layout::Segment;

    proptest! {
        #[test]
        fn parts_give_each_number_once_and_in_order(ranges in proptest::collection::vec((1u64..60, 0u64..20), 0..12)) {
            let at = |n| LineNumber::new(n).unwrap();
            let range = |(first, more)| LineRange::new(at(first), at(first + more));
            let segments = ranges.iter().map(|pair| Segment { range: range(*pair), printed: 1, size: 1 }).collect();
            let given: Vec<u64> =
                parts_of(segments).iter().flat_map(|p| p.range.first.get()..=p.range.last.get()).collect();
            let there: BTreeSet<u64> = ranges.iter().flat_map(|(first, more)| *first..=first + more).collect();
            prop_assert_eq!(given, there.into_iter().collect::<Vec<_>>());
        }
    }
}
