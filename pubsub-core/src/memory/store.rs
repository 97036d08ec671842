//! A store in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{
    Appended, Durability, Error, ErrorKind, Hit, Judgement, Keep, LineBatch, LineNumber, LineRange, Lines,
    Output, OutputItem, OutputReader, OutputSink, RECORD_VERSION, Result, Retention, RunId, RunKey, RunQuery,
    RunRecord, RunStatus, Search, StoreCapabilities, Support, Timestamp,
};

/// What [`MemoryStore`] can do.
pub const MEMORY_STORE: StoreCapabilities = StoreCapabilities {
    name: "memory",
    search: Support::Yes,
    follow: Support::Yes,
    remove: Support::Yes,
    ordered: Support::No,
    visible_within: Duration::ZERO,
    durability: Durability::Memory,
};

/// Keeps runs and their output in memory: for tests, and as the readable reference of a store.
///
/// A clone is another handle to the same runs. Nothing bounds what it keeps but [`remove`](Retention::remove) and
/// [`expire`](Retention::expire).
///
/// ```
/// use futures::StreamExt;
/// use pubsub_core::{
///     ActionId, EventId, LineBatch, LineEnd, LineNumber, Lines, MemoryStore, OutputItem, OutputReader, OutputSink,
///     RunKey, RunRecord, Stage, Stream, Timestamp,
/// };
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// let key = RunKey::new(ActionId::new("action-123")?, Stage::new("build")?, EventId::generate(), 1);
/// store.begin(&RunRecord::begun(key.clone(), "worker-1")).await?;
/// let now = Timestamp::now();
/// let batch = LineBatch::split(LineNumber::FIRST, now, Stream::Stdout, "hello\n".into(), LineEnd::None)?;
/// store.append(&key, &[batch.clone()]).await?;
/// let output = store.lines(&key.run_id, Lines::ALL).await?;
/// assert_eq!(output.complete_through, 1);
/// let items: Vec<_> = output.items.collect().await;
/// assert!(matches!(items.as_slice(), [Ok(OutputItem::Lines(lines))] if *lines == batch));
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct MemoryStore {
    runs: Arc<Mutex<HashMap<RunId, Run>>>,
    /// Told after each change. One for all runs: who waits asks again anyway.
    changed: Arc<watch::Sender<()>>,
}

#[derive(Clone, Debug)]
struct Run {
    record: RunRecord,
    /// By first number; no two overlap.
    batches: BTreeMap<LineNumber, LineBatch>,
    /// All numbers up to this one have a line, or never will have one.
    through: u64,
}

impl MemoryStore {
    /// A store without runs.
    #[must_use]
    pub fn new() -> Self {
        Self { runs: Arc::default(), changed: Arc::new(watch::Sender::new(())) }
    }

    /// No lock is held across an await, and a panic of a reader leaves the runs as they were.
    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of a change that was made before.
    fn tell(&self) {
        // Whoever listens does so before it looks, so nobody who has not begun to misses anything.
        if self.changed.receiver_count() > 0 {
            self.changed.send_replace(());
        }
    }

    fn put(&self, record: &RunRecord) -> Result<()> {
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "store a record").with("version", record.version));
        }
        let mut runs = self.lock();
        match runs.get_mut(&record.key.run_id) {
            Some(run) => match run.record.followed_by(record) {
                Some(later) => {
                    run.record = later;
                    run.fill();
                    run.advance();
                }
                None => return Ok(()),
            },
            None => {
                let mut run = Run { record: record.clone(), batches: BTreeMap::new(), through: 0 };
                run.advance();
                runs.insert(record.key.run_id.clone(), run);
            }
        }
        drop(runs);
        self.tell();
        Ok(())
    }

    /// The records that fit, newest first.
    fn matching(&self, query: &RunQuery) -> Vec<RunRecord> {
        let runs = self.lock();
        let mut records: Vec<RunRecord> =
            runs.values().map(|run| &run.record).filter(|record| query.matches(record)).cloned().collect();
        drop(runs);
        records.sort_by(|a, b| order(b).cmp(&order(a)));
        records.truncate(query.limit.unwrap_or(usize::MAX));
        records
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

fn order(record: &RunRecord) -> (Timestamp, &RunId) {
    (record.started_at, &record.key.run_id)
}

fn not_found(doing: &str, run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, doing).with("run", run)
}

#[async_trait]
impl OutputSink for MemoryStore {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.put(record)
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let mut runs = self.lock();
        let stored = runs.get_mut(&run.run_id).ok_or_else(|| not_found("append lines", &run.run_id))?;
        batches.iter().for_each(|batch| stored.insert(batch));
        stored.fill();
        drop(runs);
        self.tell();
        Ok(Appended::all())
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.put(record)
    }
}

