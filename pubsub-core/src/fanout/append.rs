//! One append, repeated until each of its lines is stored or refused.

use super::lane::Lane;
use crate::{Appended, ErrorKind, LineBatch, LineRange};

/// Brings lines to the sink until each is stored or refused. Nothing passes a line that is to be tried again.
pub(super) async fn append(lane: &Lane, batches: Vec<LineBatch>) {
    if let Some(reason) = lane.refusal() {
        batches.iter().for_each(|b| lane.refused(b.range(), Some(b.bytes().len() as u64), &reason));
        return;
    }
    let mut stack = vec![batches];
    let mut tries = 0;
    while let Some(batches) = stack.pop() {
        match lane.gate.call(|| lane.config.sink.append(&lane.key, &batches)).await {
            Ok(appended) => {
                let again = settle(lane, &batches, appended);
                if again.is_empty() {
                    tries = 0;
                } else {
                    tokio::time::sleep(lane.config.backoff.delay(tries)).await;
                    tries += 1;
                    stack.push(again);
                }
            }
            Err(error) if error.kind() == ErrorKind::TooLarge && is_divisible(&batches) => {
                let (front, back) = halve(batches);
                stack.push(back);
                stack.push(front);
            }
            Err(error) => {
                let reason = error.message();
                tracing::warn!(sink = lane.config.name, error = %error.chain(), "a sink refused lines for good");
                batches.iter().for_each(|b| lane.refused(b.range(), Some(b.bytes().len() as u64), reason));
            }
        }
    }
}

/// Enters what became of lines into the account; answers those to be tried again.
fn settle(lane: &Lane, batches: &[LineBatch], appended: Appended) -> Vec<LineBatch> {
    let pick = |range: LineRange| batches.iter().filter_map(move |batch| batch.slice(range));
    let total: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
    let mut refused = 0;
    if let Some(first) = appended.refused.first() {
        tracing::warn!(sink = lane.config.name, reason = first.reason, "a sink refused lines for good");
    }
    for gap in &appended.refused {
        for part in pick(gap.range) {
            refused += part.len() as u64;
            lane.refused(part.range(), Some(part.bytes().len() as u64), &gap.reason);
        }
    }
    let again: Vec<LineBatch> = appended.again.iter().flat_map(|range| pick(*range)).collect();
    let repeated: u64 = again.iter().map(|batch| batch.len() as u64).sum();
    lane.stored(total.saturating_sub(refused + repeated));
    again
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
