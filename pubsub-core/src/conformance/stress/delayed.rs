//! Pauses before and after each call.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{
    ActionId, Appended, Begin, Broker, BrokerAdmin, BrokerCapabilities, Claims, Conclusion, DeadLetter,
    DeadLetters, Event, EventId, GroupInfo, GroupName, Hit, Keep, LeaseId, Leases, LineBatch, Lines, Output,
    OutputReader, OutputSink, Position, Published, Publisher, Renewal, Result, Retention, RunId, RunKey,
    RunQuery, RunRecord, Scope, Search, Settlement, Store, Subscribed, Subscriber, Subscription,
};

/// The longest pause.
const MOST: Duration = Duration::from_millis(3);

/// Pauses that a seed repeats.
#[derive(Debug)]
pub struct Pauses(Mutex<fastrand::Rng>);

impl Pauses {
    /// Those of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// None, a moment for others, or a few milliseconds.
    async fn pause(&self) {
        let (kind, micros) = {
            let mut chance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (chance.u8(0..4), chance.u32(0..=u32::try_from(MOST.as_micros()).unwrap_or(u32::MAX)))
        };
        match kind {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_micros(micros.into())).await,
        }
    }

    /// Does it between two pauses.
    async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        self.pause().await;
        let answer = call.await;
        self.pause().await;
        answer
    }
}

/// A backend with a pause before and after each call to it.
pub struct Delayed<B: ?Sized> {
    inner: Arc<B>,
    pauses: Arc<Pauses>,
}

impl<B: ?Sized> Delayed<B> {
    /// Around this one.
    #[must_use]
    pub const fn new(inner: Arc<B>, pauses: Arc<Pauses>) -> Self {
        Self { inner, pauses }
    }
}

impl<B: ?Sized> fmt::Debug for Delayed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delayed").finish_non_exhaustive()
    }
}

#[async_trait]
impl<B: Store + ?Sized> OutputSink for Delayed<B> {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.pauses.around(self.inner.begin(record)).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.pauses.around(self.inner.append(run, batches)).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.pauses.around(self.inner.finish(record)).await
    }
}

#[async_trait]
impl<B: Store + ?Sized> OutputReader for Delayed<B> {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.pauses.around(self.inner.runs(query)).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        self.pauses.around(self.inner.lines(run, lines)).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        self.pauses.around(self.inner.search(query, search)).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.pauses.around(self.inner.changes(query)).await
    }
}

#[async_trait]
impl<B: Store + ?Sized> Retention for Delayed<B> {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.pauses.around(self.inner.remove(run)).await
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.pauses.around(self.inner.expire(keep)).await
    }
}

#[async_trait]
impl<B: Broker + ?Sized> Publisher for Delayed<B> {
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>> {
        self.pauses.around(self.inner.publish(events)).await
    }

    async fn close(&self) -> Result<()> {
        self.pauses.around(self.inner.close()).await
    }
}

#[async_trait]
impl<B: Broker + ?Sized> Subscriber for Delayed<B> {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed> {
        let Subscribed { entries, leases, claims } =
            self.pauses.around(self.inner.subscribe(subscription)).await?;
        let leases = Arc::new(Delayed::new(leases, Arc::clone(&self.pauses)));
        let claims = Arc::new(Delayed::new(claims, Arc::clone(&self.pauses)));
        Ok(Subscribed { entries, leases, claims })
    }
}

#[async_trait]
impl<B: Broker + ?Sized> BrokerAdmin for Delayed<B> {
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>> {
        self.pauses.around(self.inner.groups(scope)).await
    }

    async fn cancel(&self, action: &ActionId) -> Result<Position> {
        self.pauses.around(self.inner.cancel(action)).await
    }

    async fn remove_group(&self, group: &GroupName) -> Result<bool> {
        self.pauses.around(self.inner.remove_group(group)).await
    }
}

#[async_trait]
impl<B: Broker + ?Sized> DeadLetters for Delayed<B> {
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
        self.pauses.around(self.inner.list(group, limit)).await
    }

    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId> {
        self.pauses.around(self.inner.replay(id, group)).await
    }
}

impl<B: Broker + ?Sized> Broker for Delayed<B> {
    fn capabilities(&self) -> BrokerCapabilities {
        self.inner.capabilities()
    }
}

#[async_trait]
impl Leases for Delayed<dyn Leases> {
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        self.pauses.around(self.inner.renew(leases)).await
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        self.pauses.around(self.inner.settle(settlements)).await
    }

    async fn wake(&self) -> Result<()> {
        // Not paused: it is what waits, not a step.
        self.inner.wake().await
    }
}

#[async_trait]
impl Claims for Delayed<dyn Claims> {
    async fn begin(&self, lease: &LeaseId) -> Result<Begin> {
        self.pauses.around(self.inner.begin(lease)).await
    }

    async fn conclude(&self, lease: &LeaseId, conclusion: Conclusion) -> Result<()> {
        self.pauses.around(self.inner.conclude(lease, conclusion)).await
    }
}
