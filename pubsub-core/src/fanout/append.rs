//! One append, repeated until each of its lines is stored or refused.

use super::lane::Lane;
use crate::sink::in_order;
use crate::{Appended, ErrorKind, Gap, LineBatch, LineNumber, LineRange};

/// Brings lines to the sink until each is stored or refused. Nothing passes a line that is to be tried again.
pub(super) async fn append(lane: &Lane, batches: Vec<LineBatch>) {
    let mut refused = Refused { lane, lines: 0, reason: String::new() };
    if let Some(reason) = lane.refusal() {
        // Said once, when the run was refused.
        return batches.iter().for_each(|b| lane.refused(b.range(), b.bytes().len() as u64, &reason));
    }
    let mut stack = vec![batches];
    let mut tries = 0;
    while let Some(batches) = stack.pop() {
        match lane.sink.gate.once(|| lane.sink.config.sink.append(&lane.key, &batches)).await {
            Ok(appended) => {
                let again = settle(&mut refused, &batches, &appended);
                if again.is_empty() {
                    tries = 0;
                } else {
                    tokio::time::sleep(lane.sink.config.backoff.delay(tries)).await;
                    tries += 1;
                    stack.push(again);
                }
            }
            // A store that is too slow for so much would never be done with it: less at a time.
            Err(error)
                if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::TimedOut)
                    && is_divisible(&batches) =>
            {
                let (front, back) = halve(batches);
                stack.push(back);
                stack.push(front);
            }
            Err(error) if error.is_retryable() => stack.push(batches),
            Err(error) => {
                let reason = error.chain();
                batches.iter().for_each(|batch| refused.add(batch, &reason));
            }
        }
    }
}

/// Lines that were refused in one append, for one warning about all of them.
struct Refused<'a> {
    lane: &'a Lane,
    lines: u64,
    reason: String,
}

impl Refused<'_> {
    fn add(&mut self, batch: &LineBatch, reason: &str) {
        if self.lines == 0 {
            reason.clone_into(&mut self.reason);
        }
        self.lines += batch.len() as u64;
        self.lane.refused(batch.range(), batch.bytes().len() as u64, reason);
    }
}

impl Drop for Refused<'_> {
    fn drop(&mut self) {
        if self.lines > 0 {
            let (sink, run) = (&self.lane.sink.config.name, &self.lane.key.run_id);
            tracing::warn!(sink, %run, lines = self.lines, reason = self.reason, "a sink refused lines for good");
        }
    }
}

/// Enters what became of lines into the account, each line once whatever the sink names twice; answers those to be tried
/// again, in number order.
fn settle(refused: &mut Refused<'_>, batches: &[LineBatch], appended: &Appended) -> Vec<LineBatch> {
    let total: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
    let again = in_order(&appended.again);
    let repeated = appended.left_of(batches);
    let before = refused.lines;
    let mut gaps: Vec<&Gap> = appended.refused.iter().collect();
    gaps.sort_unstable_by_key(|gap| gap.range.first);
    let mut next = LineNumber::FIRST;
    for gap in gaps {
        let unnamed = LineRange::new(gap.range.first.max(next), gap.range.last);
        for range in without(unnamed, &again) {
            pick(batches, range).for_each(|part| refused.add(&part, &gap.reason));
        }
        next = next.max(gap.range.last.plus(1));
    }
    let left: u64 = repeated.iter().map(|batch| batch.len() as u64).sum();
    refused.lane.stored(total.saturating_sub(left + refused.lines - before));
    repeated
}

fn pick(batches: &[LineBatch], range: LineRange) -> impl Iterator<Item = LineBatch> {
    batches.iter().filter_map(move |batch| batch.slice(range))
}

/// What of a range is in none of `named`, which are in order.
fn without(range: LineRange, named: &[LineRange]) -> Vec<LineRange> {
    let mut left = Vec::new();
    let mut first = range.first;
    for other in named {
        if other.first > range.last {
            break;
        }
        if let Some(before) = LineNumber::new(other.first.before())
            && first <= before
        {
            left.push(LineRange::new(first, before));
        }
        first = first.max(other.last.plus(1));
    }
    if first <= range.last {
        left.push(LineRange::new(first, range.last));
    }
    left
}

fn is_divisible(batches: &[LineBatch]) -> bool {
    batches.len() > 1 || batches.iter().any(|batch| batch.len() > 1)
}

fn halve(mut batches: Vec<LineBatch>) -> (Vec<LineBatch>, Vec<LineBatch>) {
    if batches.len() > 1 {
        let back = batches.split_off(batches.len() / 2);
        return (batches, back);
    }
    let part = |from: u64, to: u64| {
        let range = |b: &LineBatch| LineRange::new(b.first().plus(from), b.first().plus(to));
        batches.iter().filter_map(|batch| batch.slice(range(batch))).collect::<Vec<_>>()
    };
    let half = batches.first().map_or(0, |batch| batch.len() as u64 / 2);
    (part(0, half.saturating_sub(1)), part(half, u64::from(u32::MAX)))
}
