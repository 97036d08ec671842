//! Tells of changes: one task per store reads the stream of wakes, for however many wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pubsub_core::{ActionId, Error, ErrorKind, Result, RunId, RunQuery, Seldom};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamReadReply};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connect::Link;
use crate::error::{failed, is_elsewhere};

/// How long the server waits for the next change before it answers that there is none.
const BLOCK: Duration = Duration::from_secs(5);

/// How many changes are read at once. As many as that are taken for a change of everything, so that none is missed that
/// was trimmed: the stream keeps more of them.
const READ: usize = 500;

/// About how many changes the stream keeps.
pub(super) const KEPT: usize = 1_000;

/// So often at most the server is asked for changes: where many come, they are read together.
const BETWEEN: Duration = Duration::from_millis(2);

/// First and longest pause before the server is asked again after it failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

const DOING: &str = "watch for changes";

/// What a query is told of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Run(RunId),
    Action(ActionId),
    All,
}

impl Part {
    pub(super) fn of(query: &RunQuery) -> Self {
        match (&query.run, &query.action) {
            (Some(run), _) => Self::Run(run.clone()),
            (None, Some(action)) => Self::Action(action.clone()),
            (None, None) => Self::All,
        }
    }
}

/// What was told last: a change, or that nobody can say.
#[derive(Clone, Debug, Default)]
struct Told(Option<(ErrorKind, Arc<str>)>);

/// Watches the stream of wakes as long as anybody waits.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    /// At most one, and those that ended. It ends with the store.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    stream: String,
    waiting: Mutex<Waiting>,
    outages: Seldom,
}

#[derive(Debug, Default)]
struct Waiting {
    parts: HashMap<Part, watch::Sender<Told>>,
    is_watched: bool,
}

impl Watch {
    pub(super) fn new(link: Link, stream: String) -> Self {
        let (waiting, outages) = (Mutex::default(), Seldom::default());
        Self { shared: Arc::new(Shared { link, stream, waiting, outages }), tasks: Mutex::default() }
    }

    /// Whoever waits for these, from now on.
    pub(super) fn subscribe(&self, part: Part) -> Changes {
        let mut waiting = self.shared.waiting();
        let told = waiting.parts.entry(part.clone()).or_default().subscribe();
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
pub(super) struct Changes {
    shared: Arc<Shared>,
    part: Part,
    told: watch::Receiver<Told>,
}

impl Changes {
    /// `None` where the store is gone.
    pub(super) async fn next(&mut self) -> Option<Result<()>> {
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
        if waiting.parts.get(&self.part).is_some_and(|told| told.receiver_count() <= 1) {
            waiting.parts.remove(&self.part);
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all(&self, told: &Told) {
        self.waiting().parts.values().for_each(|part| drop(part.send_replace(told.clone())));
    }

    fn tell(&self, entries: &[StreamId]) {
        let waiting = self.waiting();
        let tell = |part: &Part| waiting.parts.get(part).map(|told| told.send_replace(Told(None)));
        for entry in entries {
            let run = entry.get::<String>("run").and_then(|run| RunId::new(run).ok());
            run.map(|run| tell(&Part::Run(run)));
            let action = entry.get::<String>("action").and_then(|action| ActionId::new(action).ok());
            action.map(|action| tell(&Part::Action(action)));
        }
        if !entries.is_empty() {
            tell(&Part::All);
        }
    }
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
        loop {
            let error = match self.watch(&mut failing).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if is_elsewhere(&error) {
                // It goes on at another node of the cluster: no outage.
                tokio::time::sleep(PAUSES.0.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                continue;
            }
            if !std::mem::replace(&mut failing, true) {
                pause = PAUSES.0;
                if let Some(times) = self.shared.outages.happened(1) {
                    tracing::warn!(
                        error = error.chain(),
                        times,
                        "changes in Redis cannot be watched for now"
                    );
                }
                self.shared.tell_all(&Told(Some((error.kind(), error.chain().into()))));
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(PAUSES.1);
            if self.ends() {
                return;
            }
        }
    }

    /// Whether nobody waits; then whoever comes next begins another task.
    fn ends(&mut self) -> bool {
        let mut waiting = self.shared.waiting();
        waiting.is_watched = !waiting.parts.is_empty();
        self.is_over = !waiting.is_watched;
        self.is_over
    }

    async fn watch(&mut self, failing: &mut bool) -> Result<()> {
        let mut connection = self.shared.link.waiting(self.shared.stream.as_bytes()).await?;
        let mut last = self.last(&mut connection).await?;
        if std::mem::replace(failing, false) {
            tracing::info!("changes in Redis are watched again");
        }
        // What was not seen may be anything.
        self.shared.tell_all(&Told(None));
        let mut looked = Instant::now();
        loop {
            let not_before = Instant::now() + BETWEEN;
            let entries = self.read(&mut connection, &last).await?;
            if looked.elapsed() >= BLOCK {
                looked = Instant::now();
                if self.ends() {
                    return Ok(());
                }
            }
            let Some(newest) = entries.last() else {
                // A server that lost its data, with a clock that went back, would be silent for long.
                let now = self.last(&mut connection).await?;
                if now != last {
                    last = now;
                    self.shared.tell_all(&Told(None));
                }
                continue;
            };
            last.clone_from(&newest.id);
            if entries.len() < READ {
                self.shared.tell(&entries);
            } else {
                self.shared.tell_all(&Told(None));
            }
            // One that came alone is told at once, and the next one hardly later.
            tokio::time::sleep_until(not_before).await;
        }
    }

    /// The id of the newest change.
    async fn last(&self, connection: &mut MultiplexedConnection) -> Result<String> {
        let mut newest = redis::cmd("XREVRANGE");
        newest.arg(&self.shared.stream).arg("+").arg("-").arg("COUNT").arg(1);
        let limit = self.shared.link.config().answer_limit();
        let newest: redis::streams::StreamRangeReply = within(limit, newest.query_async(connection)).await?;
        Ok(newest.ids.into_iter().next().map_or_else(|| "0-0".to_owned(), |entry| entry.id))
    }

    /// Waits for changes after this one; none where there were none for a while.
    async fn read(&self, connection: &mut MultiplexedConnection, last: &str) -> Result<Vec<StreamId>> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(READ).arg("BLOCK").arg(BLOCK.as_millis().to_string());
        read.arg("STREAMS").arg(&self.shared.stream).arg(last);
        // A connection on which nothing comes any more, not even that there was nothing, is dead.
        let limit = BLOCK + self.shared.link.config().answer_limit();
        let reply: Option<StreamReadReply> = within(limit, read.query_async(connection)).await?;
        Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
    }
}

async fn within<T>(limit: Duration, asking: impl Future<Output = redis::RedisResult<T>>) -> Result<T> {
    match tokio::time::timeout(limit, asking).await {
        Ok(answer) => answer.map_err(failed(DOING)),
        Err(_) => Err(Error::new(ErrorKind::TimedOut, DOING)),
    }
}
