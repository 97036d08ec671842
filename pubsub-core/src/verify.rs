//! Reading a copy of a run's output again, to see whether it is what was printed.

use futures::stream::{BoxStream, StreamExt as _};

use crate::{
    Gap, LineBatch, LineNumber, LineRange, Lines, Output, OutputItem, OutputReader, Result, RunId, RunRecord,
    RunStatus, Seal, SealBuilder,
};

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Verification {
    /// The record, with the counts and the digest taken at the capture.
    pub record: RunRecord,
    /// Taken anew over the lines that the store gave.
    pub found: Seal,
    /// The first lines that the store lacks although they were kept, and why.
    pub missing: Option<Gap>,
}

impl Verification {
    /// Whether the store has exactly what was printed and kept. A run that has not ended has no seal to agree with.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.problem().is_none()
    }

    /// The first thing that is wrong, for people.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let (found, record) = (&self.found, &self.record);
        if let Some(gap) = &self.missing {
            let LineRange { first, last } = gap.range;
            Some(format!("lines {first} to {last} are missing: {}", gap.reason))
        } else if record.status == RunStatus::Running {
            Some("the run has not ended: there is no seal yet".to_owned())
        } else if found.counts != record.counts {
            Some(format!(
                "{} lines of {} bytes were printed, {} lines of {} bytes are here",
                record.counts.lines, record.counts.bytes, found.counts.lines, found.counts.bytes
            ))
        } else if record.digest != Some(found.digest) {
            Some(format!("the digest over the lines is {}, and not the one of the seal", found.digest))
        } else {
            None
        }
    }
}

/// Reads all lines of a run again and takes their counts and digest anew.
///
/// Bounded memory: one batch at a time.
///
/// # Errors
/// Where the run is not there or cannot be read to its end.
pub async fn verify(reader: &dyn OutputReader, run: &RunId) -> Result<Verification> {
    let Output { record, mut items, .. } = reader.lines(run, Lines::ALL).await?;
    let mut seal = SealBuilder::new();
    let mut missing = None;
    while let Some(item) = items.next().await {
        match item? {
            OutputItem::Lines(batch) => seal.add(&batch),
            // What no store has is not in the seal.
            OutputItem::Gap(gap) if record.is_dropped_everywhere(gap.range) => {}
            OutputItem::Gap(gap) => missing = missing.or(Some(gap)),
        }
    }
    Ok(Verification { record, found: seal.seal(), missing })
}

/// Where two copies of a run begin to differ.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// At which line; `None` where only the records differ.
    pub line: Option<LineNumber>,
    /// How, for people; "here" is the first store, "there" the other.
    pub what: String,
}

/// Reads a run from two stores side by side and names the first difference: number, stream, end, bytes, then counts and
/// digest. Of a run that both say is running, only what both have completely is compared.
///
/// Bounded memory: one batch of each.
///
/// # Errors
/// Where the run is not in both stores or cannot be read to its end.
pub async fn verify_against(
    reader: &dyn OutputReader,
    other: &dyn OutputReader,
    run: &RunId,
) -> Result<Option<Difference>> {
    let (here, there) = (reader.lines(run, Lines::ALL).await?, other.lines(run, Lines::ALL).await?);
    let running = [&here, &there].iter().all(|output| output.record.status == RunStatus::Running);
    let through = if running { here.complete_through.min(there.complete_through) } else { u64::MAX };
    let records = (here.record, there.record);
    let (mut here, mut there) = (Side::new(here.items), Side::new(there.items));
    loop {
        let (a, b) = (here.current().await?, there.current().await?);
        let (a_first, b_first) = (a.as_ref().map(|a| a.range().first), b.as_ref().map(|b| b.range().first));
        let Some(first) = a_first.into_iter().chain(b_first).min().filter(|first| first.get() <= through)
        else {
            break;
        };
        let (Some(a), Some(b)) = (a, b) else {
            return Ok(differs(first, if a_first.is_none() { "it is not here" } else { "it is not there" }));
        };
        if a_first != b_first {
            let here = a_first == Some(first);
            return Ok(differs(first, if here { "it is not there" } else { "it is not here" }));
        }
        let last = a.range().last.min(b.range().last);
        if let Some(difference) = first_difference(&a, &b, LineRange::new(first, last)) {
            return Ok(Some(difference));
        }
        here.pass(last);
        there.pass(last);
    }
    let (a, b) = records;
    let what = if a.status != b.status {
        "one says that the run has ended, the other that it has not"
    } else if a.status == RunStatus::Completed && a.counts != b.counts {
        "the counts of the seals differ"
    } else if a.digest != b.digest {
        "the digests of the seals differ"
    } else {
        return Ok(None);
    };
    Ok(Some(Difference { line: None, what: what.to_owned() }))
}

fn differs(line: LineNumber, what: impl Into<String>) -> Option<Difference> {
    Some(Difference { line: Some(line), what: what.into() })
}

