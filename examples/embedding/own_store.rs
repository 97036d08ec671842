//! A store of one's own, whole and small: the guide `docs/backends.md` goes through it, and a test runs the suite on it.
//!
//! It keeps runs in a map. In place of the map stands what you write for; the rules are the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, BoxStream, StreamExt as _};
use pubsub_pipeline::{
    Appended, Durability, Error, ErrorKind, Hit, Judgement, Keep, Line, LineBatch, LineNumber, LineRange,
    Lines, Output, OutputItem, OutputReader, OutputSink, RECORD_VERSION, Result, Retention, RunId, RunKey,
    RunQuery, RunRecord, RunStatus, Search, StoreCapabilities, Support, Timestamp, async_trait,
};
use tokio::sync::watch;

/// What it can do: the suite holds it to this.
pub(crate) const MAP_STORE: StoreCapabilities = StoreCapabilities {
    name: "map",
    search: Support::Yes,
    follow: Support::Yes,
    remove: Support::Yes,
    ordered: Support::No,
    visible_within: Duration::ZERO,
    durability: Durability::Memory,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct MapStore {
    runs: Arc<Mutex<HashMap<RunId, Run>>>,
    /// Told after each change.
    changed: Arc<watch::Sender<()>>,
}

#[derive(Clone, Debug)]
struct Run {
    record: RunRecord,
    lines: BTreeMap<LineNumber, Line>,
}

impl MapStore {
    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record makes a run; a later one takes the place of what is there, by the rule that all stores share.
    fn put(&self, record: &RunRecord) -> Result<()> {
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "store a record").with("version", record.version));
        }
        let mut runs = self.lock();
        let new = || Run { record: record.clone(), lines: BTreeMap::new() };
        let run = runs.entry(record.key.run_id.clone()).or_insert_with(new);
        if let Some(later) = run.record.followed_by(record) {
            run.record = later;
            run.fill();
        }
        drop(runs);
        self.changed.send_replace(());
        Ok(())
    }

    /// The records that fit, newest first: by time begun, then run id.
    fn matching(&self, query: &RunQuery) -> Vec<RunRecord> {
        let runs = self.lock();
        let records = runs.values().map(|run| &run.record).filter(|record| query.matches(record));
        let mut found: Vec<RunRecord> = records.cloned().collect();
        found.sort_by_cached_key(|record| Reverse((record.started_at, record.key.run_id.clone())));
        found.truncate(query.limit.unwrap_or(usize::MAX));
        found
    }

    /// The lines of a run as they are now.
    fn lines_of(&self, run: &RunId) -> BTreeMap<LineNumber, Line> {
        self.lock().get(run).map(|run| run.lines.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl OutputSink for MapStore {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.put(record)
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let mut runs = self.lock();
        let unknown = || Error::new(ErrorKind::NotFound, "append lines").with("run", &run.run_id);
        let stored = runs.get_mut(&run.run_id).ok_or_else(unknown)?;
        for line in batches.iter().flat_map(LineBatch::lines) {
            // What is there stays: an append that is repeated changes nothing.
            stored.lines.entry(line.number).or_insert(line);
        }
        stored.fill();
        drop(runs);
        self.changed.send_replace(());
        Ok(Appended::all())
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.put(record)
    }
}

#[async_trait]
impl OutputReader for MapStore {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        Ok(self.matching(query))
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        let runs = self.lock();
        let unknown = || Error::new(ErrorKind::NotFound, "read lines").with("run", run);
        let stored = runs.get(run).ok_or_else(unknown)?;
        let items = match lines {
            Lines::From(first) => stored.items(LineRange::new(first, LineNumber::MAX)),
            Lines::Range(range) => stored.items(range),
            Lines::Last(count) => stored.last(count),
            _ => return Err(Error::unsupported("these lines cannot be asked for")),
        };
        Ok(Output {
            record: stored.record.clone(),
            complete_through: stored.complete_through(),
            items: stream::iter(items).boxed(),
        })
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        let deadline = Instant::now() + search.time_limit();
        let mut hits = Vec::new();
        for RunRecord { key, .. } in self.matching(query).into_iter().rev() {
            let key = Arc::new(key);
            for line in self.lines_of(&key.run_id).into_values() {
                if Instant::now() >= deadline {
                    return Err(search.timed_out());
                }
                if search.is_match(&line.bytes) {
                    hits.push(Ok(Hit { run: Arc::clone(&key), line }));
                }
            }
        }
        Ok(stream::iter(hits).boxed())
    }

    async fn changes(&self, _: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        let mut changed = self.changed.subscribe();
        // One item comes at once, so that nothing is missed between looking and waiting.
        changed.mark_changed();
        let next = |mut changed: watch::Receiver<()>| async move {
            changed.changed().await.ok()?;
            Some((Ok(()), changed))
        };
        Ok(stream::unfold(changed, next).boxed())
    }
}

