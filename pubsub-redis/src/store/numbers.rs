//! Which numbers of a run there are lines of.

use pubsub_core::{LineNumber, LineRange, Result, RunRecord};
use redis::Value;

use super::Inner;
use super::entry::late_number;
use super::layout::late_range;
use super::record::Stored;
use super::server::{NUMBERS, list, texts};
use crate::reply::count;
use crate::script::Request;

/// How many numbers are looked at in one script.
const PAGE: usize = 1_000;

const DOING: &str = "look which lines there are";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Growing,
    Falling,
}

impl Inner {
    /// Takes out of the holes what has come.
    pub(super) async fn fill(&self, stored: &Stored, record: &mut RunRecord) -> Result<()> {
        for hole in record.holes.clone() {
            let mut next = hole.range.first;
            while next <= hole.range.last {
                let numbers = self.numbers(stored, Way::Growing, next, hole.range.last.get()).await?;
                ranges_of(numbers.iter().copied()).into_iter().for_each(|range| record.fill(range));
                let Some(last) = numbers.last().filter(|_| numbers.len() >= PAGE) else { break };
                next = last.plus(1);
            }
        }
        Ok(())
    }

    /// The number with which the last so many lines begin.
    pub(super) async fn first_of_last(&self, stored: &Stored, wanted: u64) -> Result<LineNumber> {
        let length = count(self.ask(DOING, Request::new("XLEN").arg(&stored.keys.lines)).await?)?;
        if wanted > length.saturating_add(stored.late) {
            return Ok(LineNumber::FIRST);
        }
        let first_kept = stored.dropped.through.saturating_add(1);
        if stored.late == 0 && first_kept.saturating_add(length) == stored.last_line.saturating_add(1) {
            let first = stored.last_line.saturating_add(1).saturating_sub(wanted);
            return Ok(LineNumber::new(first).unwrap_or(LineNumber::FIRST));
        }
        let (mut wanted, mut last) = (wanted, u64::MAX);
        loop {
            let numbers = self.numbers(stored, Way::Falling, LineNumber::FIRST, last).await?;
            let at = usize::try_from(wanted).unwrap_or(usize::MAX).saturating_sub(1);
            if let Some(number) = numbers.get(at) {
                return Ok(*number);
            }
            wanted = wanted.saturating_sub(numbers.len() as u64);
            match numbers.last().map(|first| first.before()) {
                Some(before) if before > 0 => last = before,
                _ => return Ok(LineNumber::FIRST),
            }
        }
    }

    /// The first numbers that way, from one to another, that there are lines of: at most a page, and without a gap in what
    /// is there. Each place gives its own first ones, and so those of both are among them.
    async fn numbers(
        &self,
        stored: &Stored,
        way: Way,
        first: LineNumber,
        last: u64,
    ) -> Result<Vec<LineNumber>> {
        let (from, to) = late_range(first, last);
        let numbers = NUMBERS.call([&*stored.keys.lines]);
        let late = |name, from, to| Request::new(name).arg(&stored.keys.late).arg(from).arg(to);
        let (numbers, late) = match way {
            Way::Growing => (numbers.arg("XRANGE").arg(first.get()).arg(last), late("ZRANGEBYLEX", from, to)),
            Way::Falling => {
                (numbers.arg("XREVRANGE").arg(last).arg(first.get()), late("ZREVRANGEBYLEX", to, from))
            }
        };
        let requests = vec![numbers.arg(PAGE), late.arg("LIMIT").arg(0).arg(PAGE)];
        let mut answers = self.run(DOING, requests).await?;
        let mut numbers = parsed(list(DOING, &mut answers)?);
        let late = texts(list(DOING, &mut answers)?);
        numbers.extend(late.iter().filter_map(|member| late_number(member)));
        match way {
            Way::Growing => numbers.sort_unstable(),
            Way::Falling => numbers.sort_unstable_by(|a, b| b.cmp(a)),
        }
        numbers.dedup();
        numbers.truncate(PAGE);
        Ok(numbers)
    }
}

/// Growing numbers as ranges.
pub(super) fn ranges_of(numbers: impl Iterator<Item = LineNumber>) -> Vec<LineRange> {
    let mut ranges: Vec<LineRange> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(range) if range.last.plus(1) == number => range.last = number,
            _ => ranges.push(LineRange::new(number, number)),
        }
    }
    ranges
}

/// Numbers as scripts answer them; what is none is left out.
pub(super) fn parsed(numbers: Vec<Value>) -> Vec<LineNumber> {
    let number = |text: &Vec<u8>| LineNumber::new(std::str::from_utf8(text).ok()?.parse().ok()?);
    texts(numbers).iter().filter_map(number).collect()
}
