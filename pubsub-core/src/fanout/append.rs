//! One append, repeated until each of its lines is stored or refused.

use super::lane::Lane;
use crate::sink::{in_order, without};
use crate::{Appended, Error, ErrorKind, Gap, LineBatch, LineRange, Result};

/// Brings lines to the sink until each is stored, refused, or dropped. Nothing passes a line that is to be tried again.
pub(super) async fn append(lane: &Lane, batches: Vec<LineBatch>) {
    if lane.is_skipped() {
        return drop_all(lane, &batches, SKIPPED);
    }
    if lane.is_removed() {
        return drop_all(lane, &batches, REMOVED);
    }
    if let Some(reason) = lane.refusal() {
        // Said once, when the run was refused.
        return lane.refused(batches.into_iter().map(|batch| (batch, reason.clone())).collect()).await;
    }
    let mut stack = vec![batches];
    let mut tries = 0;
    while let Some(batches) = stack.pop() {
        match lane.sink.gate.once(|| call(lane, &batches)).await {
            Ok(appended) => {
                let again = settle(lane, &batches, &appended).await;
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
            // It began there, so it was removed: its lines are gone as was wanted, and not kept elsewhere.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                lane.set_gone();
                drop_all(lane, &batches, REMOVED);
            }
            Err(error) => {
                let reason = error.chain();
                refuse(lane, batches.into_iter().map(|batch| (batch, reason.clone())).collect()).await;
            }
        }
    }
}

/// Why lines of a run that was left out are missing.
const SKIPPED: &str = "dropped: too many runs wait for this store";

/// Why lines of a run that somebody removed are missing.
const REMOVED: &str = "dropped: the run was removed here";

/// One append. A store that wants every line again takes nothing now: that is a failure of the store, for which all runs
/// wait together.
async fn call(lane: &Lane, batches: &[LineBatch]) -> Result<Appended> {
    let appended = lane.sink.config.sink.append(&lane.key, batches).await?;
    let lines = |batches: &[LineBatch]| batches.iter().map(LineBatch::len).sum::<usize>();
    if !appended.again.is_empty() && lines(&appended.left_of(batches)) == lines(batches) {
        return Err(Error::new(ErrorKind::Unavailable, "the sink wants all lines again"));
    }
    Ok(appended)
}

fn drop_all(lane: &Lane, batches: &[LineBatch], reason: &str) {
    let gaps: Vec<Gap> = batches.iter().map(|batch| batch.gap(reason)).collect();
    lane.dropped(&gaps);
}

async fn refuse(lane: &Lane, refused: Vec<(LineBatch, String)>) {
    if let Some((batch, reason)) = refused.first() {
        let lines = refused.iter().map(|(batch, _)| batch.len() as u64).sum();
        lane.sink.refusing.refused(&lane.key.run_id, batch.first(), lines, reason);
    }
    lane.refused(refused).await;
}

/// Enters what became of lines into the account, each line once whatever the sink names twice; answers those to be tried
/// again, in number order.
async fn settle(lane: &Lane, batches: &[LineBatch], appended: &Appended) -> Vec<LineBatch> {
    let lines = |batches: &[LineBatch]| batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
    let repeated = appended.left_of(batches);
    let mut named = in_order(&appended.again);
    let dropped: Vec<Gap> = pick_gaps(batches, &appended.dropped, &mut named)
        .iter()
        .map(|(batch, reason)| batch.gap(reason))
        .collect();
    let parts = pick_gaps(batches, &appended.refused, &mut named);
    let lost = dropped.iter().map(|gap| gap.range.lines()).sum::<u64>()
        + parts.iter().map(|(batch, _)| batch.len() as u64).sum::<u64>();
    lane.stored(lines(batches).saturating_sub(lines(&repeated) + lost));
    if !dropped.is_empty() {
        lane.dropped(&dropped);
    }
    if parts.is_empty() {
        lane.sink.refusing.took_all();
    } else {
        refuse(lane, parts).await;
    }
    repeated
}

/// The lines of these gaps that were not named before, with the reasons; afterwards they are.
fn pick_gaps(batches: &[LineBatch], gaps: &[Gap], named: &mut Vec<LineRange>) -> Vec<(LineBatch, String)> {
    let mut gaps: Vec<&Gap> = gaps.iter().collect();
    gaps.sort_unstable_by_key(|gap| gap.range.first);
    let mut parts = Vec::new();
    for gap in gaps {
        for range in without(gap.range, named) {
            parts.extend(pick(batches, range).map(|part| (part, gap.reason.clone())));
        }
        named.push(gap.range);
        *named = in_order(named);
    }
    parts
}

fn pick(batches: &[LineBatch], range: LineRange) -> impl Iterator<Item = LineBatch> {
    batches.iter().filter_map(move |batch| batch.slice(range))
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
