//! Tells of changes: one task per store asks the server how much there is, for however many wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pubsub_core::{ActionId, Error, ErrorKind, Result, RunId, RunQuery, Seldom};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bulk::packed;
use crate::connect::{Link, Request};
use crate::error::{Complaint, Named};
use crate::layout::Layout;

/// How often is asked, at the most and at the least; in between, twice while the server shows nothing new.
const EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// For how many that wait is asked in one request.
const PAGE: usize = 100;

/// First and longest pause before the server is asked again after it failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

const DOING: &str = "watch for changes";

/// What a query is told of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Run(RunId),
    Action(ActionId),
    All,
}

impl Part {
    pub(crate) fn of(query: &RunQuery) -> Self {
        match (&query.run, &query.action) {
            (Some(run), _) => Self::Run(run.clone()),
            (None, Some(action)) => Self::Action(action.clone()),
            (None, None) => Self::All,
        }
    }

    fn query(&self) -> Value {
        match self {
            Self::Run(run) => json!({"term": {"run_id": run}}),
            Self::Action(action) => json!({"term": {"action_id": action}}),
            Self::All => json!({"match_all": {}}),
        }
    }
}

/// How much there is of a part: whatever is written or removed changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Amount {
    runs: u64,
    /// Of all their records: each write of one raises it.
    revisions: f64,
    /// Not known while an index with lines is being made: its shards do not answer yet.
    lines: Option<u64>,
}

/// What was told last: a change, or that nobody can say.
#[derive(Clone, Debug, Default)]
struct Told(Option<(ErrorKind, Arc<str>)>);

/// Watches the server as long as anybody waits.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    /// At most one, and those that ended. It ends with the store.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    layout: Layout,
    every: Duration,
    waiting: Mutex<Waiting>,
    outages: Seldom,
}

#[derive(Debug, Default)]
struct Waiting {
    parts: HashMap<Part, Waited>,
    is_watched: bool,
}

/// A part that somebody waits for.
#[derive(Debug, Default)]
struct Waited {
    told: watch::Sender<Told>,
    /// As it was seen last.
    amount: Option<Amount>,
}

impl Watch {
    pub(crate) fn new(link: Arc<Link>, layout: Layout, refresh: Duration) -> Self {
        let every = (refresh / 2).clamp(EVERY.0, EVERY.1);
        let (waiting, outages) = (Mutex::default(), Seldom::default());
        Self { shared: Arc::new(Shared { link, layout, every, waiting, outages }), tasks: Mutex::default() }
    }

    /// Whoever waits for these, from now on.
    pub(crate) fn subscribe(&self, part: Part) -> Changes {
        let mut waiting = self.shared.waiting();
        let waited = waiting.parts.entry(part.clone()).or_default();
        let told = waited.told.subscribe();
        // Who comes now has not seen what others saw.
        waited.amount = None;
        let is_watched = std::mem::replace(&mut waiting.is_watched, true);
        drop(waiting);
        if !is_watched {
            let watching = Watching { shared: Arc::clone(&self.shared), is_over: false };
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            while tasks.try_join_next().is_some() {}
            tasks.spawn(async move { watching.run().await });
        }
        Changes { shared: Arc::clone(&self.shared), part, told }
    }
}

/// Changes that somebody waits for.
#[derive(Debug)]
pub(crate) struct Changes {
    shared: Arc<Shared>,
    part: Part,
    told: watch::Receiver<Told>,
}