#[async_trait]
impl OutputReader for MemoryStore {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        Ok(self.matching(query))
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        let runs = self.lock();
        let stored = runs.get(run).ok_or_else(|| not_found("read lines", run))?;
        let items: Vec<Result<OutputItem>> = match lines {
            Lines::From(first) => stored.items(LineRange::new(first, LineNumber::MAX)),
            Lines::Range(range) => stored.items(range),
            Lines::Last(count) => stored.last(count),
        }
        .into_iter()
        .map(Ok)
        .collect();
        Ok(Output {
            record: stored.record.clone(),
            complete_through: stored.complete_through(),
            items: stream::iter(items).boxed(),
        })
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        let deadline = Instant::now() + search.time_limit();
        let records = self.matching(query);
        let runs = self.lock();
        let mut batches: Vec<(Arc<RunKey>, LineBatch)> = Vec::new();
        for record in records.into_iter().rev() {
            let run = runs.get(&record.key.run_id);
            let key = Arc::new(record.key);
            batches.extend(
                run.into_iter().flat_map(|run| run.batches.values().map(|b| (Arc::clone(&key), b.clone()))),
            );
        }
        drop(runs);
        let search = search.clone();
        // Lazy: a batch is searched when its hits are asked for.
        let hits = stream::iter(batches).flat_map(move |(run, batch)| {
            if Instant::now() >= deadline {
                return stream::iter(vec![Err(search.timed_out())]);
            }
            let found = batch.lines().filter(|line| search.is_match(&line.bytes));
            stream::iter(found.map(|line| Ok(Hit { run: Arc::clone(&run), line })).collect::<Vec<_>>())
        });
        // An error is the last item.
        let mut failed = false;
        Ok(hits
            .take_while(move |hit| std::future::ready(!std::mem::replace(&mut failed, hit.is_err())))
            .boxed())
    }

    async fn changes(&self, _query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        let mut changed = self.changed.subscribe();
        changed.mark_changed();
        let next = |mut changed: watch::Receiver<()>| async move {
            changed.changed().await.ok()?;
            Some((Ok(()), changed))
        };
        Ok(stream::unfold(changed, next).boxed())
    }
}

#[async_trait]
impl Retention for MemoryStore {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        let was_there = self.lock().remove(run).is_some();
        if was_there {
            self.tell();
        }
        Ok(was_there)
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        let now = Timestamp::now();
        let mut runs = self.lock();
        let mut oldest: Vec<(Timestamp, RunId)> =
            runs.values().map(|run| (run.record.started_at, run.record.key.run_id.clone())).collect();
        oldest.sort_unstable();
        let mut left = (oldest.len() as u64, runs.values().map(Run::bytes).sum());
        let mut removed = 0;
        for (began, id) in oldest {
            if !keep.is_exceeded(began, left.0, left.1) {
                break;
            }
            if runs.get(&id).is_some_and(|run| run.record.judge(now) != Judgement::Running) {
                let bytes = runs.remove(&id).map_or(0, |run| run.bytes());
                left = (left.0 - 1, left.1 - bytes);
                removed += 1;
            }
        }
        drop(runs);
        if removed > 0 {
            self.tell();
        }
        Ok(removed)
    }
}

impl Run {
    /// Takes those lines of a batch that are not there yet.
    fn insert(&mut self, batch: &LineBatch) {
        let mut next = batch.first();
        for taken in self.overlapping(batch.range()) {
            let free = LineNumber::new(taken.first.before()).map(|last| LineRange::new(next, last));
            if let Some(part) = free.and_then(|free| batch.slice(free)) {
                self.batches.insert(part.first(), part);
            }
            next = next.max(taken.last.plus(1));
        }
        if let Some(part) = batch.slice(LineRange::new(next, batch.last())) {
            self.batches.insert(part.first(), part);
        }
        self.advance();
    }

    /// A hole whose lines have come is none.
    fn fill(&mut self) {
        for hole in self.record.holes.clone() {
            self.overlapping(hole.range).into_iter().for_each(|stored| self.record.fill(stored));
        }
    }

    /// Moves `through` over what has come by now.
    fn advance(&mut self) {
        let holes = || self.record.gaps.iter().chain(&self.record.holes).map(|gap| gap.range);
        let mut through = self.through;
        while let Some(next) = through.checked_add(1).and_then(LineNumber::new) {
            let batch = self.batches.range(..=next).next_back().map(|(_, batch)| batch.range());
            let Some(over) = batch.into_iter().chain(holes()).find(|range| range.contains(next)) else {
                break;
            };
            through = over.last.get();
        }
        self.through = through;
    }

    fn overlapping(&self, range: LineRange) -> Vec<LineRange> {
        let before = self.batches.range(..range.first).next_back();
        before
            .into_iter()
            .chain(self.batches.range(range.first..=range.last))
            .map(|(_, batch)| batch.range())
            .filter(|taken| taken.last >= range.first)
            .collect()
    }

    fn bytes(&self) -> u64 {
        self.batches.values().map(|batch| batch.bytes().len() as u64).sum()
    }

