//! The worker: takes events, runs the handler at them, and concludes.

mod attempt;
mod outcome;
mod policy;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{Id, JoinSet};

pub use policy::RetryPolicy;

use crate::{
    ActionId, Broker, Deliveries, Delivery, Error, ErrorKind, EventType, Execution, FanOut, GroupName,
    Handler, Pattern, Result, RunRecord, Scope, Seldom, Stage, Stop, Subscription,
};

/// How long a worker drains when it is asked to stop, unless told otherwise.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// How long a run that was cut may take until its handler is dropped, and a little more.
const CUT_LIMIT: Duration = Duration::from_secs(12);

/// Most runs whose work has ended and whose required stores still lack some of it, beside those that work.
const MAX_SEALING: usize = 64;

/// How often a worker that ends when idle asks whether it is.
const IDLE_POLL: Duration = Duration::from_millis(100);

/// Called with the record of each run that ended.
type Observer = Arc<dyn Fn(&RunRecord) + Send + Sync>;

/// Takes events of a stage, runs a handler at them, streams its output into stores, and concludes.
///
/// ```
/// use std::sync::Arc;
/// use pubsub_core::{
///     ActionId, Event, EventType, Exit, FanOut, MemoryBroker, MemoryStore, OutputReader, PublisherExt, RunContext,
///     RunQuery, SinkConfig, Stage, Stop, Worker, handler_fn,
/// };
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let (broker, store) = (Arc::new(MemoryBroker::new()), MemoryStore::new());
/// broker.publish_one(Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)).await?;
/// let fan_out = FanOut::new(vec![SinkConfig::required("memory", Arc::new(store.clone()))]);
/// let handler = handler_fn(|context: RunContext| async move {
///     let _ = context.output.line("building").await;
///     Exit::code(0).into()
/// });
/// let worker = Worker::new(broker, fan_out, handler, Stage::new("build")?, ["build-requested:*".parse()?])?;
/// let (_stopper, stop) = Stop::pair();
/// worker.until_idle().run(stop).await?;
/// assert!(store.runs(&RunQuery::all()).await?.iter().all(|run| run.is_final && run.counts.lines == 1));
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
pub struct Worker {
    shared: Shared,
    subscription: Subscription,
    concurrency: usize,
    prefetch: usize,
    drain: Duration,
    ends_when_idle: bool,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

/// What all attempts of a worker share.
struct Shared {
    broker: Arc<dyn Broker>,
    fan_out: Arc<FanOut>,
    handler: Arc<dyn Handler>,
    execution: Execution,
    stage: Stage,
    lease: Duration,
    then: Option<EventType>,
    retry: RetryPolicy,
    observer: Option<Observer>,
    /// An event was given up for now.
    given_up: Seldom,
    /// An event was not settled.
    unsettled: Seldom,
}

impl Shared {
    fn tell(&self, record: &RunRecord) {
        if let Some(observer) = &self.observer {
            observer(record);
        }
    }
}

impl Worker {
    /// A worker of a stage. Its group is named by the stage and the patterns; it runs one event at a time.
    ///
    /// # Errors
    /// As [`Subscription::for_stage`].
    pub fn new(
        broker: Arc<dyn Broker>,
        fan_out: FanOut,
        handler: impl Handler + 'static,
        stage: Stage,
        patterns: impl IntoIterator<Item = Pattern>,
    ) -> Result<Self> {
        let subscription = Subscription::for_stage(stage.clone(), patterns)?;
        Ok(Self {
            shared: Shared {
                broker,
                fan_out: Arc::new(fan_out),
                handler: Arc::new(handler),
                execution: Execution::new(),
                stage,
                lease: crate::DEFAULT_LEASE,
                then: None,
                retry: RetryPolicy::default(),
                observer: None,
                given_up: Seldom::default(),
                unsettled: Seldom::default(),
            },
            subscription,
            concurrency: 1,
            prefetch: 1,
            drain: DEFAULT_DRAIN,
            ends_when_idle: false,
        })
    }

    /// In a group with a name of its own.
    #[must_use]
    pub fn with_group(mut self, name: GroupName) -> Self {
        self.subscription = self.subscription.with_group_name(name);
        self
    }