#[async_trait]
impl Retention for MapStore {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        let was_there = self.lock().remove(run).is_some();
        self.changed.send_replace(());
        Ok(was_there)
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        let records = self.matching(&RunQuery::all());
        let bytes: Vec<u64> =
            records.iter().map(|record| bytes(&self.lines_of(&record.key.run_id))).collect();
        let (mut left, mut removed) = ((bytes.len() as u64, bytes.iter().sum::<u64>()), 0);
        // The oldest first; one that is running stays, and counts.
        for (record, bytes) in records.iter().zip(bytes).rev() {
            if !keep.is_exceeded(record.started_at, left.0, left.1) {
                break;
            }
            let running = record.judge(Timestamp::now()) == Judgement::Running;
            if !running && self.remove(&record.key.run_id).await? {
                left = (left.0 - 1, left.1 - bytes);
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// With their ends, as they were printed.
fn bytes(lines: &BTreeMap<LineNumber, Line>) -> u64 {
    lines.values().map(|line| (line.bytes.len() + line.end.as_bytes().len()) as u64).sum()
}

impl Run {
    /// A hole whose lines have come is none.
    fn fill(&mut self) {
        for hole in self.record.holes.clone() {
            for (number, _) in self.lines.range(hole.range.first..=hole.range.last) {
                self.record.fill(LineRange::new(*number, *number));
            }
        }
    }

    /// All numbers up to this one have a line, or never will have one.
    fn complete_through(&self) -> u64 {
        let last = self.lines.keys().next_back().map_or(0, |last| last.get());
        if self.record.status == RunStatus::Completed {
            return last.max(self.record.last_number().map_or(0, LineNumber::get));
        }
        let mut through = 0;
        while let Some(next) = LineNumber::new(through + 1) {
            let gaps = || self.record.gaps.iter().chain(&self.record.holes);
            match gaps().find(|gap| gap.range.contains(next)) {
                Some(gap) => through = gap.range.last.get(),
                None if self.lines.contains_key(&next) => through = next.get(),
                None => break,
            }
        }
        through
    }

    /// The lines of these numbers, up to the last that is there, and a gap wherever some are missing.
    fn items(&self, range: LineRange) -> Vec<Result<OutputItem>> {
        let last = self.lines.keys().next_back().map_or(0, |last| last.get()).max(self.complete_through());
        let Some(last) = LineNumber::new(last.min(range.last.get())).filter(|last| *last >= range.first)
        else {
            return Vec::new();
        };
        let gap = |first: LineNumber, last: Option<LineNumber>| {
            let missing = last.filter(|last| first <= *last).map(|last| LineRange::new(first, last));
            missing.map(|range| self.record.missing(range)).unwrap_or_default().into_iter()
        };
        let (mut items, mut next) = (Vec::new(), range.first);
        for (number, line) in self.lines.range(range.first..=last) {
            items.extend(gap(next, LineNumber::new(number.before())).map(|gap| Ok(OutputItem::Gap(gap))));
            items.push(LineBatch::of_line(line).map(OutputItem::Lines));
            next = number.plus(1);
        }
        items.extend(gap(next, Some(last)).map(|gap| Ok(OutputItem::Gap(gap))));
        items
    }

    /// The last so many lines that are there, with the gaps between and after them.
    fn last(&self, count: u64) -> Vec<Result<OutputItem>> {
        let Some(back) = usize::try_from(count).unwrap_or(usize::MAX).checked_sub(1) else {
            return Vec::new();
        };
        let first = self.lines.keys().nth_back(back).copied().unwrap_or(LineNumber::FIRST);
        self.items(LineRange::new(first, LineNumber::MAX))
    }
}
