//! Moving a run from one store to another.

use futures::stream::StreamExt as _;

use crate::sink::{in_order, without};
use crate::{
    Error, ErrorKind, Gap, LineBatch, LineNumber, LineRange, Lines, Output, OutputItem, OutputReader,
    OutputSink, Result, RunId, RunRecord, RunStatus, Seal, SealBuilder, Store, verify,
};

/// How many bytes of lines are appended at once.
const APPEND_BYTES: usize = 256 * 1024;

/// What a [`copy`] moved.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CopyReport {
    /// The record as the sink got it, with the holes of the copy.
    pub record: RunRecord,
    /// Lines that the sink has taken.
    pub lines: u64,
    /// Their bytes, ends included.
    pub bytes: u64,
    /// Lines that the sink refused for good; they are among the holes.
    pub refused: Vec<Gap>,
    /// A damaged copy that was there is replaced; by [`copy_verified`] alone.
    pub replaced: bool,
}

/// Copies a run with its record and its lines into another store: backfill, archive, migration, a second try after a
/// sink refused lines.
///
/// Lines that the reader lacks, or the sink refuses, become holes of the copy. Holes of a copy that is there already are
/// filled, so that a run whose lines a store once refused is whole there after it is copied from another. Of a run that has not ended, the lines
/// up to which it is complete are copied and nothing is sealed: copy it again later. Repeating a copy changes nothing, also
/// nothing that was damaged in the sink: [`copy_verified`] finds and mends that.
///
/// Bounded memory: up to 256 KiB of lines and one batch. A sink that answers lines to be tried again is best given
/// in a wrapper that does so.
///
/// ```
/// use pubsub_core::{
///     ActionId, EventId, MemoryStore, OutputSink, RunKey, RunRecord, Stage, copy, verify_against,
/// };
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (from, to) = (MemoryStore::new(), MemoryStore::new());
/// let key = RunKey::new(ActionId::new("action-123")?, Stage::new("build")?, EventId::generate(), 1);
/// from.begin(&RunRecord::begun(key.clone(), "worker-1")).await?;
/// copy(&from, &key.run_id, &to).await?;
/// assert_eq!(verify_against(&from, &to, &key.run_id).await?, None);
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// Where the run is not there, cannot be read, or the sink fails; [`Unavailable`](ErrorKind::Unavailable) where the
/// sink asks for lines again.
///
/// # Cancel safety
/// A dropped copy may have moved part of the run; repeat it.
pub async fn copy(from: &dyn OutputReader, run: &RunId, to: &dyn OutputSink) -> Result<CopyReport> {
    Ok(moved(from, run, to).await?.0)
}

/// As [`copy`], and then reads the copy of a run that has ended again: it must have every line that it was given, as the
/// reader has it.
///
/// Where it does not, a copy that was there before is damaged. It is removed and made anew where the reader has all of the
/// run by its seal; otherwise it may have what no other store has, and stays. Of a run that goes on nothing is read again.
///
/// # Errors
/// As for [`copy`]; [`Corrupt`](ErrorKind::Corrupt) where the copy is damaged and was not replaced.
///
/// # Cancel safety
/// As for [`copy`]. Dropped while a damaged copy is replaced, that one may be gone; the reader has all of it.
pub async fn copy_verified(from: &dyn OutputReader, run: &RunId, to: &dyn Store) -> Result<CopyReport> {
    let (report, given) = moved(from, run, to).await?;
    let record = &report.record;
    if record.status == RunStatus::Running {
        return Ok(report);
    }
    let damaged = |what: &str| Error::new(ErrorKind::Corrupt, what).with("run", run);
    let is_whole = record.holes.is_empty()
        && record.digest == Some(given.seal.digest)
        && record.counts == given.seal.counts;
    if given.is_in(to, run).await? {
        if is_whole || given.is_all_there_was(&report) {
            return Ok(report);
        }
        return Err(damaged(
            "the run is damaged in the store that it is copied from, and so is what the copy has of it",
        ));
    }
    if !is_whole {
        if verify(to, run).await?.agrees() {
            return Err(damaged("the run is damaged in the store that it is copied from; the copy is whole"));
        }
        return Err(damaged(
            "the copy is damaged, and stays as it is: the store it is copied from does not have all of the run \
             either; copy it from one that does, or remove the damaged copy first",
        ));
    }
    tracing::warn!(%run, "a copy that was damaged is removed and made anew");
    to.remove(run).await?;
    let (report, given) = moved(from, run, to).await?;
    if given.is_in(to, run).await? {
        return Ok(CopyReport { replaced: true, ..report });
    }
    Err(damaged("a copy that was just made is damaged: its store does not give what it was given"))
}