    /// With another lease.
    ///
    /// # Errors
    /// As [`Subscription::with_lease`].
    pub fn with_lease(mut self, lease: Duration) -> Result<Self> {
        self.subscription = self.subscription.with_lease(lease)?;
        self.shared.lease = lease;
        Ok(self)
    }

    /// Publishes this event where the pipeline goes on.
    #[must_use]
    pub fn with_then(mut self, then: EventType) -> Self {
        self.shared.then = Some(then);
        self
    }

    /// With another retry policy.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.shared.retry = retry;
        self
    }

    /// With other settings for attempts.
    #[must_use]
    pub fn with_execution(mut self, execution: Execution) -> Self {
        self.shared.execution = execution;
        self
    }

    /// Runs so many events at once, of one action always one. A run whose work has ended counts no more, also while its
    /// required stores lack some of its output.
    #[must_use]
    pub fn with_concurrency(mut self, runs: usize) -> Self {
        self.concurrency = runs.max(1);
        self
    }

    /// Takes so many events at once, at least 1, for handlers that take no longer than the way to the broker. What is taken and
    /// has no slot yet waits here, though another worker may be free; at a stop it is given back at once.
    #[must_use]
    pub const fn with_prefetch(mut self, events: usize) -> Self {
        self.prefetch = events;
        self
    }

    /// With another limit on the time to drain.
    #[must_use]
    pub const fn with_drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Calls this with the record of each attempt that ended.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Fn(&RunRecord) + Send + Sync + 'static) -> Self {
        self.shared.observer = Some(Arc::new(observer));
        self
    }

    /// Ends once its group has nothing waiting, delayed or leased.
    #[must_use]
    pub const fn until_idle(mut self) -> Self {
        self.ends_when_idle = true;
        self
    }

    /// Works until it is asked to stop: a stop takes nothing new and drains; what is cut, at the drain limit or by a cut,
    /// is released. Then waits for the sinks, at most the drain limit again: a run whose required stores lack something
    /// then is given up, and its event comes back.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where the broker has no groups, delay or dead letters; where it cannot subscribe, or the broker ends the subscription for good.
    ///
    /// # Cancel safety
    /// Dropped, it goes on; stop it by `stop`.
    pub async fn run(self, stop: Stop) -> Result<()> {
        // In a task of its own, so that nobody's main future is on the path.
        let joined = tokio::spawn(self.work(stop)).await;
        joined.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, "run a worker").with_source(e)))
    }

    fn can_work(&self) -> Result<()> {
        let can = self.shared.broker.capabilities();
        for (what, support) in
            [("groups", can.groups), ("delay", can.delay), ("dead letters", can.dead_letters)]
        {
            if !support.is_yes() {
                return Err(Error::unsupported("a worker needs a broker that can do this")
                    .with("broker", can.name)
                    .with("needs", what));
            }
        }
        Ok(())
    }

    async fn work(self, stop: Stop) -> Result<()> {
        self.can_work()?;
        let subscription = self.subscription.with_prefetch(self.prefetch);
        let group = subscription.group().map(|group| group.name.clone());
        let mut deliveries = Deliveries::open(&*self.shared.broker, subscription).await?;
        let (cut, cut_seen) = Stop::pair();
        let mut slots = Slots {
            shared: Arc::new(self.shared),
            running: JoinSet::new(),
            keys: Vec::new(),
            busy: HashSet::new(),
            parked: VecDeque::new(),
            concurrency: self.concurrency,
            free: Arc::new(Semaphore::new(self.concurrency)),
            next: None,
            stop: cut_seen,
        };
        let idle = group.filter(|_| self.ends_when_idle);
        let ended = slots.take(&mut deliveries, stop.clone(), idle).await;
        slots.parked.clear();
        // What was taken and has not begun is given back first, and not after the last run.
        tokio::join!(deliveries.close(), slots.drain(self.drain, stop, &cut));
        if let Err(error) = slots.shared.fan_out.close(self.drain).await {
            tracing::warn!(error = %error.chain(), "not every sink has everything");
        }
        ended
    }
}

/// The runs under way, and what waits for one of its action to end.
struct Slots {
    shared: Arc<Shared>,
    running: JoinSet<()>,
    keys: Vec<(Id, ActionId)>,
    busy: HashSet<ActionId>,
    /// Leased and not begun: events of an action that runs already. At most as many as may run.
    parked: VecDeque<Delivery>,
    concurrency: usize,
    /// A slot is held while a handler works; what is on its way into the stores afterwards holds none.
    free: Arc<Semaphore>,
    /// The slot of what is taken next.
    next: Option<Slot>,
    stop: Stop,
}

