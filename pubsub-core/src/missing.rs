//! What a store does with records and with the numbers it has no lines for: the same in every store.

use crate::{Gap, LineBatch, LineNumber, LineRange, RunRecord, RunStatus};

impl LineBatch {
    /// The gap that its lines leave where they are not stored.
    #[must_use]
    pub fn gap(&self, reason: impl Into<String>) -> Gap {
        Gap { range: self.range(), bytes: Some(self.bytes().len() as u64), reason: reason.into() }
    }
}

/// Why lines are missing where nobody said it: of a run that goes on, and of one that has ended.
pub(crate) const NOT_YET: &str = "not stored yet";
pub(crate) const NOT_HERE: &str = "not stored here";

/// Most holes that a record lists; readers tell further ones without their reason.
pub const MAX_HOLES: usize = 1000;

impl Gap {
    /// Adds it to holes in number order: one that goes on where another ended for the same reason is one with it, and what
    /// is a hole already is none again. Past [`MAX_HOLES`] it is left out.
    pub fn enter(mut self, holes: &mut Vec<Self>) {
        let at = holes.partition_point(|hole| hole.range.first <= self.range.first);
        if let Some(before) = at.checked_sub(1).and_then(|index| holes.get_mut(index)) {
            if before.range.last >= self.range.last {
                return;
            }
            let next = before.range.last.plus(1);
            if next > self.range.first {
                (self.range.first, self.bytes) = (next, None);
            }
            if next == self.range.first && before.reason == self.reason {
                before.range.last = self.range.last;
                before.bytes = before.bytes.zip(self.bytes).map(|(a, b)| a.saturating_add(b));
                return;
            }
        }
        if holes.len() < MAX_HOLES {
            holes.insert(at, self);
        }
    }
}

impl RunRecord {
    /// What a store keeps when `self` is there and `later` comes in: `None` where that changes nothing.
    ///
    /// The higher revision wins; an ended run never runs again; holes that are known stay known, also where the later
    /// record comes from somebody who knows of none, such as the worker that concludes another's run.
    #[must_use]
    pub fn followed_by(&self, later: &Self) -> Option<Self> {
        let reopened = self.status == RunStatus::Completed && later.status == RunStatus::Running;
        if later.revision <= self.revision || reopened {
            return None;
        }
        let mut kept = later.clone();
        if kept.holes.is_empty() {
            kept.holes.clone_from(&self.holes);
        }
        Some(kept)
    }

    /// Takes numbers out of the holes, for the store has their lines now. How many bytes the rest of a hole had is not
    /// known.
    pub fn fill(&mut self, stored: LineRange) {
        let overlaps = |gap: &Gap| gap.slice(stored).is_some();
        if !self.holes.iter().any(overlaps) {
            return;
        }
        let before =
            LineNumber::new(stored.first.before()).map(|last| LineRange::new(LineNumber::FIRST, last));
        let after = Some(LineRange::new(stored.last.plus(1), LineNumber::MAX));
        let left = |gap: Gap| {
            if !overlaps(&gap) {
                return vec![gap];
            }
            [before, after].into_iter().flatten().filter_map(|range| gap.slice(range)).collect()
        };
        self.holes = std::mem::take(&mut self.holes).into_iter().flat_map(left).collect();
    }

    /// The last number that a completed run gave, kept or not; `None` while it runs and where nothing was printed.
    #[must_use]
    pub fn last_number(&self) -> Option<LineNumber> {
        if self.status == RunStatus::Running {
            return None;
        }
        // What a damaged record says may be more than there can be.
        let lines = self.gaps.iter().map(|gap| gap.range.lines());
        LineNumber::new(lines.fold(self.counts.lines, u64::saturating_add))
    }

    /// Says of numbers that a store has no lines for why, by the record's holes and gaps: one gap for each reason, in
    /// number order, covering all of `range`.
    #[must_use]
    pub fn missing(&self, range: LineRange) -> Vec<Gap> {
        let mut known: Vec<&Gap> = self.gaps.iter().chain(&self.holes).collect();
        known.sort_by_key(|gap| gap.range.first);
        let unknown = |first, last| Gap {
            range: LineRange::new(first, last),
            bytes: None,
            reason: match self.status {
                RunStatus::Running => NOT_YET.to_owned(),
                RunStatus::Completed => NOT_HERE.to_owned(),
            },
        };
        let mut gaps = Vec::new();
        let mut next = range.first;
        for gap in known {
            let Some(part) = gap.slice(LineRange::new(next, range.last)) else { continue };
            if let Some(before) = LineNumber::new(part.range.first.before()).filter(|before| *before >= next)
            {
                gaps.push(unknown(next, before));
            }
            next = part.range.last.plus(1);
            gaps.push(part);
        }
        if next <= range.last {
            gaps.push(unknown(next, range.last));
        }
        gaps
    }

