//! Deliveries: what is taken, kept alive while it is worked at, and settled once.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::grouped::Grouped;
use crate::{
    Backoff, Begin, Claims, Conclusion, Error, Event, LeaseId, Leased, Leases, Position, Renewal, Result,
    Settlement, Subscriber, Subscription,
};

/// Most settlements of one call to the broker.
const MAX_SETTLEMENTS: usize = 1000;

/// What is known of a delivery's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It is ours.
    Held,
    /// It is ours, and its event's chain was cancelled.
    Cancelled,
    /// Another holds it, or it is gone.
    Lost,
}

/// A subscription's deliveries. Leases are renewed every third of their length for as long as a delivery is alive, also
/// while nobody polls this.
pub struct Deliveries {
    entries: BoxStream<'static, Result<Leased>>,
    keeping: Arc<Keeping>,
    task: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries").finish_non_exhaustive()
    }
}

impl Deliveries {
    /// Subscribes.
    ///
    /// # Errors
    /// As [`Subscriber::subscribe`].
    pub async fn open(subscriber: &dyn Subscriber, subscription: Subscription) -> Result<Self> {
        let lease = subscription.group().map(|group| group.lease);
        let subscribed = subscriber.subscribe(subscription).await?;
        let keeper = Arc::new(Keeper {
            leases: subscribed.leases,
            claims: subscribed.claims,
            lease: lease.unwrap_or_default(),
            state: Mutex::default(),
            changed: Notify::new(),
            settlements: Grouped::new(MAX_SETTLEMENTS),
        });
        // Without a group there is nothing to keep.
        let task = lease.map(|_| tokio::spawn(keep(Arc::clone(&keeper))));
        Ok(Self { entries: subscribed.entries, keeping: Arc::new(Keeping(keeper)), task })
    }

    /// The next delivery; `None` once the subscription is closed. After an `Err` whose kind is retryable more can follow.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Delivery>> {
        futures::StreamExt::next(self).await
    }

    /// Takes nothing more, and waits until every delivery is settled or dropped.
    pub async fn close(self) {
        let Self { entries, keeping, task } = self;
        drop(entries);
        drop(keeping);
        if let Some(task) = task {
            // It ends by itself; a panic in it was told when it happened.
            let _ = task.await;
        }
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.entries.poll_next_unpin(context));
        let keeping = Arc::clone(&self.keeping);
        Poll::Ready(next.map(|leased| leased.map(|leased| Delivery::new(leased, keeping))))
    }
}

/// One event handed to this subscriber, still to be settled: by value, so that it happens once. Dropped, it is given back.
pub struct Delivery {
    event: Arc<Event>,
    position: Position,
    lease: Option<LeaseId>,
    state: watch::Receiver<LeaseState>,
    keeping: Arc<Keeping>,
    settled: bool,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("event", &self.event.id)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    fn new(leased: Leased, keeping: Arc<Keeping>) -> Self {
        let (sender, state) = watch::channel(LeaseState::Held);
        if let Some(lease) = &leased.lease {
            keeping.0.lock().live.insert(lease.clone(), sender);
        }
        let Leased { event, position, lease } = leased;
        Self { event: Arc::new(event), position, lease, state, keeping, settled: false }
    }

    /// The event.
    #[must_use]
    pub const fn event(&self) -> &Arc<Event> {
        &self.event
    }

    /// Where it stands in the broker.
    #[must_use]
    pub const fn position(&self) -> &Position {
        &self.position
    }

    /// What is known of the lease, as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Asks to begin an attempt.
    ///
    /// # Errors
    /// As [`Claims::begin`].
    ///
    /// # Cancel safety
    /// Dropped, it may have begun; ask again.
    pub async fn begin(&self) -> Result<Begin> {
        self.keeping.0.claims.begin(self.lease()?).await
    }

    /// Ends the work for good.
    ///
    /// # Errors
    /// As [`Claims::conclude`].
    ///
    /// # Cancel safety
    /// Dropped, it may have happened; conclude again with the same run.
    pub async fn conclude(&self, conclusion: Conclusion) -> Result<()> {
        self.keeping.0.claims.conclude(self.lease()?, conclusion).await
    }

    /// Done.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) where another holds it by now. While the broker is out of reach it is tried
    /// again, until the lease is known to be lost.
    ///
    /// # Cancel safety
    /// Dropped, it may have happened; otherwise the event comes back. So for all ways to settle.
    pub async fn ack(self) -> Result<()> {
        self.settle(Settlement::Ack).await
    }