/// Room for one handler.
type Slot = OwnedSemaphorePermit;

impl Slots {
    /// Takes and starts until it is asked to stop, the subscription ends, or the group is idle.
    async fn take(
        &mut self,
        deliveries: &mut Deliveries,
        mut stop: Stop,
        idle: Option<GroupName>,
    ) -> Result<()> {
        let outages = Seldom::default();
        loop {
            let room = self.running.len() < self.concurrency.saturating_add(MAX_SEALING)
                && self.parked.len() < self.concurrency;
            tokio::select! {
                biased;
                _ = stop.requested() => return Ok(()),
                Some(ended) = self.running.join_next_with_id() => {
                    self.ended(ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                slot = Arc::clone(&self.free).acquire_owned(), if room && self.next.is_none() => {
                    self.next = slot.ok();
                }
                next = deliveries.next(), if room && self.next.is_some() => match next {
                    None => return Ok(()),
                    Some(Ok(delivery)) => self.start_or_park(delivery),
                    Some(Err(error)) if error.is_retryable() => {
                        if let Some(times) = outages.happened(1) {
                            tracing::warn!(error = %error.chain(), times, "events are not received; the broker is tried again");
                        }
                    }
                    Some(Err(error)) => return Err(error),
                },
                () = tokio::time::sleep(IDLE_POLL), if idle.is_some() && self.running.is_empty() => {
                    match self.is_idle(idle.as_ref()).await {
                        Ok(true) => return Ok(()),
                        Ok(false) => {}
                        // The outage itself is told where events are received.
                        Err(error) if error.is_retryable() => {
                            tracing::debug!(error = %error.chain(), "whether the group is idle is asked again");
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    async fn is_idle(&self, group: Option<&GroupName>) -> Result<bool> {
        let scope = Scope { action: None, group: group.cloned() };
        let groups = self.shared.broker.groups(&scope).await?;
        Ok(groups.iter().all(|group| group.depth.is_idle()))
    }

    fn start_or_park(&mut self, delivery: Delivery) {
        if self.busy.contains(&delivery.event().action_id) {
            self.parked.push_back(delivery);
        } else {
            self.start(delivery);
        }
    }

    fn start(&mut self, delivery: Delivery) {
        let action = delivery.event().action_id.clone();
        let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
        let (slot, free) = (self.next.take(), Arc::clone(&self.free));
        let task = self.running.spawn(async move {
            // What was parked may have to wait for one.
            let slot = match slot {
                Some(slot) => Some(slot),
                None => free.acquire_owned().await.ok(),
            };
            // Large: a task is moved several times before it runs.
            Box::pin(attempt::work(shared, delivery, stop, slot)).await;
        });
        self.keys.push((task.id(), action.clone()));
        self.busy.insert(action);
    }

    /// Frees a slot, and starts what waited for it.
    fn ended(&mut self, task: Id) {
        if let Some(at) = self.keys.iter().position(|(id, _)| *id == task) {
            let (_, action) = self.keys.swap_remove(at);
            self.busy.remove(&action);
        }
        let next = self.parked.iter().position(|delivery| !self.busy.contains(&delivery.event().action_id));
        if let Some(delivery) = next.and_then(|at| self.parked.remove(at)) {
            self.start(delivery);
        }
    }

    /// Waits for the runs, and cuts what is left at the limit or when told to.
    async fn drain(&mut self, limit: Duration, mut stop: Stop, cut: &crate::Stopper) {
        let drained = async { while self.running.join_next().await.is_some() {} };
        let cut_now = tokio::select! {
            () = drained => return,
            cause = stop.cut() => cause,
            () = tokio::time::sleep(limit) => crate::Cause::Shutdown,
        };
        cut.cut(cut_now);
        let ended = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(limit.saturating_add(CUT_LIMIT), ended).await.is_err() {
            // They wait for a store that is out of reach. Their events come back.
            if let Err(error) = self.shared.fan_out.close(Duration::ZERO).await {
                tracing::warn!(error = %error.chain(), "required stores do not have every run; they are given up");
            }
            while self.running.join_next().await.is_some() {}
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