async fn moved(from: &dyn OutputReader, run: &RunId, to: &dyn OutputSink) -> Result<(CopyReport, Given)> {
    let Output { record, complete_through, mut items } = from.lines(run, Lines::ALL).await?;
    let running = record.status == RunStatus::Running;
    let through = if running { complete_through } else { u64::MAX };
    let wanted = LineNumber::new(through).map(|through| LineRange::new(LineNumber::FIRST, through));
    to.begin(&record.as_begun()).await?;
    let mut copying = Copying::new(to, record);
    while let Some(item) = items.next().await {
        let item = item?;
        let Some(item) = wanted.and_then(|wanted| item.slice(wanted)) else { break };
        copying.take(item).await?;
    }
    copying.flush().await?;
    let (report, given) = copying.report();
    if !running {
        to.finish(&report.record).await?;
    }
    Ok((report, given))
}

/// The lines that a sink has taken.
struct Given {
    /// In order, none next to another.
    ranges: Vec<LineRange>,
    seal: Seal,
    /// What the record of the reader says to be missing there.
    missing: Vec<Gap>,
}

impl Given {
    /// Whether a run that is not whole lacks just what its reader's record says, or the sink refused.
    fn is_all_there_was(&self, report: &CopyReport) -> bool {
        let known: Vec<LineRange> = self.missing.iter().chain(&report.refused).map(|gap| gap.range).collect();
        let (known, holes) = (in_order(&known), &report.record.holes);
        !holes.is_empty() && holes.iter().all(|hole| without(hole.range, &known).is_empty())
    }

    /// Whether a store has just these lines where it was given them, whatever else it has.
    async fn is_in(&self, store: &dyn OutputReader, run: &RunId) -> Result<bool> {
        let mut items = store.lines(run, Lines::ALL).await?.items;
        let (mut ranges, mut found) = (self.ranges.as_slice(), SealBuilder::new());
        while let Some(item) = items.next().await {
            let OutputItem::Lines(batch) = item? else { continue };
            let passed = ranges.iter().take_while(|range| range.last < batch.first()).count();
            ranges = ranges.get(passed..).unwrap_or_default();
            let within = ranges.iter().take_while(|range| range.first <= batch.last());
            within.filter_map(|range| batch.slice(*range)).for_each(|part| found.add(&part));
        }
        let found = found.seal();
        Ok(found.digest == self.seal.digest && found.counts.lines == self.seal.counts.lines)
    }
}

struct Copying<'a> {
    to: &'a dyn OutputSink,
    record: RunRecord,
    waiting: Vec<LineBatch>,
    waiting_bytes: usize,
    holes: Vec<Gap>,
    refused: Vec<Gap>,
    given: Vec<LineRange>,
    seal: SealBuilder,
}

impl<'a> Copying<'a> {
    fn new(to: &'a dyn OutputSink, record: RunRecord) -> Self {
        let (waiting, holes, refused) = (Vec::new(), Vec::new(), Vec::new());
        let (given, seal) = (Vec::new(), SealBuilder::new());
        Self { to, record, waiting, waiting_bytes: 0, holes, refused, given, seal }
    }

    async fn take(&mut self, item: OutputItem) -> Result<()> {
        match item {
            OutputItem::Lines(batch) => {
                self.waiting_bytes += batch.bytes().len();
                self.waiting.push(batch);
                if self.waiting_bytes >= APPEND_BYTES {
                    self.flush().await?;
                }
            }
            OutputItem::Gap(gap) if self.record.is_dropped_everywhere(gap.range) => {}
            OutputItem::Gap(gap) => gap.enter(&mut self.holes),
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut answer = self.to.append(&self.record.key, &self.waiting).await?;
        answer.refused.append(&mut answer.dropped);
        if let Some(range) = answer.again.first() {
            return Err(Error::new(ErrorKind::Unavailable, "copy: the sink wants lines again")
                .with("run", &self.record.key.run_id)
                .with("first", range.first));
        }
        let refused: Vec<LineRange> = answer.refused.iter().map(|gap| gap.range).collect();
        let refused = in_order(&refused);
        for batch in std::mem::take(&mut self.waiting) {
            for range in without(batch.range(), &refused) {
                batch.slice(range).into_iter().for_each(|part| self.took(&part));
            }
        }
        self.waiting_bytes = 0;
        for gap in answer.refused {
            gap.clone().enter(&mut self.holes);
            gap.enter(&mut self.refused);
        }
        Ok(())
    }

    /// Enters lines that the sink has.
    fn took(&mut self, part: &LineBatch) {
        self.seal.add(part);
        match self.given.last_mut() {
            Some(range) if range.last.plus(1) == part.first() => range.last = part.last(),
            _ => self.given.push(part.range()),
        }
    }

    fn report(self) -> (CopyReport, Given) {
        let Self { mut record, holes, refused, given, seal, .. } = self;
        let missing = std::mem::replace(&mut record.holes, holes);
        let seal = seal.seal();
        let (lines, bytes) = (seal.counts.lines, seal.counts.bytes);
        let report = CopyReport { record, lines, bytes, refused, replaced: false };
        (report, Given { ranges: given, seal, missing })
    }
}

#[cfg(test)]
mod tests {
    use super::{copy, copy_verified};
    use crate::conformance::store::{SampleRun, at, lines, read, shape};
    use crate::{
        Appended, ErrorKind, Gap, LineBatch, LineRange, Lines, MemoryStore, OutputReader, OutputSink, Result,
        RunKey, RunRecord, RunStatus, verify, verify_against,
    };

