//! Deliveries: leased events, whose leases are kept until they are settled.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::stream::{BoxStream, Stream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::keeper::Keeper;
use crate::{
    Backoff, Begin, Conclusion, Error, ErrorKind, Event, LeaseId, Leased, Position, Result, Settlement,
    Subscriber, Subscription,
};

/// What a subscription delivers, one after the other; the leases of all that is not settled are kept in the meantime.
///
/// One task renews them every third of a lease, all in one call, until the stream and every delivery are gone.
///
/// # Cancel safety
/// A dropped [`next`](Self::next) loses nothing. A dropped `Deliveries` gives back what it had not handed out; what it
/// had handed out is still kept.
pub struct Deliveries {
    entries: BoxStream<'static, Result<Leased>>,
    batch: VecDeque<Delivery>,
    error: Option<Error>,
    keeper: Arc<Keeper>,
    task: Option<JoinHandle<()>>,
}

impl Deliveries {
    /// Subscribes.
    ///
    /// # Errors
    /// As [`Subscriber::subscribe`].
    pub async fn open(subscriber: &dyn Subscriber, subscription: Subscription) -> Result<Self> {
        let lease = subscription.group().map(|group| group.lease);
        let subscribed = subscriber.subscribe(subscription).await?;
        let keeper = Arc::new(Keeper::new(subscribed.leases, subscribed.claims));
        let task = lease.map(|lease| tokio::spawn(Arc::clone(&keeper).keep(lease)));
        Ok(Self { entries: subscribed.entries, batch: VecDeque::new(), error: None, keeper, task })
    }

    /// The next delivery; `None` once the broker is closed. After an `Err` whose kind is retryable more can follow.
    pub async fn next(&mut self) -> Option<Result<Delivery>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Takes nothing more, gives back what was not handed out, and waits until the last delivery is settled or
    /// dropped.
    ///
    /// # Cancel safety
    /// Dropped, it has the effect of dropping the `Deliveries`.
    pub async fn close(mut self) {
        let task = self.task.take();
        drop(self);
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::warn!(%error, "the task that keeps leases ended early");
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.batch.clear();
        self.keeper.stream_ended();
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(delivery) = self.batch.pop_front() {
            return Poll::Ready(Some(Ok(delivery)));
        }
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut next = ready!(self.entries.as_mut().poll_next(cx));
        // All that was read at once, so that all its leases are kept.
        let mut leases = Vec::with_capacity(1 + self.entries.size_hint().0);
        loop {
            match next {
                Some(Ok(leased)) => {
                    leases.extend(leased.lease.clone());
                    let delivery = Delivery::new(leased, Arc::clone(&self.keeper));
                    self.batch.push_back(delivery);
                }
                Some(Err(error)) if self.batch.is_empty() => return Poll::Ready(Some(Err(error))),
                Some(Err(error)) => self.error = Some(error),
                None if self.batch.is_empty() => return Poll::Ready(None),
                None => break,
            }
            if self.entries.size_hint().0 == 0 {
                break;
            }
            match self.entries.as_mut().poll_next(cx) {
                Poll::Ready(more) => next = more,
                Poll::Pending => break,
            }
        }
        self.keeper.watch(leases);
        Poll::Ready(self.batch.pop_front().map(Ok))
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").field("taken", &self.batch.len()).finish_non_exhaustive()
    }
}

/// Whether a delivery is still its holder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// It is.
    Held,
    /// It is, and its event's chain was cancelled: stop the work and conclude.
    Cancelled,
    /// Another holds it by now, or it is gone: stop the work and forget it.
    Lost,
}

/// One event, still to be settled. Dropped, it is given back at once, uncounted.
///
/// Without a group there is nothing to settle: settling answers `Ok`, [`begin`](Self::begin) `Unsupported`.
pub struct Delivery {
    event: Arc<Event>,
    position: Position,
    lease: Option<LeaseId>,
    keeper: Arc<Keeper>,
}

impl Delivery {
    pub(crate) fn new(leased: Leased, keeper: Arc<Keeper>) -> Self {
        Self { event: Arc::new(leased.event), position: leased.position, lease: leased.lease, keeper }
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

    /// Its lease; `None` without a group.
    #[must_use]
    pub const fn lease(&self) -> Option<&LeaseId> {
        self.lease.as_ref()
    }

    /// Whether its group has had the event before, in whatever subscriber; not without a group.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.count > 1)
    }

