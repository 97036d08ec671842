//! Which numbers of a run there are lines of.

use mongodb::bson::{Document, doc};
use pubsub_core::{LineNumber, LineRange, Result, RunId, RunRecord};

use crate::batch::documents;
use crate::layout::Ids;
use crate::run::{Stored, int, is_run};
use crate::store::Inner;

/// How many numbers are looked at in one request.
const PAGE: usize = 5_000;

const DOING: &str = "look which lines there are";

/// The ids from one number to another.
pub(crate) fn range(ids: &Ids, first: u64, last: u64) -> Document {
    doc! { "_id": { "$gte": ids.line(first), "$lte": ids.line(last) } }
}

/// Lines that are in no store, or not in this one: they hold nothing up that comes after them.
#[derive(Debug)]
pub(crate) struct Holes(Vec<LineRange>);

impl Holes {
    pub(crate) fn of(record: &RunRecord) -> Self {
        let mut holes: Vec<LineRange> =
            record.holes.iter().chain(&record.gaps).map(|gap| gap.range).collect();
        holes.sort_by_key(|range| range.first);
        Self(holes)
    }

    /// The last number that is reached from this one without a line.
    pub(crate) fn over(&self, through: u64) -> u64 {
        self.0.iter().fold(through, |through, hole| {
            let goes_on = hole.first.get() <= through.saturating_add(1);
            if goes_on { through.max(hole.last.get()) } else { through }
        })
    }
}

impl Inner {
    /// The first numbers from one to another that there are lines of, at most a page.
    async fn numbers(&self, ids: &Ids, first: u64, last: u64) -> Result<Vec<LineNumber>> {
        if first > last {
            return Ok(Vec::new());
        }
        let lines = self.link.collections(DOING).await?.lines;
        let asked = lines.find(range(ids, first, last)).sort(doc! { "_id": 1 }).projection(doc! { "_id": 1 });
        let mut found = self.link.answer(DOING, asked.limit(int(PAGE as u64)).batch()).await?;
        let mut numbers = Vec::new();
        while let Some(batch) = self.link.batch(DOING, &mut found).await? {
            let documents = documents(DOING, &batch)?.into_iter();
            numbers.extend(documents.filter_map(|document| ids.number(document.get_str("_id").ok()?)));
        }
        Ok(numbers)
    }

    /// Takes out of the holes what has come.
    pub(crate) async fn fill(&self, stored: &Stored, record: &mut RunRecord) -> Result<()> {
        let ids = stored.ids();
        for hole in record.holes.clone() {
            let mut next = hole.range.first.get();
            loop {
                let numbers = self.numbers(&ids, next, hole.range.last.get()).await?;
                ranges_of(numbers.iter().copied()).into_iter().for_each(|range| record.fill(range));
                let Some(last) = numbers.last().filter(|_| numbers.len() >= PAGE) else { break };
                next = last.get().saturating_add(1);
            }
        }
        Ok(())
    }

    /// Moves `through` over what has come by now: only where lines did not come in their order.
    pub(crate) async fn advance(&self, run: &RunId) -> Result<()> {
        let Some(stored) = self.find(DOING, run).await? else { return Ok(()) };
        let (ids, holes) = (stored.ids(), Holes::of(&stored.record));
        let mut through = holes.over(stored.through);
        loop {
            let numbers = self.numbers(&ids, through.saturating_add(1), stored.last_line).await?;
            let before = through;
            for number in &numbers {
                if number.get() != through.saturating_add(1) {
                    break;
                }
                through = holes.over(number.get());
            }
            if numbers.len() < PAGE || through == before {
                break;
            }
        }
        if through > stored.through {
            let runs = self.link.collections(DOING).await?.runs;
            let change = doc! {
                "$max": { "through": int(through) },
                "$set": { "wake": crate::run::wake(stored.record.key.action_id.as_str()) },
            };
            self.link.answer(DOING, runs.update_one(is_run(run, &stored.made), change)).await?;
        }
        Ok(())
    }

    /// The number with which the last so many lines begin.
    pub(crate) async fn first_of_last(&self, stored: &Stored, wanted: u64) -> Result<LineNumber> {
        let end = stored.end();
        if wanted >= end {
            return Ok(LineNumber::FIRST);
        }
        let is_whole =
            stored.through >= end && stored.record.gaps.is_empty() && stored.record.holes.is_empty();
        if is_whole {
            // `wanted` is less, so there is one.
            return Ok(LineNumber::new(end - wanted + 1).unwrap_or(LineNumber::FIRST));
        }
        let (ids, lines) = (stored.ids(), self.link.collections(DOING).await?.lines);
        // The server walks its index there; it gives one document.
        let asked = lines.find_one(range(&ids, 1, end)).sort(doc! { "_id": -1 });
        let asked = asked.projection(doc! { "_id": 1 }).skip(wanted.saturating_sub(1));
        let found = self.link.answer(DOING, asked).await?;
        let first = found.as_ref().and_then(|document| ids.number(document.get_str("_id").ok()?));
        Ok(first.unwrap_or(LineNumber::FIRST))
    }

    /// Removes all lines of a run that was made under this name, some at a time: no request takes long.
    pub(crate) async fn remove_lines(&self, ids: &Ids) -> Result<()> {
        let lines = self.link.collections(DOING).await?.lines;
        loop {
            let numbers = self.numbers(ids, 0, u64::MAX).await?;
            if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
                let these = range(ids, first.get(), last.get());
                self.link.answer(DOING, lines.delete_many(these)).await?;
            }
            if numbers.len() < PAGE {
                return Ok(());
            }
        }
    }
}

/// Growing numbers as ranges.
pub(crate) fn ranges_of(numbers: impl Iterator<Item = LineNumber>) -> Vec<LineRange> {
    let mut ranges: Vec<LineRange> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(range) if range.last.plus(1) == number => range.last = number,
            _ => ranges.push(LineRange::new(number, number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::Holes;
    use pubsub_core::conformance::store::{SampleRun, at};
    use pubsub_core::{Gap, LineRange};

    #[test]
    fn holes_and_gaps_are_gone_over_together() {
        let mut record = SampleRun::new().record;
        let gap = |first, last| Gap {
            range: LineRange::new(at(first), at(last)),
            bytes: None,
            reason: "gone".to_owned(),
        };
        record.gaps = vec![gap(8, 9), gap(3, 4)];
        record.holes = vec![gap(5, 5)];
        let holes = Holes::of(&record);
        let over: Vec<u64> = [0, 1, 2, 3, 6, 7, 10].into_iter().map(|through| holes.over(through)).collect();
        assert_eq!(over, [0, 1, 5, 5, 6, 9, 10]);
    }
}