    /// Whether all of these numbers are of one gap: lines that no store has and that the seal does not count.
    #[must_use]
    pub fn is_dropped_everywhere(&self, range: LineRange) -> bool {
        self.gaps.iter().any(|gap| gap.range.contains(range.first) && gap.range.contains(range.last))
    }
}

#[cfg(test)]
mod tests {
    use crate::{ActionId, EventId, Gap, LineNumber, LineRange, RunKey, RunRecord, RunStatus, Stage};

    fn range(first: u64, last: u64) -> LineRange {
        LineRange::new(LineNumber::new(first).unwrap(), LineNumber::new(last).unwrap())
    }

    fn gap(first: u64, last: u64, reason: &str) -> Gap {
        Gap { range: range(first, last), bytes: Some(9), reason: reason.to_owned() }
    }

    fn record() -> RunRecord {
        let key =
            RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::new("e").unwrap(), 1);
        RunRecord::begun(key, "w")
    }

    #[test]
    fn a_damaged_record_counts_no_more_than_there_can_be() {
        let mut record = record();
        record.status = RunStatus::Completed;
        record.gaps = vec![gap(1, u64::MAX, "capped"), gap(1, u64::MAX, "capped")];
        assert_eq!(record.last_number(), Some(LineNumber::MAX));
    }

    #[test]
    fn missing_numbers_are_told_apart_by_their_reasons() {
        let mut record = record();
        record.status = RunStatus::Completed;
        record.holes = vec![gap(10, 19, "refused")];
        record.gaps = vec![gap(5, 7, "capped")];
        let told = |first, last| {
            let gaps = record.missing(range(first, last));
            gaps.into_iter()
                .map(|g| (g.range.first.get(), g.range.last.get(), g.reason, g.bytes))
                .collect::<Vec<_>>()
        };
        let unknown = "not stored here";
        assert_eq!(told(1, 4), [(1, 4, unknown.into(), None)]);
        assert_eq!(
            told(4, 12),
            [
                (4, 4, unknown.into(), None),
                (5, 7, "capped".into(), Some(9)),
                (8, 9, unknown.into(), None),
                (10, 12, "refused".into(), None),
            ]
        );
        assert_eq!(told(20, 20), [(20, 20, unknown.into(), None)]);
    }

    #[test]
    fn the_last_number_counts_what_was_dropped_everywhere() {
        let mut record = record();
        record.counts.lines = 4;
        record.gaps = vec![gap(3, 12, "capped")];
        assert_eq!(record.last_number(), None, "it still runs");
        record.status = RunStatus::Completed;
        assert_eq!(record.last_number(), LineNumber::new(14));
    }

    #[test]
    fn holes_are_entered_once_in_order_and_up_to_a_bound() {
        let mut holes = Vec::new();
        for entered in
            [gap(5, 6, "a"), gap(1, 2, "a"), gap(3, 4, "b"), gap(7, 9, "a"), gap(3, 4, "b"), gap(8, 12, "a")]
        {
            entered.enter(&mut holes);
        }
        let told: Vec<_> = holes.iter().map(|gap| (gap.range, gap.reason.as_str(), gap.bytes)).collect();
        assert_eq!(
            told,
            [(range(1, 2), "a", Some(9)), (range(3, 4), "b", Some(9)), (range(5, 12), "a", None)]
        );
        (20..9000).for_each(|n| gap(n * 2, n * 2, "c").enter(&mut holes));
        assert_eq!(holes.len(), super::MAX_HOLES);
    }

    #[test]
    fn what_comes_later_is_taken_out_of_the_holes() {
        let mut record = record();
        record.holes = vec![gap(3, 4, "a"), gap(7, 20, "b"), gap(30, 31, "c")];
        record.fill(range(8, 9));
        record.fill(range(1, 3));
        record.fill(range(19, 30));
        record.fill(range(50, 60));
        let told = |gap: &Gap| (gap.range.first.get(), gap.range.last.get(), gap.reason.clone(), gap.bytes);
        assert_eq!(
            record.holes.iter().map(told).collect::<Vec<_>>(),
            [
                (4, 4, "a".into(), None),
                (7, 7, "b".into(), None),
                (10, 18, "b".into(), None),
                (31, 31, "c".into(), None)
            ]
        );
    }

    #[test]
    fn a_record_only_moves_forward_and_keeps_its_holes() {
        let mut stored = record();
        stored.revision = 5;
        stored.status = RunStatus::Completed;
        stored.holes = vec![gap(3, 4, "refused")];
        let mut later = stored.clone();
        assert_eq!(stored.followed_by(&later), None, "the same revision");
        later.revision = 6;
        later.is_final = true;
        later.holes.clear();
        assert_eq!(stored.followed_by(&later).unwrap().holes, stored.holes);
        later.status = RunStatus::Running;
        assert_eq!(stored.followed_by(&later), None, "an ended run never runs again");
    }
}