/// Compares two items that both have all of `range`.
fn first_difference(a: &OutputItem, b: &OutputItem, range: LineRange) -> Option<Difference> {
    match (a, b) {
        (OutputItem::Gap(_), OutputItem::Gap(_)) => None,
        (OutputItem::Gap(gap), OutputItem::Lines(_)) => {
            differs(range.first, format!("it is missing here: {}", gap.reason))
        }
        (OutputItem::Lines(_), OutputItem::Gap(gap)) => {
            differs(range.first, format!("it is missing there: {}", gap.reason))
        }
        (OutputItem::Lines(a), OutputItem::Lines(b)) => {
            let (a, b) = (a.slice(range)?, b.slice(range)?);
            let same = |a: &LineBatch, b: &LineBatch| {
                a.stream() == b.stream() && a.bytes() == b.bytes() && a.tail() == b.tail()
            };
            if same(&a, &b) {
                return None;
            }
            a.lines().zip(b.lines()).find_map(|(a, b)| {
                let what = if a.stream != b.stream {
                    "its stream"
                } else if a.end != b.end {
                    "its end"
                } else if a.bytes != b.bytes {
                    "what was printed"
                } else {
                    return None;
                };
                differs(a.number, format!("{what} is not the same"))
            })
        }
    }
}

/// One of two copies that are read side by side.
struct Side {
    items: BoxStream<'static, Result<OutputItem>>,
    current: Option<OutputItem>,
}

impl Side {
    fn new(items: BoxStream<'static, Result<OutputItem>>) -> Self {
        Self { items, current: None }
    }

    async fn current(&mut self) -> Result<Option<OutputItem>> {
        if self.current.is_none() {
            self.current = self.items.next().await.transpose()?;
        }
        Ok(self.current.clone())
    }

    /// Leaves behind everything up to this number.
    fn pass(&mut self, last: LineNumber) {
        let rest = LineRange::new(last.plus(1), LineNumber::MAX);
        self.current = self.current.take().and_then(|item| item.slice(rest));
    }
}

#[cfg(test)]
mod tests {
    use super::{verify, verify_against};
    use crate::conformance::store::{SampleRun, at, batch, lines};
    use crate::{ErrorKind, LineBatch, LineEnd, MemoryStore, OutputSink, Retention, RunRecord, Stream};

    /// The same run in a store of its own, with these lines instead.
    async fn with_lines(record: &RunRecord, batches: &[LineBatch]) -> MemoryStore {
        let store = MemoryStore::new();
        store.finish(record).await.unwrap();
        store.append(&record.key, batches).await.unwrap();
        store
    }

    #[tokio::test]
    async fn a_whole_copy_agrees_whatever_its_batches() {
        let store = MemoryStore::new();
        let run = SampleRun::written(&store, &[lines(1, ["a", "b", "c"])]).await;
        assert_eq!(verify(&store, run.id()).await.unwrap().problem(), None);
        let other = with_lines(&run.record, &[lines(1, ["a"]), lines(2, ["b", "c"])]).await;
        assert!(verify(&other, run.id()).await.unwrap().agrees());
        assert_eq!(verify_against(&store, &other, run.id()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_changed_copy_is_found_and_its_first_difference_is_named() {
        let store = MemoryStore::new();
        let given = [lines(1, ["a", "b"]), batch(3, Stream::Stderr, "c\nd", LineEnd::Part)];
        let run = SampleRun::written(&store, &given).await;
        let [first, second] = &given;
        let err = Stream::Stderr;
        let table = [
            (vec![lines(1, ["a", "x"]), second.clone()], 2, "what was printed is not the same"),
            (
                vec![first.clone(), lines(3, ["c"]), batch(4, err, "d", LineEnd::Part)],
                3,
                "its stream is not the same",
            ),
            (vec![first.clone(), batch(3, err, "c\nd", LineEnd::None)], 4, "its end is not the same"),
            (vec![first.clone(), batch(3, err, "c\r\nd", LineEnd::Part)], 3, "its end is not the same"),
            (vec![lines(1, ["a"]), second.clone()], 2, "it is missing there: not stored here"),
            (vec![first.clone()], 3, "it is missing there: not stored here"),
            (vec![first.clone(), second.clone(), lines(5, ["more"])], 5, "it is not here"),
        ];
        for (lines, line, what) in table {
            let other = with_lines(&run.record, &lines).await;
            let found = verify(&other, run.id()).await.unwrap();
            assert!(!found.agrees(), "{what}");
            let difference = verify_against(&store, &other, run.id()).await.unwrap().unwrap();
            assert_eq!((difference.line, difference.what.as_str()), (Some(at(line)), what));
        }
        let other = with_lines(&run.record, &[lines(1, ["a"]), second.clone()]).await;
        let difference = verify_against(&other, &store, run.id()).await.unwrap().unwrap();
        assert_eq!(difference.what, "it is missing here: not stored here");
    }

    #[tokio::test]
    async fn a_running_run_has_no_seal_and_is_compared_as_far_as_both_have_it() {
        let (store, other) = (MemoryStore::new(), MemoryStore::new());
        let mut run = SampleRun::new();
        run.begin(&store).await;
        run.begin(&other).await;
        run.append(&store, &[lines(1, ["a", "b"])]).await;
        other.append(run.key(), &[lines(1, ["a"])]).await.unwrap();
        assert!(verify(&store, run.id()).await.unwrap().problem().unwrap().contains("has not ended"));
        assert_eq!(verify_against(&store, &other, run.id()).await.unwrap(), None);
        run.finish(&store).await;
        let difference = verify_against(&store, &other, run.id()).await.unwrap().unwrap();
        assert_eq!((difference.line, difference.what.as_str()), (Some(at(2)), "it is not there"));
        other.remove(run.id()).await.unwrap();
        let error = verify_against(&store, &other, run.id()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
