//! A store in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{
    Appended, Durability, Error, ErrorKind, Hit, Judgement, LineBatch, LineNumber, LineRange, Lines, Output,
    OutputItem, OutputReader, OutputSink, RECORD_VERSION, Result, Retention, RunId, RunKey, RunQuery,
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
    runs: Arc<Mutex<BTreeMap<RunId, Run>>>,
    /// Told after each change. One for all runs: who waits asks again anyway.
    changed: Arc<watch::Sender<()>>,
}

#[derive(Clone, Debug)]
struct Run {
    record: RunRecord,
    /// By first number; no two overlap.
    batches: BTreeMap<LineNumber, LineBatch>,
}

impl MemoryStore {
    /// A store without runs.
    #[must_use]
    pub fn new() -> Self {
        Self { runs: Arc::default(), changed: Arc::new(watch::Sender::new(())) }
    }

    /// No lock is held across an await, and a panic of a reader leaves the runs as they were.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, record: &RunRecord) -> Result<()> {
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "store a record").with("version", record.version));
        }
        let mut runs = self.lock();
        match runs.get_mut(&record.key.run_id) {
            Some(run) => match run.record.followed_by(record) {
                Some(later) => run.record = later,
                None => return Ok(()),
            },
            None => {
                let run = Run { record: record.clone(), batches: BTreeMap::new() };
                runs.insert(record.key.run_id.clone(), run);
            }
        }
        drop(runs);
        self.changed.send_replace(());
        Ok(())
    }

    /// The runs that fit, newest first.
    fn matching(&self, query: &RunQuery) -> Vec<Run> {
        let mut runs: Vec<Run> =
            self.lock().values().filter(|run| query.matches(&run.record)).cloned().collect();
        runs.sort_by(|a, b| order(&b.record).cmp(&order(&a.record)));
        runs.truncate(query.limit.unwrap_or(usize::MAX));
        runs
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
        drop(runs);
        self.changed.send_replace(());
        Ok(Appended::all())
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.put(record)
    }
}

#[async_trait]
impl OutputReader for MemoryStore {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        Ok(self.matching(query).into_iter().map(|run| run.record).collect())
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
        let batches: Vec<(Arc<RunKey>, LineBatch)> = (self.matching(query).into_iter().rev())
            .flat_map(|run| {
                let key = Arc::new(run.record.key);
                run.batches.into_values().map(move |batch| (Arc::clone(&key), batch))
            })
            .collect();
        let search = search.clone();
        // Lazy: a batch is searched when its hits are asked for.
        let hits = stream::iter(batches).flat_map(move |(run, batch)| {
            if Instant::now() >= deadline {
                let late = Error::new(ErrorKind::TimedOut, "search")
                    .with("limit", format!("{:?}", search.time_limit()));
                return stream::iter(vec![Err(late)]);
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
            self.changed.send_replace(());
        }
        Ok(was_there)
    }

    async fn expire(&self, begun_before: Timestamp) -> Result<u64> {
        let now = Timestamp::now();
        let mut removed = 0;
        self.lock().retain(|_, run| {
            let goes = run.record.started_at < begun_before && run.record.judge(now) != Judgement::Running;
            removed += u64::from(goes);
            !goes
        });
        if removed > 0 {
            self.changed.send_replace(());
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

    fn last_stored(&self) -> u64 {
        self.batches.last_key_value().map_or(0, |(_, batch)| batch.last().get())
    }

    /// All numbers up to this one have a line, or never will have one.
    fn complete_through(&self) -> u64 {
        if self.record.status == RunStatus::Completed {
            return self.last_stored().max(self.record.last_number().map_or(0, LineNumber::get));
        }
        let known = self.record.gaps.iter().chain(&self.record.holes).map(|gap| gap.range);
        let mut ranges: Vec<LineRange> = self.batches.values().map(LineBatch::range).chain(known).collect();
        ranges.sort_by_key(|range| range.first);
        ranges.iter().fold(0, |through, range| {
            if range.first.before() <= through { through.max(range.last.get()) } else { through }
        })
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
