//! The traits that receive events and keep what is known of the work at them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{Attempt, Event, Position, Result, RunRecord, Subscription};

/// Receives events. Use it through `Deliveries`, which keeps the leases.
#[async_trait]
pub trait Subscriber: Send + Sync {
    /// Joins the group, making it where it is new, or starts a broadcast.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) with both sides where the group has other patterns, another stage or
    /// another lease length; [`Unsupported`](crate::ErrorKind::Unsupported) where the broker lacks the kind.
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed>;
}

/// A subscription that has started.
pub struct Subscribed {
    /// Leases at most [`Subscription::prefetch`] entries whenever it is polled and has none left; polling it is what
    /// takes. For whoever polls again at once it may take up to half of them each time and as many ahead; what it took
    /// ahead and is not asked for it gives back by itself, well before the lease is over. The lower bound of its
    /// `size_hint` says how many it still has, so that whoever keeps the leases fetches them all. It owns the call under
    /// way, so that a dropped `next()` loses nothing. It ends only on close. After an `Err` item whose kind
    /// [is retryable](crate::ErrorKind::is_retryable) more can follow; after any other it ends. The backend reconnects by
    /// itself, with jitter.
    pub entries: BoxStream<'static, Result<Leased>>,
    /// Renews and settles what was taken.
    pub leases: Arc<dyn Leases>,
    /// What is known of the work at what was taken; answers `Unsupported` without a group that has a stage.
    pub claims: Arc<dyn Claims>,
}

impl fmt::Debug for Subscribed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribed").finish_non_exhaustive()
    }
}

/// One event handed to one subscriber.
#[derive(Clone, Debug)]
pub struct Leased {
    /// The event.
    pub event: Event,
    /// Where it stands in the broker.
    pub position: Position,
    /// Whose it is for now; `None` without a group.
    pub lease: Option<LeaseId>,
}

/// Names one lease: which entry, by whom, and the how-manieth of this entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    /// The entry, as the broker names it.
    pub entry: Position,
    /// The subscriber, unique by default.
    pub owner: Arc<str>,
    /// 1 where the group has the event for the first time; grows each time that it is taken, also after it was put off: a
    /// former holder's is smaller.
    pub count: u64,
}

/// Renews and settles the leases of one subscription. Core calls it; a backend writes no timer.
///
/// # Cancel safety
/// Every call may be repeated after it was dropped: what has happened already is answered as done.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Starts the leases' time anew, and says for each what it is. An expired lease that nobody took is renewed.
    ///
    /// # Errors
    /// Where the broker could not be asked: nothing is known then, and nothing is lost.
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>>;

    /// Settles; answers for each. [`LeaseLost`](crate::ErrorKind::LeaseLost) where another holds it or it is gone;
    /// settling again what the same lease settled already is `Ok` or `LeaseLost`.
    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>>;

    /// Returns when [`renew`](Self::renew) may answer something new before the leases' time is up, as after a cancel.
    ///
    /// # Errors
    /// Where the broker cannot be watched just now; the caller renews by time alone and asks again.
    async fn wake(&self) -> Result<()>;
}

/// What a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Renewal {
    /// The holder's for another lease length.
    Held,
    /// The holder's, and its event's chain is cancelled: stop the work and conclude.
    Cancelled,
    /// Another's, or gone: stop the work and forget it.
    Lost,
}

/// How a delivery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done.
    Ack,
    /// Again after this time, from the group's own due list. An attempt that has begun counts as failed.
    Retry {
        /// How long from now.
        after: Duration,
    },
    /// Never again; kept with the reason.
    DeadLetter {
        /// Why, for people.
        reason: String,
    },
    /// Given back, not counted.
    Release {
        /// How long from now; zero where another may take it at once.
        after: Duration,
    },
}

/// What the broker knows of the work of a stage at an event. Claims change atomically with the lease.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Asks to begin an attempt at a leased event.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) where another holds it or it is gone;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) without a group that has a stage.
    async fn begin(&self, lease: &LeaseId) -> Result<Begin>;

    /// Ends the work for good: accepted from the lease's holder alone, whose attempt has begun. Repeating it with the
    /// same run is `Ok`.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) for anybody else.
    async fn conclude(&self, lease: &LeaseId, conclusion: Conclusion) -> Result<()>;
}

/// The answer to [`Claims::begin`].
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    /// Run it.
    Go(Try),
    /// It has ended for good: publish what follows from that again and settle.
    Concluded(Box<Conclusion>),
    /// Its chain was cancelled: conclude it as interrupted, without running anything.
    Cancelled(Try),
    /// It was begun and left in silence too often: conclude it as failed, then dead-letter it.
    Exhausted(Try),
    /// Another delivery of the same event and stage holds it: put this one off.
    Elsewhere,
}

/// The numbers of an attempt, read off the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// Names the run; only grows.
    pub attempt: Attempt,
    /// How many attempts before ended in an outcome that the policy tried again.
    pub failures: u32,
    /// How many attempts before were begun and left in silence.
    pub crashes: u32,
}

/// How the work of a stage at an event ended for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conclusion {
    /// The record of the run that decided: outcome, code, run and times.
    pub record: RunRecord,
    /// What the work wrote for the next stage.
    pub values: BTreeMap<String, String>,
}

/// How many attempts may be begun and left in silence; `begin` answers exhausted then.
pub const CRASH_LIMIT: u32 = 3;