    fn gap(first: u64, last: u64, reason: &str) -> Gap {
        Gap { range: LineRange::new(at(first), at(last)), bytes: None, reason: reason.to_owned() }
    }

    #[tokio::test]
    async fn a_copy_is_what_it_was_copied_from_and_copying_again_changes_nothing() {
        let (from, to) = (MemoryStore::new(), MemoryStore::new());
        let long = "x".repeat(40_000);
        let batches: Vec<LineBatch> = (1..=40).map(|n| lines(n, [&long])).collect();
        let mut run = SampleRun::written(&from, &batches).await;
        run.record.conclude();
        from.finish(&run.record).await.unwrap();
        for _ in 0..2 {
            let report = copy(&from, run.id(), &to).await.unwrap();
            assert_eq!((report.lines, report.bytes, &report.record), (40, 40 * 40_001, &run.record));
            assert!(verify(&to, run.id()).await.unwrap().agrees());
            assert_eq!(verify_against(&from, &to, run.id()).await.unwrap(), None);
            assert_eq!(to.runs(&run.query()).await.unwrap(), [run.record.clone()]);
        }
    }

    #[tokio::test]
    async fn a_running_run_is_copied_as_far_as_it_is_complete_and_to_its_end_later() {
        let (from, to) = (MemoryStore::new(), MemoryStore::new());
        let mut run = SampleRun::new();
        run.begin(&from).await;
        run.append(&from, &[lines(1, ["a", "b"]), lines(4, ["d"])]).await;
        let report = copy(&from, run.id(), &to).await.unwrap();
        assert_eq!((report.lines, report.record.status), (2, RunStatus::Running));
        assert_eq!(shape(&read(&to, run.id(), Lines::ALL).await), "1-2");
        from.append(run.key(), &[lines(3, ["c"])]).await.unwrap();
        run.finish(&from).await;
        assert_eq!(copy(&from, run.id(), &to).await.unwrap().record.status, RunStatus::Completed);
        assert_eq!(shape(&read(&to, run.id(), Lines::ALL).await), "1-4");
    }

    /// Refuses line 3 and, where told so, wants line 5 again.
    struct Picky(MemoryStore, Vec<LineRange>);

    #[async_trait::async_trait]
    impl OutputSink for Picky {
        async fn begin(&self, record: &RunRecord) -> Result<()> {
            self.0.begin(record).await
        }

        async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
            for range in [LineRange::new(at(1), at(2)), LineRange::new(at(4), at(99))] {
                let parts: Vec<_> = batches.iter().filter_map(|batch| batch.slice(range)).collect();
                self.0.append(run, &parts).await?;
            }
            let answer = Appended::all().with_refused(gap(3, 3, "too odd"));
            Ok(self.1.iter().fold(answer, |answer, range| answer.with_again(*range)))
        }

        async fn finish(&self, record: &RunRecord) -> Result<()> {
            self.0.finish(record).await
        }
    }

    #[tokio::test]
    async fn what_was_missing_and_what_is_refused_are_holes_of_the_copy() {
        let (from, to) = (MemoryStore::new(), Picky(MemoryStore::new(), Vec::new()));
        let mut run = SampleRun::new();
        run.begin(&from).await;
        run.append(&from, &[lines(1, ["a", "b", "c", "d"]), lines(11, ["k"])]).await;
        run.print(&[lines(7, ["g", "h"])]);
        run.record.holes = vec![gap(7, 8, "refused there")];
        run.record.gaps = vec![gap(5, 6, "over the limit"), gap(9, 10, "over the limit")];
        run.finish(&from).await;
        let report = copy(&from, run.id(), &to).await.unwrap();
        assert_eq!((report.lines, report.bytes), (4, 8));
        assert_eq!(report.refused, [gap(3, 3, "too odd")]);
        assert_eq!(report.record.holes, [gap(3, 3, "too odd"), gap(7, 8, "refused there")]);
        assert_eq!(
            shape(&read(&to.0, run.id(), Lines::ALL).await),
            "1-2 gap 3-3 too odd; 4-4 gap 5-6 over the limit; gap 7-8 refused there; \
             gap 9-10 over the limit; 11-11"
        );
        let verified = verify(&to.0, run.id()).await.unwrap();
        assert_eq!(verified.problem().unwrap(), "lines 3 to 3 are missing: too odd");
    }