    fn last_stored(&self) -> u64 {
        self.batches.last_key_value().map_or(0, |(_, batch)| batch.last().get())
    }

    fn complete_through(&self) -> u64 {
        match self.record.status {
            RunStatus::Running => self.through,
            RunStatus::Completed => {
                self.last_stored().max(self.record.last_number().map_or(0, LineNumber::get))
            }
        }
    }

    /// Lines and gaps of these numbers, up to the last that is there.
    fn items(&self, range: LineRange) -> Vec<OutputItem> {
        let mut items = Vec::new();
        let mut next = range.first;
        let end = self.last_stored().max(self.complete_through());
        let Some(last) = LineNumber::new(end.min(range.last.get())).filter(|last| *last >= next) else {
            return items;
        };
        let gap = |first: LineNumber, last: u64| {
            let range = LineNumber::new(last).filter(|last| *last >= first);
            let gaps = range.map(|last| self.record.missing(LineRange::new(first, last)));
            gaps.into_iter().flatten().map(OutputItem::Gap)
        };
        for taken in self.overlapping(LineRange::new(next, last)) {
            items.extend(gap(next, taken.first.before()));
            next = next.max(taken.last.plus(1));
            let batch = self.batches.get(&taken.first).and_then(|batch| batch.slice(range));
            items.extend(batch.map(OutputItem::Lines));
        }
        items.extend(gap(next, last.get()));
        items
    }

    /// The last so many lines that are there, with the gaps between and after them.
    fn last(&self, count: u64) -> Vec<OutputItem> {
        if count == 0 {
            return Vec::new();
        }
        let mut wanted = count;
        for batch in self.batches.values().rev() {
            let lines = batch.len() as u64;
            if wanted <= lines {
                let first = batch.first().plus(lines - wanted);
                return self.items(LineRange::new(first, LineNumber::MAX));
            }
            wanted -= lines;
        }
        self.items(LineRange::new(LineNumber::FIRST, LineNumber::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::MemoryStore;
    use crate::conformance::store::{SampleRun, at, read, read_lines, shape};
    use crate::{Line, LineBatch, LineEnd, LineRange, Lines, OutputReader, OutputSink, Stream, Timestamp};

    fn line(number: u64) -> Line {
        Line {
            number: at(number),
            time: Timestamp::EPOCH,
            stream: Stream::Stdout,
            end: LineEnd::Lf,
            bytes: format!("line {number}").into(),
            recovered: false,
        }
    }

    fn batch(first: u64, last: u64) -> LineBatch {
        let text: String = (first..=last).map(|n| format!("line {n}\n")).collect();
        LineBatch::split(at(first), Timestamp::EPOCH, Stream::Stdout, text.into(), LineEnd::None).unwrap()
    }

    proptest! {
        /// The model is the set of numbers that were appended.
        #[test]
        fn appends_in_any_order_with_any_overlap_are_the_set_of_their_lines(
            appends in proptest::collection::vec((1u64..30, 0u64..12), 1..12),
            asked in (1u64..45, 0u64..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let store = MemoryStore::new();
                let run = SampleRun::new();
                run.begin(&store).await;
                let mut model = std::collections::BTreeSet::new();
                for (first, more) in appends {
                    store.append(run.key(), &[batch(first, first + more)]).await.unwrap();
                    model.extend(first..=first + more);
                    let through = (1..).take_while(|n| model.contains(n)).last().unwrap_or(0);
                    let output = store.lines(run.id(), Lines::ALL).await.unwrap();
                    prop_assert_eq!(output.complete_through, through);
                }
                let items = read(&store, run.id(), Lines::ALL).await;
                let numbers = items.iter().flat_map(|item| match item {
                    crate::OutputItem::Lines(batch) => batch.lines().collect::<Vec<_>>(),
                    crate::OutputItem::Gap(_) => Vec::new(),
                });
                prop_assert_eq!(numbers.collect::<Vec<_>>(), model.iter().copied().map(line).collect::<Vec<_>>());
                let (first, more) = asked;
                let range = LineRange::new(at(first), at(first + more));
                let items = read(&store, run.id(), Lines::Range(range)).await;
                let there = model.last().copied().unwrap_or(0).min(first + more);
                let told: Vec<u64> =
                    items.iter().flat_map(|item| item.range().first.get()..=item.range().last.get()).collect();
                prop_assert_eq!(told, (first..=there).collect::<Vec<_>>());
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn a_clone_is_the_same_store_and_another_one_is_not() {
        let store = MemoryStore::new();
        let run = SampleRun::written(&store, &[batch(1, 3)]).await;
        assert_eq!(read_lines(&store.clone(), run.id(), Lines::ALL).await.len(), 3);
        assert!(MemoryStore::new().lines(run.id(), Lines::ALL).await.is_err());
        assert_eq!(shape(&read(&store, run.id(), Lines::Last(1)).await), "3-3");
    }
}