impl Changes {
    /// `None` where the store is gone.
    pub(crate) async fn next(&mut self) -> Option<Result<()>> {
        self.told.changed().await.ok()?;
        let told = self.told.borrow_and_update().clone();
        Some(match told.0 {
            None => Ok(()),
            Some((kind, cause)) => Err(Error::new(kind, DOING).with_source(cause.to_string())),
        })
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting();
        if waiting.parts.get(&self.part).is_some_and(|waited| waited.told.receiver_count() <= 1) {
            waiting.parts.remove(&self.part);
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all(&self, told: &Told) {
        for waited in self.waiting().parts.values_mut() {
            waited.amount = None;
            waited.told.send_replace(told.clone());
        }
    }

    /// Tells those whose part is not as it was.
    fn tell(&self, amounts: impl Iterator<Item = (Part, Amount)>) {
        let mut waiting = self.waiting();
        for (part, amount) in amounts {
            let Some(waited) = waiting.parts.get_mut(&part) else { continue };
            if waited.amount != Some(amount) || amount.lines.is_none() {
                waited.amount = Some(amount);
                waited.told.send_replace(Told(None));
            }
        }
    }

    async fn amounts(&self, parts: &[Part]) -> Result<Vec<Amount>> {
        let mut searches = String::new();
        for part in parts {
            let lines = json!({"query": part.query(), "size": 0, "track_total_hits": true});
            let revisions = json!({"revisions": {"sum": {"field": "revision"}}});
            let runs = json!({"query": part.query(), "size": 0, "track_total_hits": true, "aggs": revisions});
            for (index, body) in [(self.layout.runs(), runs), (self.layout.all_lines(), lines)] {
                searches
                    .push_str(&format!("{}\n{body}\n", json!({"index": index, "ignore_unavailable": true})));
            }
        }
        let request = Request::post("_msearch").lines(packed(searches.as_bytes())?);
        let Answers { responses } = self.link.ask(DOING, request).await?;
        responses.chunks_exact(2).map(amount).collect()
    }
}

fn amount(answers: &[Searched]) -> Result<Amount> {
    let [runs, lines] = answers else { return Ok(Amount::default()) };
    let runs = runs.found()?;
    let lines = match lines.found() {
        Err(error) if error.kind() == ErrorKind::Unavailable => None,
        lines => Some(lines?.hits.total.value),
    };
    let revisions = runs.aggregations.as_ref().map_or(0.0, |sum| sum.revisions.value);
    Ok(Amount { runs: runs.hits.total.value, revisions, lines })
}

impl Searched {
    fn found(&self) -> Result<&Found> {
        match self {
            Self::Found(found) => Ok(found),
            Self::Failed { status, error } => Err(Complaint::of_item(*status, error).failed(DOING)),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Answers {
    responses: Vec<Searched>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Searched {
    Found(Found),
    Failed { status: u16, error: Named },
}

#[derive(Debug, Deserialize)]
struct Found {
    hits: Hits,
    #[serde(default)]
    aggregations: Option<Aggregations>,
}

#[derive(Debug, Deserialize)]
struct Hits {
    total: Total,
}

#[derive(Debug, Deserialize)]
struct Total {
    value: u64,
}

#[derive(Debug, Deserialize)]
struct Aggregations {
    revisions: Sum,
}

#[derive(Debug, Deserialize)]
struct Sum {
    value: f64,
}

/// The task. When it ends, however it does, the next who waits begins another.
struct Watching {
    shared: Arc<Shared>,
    /// That it ends is known.
    is_over: bool,
}

impl Drop for Watching {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.waiting().is_watched = false;
        }
    }
}

impl Watching {
    /// Until nobody waits any more.
    async fn run(mut self) {
        let (mut failing, mut pause) = (false, PAUSES.0);
        while let Some(parts) = self.parts() {
            match self.look(&parts).await {
                Ok(()) => {
                    if std::mem::replace(&mut failing, false) {
                        tracing::info!("changes in Elasticsearch are watched again");
                    }
                    pause = PAUSES.0;
                    tokio::time::sleep(self.shared.every).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        if let Some(times) = self.shared.outages.happened(1) {
                            let error = error.chain();
                            tracing::warn!(
                                error,
                                times,
                                "changes in Elasticsearch cannot be watched for now"
                            );
                        }
                        self.shared.tell_all(&Told(Some((error.kind(), error.chain().into()))));
                    }
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    async fn look(&self, parts: &[Part]) -> Result<()> {
        for page in parts.chunks(PAGE) {
            let amounts = self.shared.amounts(page).await?;
            self.shared.tell(page.iter().cloned().zip(amounts));
        }
        Ok(())
    }

    /// What is waited for; `None` where nobody waits, and then whoever comes next begins another task.
    fn parts(&mut self) -> Option<Vec<Part>> {
        let mut waiting = self.shared.waiting();
        waiting.is_watched = !waiting.parts.is_empty();
        self.is_over = !waiting.is_watched;
        (!self.is_over).then(|| waiting.parts.keys().cloned().collect())
    }
}
