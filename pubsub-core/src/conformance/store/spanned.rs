//! Two stores that are asked as one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;

use crate::{
    Appended, Error, ErrorKind, Gap, Hit, Keep, LineBatch, LineNumber, LineRange, Lines, Output, OutputItem,
    OutputReader, OutputSink, Result, Retention, RunId, RunKey, RunQuery, RunRecord, RunStatus, Search,
    Spanning, Store,
};

/// How many lines of a run the near store keeps where it is bounded.
const KEPT: u64 = 100;

/// What two stores have of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Each has all of it.
    Same,
    /// The near one has the newest lines of a run, the other one those before them.
    Bounded,
    /// Each has all of it, and one of both does not answer: at each call the other one.
    InTurn,
}

/// Two stores behind [`Spanning`] as one store, which passes the suite: what it is written goes to both, as their share
/// says.
#[derive(Clone)]
pub struct Spanned {
    near: Arc<dyn Store>,
    far: Arc<dyn Store>,
    share: Share,
    calls: Arc<AtomicUsize>,
    moving: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Spanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spanned").field("share", &self.share).finish_non_exhaustive()
    }
}

impl Spanned {
    /// Of these. For [`Share::Bounded`] the near one has to take lines in any order.
    #[must_use]
    pub fn new(near: Arc<dyn Store>, far: Arc<dyn Store>, share: Share) -> Self {
        Self { near, far, share, calls: Arc::default(), moving: Arc::default() }
    }

    /// What answers the next call.
    fn reader(&self) -> Spanning {
        let down = (self.share == Share::InTurn).then(|| self.calls.fetch_add(1, Ordering::Relaxed) % 2);
        let of = |place, store: &Arc<dyn Store>| -> Arc<dyn OutputReader> {
            if down == Some(place) { Arc::new(Down) } else { Arc::new(Arc::clone(store)) }
        };
        Spanning::new("near", of(0, &self.near)).with("far", of(1, &self.far))
    }

    /// Moves all but the newest lines of a run to the far store.
    async fn bound(&self, run: &RunId) -> Result<()> {
        let Output { mut record, items, .. } = self.near.lines(run, Lines::ALL).await?;
        let items: Vec<OutputItem> = items.try_collect().await?;
        let batches: Vec<LineBatch> = (items.into_iter())
            .filter_map(|item| if let OutputItem::Lines(batch) = item { Some(batch) } else { None })
            .collect();
        let lines: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
        let Some(mut older) = lines.checked_sub(KEPT).filter(|older| *older > 0) else { return Ok(()) };
        let (mut moved, mut kept) = (Vec::new(), Vec::new());
        for batch in batches {
            let passed = older.min(batch.len() as u64);
            older -= passed;
            let first = batch.first().plus(passed);
            let before = LineNumber::new(first.before());
            moved.extend(before.and_then(|before| batch.slice(LineRange::new(batch.first(), before))));
            kept.extend(batch.slice(LineRange::new(first, LineNumber::MAX)));
        }
        self.far.append(&record.key, &moved).await?;
        for batch in moved {
            let range = batch.range();
            Gap { range, bytes: None, reason: "moved to the far store".to_owned() }.enter(&mut record.holes);
        }
        self.near.remove(run).await?;
        match record.status {
            RunStatus::Running => self.near.begin(&record).await?,
            RunStatus::Completed => self.near.finish(&record).await?,
        }
        self.near.append(&record.key, &kept).await?;
        Ok(())
    }

    /// Whether any of both has a run, whoever does not answer now.
    async fn is_known(&self, run: &RunId) -> bool {
        let query = RunQuery::of_run(run.clone());
        let has = async |store: &dyn Store| store.runs(&query).await.is_ok_and(|runs| !runs.is_empty());
        has(&*self.near).await || has(&*self.far).await
    }
}

#[async_trait]
impl OutputSink for Spanned {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        let _moving = self.moving.lock().await;
        self.far.begin(record).await?;
        self.near.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        if self.share != Share::Bounded {
            let answers = (self.far.append(run, batches).await?, self.near.append(run, batches).await?);
            assert_eq!(answers.0, answers.1, "both take the same");
            return Ok(answers.1);
        }
        let _moving = self.moving.lock().await;
        let answer = self.near.append(run, batches).await?;
        self.bound(&run.run_id).await?;
        Ok(answer)
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        let _moving = self.moving.lock().await;
        self.far.finish(record).await?;
        self.near.finish(record).await
    }
}

#[async_trait]
impl OutputReader for Spanned {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.reader().runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        if self.share != Share::InTurn {
            return self.reader().lines(run, lines).await;
        }
        // A run that only one of them has by now may be in neither that answers.
        let _beginning = self.moving.lock().await;
        match self.reader().lines(run, lines).await {
            Ok(output) => Ok(told(output)),
            // The one that does not answer may have it: only both together know that nobody has.
            Err(error) if error.kind() == ErrorKind::Unavailable && !self.is_known(run).await => {
                Self { share: Share::Same, ..self.clone() }.reader().lines(run, lines).await
            }
            Err(error) => Err(error),
        }
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        self.reader().search(query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.reader().changes(query).await
    }
}

/// Without what gaps say of the store that did not answer, which each of them must say.
fn told(output: Output) -> Output {
    let Output { record, complete_through, items } = output;
    let dropped = record.clone();
    let items = items.map_ok(move |item| match item {
        OutputItem::Gap(mut gap) if !dropped.is_dropped_everywhere(gap.range) => {
            let (reason, rest) = gap.reason.split_once("; ").expect("a gap says who may fill it");
            assert!(rest.ends_with("did not answer, and may have them"), "{rest}");
            gap.reason = reason.to_owned();
            OutputItem::Gap(gap)
        }
        item => item,
    });
    Output { record, complete_through, items: items.boxed() }
}

#[async_trait]
impl Retention for Spanned {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        let _moving = self.moving.lock().await;
        let removed = self.far.remove(run).await?;
        Ok(self.near.remove(run).await? || removed)
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        let _moving = self.moving.lock().await;
        let expired = self.near.expire(keep).await?;
        let left: Vec<RunId> =
            self.near.runs(&RunQuery::all()).await?.into_iter().map(|record| record.key.run_id).collect();
        for record in self.far.runs(&RunQuery::all()).await? {
            if !left.contains(&record.key.run_id) {
                self.far.remove(&record.key.run_id).await?;
            }
        }
        Ok(expired)
    }
}

/// A store that is out of reach.
struct Down;

fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "the store is down")
}

#[async_trait]
impl OutputReader for Down {
    async fn runs(&self, _: &RunQuery) -> Result<Vec<RunRecord>> {
        Err(down())
    }

    async fn lines(&self, _: &RunId, _: Lines) -> Result<Output> {
        Err(down())
    }

    async fn search(&self, _: &RunQuery, _: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        Err(down())
    }

    async fn changes(&self, _: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        Err(down())
    }
}