    /// Tells what becomes of the lease.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.keeper.state(self.lease.as_ref())
    }

    /// Asks the broker to begin an attempt.
    ///
    /// # Errors
    /// As [`Claims::begin`](crate::Claims::begin); what can be tried again is tried again while the lease is not lost.
    ///
    /// # Cancel safety
    /// Dropped, it may have begun: ask again, which begins no other attempt.
    pub async fn begin(&self) -> Result<Begin> {
        let lease = self.leased()?;
        self.retrying(|| self.keeper.claims().begin(lease)).await
    }

    /// Ends the work for good.
    ///
    /// # Errors
    /// As [`Claims::conclude`](crate::Claims::conclude); what can be tried again is tried again while the lease is not
    /// lost.
    ///
    /// # Cancel safety
    /// Dropped, it may have concluded: conclude again with the same run.
    pub async fn conclude(&self, conclusion: Conclusion) -> Result<()> {
        let lease = self.leased()?;
        self.retrying(|| self.keeper.claims().conclude(lease, conclusion.clone())).await
    }

    /// Done.
    ///
    /// # Errors
    /// [`LeaseLost`](ErrorKind::LeaseLost) where another holds it by now; what can be tried again is tried again while
    /// the lease is not lost. The same holds for every other way to settle.
    ///
    /// # Cancel safety
    /// Dropped, it may have settled; if not, the delivery is given back. The same holds for every other way to settle.
    pub async fn ack(self) -> Result<()> {
        self.settle(Settlement::Ack).await
    }

    /// Again after this time; an attempt that has begun counts as failed.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn retry_in(self, after: Duration) -> Result<()> {
        self.settle(Settlement::Retry { after }).await
    }

    /// Never again; kept with the reason.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn dead_letter(self, reason: impl Into<String>) -> Result<()> {
        self.settle(Settlement::DeadLetter { reason: reason.into() }).await
    }

    /// Given back, not counted.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn release(self) -> Result<()> {
        self.release_in(Duration::ZERO).await
    }

    /// Given back, not counted, not to be delivered before this time has passed.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn release_in(self, after: Duration) -> Result<()> {
        self.settle(Settlement::Release { after }).await
    }

    /// Left in silence, as by a worker that dies: it comes back after its lease, and what was begun counts as a crash.
    pub(crate) fn abandon(mut self) {
        if let Some(lease) = self.lease.take() {
            self.keeper.forget(&lease);
        }
    }

    pub(crate) async fn settle(mut self, settlement: Settlement) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let answer = self.retrying(|| self.keeper.settle(lease.clone(), settlement.clone())).await;
        let is_over = match &answer {
            Ok(()) => true,
            Err(error) => error.kind() == ErrorKind::LeaseLost,
        };
        if is_over && let Some(lease) = self.lease.take() {
            self.keeper.forget(&lease);
        }
        answer
    }

    fn leased(&self) -> Result<&LeaseId> {
        self.lease
            .as_ref()
            .ok_or_else(|| Error::unsupported("a subscription without a group has no leases and no runs"))
    }

    /// Repeats a call while the broker is out of reach, until the lease is known to be lost.
    pub(crate) async fn retrying<T, Fut>(&self, call: impl Fn() -> Fut) -> Result<T>
    where
        Fut: Future<Output = Result<T>>,
    {
        let backoff = Backoff::default();
        let mut tries = 0;
        loop {
            let error = match call().await {
                Err(error) if error.is_retryable() => error,
                answer => return answer,
            };
            let mut state = self.state();
            let lost = async {
                // Without a keeper nobody will say so.
                if state.wait_for(|state| *state == LeaseState::Lost).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = lost => {
                    return Err(Error::new(ErrorKind::LeaseLost, "the lease was lost meanwhile")
                        .with_source(error));
                }
                () = tokio::time::sleep(backoff.delay(tries)) => tries = tries.saturating_add(1),
            }
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.keeper.release(lease);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("event", &self.event.id)
            .field("position", &self.position)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
