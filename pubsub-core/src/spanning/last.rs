//! The last so many lines of all stores together.

use futures::future::join_all;

use super::lines::{Heads, Merged};
use crate::{LineNumber, LineRange, OutputItem, Result, RunStatus};

/// The last `count` lines that are there, with the gaps between and after them, of stores that were each asked for
/// theirs.
///
/// A store's last lines begin no earlier than those of all together, for these are at least as many from there on. So
/// what comes from the latest of these beginnings is counted, and the surplus passed by; where a store has fewer lines
/// than were asked for, an earlier beginning is taken.
pub(super) async fn merged(mut heads: Heads, count: u64) -> Result<Merged> {
    let asking = heads.asking.clone();
    let begins = join_all(heads.sources.iter_mut().map(|source| source.begins(&asking))).await;
    let mut begins: Vec<LineNumber> = begins.into_iter().flatten().collect();
    begins.sort_unstable_by(|a, b| b.cmp(a));
    begins.dedup();
    let end = Some(heads.through).filter(|_| heads.record.status == RunStatus::Completed);
    let from = |first| LineRange::new(first, LineNumber::MAX);
    if end.is_some_and(|end| end <= count) {
        return Ok(heads.merged(from(LineNumber::FIRST)));
    }
    begins.push(LineNumber::FIRST);
    let (mut first, mut there) = (LineNumber::FIRST, 0);
    for begin in begins {
        first = begin;
        // As many numbers as lines up to the very end: nobody has more, and nothing has to be counted.
        let whole = end.is_some_and(|end| begin.before().checked_add(count) == Some(end));
        there = if whole { count } else { counted(heads.again().merged(from(begin))).await? };
        if there >= count {
            break;
        }
    }
    Ok(heads.merged(from(first)).behind(there.saturating_sub(count)))
}

/// How many lines there are.
async fn counted(mut merged: Merged) -> Result<u64> {
    let mut lines: u64 = 0;
    while let Some(item) = merged.next().await {
        if let OutputItem::Lines(batch) = item? {
            lines = lines.saturating_add(batch.len() as u64);
        }
    }
    Ok(lines)
}
