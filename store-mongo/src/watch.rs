//! Tells of changes: one task per store watches the documents of runs, for however many wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::change_stream::ChangeStream;
use pubsub_core::{ActionId, Error, ErrorKind, Result, RunId, RunQuery, Seldom};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connect::Link;

/// How long the server waits for the next change before it answers that there is none.
const AWAIT: Duration = Duration::from_secs(1);

/// How often everybody is told where the deployment has no change streams, as a server of its own: they look then.
const TICK: Duration = Duration::from_millis(250);

/// So often at most one who waits is told: a change that comes alone at once, and of many in a row those that came meanwhile as
/// one. Each is answered by questions to the server.
const BETWEEN: Duration = Duration::from_millis(200);

/// First and longest pause before the server is asked again after it failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

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
}

/// What was told last: a change, or that nobody can say.
#[derive(Clone, Debug, Default)]
struct Told(Option<(ErrorKind, Arc<str>)>);

/// Watches as long as anybody waits.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    /// At most one, and those that ended. It ends with the store.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    waiting: Mutex<Waiting>,
    outages: Seldom,
}

#[derive(Debug, Default)]
struct Waiting {
    parts: HashMap<Part, watch::Sender<Told>>,
    is_watched: bool,
}

/// What the server says of a change.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "documentKey")]
    key: Option<Key>,
    wake: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Key {
    #[serde(rename = "_id")]
    run: String,
}

impl Watch {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        let shared = Shared { link, waiting: Mutex::default(), outages: Seldom::default() };
        Self { shared: Arc::new(shared), tasks: Mutex::default() }
    }

    /// Whoever waits for these, from now on.
    pub(crate) fn subscribe(&self, part: Part) -> Changes {
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
        Changes { shared: Arc::clone(&self.shared), part, told, not_before: Instant::now() }
    }
}

/// Changes that somebody waits for.
#[derive(Debug)]
pub(crate) struct Changes {
    shared: Arc<Shared>,
    part: Part,
    told: watch::Receiver<Told>,
    not_before: Instant,
}

impl Changes {
    /// `None` where the store is gone.
    pub(crate) async fn next(&mut self) -> Option<Result<()>> {
        tokio::time::sleep_until(self.not_before).await;
        self.told.changed().await.ok()?;
        self.not_before = Instant::now() + BETWEEN;
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

    fn tell(&self, event: Event) {
        // The action is behind what makes each wake another one.
        let action = event.wake.as_deref().and_then(|wake| wake.split_once('/'));
        let run = event.key.and_then(|key| RunId::new(key.run).ok()).map(Part::Run);
        let action = action.and_then(|(_, action)| ActionId::new(action).ok()).map(Part::Action);
        let waiting = self.waiting();
        for part in run.into_iter().chain(action).chain([Part::All]) {
            waiting.parts.get(&part).map(|told| told.send_replace(Told(None)));
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
            if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Refused) {
                tracing::info!(
                    reason = error.chain(),
                    "there are no change streams here: whoever follows looks often"
                );
                return self.tick().await;
            }
            if !std::mem::replace(&mut failing, true) {
                pause = PAUSES.0;
                if let Some(times) = self.shared.outages.happened(1) {
                    tracing::warn!(
                        error = error.chain(),
                        times,
                        "changes in MongoDB cannot be watched for now"
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
        let mut changes = self.open().await?;
        if std::mem::replace(failing, false) {
            tracing::info!("changes in MongoDB are watched again");
        }
        // What was not seen may be anything.
        self.shared.tell_all(&Told(None));
        let shared = Arc::clone(&self.shared);
        // A connection on which nothing comes any more, not even that there was nothing, is dead.
        let limit = AWAIT + shared.link.config().answer_limit();
        loop {
            match shared.link.answer_within(limit, DOING, changes.next_if_any()).await? {
                Some(event) => shared.tell(event),
                None if !changes.is_alive() => {
                    return Err(Error::new(ErrorKind::Unavailable, "the stream of changes has ended"));
                }
                None if self.ends() => return Ok(()),
                None => {}
            }
        }
    }

    async fn open(&self) -> Result<ChangeStream<Event>> {
        let link = &self.shared.link;
        let runs = link.collections(DOING).await?.runs;
        // Of a new document the wake stands in it, of a changed one among what changed.
        let both = doc! { "$ifNull": ["$updateDescription.updatedFields.wake", "$fullDocument.wake"] };
        let short = doc! { "$project": { "documentKey": 1, "wake": both } };
        let watching = runs.watch().pipeline([short]).max_await_time(AWAIT);
        Ok(link.answer(DOING, watching).await?.with_type())
    }

    /// Tells everybody again and again.
    async fn tick(mut self) {
        while !self.ends() {
            self.shared.tell_all(&Told(None));
            tokio::time::sleep(TICK).await;
        }
    }
}