    #[tokio::test]
    async fn a_sink_that_wants_lines_again_is_told_as_such_and_nothing_is_sealed() {
        let again = vec![LineRange::new(at(5), at(5))];
        let (from, to) = (MemoryStore::new(), Picky(MemoryStore::new(), again));
        let run = SampleRun::written(&from, &[lines(1, ["a", "b", "c", "d", "e"])]).await;
        let error = copy(&from, run.id(), &to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(to.0.runs(&run.query()).await.unwrap()[0].status, RunStatus::Running);
        let nothing = copy(&from, SampleRun::new().id(), &to).await.unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::NotFound);
    }

    /// A store whose copy of the run has another line 2.
    async fn damaged(run: &SampleRun) -> MemoryStore {
        let store = MemoryStore::new();
        let mut other = run.record.clone();
        store.begin(&other.as_begun()).await.unwrap();
        store.append(run.key(), &[lines(1, ["a", "x", "c"])]).await.unwrap();
        other.holes = Vec::new();
        store.finish(&other).await.unwrap();
        store
    }

    #[tokio::test]
    async fn a_damaged_copy_is_replaced_where_the_reader_has_all_of_the_run_and_told_where_it_has_not() {
        let from = MemoryStore::new();
        let run = SampleRun::written(&from, &[lines(1, ["a", "b", "c"])]).await;
        let to = damaged(&run).await;
        // What is there is there: a copy changes no line.
        assert!(!copy(&from, run.id(), &to).await.unwrap().replaced);
        assert!(!verify(&to, run.id()).await.unwrap().agrees());
        for replaced in [true, false] {
            let report = copy_verified(&from, run.id(), &to).await.unwrap();
            assert_eq!((report.replaced, report.lines), (replaced, 3));
            assert!(verify(&to, run.id()).await.unwrap().agrees());
        }

        let from = MemoryStore::new();
        let mut run = SampleRun::new();
        run.begin(&from).await;
        run.append(&from, &[lines(1, ["a", "b", "c"])]).await;
        run.print(&[lines(4, ["d"])]);
        run.record.holes = vec![gap(4, 4, "refused there")];
        run.finish(&from).await;
        let to = damaged(&run).await;
        to.append(run.key(), &[lines(4, ["d"])]).await.unwrap();
        let error = copy_verified(&from, run.id(), &to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(run.id().as_str()), "{error}");
        assert_eq!(to.runs(&run.query()).await.unwrap().len(), 1, "it stays");
    }

    #[tokio::test]
    async fn a_run_that_is_damaged_where_it_is_copied_from_is_never_told_as_copied() {
        for (text, lost) in [(["a", "x", "c"], None), (["a", "b", "c"], Some(3))] {
            let from = MemoryStore::new();
            let mut run = SampleRun::new();
            run.begin(&from).await;
            run.print(&[lines(1, ["a", "b", "c"])]);
            let there: Vec<_> = text.into_iter().take(if lost.is_some() { 2 } else { 3 }).collect();
            from.append(run.key(), &[lines(1, there)]).await.unwrap();
            run.finish(&from).await;
            let error = copy_verified(&from, run.id(), &MemoryStore::new()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{lost:?}");
            assert!(error.to_string().contains("copied from"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_run_whose_record_says_what_it_lacks_is_copied() {
        let from = MemoryStore::new();
        let mut run = SampleRun::new();
        run.begin(&from).await;
        run.print(&[lines(1, ["a", "b", "c"])]);
        from.append(run.key(), &[lines(1, ["a", "b"])]).await.unwrap();
        run.record.holes = vec![gap(3, 3, "refused there")];
        run.finish(&from).await;
        assert_eq!(copy_verified(&from, run.id(), &MemoryStore::new()).await.unwrap().lines, 2);
    }

    #[tokio::test]
    async fn a_copy_that_has_more_than_the_reader_is_not_damaged() {
        let (from, to) = (MemoryStore::new(), MemoryStore::new());
        let mut run = SampleRun::new();
        run.begin(&from).await;
        run.append(&from, &[lines(1, ["a"]), lines(3, ["c", "d"])]).await;
        run.record.holes = vec![gap(2, 2, "refused there")];
        run.finish(&from).await;
        to.begin(&run.record.as_begun()).await.unwrap();
        to.append(run.key(), &[lines(1, ["a", "b", "c"])]).await.unwrap();
        let report = copy_verified(&from, run.id(), &to).await.unwrap();
        assert_eq!((report.lines, report.replaced), (3, false));
        assert_eq!(shape(&read(&to, run.id(), Lines::ALL).await), "1-4");
    }
}
