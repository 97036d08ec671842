//! What the rules write, and how they read it back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};

use crate::{
    ActionId, Appended, Counts, Error, ErrorKind, EventId, Exit, ExitClassification as _, ExitTable, Hit,
    Keep, Line, LineBatch, LineEnd, LineNumber, Lines, OutputItem, OutputSink, Result, RunId, RunKey,
    RunQuery, RunRecord, SealBuilder, Search, Stage, Store, StoreCapabilities, Stream, Timestamp,
};

/// The number `n`.
///
/// # Panics
/// For 0.
#[must_use]
pub fn at(n: u64) -> LineNumber {
    LineNumber::new(n).unwrap()
}

/// A batch of these bytes of one stream.
///
/// # Panics
/// Where they make none.
#[must_use]
pub fn batch(first: u64, stream: Stream, bytes: impl Into<Bytes>, tail: LineEnd) -> LineBatch {
    // Microseconds that no rounding to milliseconds keeps, another time for each batch.
    let time = Timestamp::from_micros(1_764_045_141_500_001).plus(Duration::from_micros(first));
    LineBatch::split(at(first), time, stream, bytes.into(), tail).unwrap()
}

/// A batch of lines on standard output, each ended by a line feed, the first with this number.
///
/// # Panics
/// Where they make none.
#[must_use]
pub fn lines<T: AsRef<str>>(first: u64, texts: impl IntoIterator<Item = T>) -> LineBatch {
    let text: String = texts.into_iter().map(|text| format!("{}\n", text.as_ref())).collect();
    batch(first, Stream::Stdout, text, LineEnd::None)
}

/// `first` to `last`, each line being `line <number>`, in batches of at most 1,000.
pub(super) fn numbered(first: u64, last: u64) -> Vec<LineBatch> {
    let starts = (first..=last).step_by(1_000);
    starts.map(|from| lines(from, (from..=last.min(from + 999)).map(|n| format!("line {n}")))).collect()
}

/// A run that a rule writes. It keeps the seal over what it appended.
#[derive(Debug)]
pub struct SampleRun {
    /// The record as it was last written.
    pub record: RunRecord,
    seal: SealBuilder,
}

impl SampleRun {
    /// A run of an action that no other has.
    #[must_use]
    pub fn new() -> Self {
        Self::of(EventId::generate().as_str(), "build")
    }

    /// A run of this action and stage.
    ///
    /// # Panics
    /// Where these are no ids.
    #[must_use]
    pub fn of(action: &str, stage: &str) -> Self {
        let (action, stage) = (ActionId::new(action).unwrap(), Stage::new(stage).unwrap());
        let key = RunKey::new(action, stage, EventId::generate(), 1);
        Self { record: RunRecord::begun(key, "owner-1"), seal: SealBuilder::new() }
    }

