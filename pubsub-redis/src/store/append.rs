//! Appends lines: scripts of bounded size, one after the other, so that no line passes one that was refused for a while.

use pubsub_core::{Appended, Error, ErrorKind, Gap, LineBatch, LineNumber, LineRange, Result, RunKey};
use redis::Value;

use super::Inner;
use super::numbers::{parsed, ranges_of};
use super::server::{APPEND, Said, call, said, taken};

/// About how many bytes of lines, and how many lines, one script appends: the server does nothing else meanwhile.
const SCRIPT_BYTES: usize = 256 * 1024;
const SCRIPT_LINES: usize = 1_000;

const DOING: &str = "append lines";

impl Inner {
    pub(super) async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let mut appended = Appended::all();
        let mut parts = Parts { batches, within: None };
        // Also of no lines: it asks whether the run is there.
        let mut part = parts.next_part();
        loop {
            self.append_part(run, &part, &mut appended).await?;
            part = parts.next_part();
            if part.is_empty() {
                return Ok(appended);
            }
        }
    }

    async fn append_part(&self, run: &RunKey, part: &[LineBatch], appended: &mut Appended) -> Result<()> {
        let keys = self.layout.of(run);
        let mut append = call(&APPEND, &keys).arg(self.config.max_run_bytes());
        for batch in part {
            let recovered = u8::from(batch.is_recovered());
            append.push((batch.len(), batch.time().to_string(), batch.stream().as_str(), recovered));
            batch.for_each(|number, end, content| {
                append.push((number.get(), end.as_str(), content));
            });
        }
        let told = if part.is_empty() { Vec::new() } else { vec![self.wake(run)] };
        // Whoever is told before the lines are there would not hear of them again.
        let mut answers = self.run_in_order(DOING, [vec![append], told]).await?;
        let (said, rest) = said(DOING, taken(DOING, &mut answers)?)?;
        if said != Said::Done {
            return Err(Error::new(ErrorKind::NotFound, DOING).with("run", &run.run_id));
        }
        if !part.is_empty() {
            taken(DOING, &mut answers)?;
        }
        let mut lists = rest.into_iter();
        let late = "it came after later lines, which this store cannot put it before";
        appended.refused.extend(gaps(part, lists.next(), late));
        let over = format!("over the bound of {} bytes per run in this store", self.config.max_run_bytes());
        appended.dropped.extend(gaps(part, lists.next(), &over));
        Ok(())
    }
}

/// What is still to be appended.
struct Parts<'a> {
    batches: &'a [LineBatch],
    /// What is left of a batch that was cut.
    within: Option<LineBatch>,
}

impl Parts<'_> {
    /// As much as one script takes; nothing at the end.
    fn next_part(&mut self) -> Vec<LineBatch> {
        let (mut part, mut lines, mut bytes) = (Vec::new(), 0, 0);
        while lines < SCRIPT_LINES && bytes < SCRIPT_BYTES {
            let Some(batch) = self.within.take().or_else(|| self.take_batch()) else { break };
            let most = (SCRIPT_LINES - lines) as u64;
            let cut = LineRange::new(batch.first(), batch.first().plus(most - 1));
            let rest = LineRange::new(cut.last.plus(1), LineNumber::MAX);
            self.within = batch.slice(rest);
            let Some(now) = batch.slice(cut) else { break };
            (lines, bytes) = (lines + now.len(), bytes + now.bytes().len());
            part.push(now);
        }
        part
    }

    fn take_batch(&mut self) -> Option<LineBatch> {
        let (first, rest) = self.batches.split_first()?;
        self.batches = rest;
        Some(first.clone())
    }
}

/// The lines of `part` with these numbers, as gaps.
fn gaps(part: &[LineBatch], numbers: Option<Value>, reason: &str) -> Vec<Gap> {
    let Some(Value::Array(numbers)) = numbers else { return Vec::new() };
    let ranges = ranges_of(parsed(numbers).into_iter());
    let of_range = |range: LineRange| part.iter().filter_map(move |batch| batch.slice(range));
    ranges.into_iter().flat_map(of_range).map(|lines| lines.gap(reason)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Parts, SCRIPT_BYTES, SCRIPT_LINES};
    use pubsub_core::LineEnd;
    use pubsub_core::conformance::store::lines;

    #[test]
    fn the_script_knows_each_end_by_its_name_and_its_bytes() {
        for end in [LineEnd::Lf, LineEnd::CrLf, LineEnd::None, LineEnd::Part] {
            let known = format!("{} = {}", end.as_str(), end.as_bytes().len());
            assert!(include_str!("append.lua").contains(&known), "{known}");
        }
    }

    #[test]
    fn parts_are_bounded_and_have_each_line_once_in_order() {
        let long = "x".repeat(60_000);
        let mut batches = vec![lines(1, vec![""; 2_500])];
        batches.extend((2_501..2_520).map(|n| lines(n, [&long])));
        let (mut parts, mut next) = (Parts { batches: &batches, within: None }, 1);
        loop {
            let part = parts.next_part();
            if part.is_empty() {
                break;
            }
            let (count, bytes) = part
                .iter()
                .fold((0, 0), |(count, bytes), batch| (count + batch.len(), bytes + batch.bytes().len()));
            assert!(count <= SCRIPT_LINES && bytes < SCRIPT_BYTES + 70_000, "{count} lines, {bytes} bytes");
            for batch in part {
                assert_eq!(batch.first().get(), next);
                next = batch.last().get() + 1;
            }
        }
        assert_eq!(next, 2_520);
    }
}