    /// Again after this time; an attempt that has begun counts as failed.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub async fn retry_in(self, after: Duration) -> Result<()> {
        self.settle(Settlement::Retry { after }).await
    }

    /// Never again; kept with the reason.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub async fn dead_letter(self, reason: impl Into<String>) -> Result<()> {
        self.settle(Settlement::DeadLetter { reason: reason.into() }).await
    }

    /// Given back, not counted.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub async fn release(self) -> Result<()> {
        self.release_in(Duration::ZERO).await
    }

    /// Given back after this time, not counted.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub async fn release_in(self, after: Duration) -> Result<()> {
        self.settle(Settlement::Release { after }).await
    }

    fn lease(&self) -> Result<&LeaseId> {
        self.lease.as_ref().ok_or_else(|| Error::unsupported("a subscription without a group has no runs"))
    }

    async fn settle(mut self, settlement: Settlement) -> Result<()> {
        let Some(lease) = self.lease.clone() else {
            return match settlement {
                Settlement::Ack | Settlement::Release { .. } => Ok(()),
                _ => Err(Error::unsupported("a subscription without a group cannot retry or dead-letter")),
            };
        };
        let keeper = Arc::clone(&self.keeping.0);
        let backoff = Backoff::default();
        let mut tries = 0;
        loop {
            let item = (lease.clone(), settlement.clone());
            let answer = keeper.settlements.call(item, |items| keeper.leases.settle(items)).await;
            match answer {
                Err(error) if error.is_retryable() && *self.state.borrow() != LeaseState::Lost => {
                    tokio::time::sleep(backoff.delay(tries)).await;
                    tries += 1;
                }
                answer => {
                    self.settled = true;
                    keeper.forget(&lease);
                    return answer;
                }
            }
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take().filter(|_| !self.settled) {
            let mut state = self.keeping.0.lock();
            state.live.remove(&lease);
            // At most as many as were leased.
            state.dropped.push(lease);
            drop(state);
            self.keeping.0.changed.notify_one();
        }
    }
}

/// Tells the keeper, by being dropped, that nobody needs it any more.
struct Keeping(Arc<Keeper>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

struct Keeper {
    leases: Arc<dyn Leases>,
    claims: Arc<dyn Claims>,
    lease: Duration,
    state: Mutex<Kept>,
    changed: Notify,
    settlements: Grouped<(LeaseId, Settlement), Result<()>>,
}

#[derive(Default)]
struct Kept {
    live: HashMap<LeaseId, watch::Sender<LeaseState>>,
    dropped: Vec<LeaseId>,
    ended: bool,
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, lease: &LeaseId) {
        self.lock().live.remove(lease);
    }

    /// Renews all leases in one call and tells each delivery.
    async fn renew(&self) {
        let leases: Vec<LeaseId> = self.lock().live.keys().cloned().collect();
        if leases.is_empty() {
            return;
        }
        match self.leases.renew(&leases).await {
            Ok(answers) => {
                let state = self.lock();
                for (lease, answer) in leases.iter().zip(answers) {
                    let told = match answer {
                        Renewal::Held => LeaseState::Held,
                        Renewal::Cancelled => LeaseState::Cancelled,
                        Renewal::Lost => LeaseState::Lost,
                    };
                    if let Some(sender) = state.live.get(lease) {
                        sender.send_if_modified(|state| std::mem::replace(state, told) != told);
                    }
                }
            }
            // An outage loses nothing by itself: only the broker can say that another took it.
            Err(error) => {
                tracing::warn!(error = %error.chain(), leases = leases.len(), "leases could not be renewed")
            }
        }
    }

    async fn release_dropped(&self) {
        let dropped = std::mem::take(&mut self.lock().dropped);
        if dropped.is_empty() {
            return;
        }
        let release = |lease| (lease, Settlement::Release { after: Duration::ZERO });
        for answer in self.leases.settle(dropped.into_iter().map(release).collect()).await {
            // It comes back by itself when its lease is over.
            if let Err(error) = answer {
                tracing::debug!(error = %error.chain(), "a dropped delivery was not given back");
            }
        }
    }
}

/// Keeps the leases until nobody needs it any more.
async fn keep(keeper: Arc<Keeper>) {
    let every = keeper.lease / 3;
    let mut next = Instant::now() + every;
    let leases = Arc::clone(&keeper.leases);
    let mut wake = leases.wake();
    loop {
        tokio::select! {
            () = keeper.changed.notified() => {}
            () = tokio::time::sleep_until(next) => {
                keeper.renew().await;
                next = Instant::now() + every;
            }
            woken = &mut wake => {
                wake = leases.wake();
                match woken {
                    Ok(()) => keeper.renew().await,
                    // Until it can be watched again, time alone renews.
                    Err(_) => tokio::time::sleep_until(next).await,
                }
            }
        }
        keeper.release_dropped().await;
        let state = keeper.lock();
        if state.ended && state.dropped.is_empty() {
            return;
        }
    }
}