    /// A new run in the store, with these lines, that has ended with code 0.
    ///
    /// # Panics
    /// Where the store does not take it.
    pub async fn written(store: &dyn OutputSink, batches: &[LineBatch]) -> Self {
        let mut run = Self::new();
        run.begin(store).await;
        run.append(store, batches).await;
        run.finish(store).await;
        run
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> &RunKey {
        &self.record.key
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> &RunId {
        &self.record.key.run_id
    }

    /// Asks for this run alone.
    #[must_use]
    pub fn query(&self) -> RunQuery {
        RunQuery::of_run(self.id().clone())
    }

    /// Writes the record.
    ///
    /// # Panics
    /// Where the store does not take it.
    pub async fn begin(&self, store: &dyn OutputSink) {
        store.begin(&self.record).await.unwrap();
    }

    /// Appends lines, all of which must be stored.
    ///
    /// # Panics
    /// Where the store does not take them.
    pub async fn append(&mut self, store: &dyn OutputSink, batches: &[LineBatch]) {
        self.print(batches);
        assert_eq!(store.append(self.key(), batches).await.unwrap(), Appended::all(), "all is stored");
    }

    /// Counts lines as printed without giving them to a store.
    pub fn print(&mut self, batches: &[LineBatch]) {
        batches.iter().for_each(|batch| self.seal.add(batch));
    }

    /// How much was printed so far.
    pub(super) const fn printed(&self) -> Counts {
        self.seal.counts()
    }

    /// The record of its end with code 0 and the seal over what was printed.
    pub fn complete(&mut self) {
        let exit = Exit::code(0);
        self.record.complete(&exit, ExitTable::default().classify(&exit), &self.seal.seal());
    }

    /// Ends it with code 0.
    ///
    /// # Panics
    /// Where the store does not take it.
    pub async fn finish(&mut self, store: &dyn OutputSink) {
        self.complete();
        store.finish(&self.record).await.unwrap();
    }
}

impl Default for SampleRun {
    fn default() -> Self {
        Self::new()
    }
}

/// The record that the store has of a run.
pub(super) async fn record_of(store: &dyn Store, run: &RunId) -> RunRecord {
    let by_query = store.runs(&RunQuery::of_run(run.clone())).await.unwrap();
    let by_lines = store.lines(run, Lines::Last(0)).await.unwrap().record;
    assert_eq!(by_query, std::slice::from_ref(&by_lines), "the record is the same, however it is asked for");
    by_lines
}

/// What the store has of a run.
///
/// # Panics
/// Where it cannot be read.
pub async fn read(store: &dyn Store, run: &RunId, lines: Lines) -> Vec<OutputItem> {
    store.lines(run, lines).await.unwrap().items.try_collect().await.unwrap()
}

/// The lines that the store has of a run.
///
/// # Panics
/// Where it cannot be read and where a line is missing.
pub async fn read_lines(store: &dyn Store, run: &RunId, lines: Lines) -> Vec<Line> {
    let items = read(store, run, lines).await.into_iter();
    items
        .flat_map(|item| match item {
            OutputItem::Lines(batch) => batch.lines().collect::<Vec<_>>(),
            OutputItem::Gap(gap) => panic!("no line is missing, and yet: {gap:?}"),
        })
        .collect()
}

/// All lines of these batches.
pub(super) fn lines_in(batches: &[LineBatch]) -> Vec<Line> {
    batches.iter().flat_map(|batch| batch.lines().collect::<Vec<_>>()).collect()
}

/// Which numbers there are and which are missing and why, as text: `1-600 gap 601-700 refused; 701-900`.
#[must_use]
pub fn shape(items: &[OutputItem]) -> String {
    // Neighbours of one kind are one: a store may cut them anywhere.
    let mut runs: Vec<(u64, u64, Option<&str>)> = Vec::new();
    for item in items {
        let (range, reason) = match item {
            OutputItem::Lines(batch) => (batch.range(), None),
            OutputItem::Gap(gap) => (gap.range, Some(gap.reason.as_str())),
        };
        match runs.last_mut() {
            Some((_, last, why)) if *last + 1 == range.first.get() && *why == reason => {
                *last = range.last.get();
            }
            _ => runs.push((range.first.get(), range.last.get(), reason)),
        }
    }
    let parts = runs.into_iter().map(|(first, last, reason)| match reason {
        None => format!("{first}-{last}"),
        Some(reason) => format!("gap {first}-{last} {reason};"),
    });
    parts.collect::<Vec<_>>().join(" ").trim_end_matches(';').to_owned()
}

/// As [`shape`], without the reasons.
pub(super) fn shape_without_reasons(items: &[OutputItem]) -> String {
    let mut items = items.to_vec();
    for item in &mut items {
        if let OutputItem::Gap(gap) = item {
            gap.reason.clear();
        }
    }
    shape(&items).replace(" ;", ";").trim_end().to_owned()
}

/// Asks again until the answer is yes.
///
/// # Panics
/// Where it is not within half a minute.
pub async fn until<'a>(what: &str, asked: impl Fn() -> BoxFuture<'a, bool>) {
    let long = Duration::from_secs(30);
    let asking = async {
        while !asked().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(long, asking).await.is_ok(), "{what}: not within {long:?}");
}

/// Waits until a running run's lines up to this number can be read.
pub(super) async fn visible(store: &Arc<dyn Store>, run: &RunId, through: u64) {
    let what = format!("line {through} becomes visible");
    let seen = || async { store.lines(run, Lines::Last(0)).await.unwrap().complete_through >= through };
    until(&what, || seen().boxed()).await;
}

/// All hits of a search.
pub(super) async fn hits(store: &dyn Store, query: &RunQuery, search: &Search) -> Result<Vec<Hit>> {
    store.search(query, search).await?.try_collect().await
}

/// Whether the store declares that it cannot search; then it is asked to, and has to say so.
pub(super) async fn cannot_search(store: &dyn Store, can: &StoreCapabilities) -> bool {
    if can.search.is_yes() {
        return false;
    }
    let answer = hits(store, &RunQuery::all(), &Search::literal("x").unwrap()).await;
    assert_unsupported(answer.map(drop));
    true
}

/// As [`cannot_search`], for following.
pub(super) async fn cannot_follow(store: &dyn Store, can: &StoreCapabilities) -> bool {
    if can.follow.is_yes() {
        return false;
    }
    assert_unsupported(store.changes(&RunQuery::all()).await.map(drop));
    true
}

/// As [`cannot_search`], for removing.
pub(super) async fn cannot_remove(store: &dyn Store, can: &StoreCapabilities) -> bool {
    if can.remove.is_yes() {
        return false;
    }
    assert_unsupported(store.remove(SampleRun::new().id()).await.map(drop));
    assert_unsupported(store.expire(&Keep::new()).await.map(drop));
    true
}

fn assert_unsupported(answer: Result<()>) {
    let kind = answer.as_ref().map_err(Error::kind);
    assert_eq!(kind, Err(ErrorKind::Unsupported), "what is declared unsupported answers so");
}
